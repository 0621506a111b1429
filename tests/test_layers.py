"""The textbook against the slow oracle, over the table of operations, and by properties that hold for any input."""

import numpy as np
import pytest

import naive
from minivitpose import layers
from operations import CASES, TABLE, TOLERANCE, arrays, call, check, error, expected, public_names

NOT_COMPUTING = {"keep", "below", "DECONV_PADDING"}  # taps, with a test of their own, and the table that deconv reads

random = np.random.default_rng(20221)


def draw(*shape):
    return random.standard_normal(shape)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_naive(case, dtype):
    arguments = case.arguments(dtype)
    actual = call(layers, case.operation, arguments)
    check(actual, expected(case, dtype), dtype, case.operation)

    def unchanged(before, now):
        if isinstance(before, dict):
            return all(unchanged(before[k], now[k]) for k in before)
        return not isinstance(before, np.ndarray) or np.array_equal(before, now)

    assert unchanged(case.arguments(dtype), arguments)


def test_the_table_holds_every_operation():
    operations = set(public_names(layers)) - NOT_COMPUTING
    assert operations == set(TABLE)
    assert all(TABLE.values())
    assert operations <= set(vars(naive))


def test_names_of_cases_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)


def test_every_float_argument_is_random():
    """A zero among the parameters would hide what was forgotten, for example a bias."""

    def no_zero(a):
        assert np.all(a != 0)
        return a

    for case in CASES:
        first, *named = case.arguments().values()
        arrays(no_zero, dict(enumerate(named)))


@pytest.mark.parametrize("case", [c for c in CASES if c.operation in ("linear", "block", "conv_transpose2d")], ids=str)
def test_check_rejects_what_is_wrong(case):
    """The checker is tested too: zeros, a shuffle, nan, a little off, another shape or dtype must not pass."""
    truth = expected(case)
    check(truth, truth, np.float64)
    scale = np.abs(truth).max()
    wrongs = [np.zeros_like(truth), truth + 1e-11 * scale, np.where(truth == truth.max(), np.nan, truth), truth[None]]
    wrongs += [truth.astype(np.float32)] + ([truth.ravel()[::-1].reshape(truth.shape)] if truth.size > 1 else [])
    for wrong in wrongs:
        with pytest.raises(AssertionError):
            check(wrong, truth, np.float64)


# ------------------------------------------------------------------------------------------------------------ taps

TAPPED = {"scaled_dot_product_attention", "attention", "mlp", "block", "sequential", "keypoint_head"}
BLOCK_TAPS = ["norm1"] + [f"attn.{name}" for name in ("qkv", "q", "k", "v", "scores", "pattern", "z", "proj")]
BLOCK_TAPS += ["attn", "resid_mid", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2", "mlp"]
HEAD_TAPS = [f"deconv_layers.{i}" for i in range(3)] + [f"final_layer.{i}" for i in range(4)]


def tapped(engine, case, change=None):
    """The output, and what the tap saw; with ``change``, the array of that name is exchanged for another."""
    seen = {}

    def tap(name, x):
        assert name not in seen
        seen[name] = x.copy()
        return 0.5 * x + 1 if name == change else x

    return call(engine, case.operation, case.arguments(), tap=tap), seen


def find(operation, name):
    return next(c for c in CASES if c.operation == operation and c.name == name)


def test_keep_returns_what_it_is_given():
    x = draw(3)
    assert layers.keep("any", x) is x


def test_below_puts_the_prefix_before_each_name():
    assert layers.below(lambda name, x: (name, x), "mlp")("fc1", 7) == ("mlp.fc1", 7)


def test_tapped_names_of_a_block_stand_in_order():
    assert list(tapped(layers, find("block", "two images"))[1]) == BLOCK_TAPS


def test_tapped_names_of_the_heads_stand_in_order():
    classic = find("keypoint_head", "one transposed convolution, more final layers")
    assert list(tapped(layers, classic)[1]) == HEAD_TAPS
    assert list(tapped(layers, find("keypoint_head", "simple"))[1]) == ["relu", "upsample"]


@pytest.mark.parametrize("case", [c for c in CASES if c.operation in TAPPED], ids=str)
def test_what_the_tap_returns_goes_on(case):
    plain, seen = tapped(layers, case)
    check(plain, expected(case), np.float64)
    one_token = "one token" in case.name  # then the pattern is 1, whatever q and k
    for name in seen:
        changed, _ = tapped(layers, case, change=name)
        assert error(changed, plain) > 1e-6 or (one_token and name.split(".")[-1] in ("q", "k", "scores")), name


def test_arrays_the_tap_sees_are_what_the_names_say():
    case = find("block", "two images")
    x, p, h = (case.arguments()[k] for k in ("x", "p", "num_heads"))
    _, seen = tapped(layers, case)
    lists = arrays(np.ndarray.tolist, p)
    norm1 = naive.layer_norm(x.tolist(), **lists["norm1"])
    qkv = naive.linear(norm1, **lists["attn"]["qkv"])
    q, k, v = naive.split_heads(qkv, h)
    scores = np.einsum("bhic,bhjc->bhij", q, k) / 2  # d = 4
    pattern = naive.softmax(scores.tolist())
    z = naive.merge_heads(naive.scaled_dot_product_attention(q, k, v))
    attn = naive.linear(z, **lists["attn"]["proj"])
    resid_mid = naive.add(x.tolist(), attn)
    norm2 = naive.layer_norm(resid_mid, **lists["norm2"])
    fc1 = naive.linear(norm2, **lists["mlp"]["fc1"])
    act = naive.gelu(fc1)
    fc2 = naive.linear(act, **lists["mlp"]["fc2"])
    arrays_by_name = [norm1, qkv, q, k, v, scores, pattern, z, attn, attn, resid_mid, norm2, fc1, act, fc2, fc2]
    for name, truth in zip(BLOCK_TAPS, arrays_by_name, strict=True):
        check(seen[name], np.array(truth), np.float64)


# ------------------------------------------------------------------------------------------------------ properties


def test_softmax_rows_sum_to_one():
    p = layers.softmax(5 * draw(7, 33))
    assert np.all(p > 0)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-14)


