"""The textbook's gradients by finite differences, and by properties that hold for any input. Without PyTorch."""

import math

import numpy as np
import pytest

from minivitpose import gradients, layers
from minivitpose.parameters import flatten, is_learnt, nest
from minivitpose.training import TrainingError, heatmap_loss, heatmap_loss_backward, loss_and_gradients
from models import images_for, small_model
from operations import CASES, Draw, arrays

STEP = 1e-6  # small beside the root of eps, and seldom over the corner of a relu
TOLERANCE = 1e-7  # of the largest number; the differences themselves are good to about 1e-9

# What these leave or put together has no derivative of its own, or that of another.
WITHOUT_BACKWARD = {"to_tokens", "to_map", "split_heads", "merge_heads", "erf", "bicubic_weights", "bilinear_weights"}
NOT_SMOOTH = {"zero and large", "zero, large, both signs", "huge", "huge and far below", "equal", "tiny", "the tail"}
INPUTS = {"scaled_dot_product_attention": ("q", "k", "v")}  # else the first argument alone
EXTRA = {
    "batch_norm_training": {
        "two images": lambda r: dict(
            x=3 * r(2, 3, 4, 5) + 1, **r.norm(3), running_mean=r(3), running_var=r.positive(3)
        ),
        "small variance, so that eps counts": lambda r: dict(
            x=3e-3 * r(2, 2, 3, 3), **r.norm(2), running_mean=r(2), running_var=r.positive(2)
        ),
        "eps given": lambda r: dict(
            x=r(1, 2, 1, 3), **r.norm(2), running_mean=r(2), running_var=r.positive(2), eps=0.5
        ),
    },
}


def backward(operation, arguments, grad):
    """-> (gradients of the inputs, those of the parameters), each a dict by the names of the arguments."""
    names = INPUTS.get(operation, (next(iter(arguments)),))
    rest = {k: v for k, v in arguments.items() if k not in names}
    if operation == "sequential":
        rest |= {"convolve": getattr(layers, rest["convolve"].name), "batch": False}
        rest["convolve_backward"] = getattr(gradients, rest["convolve"].__name__ + "_backward")
    rest |= {"batch": False} if operation == "keypoint_head" else {}
    result = getattr(gradients, f"{operation}_backward")(*(arguments[name] for name in names), grad, **rest)
    if operation == "scaled_dot_product_attention":
        return dict(zip(names, result, strict=True)), {}
    inner, parameters = result if isinstance(result, tuple) else (result, {})
    parameters = {{"block": "p", "sequential": "layers"}[operation]: parameters} if operation in NESTED else parameters
    return {names[0]: inner}, parameters


NESTED = {"block", "sequential"}


def forward(operation, arguments):
    if operation == "batch_norm_training":
        return gradients.batch_norm_training(**arguments)[0]
    functions = {k: getattr(layers, v.name) for k, v in arguments.items() if hasattr(v, "name")}
    return getattr(layers, operation)(**arguments | functions)


def slope(f, x, direction):
    """The derivative of f along a direction, from four values around x: the error is about STEP^4."""
    near, far = (f(x + s * STEP * direction) - f(x - s * STEP * direction) for s in (1, 2))
    return (8 * near - far) / (12 * STEP)


def directions(rng, shape):
    """One random direction, and up to six single elements."""
    yield rng.standard_normal(shape)
    for i in rng.permutation(math.prod(shape))[:6]:
        yield np.eye(1, math.prod(shape), i).reshape(shape)


def assert_slopes(loss, flat, expected, rng):
    """flat: name -> array that the loss depends on; expected: name -> gradient."""
    for name, gradient in expected.items():
        x = flat[name]
        assert gradient.shape == x.shape and gradient.dtype == np.float64, name
        scale = np.abs(gradient).max()
        for direction in directions(rng, x.shape):
            numeric = slope(lambda moved, name=name: loss(flat | {name: moved}), x, direction)
            assert abs(numeric - (gradient * direction).sum()) <= TOLERANCE * max(scale * np.abs(direction).sum(), 1e-3)


def smooth_cases():
    for case in CASES:
        if case.operation not in WITHOUT_BACKWARD and case.name not in NOT_SMOOTH:
            yield pytest.param(case.operation, case.arguments(), id=str(case))
    for operation, cases in EXTRA.items():
        for name, build in cases.items():
            yield pytest.param(operation, build(Draw(7)), id=f"{operation}: {name}")


