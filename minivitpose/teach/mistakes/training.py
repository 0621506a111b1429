"""Mistakes in what only training has: batch norm by the batch, and the loss."""

import numpy as np

from minivitpose import gradients as right
from minivitpose.layers import batch_norm
from minivitpose.teach.mistakes.table import mistake
from minivitpose.training.loss import heatmap_loss, heatmap_loss_backward


def batch(x, ddof=0, axes=(0, 2, 3)):
    """Mean and variance, each (C,), or with other axes (1, C, ...)."""
    return x.mean(axes, dtype=np.float64).astype(x.dtype), x.var(axes, dtype=np.float64, ddof=ddof).astype(x.dtype)


def training(x, weight, bias, old_mean, old_var, eps, momentum, used=None, kept=None):
    """batch_norm_training that normalises by ``used`` and moves towards ``kept``, both (mean, variance)."""
    mean, var = used or batch(x)
    new_mean, new_var = kept or (batch(x)[0], batch(x, ddof=1)[1])
    moved = {
        "running_mean": (1 - momentum) * old_mean + momentum * new_mean,
        "running_var": (1 - momentum) * old_var + momentum * new_var,
    }
    return batch_norm(x, weight, bias, mean, var, eps=eps), moved


@mistake(
    "batch_norm_training",
    "running statistics",
    "x is normalised by the running statistics, as after training",
    "In training mean and variance are those of the batch.",
)
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    statistics = running_mean, running_var
    return training(x, weight, bias, *statistics, eps, momentum, used=statistics)


@mistake(
    "batch_norm_training",
    "unbiased variance",
    "x is normalised by the variance with n - 1",
    "Normalise by the mean of the squares; n - 1 is for running_var alone.",
)
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    return training(x, weight, bias, running_mean, running_var, eps, momentum, used=batch(x, ddof=1))


@mistake(
    "batch_norm_training",
    "running variance biased",
    "running_var moves towards the variance with n",
    "PyTorch keeps the unbiased one, with n - 1, and normalises by the other.",
)
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    return training(x, weight, bias, running_mean, running_var, eps, momentum, kept=batch(x))


@mistake(
    "batch_norm_training",
    "momentum the wrong way",
    "momentum is the share of the old statistics",
    "It is that of the new: (1 - momentum) running + momentum new.",
)
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    return training(x, weight, bias, running_mean, running_var, eps, 1 - momentum)


@mistake(
    "batch_norm_training",
    "running statistics not moved",
    "the running statistics stay as they are",
    "Move them: (1 - momentum) running + momentum new.",
)
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    return training(x, weight, bias, running_mean, running_var, eps, 0)


@mistake("batch_norm_training", "eps missing", "eps is left out", "sqrt(variance + eps).")
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    return training(x, weight, bias, running_mean, running_var, 0, momentum)


@mistake("batch_norm_training", "eps fixed", "eps is always 1e-5", "Use the argument eps.")
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    return training(x, weight, bias, running_mean, running_var, 1e-5, momentum)


@mistake(
    "batch_norm_training",
    "statistics of each image",
    "each image is normalised by its own mean and variance",
    "They go over the batch and the map together: axis=(0, 2, 3).",
)
def _(x, weight, bias, running_mean, running_var, eps, momentum):
    mean, var = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    y = (x - mean) / np.sqrt(var + eps) * weight[:, None, None] + bias[:, None, None]
    return y, training(x, weight, bias, running_mean, running_var, eps, momentum)[1]


def batch_backward(x, grad, weight, eps, mean=1, stretch=1):
    """batch_norm_training_backward with factors on its terms."""
    m, v = (s[:, None, None] for s in batch(x))
    std = np.sqrt(v + eps)
    n, axes = (x - m) / std, dict(axis=(0, 2, 3), keepdims=True)
    taken = mean * grad.mean(**axes) + stretch * n * (grad * n).mean(**axes)
    gradients = {"weight": right.sum_to(grad * n, 1), "bias": right.sum_to(grad, 1)}
    return weight[:, None, None] * (grad - taken) / std, gradients


@mistake(
    "batch_norm_training_backward",
    "running statistics",
    "the derivative is that of batch norm after training, by the running statistics",
    "In training mean and variance are the batch's, and depend on x.",
)
def _(x, grad, weight, bias, running_mean, running_var, eps):
    return right.batch_norm_backward(x, grad, weight, bias, running_mean, running_var, eps=eps)


@mistake(
    "batch_norm_training_backward",
    "mean of grad forgotten",
    "mean(grad) is not taken off",
    "The mean depends on x, too: w (grad - mean(grad) - n mean(grad n)) / std.",
)
def _(x, grad, weight, bias, running_mean, running_var, eps):
    return batch_backward(x, grad, weight, eps, mean=0)


@mistake(
    "batch_norm_training_backward",
    "mean of grad n forgotten",
    "n mean(grad n) is not taken off",
    "The variance depends on x, too: w (grad - mean(grad) - n mean(grad n)) / std.",
)
def _(x, grad, weight, bias, running_mean, running_var, eps):
    return batch_backward(x, grad, weight, eps, stretch=0)


