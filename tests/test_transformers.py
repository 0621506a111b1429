"""Against Hugging Face transformers: folders as it saves them, loaded here, agree in every activation."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.reference

import minivitpose as mvp  # noqa: E402
from hub_server import serve  # noqa: E402
from minivitpose.compare import compare  # noqa: E402
from minivitpose.trace import Reference  # noqa: E402

EXPERTS = ("coco", "aic", "mpii", "ap10k", "apt36k", "coco_wholebody")
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": (80, 112),
    "patch_size": (8, 8),
}
SQUARE = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "image_size": (64, 64), "mlp_ratio": 2}
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
S, B = {"hidden_size": 384}, {"hidden_size": 768}
PLUS = {"num_experts": 6, "part_features": 12}
CASES = {
    "simple": (SMALL, True, "sdpa"),
    "classic": (SMALL, False, "eager"),
    "simple, six experts": (SMALL | PLUS, True, "eager"),
    "classic, six experts": (SMALL | PLUS, False, "sdpa"),
    "simple, other sizes": (TINY, True, "eager"),
    "classic, other sizes": (TINY, False, "sdpa"),
    "classic, other sizes, three experts": (TINY | {"num_experts": 3, "part_features": 7}, False, "eager"),
    "square, a narrow mlp, no qkv bias": (SQUARE | {"qkv_bias": False}, True, "eager"),
    "another eps": (SMALL | {"layer_norm_eps": 1e-3}, True, "eager"),
    "classic in shards": (SMALL, False, "eager", "1MB"),
    "six experts in shards": (SMALL | PLUS, True, "eager", "100KB"),
    "S classic": (S, False, "sdpa"),
    "S simple, six experts, in shards": (S | PLUS | {"part_features": 96, "num_hidden_layers": 3}, True, "sdpa", "9MB"),
    "B simple in shards": (B, True, "sdpa", "100MB"),
}
LABELS = {"simple": 17, "classic": 133, "simple, other sizes": 5}


def transformers_model(backbone, simple, attention="sdpa", labels=17, seed=0):
    """A VitPoseForPoseEstimation with random values in every tensor: fresh zeros and ones hide faults."""
    backbone = {"num_hidden_layers": 12, "num_attention_heads": 12, "part_features": 0} | backbone
    backbone["out_indices"] = [backbone["num_hidden_layers"]]
    config = transformers.VitPoseConfig(
        backbone_config=transformers.VitPoseBackboneConfig(**backbone), use_simple_decoder=simple, num_labels=labels
    )
    config.backbone_config._attn_implementation = attention
    module = transformers.VitPoseForPoseEstimation(config).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in module.state_dict().items():
            x.copy_(random_like(name, x, draw))
    return module


def random_like(name, x, draw):
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    noise = torch.randn(x.shape, generator=draw)
    if name.endswith("running_var"):
        return 1 + 0.5 * noise.tanh()
    if name.endswith("position_embeddings"):
        return 0.3 * noise
    if x.ndim > 1:
        terms = 4 * x.shape[0] if "deconv" in name else x[0].numel()
        return noise / terms**0.5
    return float(name.endswith("weight")) + 0.2 * noise


def images_for(module, batch=1, seed=1):
    size = module.config.backbone_config.image_size
    return np.random.default_rng(seed).standard_normal((batch, 3, *size), dtype=np.float32)


def run(module, images, indices=None):
    """Its heatmaps."""
    indices = None if indices is None else torch.tensor(indices)
    with torch.no_grad():
        images = torch.from_numpy(images).to(next(module.parameters()).dtype)
        return module(pixel_values=images, dataset_index=indices).heatmaps.numpy()


# What transformers calls an activation -> what it is here; "in" is what the module is given, a number is which of
# several results. Its queries, keys and values have the heads side by side, and are put apart below.
NAMES = {
    "backbone.embeddings.patch_embeddings.projection": "backbone.patch_embed.proj",
    "backbone.embeddings": "backbone.pos",
    "backbone.encoder.layer.*.layernorm_before": "backbone.blocks.*.norm1",
    "backbone.encoder.layer.*.attention.attention.query": "backbone.blocks.*.attn.q",
    "backbone.encoder.layer.*.attention.attention.key": "backbone.blocks.*.attn.k",
    "backbone.encoder.layer.*.attention.attention.value": "backbone.blocks.*.attn.v",
    "backbone.encoder.layer.*.attention.attention 1": "backbone.blocks.*.attn.pattern",
    "backbone.encoder.layer.*.attention.attention 0": "backbone.blocks.*.attn.z",
    "backbone.encoder.layer.*.attention.output.dense": "backbone.blocks.*.attn.proj",
    "backbone.encoder.layer.*.attention": "backbone.blocks.*.attn",
    "backbone.encoder.layer.*.layernorm_after in": "backbone.blocks.*.resid_mid",
    "backbone.encoder.layer.*.layernorm_after": "backbone.blocks.*.norm2",
    "backbone.encoder.layer.*.mlp.fc1": "backbone.blocks.*.mlp.fc1",
    "backbone.encoder.layer.*.mlp.activation": "backbone.blocks.*.mlp.act",
    "backbone.encoder.layer.*.mlp.act": "backbone.blocks.*.mlp.act",  # as the MLP with experts calls it
    "backbone.encoder.layer.*.mlp.fc2": "backbone.blocks.*.mlp.fc2",
    "backbone.encoder.layer.*.mlp": "backbone.blocks.*.mlp",
    "backbone.encoder.layer.*": "backbone.blocks.*",
    "backbone.layernorm": "backbone.last_norm",
    "head in": "backbone",
    "head.activation": "keypoint_head.relu",
    "head.upsampling": "keypoint_head.upsample",
    "head.deconv1": "keypoint_head.deconv_layers.0",
    "head.batchnorm1": "keypoint_head.deconv_layers.1",
    "head.relu1": "keypoint_head.deconv_layers.2",
    "head.deconv2": "keypoint_head.deconv_layers.3",
    "head.batchnorm2": "keypoint_head.deconv_layers.4",
    "head.relu2": "keypoint_head.deconv_layers.5",
    "head.conv": "keypoint_head.final_layer",
}


def activations(module, images, index=None):
    """Our name -> array of everything in NAMES, in the order of execution."""
    modules, noted, handles = dict(module.named_modules()), {}, []

    def note(name, x):
        if x is not None:
            noted[name] = x.numpy().copy()

    def hang(name, module, which):
        if which == "in":
            return module.register_forward_pre_hook(lambda _, given: note(name, given[0]))
        pick = int(which) if which else ...
        return module.register_forward_hook(lambda _, given, result: note(name, result[pick]))

    config = module.config.backbone_config
    for theirs, ours in NAMES.items():
        for i in range(config.num_hidden_layers) if "*" in theirs else [0]:
            path, _, which = theirs.replace("*", str(i)).partition(" ")
            if path in modules and not (theirs.endswith(".fc2") and config.num_experts > 1):  # fc2 is half of it there
                handles.append(hang(ours.replace("*", str(i)), modules[path], which))
    try:
        run(module, images, None if index is None else [index] * len(images))
    finally:
        for handle in handles:
            handle.remove()
    return dict(with_heads(noted, config.num_attention_heads))


def with_heads(noted, num_heads):
    """The same with queries, keys and values side by side in one, as our qkv has them, and then with heads apart."""
    for name, x in noted.items():
        attn, _, last = name.rpartition(".")
        if last == "q":
            yield f"{attn}.qkv", np.concatenate([noted[f"{attn}.{letter}"] for letter in "qkv"], axis=-1)
        yield name, x.reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3) if last in ("q", "k", "v") else x


def reference_of(module, images, index=None):
    """As minivitpose.reference.record: the float32 activations, and the truth, the same in float64."""
    truth = activations(copy.deepcopy(module).double(), images.astype(np.float64), index)
    return Reference(activations(module, images, index), truth, images=images).gather_facts()


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """(folder that transformers saved, how to load it, what it computes, ends of the names that it does not show)."""
    backbone, simple, attention, *shards = CASES[request.param]
    module = transformers_model(backbone, simple, attention, LABELS.get(request.param, 17))
    folder = tmp_path_factory.mktemp("saved")
    module.save_pretrained(folder, max_shard_size=shards[0] if shards else "5GB")
    assert (folder / "model.safetensors").exists() == (not shards)
    expert = 4 % backbone["num_experts"] if "num_experts" in backbone else None
    options = {} if expert is None else {"expert": expert}
    unseen = [".attn.scores"] + [".attn.pattern"] * (attention == "sdpa") + [".mlp.fc2"] * (expert is not None)
    return folder, options, reference_of(module, images_for(module), expert), tuple(unseen)


def test_float64_is_transformers_within_1e_11(saved):
    folder, options, reference, unseen = saved
    model = mvp.load(folder, "numpy", dtype="float64", **options)
    cache = model.run_with_cache(reference.images.astype(np.float64))[1]
    assert {name for name in cache if not name.endswith(unseen)} == set(reference)
    for name, truth in reference.truth.items():
        assert cache[name].shape == truth.shape
        assert np.abs(cache[name] - truth).max() <= 1e-11 * np.abs(truth).max(), name


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_float32_is_as_exact_as_transformers(saved, engine):
    """The error against the float64 truth is at most 1.5 times that of transformers itself."""
    folder, options, reference, _ = saved
    cache = mvp.load(folder, engine, **options).run_with_cache(reference.images)[1]
    report = compare(cache, reference)
    assert report.ok, str(report)
    assert len(report.rows) == len(reference)
    assert report.rms_ratio <= 1.5


def test_the_fast_engine_is_as_exact_as_transformers(saved):
    folder, options, reference, _ = saved
    model = mvp.load(folder, **options)
    assert model.engine == "fast"
    cache = model.run_fused(reference.images)[1]
    report = compare(cache, reference)
    assert report.ok, str(report)
    assert report.rows[-1].name == "keypoint_head.final_layer"
    assert len(report.rows) > 5 * model.config.depth
    assert report.rms_ratio <= 1.5


def test_what_the_config_says_is_in_the_model(saved):
    """The image's size, heads and eps do not show in the weights."""
    folder, options, reference, _ = saved
    backbone = json.loads((folder / "config.json").read_text())["backbone_config"]
    config = mvp.load(folder, "numpy", **options).config
    assert config.image_size == tuple(backbone["image_size"]) == reference.images.shape[2:]
    assert config.num_heads == backbone["num_attention_heads"]
    assert config.eps == backbone["layer_norm_eps"]
    assert config.depth == backbone["num_hidden_layers"]
    assert config.pipeline == "hf"


