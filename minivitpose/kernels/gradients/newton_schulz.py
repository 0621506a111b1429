"""Muon's iteration, compiled: each matrix a task of the crew, its products through the register tile.

NumPy's products would do, but BLAS keeps threads of its own awake, and they take the cores from the crew's.
"""

import numba
import numpy as np

from minivitpose.kernels.crew import Crew, first_task, new_counters, next_task, wait
from minivitpose.kernels.fused.forward import watch_sources
from minivitpose.kernels.gemm import ADD, CHUNK, STORE, SUMS, product, round_up
from minivitpose.kernels.gradients.weights import pack_backward, pack_forward
from minivitpose.kernels.jit import CACHE
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS
from minivitpose.kernels.simd import LANES, aligned, fma, load, splat, store

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Jordan et al. 2024, who tuned them for few steps
A, B, C = map(np.float32, COEFFICIENTS)


@numba.njit
def times(own, x, panels, count, k, base, after, y, zeros, sums):
    """y = x @ what the first ``count`` panels of k rows hold; for ADD, base + that. By this thread alone."""
    own[0] = 0
    bias = zeros[: count * COLUMNS].reshape(1, count * COLUMNS)
    product(own, 0, 1, x, panels[: count * k], bias, base, y, after, sums)


@numba.njit
def combine(a, x, b, y, z):
    """z = a x + b y, all of one shape."""
    a, b = splat(a), splat(b)
    for i in range(x.shape[0]):
        for j in range(0, x.shape[1], LANES):
            store(z, i, j, fma(load(x, i, j), a, load(y, i, j) * b))


@numba.njit
def iterate(x, r, steps, own, square, fourth, panels, zeros, sums):
    """x in place, ``steps`` times x <- A x + (B S + C S S) x with S = x x^T. Its r rows and its columns are followed
    by zeros up to whole tiles, and so are those of S, square, and S S, fourth. own: counters for one step, of this
    thread alone; panels, zeros, sums: for ``product``.
    """
    columns, zero = x.shape[1], np.float32(0)
    wide, narrow = columns // COLUMNS, square.shape[1] // COLUMNS
    for _ in range(steps):
        own[0] = 0
        pack_forward(own, 0, x[:r], panels)
        times(own, x, panels, narrow, columns, square, STORE, square, zeros, sums)
        own[0] = 0
        pack_backward(own, 0, square[:r], panels)
        times(own, square, panels, narrow, r, fourth, STORE, fourth, zeros, sums)
        combine(C, fourth, B, square, fourth)
        own[0] = 0
        pack_backward(own, 0, x[:r], panels)
        combine(A, x, zero, x, x)
        times(own, fourth, panels, wide, r, x, ADD, x, zeros, sums)


@numba.njit(nogil=True, cache=CACHE)
def walk(counters, t, threads, xs, shapes, steps, own, squares, fourths, panels, zeros, sums):
    """Each matrix of xs (n, floats), whose rows and columns are in shapes (n, 2)."""
    task = first_task(counters, 0)
    while task < len(xs):
        r, c = shapes[task]
        rows, columns, side = -(-r // ROWS) * ROWS, -(-c // COLUMNS) * COLUMNS, -(-r // COLUMNS) * COLUMNS
        x = xs[task, : rows * columns].reshape(rows, columns)
        square = squares[t, : rows * side].reshape(rows, side)
        fourth = fourths[t, : rows * side].reshape(rows, side)
        iterate(x, r, steps, own[t], square, fourth, panels[t], zeros, sums[t])
        task = next_task(counters, 0)
    wait(counters, 0, len(xs))


def fits(matrices):
    """Whether the kernel takes these (n, rows, columns): float32, and rows and columns are whole vectors."""
    return matrices.dtype == np.float32 and not any(n % LANES for n in matrices.shape[1:])


class NewtonSchulz:
    """``steps`` of the iteration for matrices of any shapes at once, in a workspace that is kept."""

    def __init__(self, shapes, steps=5, threads=None):
        """shapes: [(rows, columns)] of the matrices, none higher than wide, each side a multiple of LANES."""
        self.shapes, self.steps = np.array(shapes, np.int64), steps
        self.crew = Crew(1 if numba.config.DISABLE_JIT else threads or numba.get_num_threads())
        r, c = self.shapes.max(axis=0).tolist()
        rows, wide, side, threads = round_up(r, ROWS), round_up(c, COLUMNS), round_up(r, COLUMNS), self.crew.threads
        self.xs, self.counters = aligned(len(shapes), rows * wide), new_counters(1)
        self.buffers = (
            aligned(threads, 1, 16, dtype=np.int64),
            aligned(threads, rows * side),
            aligned(threads, rows * side),
            aligned(threads, side // COLUMNS * wide, COLUMNS),
            aligned(max(wide, side)),
            aligned(threads, CHUNK, SUMS),
        )
        sizes = [(r, c, round_up(r, ROWS), round_up(c, COLUMNS)) for r, c in shapes]
        self.views = [x[: R * C].reshape(R, C)[:r, :c] for x, (r, c, R, C) in zip(self.xs, sizes, strict=True)]

    def __call__(self, matrices):
        """[(rows, columns) float32 of norm 1] -> the same after the iteration, views that the next call overwrites."""
        for view, matrix in zip(self.views, matrices, strict=True):
            view[:] = matrix
        self.counters[:] = 0
        self.crew.go(walk, self.counters, self.xs, self.shapes, self.steps, *self.buffers)
        return self.views


watch_sources(walk)
