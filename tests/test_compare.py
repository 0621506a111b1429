"""The checker is checked: right activations pass, and each kind of wrong one fails, at the right layer.

The reference is made without PyTorch. The float64 NumPy layers are the truth (test_reference.py sees to it that they
are PyTorch's); their float32 run, which sums in another order than the Numba engine, stands for PyTorch's own float32.
"""

import numpy as np
import pytest

import minivitpose as mvp
from minivitpose import layers
from minivitpose.compare import RELATIVE, Check, compare, telling
from minivitpose.trace import Reference, sample_of, signed_sum
from models import images_for, small_model, state_dict_for


def reference_of(model, images):
    """What ``reference.record`` would make of PyTorch, made of the NumPy layers."""
    values = dict(model.run_with_cache(images)[1])
    exact = model.astype("float64")
    inputs = {name: x.astype("float64") for name, x in values.items()}
    truth = dict(exact.run_with_cache(images.astype("float64"))[1])
    alone = dict(exact.run_with_cache(images.astype("float64"), replace=inputs)[1])
    return Reference(values, truth, alone, images=images).gather_facts()


def sampled(reference, count):
    """The same with only a sample of each activation, as a recorded file may hold."""
    places = {name: sample_of(x.size, count) for name, x in reference.values.items()}

    def pick(arrays):
        return {name: x.reshape(-1)[places[name]] for name, x in arrays.items()}

    return Reference(
        pick(reference.values), pick(reference.truth), {}, reference.facts, reference.images, count, reference.header
    )


# Positions and images on a small scale: the variance that the first norms divide by is small, so that eps matters.
def model_and_images(engine="numpy", dtype="float32"):
    model = small_model(engine, dtype, embed_dim=48, num_heads=3)
    return model, images_for(model, seed=1)


@pytest.fixture(scope="module")
def reference():
    return reference_of(*model_and_images())


@pytest.fixture(scope="module")
def model():
    return model_and_images("numba")[0]


def run(model, reference):
    return model.run_with_cache(reference.images)[1]


def test_a_right_model_passes_alone_and_in_the_chain(model, reference):
    report = compare(run(model, reference), reference)
    assert report.ok, str(report)
    assert len(report.rows) == report.total == len(reference.values)
    assert all(row.alone and row.chain for row in report.rows)
    assert report.first_divergence is None
    assert report.last_good.name == "keypoint_head.final_layer"
    assert "All 45 activations agree" in str(report)
    assert 0 < report.rms_ratio < 1.5


def test_float64_passes_at_the_tolerance_of_float64(reference):
    model, images = model_and_images("numba")
    model = model.astype("float64")
    exact = Reference(reference.truth, images=images.astype("float64")).gather_facts()
    report = compare(model.run_with_cache(images.astype("float64"))[1], exact)
    assert report.ok, str(report)
    assert max(row.chain.relative for row in report.rows) < 1e-13


def test_a_plain_mapping_is_a_reference_too(model, reference):
    report = compare(run(model, reference), reference.values)
    assert report.ok, str(report)
    assert report.rms_ratio is None


def spoilt(cache, name, x):
    """The same run with one activation changed; it keeps its model."""
    cache[name] = x
    return cache


LAYERS = [
    "backbone.patch_embed.proj",
    "backbone.pos",
    "backbone.blocks.0.attn.scores",
    "backbone.blocks.1.attn.pattern",
    "backbone.blocks.1.mlp.act",
    "backbone.last_norm",
    "keypoint_head.deconv_layers.1",
    "keypoint_head.deconv_layers.5",
    "keypoint_head.final_layer",
]
SPOILS = {
    "zeros": np.zeros_like,
    "shuffle": lambda x: np.random.default_rng(0).permutation(x.reshape(-1)).reshape(x.shape),
    "two rows exchanged": lambda x: x[:, np.r_[1, 0, 2 : x.shape[1]]],
    "one element +1e-3": lambda x: x + 1e-3 * (np.arange(x.size) == x.size // 3).reshape(x.shape).astype(x.dtype),
    "one element NaN": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, np.float32(np.nan), x),
    "one element inf": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, np.float32(np.inf), x),
    "a millionth too large": lambda x: x * np.float32(1 + 8e-6),
    "half precision": lambda x: x.astype(np.float16).astype(np.float32),
}