def test_the_index_of_shards_loads_as_the_folder_does(tmp_path):
    module = transformers_model(SMALL, True)
    module.save_pretrained(tmp_path, max_shard_size="100KB")
    images = images_for(module)
    index = tmp_path / "model.safetensors.index.json"
    assert np.array_equal(mvp.load(index)(images), mvp.load(tmp_path)(images))


# ------------------------------------------------------------------------------------------------------------------ eps


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-4])
def test_the_eps_of_the_config_is_used_where_it_matters(tmp_path, eps):
    """Tokens that are nearly constant: their variances are about as large as eps, and another eps is another model."""
    module = transformers_model(SMALL | {"layer_norm_eps": eps}, True).double()
    with torch.no_grad():
        for part in ("patch_embeddings.projection.weight", "patch_embeddings.projection.bias", "position_embeddings"):
            module.state_dict()[f"backbone.embeddings.{part}"].mul_(1e-4)
        for name, x in module.state_dict().items():
            if ".output.dense." in name or ".mlp.fc2." in name:
                x.mul_(1e-4)
    module.save_pretrained(tmp_path)
    images = images_for(module).astype(np.float64)
    truth = activations(module, images)
    model = mvp.load(tmp_path, "numpy", dtype="float64")
    assert model.config.eps == eps
    cache = model.run_with_cache(images)[1]
    assert np.var(cache["backbone.pos"], axis=-1).max() < 1e-6
    for name, expected in truth.items():
        assert np.abs(cache[name] - expected).max() <= 1e-11 * np.abs(expected).max(), name
    for other in {1e-12, 1e-6, 1e-4, 1e-5} - {eps}:
        wrong = mvp.ViTPose(model.params, replace(model.config, eps=other), "numpy")(images)
        assert np.abs(wrong - cache["keypoint_head.final_layer"]).max() > 1e-3 * np.abs(wrong).max()


