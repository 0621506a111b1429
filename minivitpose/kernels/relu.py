"""relu: max(x, 0)."""

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, kernel, ready


@kernel
def relu_each(x, y):
    zero = x.dtype.type(0)
    for i in prange(x.size):
        y[i] = zero if x[i] < zero else x[i]  # asked this way round nan stays nan


def relu(x):
    """max(x, 0)."""
    flat = ready("x", x, x.shape, float_type(x)).reshape(-1)
    y = np.empty_like(flat)
    relu_each(flat, y)
    return y.reshape(x.shape)