KINDS = ["whole", "sample", "values only"]
# Without the truth nobody knows how exact the reference is, and 8e-6 passes as rounding in the chain.
SPOILT = [(s, k) for s in SPOILS for k in KINDS if (s, k) != ("a millionth too large", "values only")]


@pytest.mark.parametrize(("spoil", "kind"), SPOILT)
@pytest.mark.parametrize("name", LAYERS)
def test_a_wrong_activation_fails_at_its_place(name, spoil, kind, model, reference):
    expected = {"whole": reference, "sample": sampled(reference, 100), "values only": reference.values}[kind]
    cache = run(model, reference)
    report = compare(spoilt(cache, name, SPOILS[spoil](cache[name])), expected)
    assert not report.ok
    assert report.first_divergence.name == name
    names = list(reference.values)
    if names.index(name):
        assert report.last_good.name == names[names.index(name) - 1]
        assert f"the last good one is {report.last_good.name}" in str(report)
    assert f"FIRST DIVERGENCE at {name}" in str(report)
    assert len(report.rows) == names.index(name) + 1


def test_the_ratio_of_a_sample_is_of_its_own_elements(model, reference):
    """Both errors on the same elements; the tolerance stays that of the whole array."""
    cache, few = run(model, reference), sampled(reference, 100)
    report, ratios = compare(cache, few), {}
    for row in report.rows:
        places, truth = sample_of(cache[row.name].size, 100), few.truth[row.name]
        ours, theirs = cache[row.name].reshape(-1)[places], few.values[row.name]
        rms = [np.sqrt(np.mean((x.astype(np.float64) - truth) ** 2)) for x in (ours, theirs)]
        assert row.chain.rms == pytest.approx(rms[0]) and row.chain.rms_reference == pytest.approx(rms[1])
        ratios[row.name] = rms[0] / rms[1] if rms[1] else 0
    assert report.ok and report.rms_ratio == pytest.approx(max(ratios.values()))


def test_a_sample_of_an_activation_does_not_hide_the_rest(model, reference):
    """One element that the sample does not hold, off by 1e-3: the signed sum over the whole array sees it."""
    name, count = "backbone.blocks.0.attn.qkv", 50
    cache = run(model, reference)
    hidden = next(i for i in range(cache[name].size) if i not in sample_of(cache[name].size, count))
    wrong = cache[name].copy()
    wrong.flat[hidden] += 1e-3
    report = compare(spoilt(cache, name, wrong), sampled(reference, count))
    assert report.first_divergence.name == name
    assert report.first_divergence.chain.ok
    assert not report.first_divergence.whole.ok
    assert "summed up whole" in str(report)


def planted(**changes):
    """The Numba model with a mistake in its layers."""
    model, _ = model_and_images("numba")
    model.ops = type("Planted", (), {name: staticmethod(getattr(model.ops, name)) for name in model.ops.__all__})
    for name, f in changes.items():
        setattr(model.ops, name, staticmethod(f))
    return model


def rewired(f, **changes):
    """A function of layers.py with other functions under the names it calls."""
    import types

    return types.FunctionType(f.__code__, vars(layers) | changes, f.__name__, f.__defaults__)


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))


def unbiased_norm(x, weight, bias, eps=1e-6):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, ddof=1, keepdims=True) + np.float32(eps)) * weight + bias


def wide_eps(x, weight, bias, eps=1e-6):
    return layers.layer_norm(x, weight, bias, 10 * eps)


def no_slot(x, pos_embed):
    return x + pos_embed[:, 1:]


def no_scale(q, k, v, qk_scale=None, tap=layers.keep):
    return layers.scaled_dot_product_attention(q, k, v, 1.0, tap)


def no_padding(images, weight, bias=None, stride=None, padding=None, ratio=1):
    images = np.pad(images, ((0, 0), (0, 0), (0, 4), (0, 4)))
    return layers.patch_embed(images, weight, bias, stride, 0, ratio)


