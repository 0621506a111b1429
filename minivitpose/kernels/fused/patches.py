"""The two ends of the engine: patches laid out as rows, and rows laid out as maps."""

import numba

from minivitpose.kernels.crew import first_task, next_task, wait
from minivitpose.kernels.simd import LANES, load, store

PIXELS = 192  # pixels of rows_to_maps that a thread takes at a time


@numba.njit
def copy_line(images, i, left, width, patch, x, row, at):
    """x[row, at : at + patch] = images[i, left : left + patch], 0 outside the image (i < 0: all of it)."""
    if i >= 0 and left >= 0 and left + patch <= width and patch % LANES == 0:
        for j in range(0, patch, LANES):
            store(x, row, at + j, load(images, i, left + j))
    else:
        for j in range(patch):
            inside = i >= 0 and 0 <= left + j < width
            x[row, at + j] = images[i, left + j] if inside else 0


@numba.njit
def gather_patches(counters, step, images, patch, stride, padding, Hp, Wp, rows, x):
    """images (B, 3, H, W) -> x (B rows, 3 patch^2): one row a patch, its pixels in the order of the weight."""
    B, channels, H, W = images.shape
    lines = images.reshape(B * channels * H, W)
    task = first_task(counters, step)
    while task < B * Hp:
        b, m = task // Hp, task % Hp
        for c in range(channels):
            for a in range(patch):
                y = m * stride + a - padding
                line = (b * channels + c) * H + y if 0 <= y < H else -1
                at = (c * patch + a) * patch
                for n in range(Wp):
                    copy_line(lines, line, n * stride - padding, W, patch, x, b * rows + m * Wp + n, at)
        task = next_task(counters, step)
    wait(counters, step, B * Hp)


@numba.njit
def rows_to_maps(counters, step, x, maps):
    """x (B H W, >= K) -> maps (B, K, H W)."""
    B, K, pixels = maps.shape
    tasks = B * -(-pixels // PIXELS)
    task = first_task(counters, step)
    while task < tasks:
        b, start = task % B, task // B * PIXELS
        for k in range(K):
            for i in range(start, min(start + PIXELS, pixels)):
                maps[b, k, i] = x[b * pixels + i, k]
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def add_scaled(y, x, factor):
    """y += factor x."""
    for j in range(len(y)):
        y[j] += x[j] * factor


@numba.njit
def upsample_shift_add(counters, step, z, Hp, Wp, down, across, bias, maps, lines):
    """The simple head after its contraction over channels: enlarge the 9 K maps, shift each by its tap, add them up.

    z (B rows, 9 K): column (k 3 + dy) 3 + dx; down (3, Hm, Hp) and across (3, Wp, Wm): bilinear weights, shifted by the
    tap, 0 outside the heatmap; lines (3 Hp, Wm) the thread's own -> maps (B, K, Hm, Wm).
    """
    B, K, Hm, Wm = maps.shape
    rows = z.shape[0] // B
    task = first_task(counters, step)
    while task < B * K:
        b, k = task // K, task % K
        for dy in range(3):
            for m in range(Hp):
                line = lines[dy * Hp + m]
                line[:] = 0
                for n in range(Wp):
                    for dx in range(3):
                        add_scaled(line, across[dx, n], z[b * rows + m * Wp + n, (k * 3 + dy) * 3 + dx])
        for y in range(Hm):
            out = maps[b, k, y]
            out[:] = bias[k]
            for dy in range(3):
                for m in range(Hp):
                    if down[dy, y, m] != 0:
                        add_scaled(out, lines[dy * Hp + m], down[dy, y, m])
        task = next_task(counters, step)
    wait(counters, step, B * K)