def test_softmax_does_not_feel_a_shift():
    x = np.round(draw(4, 9) * 64) / 64  # so that adding 1000 is exact
    np.testing.assert_array_equal(layers.softmax(x + 1000), layers.softmax(x))


def test_softmax_of_equal_numbers_is_uniform():
    np.testing.assert_array_equal(layers.softmax(np.full((2, 8), -3.7)), 0.125)


def test_layer_norm_gives_mean_zero_and_variance_one():
    y = layers.layer_norm(100 + 7 * draw(6, 50), np.ones(50), np.zeros(50), eps=0)
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose((y * y).mean(axis=-1), 1, rtol=1e-12)  # with Bessel's correction: 49 / 50


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(4, 2, 1), (3, 2, 1), (3, 1, 0), (2, 2, 0), (5, 3, 2), (1, 1, 0)]
)
def test_conv_transpose2d_is_the_transpose_of_conv2d(kernel, stride, padding):
    """<conv(x), y> = <x, transposed(y)> for the same weight."""
    weight = draw(3, 2, kernel, kernel)
    y = draw(2, 3, 4, 3)
    back = layers.conv_transpose2d(y, weight, stride=stride, padding=padding)
    x = draw(*back.shape)
    there = layers.conv2d(x, weight, stride=stride, padding=padding)
    assert there.shape == y.shape
    np.testing.assert_allclose((there * y).sum(), (x * back).sum(), rtol=1e-12)


def test_a_stamp_lands_where_it_belongs():
    """One pixel of value 1 leaves the kernel itself, not its mirror image."""
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 2] = 1
    weight = draw(1, 1, 4, 4)
    y = layers.conv_transpose2d(x, weight, stride=2)
    np.testing.assert_array_equal(y[0, 0, 2:6, 4:8], weight[0, 0])
    assert np.count_nonzero(y) == 16


def test_conv2d_with_one_tap_shifts():
    x = draw(1, 1, 5, 6)
    weight = np.zeros((1, 1, 3, 3))
    weight[0, 0, 0, 2] = 1  # above and to the right
    y = layers.conv2d(x, weight, padding=1)
    np.testing.assert_array_equal(y[0, 0, 1:, :-1], x[0, 0, :-1, 1:])
    assert not y[0, 0, 0].any()


@pytest.mark.parametrize(("ratio", "grid"), [(1, (16, 12)), (2, (32, 24))])
def test_patch_embed_grid_grows_with_the_ratio(ratio, grid):
    y = layers.patch_embed(draw(1, 3, 256, 192), draw(2, 3, 16, 16), draw(2), ratio=ratio)
    assert y.shape == (1, 2, *grid)


@pytest.mark.parametrize("kernel", layers.DECONV_PADDING)
def test_deconv_doubles_the_map(kernel):
    assert layers.deconv(draw(1, 2, 5, 3), draw(2, 4, kernel, kernel)).shape == (1, 4, 10, 6)


def test_attention_does_not_know_the_order_of_tokens():
    case = find("attention", "two heads")
    arguments = case.arguments()
    order = np.array([3, 0, 4, 1, 2])
    permuted = layers.attention(**arguments | {"x": arguments["x"][:, order]})
    assert error(permuted, layers.attention(**arguments)[:, order]) < 1e-14


def test_heads_split_and_merge_are_inverse():
    x = draw(2, 5, 36)
    np.testing.assert_array_equal(
        np.concatenate([layers.merge_heads(part) for part in layers.split_heads(x, 3)], axis=-1), x
    )


def test_tokens_and_map_are_inverse():
    x = draw(2, 4, 3, 5)
    np.testing.assert_array_equal(layers.to_map(layers.to_tokens(x), (3, 5)), x)


@pytest.mark.parametrize("weights", [layers.bilinear_weights, layers.bicubic_weights])
@pytest.mark.parametrize(("n", "m"), [(4, 16), (7, 3), (5, 5), (1, 4), (2, 9)])
def test_interpolation_keeps_a_constant(weights, n, m):
    np.testing.assert_allclose(weights(n, m).sum(axis=1), 1, rtol=1e-14)


def test_gelu_is_the_erf_one():
    """The tanh formula is up to 4.7e-4 off."""
    x = np.linspace(-4, 4, 801)
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert 4e-4 < np.abs(layers.gelu(x) - tanh).max() < 5e-4
    np.testing.assert_allclose(layers.gelu(x) - layers.gelu(-x), x, atol=1e-15)


def test_tolerances_stay_below_the_traps():
    """tanh GELU, an unbiased variance: what ports of ViTPose get wrong must be far above what is accepted."""
    assert max(TOLERANCE.values()) < 1e-5
