"""The network as a whole, without PyTorch: shapes, names, engines, strict loading, checks at the door."""

import io
import pickle
import types
from dataclasses import replace

import numpy as np
import pytest

import minivitpose as mvp
from minivitpose import layers
from minivitpose.checkpoint import MismatchError
from minivitpose.trace import activation_shapes
from models import images_for, small_config, small_model, state_dict_for

KINDS = {
    "classic": {},
    "simple": {"head": "simple"},
    "other deconvs": {"deconv_kernels": (3, 2)},
    "extra convolutions": {"extra_kernels": (3, 1)},
    "simple, extra convolutions": {"head": "simple", "extra_kernels": (1,)},
    "no qkv bias": {"qkv_bias": False},
    "attn_head_dim and qk_scale": {"head_dim": 10, "qk_scale": 0.17},
    "overlapping patches": {"ratio": 2},
}


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_the_table(kind, engine):
    model = small_model(engine, "float32", **KINDS[kind])
    images = images_for(model, batch=2)
    heatmaps, cache = model.run_with_cache(images)
    assert {name: x.shape for name, x in cache.items()} == activation_shapes(model.config, batch=2)
    assert list(cache) == list(activation_shapes(model.config))
    assert all(x.dtype == np.float32 for x in cache.values())
    assert heatmaps.shape == (2, 5, *model.config.heatmap_size)
    assert heatmaps is cache["keypoint_head.final_layer"]
    assert np.array_equal(model(images), heatmaps)


@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree(kind):
    ours = small_model("numpy", **KINDS[kind])
    images = images_for(ours, batch=2)
    expected, actual = ours.run_with_cache(images)[1], ours.with_engine("numba").run_with_cache(images)[1]
    for name, x in expected.items():
        assert np.abs(actual[name] - x).max() <= 1e-12 * np.abs(x).max(), name


def test_a_numpy_scale_does_not_widen_float32():
    model = small_model("numpy", "float32", qk_scale=np.float64(0.2))
    assert model(images_for(model)).dtype == np.float32


@pytest.mark.parametrize("engine", ["numpy", "numba", "fast"])
def test_a_model_can_be_copied_and_sent(engine):
    model = small_model(engine, "float32")
    images = images_for(model)
    copy = pickle.loads(pickle.dumps(model))
    assert copy.engine == engine
    assert np.array_equal(copy(images), model(images))


def test_one_meaning_three_speeds():
    assert small_model("fast", "float32").engine == "fast"
    assert small_model("fast", "float64").engine == "numba"  # the fast engine is float32
    assert small_model("fast", "float32", extra_kernels=(3,)).engine == "numba"  # no public model has such a head
    with pytest.raises(ValueError, match="expected one of fast, numba, numpy"):
        small_model("torch")


def test_a_batch_is_its_images_one_by_one():
    model = small_model()
    images = images_for(model, batch=3)
    alone = np.concatenate([model(image[None]) for image in images])
    assert np.abs(model(images) - alone).max() <= 1e-13 * np.abs(alone).max()


def test_every_tensor_matters():
    """Change any one parameter and the heatmaps change: none is loaded and then forgotten."""
    config = small_config(extra_kernels=(3,))
    state, images = state_dict_for(config, dtype="float64"), None
    for name in [None, *state]:
        changed = {key: x.copy() for key, x in state.items()}
        if name is not None:
            changed[name] = changed[name] + 1 if name.endswith("tracked") else changed[name] * 1.25
        model = mvp.load(changed, "numpy", num_heads=3, dtype="float64")
        images = images_for(model) if images is None else images
        heatmaps = model(images)
        if name is None:
            expected = heatmaps
        elif name.endswith("num_batches_tracked"):
            assert np.array_equal(heatmaps, expected)  # a counter
        else:
            assert np.abs(heatmaps - expected).max() > 1e-6 * np.abs(expected).max(), name


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (63, 47)])
def test_sizes_whose_grid_fits_take_the_positions_as_they_are(size):
    model = small_model()
    _, cache = model.run_with_cache(images_for(model, size=size))
    tokens = layers.to_tokens(cache["backbone.patch_embed.proj"])
    assert np.array_equal(cache["backbone.pos"], layers.add_positions(tokens, model.params["backbone"]["pos_embed"]))