@pytest.mark.parametrize("operation, arguments", list(smooth_cases()))
def test_each_gradient_is_the_slope(operation, arguments):
    rng = np.random.default_rng(3)
    grad = rng.standard_normal(forward(operation, arguments).shape)
    flat = flatten(arguments)

    def loss(changed):
        return (forward(operation, nest(changed)) * grad).sum()

    before = arrays(np.copy, arguments)
    inputs, parameters = backward(operation, arguments, grad)
    assert all(np.array_equal(a, flat[name]) for name, a in flatten(before).items() if isinstance(a, np.ndarray))
    learnt = {name for name, a in flat.items() if isinstance(a, np.ndarray) and is_learnt(name)}
    found = flatten(inputs | parameters)
    assert set(found) == learnt
    assert_slopes(loss, flat, found, rng)


@pytest.mark.parametrize("case", [c for c in CASES if c.operation not in WITHOUT_BACKWARD], ids=str)
def test_float32_stays_float32(case):
    arguments = case.arguments(np.float32)
    grad = np.random.default_rng(0).standard_normal(forward(case.operation, arguments).shape).astype(np.float32)
    inputs, parameters = backward(case.operation, arguments, grad)
    exact = backward(case.operation, arrays(np.float64, arguments), grad.astype(np.float64))
    for part, truth in zip((inputs, parameters), exact, strict=True):
        for name, x in flatten(part).items():
            assert x.dtype == np.float32
            assert np.abs(x - flatten(truth)[name]).max() <= 3e-5 * max(np.abs(flatten(truth)[name]).max(), 1e-3)


def test_every_layer_has_its_gradient():
    operations = {case.operation for case in CASES} - WITHOUT_BACKWARD
    assert all(callable(getattr(gradients, f"{operation}_backward")) for operation in operations)


# ------------------------------------------------------------------------------------------------- what a layer moves


def test_reshapes_give_back_what_they_took():
    rng = np.random.default_rng(0)
    x, grad = rng.standard_normal((2, 5, 18)), rng.standard_normal((3, 2, 3, 5, 2))
    assert (layers.split_heads(x, 3) * grad).sum() == pytest.approx((x * gradients.split_heads_backward(*grad)).sum())
    assert np.array_equal(gradients.split_heads_backward(*layers.split_heads(x, 3)), x)
    assert np.array_equal(gradients.merge_heads_backward(layers.merge_heads(grad[0]), 3), grad[0])


def test_layer_norm_passes_on_nothing_that_moves_or_stretches_a_token():
    rng = np.random.default_rng(1)
    x, grad, weight = rng.standard_normal((4, 9)), rng.standard_normal((4, 9)), rng.standard_normal(9)
    grad_x, _ = gradients.layer_norm_backward(x, grad, weight, weight, eps=0)
    assert np.abs(grad_x.sum(axis=-1)).max() < 1e-14
    assert np.abs((grad_x * x).sum(axis=-1)).max() < 1e-14


def test_batch_norm_by_the_batch_passes_on_nothing_that_moves_or_stretches_a_channel():
    rng = np.random.default_rng(1)
    x, grad, weight = rng.standard_normal((4, 3, 5, 2)), rng.standard_normal((4, 3, 5, 2)), rng.standard_normal(3)
    grad_x, _ = gradients.batch_norm_training_backward(x, grad, weight, weight, eps=0)
    assert np.abs(grad_x.sum(axis=(0, 2, 3))).max() < 1e-13
    assert np.abs((grad_x * x).sum(axis=(0, 2, 3))).max() < 1e-13


def test_softmax_only_moves_shares_about():
    rng = np.random.default_rng(2)
    assert (
        np.abs(gradients.softmax_backward(rng.standard_normal((5, 7)), rng.standard_normal((5, 7))).sum(1)).max()
        < 1e-15
    )


def test_relu_passes_on_nothing_at_0():
    assert np.array_equal(gradients.relu_backward(np.array([-1.0, 0, -0.0, 1]), np.full(4, 7.0)), [0, 0, 0, 7])


@pytest.mark.parametrize("operation", ["softmax", "gelu"])
def test_far_values_give_finite_gradients(operation):
    x = np.array([[1e4, -1e4, 1e3, 0.0, -40.0]])
    assert np.isfinite(backward(operation, {"x": x}, np.ones_like(x))[0]["x"]).all()


