"""Against PyTorch: the twin, the recorder, and every activation of whole models in both engines."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.reference

import minivitpose as mvp  # noqa: E402
from minivitpose import reference  # noqa: E402
from minivitpose.compare import compare  # noqa: E402
from minivitpose.config import parameter_shapes, variant_config  # noqa: E402
from minivitpose.trace import activation_shapes  # noqa: E402
from models import images_for, small_config, small_model  # noqa: E402
from test_model import KINDS  # noqa: E402

CASES = [("S", "classic"), ("S", "simple"), ("B", "classic"), ("B", "simple"), ("mini", "classic"), ("mini", "simple")]


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def whole_model(request):
    """A variant with random weights in every tensor, and what PyTorch computes of seeded noise."""
    variant, head = request.param
    module = reference.randomise(reference.ViTPose(variant_config(variant, head=head)), seed=1)
    images = np.random.default_rng(2).standard_normal((1, 3, 256, 192), dtype=np.float32)
    return module, images, reference.record(module, images)


def test_float64_is_pytorchs_within_1e_11(whole_model):
    module, images, recorded = whole_model
    model = mvp.load(module.state_dict(), "numpy", dtype="float64")
    cache = model.run_with_cache(images.astype(np.float64))[1]
    assert list(cache) == list(recorded.truth)
    for name, truth in recorded.truth.items():
        assert cache[name].dtype == np.float64
        assert np.abs(cache[name] - truth).max() <= 1e-11 * np.abs(truth).max(), name


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_float32_is_as_exact_as_pytorchs(whole_model, engine):
    """In the chain and alone, the error against the float64 truth is at most 1.5 times PyTorch's own."""
    module, images, recorded = whole_model
    model = mvp.load(module.state_dict(), engine)
    report = compare(model.run_with_cache(images)[1], recorded)
    assert report.ok, str(report)
    assert len(report.rows) == len(activation_shapes(model.config))
    assert report.rms_ratio <= 1.5


def test_the_fast_engine_is_as_exact_as_pytorch(whole_model):
    """The same for the activations that pass by memory there, all the way to the heatmaps."""
    module, images, recorded = whole_model
    cache = mvp.load(module.state_dict(), "fast").run_fused(images)[1]
    report = compare(cache, recorded)
    assert report.ok, str(report)
    assert [row.name for row in report.rows] == list(cache)
    assert all(row.chain.rms_reference for row in report.rows)
    assert len(cache) > 7 * cache.model.config.depth
    assert list(cache)[-1] == "keypoint_head.final_layer"
    assert report.rms_ratio <= 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_of_head_and_attention(kind, dtype):
    model = small_model("numpy", dtype, **KINDS[kind])
    module = reference.twin(model)
    images = images_for(model, batch=3)
    recorded = reference.record(module, images)
    cache = model.run_with_cache(images)[1]
    assert list(cache) == list(recorded.values)
    assert {name: x.shape for name, x in cache.items()} == {name: x.shape for name, x in recorded.values.items()}
    assert {x.dtype for x in recorded.values.values()} == {np.dtype(dtype)}
    report = compare(cache, recorded)
    assert report.ok, str(report)
    assert all(row.alone for row in report.rows)


@pytest.mark.parametrize("size", [(96, 80), (48, 64), (32, 128), (16, 16), (65, 49)])
def test_other_image_sizes(size):
    model = small_model("numpy")
    images = images_for(model, size=size)
    recorded = reference.record(reference.twin(model), images)
    report = compare(model.run_with_cache(images)[1], recorded)
    assert report.ok, str(report)


def test_state_dicts_move_both_ways():
    for config in (variant_config("mini"), small_config(extra_kernels=(3,)), small_config(head="simple")):
        module = reference.randomise(reference.ViTPose(config))
        state = module.state_dict()
        assert {name: tuple(x.shape) for name, x in state.items()} == parameter_shapes(config)
        model = mvp.load(state, num_heads=config.num_heads)
        back = reference.ViTPose(config)
        back.load_state_dict({name: torch.from_numpy(x) for name, x in model.state_dict().items()})
        assert all(torch.equal(x, state[name]) for name, x in back.state_dict().items())


def test_loading_a_modules_weights_does_not_follow_its_training():
    module = reference.randomise(reference.ViTPose(small_config()))
    model = mvp.load(module.state_dict(), "numpy", num_heads=3)
    before = model(images_for(model))
    with torch.no_grad():
        module.backbone.pos_embed.zero_()
    assert np.array_equal(model(images_for(model)), before)


def test_half_precision_tensors_load():
    module = reference.randomise(reference.ViTPose(small_config()))
    for dtype in (torch.float16, torch.bfloat16):
        model = mvp.load(module.to(dtype).state_dict(), num_heads=3)
        expected = module.backbone.pos_embed.detach().float().numpy()
        assert np.array_equal(model.state_dict()["backbone.pos_embed"], expected)


