"""Mistakes in the two convolutions."""

import numpy as np

from minivitpose.layers import conv2d, conv_transpose2d
from minivitpose.teach.mistakes.table import mistake


@mistake(
    "conv2d",
    "kernel flipped",
    "the kernel is flipped, as a mathematician's convolution does",
    "Networks do not flip: multiply x[i + a, j + b] by weight[a, b].",
)
def _(x, weight, bias, stride, padding):
    return conv2d(x, weight[:, :, ::-1, ::-1], bias, stride, padding)


@mistake(
    "conv2d",
    "rows and columns of the kernel swapped",
    "the kernel is transposed",
    "weight[o, c, a, b]: a goes down the rows, b along the columns.",
)
def _(x, weight, bias, stride, padding):
    return conv2d(x, weight.swapaxes(2, 3), bias, stride, padding)


@mistake(
    "conv2d",
    "input and output channels swapped",
    "the first two axes of weight are swapped: with as many channels out as in nothing complains",
    "weight is (Cout, Cin, kh, kw): sum over axis 1.",
)
def _(x, weight, bias, stride, padding):
    return conv2d(x, weight.swapaxes(0, 1), bias, stride, padding)


@mistake(
    "conv2d", "no padding", "the map is not padded", "Put ``padding`` zeros on each side before the kernel slides."
)
def _(x, weight, bias, stride, padding):
    return conv2d(x, weight, bias, stride)


@mistake(
    "conv2d",
    "padding not with 0",
    "the border is repeated outwards",
    "Beyond the border stands 0: np.pad(..., mode='constant'), the default.",
)
def _(x, weight, bias, stride, padding):
    p = (padding, padding)
    return conv2d(np.pad(x, ((0, 0), (0, 0), p, p), "edge"), weight, bias, stride)


@mistake("conv2d", "stride ignored", "the kernel moves by 1", "It moves by ``stride`` both ways.")
def _(x, weight, bias, stride, padding):
    return conv2d(x, weight, bias, 1, padding)


@mistake("conv2d", "missing bias", "the bias is left out", "Add bias[o] to every number of output channel o.")
def _(x, weight, bias, stride, padding):
    return conv2d(x, weight, None, stride, padding)


def stamps(x, weight, stride):
    """First the whole map's shape, then where each pixel's stamp lies and what it is, in reading order."""
    B, _, H, W = x.shape
    _, Cout, kh, kw = weight.shape
    yield B, Cout, stride * (H - 1) + kh, stride * (W - 1) + kw
    for i in range(H):
        for j in range(W):
            place = slice(stride * i, stride * i + kh), slice(stride * j, stride * j + kw)
            yield (..., *place), np.tensordot(x[:, :, i, j], weight, axes=(1, 0))


def trimmed(y, bias, padding):
    y = y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]
    return y if bias is None else y + bias[:, None, None]


@mistake(
    "conv_transpose2d",
    "stamps overwrite",
    "a later stamp overwrites an earlier one where they overlap",
    "They add up: y[...] += stamp, not =.",
)
def _(x, weight, bias, stride, padding):
    shape, *rest = stamps(x, weight, stride)
    y = np.zeros(shape, x.dtype)
    for place, stamp in rest:
        y[place] = stamp
    return trimmed(y, bias, padding)


@mistake(
    "conv_transpose2d",
    "stamps averaged",
    "where stamps overlap their mean is taken",
    "They add up: no division by the number of stamps.",
)
def _(x, weight, bias, stride, padding):
    ones = conv_transpose2d(np.ones_like(x[:, :1]), np.ones_like(weight[:1]), None, stride, padding)
    y = conv_transpose2d(x, weight, None, stride, padding) / np.maximum(ones, 1)
    return y if bias is None else y + bias[:, None, None]


@mistake(
    "conv_transpose2d",
    "bias in every stamp",
    "the bias is part of every stamp, so that it adds up where they overlap",
    "Add it once, when all stamps are down.",
)
def _(x, weight, bias, stride, padding):
    shape, *rest = stamps(x, weight, stride)
    y = np.zeros(shape, x.dtype)
    for place, stamp in rest:
        y[place] += stamp if bias is None else stamp + bias[:, None, None]
    return trimmed(y, None, padding)


@mistake(
    "conv_transpose2d",
    "correlation instead of stamps",
    "the kernel lies the wrong way round: it gathers over the map spread with zeros, and is not flipped for that",
    "A stamp has weight[a, b] at row a, column b. Who gathers must flip: weight[..., ::-1, ::-1].",
)
def _(x, weight, bias, stride, padding):
    return conv_transpose2d(x, weight[:, :, ::-1, ::-1], bias, stride, padding)


@mistake(
    "conv_transpose2d",
    "rows and columns of the kernel swapped",
    "the kernel is transposed",
    "weight[c, o, a, b]: a goes down the rows, b along the columns.",
)
def _(x, weight, bias, stride, padding):
    return conv_transpose2d(x, weight.swapaxes(2, 3), bias, stride, padding)


@mistake(
    "conv_transpose2d",
    "input and output channels swapped",
    "weight is read as (Cout, Cin, kh, kw), as in conv2d: with as many channels out as in nothing complains",
    "Here it is (Cin, Cout, kh, kw): sum over axis 0.",
)
def _(x, weight, bias, stride, padding):
    return conv_transpose2d(x, weight.swapaxes(0, 1), bias, stride, padding)


@mistake(
    "conv_transpose2d",
    "cropped at the end alone",
    "all that the padding takes is cut off the last rows and columns",
    "Cut ``padding`` rows and columns off each side.",
)
def _(x, weight, bias, stride, padding):
    y = conv_transpose2d(x, weight, bias, stride)
    return y[:, :, : y.shape[2] - 2 * padding, : y.shape[3] - 2 * padding]


@mistake(
    "conv_transpose2d",
    "cropped at the start alone",
    "all that the padding takes is cut off the first rows and columns",
    "Cut ``padding`` rows and columns off each side.",
)
def _(x, weight, bias, stride, padding):
    return conv_transpose2d(x, weight, bias, stride)[:, :, 2 * padding :, 2 * padding :]


@mistake("conv_transpose2d", "padding ignored", "nothing is cut off", "Cut ``padding`` rows and columns off each side.")
def _(x, weight, bias, stride, padding):
    return conv_transpose2d(x, weight, bias, stride)


@mistake("conv_transpose2d", "missing bias", "the bias is left out", "Add bias[o] to every number of output channel o.")
def _(x, weight, bias, stride, padding):
    return conv_transpose2d(x, weight, None, stride, padding)


@mistake(
    "conv_transpose2d",
    "float64 leaks in",
    "the map starts as np.zeros(shape), which is float64",
    "np.zeros(shape, x.dtype).",
)
def _(x, weight, bias, stride, padding):
    return conv_transpose2d(x, weight, bias, stride, padding).astype(np.float64)
