"""A transposed convolution (kernel 4, stride 2, padding 1) as four products, one for each parity of the output pixel.

Output pixel (2 m + py, 2 n + px) meets 2 x 2 input pixels: rows m + py - 1 and m + py, columns n + px - 1 and n + px,
with the kernel's rows 3 - py and 1 - py, columns 3 - px and 1 - px. So each parity is a product with K = 4 Cin. Maps
lie as rows of channels with a border of zeros, (H + 2) (W + 2) rows a crop, so that a tap is the same row of tiles,
shifted.
"""

import numba
import numpy as np

from minivitpose.kernels.amx import DEEP, SIDE, block_product, close_registers, fetched_rows, has_blocks, open_registers
from minivitpose.kernels.crew import cuts, first_task, next_task, wait
from minivitpose.kernels.gemm import AHEAD, BLOCK, CHUNK, pack, round_up
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, tile_product, tile_product_2
from minivitpose.kernels.simd import LANES, load, maximum, splat, store


def pack_deconv(weight, bias, half=False):
    """weight (Cin, Cout, 4, 4), bias (Cout,) -> panels (4 P 4 Cin, COLUMNS), bias (1, 4 N).

    N is Cout rounded up to LANES. Rows run over parities, panels of outputs, taps, and input channels; with ``half``
    over pairs of these.
    """
    if half:  # taps begin with a whole pair
        weight = np.pad(weight, ((0, weight.shape[0] % 2), (0, 0), (0, 0), (0, 0)))
    panels, biases = [], []
    for py in range(2):
        for px in range(2):
            taps = [weight[:, :, 3 - py - 2 * ty, 3 - px - 2 * tx] for ty in range(2) for tx in range(2)]
            panels.append(pack(np.concatenate(taps).T, half))
            biases.append(np.zeros(round_up(len(bias), LANES), np.float32))
            biases[-1][: len(bias)] = bias
    return np.concatenate(panels), np.concatenate(biases)[None]


