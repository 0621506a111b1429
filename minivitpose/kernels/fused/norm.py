"""Layer norm: one token a row, LANES channels at a time."""

import numba
import numpy as np

from minivitpose.kernels.crew import first_task, next_task, wait
from minivitpose.kernels.simd import LANES, fma, load, maximum, splat, store, sum_lanes

TASK = 12  # rows a thread takes at a time: 2 microseconds of work


@numba.njit(error_model="numpy")
def norm_row(x, i, weight, bias, eps, channels, low, y, o):
    """y[o] = max(layer_norm(x[i]), low). What no whole vector holds, at the end of a row, is summed float by float."""
    whole = channels // LANES * LANES
    total = splat(np.float32(0))
    for j in range(0, whole, LANES):
        total = total + load(x, i, j)
    mean = sum_lanes(total)
    for j in range(whole, channels):
        mean += x[i, j]
    mean /= np.float32(channels)

    m, squares = splat(mean), splat(np.float32(0))
    for j in range(0, whole, LANES):
        d = load(x, i, j) - m
        squares = fma(d, d, squares)
    variance = sum_lanes(squares)
    for j in range(whole, channels):
        variance += (x[i, j] - mean) ** 2
    variance /= np.float32(channels)

    scale = np.float32(1) / np.sqrt(variance + np.float32(eps))
    s = splat(scale)
    for j in range(0, channels, LANES):
        d = (load(x, i, j) - m) * s
        store(y, o, j, maximum(fma(d, load(weight, 0, j), load(bias, 0, j)), splat(np.float32(low))))


@numba.njit
def layer_norm(counters, step, x, weight, bias, eps, channels, low, y):
    """y = max(layer_norm(x), low), row by row; low 0 is a relu, -inf is nothing.

    x, y (M, >= channels); weight and bias (1, >= channels), with zeros beyond the channels up to a whole vector.
    """
    tasks = -(-x.shape[0] // TASK)
    task = first_task(counters, step)
    while task < tasks:
        for i in range(task * TASK, min(task * TASK + TASK, x.shape[0])):
            norm_row(x, i, weight, bias, eps, channels, low, y, i)
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def layer_norm_to_map(counters, step, x, weight, bias, eps, channels, crops, height, width, y):
    """layer_norm(x) laid out as a map with a border: y (crops (H + 2) (W + 2), >= channels)."""
    rows = x.shape[0] // crops
    tasks = crops * height
    task = first_task(counters, step)
    while task < tasks:
        crop, m = task // height, task % height
        for n in range(width):
            o = (crop * (height + 2) + m + 1) * (width + 2) + n + 1
            norm_row(x, crop * rows + m * width + n, weight, bias, eps, channels, -np.inf, y, o)
        task = next_task(counters, step)
    wait(counters, step, tasks)
