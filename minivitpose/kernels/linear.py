"""linear: y = x W^T + b."""

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, ready, ready_bias, summing_kernel


@summing_kernel
def rows_times_rows(x, weight, bias, y):
    """y[m, n] = bias[n] + sum_k x[m, k] weight[n, k].

    Both rows lie in memory as the sum over k reads them. Four rows of the weight stay in the cache for all m, and each
    x[m, k] is read once for the four.
    """
    M, K = x.shape
    N = weight.shape[0]
    for four in prange((N + 3) // 4):
        n0 = 4 * four
        n1, n2, n3 = min(n0 + 1, N - 1), min(n0 + 2, N - 1), min(n0 + 3, N - 1)  # past the end: the last again
        w0, w1, w2, w3 = weight[n0], weight[n1], weight[n2], weight[n3]
        for m in range(M):
            row = x[m]
            y0 = y1 = y2 = y3 = x.dtype.type(0)
            for k in range(K):
                y0 += row[k] * w0[k]
                y1 += row[k] * w1[k]
                y2 += row[k] * w2[k]
                y3 += row[k] * w3[k]
            y[m, n0] = y0 + bias[n0]
            y[m, n1] = y1 + bias[n1]
            y[m, n2] = y2 + bias[n2]
            y[m, n3] = y3 + bias[n3]


def linear(x, weight, bias=None):
    """y = x W^T + b. x (..., Cin), weight (Cout, Cin), bias (Cout,) -> (..., Cout). Source: torch.nn.Linear."""
    Cout, Cin = weight.shape
    dtype = float_type(x, weight)
    rows = ready("x", x, (*x.shape[:-1], Cin), dtype).reshape(-1, Cin)
    y = np.empty((len(rows), Cout), dtype)
    rows_times_rows(rows, ready("weight", weight, (Cout, Cin), dtype), ready_bias(bias, Cout, dtype), y)
    return y.reshape(*x.shape[:-1], Cout)