# The same network from other hands: module names alike, but dropouts between, a patch embedding that returns a tuple,
# attention by PyTorch's fused kernel, and the tokens' layout made in another way.


class OtherPatchEmbed(reference.PatchEmbed):
    def forward(self, x):
        x = self.proj(x)
        B, C, Hp, Wp = x.shape
        return x.view(B, C, Hp * Wp).transpose(1, 2), (Hp, Wp)


class OtherAttention(reference.Attention):
    def forward(self, x):
        q, k, v = reference.split_heads(self.qkv(x), self.num_heads)
        z = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(reference.merge_heads(z))


class OtherBlock(reference.Block):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class OtherViT(reference.ViT):
    def forward(self, x):
        x, (Hp, Wp) = self.patch_embed(x)
        x = x + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x)
        return x.permute(0, 2, 1).reshape(x.shape[0], -1, Hp, Wp).contiguous()


def from_other_hands(module):
    module.backbone.__class__ = OtherViT
    module.backbone.patch_embed.__class__ = OtherPatchEmbed
    for block in module.backbone.blocks:
        block.__class__, block.attn.__class__ = OtherBlock, OtherAttention
        block.drop_path = torch.nn.Dropout(0.5)
    return module


def test_another_module_with_these_names_is_recorded_and_left_as_it_was():
    model = small_model("numpy", "float32", embed_dim=48)
    module = from_other_hands(reference.twin(model)).train()
    module.keypoint_head.eval()  # frozen batch norms in a module that learns
    modes = [part.training for part in module.modules()]
    before = {name: x.clone() for name, x in module.state_dict().items()}
    images = images_for(model)
    recorded = reference.record(module, images)
    assert module.training and [part.training for part in module.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    plain = reference.record(reference.twin(model), torch.from_numpy(images).requires_grad_())
    assert list(recorded.values) == list(plain.values)
    report = compare(model.run_with_cache(images)[1], recorded)
    assert report.ok, str(report)


def test_a_wrong_module_is_found_by_our_comparison():
    """The other way round: a module whose attention forgets the scale diverges at the scores."""
    model = small_model("numpy", "float32", embed_dim=48)
    module = reference.twin(model)
    module.backbone.blocks[1].attn.scale = 1.0
    images = images_for(model)
    report = compare(model.run_with_cache(images)[1], reference.record(module, images))
    assert report.first_divergence.name == "backbone.blocks.1.attn.scores"


def test_a_module_of_another_type_is_refused():
    model = small_model("numpy", "float32", embed_dim=48)
    with pytest.raises(ValueError, match="expected a module of float32 or float64, found torch.bfloat16: module.float"):
        reference.record(reference.twin(model).bfloat16(), images_for(model))


def test_a_module_with_other_names_is_refused():
    with pytest.raises(ValueError, match="missing backbone.patch_embed.proj"):
        reference.record(torch.nn.Sequential(torch.nn.Linear(2, 2)), np.zeros((1, 3, 64, 48), np.float32))


def test_recording_without_the_truth():
    model = small_model("numpy", "float32")
    recorded = reference.record(reference.twin(model), images_for(model), truth=False)
    assert not recorded.truth
    assert not recorded.alone
    assert compare(model.run_with_cache(images_for(model))[1], recorded).ok


def test_truth_alone_is_each_layer_of_the_references_own_inputs():
    """What the hooks give as a layer's truth is that layer in float64 of the recorded float32 inputs."""
    model = small_model("numpy", "float32")
    recorded = reference.record(reference.twin(model), images_for(model))
    exact = model.astype("float64")
    inputs = {name: x.astype(np.float64) for name, x in recorded.values.items()}
    cache = exact.run_with_cache(images_for(model).astype(np.float64), replace=inputs)[1]
    for name, truth in recorded.alone.items():
        assert np.abs(cache[name] - truth).max() <= 1e-13 * np.abs(truth).max(), name


def test_the_bundled_recording_is_what_pytorch_computes_of_the_bundled_weights():
    """And these are stored as float16, and trained: no layer is left at what it started from."""
    from importlib.resources import files

    recorded = mvp.load_reference(files("minivitpose") / "data" / "mini-activations.npz")
    state = mvp.load("mini").state_dict()
    assert all(np.array_equal(x.astype(np.float16), x) for name, x in state.items() if x.dtype.kind == "f")
    assert all(np.ptp(x) > 0 for name, x in state.items() if x.size > 1)
    module = reference.twin(mvp.load("mini", "numpy"))
    assert mvp.compare(reference.record(module, recorded.images).values, recorded).ok


def test_saved_weights_are_read_by_torch_and_by_us(tmp_path):
    module = reference.randomise(reference.ViTPose(small_config()))
    reference.save_weights(module, tmp_path / "w.pth")
    ours = mvp.read_state_dict(tmp_path / "w.pth")
    theirs = torch.load(tmp_path / "w.pth", weights_only=True)
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], x.numpy()) for name, x in theirs.items())