@pytest.mark.parametrize("size", [(96, 80), (48, 64), (32, 128), (16, 16)])
def test_other_sizes_interpolate_the_positions(size):
    model = small_model()
    heatmaps, cache = model.run_with_cache(images_for(model, size=size))
    grid = (size[0] - 12) // 16 + 1, (size[1] - 12) // 16 + 1
    assert {name: x.shape for name, x in cache.items()} == activation_shapes(model.config, grid=grid)
    pos = layers.resize_positions(model.params["backbone"]["pos_embed"], model.config.grid, grid)
    tokens = layers.to_tokens(cache["backbone.patch_embed.proj"])
    assert np.array_equal(cache["backbone.pos"], layers.add_positions(tokens, pos))
    assert np.isfinite(heatmaps).all()


def test_replacing_an_activation_changes_what_follows_and_nothing_before():
    model = small_model()
    images = images_for(model)
    heatmaps, cache = model.run_with_cache(images)
    name = "backbone.blocks.1.attn.pattern"
    uniform = np.full_like(cache[name], 1 / 12)
    patched, other = model.run_with_cache(images, replace={name: uniform})
    names = list(cache)
    for before in names[: names.index(name) + 1]:
        assert np.array_equal(cache[before], other[before])
    mean = layers.merge_heads(np.broadcast_to(cache["backbone.blocks.1.attn.v"].mean(2, keepdims=True), (1, 3, 12, 8)))
    assert np.allclose(other["backbone.blocks.1.attn.z"], mean, rtol=1e-12)
    assert not np.allclose(patched, heatmaps)
    same = model.run_with_cache(images, replace={name: cache[name]})[0]
    assert np.array_equal(same, heatmaps)


def test_replacements_must_fit():
    model = small_model()
    images = images_for(model)
    with pytest.raises(ValueError, match="no activation 'backbone.blocks.7'"):
        model.run_with_cache(images, replace={"backbone.blocks.7": np.zeros(1)})
    with pytest.raises(ValueError, match=r"expected float64 \(1, 12, 24\), found float64 \(1, 24\)"):
        model.run_with_cache(images, replace={"backbone.pos": np.zeros((1, 24))})
    with pytest.raises(ValueError, match="found float32"):
        model.run_with_cache(images, replace={"backbone.pos": np.zeros((1, 12, 24), np.float32)})


def test_the_run_changes_neither_images_nor_weights():
    model = small_model("numba", "float32")
    images = images_for(model)
    before = images.copy(), {name: x.copy() for name, x in model.state_dict().items()}
    model.run_with_cache(images)
    assert np.array_equal(images, before[0])
    assert all(np.array_equal(x, before[1][name]) for name, x in model.state_dict().items())


DOOR = {
    "list": (lambda x: x.tolist(), "not a NumPy array"),
    "one image": (lambda x: x[0], r"found shape \(3, 64, 48\)"),
    "channels last": (lambda x: x.transpose(0, 2, 3, 1), r"try images.transpose\(0, 3, 1, 2\)"),
    "grey": (lambda x: x[:, :1], r"found shape \(1, 1, 64, 48\)"),
    "uint8": (lambda x: np.zeros(x.shape, np.uint8), "network_input"),
    "float32": (lambda x: x.astype(np.float32), r"images.astype\('float64'\)"),
    "complex": (lambda x: x.astype(complex), "found complex128"),
    "tiny": (lambda x: x[:, :, :15], "less than one patch"),
    "empty": (lambda x: x[:, :, :0], "less than one patch"),
    "nan": (lambda x: np.where(np.arange(48) == 7, np.nan, x), r"64 of|the first at \(0, 0, 0, 7\): nan"),
    "inf": (lambda x: np.where(np.arange(48) == 7, -np.inf, x), r"the first at \(0, 0, 0, 7\): -inf"),
}


