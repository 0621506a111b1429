"""attention.py in bfloat16, STRIP rows at a time, on the matrix unit if any; sums and softmax stay in float32.

Tokens come in whole blocks here, multiples of STRIP, and the channels of a head in multiples of SIDE; other numbers are
attention.py's.

Every head's k and v lie as pairs, (crops heads rows_of_head, COLUMNS) uint32: k^T in panels of COLUMNS tokens, pairs
of channels down; then v in panels of COLUMNS channels, pairs of tokens down.
"""

import numba
import numpy as np

from minivitpose.kernels.amx import close_registers, open_registers
from minivitpose.kernels.blocks import STRIP, multiply
from minivitpose.kernels.crew import cuts, first_task, next_task, wait
from minivitpose.kernels.fused.attention import expect_head, softmax_row
from minivitpose.kernels.micro_kernel import COLUMNS
from minivitpose.kernels.pairs import pair_columns, pair_rows
from minivitpose.kernels.simd import LANES, load, splat, store


@numba.njit
def rows_of_head(tokens, d):
    """Of pairs: (for k^T, for v)."""
    return -(-tokens // COLUMNS) * (d // 2), -(-d // COLUMNS) * (tokens // 2)


@numba.njit
def columns_in_pairs(x, row0, tokens, column, d, pairs, at):
    """These d columns of x, transposed, as the second factor of a product, from row ``at`` on; -> where they end."""
    for n in range(0, tokens, LANES):
        for j in range(0, d, 2 * LANES):
            pair_columns(pairs, at + n // COLUMNS * (d // 2) + j // 2, n % COLUMNS, x, row0 + n, column + j)
    return at + -(-tokens // COLUMNS) * (d // 2)


@numba.njit
def rows_in_pairs(x, row0, tokens, column, d, pairs, at):
    """The same columns as the second factor itself."""
    for n in range(tokens // 2):
        for j in range(0, d, LANES):
            pair_rows(pairs, at + j // COLUMNS * (tokens // 2) + n, j % COLUMNS, x, row0 + 2 * n, column + j)
    return at + -(-d // COLUMNS) * (tokens // 2)


@numba.njit
def prepare_pairs(counters, step, qkv, crops, tokens, heads, d, pairs):
    """qkv (crops R, >= 3 heads d) uint16 -> pairs."""
    rows, size = qkv.shape[0] // crops, sum(rows_of_head(tokens, d))
    task = first_task(counters, step)
    while task < crops * heads:
        crop, head = task // heads, task % heads
        k, v = (heads + head) * d, (2 * heads + head) * d
        values = columns_in_pairs(qkv, crop * rows, tokens, k, d, pairs, task * size)
        rows_in_pairs(qkv, crop * rows, tokens, v, d, pairs, values)
        task = next_task(counters, step)
    wait(counters, step, crops * heads)


@numba.njit(error_model="numpy")
def attend(qkv, row0, tokens, head, d, scale, pairs, at, scores, z):
    """STRIP rows of one head from row0 on; its pairs begin at row ``at``."""
    rounded = scores.view(np.uint16)  # exp of the scores, in place: each row's are half as long, so none is overtaken
    values = at + rows_of_head(tokens, d)[0]
    mixed = -(-tokens // COLUMNS) * COLUMNS  # as in attention.attend
    multiply(scores, 0, 0, qkv, row0, head * d // 2, pairs, at, STRIP, tokens, d // 2, False)
    for i in range(STRIP):
        scores[i, mixed + d] = softmax_row(scores, i, tokens, scale, rounded)
    multiply(scores, 0, mixed, rounded, 0, 0, pairs, values, STRIP, d, tokens // 2, False)
    for i in range(STRIP):
        s = splat(scores[i, mixed + d])
        for j in range(0, d, LANES):
            store(z, row0 + i, head * d + j, load(scores, i, mixed + j) * s)


@numba.njit
def attention_in_pairs(counters, step, threads, qkv, crops, tokens, heads, d, scale, pairs, scores, z):
    """qkv (crops R, >= 3 heads d) uint16 -> z (crops R, >= heads d).

    pairs from prepare_pairs; scores (>= STRIP, > panels COLUMNS + d) the thread's own.
    """
    rows, size = qkv.shape[0] // crops, sum(rows_of_head(tokens, d))
    units, blocks = crops * heads, -(-rows // STRIP)
    parts = cuts(units, blocks, blocks, threads)
    task = first_task(counters, step)
    while task < units * parts:
        unit, part = task // parts, task % parts
        crop, head = unit // heads, unit % heads
        following = min((task + threads) // parts, units - 1)
        open_registers()
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            row = min(block * STRIP, rows - STRIP)  # the last block begins earlier if it must, and does some rows twice
            expect_head(qkv, following // heads * rows + row, STRIP, following % heads, heads, d)
            attend(qkv, crop * rows + row, tokens, head, d, scale, pairs, unit * size, scores, z)
        close_registers()
        task = next_task(counters, step)
    wait(counters, step, units * parts)
