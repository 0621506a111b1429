"""Mistakes in the derivatives of single layers. Most are the right gradients with one of them spoiled."""

import numpy as np

from minivitpose import gradients as right
from minivitpose.layers import softmax
from minivitpose.teach.mistakes.table import mistake


def spoiled(result, grad_x=None, **changes):
    """(grad_x, gradients) with some put through functions, by name, where they are there."""
    first, gradients = result
    gradients = gradients | {name: f(gradients[name]) for name, f in changes.items() if name in gradients}
    return first if grad_x is None else grad_x(first), gradients


# ---------------------------------------------------------------------------- what has a weight and a bias

CONVOLUTIONS = ("conv2d_backward", "conv_transpose2d_backward")


def enter_common():
    """The same for every layer with a weight and a bias."""
    for step in ("linear_backward", "layer_norm_backward", *CONVOLUTIONS, "batch_norm_training_backward"):
        backward = getattr(right, step)

        def averaged(x, grad, weight, bias, *rest, backward=backward, **more):
            share = 0 if bias is None else len(bias) / grad.size
            return spoiled(backward(x, grad, weight, bias, *rest, **more), bias=lambda g: g * g.dtype.type(share))

        mistake(
            step,
            "bias gradient averaged",
            "the bias's gradient is the mean of grad",
            "The bias was added in many places, and each gives its share: the sum, not the mean.",
        )(averaged)

    for step in ("linear_backward", "layer_norm_backward", *CONVOLUTIONS):
        backward = getattr(right, step)

        def first(x, grad, *rest, backward=backward, **more):
            return backward(x, grad, *rest, **more)[0], backward(x[:1], grad[:1], *rest, **more)[1]

        mistake(
            step,
            "only the first of the batch",
            "the gradients of weight and bias come from the first image alone",
            "All images used them: sum over the batch, too.",
        )(first)


enter_common()


@mistake(
    "linear_backward",
    "batch not summed",
    "the weight's gradient keeps the axis of the batch",
    "Sum over every token of every image: grad.reshape(-1, Cout).T @ x.reshape(-1, Cin).",
)
def _(x, grad, weight, bias):
    return spoiled(right.linear_backward(x, grad, weight, bias), weight=lambda _: grad.swapaxes(-1, -2) @ x)


@mistake(
    "linear_backward",
    "weight gradient transposed",
    "the weight's gradient is transposed: with as many outputs as inputs nothing complains",
    "It has the shape of weight, (Cout, Cin): grad^T x.",
)
def _(x, grad, weight, bias):
    return spoiled(right.linear_backward(x, grad, weight, bias), weight=lambda g: g.T)


@mistake(
    "linear_backward",
    "weight transposed for x",
    "the gradient of x is grad W^T",
    "Forward had W^T, so backward has W itself: grad @ weight.",
)
def _(x, grad, weight, bias):
    return spoiled(right.linear_backward(x, grad, weight, bias), grad_x=lambda _: grad @ weight.T)


def enter_convolutions():
    for step in CONVOLUTIONS:
        backward = getattr(right, step)

        def flipped(x, grad, weight, bias, stride, padding, backward=backward):
            turned = backward(x, grad, weight[:, :, ::-1, ::-1], bias, stride, padding)[0]
            return turned, backward(x, grad, weight, bias, stride, padding)[1]

        def swapped(x, grad, weight, bias, stride, padding, backward=backward):
            return spoiled(backward(x, grad, weight, bias, stride, padding), weight=lambda g: g.swapaxes(0, 1))

        mistake(
            step,
            "kernel the wrong way round",
            "the gradient of x is made with the kernel turned by 180 degrees",
            "What conv2d gathers its derivative stamps back, and the other way round, both with weight as it is.",
        )(flipped)
        mistake(
            step,
            "channels of the weight gradient swapped",
            "input and output channels of the weight's gradient are swapped",
            "It has the shape of weight itself.",
        )(swapped)


enter_convolutions()


@mistake(
    "positions_backward",
    "slot 0 forgotten",
    "slot 0 gets no gradient",
    "It was added to every token: its gradient is the sum over the batch and all tokens.",
)
def _(x, grad, pos_embed):
    def without(g):
        return np.concatenate([0 * g[:, :1], g[:, 1:]], axis=1)

    return spoiled(right.add_positions_backward(x, grad, pos_embed), pos_embed=without)


