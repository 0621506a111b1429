"""Mistakes in layer norm and softmax."""

import numpy as np

from minivitpose.layers import softmax
from minivitpose.teach.mistakes.table import mistake


def normed(x, weight, bias, eps, axis=-1):
    centred = x - x.mean(axis, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis, keepdims=True) + eps) * weight + bias


@mistake(
    "layer_norm",
    "unbiased variance",
    "the variance is divided by C - 1 (unbiased)",
    "LayerNorm divides by C: use the mean of the squares.",
)
def _(x, weight, bias, eps):
    centred, C = x - x.mean(-1, keepdims=True), x.shape[-1]
    return centred / np.sqrt(np.square(centred).sum(-1, keepdims=True) / (C - 1) + eps) * weight + bias


@mistake(
    "layer_norm",
    "eps outside the root",
    "eps is added to the standard deviation, outside the root",
    "Add it to the variance: sqrt(variance + eps).",
)
def _(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + eps) * weight + bias


@mistake(
    "layer_norm",
    "eps missing",
    "eps is left out: a token of equal numbers is 0 / 0",
    "Add it to the variance: sqrt(variance + eps).",
)
def _(x, weight, bias, eps):
    return normed(x, weight, bias, 0)


@mistake(
    "layer_norm",
    "eps 1e-5",
    "eps is 1e-5, PyTorch's default",
    "ViTPose has 1e-6: use the argument eps.",
)
def _(x, weight, bias, eps):
    return normed(x, weight, bias, 1e-5)


@mistake(
    "layer_norm",
    "eps 1e-12",
    "eps is 1e-12, the default of BERT and of Hugging Face's ViT",
    "ViTPose has 1e-6: use the argument eps.",
)
def _(x, weight, bias, eps):
    return normed(x, weight, bias, 1e-12)


@mistake(
    "layer_norm",
    "eps fixed",
    "eps is always 1e-6",
    "Use the argument eps: others call with another one.",
)
def _(x, weight, bias, eps):
    return normed(x, weight, bias, 1e-6)


@mistake(
    "layer_norm",
    "no centring",
    "x is divided by its standard deviation, but its mean is not taken off",
    "Take the mean off first: x - mean.",
)
def _(x, weight, bias, eps):
    return x / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


@mistake(
    "layer_norm",
    "mean square about 0",
    "x is divided by the root of its mean square and no mean is taken off (that is RMSNorm)",
    "Take the mean off before you square, and use the centred x above the fraction, too.",
)
def _(x, weight, bias, eps):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * weight + bias


@mistake(
    "layer_norm",
    "variance about 0",
    "the mean is taken off above the fraction alone: the squares are those of x itself",
    "The variance is the mean of (x - mean)^2.",
)
def _(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * weight + bias


@mistake(
    "layer_norm",
    "normalised over the tokens",
    "mean and variance go over the tokens",
    "They go over the channels of one token: axis=-1, keepdims=True.",
)
def _(x, weight, bias, eps):
    return normed(x, weight, bias, eps, -2)


@mistake(
    "layer_norm",
    "normalised over the batch",
    "mean and variance go over the batch",
    "They go over the channels of one token: axis=-1, keepdims=True.",
)
def _(x, weight, bias, eps):
    return normed(x, weight, bias, eps, 0)


@mistake(
    "layer_norm",
    "normalised over everything",
    "one mean and one variance serve the whole array",
    "Each token has its own: axis=-1, keepdims=True.",
)
def _(x, weight, bias, eps):
    return normed(x, weight, bias, eps, None)


@mistake("layer_norm", "missing weight", "the weight is left out", "Multiply by weight before you add bias.")
def _(x, weight, bias, eps):
    return normed(x, 1, bias, eps)


@mistake("layer_norm", "missing bias", "the bias is left out", "Add it at the end.")
def _(x, weight, bias, eps):
    return normed(x, weight, 0, eps)


@mistake(
    "layer_norm",
    "bias before weight",
    "the bias is added first and then multiplied by the weight",
    "First times weight, then plus bias.",
)
def _(x, weight, bias, eps):
    return (normed(x, 1, 0, eps) + bias) * weight


@mistake(
    "layer_norm",
    "no root",
    "x is divided by the variance",
    "Divide by its root, the standard deviation: sqrt(variance + eps).",
)
def _(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / (x.var(-1, keepdims=True) + eps) * weight + bias


# ---------------------------------------------------------------------------------------------------------- softmax


@mistake(
    "softmax",
    "softmax over the wrong axis",
    "each column sums to 1, not each row",
    "Maximum and sum go along the last axis: axis=-1, keepdims=True.",
)
def _(x):
    return softmax(x.swapaxes(-1, -2)).swapaxes(-1, -2)


@mistake(
    "softmax",
    "softmax over the batch",
    "the sum goes along the first axis",
    "Maximum and sum go along the last axis: axis=-1, keepdims=True.",
)
def _(x):
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


@mistake(
    "softmax",
    "softmax over everything",
    "the whole array sums to 1, not each row",
    "Sum along the last axis: axis=-1, keepdims=True.",
)
def _(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@mistake(
    "softmax",
    "no maximum subtracted",
    "the maximum is not taken off first: exp of a large score is infinite",
    "exp(x - max) / sum exp(x - max): it cancels in the quotient.",
)
def _(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


@mistake(
    "softmax",
    "one maximum for all rows",
    "the maximum of the whole array is taken off: rows far below it become 0 / 0",
    "Each row has its own: x.max(axis=-1, keepdims=True).",
)
def _(x):
    e = np.exp(x - x.max())
    return e / e.sum(-1, keepdims=True)


@mistake(
    "softmax", "not divided by the sum", "exp is not divided by its sum", "Divide by e.sum(axis=-1, keepdims=True)."
)
def _(x):
    return np.exp(x - x.max(-1, keepdims=True))


@mistake(
    "softmax", "logarithm of it", "the logarithm of softmax is returned", "Divide the exp by their sum: no logarithm."
)
def _(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
