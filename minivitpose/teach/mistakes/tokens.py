"""Mistakes in the layers that see each token alone: linear, GELU, the MLP."""

import math

import numpy as np

from minivitpose.layers import gelu, linear
from minivitpose.teach.mistakes.table import mistake

# ------------------------------------------------------------------------------------------------------------ linear


@mistake("linear", "missing bias", "the bias is left out", "Add it to the last axis: x W^T + b.")
def _(x, weight, bias):
    return linear(x, weight)


@mistake(
    "linear",
    "weight not transposed",
    "x is multiplied by W, not by its transpose: with as many outputs as inputs nothing complains",
    "weight is (Cout, Cin): x @ weight.T.",
)
def _(x, weight, bias):
    return x @ weight if bias is None else x @ weight + bias


@mistake(
    "linear",
    "bias before the product",
    "the bias is added before the product",
    "First x W^T, then the bias.",
)
def _(x, weight, bias):
    return linear(x if bias is None else x + bias, weight)


# ------------------------------------------------------------------------------------------------ GELU and the MLP


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@mistake(
    "gelu",
    "tanh formula",
    "Phi is taken from the tanh formula, which is 5e-4 off",
    "ViTPose has the exact one: 0.5 (1 + erf(x / sqrt(2))).",
)
def _(x):
    return tanh_gelu(x)


@mistake(
    "gelu",
    "sigmoid formula",
    "Phi(x) is taken to be sigmoid(1.702 x)",
    "That is 2e-2 off; use 0.5 (1 + erf(x / sqrt(2))).",
)
def _(x):
    return x / (1 + np.exp(-1.702 * x))


@mistake("gelu", "silu", "Phi(x) is taken to be sigmoid(x): that is SiLU", "Use 0.5 (1 + erf(x / sqrt(2))).")
def _(x):
    return x / (1 + np.exp(-x))


@mistake("gelu", "relu", "it is relu", "GELU lets a little of the negative side through: x Phi(x).")
def _(x):
    return np.maximum(x, 0)


@mistake("gelu", "root of 2 missing", "erf is taken of x itself", "Phi(x) = 0.5 (1 + erf(x / sqrt(2))).")
def _(x):
    return gelu(x * math.sqrt(2)) / math.sqrt(2)


@mistake("gelu", "half missing", "the factor 1/2 is left out", "Phi(x) = 0.5 (1 + erf(x / sqrt(2))).")
def _(x):
    return 2 * gelu(x)


@mistake("gelu", "x missing", "Phi(x) is returned", "GELU is x Phi(x).")
def _(x):
    return np.where(x == 0, x.dtype.type(0.5), gelu(x) / np.where(x == 0, x.dtype.type(1), x))


@mistake(
    "gelu",
    "float64 leaks in",
    "a NumPy float64 such as np.sqrt(2), or erf's table, turns float32 into float64",
    "Use math.sqrt(2), a plain number, and erf(...).astype(x.dtype).",
)
def _(x):
    return gelu(x.astype(np.float64))


@mistake("mlp", "relu instead of GELU", "relu stands between the two layers", "ViT has a GELU there.")
def _(x, fc1, fc2):
    return linear(np.maximum(linear(x, **fc1), 0), **fc2)


@mistake("mlp", "tanh formula", "the GELU is the tanh formula", "Use the exact one, by erf.")
def _(x, fc1, fc2):
    return linear(tanh_gelu(linear(x, **fc1)), **fc2)


@mistake(
    "mlp",
    "no activation",
    "nothing stands between the two layers, which together are then one linear layer",
    "Put a GELU between them.",
)
def _(x, fc1, fc2):
    return linear(linear(x, **fc1), **fc2)


@mistake("mlp", "activation after both", "a GELU follows the second layer, too", "It stands between the two alone.")
def _(x, fc1, fc2):
    return gelu(linear(gelu(linear(x, **fc1)), **fc2))


@mistake("mlp", "bias of fc1 missing", "the bias of fc1 is left out", "Add it before the GELU: linear(x, **fc1).")
def _(x, fc1, fc2):
    return linear(gelu(x @ fc1["weight"].T), **fc2)


@mistake("mlp", "bias of fc2 missing", "the bias of fc2 is left out", "Add it at the end: linear(hidden, **fc2).")
def _(x, fc1, fc2):
    return gelu(linear(x, **fc1)) @ fc2["weight"].T
