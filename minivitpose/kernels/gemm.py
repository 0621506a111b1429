"""y = x W^T + b near the speed of the CPU's multipliers.

    weight  is packed once, at load, into panels: COLUMNS outputs side by side, so that the inner loop reads straight on
    k       runs in blocks of BLOCK, each summed apart and then added: the sum is more accurate than one long chain
            (rounding errors grow with the length of a chain), and a block of a panel stays in the first-level cache
    threads take one rectangle of y after the other, whoever is free: no thread waits long for another that the system
            held up. They split no sum, so the result is the same for any number of threads

What follows a product (an activation, the residual) is done on each tile while it is still in the cache.
"""

import numba
import numpy as np

from minivitpose.kernels.amx import DEEP, SIDE, block_product, close_registers, fetched_rows, has_blocks, open_registers
from minivitpose.kernels.crew import cuts, first_task, next_task, wait
from minivitpose.kernels.jit import by_type, holds
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, tile_product, tile_product_2
from minivitpose.kernels.pairs import has_pairs
from minivitpose.kernels.simd import LANES, LINE, expect_read, load, store, to_half
from minivitpose.kernels.vecmath import gelu

BLOCK = 128  # k in a block: x SUMS floats 32 of the first-level cache's 48 KiB. 64: 1 % slower; 256: less exact
CHUNK = 32 * ROWS  # rows that pass through a panel together: their sums, 48 KiB, stay in the second-level cache
ABREAST = max(1, 64 // COLUMNS)  # panels that a few rows of x pass through in turn: 1 with AVX-512, 4 with AVX2
SUMS = ABREAST * COLUMNS  # columns of a thread's sums
LARGE = 1 << 18  # numbers of x, 1 MiB: from here on it may not stay in the second-level cache from panel to panel
AHEAD = BLOCK * ROWS // CHUNK  # rows of the next block that each tile fetches, so that a chunk's tiles fetch all of it

STORE, ADD, GELU = 0, 1, 2  # what follows the product


def round_up(n, unit):
    """The first multiple of unit that is not below n."""
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
def finish(sums, i0, c0, bias, base, y, y0, rows, j0, columns, after):
    """So many rows and columns of sums, from i0, c0 on, go to y[y0 :, j0 :]."""
    for i in range(rows):
        for j in range(0, columns, LANES):
            v = load(sums, i0 + i, c0 + j) + load(bias, 0, j0 + j)
            if after == ADD:
                v = load(base, y0 + i, j0 + j) + v
            elif after == GELU:
                v = gelu(v)
            store(y, y0 + i, j0 + j, v)


@numba.njit
def expect_block(x, i, k, each):
    """Fetches what the tile of rows i.. will need of x next, from k on: the CPU does not guess lines that lie so.

    each: numbers of x for one k, 2 where these are pairs.
    """
    for r in range(ROWS):
        for j in range(each * k, min(each * (k + BLOCK), x.shape[1]), each * LINE):
            expect_read(x, i + r, j)


@numba.njit
def rectangle(x, k, panels, p, count, following, bias, base, y, after, sums, row0, row1):
    """Rows row0:row1 of the ABREAST panels of y from p on. Meanwhile those from ``following`` on come into the cache.

    The last panel of a y of 96 columns, say, is half empty: there tiles of two vectors do. Panels abreast come back for
    x so rarely that to fetch it ahead would cost more than it saves.
    """
    end, far = min(p + ABREAST, count), ABREAST == 1 and x.shape[0] * k > LARGE
    for k0 in range(0, k, BLOCK):
        steps, more, ahead = min(BLOCK, k - k0), k0 + BLOCK < k, 0
        for i in range(row0, row1, ROWS):
            if far:
                expect_block(x, i, k0 + BLOCK if more else 0, 2 if has_pairs(panels) else 1)
            for q in range(p, end):
                at, c, columns = q * k + k0, (q - p) * COLUMNS, min(COLUMNS, bias.shape[1] - q * COLUMNS)
                fetch = ahead + (at + BLOCK if more else min(following + q - p, count - 1) * k)
                if columns > 2 * LANES:
                    tile_product(sums, i - row0, c, x, i, k0, panels, at, 0, steps, fetch, k0 > 0)
                else:
                    tile_product_2(sums, i - row0, c, x, i, k0, panels, at, 0, steps, fetch, k0 > 0)
                if not more:
                    finish(sums, i - row0, c, bias, base, y, i, ROWS, q * COLUMNS, columns, after)
            ahead += AHEAD


@numba.njit
def in_blocks(x, k, panels):
    """Whether the matrix unit does it: pairs of bfloat16, as many rows as a block has, whole registers of k."""
    return has_blocks(panels) and x.shape[0] >= SIDE and k % DEEP == 0


@numba.njit
def rectangle_in_blocks(x, k, panels, p, following, bias, base, y, after, sums, row0, row1):
    """``rectangle`` on the matrix unit. The last block begins earlier if it must; its first rows are done already."""
    columns, ahead = min(COLUMNS, bias.shape[1] - p * COLUMNS), following * k
    open_registers()
    for i in range(row0, row1, SIDE):
        start = min(i, x.shape[0] - SIDE)
        for j in range(0, columns, SIDE):
            block_product(sums, 0, j, x, start, 0, panels, p * k, j, k, ahead, False)
            ahead += fetched_rows(k)
        rows = min(start + SIDE, row1) - i
        finish(sums, i - start, 0, bias, base, y, i, rows, p * COLUMNS, columns, after)
    close_registers()


@numba.njit
def multiply(x, k, panels, p, count, following, bias, base, y, after, sums, row0, row1):
    """Rows row0:row1 of the panels of y from p on, either way. A CPU with the matrix unit has one panel abreast."""
    if in_blocks(x, k, panels):
        rectangle_in_blocks(x, k, panels, p, following, bias, base, y, after, sums, row0, row1)
    else:
        rectangle(x, k, panels, p, count, following, bias, base, y, after, sums, row0, row1)


@numba.njit
def multiply_rounded(x, k, panels, p, count, following, bias, base, y, after, sums, row0, row1):
    """``multiply`` of x in float32: its rows are rounded first, into what lies behind the sums."""
    own = sums[CHUNK:].reshape(-1)[: CHUNK * k].view(np.uint16).reshape(CHUNK, 2 * k)
    for i in range(row0, row1):
        for j in range(0, 2 * k, LANES):
            store(own, i - row0, j, load(x, i, j))
    multiply(own, k, panels, p, count, following, bias, base[row0:], y[row0:], after, sums, 0, row1 - row0)


def rows_to_round(k):
    """How many more rows sums needs for multiply_rounded, for x of k columns."""
    return -(-CHUNK * -(-k // (2 * DEEP)) * DEEP // SUMS)


@by_type
def multiply_any(x, k, panels, p, count, following, bias, base, y, after, sums, row0, row1):
    return multiply_rounded if holds(panels, np.uint32) and holds(x, np.float32) else multiply


@numba.njit
def product(counters, step, threads, x, panels, bias, base, y, after, sums):
    """y = after(x @ W^T + bias); for ADD, base + that. Base may be y.

    x (M, >= K), panels (P K, COLUMNS), bias (1, N rounded up to LANES), base and y (M, >= as many), M a multiple of
    ROWS, sums (CHUNK, SUMS) the thread's own. With panels in pairs of bfloat16 x is uint16; or float32, then a
    panel's pairs fill whole vectors, and sums has ``rows_to_round`` more.
    """
    M, count = x.shape[0], -(-bias.shape[1] // COLUMNS)
    k, groups = panels.shape[0] // count, -(-count // ABREAST)
    unit = SIDE if in_blocks(x, k, panels) else ROWS
    tiles = -(-M // unit)
    parts = cuts(groups, tiles, CHUNK // unit, threads)
    task = first_task(counters, step)
    while task < groups * parts:
        group, part = task // parts, task % parts
        following = min((task + threads) // parts, groups - 1)
        row0, row1 = part * tiles // parts * unit, min((part + 1) * tiles // parts * unit, M)
        p, following = group * ABREAST, following * ABREAST
        multiply_any(x, k, panels, p, count, following, bias, base, y, after, sums, row0, row1)
        task = next_task(counters, step)
    wait(counters, step, groups * parts)
