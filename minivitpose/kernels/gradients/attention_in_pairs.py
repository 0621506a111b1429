"""attention.py of this folder with products of bfloat16; softmax and its derivative stay in float32.

As in fused.attention_in_pairs tokens and the channels of a head come in whole blocks. Matrices of tokens x tokens
become bfloat16 in place, each row in the front half of its floats.
"""

import numba
import numpy as np

from minivitpose.kernels.amx import close_registers, open_registers
from minivitpose.kernels.blocks import STRIP, multiply
from minivitpose.kernels.crew import first_task, next_task, wait
from minivitpose.kernels.fused.attention import softmax_row
from minivitpose.kernels.fused.attention_in_pairs import columns_in_pairs, rows_in_pairs
from minivitpose.kernels.micro_kernel import COLUMNS
from minivitpose.kernels.simd import LANES, fma, load, splat, store, sum_lanes, transpose


@numba.njit
def rows_of_pairs(tokens, d):
    """Of what attend_backward keeps: k^T and v^T, then k, q and the gradient of z."""
    return 2 * -(-tokens // COLUMNS) * (d // 2) + 3 * -(-d // COLUMNS) * (tokens // 2)


@numba.njit(error_model="numpy")
def softmax_backward_row(pattern, grad, i, tokens, inverse, scale, rounded, rounded_grad):
    """As in attention.py; both results rounded."""
    s, total = splat(inverse), splat(np.float32(0))
    for j in range(0, tokens, LANES):
        p = load(pattern, i, j) * s
        store(pattern, i, j, p)
        total = fma(p, load(grad, i, j), total)
    inner, factor = splat(sum_lanes(total)), splat(np.float32(scale))
    for j in range(0, tokens, LANES):
        p = load(pattern, i, j)
        store(rounded_grad, i, j, (load(grad, i, j) - inner) * p * factor)
        store(rounded, i, j, p)


@numba.njit
def turn(x, tokens, y, i0, column):
    """y[j, column + i0 + i] = x[i, j] for STRIP rows of x, bfloat16."""
    for i in range(0, STRIP, LANES):
        for j in range(0, tokens, LANES):
            transpose(y, j, column + i0 + i, x, i, j)


@numba.njit
def attend_backward(qkv, grad, row0, tokens, head, heads, d, scale, pairs, own, turned, out):
    """One head; its crop's rows begin at row0. grad (M, >= heads d) -> out (M, >= 3 heads d), as qkv.

    own (3 STRIP, >= tokens) keeps STRIP rows of the pattern, of its gradient and of grad; turned (tokens, >= 2 tokens)
    uint16 the transposed gradient of the scores and, behind it, the transposed pattern.
    """
    q, k, v = head * d, (heads + head) * d, (2 * heads + head) * d
    of_v = columns_in_pairs(qkv, row0, tokens, k, d, pairs, 0)
    of_k = columns_in_pairs(qkv, row0, tokens, v, d, pairs, of_v)
    of_q = rows_in_pairs(qkv, row0, tokens, k, d, pairs, of_k)
    of_g = rows_in_pairs(qkv, row0, tokens, q, d, pairs, of_q)
    rows_in_pairs(grad, row0, tokens, q, d, pairs, of_g)
    pattern, grad_scores, g = own[:STRIP], own[STRIP : 2 * STRIP], own[2 * STRIP : 3 * STRIP].view(np.uint16)
    rounded, rounded_grad, behind = pattern.view(np.uint16), grad_scores.view(np.uint16), own.shape[1]
    for i0 in range(0, tokens, STRIP):
        for i in range(STRIP):
            for j in range(0, d, LANES):
                store(g, i, j, load(grad, row0 + i0 + i, q + j))
        multiply(pattern, 0, 0, qkv, row0 + i0, q // 2, pairs, 0, STRIP, tokens, d // 2, False)
        multiply(grad_scores, 0, 0, g, 0, 0, pairs, of_v, STRIP, tokens, d // 2, False)
        for i in range(STRIP):
            inverse = softmax_row(pattern, i, tokens, scale, pattern)
            softmax_backward_row(pattern, grad_scores, i, tokens, inverse, scale, rounded, rounded_grad)
        multiply(out, row0 + i0, q, rounded_grad, 0, 0, pairs, of_k, STRIP, d, tokens // 2, False)
        turn(rounded_grad, tokens, turned, i0, 0)
        turn(rounded, tokens, turned, i0, behind)
    multiply(out, row0, k, turned, 0, 0, pairs, of_q, tokens, d, tokens // 2, False)
    multiply(out, row0, v, turned, 0, behind // 2, pairs, of_g, tokens, d, tokens // 2, False)


@numba.njit
def attention_backward(counters, step, qkv, grad, crops, tokens, heads, d, scale, pairs, squares, out):
    rows, own, turned = qkv.shape[0] // crops, squares[0], squares[1].view(np.uint16)
    task = first_task(counters, step)
    while task < crops * heads:
        row0, head = task // heads * rows, task % heads
        open_registers()
        attend_backward(qkv, grad, row0, tokens, head, heads, d, scale, pairs, own, turned, out)
        close_registers()
        for i in range(row0 + tokens, row0 + rows):
            for part in range(3):
                out[i, (part * heads + head) * d : (part * heads + head + 1) * d] = 0
        task = next_task(counters, step)
    wait(counters, step, crops * heads)
