"""layer_norm, over the channels of each token, and batch_norm, each channel by stored statistics."""

import math

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, kernel, ready, summing_kernel


@summing_kernel
def normalise_rows(x, weight, bias, eps, y):
    """Three passes over a row, which stays in the cache: the mean, the variance about it, the result."""
    M, C = x.shape
    for m in prange(M):
        row, out = x[m], y[m]
        total = x.dtype.type(0)
        for c in range(C):
            total += row[c]
        mean = x.dtype.type(total / C)
        squares = x.dtype.type(0)
        for c in range(C):
            squares += (row[c] - mean) * (row[c] - mean)
        scale = x.dtype.type(1 / math.sqrt(squares / C + eps))
        for c in range(C):
            out[c] = (row[c] - mean) * scale * weight[c] + bias[c]


def layer_norm(x, weight, bias, eps=1e-6):
    """Shift and scale each token to mean 0 and variance 1, then by the learnt weight and bias. (..., C) -> (..., C).

    The variance is the mean square, without Bessel's correction. Source: Ba et al. 2016, torch.nn.LayerNorm.
    """
    C = x.shape[-1]
    dtype = float_type(x, weight, bias)
    rows = ready("x", x, x.shape, dtype).reshape(-1, C)
    y = np.empty_like(rows)
    normalise_rows(rows, ready("weight", weight, (C,), dtype), ready("bias", bias, (C,), dtype), float(eps), y)
    return y.reshape(x.shape)


@kernel
def normalise_maps(x, mean, scale, bias, y):
    """y[b, c, p] = (x[b, c, p] - mean[c]) scale[c] + bias[c]."""
    B, C, P = x.shape
    for m in prange(B * C):
        b, c = m // C, m % C
        for p in range(P):
            y[b, c, p] = (x[b, c, p] - mean[c]) * scale[c] + bias[c]


def batch_norm(x, weight, bias, running_mean, running_var, num_batches_tracked=None, eps=1e-5):
    """Shift and scale each channel by the statistics that training gathered. x (B, C, H, W), the rest (C,).

    ``num_batches_tracked`` only counts training steps. Source: Ioffe and Szegedy 2015, torch.nn.BatchNorm2d.eval().
    """
    B, C, H, W = x.shape
    dtype = float_type(x, weight, bias, running_mean, running_var)
    scale = weight / np.sqrt(np.asarray(running_var, np.float64) + eps)  # in float64: it is only one a channel
    maps = ready("x", x, x.shape, dtype).reshape(B, C, H * W)
    channels = {"running_mean": running_mean, "weight / sqrt(running_var)": scale, "bias": bias}
    y = np.empty_like(maps)
    normalise_maps(maps, *(ready(name, a, (C,), dtype) for name, a in channels.items()), y)
    return y.reshape(x.shape)
