"""softmax along the last axis."""

import math

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, ready, summing_kernel


@summing_kernel
def softmax_rows(x, y):
    """Three passes over a row, which stays in the cache: its maximum, exp and their sum, the quotients."""
    M, N = x.shape
    for m in prange(M):
        row, out = x[m], y[m]
        top = row[0]
        for n in range(1, N):
            top = max(top, row[n])
        total = x.dtype.type(0)
        for n in range(N):
            out[n] = math.exp(row[n] - top)
            total += out[n]
        for n in range(N):
            out[n] /= total


def softmax(x):
    """Positive numbers that sum to 1 along the last axis: exp(x) / sum exp(x). (..., N) -> (..., N).

    The maximum is taken off first: it cancels in the quotient and keeps exp from overflowing.
    """
    dtype = float_type(x)
    rows = ready("x", x, x.shape, dtype).reshape(-1, x.shape[-1])
    y = np.empty_like(rows)
    softmax_rows(rows, y)
    return y.reshape(x.shape)