@pytest.mark.parametrize("case", DOOR)
def test_bad_images_are_one_clear_line(case):
    spoil, message = DOOR[case]
    model = small_model()
    with pytest.raises(ValueError, match=message) as error:
        model(spoil(images_for(model)))
    assert "\n" not in str(error.value)
    assert "expected normalised images of shape (B, 3, 64, 48) and dtype float64" in str(error.value)


def test_no_image_gives_no_heatmap():
    for engine in ("numpy", "numba"):
        model = small_model(engine)
        assert model(images_for(model, batch=0)).shape == (0, 5, 16, 12)


# -------------------------------------------------------------------------------------------------------------- loading


def test_one_error_lists_everything_that_does_not_fit():
    state = state_dict_for(small_config())
    del state["backbone.blocks.1.mlp.fc2.bias"], state["backbone.last_norm.weight"]
    state["backbone.blocks.0.norm1.weight"] = np.zeros(25, np.float32)
    state["backbone.extra"] = np.zeros((2, 3), np.float32)
    state["backbone.blocks.0.norm2.bias"] = np.zeros(24, np.int64)
    with pytest.raises(MismatchError) as error:
        mvp.load(state, num_heads=3)
    assert error.value.faults == [
        "mis-shaped backbone.blocks.0.norm1.weight: expected (24,), found (25,)",
        "missing backbone.blocks.1.mlp.fc2.bias: expected (24,)",
        "missing backbone.last_norm.weight: expected (24,)",
        "mistyped backbone.blocks.0.norm2.bias: expected floating point, found int64",
        "unexpected backbone.extra: found (2, 3)",
    ]
    assert str(error.value).startswith("5 of the parameters do not fit ViTPose-custom (24 channels, 2 blocks, 3 heads")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(value):
    state = state_dict_for(small_config())
    state["backbone.blocks.1.attn.proj.weight"][3, 5] = value
    state["keypoint_head.final_layer.bias"][2] = value
    with pytest.raises(MismatchError, match="2 of the parameters hold NaN or infinite values") as error:
        mvp.load(state, num_heads=3)
    assert f"backbone.blocks.1.attn.proj.weight: 1 of 576 values, the first at (3, 5): {value}" in error.value.faults


def test_a_float64_weight_too_large_for_float32_is_named():
    state = state_dict_for(small_config(), dtype="float64")
    state["backbone.last_norm.bias"][0] = 1e60
    with pytest.raises(MismatchError, match="backbone.last_norm.bias"):
        mvp.load(state, num_heads=3)
    assert mvp.load(state, num_heads=3, dtype="float64").dtype == np.float64


def test_counters_may_be_absent_and_the_leftover_class_token_is_ignored():
    state = state_dict_for(small_config())
    fewer = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    fewer["backbone.cls_token"] = np.zeros((1, 1, 24), np.float32)
    model, other = mvp.load(state, "numpy", num_heads=3), mvp.load(fewer, "numpy", num_heads=3)
    images = images_for(model)
    assert np.array_equal(model(images), other(images))


def test_weights_of_a_mapping_are_copied():
    state = state_dict_for(small_config())
    model = mvp.load(state, "numpy", num_heads=3)
    images = images_for(model)
    before = model(images)
    for x in state.values():
        x *= 0
    assert np.array_equal(model(images), before)


def test_state_dict_gives_back_what_was_loaded():
    state = state_dict_for(small_config(extra_kernels=(3,)))
    back = mvp.load(dict(sorted(state.items())), num_heads=3).state_dict()
    assert list(back) == list(state)
    assert all(np.array_equal(back[name], x) and back[name].dtype == x.dtype for name, x in state.items())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_of_the_file_becomes_the_dtype_asked_for(dtype):
    state = state_dict_for(small_config(), dtype=dtype)
    model = mvp.load(state, num_heads=3)
    assert {x.dtype for x in model.state_dict().values()} == {np.dtype("float32"), np.dtype("int64")}
    assert mvp.load(state, num_heads=3, dtype=np.float64).astype("float32").dtype == np.float32
    with pytest.raises(ValueError, match="float32 or float64"):
        mvp.load(state, num_heads=3, dtype="float16")