@numba.njit
def place(tile, height, width, border, scale, dy, dx):
    """The row, in maps ``scale`` times as large and with a border, of the pixel (dy, dx) after a tile's first."""
    per_row = -(-width // ROWS)
    line, n = tile // per_row, tile % per_row * ROWS
    crop, m = line // height, line % height
    return (crop * (scale * height + 2 * border) + scale * m + dy) * (scale * width + 2 * border) + scale * n + dx


@numba.njit
def part_of(p, cin, panels, bias):
    """What panel p makes: (py, px, where this parity's biases begin, first output channel, how many)."""
    per_parity, outputs = panels.shape[0] // (16 * cin), bias.shape[1] // 4
    parity, column = p // per_parity, p % per_parity * COLUMNS
    return parity // 2, parity % 2, parity * outputs, column, min(COLUMNS, outputs - column)


@numba.njit
def deconv_rectangle(x, cin, height, width, panels, p, following, bias, y, edge, sums, tile0, tile1):
    """Tiles tile0:tile1 (ROWS pixels of an input row each) of panel p. As gemm.rectangle, over four taps."""
    py, px, first, column, columns = part_of(p, cin, panels, bias)
    for tap in range(4):
        for k0 in range(0, cin, BLOCK):
            steps = min(BLOCK, cin - k0)
            at = (p * 4 + tap) * cin + k0
            ahead = at + steps if tap < 3 or k0 + steps < cin else following * 4 * cin
            for tile in range(tile0, tile1):
                row = place(tile, height, width, 1, 1, py + tap // 2, px + tap % 2)
                i = (tile - tile0) * ROWS
                if columns > 2 * LANES:
                    tile_product(sums, i, 0, x, row, k0, panels, at, 0, steps, ahead, tap > 0 or k0 > 0)
                else:
                    tile_product_2(sums, i, 0, x, row, k0, panels, at, 0, steps, ahead, tap > 0 or k0 > 0)
                ahead += AHEAD
    for tile in range(tile0, tile1):
        row = place(tile, height, width, edge, 2, py + edge, px + edge)
        for r in range(min(ROWS, width - tile % -(-width // ROWS) * ROWS)):
            finish(sums, (tile - tile0) * ROWS + r, bias, first, y, row + 2 * r, column, columns)


@numba.njit
def finish(sums, i, bias, first, y, row, column, columns):
    """y[row, column : column + columns] = relu(a row of sums + bias), whose parity begins at ``first``."""
    zero = splat(np.float32(0))
    for j in range(0, columns, LANES):
        store(y, row, column + j, maximum(load(sums, i, j) + load(bias, 0, first + column + j), zero))


@numba.njit
def blocks_of(height, width):
    """On the matrix unit a crop's pixels run on, line after line, over the two of the border between: how many, and
    in how many blocks."""
    pixels = height * (width + 2) - 2
    return pixels, -(-pixels // SIDE)


@numba.njit
def deconv_blocks(x, cin, height, width, panels, p, following, bias, y, edge, sums, block0, block1):
    """``deconv_rectangle`` on the matrix unit; a crop's last block begins earlier if it must."""
    py, px, first, column, columns = part_of(p, cin, panels, bias)
    pixels, per_crop = blocks_of(height, width)
    open_registers()
    for tap in range(4):
        for k0 in range(0, cin, BLOCK):
            steps = min(BLOCK, cin - k0)
            at = (p * 4 + tap) * cin + k0
            ahead = at + steps if tap < 3 or k0 + steps < cin else following * 4 * cin
            for block in range(block0, block1):
                start = min(block % per_crop * SIDE, pixels - SIDE)
                row = (block // per_crop * (height + 2) + py + tap // 2) * (width + 2) + px + tap % 2 + start
                for j in range(0, columns, SIDE):
                    add = tap > 0 or k0 > 0
                    block_product(sums, (block - block0) * SIDE, j, x, row, k0, panels, at, j, steps, ahead, add)
                    ahead += fetched_rows(steps)
    close_registers()
    for block in range(block0, block1):
        due = block % per_crop * SIDE
        start = min(due, pixels - SIDE)
        for pixel in range(due, start + SIDE):
            m, n = pixel // (width + 2), pixel % (width + 2)
            if n < width:
                line = block // per_crop * (2 * height + 2 * edge) + 2 * m + py + edge
                row = line * (2 * width + 2 * edge) + 2 * n + px + edge
                i = (block - block0) * SIDE + pixel - start
                finish(sums, i, bias, first, y, row, column, columns)


@numba.njit
def deconv_relu(counters, step, threads, x, crops, height, width, panels, bias, y, edge, sums):
    """y = relu(deconv(x)).

    x (crops (H + 2) (W + 2) + ROWS, >= Cin) with a border of zeros, y (crops (2 H + 2 edge) (2 W + 2 edge), >= Cout)
    with a border of ``edge`` pixels, panels and bias from pack_deconv, sums (CHUNK, >= COLUMNS) the thread's own.
    """
    tiles, unit, count = crops * height * -(-width // ROWS), ROWS, 4 * -(-bias.shape[1] // (4 * COLUMNS))
    cin = panels.shape[0] // (4 * count)
    pixels, per_crop = blocks_of(height, width)
    blocks = has_blocks(panels) and pixels >= SIDE and cin % DEEP == 0
    if blocks:
        tiles, unit = crops * per_crop, SIDE
    parts = cuts(count, tiles, CHUNK // unit, threads)
    task = first_task(counters, step)
    while task < count * parts:
        p, part = task // parts, task % parts
        following = min((task + threads) // parts, count - 1)
        tile0, tile1 = part * tiles // parts, (part + 1) * tiles // parts
        if blocks:
            deconv_blocks(x, cin, height, width, panels, p, following, bias, y, edge, sums, tile0, tile1)
        else:
            deconv_rectangle(x, cin, height, width, panels, p, following, bias, y, edge, sums, tile0, tile1)
        task = next_task(counters, step)
    wait(counters, step, count * parts)
