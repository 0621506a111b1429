"""weights.py in bfloat16: weights packed in pairs, and dL/dW = grad^T x of rounded numbers, on the matrix unit if any.

What is too short for whole registers of the unit is filled up with zeros.
"""

import numba
import numpy as np

from minivitpose.kernels.amx import DEEP, SIDE, close_registers, has_blocks, open_registers
from minivitpose.kernels.blocks import multiply
from minivitpose.kernels.crew import cuts, first_task, next_task, wait
from minivitpose.kernels.gemm import BLOCK
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS
from minivitpose.kernels.pairs import pair_columns, pair_rows
from minivitpose.kernels.simd import LANES, load, store, transpose

TALL = 32 * ROWS  # rows of dL/dW at a time
WORK = TALL + BLOCK + -(-TALL * BLOCK // COLUMNS)  # rows of a thread's workspace: see parts_of


@numba.njit
def pairs_for(k):
    """Rows of pairs for k numbers, in whole registers of the matrix unit."""
    return -(-k // (2 * DEEP)) * DEEP


@numba.njit
def pack_forward(counters, step, weight, panels):
    """weight (N, K) -> panels (P pairs_for(K), COLUMNS) for x @ weight^T."""
    N, K = weight.shape
    tasks, deep, zero = -(-N // COLUMNS), pairs_for(K), np.zeros((LANES, 2 * LANES), np.float32)
    task = first_task(counters, step)
    while task < tasks:
        for j in range(0, COLUMNS, LANES):
            n = task * COLUMNS + j
            for k in range(0, 2 * deep, 2 * LANES):
                if n + LANES <= N and k + 2 * LANES <= K:
                    pair_columns(panels, task * deep + k // 2, j, weight, n, k)
                else:
                    part = zero.copy()
                    for i in range(min(LANES, N - n)):
                        for u in range(min(2 * LANES, K - k)):
                            part[i, u] = weight[n + i, k + u]
                    pair_columns(panels, task * deep + k // 2, j, part, 0, 0)
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def pack_backward(counters, step, weight, panels):
    """weight (N, K) -> panels (P pairs_for(N), COLUMNS) for grad @ weight. K a multiple of LANES."""
    N, K = weight.shape
    tasks, deep, two = -(-K // COLUMNS), pairs_for(N), np.zeros((2, LANES), np.float32)
    task = first_task(counters, step)
    while task < tasks:
        for n in range(0, 2 * deep, 2):
            for j in range(0, COLUMNS, LANES):
                k = task * COLUMNS + j
                if n + 1 < N and k < K:
                    pair_rows(panels, task * deep + n // 2, j, weight, n, k)
                else:
                    part = two.copy()
                    if n < N and k < K:
                        store(part, 0, 0, load(weight, n, k))
                    pair_rows(panels, task * deep + n // 2, j, part, 0, 0)
        task = next_task(counters, step)
    wait(counters, step, tasks)


@numba.njit
def write(sums, ahead, row0, row1, columns, add, weight, column):
    """weight[i, column :] = sums[i + ahead], or +=, for rows row0 : row1."""
    for i in range(row0, row1):
        for j in range(0, columns, LANES):
            v = load(sums, i + ahead, j)
            store(weight, i, column + j, load(weight, i, column + j) + v if add else v)


@numba.njit
def weight_gradient(counters, step, threads, grad, x, add, weight, work):
    """weight (N, K) = grad^T x, or += if ``add``: rows of x become pairs, and columns of grad rows."""
    (N, K), M = weight.shape, grad.shape[0]
    sums, pairs, rounded = parts_of(work)
    unit = SIDE if has_blocks(pairs) else ROWS
    count, tiles = -(-K // COLUMNS), -(-N // unit)
    parts = cuts(count, tiles, TALL // unit, threads)
    task = first_task(counters, step)
    while task < count * parts:
        p, part = task // parts, task % parts
        columns = min(COLUMNS, K - p * COLUMNS)
        row0, row1 = part * tiles // parts * unit, min((part + 1) * tiles // parts * unit, N)
        for m0 in range(0, M, 2 * BLOCK):
            rows = min(2 * BLOCK, M - m0)
            deep = pairs_for(rows)
            pack_rows(x, m0, rows, p * COLUMNS, columns, pairs)
            turn(grad, m0, rows, row0, row1, rounded)
            open_registers()
            multiply(sums, 0, 0, rounded, 0, 0, pairs, 0, row1 - row0, columns, deep, m0 > 0)
            close_registers()
        write(sums, -row0, row0, row1, columns, add, weight, p * COLUMNS)
        task = next_task(counters, step)
    wait(counters, step, count * parts)


@numba.njit
def parts_of(work):
    """Of (WORK, n) uint32, n from COLUMNS: sums (TALL, n) float32, pairs (BLOCK, n), bfloat16 (TALL, 2 BLOCK)."""
    behind = work[TALL + BLOCK :].reshape(-1)[: TALL * BLOCK]
    return work[:TALL].view(np.float32), work[TALL : TALL + BLOCK], behind.view(np.uint16).reshape(TALL, 2 * BLOCK)


@numba.njit
def pack_rows(x, m0, rows, column, columns, pairs):
    """Rows of x as pairs, zeros behind them up to whole registers. An even number of rows."""
    for m in range(0, rows, 2):
        for j in range(0, columns, LANES):
            pair_rows(pairs, m // 2, j, x, m0 + m, column + j)
    pairs[rows // 2 : pairs_for(rows)] = 0


@numba.njit
def turn(grad, m0, rows, column0, column1, rounded):
    """rounded[j, i] = grad[m0 + i, column0 + j] in bfloat16, zeros behind the rows up to whole registers."""
    whole = rows // LANES * LANES
    for j in range(0, column1 - column0, LANES):
        for i in range(0, whole, LANES):
            transpose(rounded, j, i, grad, m0 + i, column0 + j)
    for j in range(column1 - column0):
        rounded[j, whole : -(-rows // (2 * DEEP)) * 2 * DEEP] = 0
    for i in range(whole, rows):
        for j in range(0, column1 - column0, LANES):
            turn_row(grad, m0 + i, column0 + j, rounded, j, i)


@numba.njit
def turn_row(grad, row, column, rounded, j, i):
    line = np.zeros((1, LANES), np.uint16)
    store(line, 0, 0, load(grad, row, column))
    for n in range(LANES):
        rounded[j + n, i] = line[0, n]