def test_another_dtype_keeps_the_layers_that_were_exchanged():
    model = small_model(dtype="float32")
    model.ops = types.SimpleNamespace(**vars(layers) | {"keypoint_head": lambda x, **_: 0 * x})
    exact = model.astype("float64")
    assert not exact(images_for(exact)).any()
    assert model.with_engine("numpy").ops is layers


@pytest.mark.parametrize("source", [7, None, [1, 2]])
def test_a_source_of_another_kind_is_one_clear_line(source):
    with pytest.raises(mvp.CheckpointError, match="expected a path, 'mini' or a mapping"):
        mvp.load(source)


@pytest.mark.parametrize("engine", ["numpy", "numba", "fast"])
@pytest.mark.parametrize("change", [{"depth": 1}, {"num_keypoints": 1}, {"mlp_dim": 24}, {"depth": 5}])
def test_weights_of_another_config_are_refused(engine, change):
    model = small_model("numpy")
    with pytest.raises(ValueError, match="params are not of this config: .*: expected .*, found "):
        mvp.ViTPose(model.params, replace(model.config, **change), engine)


def test_sizes_and_ratios_that_give_another_grid_are_refused():
    for options in ({"image_size": (268, 192)}, {"ratio": 3}):
        with pytest.raises(mvp.CheckpointError, match="patches, but backbone.pos_embed has positions for 192"):
            mvp.load("mini", "numpy", **options)


def test_another_dtype_keeps_the_engine_that_was_asked_for():
    model = mvp.load("mini")
    exact = model.astype("float64")
    assert exact.engine == "numba" and exact.astype("float32").engine == model.engine
    for dtype in ("int8", "float16", "foo"):
        with pytest.raises(ValueError, match="dtype must be float32 or float64"):
            model.astype(dtype)


def test_numbers_of_numpy_do_not_make_it_float64():
    model = small_model("numpy", "float32")
    config = replace(model.config, eps=np.float64(1e-6), qk_scale=np.float64(0.3))
    other = mvp.ViTPose(model.params, config, "numpy")
    assert {x.dtype.name for x in other.run_with_cache(images_for(other))[1].values()} == {"float32"}


def test_a_mapping_may_be_what_a_training_script_keeps():
    state = state_dict_for(small_config())
    options = {"num_heads": 3, "image_size": (64, 48)}
    expected = mvp.load(state, "numpy", **options).state_dict()
    wrapped = {f"module.{name}": x for name, x in state.items()}
    for kept in (wrapped, {"state_dict": state, "meta": {"epoch": 3}}, {"epoch": 3, "model": wrapped}):
        found = mvp.load(kept, "numpy", **options).state_dict()
        assert found.keys() == expected.keys() and all(np.array_equal(x, expected[name]) for name, x in found.items())


def test_a_mapping_of_other_things_is_one_clear_line():
    with pytest.raises(mvp.CheckpointError, match="backbone.pos_embed: expected an array"):
        mvp.load({"backbone.pos_embed": "x"})


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_load_from_a_file(tmp_path, suffix):
    state = state_dict_for(small_config())
    path = tmp_path / f"model.{suffix}"
    if suffix == "npz":
        np.savez(path, **state)
    else:
        from safetensors.numpy import save_file

        save_file(state, path)
    model, other = mvp.load(str(path), "numpy", num_heads=3), mvp.load(state, "numpy", num_heads=3)
    images = images_for(model)
    assert np.array_equal(model(images), other(images))


def test_a_file_object_is_no_path():
    with pytest.raises(mvp.CheckpointError):
        mvp.load(io.BytesIO())


def test_the_bundled_model_says_what_it_is():
    model = mvp.load("mini")
    text = "ViTPose-mini (96 channels, 8 blocks, 3 heads of 32, classic head, 17 keypoints): 1,119,089 parameters"
    assert text in repr(model)
    assert "float32, engine 'fast'" in repr(model)
