"""The loop that shows the CPU's peak: fused multiply-adds in vector registers, and nothing else."""

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads

from minivitpose.kernels.simd import FMA, LANES, fma, splat, sum_lanes

CHAINS = 12  # sums that do not wait for each other: more than the CPU's units times their latency, fewer than registers


@njit
def multiply_and_add(turns, x):
    """turns times a = a x + x, for CHAINS vectors; returns their sum, so that all must be computed."""
    v = splat(x)
    a, b, c, d = v, v + v, v * v, v * (v + v)  # each starts elsewhere, or the compiler would make one of them
    e, f, g, h = a + b, a + c, a + d, b + c
    i, j, k, m = e + f, e + g, e + h, f + g
    for _ in range(turns):
        a, b, c, d = fma(a, v, v), fma(b, v, v), fma(c, v, v), fma(d, v, v)
        e, f, g, h = fma(e, v, v), fma(f, v, v), fma(g, v, v), fma(h, v, v)
        i, j, k, m = fma(i, v, v), fma(j, v, v), fma(k, v, v), fma(m, v, v)
    return sum_lanes(a + b + c + d + e + f + g + h + i + j + k + m)


@njit(parallel=True)
def on_all_threads(turns, results, x):
    for i in prange(results.size):
        results[i] = multiply_and_add(turns, x)


def run(turns, threads):
    """The loop on so many threads at once. Returns the floating-point operations done, None without an FMA unit."""
    before = get_num_threads()
    set_num_threads(threads)
    try:
        on_all_threads(turns, np.zeros(threads, np.float32), np.float32(0.5))
    finally:
        set_num_threads(before)
    return 2 * CHAINS * LANES * turns * threads if FMA else None
