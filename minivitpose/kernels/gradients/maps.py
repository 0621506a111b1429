"""The head's transposed convolutions (kernel 4, stride 2, padding 1) as products, and batch norm with relu behind them.

A map lies as rows of channels, R = H W rounded up to whole tiles a crop. Every input pixel stamps 4 x 4 pixels of F
channels onto a map twice as large: its stamps are one row of 16 F numbers, x @ W^T. Forwards, stamps that overlap are
added up; backwards, each pixel collects the gradients from under its stamp, and what is left is a linear layer.
"""

import numba
import numpy as np

from minivitpose.kernels.crew import first_task, next_task, wait
from minivitpose.kernels.gradients.rows import PARTIALS, TASK
from minivitpose.kernels.simd import LANES, fma, load, maximum, splat, store, where_above
from minivitpose.kernels.vecmath import f


@numba.njit
def add_stamps(stamps, row0, none, height, width, i, j, F, y, row):
    """y[row] = the sum of the stamps on output pixel (i, j): input rows (i + 1 - a) / 2 for taps a that divide so.

    Input pixels stand in stamps from row0 on; row ``none`` holds zeros, for those outside the map.
    """
    a, b = (i + 1) % 2, (j + 1) % 2
    m, n = (i + 1 - a) // 2, (j + 1 - b) // 2  # tap a comes from input row m, tap a + 2 from row m - 1
    r0 = row0 + m * width + n if m < height and n < width else none
    r1 = row0 + m * width + n - 1 if m < height and n > 0 else none
    r2 = row0 + (m - 1) * width + n if m > 0 and n < width else none
    r3 = row0 + (m - 1) * width + n - 1 if m > 0 and n > 0 else none
    c0, c2 = (4 * a + b) * F, (4 * (a + 2) + b) * F
    for c in range(0, F, LANES):
        near = load(stamps, r0, c0 + c) + load(stamps, r1, c0 + 2 * F + c)
        store(y, row, c, near + (load(stamps, r2, c2 + c) + load(stamps, r3, c2 + 2 * F + c)))


@numba.njit
def stamps_to_maps(counters, step, stamps, rows, crops, height, width, F, y):
    """stamps (> crops rows, >= 16 F), its last row always zeros -> y (crops R', >= F), maps of 2 height x 2 width."""
    out, none = y.shape[0] // crops, stamps.shape[0] - 1
    lines = crops * 2 * height
    task = first_task(counters, step)
    while task < lines:
        crop, i = task // (2 * height), task % (2 * height)
        for j in range(2 * width):
            add_stamps(stamps, crop * rows, none, height, width, i, j, F, y, crop * out + i * 2 * width + j)
        task = next_task(counters, step)
    wait(counters, step, lines)


@numba.njit
def maps_to_stamps(counters, step, y, crops, height, width, F, stamps):
    """y (crops R', >= F), maps of 2 height x 2 width -> stamps (crops R, >= 16 F): what lies under each stamp.

    0 outside the map and in the rows behind a crop's pixels.
    """
    rows, inner, zero = stamps.shape[0] // crops, y.shape[0] // crops, splat(f(0))
    task = first_task(counters, step)
    while task < crops * rows:
        crop, pixel = task // rows, task % rows
        m, n = pixel // width, pixel % width
        for tap in range(16):
            i, j = 2 * m + tap // 4 - 1, 2 * n + tap % 4 - 1
            inside = pixel < height * width and 0 <= i < 2 * height and 0 <= j < 2 * width
            row = crop * inner + i * 2 * width + j if inside else 0
            for c in range(0, F, LANES):
                store(stamps, task, tap * F + c, load(y, row, c) if inside else zero)
        task = next_task(counters, step)
    wait(counters, step, crops * rows)


# ------------------------------------------------------------------------------------------------------- batch norm


