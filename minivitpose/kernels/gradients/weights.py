"""dL/dW = grad^T x near the speed of the CPU's multipliers, and weights packed for products either way.

Each task owns a rectangle of dL/dW and runs over all rows of grad and x itself, BLOCK at a time, so that no sum is
split between threads.
"""

import numba
import numpy as np

from minivitpose.kernels.crew import cuts, first_task, next_task, wait
from minivitpose.kernels.gemm import BLOCK, SUMS
from minivitpose.kernels.gradients import weights_in_pairs as in_pairs
from minivitpose.kernels.gradients.tiles import tile_transposed, tile_transposed_2
from minivitpose.kernels.jit import by_type, holds
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS
from minivitpose.kernels.pairs import has_pairs
from minivitpose.kernels.simd import LANES, load, splat, store, transpose

TALL = 32  # tiles that pass over a block of x together: their sums, 48 KiB, stay in the second-level cache
WORK = max(BLOCK + TALL * ROWS, in_pairs.WORK)  # rows of a thread's workspace: a block of x and the sums


@numba.njit
def pack_forward_floats(counters, step, weight, panels):
    N, K = weight.shape
    tasks = -(-N // COLUMNS)
    task = first_task(counters, step)
    while task < tasks:
        for j in range(0, COLUMNS, LANES):
            n = task * COLUMNS + j
            for k in range(0, K, LANES):
                if n + LANES <= N:
                    transpose(panels, task * K + k, j, weight, n, k)
                else:
                    for i in range(LANES):
                        for u in range(LANES):
                            panels[task * K + k + u, j + i] = weight[n + i, k + u] if n + i < N else 0
        task = next_task(counters, step)
    wait(counters, step, tasks)


@by_type
def pack_forward(counters, step, weight, panels):
    """weight (N, K) -> panels (P depth, COLUMNS) for x @ weight^T, as gemm.pack. K a multiple of LANES."""
    return in_pairs.pack_forward if holds(panels, np.uint32) else pack_forward_floats


@numba.njit
def pack_backward_floats(counters, step, weight, panels):
    N, K = weight.shape
    tasks = -(-K // COLUMNS)
    task = first_task(counters, step)
    while task < tasks:
        for n in range(N):
            for j in range(0, COLUMNS, LANES):
                k = task * COLUMNS + j
                store(panels, task * N + n, j, load(weight, n, k) if k < K else splat(np.float32(0)))
        task = next_task(counters, step)
    wait(counters, step, tasks)


@by_type
def pack_backward(counters, step, weight, panels):
    """weight (N, K) -> panels (P depth, COLUMNS) for grad @ weight. K a multiple of LANES."""
    return in_pairs.pack_backward if holds(panels, np.uint32) else pack_backward_floats


@numba.njit
def depth(panels, k):
    """Rows of a panel for k numbers: as many, or what their pairs take."""
    return in_pairs.pairs_for(k) if has_pairs(panels) else k


@numba.njit
def column_sums(counters, step, x, total, sums):
    """total (n,) float64 += the sums of the first n columns of x (M, >= n rounded up to COLUMNS), by way of sums."""
    (n,), M = total.shape, x.shape[0]
    tasks = -(-n // COLUMNS)
    task = first_task(counters, step)
    while task < tasks:
        first = task * COLUMNS
        for m0 in range(0, M, BLOCK):
            for j in range(0, COLUMNS, LANES):
                part = splat(np.float32(0))
                for m in range(m0, min(m0 + BLOCK, M)):
                    part = part + load(x, m, first + j)
                store(sums, 0, j, part)
            for j in range(min(COLUMNS, n - first)):
                total[first + j] += np.float64(sums[0, j])
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def weight_gradient_floats(counters, step, threads, grad, x, add, weight, work):
    (N, K), M = weight.shape, grad.shape[0]
    count, tiles = -(-K // SUMS), -(-N // ROWS)
    parts = cuts(count, tiles, TALL, threads)
    task = first_task(counters, step)
    while task < count * parts:
        first, part = task // parts * SUMS, task % parts
        columns = min(SUMS, K - first)
        row0, row1 = part * tiles // parts * ROWS, (part + 1) * tiles // parts * ROWS
        for m0 in range(0, M, BLOCK):
            rows = min(BLOCK, M - m0)
            for m in range(rows):
                for j in range(0, columns, LANES):
                    store(work, m, j, load(x, m0 + m, first + j))
            for i in range(row0, row1, ROWS):
                for j in range(0, columns, COLUMNS):
                    if columns - j > 2 * LANES:
                        tile_transposed(work, BLOCK + i - row0, j, grad, m0, i, work, 0, j, rows, m0 > 0)
                    else:
                        tile_transposed_2(work, BLOCK + i - row0, j, grad, m0, i, work, 0, j, rows, m0 > 0)
        in_pairs.write(work, BLOCK - row0, row0, min(row1, N), columns, add, weight, first)
        task = next_task(counters, step)
    wait(counters, step, count * parts)


@by_type
def weight_gradient(counters, step, threads, grad, x, add, weight, work):
    """weight (N, K) = grad^T x, or += if ``add``.

    grad (M, >= N), x (M, >= K), K a multiple of LANES; work (WORK, SUMS) the thread's own: float32, or uint32
    for products in bfloat16, which read up to LANES numbers behind the N.
    """
    return in_pairs.weight_gradient if holds(work, np.uint32) else weight_gradient_floats
