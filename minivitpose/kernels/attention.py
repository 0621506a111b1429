"""scaled_dot_product_attention: softmax(q k^T / sqrt(d)) v."""

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, ready, summing_kernel
from minivitpose.kernels.softmax import softmax
from minivitpose.layers import keep


@summing_kernel
def dots(a, b, y):
    """y[g, m, n] = sum_k a[g, m, k] b[g, n, k]. A head's b is small enough to stay in the cache for all rows of a."""
    G, M, K = a.shape
    N = b.shape[1]
    for r in prange(G * M):
        g, m = r // M, r % M
        row = a[g, m]
        for n in range(N):
            other = b[g, n]
            total = a.dtype.type(0)
            for k in range(K):
                total += row[k] * other[k]
            y[g, m, n] = total


def all_dots(name, a, b):
    """Each row of a with each row of b, as a @ b^T: a (..., M, K), b (..., N, K) -> (..., M, N)."""
    (*heads, M, K), N = a.shape, b.shape[-2]
    dtype = float_type(a, b)
    a = ready(name, a, a.shape, dtype).reshape(-1, M, K)
    b = ready(name, b, (*heads, N, K), dtype).reshape(-1, N, K)
    y = np.empty((len(a), M, N), dtype)
    dots(a, b, y)
    return y.reshape(*heads, M, N)


def scaled_dot_product_attention(q, k, v, qk_scale=None, tap=keep):
    """Each token gathers the values of all tokens, by how well its query fits their keys: softmax(q k^T / sqrt(d)) v.

    q, k, v (B, h, N, d) -> (B, h, N, d). ``qk_scale`` replaces 1 / sqrt(d). Source: Vaswani et al. 2017, equation 1.
    """
    scale = q.shape[-1] ** -0.5 if qk_scale is None else qk_scale
    scores = tap("scores", all_dots("k", q * scale, k))  # (B, h, N, N): row = who asks, column = who is asked
    pattern = tap("pattern", softmax(scores))
    return all_dots("v transposed", pattern, v.swapaxes(-1, -2))
