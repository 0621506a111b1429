"""The matrix unit, what is laid out for it, and the kernels that use it, against NumPy in float64."""

import numba
import numpy as np
import pytest

from minivitpose import layers
from minivitpose.kernels import amx, crew
from minivitpose.kernels.amx import AMX, DEEP, SIDE, block_product, close_registers, open_registers
from minivitpose.kernels.blocks import STRIP
from minivitpose.kernels.fused.attention_in_pairs import attention_in_pairs, prepare_pairs, rows_of_head
from minivitpose.kernels.fused.deconv import deconv_relu, pack_deconv
from minivitpose.kernels.gemm import ADD, CHUNK, SUMS, product, rows_to_round
from minivitpose.kernels.gradients import weights
from minivitpose.kernels.gradients.attention import attention_backward
from minivitpose.kernels.gradients.attention_in_pairs import rows_of_pairs
from minivitpose.kernels.gradients.weights_in_pairs import pairs_for
from minivitpose.kernels.micro_kernel import COLUMNS
from minivitpose.kernels.pairs import pair_columns, pair_rows
from minivitpose.kernels.simd import LANES, aligned, from_half, to_half, transpose

PLAIN = numba.config.DISABLE_JIT  # then a block is NumPy, on any CPU
needs_unit = pytest.mark.skipif(not AMX, reason="this CPU has no matrix unit")


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def rounded(x):
    return from_half(to_half(x)).astype(np.float64)


def laid_out(x, dtype=np.uint16):
    """x with columns behind it that nobody should read, on a cache line."""
    y = aligned(len(x), x.shape[1] + 32, dtype=dtype)
    y[:] = 0x7FC0 if dtype == np.uint16 else np.nan
    y[:, : x.shape[1]] = to_half(x) if dtype == np.uint16 else x
    return y


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("name", ["rows", "columns"])
def test_pairs(name, dtype):
    x = draw(2 * LANES + 5, 4 * LANES)
    x = to_half(x) if dtype == np.uint16 else x
    halves = x if dtype == np.uint16 else to_half(x)
    y = np.zeros((LANES + 3, 3 * LANES), np.uint32)
    if name == "rows":
        call(pair_rows, y, 2, 3, x, 5, 7)
        low, high = halves[5, 7 : 7 + LANES], halves[6, 7 : 7 + LANES]
        expected = y[2:3, 3 : 3 + LANES]
    else:
        call(pair_columns, y, 2, 3, x, 5, 6)
        block = halves[5 : 5 + LANES, 6 : 6 + 2 * LANES]
        low, high = block[:, 0::2].T, block[:, 1::2].T
        expected = y[2 : 2 + LANES, 3 : 3 + LANES]
    assert np.array_equal(expected & 0xFFFF, np.atleast_2d(low))
    assert np.array_equal(expected >> 16, np.atleast_2d(high))
    assert np.count_nonzero(y) == np.count_nonzero(expected)


def call(instruction, *arguments):
    numba.njit(lambda *given: instruction(*given))(*arguments)


def test_transposed_into_bfloat16():
    x, y = draw(LANES + 1, LANES + 2), np.zeros((LANES + 4, LANES + 4), np.uint16)
    call(transpose, y, 2, 3, x, 1, 2)
    assert np.array_equal(y[2 : 2 + LANES, 3 : 3 + LANES], to_half(x[1:, 2:].T))
    assert np.count_nonzero(y) == LANES**2


@numba.njit
def one_block(c, a, b, k, add):
    open_registers()
    block_product(c, 3, 16, a, 1, 2, b, 4, 16, k, 0, add)
    close_registers()


@pytest.mark.skipif(not (AMX or PLAIN), reason="this CPU has no matrix unit")
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("k", [DEEP, 2 * DEEP, 9 * DEEP])
def test_a_block(k, add):
    a, b, c = draw(SIDE + 2, 2 * k + 4), draw(2 * k, SIDE + 16), draw(SIDE + 5, SIDE + 48)
    pairs = np.zeros((k + 4, SIDE + 32), np.uint32)
    halves = to_half(b).astype(np.uint32)
    pairs[4:, : SIDE + 16] = halves[0::2] | halves[1::2] << 16
    found = c.copy()
    one_block(found, to_half(a), pairs, k, add)
    inside = slice(3, 3 + SIDE), slice(16, 16 + SIDE)
    x, y = rounded(a)[1 : 1 + SIDE, 4 : 4 + 2 * k], rounded(b)[:, 16 : 16 + SIDE]
    expected = x @ y + (c[inside] if add else 0)
    size = np.abs(x) @ np.abs(y) + np.abs(c[inside])
    assert np.max(np.abs(found[inside] - expected) / size) < 1e-6
    found[inside] = c[inside]
    assert np.array_equal(found, c)  # nothing else is touched