def wrong_heads(x, num_heads):
    B, N, C = x.shape
    return x.reshape(B, N, num_heads, 3, C // (3 * num_heads)).transpose(3, 0, 2, 1, 4)


MISTAKES = {
    "tanh GELU": ({"block": rewired(layers.block, mlp=rewired(layers.mlp, gelu=tanh_gelu))}, "blocks.0.mlp.act"),
    "eps 1e-5": ({"block": rewired(layers.block, layer_norm=wide_eps)}, "blocks.0.norm1"),
    "unbiased variance": ({"block": rewired(layers.block, layer_norm=unbiased_norm)}, "blocks.0.norm1"),
    "missing class-token slot": ({"add_positions": no_slot}, "pos"),
    "missing scale": (
        {"block": rewired(layers.block, attention=rewired(layers.attention, scaled_dot_product_attention=no_scale))},
        "blocks.0.attn.scores",
    ),
    "heads before q, k, v": (
        {"block": rewired(layers.block, attention=rewired(layers.attention, split_heads=wrong_heads))},
        "blocks.0.attn.q",
    ),
    "padding 0": ({"patch_embed": no_padding}, "patch_embed.proj"),
    "last norm forgotten": ({"layer_norm": lambda x, weight, bias, eps: x}, "last_norm"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("kind", ["whole", "sample"])
def test_a_mistake_in_the_code_is_found_at_its_layer(mistake, kind, reference):
    changes, name = MISTAKES[mistake]
    expected = reference if kind == "whole" else sampled(reference, 100)
    report = compare(planted(**changes).run_with_cache(reference.images)[1], expected)
    assert report.first_divergence.name == f"backbone.{name}"
    if kind == "whole":
        assert not report.first_divergence.alone.ok


@pytest.mark.parametrize(
    ("weight", "name"),
    [
        ("backbone.blocks.0.attn.proj.weight", "backbone.blocks.0.attn.proj"),
        ("backbone.blocks.1.attn.proj.weight", "backbone.blocks.1.attn.proj"),
        ("keypoint_head.deconv_layers.3.weight", "keypoint_head.deconv_layers.3"),
    ],
)
def test_a_transposed_weight_is_found_at_its_layer(weight, name, model, reference):
    state = model.state_dict()
    axes = (1, 0) if state[weight].ndim == 2 else (0, 1, 3, 2)
    state[weight] = np.ascontiguousarray(state[weight].transpose(axes))
    wrong = mvp.load(state, "numba", num_heads=3)
    report = compare(run(wrong, reference), reference)
    assert report.first_divergence.name == name
    assert not report.first_divergence.alone.ok


def test_one_weight_off_in_the_last_digits_is_found(model, reference):
    state = model.state_dict()
    name = "backbone.blocks.1.mlp.fc2.weight"
    state[name] = state[name].copy()
    state[name][7, 9] += 2e-5
    report = compare(run(mvp.load(state, "numba", num_heads=3), reference), reference)
    assert report.first_divergence.name == "backbone.blocks.1.mlp.fc2"


def test_an_error_carried_along_is_not_blamed_on_the_layers_behind(model, reference):
    """The chain diverges where the wrong input comes in; fed the reference's input, that layer is right."""
    cache = run(model, reference)
    wrong = cache["backbone.pos"] + np.linspace(0, 0.1, 48, dtype=np.float32)
    chain = model.run_with_cache(reference.images, replace={"backbone.pos": wrong})[1]
    chain["backbone.pos"] = reference.values["backbone.pos"]
    report = compare(chain, reference)
    assert report.first_divergence.name == "backbone.blocks.0.norm1"
    assert report.first_divergence.alone.ok
    assert "the error comes in before it" in str(report)


def test_missing_and_misshaped_activations_are_divergences(model, reference):
    cache = run(model, reference)
    del cache["backbone.blocks.0.norm2"]
    assert compare(cache, reference).first_divergence.fault.startswith("missing")
    cache = spoilt(run(model, reference), "backbone.pos", np.zeros((1, 12, 47), np.float32))
    report = compare(cache, reference)
    assert report.first_divergence.fault == "shape (1, 12, 47), expected (1, 12, 48)"
    cache = spoilt(run(model, reference), "backbone.pos", np.zeros((1, 12, 48), np.int32))
    assert "dtype int32" in compare(cache, reference).first_divergence.fault


def test_names_that_the_reference_lacks_are_said(model, reference):
    fewer = {name: x for name, x in reference.values.items() if not name.endswith(".q")}
    report = compare(run(model, reference), fewer)
    assert report.ok
    assert report.unchecked == ["backbone.blocks.0.attn.q", "backbone.blocks.1.attn.q"]
    assert "Not checked" in str(report)


def test_nothing_to_compare_is_an_error_not_a_success(model, reference):
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(run(model, reference), {})
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(run(model, reference), {"other": np.zeros(3)})
    with pytest.raises(ValueError, match="different images"):
        compare(model.run_with_cache(reference.images + np.float32(1))[1], reference)
    with pytest.raises(ValueError, match="reference: expected a mapping, found 'a.npz'; load_reference.path. reads a"):
        compare(run(model, reference), "a.npz")
    with pytest.raises(ValueError, match="cache: expected a mapping, found a tuple: run_with_cache gives heatmaps and"):
        compare(model.run_with_cache(reference.images), reference)


def test_tensors_and_single_numbers_can_be_compared():
    torch = pytest.importorskip("torch")
    ours = {"a": np.float32([1, 2]), "b": np.float32(3)}
    tensors = {name: torch.from_numpy(np.array(x)).requires_grad_() for name, x in ours.items()}
    assert compare(ours, tensors).ok and compare(tensors, ours).ok and compare(tensors, tensors).ok
    assert not compare(ours | {"b": np.float32(3.1)}, tensors).ok


def test_an_infinite_tolerance_or_error_never_passes():
    assert not Check(float("inf"), 1.0, 1.0).ok
    assert not Check(0.5, 0.0, 1.0).ok
    assert Check(0.5, 0.0, 1.0).percent == float("inf")
    assert Check(0.0, 0.0, 0.0).ok
    assert not Check(float("nan"), 1.0, 1.0).ok


def test_no_tolerance_is_as_wide_as_the_signal(reference):
    for name, facts in reference.facts.items():
        assert 3 * 1.5 * facts.error < 1e-4 * facts.scale, name
    assert max(RELATIVE.values()) < 1e-4


def test_worst_place_and_both_values_are_shown(model, reference):
    name = "backbone.blocks.0.mlp.fc1"
    cache = run(model, reference)
    wrong = cache[name].copy()
    wrong[0, 7, 31] += 0.5
    check = compare(spoilt(cache, name, wrong), reference).first_divergence.chain
    assert check.at == (0, 7, 31)
    assert check.ours == wrong[0, 7, 31]
    assert check.expected == reference.values[name][0, 7, 31]
    assert check.error == pytest.approx(0.5, rel=1e-5)


def test_the_report_is_a_table_in_a_notebook(model, reference):
    good = compare(run(model, reference), reference)._repr_html_()
    assert good.count("<tr") == 46
    assert "background" not in good
    bad = compare(spoilt(run(model, reference), "backbone.pos", np.zeros((1, 12, 48), np.float32)), reference)
    assert bad._repr_html_().count("background") == 1
    assert "<script" not in bad._repr_html_()


def test_samples_and_signs_are_the_same_on_every_machine():
    assert sample_of(10, 20).tolist() == list(range(10))
    assert sample_of(10_000, 4).tolist() == SAMPLE
    assert signed_sum(np.arange(1000.0)) == SIGNED
    assert signed_sum(np.arange(1000.0)[::-1]) != SIGNED
    assert signed_sum(np.zeros(0)) == 0


SAMPLE, SIGNED = [3860, 5005, 8205, 8668], -33082.0


def test_the_bundled_recording_holds_for_both_engines():
    from importlib.resources import files

    reference = mvp.load_reference(files("minivitpose") / "data" / "mini-activations.npz")
    for engine in ("numpy", "numba"):
        report = compare(mvp.load("mini", engine).run_with_cache(reference.images)[1], reference)
        assert report.ok, str(report)
        assert len(report.rows) == 147
        assert all(row.whole for row in report.rows)


def test_the_bundled_recording_finds_a_wrong_weight():
    from importlib.resources import files

    reference = mvp.load_reference(files("minivitpose") / "data" / "mini-activations.npz")
    state = mvp.load("mini").state_dict()
    name = "backbone.blocks.2.attn.qkv"
    state[f"{name}.weight"] = state[f"{name}.weight"].copy()
    state[f"{name}.weight"][90, 90] += 0.01
    report = compare(mvp.load(state).run_with_cache(reference.images)[1], reference)
    assert report.first_divergence.name == name


def test_state_dict_helper_is_random_in_every_tensor():
    from minivitpose.config import variant_config

    for name, x in state_dict_for(variant_config("mini")).items():
        assert x.size == 1 or np.unique(x).size > 1, name


def test_a_mean_rests_on_few_elements_where_few_are_large():
    assert telling(np.full(50, -3e-7)) == pytest.approx(50)
    assert telling(np.array([0, 0, 2e-7, 0])) == pytest.approx(1)
    assert telling(np.array([1, 1, 1e-3, -1e-3])) == pytest.approx(2, rel=1e-3)
    assert telling(np.zeros(9)) == 9
