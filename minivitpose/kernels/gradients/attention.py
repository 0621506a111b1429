"""Backwards through softmax(q k^T / sqrt(d)) v, a head of a crop at a time, which stays in the second-level cache.

With P = softmax(S), S = scale q k^T and g the gradient of the mixed values z = P v:

    dP = g v^T        dS = P (dP - sum_j P dP)        dq = scale dS k        dk = scale dS^T q        dv = P^T g
"""

import numba
import numpy as np

from minivitpose.kernels.crew import first_task, next_task, wait
from minivitpose.kernels.fused.attention import KEYS, mix, softmax_row, transpose_keys
from minivitpose.kernels.gradients import attention_in_pairs as in_pairs
from minivitpose.kernels.gradients.tiles import tile_transposed, tile_transposed_1, tile_transposed_2
from minivitpose.kernels.jit import by_type, holds
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, tile_product
from minivitpose.kernels.simd import LANES, fma, load, splat, store, sum_lanes


@numba.njit
def mix_transposed(z, row, column, scores, k, i, steps, x, first, value, d):
    """z[row .., column : column + d] = scores[k : k + steps, i ..]^T @ these tokens' x; += after the first block.

    Columns are cut into tiles as in fused.attention.mix.
    """
    j, add, token = 0, k > 0, first + k
    while j < d:
        if d - j >= COLUMNS:
            tile_transposed(z, row, column + j, scores, k, i, x, token, value + j, steps, add)
            j += COLUMNS
        elif d - j >= 2 * LANES:
            tile_transposed_2(z, row, column + j, scores, k, i, x, token, value + j, steps, add)
            j += 2 * LANES
        else:
            tile_transposed_1(z, row, column + j, scores, k, i, x, token, value + j, steps, add)
            j += LANES


@numba.njit(error_model="numpy")
def softmax_backward_row(pattern, grad, i, tokens, inverse, scale):
    """pattern[i] *= inverse, its sum's; grad[i] = scale pattern (grad - sum grad pattern), 0 behind the tokens."""
    end, s = -(-tokens // LANES) * LANES, splat(inverse)
    total = splat(np.float32(0))
    for j in range(0, end, LANES):
        p = load(pattern, i, j) * s
        store(pattern, i, j, p)
        total = fma(p, load(grad, i, j), total)
    inner, factor = splat(sum_lanes(total)), splat(np.float32(scale))
    for j in range(0, end, LANES):
        store(grad, i, j, (load(grad, i, j) - inner) * load(pattern, i, j) * factor)


@numba.njit
def attend_backward(qkv, grad, row0, rows, tokens, head, heads, d, scale, keys, pattern, grad_scores, out):
    """One head; its crop's rows begin at row0. grad (M, >= heads d) -> out (M, >= 3 heads d), as qkv."""
    panels = -(-tokens // COLUMNS)
    q, k, v, values = head * d, (heads + head) * d, (2 * heads + head) * d, panels * d  # values: the row of keys
    transpose_keys(qkv, row0, tokens, k, d, keys, 0)
    transpose_keys(qkv, row0, tokens, v, d, keys, values)
    for p in range(panels):
        for i in range(0, rows, ROWS):
            tile_product(pattern, i, p * COLUMNS, qkv, row0 + i, q, keys, p * d, 0, d, 0, False)
    for p in range(panels):
        for i in range(0, rows, ROWS):
            tile_product(grad_scores, i, p * COLUMNS, grad, row0 + i, q, keys, values + p * d, 0, d, 0, False)
    for i in range(rows):
        inverse = softmax_row(pattern, i, tokens, scale, pattern)
        softmax_backward_row(pattern, grad_scores, i, tokens, inverse, scale)
    for at in range(0, tokens, KEYS):
        steps = min(KEYS, tokens - at)
        for i in range(0, rows, ROWS):
            mix(out, row0 + i, q, grad_scores, i, at, steps, qkv, row0, k, d)
            mix_transposed(out, row0 + i, k, grad_scores, at, i, steps, qkv, row0, q, d)
            mix_transposed(out, row0 + i, v, pattern, at, i, steps, grad, row0, q, d)
    zero = splat(np.float32(0))
    for i in range(row0 + tokens, row0 + rows):
        for part in (q, k, v):
            for j in range(part, part + d, LANES):
                store(out, i, j, zero)


@numba.njit
def attention_backward_in_floats(counters, step, qkv, grad, crops, tokens, heads, d, scale, keys, squares, out):
    rows, pattern, grad_scores = qkv.shape[0] // crops, squares[0], squares[1]
    task = first_task(counters, step)
    while task < crops * heads:
        row0, head = task // heads * rows, task % heads
        attend_backward(qkv, grad, row0, rows, tokens, head, heads, d, scale, keys, pattern, grad_scores, out)
        task = next_task(counters, step)
    wait(counters, step, crops * heads)


@by_type
def attention_backward(counters, step, qkv, grad, crops, tokens, heads, d, scale, keys, squares, out):
    """qkv (crops R, >= 3 heads d), grad (crops R, >= heads d) -> out as qkv, where R is tokens rounded up to ROWS.

    Rows behind a crop's tokens get 0. keys (2 panels d, COLUMNS) and squares (2, R, panels COLUMNS + LANES) are the
    thread's own. Where qkv holds bfloat16, keys is (rows_of_pairs, COLUMNS) uint32, and squares has 3 STRIP rows at
    least.
    """
    return in_pairs.attention_backward if holds(qkv, np.uint16) else attention_backward_in_floats
