"""The namings of ViTPose, mmpose 1.x and Hugging Face: renamed exactly, both ways, and strict in the file's words."""

import re

import numpy as np
import pytest

import minivitpose as mvp
import public_files as pf
from minivitpose import CheckpointError
from minivitpose.checkpoint import Checkpoint, MismatchError, fit, namings
from minivitpose.config import parameter_shapes, variant_config
from models import images_for, small_config

HEADS = ("classic", "simple")
MAPPING = {"num_heads": 3}


def load(state, engine="fast", **options):
    return mvp.load(state, engine, **(MAPPING | options))


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, x in expected.items():
        assert found[name].dtype == x.dtype, name
        assert np.array_equal(found[name], x), name


# ------------------------------------------------------------------------------------------------------------- renaming


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("naming", pf.NAMINGS)
def test_every_name_goes_both_ways(naming, head, counters):
    state = pf.official(head=head)
    state = state if counters else pf.without_counters(state)
    other = pf.NAMINGS[naming](state)
    assert pf.blocks_in(other) == set(range(12))
    assert namings.naming_of(other) == naming
    found, homeless = namings.from_official(state, naming)
    assert homeless == []
    same(found, other)
    if naming == "mmpose":  # the slot is gone: what comes back is one of zeros
        table = state["backbone.pos_embed"]
        state["backbone.pos_embed"] = np.concatenate([0 * table[:, :1], table[:, 1:] + table[:, :1]], axis=1)
    same(namings.to_official(other, naming, slot=naming != "mmpose"), state)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("naming", pf.NAMINGS)
def test_shapes_are_renamed_as_arrays_are(naming, head):
    state = pf.official(head=head)
    shapes = {name: x.shape for name, x in state.items()}
    slot = naming != "mmpose"
    other = {name: x.shape for name, x in pf.NAMINGS[naming](state).items()}
    assert namings.in_naming(shapes, naming, slot) == other
    assert namings.official_shapes(other, naming, slot) == shapes


def test_a_fourth_or_a_nearly_right_name_has_no_rule():
    for naming, name in [
        ("hf", "backbone.blocks.0.norm1.weight"),
        ("hf", "backbone.encoder.layer.x.layernorm_before.weight"),
        ("hf", "backbone.encoder.layer.0.layernorm_beforehand.weight"),
        ("mmpose", "backbone.layers.00.ln1.weight"),
        ("mmpose", "backbone.layers.0.ffn.layers.1x.weight"),
        ("mmpose", f"backbone.layers.{'9' * 5000}.ln1.weight"),
    ]:
        assert namings.renamed(name, naming) is None


@pytest.mark.parametrize(("head", "tensors"), [("classic", 211), ("simple", 199)])
def test_hugging_faces_b_has_as_many_tensors_as_published(head, tensors):
    assert len(namings.in_naming(parameter_shapes(variant_config("B", head=head)), "hf")) == tensors


# -------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("naming", pf.NAMINGS)
def test_a_file_of_each_naming_computes_the_same(naming, head):
    """To the last bit by the fast engine, which adds the class token's slot to the positions once."""
    state = pf.official(head=head)
    assert np.abs(state["backbone.pos_embed"][:, 0]).min() > 0
    expected, model = load(state), load(pf.NAMINGS[naming](state), eps=1e-6)
    images = images_for(expected, batch=2)
    assert expected.engine == model.engine == "fast"
    assert np.array_equal(model(images), expected(images))
    textbook = load(pf.NAMINGS[naming](state), "numpy", eps=1e-6)(images)
    expected = expected.with_engine("numpy")(images)
    assert np.array_equal(textbook, expected) or naming == "mmpose"
    assert np.abs(textbook - expected).max() <= 1e-5 * np.abs(expected).max()


def test_mmpose_with_a_slot_is_the_official_model():
    state = pf.official()
    expected, model = load(state, "numpy"), load(pf.as_mmpose(state, slot=True), "numpy")
    same(model.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    ("rows", "slot"), [(12, 0), (13, 1), (48, 0), (49, 1), (192, 0), (193, 1), (256, 0), (257, 1), (432, 0), (433, 1)]
)
def test_the_number_of_positions_shows_whether_there_is_a_slot(rows, slot):
    state = pf.as_mmpose(pf.official(depth=1))
    state["backbone.pos_embed"] = np.random.default_rng(0).standard_normal((1, rows, 24)).astype(np.float32)
    table = load(state, "numpy").state_dict()["backbone.pos_embed"]
    assert table.shape == (1, rows + 1 - slot, 24)
    assert np.array_equal(table[:, 1 - slot :], state["backbone.pos_embed"])
    assert slot or not table[:, 0].any()


