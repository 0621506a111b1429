"""Mistakes in what else works on maps: batch norm, relu, upsampling."""

import numpy as np

from minivitpose import layers
from minivitpose.layers import batch_norm
from minivitpose.teach.mistakes.table import mistake

# ------------------------------------------------------------------------------------------- batch norm, relu


@mistake(
    "batch_norm",
    "batch statistics",
    "mean and variance are those of this batch, as in training",
    "A trained network uses running_mean and running_var, so that one image does not change another's result.",
)
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, bias, x.mean((0, 2, 3)), x.var((0, 2, 3)), eps=eps)


@mistake(
    "batch_norm",
    "no root",
    "x is divided by the variance",
    "Divide by its root: sqrt(running_var + eps).",
)
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, bias, running_mean, np.square(running_var + eps) - eps, eps=eps)


@mistake("batch_norm", "eps missing", "eps is left out", "sqrt(running_var + eps).")
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, bias, running_mean, running_var, eps=0)


@mistake("batch_norm", "eps 1e-6", "eps is 1e-6, that of the layer norms", "Batch norm has 1e-5: use the argument eps.")
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, bias, running_mean, running_var, eps=1e-6)


@mistake("batch_norm", "eps fixed", "eps is always 1e-5", "Use the argument eps: others call with another one.")
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, bias, running_mean, running_var, eps=1e-5)


@mistake("batch_norm", "eps outside the root", "eps is added outside the root", "sqrt(running_var + eps).")
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, bias, running_mean, np.square(np.sqrt(running_var) + eps), eps=0)


@mistake("batch_norm", "no centring", "running_mean is not taken off", "(x - running_mean) first.")
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, bias, 0 * running_mean, running_var, eps=eps)


@mistake("batch_norm", "missing weight", "the weight is left out", "Multiply by weight[c] before you add bias[c].")
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, np.ones_like(weight), bias, running_mean, running_var, eps=eps)


@mistake("batch_norm", "missing bias", "the bias is left out", "Add bias[c] at the end.")
def _(x, weight, bias, running_mean, running_var, eps):
    return batch_norm(x, weight, 0 * bias, running_mean, running_var, eps=eps)


@mistake(
    "batch_norm",
    "columns taken for channels",
    "the statistics run along the columns: with as many columns as channels nothing complains",
    "The channels are axis 1: running_mean[:, None, None].",
)
def _(x, weight, bias, running_mean, running_var, eps):
    return (x - running_mean) * (weight / np.sqrt(running_var + eps)) + bias


@mistake("relu", "absolute value", "the sign is dropped", "What is negative becomes 0: np.maximum(x, 0).")
def _(x):
    return np.abs(x)


@mistake("relu", "minimum", "the minimum is taken", "np.maximum(x, 0).")
def _(x):
    return np.minimum(x, 0)


@mistake("relu", "leaky", "a hundredth of what is negative is kept (leaky relu)", "What is negative becomes 0.")
def _(x):
    return np.where(x > 0, x, x / 100)


@mistake("relu", "step instead of relu", "1 comes out where x is above 0", "x itself comes out there: x * (x > 0).")
def _(x):
    return (x > 0).astype(x.dtype)


# -------------------------------------------------------------------------------------------------------- upsampling


def upsampled(x, scale, weights):
    """weights(n, m) -> the matrix that makes m samples of n."""
    rows, columns = (weights(n, n * scale).astype(x.dtype) for n in x.shape[2:])
    return rows @ x @ columns.T


def at(place):
    """place(i, n, m): where output i of m lies among the n inputs -> a function (n, m) -> matrix."""

    def weights(n, m):
        centre = np.clip(place(np.arange(m), n, m), 0, n - 1)
        return np.maximum(1 - np.abs(centre[:, None] - np.arange(n)), 0)

    return weights


@mistake(
    "upsample_bilinear",
    "corners aligned",
    "the corner samples lie on each other (align_corners=True)",
    "Pixels are squares: output i lies at (i + 0.5) / scale - 0.5.",
)
def _(x, scale):
    return upsampled(x, scale, at(lambda i, n, m: i * (n - 1) / max(m - 1, 1)))


@mistake(
    "upsample_bilinear",
    "half-pixel offset",
    "output i is taken at i / scale",
    "Pixels are squares with their centre at + 0.5: (i + 0.5) / scale - 0.5.",
)
def _(x, scale):
    return upsampled(x, scale, at(lambda i, n, m: i * n / m))


@mistake(
    "upsample_bilinear",
    "nearest neighbour",
    "each pixel is repeated",
    "Take the two neighbours each way, each by its nearness.",
)
def _(x, scale):
    return x.repeat(scale, axis=2).repeat(scale, axis=3)


@mistake(
    "upsample_bilinear",
    "0 beyond the border",
    "beyond the border stands 0, so that the rim fades",
    "There the border's own value goes on: clip the position to 0 .. n - 1.",
)
def _(x, scale):
    def weights(n, m):
        return np.maximum(1 - np.abs(((np.arange(m) + 0.5) * n / m - 0.5)[:, None] - np.arange(n)), 0)

    return upsampled(x, scale, weights)


@mistake(
    "upsample_bilinear",
    "one axis only",
    "only the rows are interpolated, the columns are repeated",
    "Interpolate down the rows and along them.",
)
def _(x, scale):
    rows = layers.bilinear_weights(x.shape[2], x.shape[2] * scale).astype(x.dtype)
    return (rows @ x).repeat(scale, axis=3)


@mistake(
    "upsample_bilinear",
    "float64 leaks in",
    "the table of weights is float64",
    "Make it of x's dtype: weights.astype(x.dtype).",
)
def _(x, scale):
    return layers.upsample_bilinear(x.astype(np.float64), scale)
