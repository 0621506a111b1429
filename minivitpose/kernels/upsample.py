"""upsample_bilinear: enlarge a map by linear interpolation."""

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, kernel, ready


@kernel
def blend(x, top, bottom, down, left, right, along, y):
    """Each output pixel is a mixture of four input pixels: of two pairs along the rows, then of these two down."""
    M, height, width = y.shape
    one = x.dtype.type(1)
    for m in prange(M):
        for i in range(height):
            above, below = x[m, top[i]], x[m, bottom[i]]
            for j in range(width):
                upper = (one - along[j]) * above[left[j]] + along[j] * above[right[j]]
                lower = (one - along[j]) * below[left[j]] + along[j] * below[right[j]]
                y[m, i, j] = (one - down[i]) * upper + down[i] * lower


def neighbours(n, m, dtype):
    """For each of m output samples the two of n input samples that it lies between, and how far it is to the second."""
    centre = np.maximum((np.arange(m) + 0.5) * n / m - 0.5, 0)
    left = np.floor(centre).astype(np.int64)
    return left, np.minimum(left + 1, n - 1), (centre - left).astype(dtype)


def upsample_bilinear(x, scale=4):
    """Enlarge a map by linear interpolation, first down the rows and then along them. (B, C, H, W) -> (B, C, s H, s W).

    Source: torch.nn.functional.interpolate(mode="bilinear", align_corners=False).
    """
    *maps, H, W = x.shape
    dtype = float_type(x)
    y = np.empty((*maps, scale * H, scale * W), dtype)
    flat = ready("x", x, x.shape, dtype).reshape(-1, H, W)
    blend(flat, *neighbours(H, scale * H, dtype), *neighbours(W, scale * W, dtype), y.reshape(-1, scale * H, scale * W))
    return y