def test_an_image_size_that_is_given_decides_about_the_slot():
    state = pf.as_mmpose(pf.official(depth=1))
    state["backbone.pos_embed"] = np.ones((1, 49, 24), np.float32)  # 8 x 6 and a slot, or 7 x 7
    assert load(state, "numpy").config.image_size == (128, 96)
    model = load(state, "numpy", image_size=(112, 112))
    assert model.state_dict()["backbone.pos_embed"].shape == (1, 50, 24)


@pytest.mark.parametrize(
    ("naming", "eps", "pipeline"), [("official", 1e-6, "udp"), ("mmpose", 1e-6, "mmpose"), ("hf", 1e-12, "hf")]
)
def test_eps_and_pipeline_go_by_the_naming(naming, eps, pipeline):
    config = load(pf.NAMINGS[naming](pf.official()), "numpy").config
    assert (config.eps, config.pipeline) == (eps, pipeline)
    assert load(pf.NAMINGS[naming](pf.official()), "numpy", eps=1e-3).config.eps == 1e-3


@pytest.mark.parametrize("engine", ["numpy", "numba", "fast"])
def test_every_engine_uses_eps(engine):
    state = pf.official(depth=2)
    models = [load(state, engine, eps=eps) for eps in (1e-12, 0.1)]
    exact = load(state, "numpy", eps=0.1, dtype="float64")
    images = images_for(models[0])
    small, large = (model(images) for model in models)
    assert np.abs(large - exact(images.astype(float))).max() < 1e-5
    assert np.abs(large - small).max() > 1e-2


def test_a_float16_file_is_folded_with_one_rounding():
    table = np.random.default_rng(0).standard_normal((1, 13, 24)).astype(np.float16)
    found = namings.without_slot(table)
    assert found.dtype == np.float16
    exact = table[:, 1:].astype(np.float64) + table[:, :1].astype(np.float64)
    assert np.array_equal(found, exact.astype(np.float16))


# --------------------------------------------------------------------------------------------------------------- errors


def faults(state, **options):
    with pytest.raises(MismatchError) as error:
        load(state, "numpy", **options)
    return error.value.faults


def test_what_does_not_fit_is_named_as_in_the_file():
    state = pf.as_hf(pf.official(depth=2))
    attention = "backbone.encoder.layer.1.attention.attention"
    del state[f"{attention}.key.bias"], state["head.batchnorm2.weight"], state["backbone.layernorm.bias"]
    state[f"{attention}.value.weight"] = np.zeros((24, 23), np.float32)
    state["backbone.encoder.layer.0.attention.attention.query.bias"] = np.zeros(24, np.int64)
    state["backbone.pooler.weight"] = np.zeros(3, np.float32)
    assert faults(state) == [
        f"mis-shaped {attention}.value.weight: expected (24, 24), found (24, 23)",
        "missing backbone.encoder.layer.1.attention.attention.key.bias: expected (24,)",
        "missing backbone.layernorm.bias: expected (24,)",
        "missing head.batchnorm2.weight: expected (6,)",
        "mistyped backbone.encoder.layer.0.attention.attention.query.bias: expected floating point, found int64",
        "unexpected backbone.pooler.weight: found (3,)",
    ]
    state = pf.as_mmpose(pf.official(depth=2))
    del state["backbone.layers.1.ffn.layers.0.0.bias"]
    state["keypoint_head.final_layer.bias"] = state.pop("head.final_layer.bias")
    assert faults(state) == [
        "missing backbone.layers.1.ffn.layers.0.0.bias: expected (96,)",
        "missing head.final_layer.bias: expected (17,)",
        "unexpected keypoint_head.final_layer.bias: found (17,)",
    ]