def test_running_statistics_move_a_tenth_of_the_way_and_take_the_unbiased_variance():
    x = np.arange(12.0).reshape(2, 1, 3, 2)
    old = {"running_mean": np.array([1.0]), "running_var": np.array([2.0]), "num_batches_tracked": np.array(4)}
    y, new = gradients.batch_norm_training(x, np.ones(1), np.zeros(1), **old, eps=0)
    assert new["running_mean"][0] == pytest.approx(0.9 * 1 + 0.1 * 5.5)
    assert new["running_var"][0] == pytest.approx(0.9 * 2 + 0.1 * 13)  # of 0..11: 143 / 12, unbiased 13
    assert new["num_batches_tracked"] == 5 and new["num_batches_tracked"].dtype.kind == "i"
    assert y.std() == pytest.approx(1) and old["running_mean"][0] == 1
    with pytest.raises(ValueError, match="more than one value"):
        gradients.batch_norm_training(x[:1, :, :1, :1], np.ones(1), np.zeros(1), **old)


# --------------------------------------------------------------------------------------------------------------- drops


def test_a_drop_mask_is_zero_at_the_rate_and_keeps_the_mean():
    mask = gradients.drop_mask((200, 100), 0.3, np.random.default_rng(0))
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert mask.mean(dtype=np.float64) == pytest.approx(1, abs=0.02)
    assert np.array_equal(mask, gradients.drop_mask((200, 100), 0.3, np.random.default_rng(0)))
    assert not np.array_equal(mask, gradients.drop_mask((200, 100), 0.3, np.random.default_rng(1)))
    assert np.array_equal(gradients.drop_mask((3,), 0, np.random.default_rng(0)), np.ones(3, np.float32))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_a_drop_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ValueError, match="drop rate"):
        gradients.drop_mask((3,), rate, np.random.default_rng(0))


def test_drop_path_grows_linearly_with_depth():
    assert np.allclose(gradients.drop_path_rates(4, 0.3), [0, 0.1, 0.2, 0.3], atol=1e-16)
    assert np.array_equal(gradients.drop_path_rates(1, 0.3), [0])


def test_a_dropped_branch_gets_no_gradient_and_a_kept_one_more():
    rng, r = np.random.default_rng(5), Draw(5)
    x, grad, p = r(3, 4, 6), r(3, 4, 6), r.block(6, 2, 3)
    drops = np.array([0.0, 1.25, 0.0])[:, None, None], np.array([0.0, 0.0, 1.25])[:, None, None]

    def loss(x):
        factors = {"attn": drops[0], "mlp": drops[1]}
        return (layers.block(x, p, 2, tap=lambda name, y: y * factors.get(name, 1)) * grad).sum()

    grad_x, _ = gradients.block_backward(x, grad, p, 2, drops=drops)
    assert np.array_equal(grad_x[0], grad[0])
    for direction in directions(rng, x.shape):
        assert slope(loss, x, direction) == pytest.approx((grad_x * direction).sum(), rel=1e-8, abs=1e-8)


def test_dropout_multiplies_both_ways():
    x, grad, mask = (np.random.default_rng(i).standard_normal((2, 3)) for i in range(3))
    assert np.array_equal(gradients.drop_backward(x, grad, mask), grad * mask)


# ---------------------------------------------------------------------------------------------------------------- loss


def test_the_loss_is_the_mean_of_the_weighted_squares():
    rng = np.random.default_rng(0)
    x, targets, weight = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5)), rng.uniform(0, 2, (2, 3))
    terms = [
        ((x[b, k, i, j] - targets[b, k, i, j]) * weight[b, k]) ** 2
        for b in range(2) for k in range(3) for i in range(4) for j in range(5)
    ]  # fmt: skip
    loss = heatmap_loss(x, targets, weight)
    assert type(loss) is float
    assert loss == pytest.approx(math.fsum(terms) / 120, rel=1e-14)
    gradient = heatmap_loss_backward(x, targets, weight)
    for direction in directions(rng, x.shape):
        numeric = slope(lambda moved: heatmap_loss(moved, targets, weight), x, direction)
        assert numeric == pytest.approx((gradient * direction).sum(), rel=1e-6, abs=1e-9)


def test_a_keypoint_of_weight_0_counts_in_the_mean_and_gets_no_gradient():
    x, targets = np.ones((1, 2, 2, 2)), np.zeros((1, 2, 2, 2))
    weight = np.array([[1.0, 0.0]])
    assert heatmap_loss(x, targets, weight) == 0.5
    assert np.array_equal(heatmap_loss_backward(x, targets, weight)[0], [np.full((2, 2), 0.25), np.zeros((2, 2))])


def test_the_loss_of_float32_is_summed_in_float64():
    x = np.full((1, 1, 2048, 2048), 0.1, np.float32)
    assert heatmap_loss(x, np.zeros_like(x), np.ones((1, 1), np.float32)) == pytest.approx(
        np.float64(x[0, 0, 0, 0]) ** 2
    )
    assert heatmap_loss_backward(x, x, np.ones((1, 1), np.float32)).dtype == np.float32


