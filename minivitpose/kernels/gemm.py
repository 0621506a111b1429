"""y = x W^T + b near the speed of the CPU's multipliers.

    weight  is packed once, at load, into panels: COLUMNS outputs side by side, so that the inner loop reads straight on
    k       runs in blocks of BLOCK, each summed apart and then added: the sum is more accurate than one long chain
            (rounding errors grow with the length of a chain), and a block of a panel stays in the first-level cache
    threads take one rectangle of y after the other, whoever is free: no thread waits long for another that the system held
            up. They split no sum, so the result is the same for any number of threads

What follows a product (an activation, the residual) is done on a panel's rows while they are still in the cache.
"""

import numba
import numpy as np

from minivitpose.kernels.crew import cuts, done_take, take, wait
from minivitpose.kernels.simd import (
    COLUMNS,
    LANES,
    ROWS,
    add_product,
    load,
    maximum,
    set_product,
    splat,
    store,
    to_half,
)
from minivitpose.kernels.vecmath import gelu

BLOCK = 128  # k per block: 128 x COLUMNS floats are 32 KiB of the 48 KiB first-level cache (64: 1 % slower; 256: less exact)
CHUNK = 32 * ROWS  # rows that pass through a panel together: their sums, 48 KiB, stay in the second-level cache

STORE, ADD, GELU, RELU = 0, 1, 2, 3  # what follows the product


def round_up(n, unit):
    return -(-n // unit) * unit


def pack(weight, half=False):
    """weight (N, K) -> panels (P K, COLUMNS): row p K + k holds weight[p COLUMNS : (p + 1) COLUMNS, k]; zeros fill up.

    With ``half`` two k make one row of bfloat16 pairs: (P K / 2, COLUMNS) uint32.
    """
    if half:
        weight = to_half(np.pad(weight, ((0, 0), (0, weight.shape[1] % 2)))).view(np.uint32)
    n, k = weight.shape
    count = round_up(n, COLUMNS) // COLUMNS
    panels = np.zeros((count, k, COLUMNS), weight.dtype)
    for p in range(count):
        part = weight[p * COLUMNS : (p + 1) * COLUMNS]
        panels[p, :, : len(part)] = part.T
    return panels.reshape(-1, COLUMNS)


@numba.njit
def finish(sums, i0, bias, base, y, y0, j0, after):
    """A tile of sums goes to y[y0 :, j0 :]."""
    zero = splat(np.float32(0))
    for j in range(0, COLUMNS, LANES):
        b = load(bias, 0, j0 + j)
        for i in range(ROWS):
            v = load(sums, i0 + i, j) + b
            if after == ADD:
                v = load(base, y0 + i, j0 + j) + v
            elif after == GELU:
                v = gelu(v)
            elif after == RELU:
                v = maximum(v, zero)
            store(y, y0 + i, j0 + j, v)


@numba.njit
def rectangle(x, k, panels, p, following, bias, base, y, after, sums, row0, row1):
    """Rows row0:row1 of panel p of y. Meanwhile the panel ``following`` comes into the cache behind it."""
    for k0 in range(0, k, BLOCK):
        steps = min(BLOCK, k - k0)
        at = p * k + k0
        ahead = at + BLOCK if k0 + steps < k else following * k
        for i in range(row0, row1, ROWS):
            if k0 == 0:
                set_product(sums, i - row0, 0, x, i, k0, panels, at, 0, steps, ahead)
            else:
                add_product(sums, i - row0, 0, x, i, k0, panels, at, 0, steps, ahead)
            if k0 + steps == k:
                finish(sums, i - row0, bias, base, y, i, p * COLUMNS, after)
            ahead += 4  # rows of a panel that a tile fetches: 4 for each of 32 tiles are a whole block


@numba.njit
def product(crew, step, threads, x, panels, bias, base, y, after, sums):
    """y = after(x @ W^T + bias); for ADD, base + that. Base may be y.

    x (M, >= K), panels (P K, COLUMNS), bias (1, P COLUMNS), base and y (M, >= P COLUMNS), M a multiple of ROWS,
    sums (CHUNK, COLUMNS) the thread's own.
    """
    tiles, count = x.shape[0] // ROWS, bias.shape[1] // COLUMNS
    k = panels.shape[0] // count
    parts = cuts(count, tiles, CHUNK // ROWS, threads)
    task = take(crew, step)
    while task < count * parts:
        p, part = task // parts, task % parts
        rectangle(
            x,
            k,
            panels,
            p,
            min((task + threads) // parts, count - 1),
            bias,
            base,
            y,
            after,
            sums,
            part * tiles // parts * ROWS,
            (part + 1) * tiles // parts * ROWS,
        )
        task = done_take(crew, step)
    wait(crew, step, count * parts)