@numba.njit(error_model="numpy")
def map_statistics(counters, step, x, crops, pixels, F, partials):
    """For each task of TASK pixels of a crop its mean, and its squares about that mean: partials (PARTIALS tasks, F).

    Sums over the whole batch would lose digits; means_and_variances puts these together in float64.
    """
    rows, each = x.shape[0] // crops, -(-pixels // TASK)
    task = first_task(counters, step)
    while task < crops * each:
        row0 = task // each * rows + task % each * TASK
        row1 = min(row0 + TASK, task // each * rows + pixels)
        for c in range(0, F, LANES):
            total, squares = splat(f(0)), splat(f(0))
            for i in range(row0, row1):
                total = total + load(x, i, c)
            mean = total / splat(f(row1 - row0))
            for i in range(row0, row1):
                d = load(x, i, c) - mean
                squares = fma(d, d, squares)
            store(partials, task * PARTIALS, c, mean)
            store(partials, task * PARTIALS + 1, c, squares)
        task = next_task(counters, step)
    wait(counters, step, crops * each)


def means_and_variances(partials, crops, pixels):
    """Of map_statistics over all crops: two of (F,) float64. The variance is the mean square about the mean."""
    each = -(-pixels // TASK)
    counts = np.minimum(TASK, pixels - TASK * np.arange(each))[None, :, None].astype(np.float64)
    means, squares = (partials[i::PARTIALS].reshape(crops, each, -1).astype(np.float64) for i in range(PARTIALS))
    n = crops * pixels
    mean = (means * counts).sum(axis=(0, 1)) / n
    return mean, (squares + counts * np.square(means - mean)).sum(axis=(0, 1)) / n


@numba.njit
def norm_relu(counters, step, x, norm, F, y):
    """y = max((x - mean) scale + bias, 0). norm (>= 3, F): mean, scale and bias of each channel."""
    tasks = -(-x.shape[0] // TASK)
    zero = splat(f(0))
    task = first_task(counters, step)
    while task < tasks:
        for i in range(task * TASK, min(task * TASK + TASK, x.shape[0])):
            for c in range(0, F, LANES):
                v = fma(load(x, i, c) - load(norm, 0, c), load(norm, 1, c), load(norm, 2, c))
                store(y, i, c, maximum(v, zero))
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def relu_backward(counters, step, x, norm, F, grad, partials):
    """grad = 0 where norm_relu gave 0; partials: of each task the sums of grad u and of grad, u = (x - mean) / std.

    norm (4, F): mean, scale, bias and 1 / std.
    """
    tasks = -(-x.shape[0] // TASK)
    zero = splat(f(0))
    task = first_task(counters, step)
    while task < tasks:
        for c in range(0, F, LANES):
            mean, scale, bias, inverse = load(norm, 0, c), load(norm, 1, c), load(norm, 2, c), load(norm, 3, c)
            of_gu, of_g = zero, zero
            for i in range(task * TASK, min(task * TASK + TASK, x.shape[0])):
                d = load(x, i, c) - mean
                g = where_above(fma(d, scale, bias), zero, load(grad, i, c), zero)
                store(grad, i, c, g)
                of_gu, of_g = fma(g, d * inverse, of_gu), of_g + g
            store(partials, task * PARTIALS, c, of_gu)
            store(partials, task * PARTIALS + 1, c, of_g)
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def norm_backward(counters, step, x, norm, F, crops, pixels, grad):
    """grad = scale (grad - mean(grad) - u mean(grad u)), 0 in the rows behind a crop's pixels.

    norm (6, F): mean, scale, bias, 1 / std, and the two means over the batch, mean(grad u) and mean(grad).
    """
    rows, zero = x.shape[0] // crops, splat(f(0))
    tasks = -(-x.shape[0] // TASK)
    task = first_task(counters, step)
    while task < tasks:
        for i in range(task * TASK, min(task * TASK + TASK, x.shape[0])):
            inside = i % rows < pixels
            for c in range(0, F, LANES):
                u = (load(x, i, c) - load(norm, 0, c)) * load(norm, 3, c)
                v = (load(grad, i, c) - load(norm, 5, c) - u * load(norm, 4, c)) * load(norm, 1, c)
                store(grad, i, c, v if inside else zero)
        task = next_task(counters, step)
    wait(counters, step, tasks)