# ----------------------------------------------------------------------------------------------------------- the whole


def batch_for(model, batch=2, seed=0, size=None):
    """(images, targets, target_weight), random; one keypoint has weight 0."""
    images = images_for(model, batch, seed, size)
    rng = np.random.default_rng(seed + 1)
    weight = rng.uniform(0.5, 1, (batch, model.config.num_keypoints)).astype(model.dtype)
    weight[0, 0] = 0
    targets = rng.standard_normal(model.with_engine("numpy")(images).shape).astype(model.dtype)
    return images, targets, weight


MODELS = {
    "classic": {},
    "simple head": {"head": "simple"},
    "kernels 3 and 2, more final layers": {"deconv_kernels": (3, 2), "extra_kernels": (3,), "final_kernel": 3},
    "no bias for qkv, scale given, one deconv": {
        "qkv_bias": False, "qk_scale": 0.3, "deconv_kernels": (4,), "deconv_filters": (6,),
    },
    "overlapping patches": {"ratio": 2, "image_size": (32, 32)},
}  # fmt: skip


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("name", MODELS)
def test_the_whole_model_by_finite_differences(name, batch_norm):
    model = small_model(**MODELS[name])
    batch = batch_for(model)
    options = {"drop_path": 0.5, "batch_norm": batch_norm}
    loss, found, statistics = loss_and_gradients(model, *batch, rng=11, **options)
    flat = model.state_dict()
    assert list(flatten(found)) == [name for name in flat if is_learnt(name)]
    has_norm = any("running" in name for name in flat)
    tracked = [name for name in flat if not is_learnt(name)] if batch_norm == "batch" and has_norm else []
    assert list(flatten(statistics)) == tracked

    def moved(changed):
        changed_model = type(model)(nest(changed), model.config, "numpy")
        return loss_and_gradients(changed_model, *batch, rng=11, **options)[0]

    assert moved(flat) == loss
    rng = np.random.default_rng(0)
    for parameter, gradient in flatten(found).items():
        direction = rng.standard_normal(gradient.shape)
        direction /= np.sqrt(direction.size)
        numeric = slope(lambda x, n=parameter: moved(flat | {n: x}), flat[parameter], direction)
        assert numeric == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-8), parameter


def test_by_running_statistics_the_loss_is_that_of_the_model():
    model = small_model()
    images, targets, weight = batch_for(model)
    loss, _, statistics = loss_and_gradients(model, images, targets, weight, batch_norm="running")
    assert loss == heatmap_loss(model(images), targets, weight)
    assert statistics == {}
    assert loss_and_gradients(model, images, targets, weight)[0] != loss


def test_the_same_seed_gives_the_same_drops():
    model = small_model()
    batch = batch_for(model, 4)
    seeds = (1, np.random.default_rng(1), 2)
    first, again, other = (loss_and_gradients(model, *batch, drop_path=0.6, rng=rng)[0] for rng in seeds)
    assert first == again != other
    assert loss_and_gradients(model, *batch)[0] == loss_and_gradients(model, *batch, rng=5)[0] != first


def test_another_image_size_interpolates_the_positions_both_ways():
    model = small_model()
    batch = batch_for(model, size=(96, 64))
    _, found, _ = loss_and_gradients(model, *batch)
    assert found["backbone"]["pos_embed"].shape == model.params["backbone"]["pos_embed"].shape


def test_what_does_not_fit_is_refused():
    model = small_model()
    images, targets, weight = batch_for(model)
    wrong = [
        ((images, targets[:1], weight), {}, r"targets: expected float64 \(2, 5, 16, 12\), found float64 \(1, 5"),
        ((images, targets, weight[..., None]), {}, r"target_weight: .*loses its last axis"),
        ((images, targets.astype(np.float32), weight), {}, "found float32"),
        ((images, targets.tolist(), weight), {}, "found list"),
        ((images, targets, np.where(weight == 0, np.nan, weight)), {}, "finite numbers, found nan"),
        ((images[:0], targets[:0], weight[:0]), {}, "at least one"),
        ((images, targets, weight), {"batch_norm": "frozen"}, "'batch' or 'running'"),
        ((images, targets, weight), {"drop_path": 0.1}, "rng="),
        ((images, targets, weight), {"drop_path": 1.0, "rng": 0}, "below 1"),
    ]
    for arguments, options, message in wrong:
        with pytest.raises(TrainingError, match=message):
            loss_and_gradients(model, *arguments, **options)
    with pytest.raises(ValueError, match="normalised images"):
        loss_and_gradients(model, images[0], targets, weight)