@mistake(
    "positions_backward",
    "batch not summed",
    "each image gives a gradient of its own",
    "All images share the positions: sum over the batch, keepdims=True.",
)
def _(x, grad, pos_embed):
    return grad, {"pos_embed": np.concatenate([grad.sum(1, keepdims=True), grad], axis=1)}


# ------------------------------------------------------------------------------------------------- norm and softmax


def norm_backward(x, grad, weight, bias, eps, mean=1, stretch=1, divide=1, ddof=0):
    """layer_norm_backward with factors on its terms."""
    std = np.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps)
    n, g = (x - x.mean(-1, keepdims=True)) / std, grad * weight
    taken = mean * g.mean(-1, keepdims=True) + stretch * n * (g * n).mean(-1, keepdims=True)
    gradients = {"weight": right.sum_to(grad * n, -1), "bias": right.sum_to(grad, -1)}
    return (g - taken) / (std if divide else 1), gradients


@mistake(
    "layer_norm_backward",
    "mean of g forgotten",
    "mean(g) is not taken off",
    "The mean depends on x, too: dL/dx = (g - mean(g) - n mean(g n)) / std.",
)
def _(x, grad, weight, bias, eps):
    return norm_backward(x, grad, weight, bias, eps, mean=0)


@mistake(
    "layer_norm_backward",
    "mean of g n forgotten",
    "n mean(g n) is not taken off",
    "The variance depends on x, too: dL/dx = (g - mean(g) - n mean(g n)) / std.",
)
def _(x, grad, weight, bias, eps):
    return norm_backward(x, grad, weight, bias, eps, stretch=0)


@mistake(
    "layer_norm_backward",
    "mean and variance taken for constants",
    "both terms are forgotten: mean and variance are taken for constants",
    "Both depend on x: dL/dx = (g - mean(g) - n mean(g n)) / std.",
)
def _(x, grad, weight, bias, eps):
    return norm_backward(x, grad, weight, bias, eps, mean=0, stretch=0)


@mistake("layer_norm_backward", "not divided by std", "the last division by std is missing", "Divide all three terms.")
def _(x, grad, weight, bias, eps):
    return norm_backward(x, grad, weight, bias, eps, divide=0)


@mistake(
    "layer_norm_backward",
    "unbiased variance",
    "the variance is divided by C - 1",
    "Use the forward pass's own, the mean of the squares.",
)
def _(x, grad, weight, bias, eps):
    return norm_backward(x, grad, weight, bias, eps, ddof=1)


@mistake("layer_norm_backward", "eps missing", "eps is left out", "Use the forward pass's std: sqrt(variance + eps).")
def _(x, grad, weight, bias, eps):
    return norm_backward(x, grad, weight, bias, 0)


@mistake(
    "layer_norm_backward",
    "weight forgotten",
    "grad is not multiplied by the weight",
    "g = grad weight is what arrives at the normalised x.",
)
def _(x, grad, weight, bias, eps):
    grads = norm_backward(x, grad, weight, bias, eps)[1]
    return norm_backward(x, grad, 1, bias, eps)[0], grads


@mistake(
    "layer_norm_backward",
    "weight gradient of x itself",
    "the weight's gradient is sum(grad x)",
    "The weight met the normalised x: sum(grad n).",
)
def _(x, grad, weight, bias, eps):
    return spoiled(norm_backward(x, grad, weight, bias, eps), weight=lambda _: right.sum_to(grad * x, -1))


@mistake(
    "softmax_backward",
    "diagonal alone",
    "the Jacobian is reduced to its diagonal, y (1 - y)",
    "Every output depends on every score of its row: y (grad - sum_j grad_j y_j).",
)
def diagonal(x, grad):
    y = softmax(x)
    return y * (1 - y) * grad


@mistake("softmax_backward", "sum forgotten", "the sum over the row is left out", "y (grad - sum_j grad_j y_j).")
def sum_forgotten(x, grad):
    return softmax(x) * grad


@mistake(
    "softmax_backward", "sum over the wrong axis", "the sum goes down the columns", "It goes along the row: axis=-1."
)
def wrong_axis(x, grad):
    y = softmax(x)
    return y * (grad - (grad * y).sum(0, keepdims=True))


@mistake(
    "softmax_backward",
    "x taken for softmax's result",
    "x is used as if softmax had been taken already",
    "x is what went in: y = softmax(x) first.",
)
def _(x, grad):
    return x * (grad - (grad * x).sum(-1, keepdims=True))
