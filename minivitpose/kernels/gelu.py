"""gelu: x Phi(x)."""

import math

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, kernel, ready


@kernel
def gelu_each(x, y):
    half, one, root_half = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(math.sqrt(0.5))  # else float32 would widen
    for i in prange(x.size):
        y[i] = half * x[i] * (one + math.erf(root_half * x[i]))


def gelu(x):
    """x Phi(x), Phi the normal distribution itself (erf), not the tanh formula. Source: Hendrycks and Gimpel 2016."""
    flat = ready("x", x, x.shape, float_type(x)).reshape(-1)
    y = np.empty_like(flat)
    gelu_each(flat, y)
    return y.reshape(x.shape)
