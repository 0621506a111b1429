"""conv_transpose2d: every input pixel stamps the kernel onto a larger map."""

import numpy as np
from numba import prange

from minivitpose.kernels.jit import float_type, ready, ready_bias, summing_kernel


@summing_kernel
def gather(x, weight, bias, stride, padding, y):
    """Each output pixel sums the taps that reach it: y[o, i, j] = bias[o] + sum_abc weight[c, o, a, b] x[c, ii, jj].

    Tap a carries input row ii to output row stride ii + a - padding, so the taps that reach row i are those of
    a = i + padding (mod stride), and they come from ii = (i + padding - a) / stride, where such a row exists.
    Gathered, not scattered: no two threads ever add to the same pixel. x is (B, H, W, Cin) and an output channel's
    taps are copied to (kh, kw, Cin): then both factors lie in memory as the sum over c reads them.
    """
    B, H, W, Cin = x.shape
    _, Cout, kh, kw = weight.shape
    _, _, height, width = y.shape
    for o in prange(Cout):
        taps = np.empty((kh, kw, Cin), x.dtype)
        for c in range(Cin):
            for a in range(kh):
                for b in range(kw):
                    taps[a, b, c] = weight[c, o, a, b]
        for n in range(B):
            for i in range(height):
                for j in range(width):
                    total = bias[o]
                    for a in range((i + padding) % stride, kh, stride):
                        ii = (i + padding - a) // stride
                        if 0 <= ii < H:
                            for b in range((j + padding) % stride, kw, stride):
                                jj = (j + padding - b) // stride
                                if 0 <= jj < W:
                                    tap, pixel = taps[a, b], x[n, ii, jj]
                                    for c in range(Cin):
                                        total += tap[c] * pixel[c]
                    y[n, o, i, j] = total


def conv_transpose2d(x, weight, bias=None, stride=2, padding=0, output_padding=0):
    """Every input pixel stamps the kernel, times its value, onto a larger map; stamps that overlap add up.

    x (B, Cin, H, W), weight (Cin, Cout, kh, kw) -> (B, Cout, stride (H - 1) + kh - 2 padding + output_padding, ...).
    Source: torch.nn.ConvTranspose2d, the transpose of conv2d's matrix.
    """
    B, _, H, W = x.shape
    Cin, Cout, kh, kw = weight.shape
    dtype = float_type(x, weight)
    pixels = ready("x", x.transpose(0, 2, 3, 1), (B, H, W, Cin), dtype)
    height, width = (stride * (n - 1) + k - 2 * padding + output_padding for n, k in ((H, kh), (W, kw)))
    y = np.empty((B, Cout, height, width), dtype)
    gather(pixels, ready("weight", weight, weight.shape, dtype), ready_bias(bias, Cout, dtype), stride, padding, y)
    return y
