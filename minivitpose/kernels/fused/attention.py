"""softmax(q k^T / sqrt(d)) v, a head and a few rows at a time, so that the scores never leave the first-level cache."""

import numba
import numpy as np

from minivitpose.kernels.crew import cuts, first_task, next_task, wait
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, tile_product, tile_product_1, tile_product_2
from minivitpose.kernels.simd import (
    LANES,
    LINE,
    expect_read,
    load,
    max_lanes,
    maximum,
    splat,
    store,
    sum_lanes,
    transpose,
)
from minivitpose.kernels.vecmath import exp

BLOCK_ROWS = 4 * ROWS  # rows at a time: 24 x 192 scores are 18 KiB
KEYS = 96  # keys in a block of the sum over v, for the reason that gemm.py gives; all 192 at once are not faster


@numba.njit
def transpose_keys(qkv, row0, tokens, column, d, keys, at):
    """keys[at + p d + k, j] = qkv[row0 + p COLUMNS + j, column + k]: k^T in panels of COLUMNS tokens, then zeros."""
    whole = tokens // LANES * LANES
    for n in range(0, whole, LANES):
        for k in range(0, d, LANES):
            transpose(keys, at + n // COLUMNS * d + k, n % COLUMNS, qkv, row0 + n, column + k)
    for n in range(whole, -(-tokens // COLUMNS) * COLUMNS):
        for k in range(d):
            keys[at + n // COLUMNS * d + k, n % COLUMNS] = qkv[row0 + n, column + k] if n < tokens else 0


@numba.njit(error_model="numpy")
def softmax_row(scores, i, tokens, scale, out):
    """out[i] = exp(scale (scores[i] - max)); returns 1 / their sum."""
    low = np.float32(-np.inf)
    end = -(-tokens // LANES) * LANES
    for j in range(tokens, end):
        scores[i, j] = low
    top = splat(low)
    for j in range(0, end, LANES):
        top = maximum(top, load(scores, i, j))
    top = splat(max_lanes(top))
    total, factor = splat(np.float32(0)), splat(np.float32(scale))
    for j in range(0, end, LANES):
        e = exp((load(scores, i, j) - top) * factor)
        store(out, i, j, e)
        total = total + e
    return np.float32(1) / sum_lanes(total)


@numba.njit
def mix(z, row, column, scores, i, k, steps, qkv, first, value, d):
    """z[row .., column : column + d] = scores[i .., k : k + steps] @ these tokens' values; += after the first block.

    Values stand in qkv from row ``first`` and column ``value`` on. A head is cut into tiles as wide as it allows:
    d = 64 is one of 4 vectors of 16, d = 32 one of 2, d = 80 one of 4 and one of 1.
    """
    j, add, token = 0, k > 0, first + k
    while j < d:
        if d - j >= COLUMNS:
            tile_product(z, row, column + j, scores, i, k, qkv, token, value + j, steps, first, add)
            j += COLUMNS
        elif d - j >= 2 * LANES:
            tile_product_2(z, row, column + j, scores, i, k, qkv, token, value + j, steps, first, add)
            j += 2 * LANES
        else:
            tile_product_1(z, row, column + j, scores, i, k, qkv, token, value + j, steps, first, add)
            j += LANES


@numba.njit(error_model="numpy")
def attend(qkv, row0, rows, first, tokens, head, heads, d, scale, keys, at, scores, z):
    """Rows row0 : row0 + rows of one head; its crop's tokens begin at row ``first`` of qkv, its keys at row ``at``."""
    panels = -(-tokens // COLUMNS)
    mixed = panels * COLUMNS  # the columns of scores from here on keep the mixed values, then 1 / sum
    total = mixed + d
    for p in range(panels):
        for i in range(0, rows, ROWS):
            tile_product(scores, i, p * COLUMNS, qkv, row0 + i, head * d, keys, at + p * d, 0, d, at, False)
    for i in range(rows):
        scores[i, total] = softmax_row(scores, i, tokens, scale, scores)
    for k in range(0, tokens, KEYS):
        for i in range(0, rows, ROWS):
            mix(scores, i, mixed, scores, i, k, min(KEYS, tokens - k), qkv, first, (2 * heads + head) * d, d)
    for i in range(rows):
        s = splat(scores[i, total])
        for j in range(0, d, LANES):
            store(z, row0 + i, head * d + j, load(scores, i, mixed + j) * s)


@numba.njit
def expect_head(qkv, row0, rows, head, heads, d):
    """Fetches the next head's q, k and v of these rows: their lines lie too far apart for the CPU to guess."""
    for i in range(row0, row0 + rows):
        for part in range(0, 3 * heads, heads):
            for j in range(0, d, LINE):
                expect_read(qkv, i, (part + head) * d + j)


@numba.njit
def prepare_keys(counters, step, qkv, crops, tokens, heads, d, keys):
    """The keys of every head, transposed and in panels: keys (crops heads panels d, COLUMNS)."""
    rows, size = qkv.shape[0] // crops, -(-tokens // COLUMNS) * d
    task = first_task(counters, step)
    while task < crops * heads:
        crop, head = task // heads, task % heads
        transpose_keys(qkv, crop * rows, tokens, (heads + head) * d, d, keys, task * size)
        task = next_task(counters, step)
    wait(counters, step, crops * heads)


@numba.njit
def attention(counters, step, threads, qkv, crops, tokens, heads, d, scale, keys, scores, z):
    """qkv (crops R, >= 3 heads d) -> z (crops R, >= heads d), where R is tokens rounded up to whole tiles of ROWS.

    d a multiple of LANES; keys from prepare_keys; scores (BLOCK_ROWS, > panels COLUMNS + d) the thread's own.
    """
    rows, size = qkv.shape[0] // crops, -(-tokens // COLUMNS) * d
    units, blocks = crops * heads, -(-rows // BLOCK_ROWS)
    parts = cuts(units, blocks, blocks, threads)
    task = first_task(counters, step)
    while task < units * parts:
        unit, part = task // parts, task % parts
        crop, head = unit // heads, unit % heads
        following = min((task + threads) // parts, units - 1)
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            row = block * BLOCK_ROWS
            n = min(BLOCK_ROWS, rows - row)
            expect_head(qkv, following // heads * rows + row, n, following % heads, heads, d)
            attend(qkv, crop * rows + row, n, crop * rows, tokens, head, heads, d, scale, keys, unit * size, scores, z)
        task = next_task(counters, step)
    wait(counters, step, units * parts)