@pytest.mark.parametrize(
    ("tokens", "heads", "d"), [(STRIP, 1, SIDE), (192, 3, 32), (96, 2, 64), (288, 1, 96), (9 * STRIP, 2, 128)]
)
def test_attention(tokens, heads, d):
    crops, scale = 2, np.float32(d**-0.5)
    R = -(-tokens // 6) * 6
    x = 2 * draw(crops * R, 3 * heads * d)
    qkv, z = laid_out(x), laid_out(np.zeros((crops * R, heads * d)))
    pairs = aligned(crops * heads * sum(rows_of_head(tokens, d)), COLUMNS, dtype=np.uint32)
    scores = aligned(STRIP, -(-tokens // COLUMNS) * COLUMNS + d + LANES)
    counters = crew.new_counters(2)
    prepare_pairs(counters, 0, qkv, crops, tokens, heads, d, pairs)
    attention_in_pairs(counters, 1, 1, qkv, crops, tokens, heads, d, scale, pairs, scores, z)
    by_crop = rounded(x).reshape(crops, R, 3, heads, d)[:, :tokens].transpose(2, 0, 3, 1, 4)
    q, k, v = by_crop
    pattern = layers.softmax(q @ k.swapaxes(-1, -2) * float(scale))
    expected = (pattern @ v).swapaxes(1, 2).reshape(crops, tokens, -1)
    found = from_half(z)[:, : heads * d].reshape(crops, R, -1)[:, :tokens]
    size = (pattern @ np.abs(v)).swapaxes(1, 2).reshape(crops, tokens, -1)
    assert np.max(np.abs(found - expected) / size) < 2**-8 + 2**-8  # the pattern is rounded, and the result


@needs_unit
@pytest.mark.parametrize("edge", [0, 1])
@pytest.mark.parametrize(
    ("height", "width", "cin", "cout"), [(16, 12, 64, 40), (3, 13, 32, 64), (8, 5, 96, 3), (1, 40, 32, 130)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_deconv(height, width, cin, cout, edge, threads):
    crops = 2
    x, weight, bias = draw(crops, cin, height, width), draw(cin, cout, 4, 4), draw(cout)
    map_ = np.zeros((crops, height + 2, width + 2, cin), np.float32)
    map_[:, 1:-1, 1:-1] = x.transpose(0, 2, 3, 1)
    panels, packed_bias = pack_deconv(weight, bias, half=True)
    columns = -(-cout // LANES) * LANES
    y = aligned(crops * (2 * height + 2 * edge) * (2 * width + 2 * edge), columns)
    arguments = laid_out(map_.reshape(-1, cin)), crops, height, width, panels, packed_bias, y, edge
    deconv_relu(crew.new_counters(1), 0, threads, *arguments, aligned(CHUNK, COLUMNS))
    found = y.reshape(crops, 2 * height + 2 * edge, 2 * width + 2 * edge, columns)[..., :cout].transpose(0, 3, 1, 2)
    expected = layers.relu(layers.deconv(rounded(x), rounded(weight), bias.astype(np.float64)))
    size = layers.deconv(np.abs(rounded(x)), np.abs(rounded(weight)), np.abs(bias).astype(np.float64))
    inside = found[:, :, edge : found.shape[2] - edge, edge : found.shape[3] - edge]
    assert np.max(np.abs(inside - expected) / size) < 1e-6
    assert edge == 0 or not (found[:, :, [0, -1]].any() or found[..., [0, -1]].any())


def test_a_system_that_refuses_is_taken_at_its_word(monkeypatch):
    class Refusing:
        def __init__(self, _):
            pass

        def syscall(self, *_):
            return -1

    monkeypatch.setattr(amx.ctypes, "CDLL", Refusing)
    assert not amx.permitted()


# ------------------------------------------------------------------------------------- what a training step needs


def packed(pack, weight, depth):
    panels = aligned(-(-depth[1] // COLUMNS) * pairs_for(depth[0]), COLUMNS, dtype=np.uint32)
    panels[:] = 0x7FC07FC0
    pack(crew.new_counters(1), 0, weight, panels)
    low, high = from_half((panels & 0xFFFF).astype(np.uint16)), from_half((panels >> 16).astype(np.uint16))
    both = np.stack([low, high], axis=1).reshape(-1, 2 * pairs_for(depth[0]), COLUMNS)
    return both.transpose(1, 0, 2).reshape(2 * pairs_for(depth[0]), -1)


@pytest.mark.parametrize(("N", "K"), [(17, 32), (128, 96), (96, 16), (2, 48), (130, 64)])
def test_weights_in_pairs(N, K):
    weight = draw(N, K)
    for pack, matrix in ((weights.pack_forward, weight.T), (weights.pack_backward, weight)):
        found = packed(pack, weight, matrix.shape)
        k, n = matrix.shape
        assert np.array_equal(found[:k, :n], from_half(to_half(matrix)))
        assert not found[k:].any()
        assert not found[:, n:].any()


@pytest.mark.parametrize("M", [6, 30, 198, 780])
@pytest.mark.parametrize(("N", "K"), [(17, 32), (128, 96), (96, 16), (130, 64), (200, 128)])
@pytest.mark.parametrize("threads", [1, 3])
def test_weight_gradient(M, N, K, threads):
    grad, x, before = draw(M, N), draw(M, K, seed=1), draw(N, K, seed=2)
    wide = aligned(M, -(-N // COLUMNS) * COLUMNS + LANES)
    wide[:, :N] = grad
    work = aligned(weights.WORK, COLUMNS, dtype=np.uint32)
    work[:] = 0x7FC07FC0
    for add in (False, True):
        found = before.copy()
        weights.weight_gradient(crew.new_counters(1), 0, threads, wide, laid_out(x, np.float32), add, found, work)
        expected = rounded(grad).T @ rounded(x) + (before if add else 0)
        size = np.abs(grad).T.astype(np.float64) @ np.abs(x) + np.abs(before)
        assert np.max(np.abs(found - expected) / size) < 1e-6


@pytest.mark.parametrize("M", [6, 30, 198, 780])
@pytest.mark.parametrize(("N", "K"), [(17, 32), (128, 96), (96, 16), (130, 64), (200, 640)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_product_that_rounds(M, N, K, threads):
    x, weight, base = draw(M, K), draw(N, K, seed=1), draw(M, N, seed=2)
    columns = -(-N // LANES) * LANES
    panels = aligned(-(-N // COLUMNS) * pairs_for(K), COLUMNS, dtype=np.uint32)
    weights.pack_forward(crew.new_counters(1), 0, weight, panels)
    y, wide = aligned(M, columns), aligned(M, K + 32)
    y[:, :N], wide[:, :K] = base, x
    sums = aligned(CHUNK + rows_to_round(K), SUMS)
    product(crew.new_counters(1), 0, threads, wide, panels, aligned(1, columns), y, y, ADD, sums)
    expected = rounded(x) @ rounded(weight).T + base
    size = np.abs(x).astype(np.float64) @ np.abs(weight).T + np.abs(base)
    assert np.max(np.abs(y[:, :N] - expected) / size) < 1e-6


@pytest.mark.parametrize(  # spread: where it is large a token sees one other, and float32 itself is far off there
    ("tokens", "heads", "d", "spread"),
    [(STRIP, 1, SIDE, 1), (192, 3, 32, 2), (96, 2, 96, 2), (3 * STRIP, 1, 64, 2)],
)
def test_attention_backward(tokens, heads, d, spread):
    crops, scale, R = 2, np.float32(d**-0.5), -(-tokens // 6) * 6
    x, grad = spread * draw(crops * R, 3 * heads * d), draw(crops * R, heads * d, seed=1)
    qkv, out = laid_out(x), laid_out(np.full_like(x, np.nan), np.float32)
    pairs = aligned(rows_of_pairs(tokens, d), COLUMNS, dtype=np.uint32)
    squares = aligned(2, max(R, 3 * STRIP), -(-tokens // COLUMNS) * COLUMNS + LANES)
    arguments = qkv, laid_out(grad, np.float32), crops, tokens, heads, d, scale, pairs, squares, out
    attention_backward(crew.new_counters(1), 0, *arguments)

    def by_head(x, parts):
        return rounded(x).reshape(crops, R, parts, heads, d)[:, :tokens].transpose(2, 0, 3, 1, 4)

    (q, k, v), (g,) = by_head(x, 3), by_head(grad, 1)
    pattern = layers.softmax(q @ k.swapaxes(-1, -2) * float(scale))
    of_pattern = g @ v.swapaxes(-1, -2)
    of_scores = pattern * (of_pattern - (of_pattern * pattern).sum(-1, keepdims=True)) * float(scale)
    factors = (of_scores, k), (of_scores.swapaxes(-1, -2), q), (pattern.swapaxes(-1, -2), g)
    expected, sizes = [a @ b for a, b in factors], [np.abs(a) @ np.abs(b) for a, b in factors]
    found = out[:, : 3 * heads * d].reshape(crops, R, 3, heads, d)
    assert not found[:, tokens:].any()
    found = found[:, :tokens].transpose(2, 0, 3, 1, 4)
    for mine, theirs, size in zip(found, expected, sizes, strict=True):
        assert np.max(np.abs(mine - theirs) / size) < 2**-7