@pytest.mark.parametrize(
    ("naming", "name", "message"),
    [
        ("hf", "backbone.embeddings.position_embeddings", "missing backbone.embeddings.position_embeddings;"),
        (
            "hf",
            "backbone.encoder.layer.0.attention.attention.query.weight",
            "missing backbone.encoder.layer.0.att.*query.w",
        ),
        ("hf", "head.conv.weight", "missing head.conv.weight"),
        ("mmpose", "backbone.layers.0.ffn.layers.0.0.weight", "missing backbone.layers.0.ffn.layers.0.0.weight"),
        ("mmpose", "head.final_layer.weight", "missing head.final_layer.weight"),
    ],
)
def test_what_carries_a_number_is_named_as_in_the_file(naming, name, message):
    state = pf.NAMINGS[naming](pf.official(depth=2))
    del state[name]
    with pytest.raises(CheckpointError, match=message) as error:
        load(state)
    assert "\n" not in str(error.value)


def test_values_that_are_not_finite_are_named_as_in_the_file():
    state = pf.as_hf(pf.official(depth=2))
    state["backbone.encoder.layer.1.attention.attention.key.weight"][3, 4] = np.nan
    assert faults(state) == [
        "backbone.encoder.layer.1.attention.attention.key.weight: 1 of 576 values, the first at (3, 4): nan"
    ]


def test_a_mixture_of_namings_is_one_clear_line():
    state = pf.official(depth=2)
    state |= {name: x for name, x in pf.as_hf(state).items() if ".encoder." in name}
    with pytest.raises(CheckpointError, match="mix namings: 'backbone.blocks.*official.* and .*Hugging Face") as error:
        load(state)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blocks.0.norm1.weight", "pos_embed"], "a backbone alone"),
        (["encoder.layer.0.layernorm_after.weight", "embeddings.cls_token"], "a backbone alone"),
        (["conv1.weight", "fc.bias"], "found conv1.weight, fc.bias"),
    ],
)
def test_a_model_of_another_kind_is_one_clear_line(names, message):
    with pytest.raises(CheckpointError, match=f"not a whole ViTPose.*{message}"):
        load(dict.fromkeys(names, np.zeros(1, np.float32)))


@pytest.mark.parametrize("naming", pf.NAMINGS)
def test_the_leftover_class_token_is_ignored_in_each_naming(naming):
    state = pf.NAMINGS[naming](pf.official(depth=1))
    expected = load(state, "numpy").state_dict()
    state["backbone.cls_token"] = np.full((1, 1, 24), np.nan, np.float32)
    same(load(state, "numpy").state_dict(), expected)


# ----------------------------------------------------------------------------------------------------------------- fuzz


def spoil(state, rng):
    """One to three random accidents to the names and shapes of a state dict."""
    names = list(state)
    for _ in range(rng.integers(1, 4)):
        name, other = rng.choice(names, 2)
        x = state.get(name)
        if x is None:
            continue
        kind = rng.integers(7)
        if kind == 0:
            del state[name]
        elif kind == 1:
            state[name.replace(rng.choice(name.split(".")), rng.choice(other.split(".")), 1)] = state.pop(name)
        elif kind == 2:
            state[re.sub(r"\d+", lambda _: str(rng.choice([0, 7, 99999, 10**9])), name)] = x
        elif kind == 3:
            state[name] = x.reshape(*x.shape, 1) if rng.random() < 0.5 else x.reshape(-1)
        elif kind == 4:
            state[name] = x[: rng.integers(3)] if x.ndim else x
        elif kind == 5:
            state[name] = state.get(other, x)
        else:
            state[name + rng.choice([".0", ".weight", ".", ".experts.3.weight"])] = x
    return state


KINDS = {naming: change(pf.official(depth=2)) for naming, change in pf.NAMINGS.items()}
KINDS |= {
    "193 rows": pf.as_mmpose(pf.official(depth=1), slot=True),
    "plus": pf.plus(),
    "hf plus": pf.as_hf(pf.plus(())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_random_accidents_load_right_or_are_refused(kind):
    rng = np.random.default_rng(len(kind))
    expected = parameter_shapes(small_config(num_keypoints=17))
    loaded = 0
    for _ in range(150 if "plus" in kind else 500):
        state = spoil(dict(KINDS[kind]), rng)
        dataset, expert = rng.choice([None, None, "aic", "ap10k"]), rng.choice([None, None, None, "ap10k", 9])
        try:
            params, config = fit(Checkpoint(state, "mapping"), 3, {}, dataset=dataset, expert=expert)
        except CheckpointError as error:
            assert str(error).replace("\n", "").isprintable()
            continue
        loaded += 1
        assert config.embed_dim == 24 and config.num_keypoints in (14, 17)
        assert params["backbone"]["last_norm"]["weight"].shape == expected["backbone.last_norm.weight"]
    assert 0 < loaded < 250
