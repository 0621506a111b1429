"""What happens row by row, a token or pixel of LANES channels at a time: GELU, layer norm, residuals, the loss."""

import numba
import numpy as np

from minivitpose.kernels.crew import first_task, next_task, wait
from minivitpose.kernels.simd import LANES, absolute, fma, load, splat, store, sum_lanes, where_above
from minivitpose.kernels.vecmath import exp, f, gelu, gelu_half

TASK = 24  # rows a thread takes at a time
PARTIALS = 2  # rows of sums that each task of layer_norm_backward leaves
DENSITY = f(0.3989422804014327)  # 1 / sqrt(2 pi)


@numba.njit(error_model="numpy")
def gelu_slope(x):
    """Phi(x) + x phi(x), the derivative of x Phi(x); Phi as in vecmath.gelu."""
    y = absolute(x)
    t = y * y
    h = gelu_half(y)
    area = splat(f(0.5)) + where_above(x, splat(f(0)), h, splat(f(0)) - h)
    return fma(x * splat(DENSITY), exp(t * splat(f(-0.5))), area)


@numba.njit
def gelu_rows(counters, step, x, n, y):
    """y = gelu(x), the first n columns."""
    tasks = -(-x.shape[0] // TASK)
    task = first_task(counters, step)
    while task < tasks:
        for i in range(task * TASK, min(task * TASK + TASK, x.shape[0])):
            for j in range(0, n, LANES):
                store(y, i, j, gelu(load(x, i, j)))
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def gelu_backward(counters, step, x, n, grad, y):
    """grad *= the slope of gelu at x, and y = gelu(x) once more."""
    tasks = -(-x.shape[0] // TASK)
    task = first_task(counters, step)
    while task < tasks:
        for i in range(task * TASK, min(task * TASK + TASK, x.shape[0])):
            for j in range(0, n, LANES):
                v = load(x, i, j)
                store(y, i, j, gelu(v))
                store(grad, i, j, load(grad, i, j) * gelu_slope(v))
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def scale_add(counters, step, x, factors, base, n, y):
    """y = factors[crop] x, plus ``base`` if it has rows: drop path, and the residual connection."""
    crops, add = len(factors), base.shape[0] > 0
    rows = x.shape[0] // crops
    task = first_task(counters, step)
    while task < crops:
        s = splat(factors[task])
        for i in range(task * rows, task * rows + rows):
            for j in range(0, n, LANES):
                v = load(x, i, j) * s
                store(y, i, j, load(base, i, j) + v if add else v)
        task = next_task(counters, step)
    wait(counters, step, crops)


@numba.njit(error_model="numpy")
def norm_row_backward(x, i, grad, weight, eps, n, out, partials, p):
    """out[i] += (g - mean(g) - u mean(g u)) / std with u = (x - mean) / std, g = grad weight; partials[p] += grad u,
    partials[p + 1] += grad."""
    total = splat(f(0))
    for j in range(0, n, LANES):
        total = total + load(x, i, j)
    m, squares = splat(sum_lanes(total) / f(n)), splat(f(0))
    for j in range(0, n, LANES):
        d = load(x, i, j) - m
        squares = fma(d, d, squares)
    s = splat(f(1) / np.sqrt(sum_lanes(squares) / f(n) + f(eps)))
    of_g, of_gu = splat(f(0)), splat(f(0))
    for j in range(0, n, LANES):
        u, dy = (load(x, i, j) - m) * s, load(grad, i, j)
        g = dy * load(weight, 0, j)
        of_g, of_gu = of_g + g, fma(g, u, of_gu)
        store(partials, p, j, fma(dy, u, load(partials, p, j)))
        store(partials, p + 1, j, load(partials, p + 1, j) + dy)
    a, b = splat(sum_lanes(of_g) / f(n)), splat(sum_lanes(of_gu) / f(n))
    for j in range(0, n, LANES):
        u, g = (load(x, i, j) - m) * s, load(grad, i, j) * load(weight, 0, j)
        store(out, i, j, fma(g - a - u * b, s, load(out, i, j)))


@numba.njit
def layer_norm_backward(counters, step, x, grad, weight, eps, n, out, partials):
    """out += the gradient by x; partials (PARTIALS tasks, >= n): what each task adds to those by weight and bias."""
    tasks = -(-x.shape[0] // TASK)
    task = first_task(counters, step)
    while task < tasks:
        partials[task * PARTIALS : task * PARTIALS + PARTIALS] = 0
        for i in range(task * TASK, min(task * TASK + TASK, x.shape[0])):
            norm_row_backward(x, i, grad, weight, eps, n, out, partials, task * PARTIALS)
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def add_partials(counters, step, partials, tasks, sums):
    """sums (PARTIALS, n) float64 += the tasks' partial sums, in the order of the tasks."""
    task = first_task(counters, step)
    while task < PARTIALS:
        for i in range(tasks):
            for j in range(sums.shape[1]):
                sums[task, j] += np.float64(partials[i * PARTIALS + task, j])
        task = next_task(counters, step)
    wait(counters, step, PARTIALS)


@numba.njit(error_model="numpy")
def loss_rows(counters, step, x, targets, weight, size, losses):
    """x (crops R, >= K), heatmaps as rows, becomes the gradient 2 (x - target) w^2 / size, 0 behind a crop's pixels.

    targets (crops, K, pixels), weight (crops, K); losses (crops,) float64: each crop's sum of ((x - target) w)^2.
    """
    crops, K, pixels = targets.shape
    rows = x.shape[0] // crops
    task = first_task(counters, step)
    while task < crops:
        loss = 0.0
        for k in range(K):
            w = weight[task, k]
            factor = f(w * w * f(2 / size))
            for i in range(pixels):
                off = x[task * rows + i, k] - targets[task, k, i]
                loss += np.float64(off * w) ** 2
                x[task * rows + i, k] = off * factor
        x[task * rows + pixels : task * rows + rows, :K] = 0
        losses[task] = loss
        task = next_task(counters, step)
    wait(counters, step, crops)