@mistake(
    "batch_norm_training_backward",
    "mean and variance taken for constants",
    "both terms are forgotten: mean and variance are taken for constants",
    "Both depend on x: w (grad - mean(grad) - n mean(grad n)) / std.",
)
def _(x, grad, weight, bias, running_mean, running_var, eps):
    return batch_backward(x, grad, weight, eps, mean=0, stretch=0)


@mistake(
    "batch_norm_training_backward",
    "weight forgotten",
    "grad is not multiplied by the weight",
    "w (grad - mean(grad) - n mean(grad n)) / std.",
)
def _(x, grad, weight, bias, running_mean, running_var, eps):
    return batch_backward(x, grad, np.ones_like(weight), eps)[0], batch_backward(x, grad, weight, eps)[1]


@mistake("batch_norm_training_backward", "eps missing", "eps is left out", "Use the forward pass's std.")
def _(x, grad, weight, bias, running_mean, running_var, eps):
    return batch_backward(x, grad, weight, 0)


# ---------------------------------------------------------------------------------------------------------------- loss


def root(weight):
    return np.sqrt(weight)


@mistake(
    "heatmap_loss",
    "divided by the wrong count",
    "the sum is divided by the pixels of the marked keypoints alone",
    "Keypoints of weight 0 count in the mean, as in mmpose: divide by heatmaps.size.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss(heatmaps, targets, target_weight) * target_weight.size / np.count_nonzero(target_weight)


@mistake(
    "heatmap_loss",
    "divided by the weights' sum",
    "the sum is divided by the sum of the weights and by the pixels of a map",
    "It is a plain mean: divide by heatmaps.size.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss(heatmaps, targets, target_weight) * target_weight.size / float(target_weight.sum())


@mistake(
    "heatmap_loss",
    "divided by the batch alone",
    "the sum is divided by B",
    "It is a mean over everything: divide by heatmaps.size.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss(heatmaps, targets, target_weight) * heatmaps[0].size


@mistake("heatmap_loss", "not divided", "the sum is returned", "It is a mean: divide by heatmaps.size.")
def _(heatmaps, targets, target_weight):
    return heatmap_loss(heatmaps, targets, target_weight) * heatmaps.size


@mistake("heatmap_loss", "half of it", "half of the mean is returned, as in HRNet", "No factor 1/2.")
def _(heatmaps, targets, target_weight):
    return heatmap_loss(heatmaps, targets, target_weight) / 2


@mistake(
    "heatmap_loss",
    "weights not squared",
    "the squares are multiplied by the weight",
    "The weight stands inside the square: ((heatmaps - targets) weight)^2.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss(heatmaps, targets, root(target_weight))


@mistake("heatmap_loss", "weights ignored", "the weights are left out", "((heatmaps - targets) weight)^2.")
def _(heatmaps, targets, target_weight):
    return heatmap_loss(heatmaps, targets, np.ones_like(target_weight))


@mistake("heatmap_loss", "absolute differences", "the differences are not squared", "((heatmaps - targets) weight)^2.")
def _(heatmaps, targets, target_weight):
    return float(np.abs((heatmaps - targets) * target_weight[:, :, None, None]).mean(dtype=np.float64))


@mistake(
    "heatmap_loss_backward",
    "factor 2 forgotten",
    "the factor 2 of the square's derivative is left out",
    "2 (heatmaps - targets) weight^2 / heatmaps.size.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss_backward(heatmaps, targets, target_weight) / 2


@mistake(
    "heatmap_loss_backward",
    "weights not squared",
    "grad has the weight itself",
    "The weight stands inside the square: 2 (heatmaps - targets) weight^2 / heatmaps.size.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss_backward(heatmaps, targets, root(target_weight))


@mistake("heatmap_loss_backward", "weights ignored", "the weights are left out", "Multiply by weight^2.")
def _(heatmaps, targets, target_weight):
    return heatmap_loss_backward(heatmaps, targets, np.ones_like(target_weight))


@mistake("heatmap_loss_backward", "not divided", "the mean's division is missing", "Divide by heatmaps.size.")
def _(heatmaps, targets, target_weight):
    return heatmap_loss_backward(heatmaps, targets, target_weight) * heatmaps.size


@mistake(
    "heatmap_loss_backward",
    "divided by the batch alone",
    "the sum is divided by B",
    "The loss is a mean over everything: divide by heatmaps.size.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss_backward(heatmaps, targets, target_weight) * heatmaps[0].size


@mistake(
    "heatmap_loss_backward",
    "divided by the wrong count",
    "the sum is divided by the pixels of the marked keypoints alone",
    "Keypoints of weight 0 count in the mean: divide by heatmaps.size.",
)
def _(heatmaps, targets, target_weight):
    factor = target_weight.size / int(np.count_nonzero(target_weight))
    return heatmap_loss_backward(heatmaps, targets, target_weight) * factor


@mistake(
    "heatmap_loss_backward",
    "sign flipped",
    "the difference is targets - heatmaps",
    "Where a heatmap is too high the derivative is positive: heatmaps - targets.",
)
def _(heatmaps, targets, target_weight):
    return heatmap_loss_backward(targets, heatmaps, target_weight)