def test_what_a_config_leaves_out_is_as_transformers_has_it(tmp_path):
    """The files on the hub hold only what differs from the defaults: no eps, no image size, no 12 heads."""
    module = transformers_model({"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 12}, True)
    module.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    entries = json.loads(path.read_text())
    entries["backbone_config"] = {"hidden_size": 48, "num_hidden_layers": 2, "out_indices": [2], "part_features": 0}
    path.write_text(json.dumps(entries))
    model = mvp.load(tmp_path, "numpy", dtype="float64")
    assert (model.config.eps, model.config.num_heads, model.config.image_size) == (1e-12, 12, (256, 192))
    images = images_for(module).astype(np.float64)
    expected = run(module.double(), images)
    assert np.abs(model(images) - expected).max() <= 1e-11 * np.abs(expected).max()
    path.unlink()
    assert mvp.load(tmp_path, "numpy", num_heads=12).config.eps == 1e-12


# -------------------------------------------------------------------------------------------------------------- experts


@pytest.fixture(scope="module")
def plus(tmp_path_factory):
    module = transformers_model(TINY | PLUS, True)
    folder = tmp_path_factory.mktemp("plus")
    module.save_pretrained(folder)
    return module.double(), folder


def test_each_expert_is_transformers_with_that_dataset_index(plus):
    module, folder = plus
    images = images_for(module, batch=2).astype(np.float64)
    found = []
    for index, name in enumerate(EXPERTS):
        expected = run(module, images, [index, index])
        for expert in (index, name):
            heatmaps = mvp.load(folder, "numpy", dtype="float64", expert=expert)(images)
            assert np.abs(heatmaps - expected).max() <= 1e-11 * np.abs(expected).max()
        found.append(heatmaps)
    assert np.array_equal(found[0], mvp.load(folder, "numpy", dtype="float64")(images))
    for a in range(6):
        for b in range(a):
            assert np.abs(found[a] - found[b]).max() > 1e-2 * np.abs(found[a]).max()


@pytest.mark.parametrize("indices", [[5, 0, 3, 1, 4, 2, 0], [2, 2, 0]])
def test_a_batch_of_mixed_datasets_is_each_picture_with_its_own_expert(plus, indices):
    module, folder = plus
    images = images_for(module, batch=len(indices)).astype(np.float64)
    expected = run(module, images, indices)
    for i, index in enumerate(indices):
        heatmaps = mvp.load(folder, "numpy", dtype="float64", expert=index)(images[i : i + 1])
        assert np.abs(heatmaps - expected[i : i + 1]).max() <= 1e-11 * np.abs(expected).max()


# -------------------------------------------------------------------------------------------------------- from the hub


def test_a_repository_on_the_hub_is_loaded_as_a_folder_is(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    module = transformers_model(SMALL, True, labels=14)
    module.save_pretrained(tmp_path / "saved", max_shard_size="100KB")
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    images = images_for(module)
    with serve({"owner/name": {"main": files}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        model = mvp.load("hf:owner/name")
    assert np.array_equal(model(images), mvp.load(tmp_path / "saved")(images))
    assert model.config.num_heads == 4
    assert model.config.eps == 1e-12
