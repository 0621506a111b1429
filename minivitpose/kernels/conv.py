"""conv2d: slide a kernel over the padded map."""

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, ready, ready_bias, summing_kernel

TOGETHER = 8  # so many patches side by side; each kernel is fetched once for all of them


@summing_kernel
def correlate(x, weight, bias, stride, kh, kw, y):
    """y[b, o, i, j] = bias[o] + sum_k weight[o, k] patch[k], k = (c, a, b): the patch under the kernel as one row.

    x is padded already. A patch is copied out first: then both factors lie in memory as the sum reads them.
    """
    B, Cin, _, _ = x.shape
    _, Cout, height, width = y.shape
    K = Cin * kh * kw
    for r in prange(B * height):
        n, i = r // height, r % height
        patches = np.empty((TOGETHER, K), x.dtype)
        for first in range(0, width, TOGETHER):
            last = min(first + TOGETHER, width)
            for j in range(first, last):
                patch = patches[j - first].reshape(Cin, kh, kw)
                for c in range(Cin):
                    for a in range(kh):
                        for b in range(kw):
                            patch[c, a, b] = x[n, c, stride * i + a, stride * j + b]
            for o in range(Cout):
                row = weight[o]
                for j in range(first, last):
                    patch = patches[j - first]
                    total = bias[o]
                    for k in range(K):
                        total += row[k] * patch[k]
                    y[n, o, i, j] = total


def conv2d(x, weight, bias=None, stride=1, padding=0):
    """Slide a kernel over the padded map: y[o, i, j] = bias[o] + sum_cab weight[o, c, a, b] x[c, s i + a, s j + b].

    x (B, Cin, H, W), weight (Cout, Cin, kh, kw) -> (B, Cout, (H + 2 padding - kh) // stride + 1, the same for W).
    Source: torch.nn.Conv2d.
    """
    B, _, H, W = x.shape
    Cout, Cin, kh, kw = weight.shape
    dtype = float_type(x, weight)
    H, W = H + 2 * padding, W + 2 * padding
    if padding:
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    x = ready("padded x", x, (B, Cin, H, W), dtype)
    y = np.empty((B, Cout, (H - kh) // stride + 1, (W - kw) // stride + 1), dtype)
    kernels = ready("weight", weight, weight.shape, dtype).reshape(Cout, Cin * kh * kw)
    correlate(x, kernels, ready_bias(bias, Cout, dtype), stride, kh, kw, y)
    return y
