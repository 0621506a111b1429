"""The derivative of every layer, in the order of layers.py; put the two side by side.

``linear_backward(x, grad, weight, bias)`` takes what went into ``linear``, then ``grad``, the derivative of the loss by
what came out, then the rest of linear's arguments. It returns the derivative of the loss by x and, where there are
parameters, a dict of theirs: ``(grad_x, {"weight": ..., "bias": ...})``. So gradients nest as the parameters do.
Each function computes again, from its input, what of the forward pass it needs; nothing else has to be kept.

What only training has, batch statistics and random drops, stands here with its forward pass.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minivitpose import layers as forward


def sum_to(x, axis):
    """The sum over all axes but one: the derivative by what was added along all of them. -> (n,).

    Added up in float64: these sums are over all tokens or pixels of a batch.
    """
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return x.sum(axis=others, dtype=np.float64).astype(x.dtype)


# ------------------------------------------------------------------------------------- from the image to tokens


def conv2d_backward(x, grad, weight, bias=None, stride=1, padding=0):
    """Each output pixel gives its gradient back to the pixels under the kernel: the transposed convolution.

    grad (B, Cout, H', W') -> grad_x (B, Cin, H, W), {weight (Cout, Cin, kh, kw), bias (Cout,)}.
    dL/dx = conv_transpose2d(grad, weight), dL/dweight[o, c, a, b] = sum_nij grad[n, o, i, j] x[n, c, s i + a, s j + b].
    """
    H, W = x.shape[2:]
    left_over = max((n + 2 * padding - k) % stride for n, k in zip((H, W), weight.shape[2:], strict=True))
    grad_x = forward.conv_transpose2d(grad, weight, None, stride, padding, left_over)[:, :, :H, :W]
    gradients = {"weight": taps_gradient(x, grad, weight.shape[2:], stride, padding)}
    return grad_x, gradients if bias is None else gradients | {"bias": sum_to(grad, 1)}


def taps_gradient(large, small, size, stride, padding):
    """Each tap of a kernel joins pixels of a small map and a large one: the sum of their products. (Cs, Cl, kh, kw)."""
    large = np.pad(large, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(large, size, axis=(2, 3))[:, :, ::stride, ::stride]  # (B, Cl, H, W, kh, kw)
    windows = windows[:, :, : small.shape[2], : small.shape[3]]
    return np.tensordot(small, windows, axes=((0, 2, 3), (0, 2, 3)))


def patch_embed_backward(images, grad, weight, bias=None, stride=None, padding=None, ratio=1):
    """A convolution, with patch_embed's stride and padding. grad (B, C, Hp, Wp) -> grad_images, {weight, bias}."""
    stride = weight.shape[2] // ratio if stride is None else stride
    padding = 4 + 2 * (ratio // 2 - 1) if padding is None else padding
    return conv2d_backward(images, grad, weight, bias, stride, padding)


def add_positions_backward(x, grad, pos_embed):
    """A sum hands its gradient to both terms; slot 0 was added to every token. grad (B, N, C) -> grad_x, {pos_embed}.

    dL/dx = grad, dL/dpos[1 + n] = sum_b grad[b, n], dL/dpos[0] = sum_bn grad[b, n].
    """
    each = grad.sum(axis=0, keepdims=True, dtype=np.float64)  # (1, N, C)
    each = np.concatenate([each.sum(axis=1, keepdims=True), each], axis=1)
    return grad, {"pos_embed": each.astype(grad.dtype)}


def resize_positions_backward(pos_embed, grad, old_grid, new_grid):
    """The same weights the other way: each new position's gradient goes to the old ones that it was mixed of.

    grad (1, 1 + Hp' Wp', C) -> (1, 1 + Hp Wp, C).
    """
    rows, columns = (forward.bicubic_weights(n, m).astype(grad.dtype) for n, m in zip(old_grid, new_grid, strict=True))
    table = grad[0, 1:].reshape(*new_grid, -1)
    table = np.einsum("yi,xj,yxc->ijc", rows, columns, table, optimize=True)
    return np.concatenate([grad[:, :1], table.reshape(1, -1, grad.shape[2])], axis=1)


# ------------------------------------------------------------------------------------------------ a transformer block


def linear_backward(x, grad, weight, bias=None):
    """y = x W^T + b: dL/dx = grad W, dL/dW = grad^T x, dL/db = sum grad, both summed over all rows of x.

    x (..., Cin), grad (..., Cout) -> grad_x (..., Cin), {weight (Cout, Cin), bias (Cout,)}.
    """
    Cout, Cin = weight.shape
    gradients = {"weight": grad.reshape(-1, Cout).T @ x.reshape(-1, Cin)}
    return grad @ weight, gradients if bias is None else gradients | {"bias": sum_to(grad, -1)}


def layer_norm_backward(x, grad, weight, bias, eps=1e-6):
    """With n = (x - mean) / std, y = n w + b and g = grad w: dL/dx = (g - mean(g) - n mean(g n)) / std.

    Moving or stretching a whole token changes nothing: what of g would do so is taken off. The means are over the
    channels of a token. dL/dw = sum grad n, dL/db = sum grad. grad (..., C) -> grad_x, {weight (C,), bias (C,)}.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    std = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    n, g = centred / std, grad * weight
    grad_x = (g - g.mean(axis=-1, keepdims=True) - n * (g * n).mean(axis=-1, keepdims=True)) / std
    return grad_x, {"weight": sum_to(grad * n, -1), "bias": sum_to(grad, -1)}


def softmax_backward(x, grad):
    """y = softmax(x): dL/dx = y (grad - sum_j grad_j y_j). Only shares are moved about: dL/dx sums to 0. (..., N)."""
    y = forward.softmax(x)
    return y * (grad - (grad * y).sum(axis=-1, keepdims=True))


def scaled_dot_product_attention_backward(q, k, v, grad, qk_scale=None):
    """z = P v, P = softmax(S), S = scale q k^T: dv = P^T grad, dP = grad v^T, dq = scale dS k, dk = scale dS^T q.

    q, k, v, grad (B, h, N, d) -> grad_q, grad_k, grad_v.
    """
    scale = q.shape[-1] ** -0.5 if qk_scale is None else qk_scale
    scores = (q * scale) @ k.swapaxes(-1, -2)
    grad_v = forward.softmax(scores).swapaxes(-1, -2) @ grad
    grad_scores = softmax_backward(scores, grad @ v.swapaxes(-1, -2))
    return scale * (grad_scores @ k), scale * (grad_scores.swapaxes(-1, -2) @ q), grad_v


def split_heads_backward(grad_q, grad_k, grad_v):
    """Three of (B, h, N, d) -> (B, N, 3 h d): back to where split_heads took them from."""
    return np.concatenate([forward.merge_heads(grad) for grad in (grad_q, grad_k, grad_v)], axis=-1)


def merge_heads_backward(grad, num_heads):
    """(B, N, h d) -> (B, h, N, d): back to where merge_heads took them from."""
    B, N, inner = grad.shape
    return grad.reshape(B, N, num_heads, inner // num_heads).transpose(0, 2, 1, 3)


def attention_backward(x, grad, qkv, proj, num_heads, qk_scale=None):
    """Backwards through proj, the heads and qkv. grad (B, N, C) -> grad_x, {qkv {...}, proj {...}}."""
    q, k, v = forward.split_heads(forward.linear(x, **qkv), num_heads)
    z = forward.merge_heads(forward.scaled_dot_product_attention(q, k, v, qk_scale))
    grad_z, grad_proj = linear_backward(z, grad, **proj)
    grads = scaled_dot_product_attention_backward(q, k, v, merge_heads_backward(grad_z, num_heads), qk_scale)
    grad_x, grad_qkv = linear_backward(x, split_heads_backward(*grads), **qkv)
    return grad_x, {"qkv": grad_qkv, "proj": grad_proj}


def gelu_backward(x, grad):
    """y = x Phi(x): dL/dx = grad (Phi(x) + x phi(x)), phi(x) = exp(-x^2 / 2) / sqrt(2 pi) the normal density."""
    area = 0.5 * (1 + forward.erf(x / math.sqrt(2)).astype(x.dtype))
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return grad * (area + x * density)


def mlp_backward(x, grad, fc1, fc2):
    """Backwards through fc2, gelu and fc1. grad (..., C) -> grad_x, {fc1 {weight, bias}, fc2 {weight, bias}}."""
    hidden = forward.linear(x, **fc1)
    grad_hidden, grad_fc2 = linear_backward(forward.gelu(hidden), grad, **fc2)
    grad_x, grad_fc1 = linear_backward(x, gelu_backward(hidden, grad_hidden), **fc1)
    return grad_x, {"fc1": grad_fc1, "fc2": grad_fc2}


def block_backward(x, grad, p, num_heads, qk_scale=None, eps=1e-6, drops=(1, 1)):
    """The gradient passes straight along each residual connection, and what comes through the branch is added to it.

    drops: what drop_path multiplied the outputs of attention and mlp by, each (B, 1, 1).
    grad (B, N, C) -> grad_x, {norm1, attn {qkv, proj}, norm2, mlp {fc1, fc2}}.
    """
    heads = {"num_heads": num_heads, "qk_scale": qk_scale}
    normed = forward.layer_norm(x, **p["norm1"], eps=eps)
    middle = x + forward.attention(normed, **p["attn"], **heads) * drops[0]

    inner, grad_mlp = mlp_backward(forward.layer_norm(middle, **p["norm2"], eps=eps), grad * drops[1], **p["mlp"])
    inner, grad_norm2 = layer_norm_backward(middle, inner, **p["norm2"], eps=eps)
    grad = grad + inner
    inner, grad_attn = attention_backward(normed, grad * drops[0], **p["attn"], **heads)
    inner, grad_norm1 = layer_norm_backward(x, inner, **p["norm1"], eps=eps)
    return grad + inner, {"norm1": grad_norm1, "attn": grad_attn, "norm2": grad_norm2, "mlp": grad_mlp}


def drop_mask(shape, rate, rng, dtype=np.float32):
    """0 with probability ``rate``, else 1 / (1 - rate), so that the mean stays 1: what dropout multiplies by.

    Of shape x.shape it is dropout; of shape (B, 1, 1) it drops a whole branch for some images, drop path. The backward
    pass multiplies by the same mask. rng: a NumPy Generator. Raises ValueError for a rate outside [0, 1).
    Sources: Srivastava et al. 2014; Huang et al. 2016.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a drop rate must be at least 0 and below 1, not {rate}")
    return ((rng.random(shape) >= rate) / (1 - rate)).astype(dtype)


def drop_path_rates(depth, rate):
    """The rate of each block: 0 for the first, ``rate`` for the last, linear between. -> (depth,) float64."""
    return np.linspace(0, rate, depth)


def drop_backward(x, grad, mask):
    """y = x mask: dL/dx = grad mask, for dropout and drop path."""
    return grad * mask


# ------------------------------------------------------------------------------------- from tokens to heatmaps


def conv_transpose2d_backward(x, grad, weight, bias=None, stride=2, padding=0, output_padding=0):
    """Every input pixel stamped the kernel onto the map; it collects the gradient from under its stamp: conv2d.

    grad (B, Cout, H', W') -> grad_x (B, Cin, H, W), {weight (Cin, Cout, kh, kw), bias (Cout,)}.
    dL/dx = conv2d(grad, weight), dL/dweight[c, o, a, b] = sum_nij x[n, c, i, j] grad[n, o, s i + a, s j + b].
    """
    grad_x = forward.conv2d(grad, weight, None, stride, padding)[:, :, : x.shape[2], : x.shape[3]]
    gradients = {"weight": taps_gradient(grad, x, weight.shape[2:], stride, padding)}
    return grad_x, gradients if bias is None else gradients | {"bias": sum_to(grad, 1)}


def batch_statistics(x):
    """Mean and variance of each channel over the batch and the map: (B, C, H, W) -> two of (C,).

    The variance is the mean square, without Bessel's correction: batch norm in training divides by its root.
    """
    mean = x.mean(axis=(0, 2, 3), dtype=np.float64)
    variance = np.square(x - mean[:, None, None]).mean(axis=(0, 2, 3))
    return mean.astype(x.dtype), variance.astype(x.dtype)


def batch_norm_training(x, weight, bias, running_mean, running_var, num_batches_tracked=0, eps=1e-5, momentum=0.1):
    """batch_norm by the batch's own statistics, and the running ones moved towards them. (B, C, H, W) -> y, {three}.

    running = (1 - momentum) running + momentum of the batch, whose variance has Bessel's correction here, n / (n - 1).
    Source: torch.nn.BatchNorm2d.train(). Raises ValueError for a single value a channel: it has no variance.
    """
    mean, variance = batch_statistics(x)
    n = x.size // x.shape[1]
    if n == 1:
        raise ValueError(f"batch norm in training needs more than one value a channel, found x of shape {x.shape}")
    statistics = moved_statistics(mean, variance, n, running_mean, running_var, num_batches_tracked, momentum)
    return forward.batch_norm(x, weight, bias, mean, variance, eps=eps), statistics


def moved_statistics(mean, variance, n, running_mean, running_var, num_batches_tracked=0, momentum=0.1):
    """The running statistics after a batch with these, of n values a channel. -> {the three}."""
    dtype = running_mean.dtype
    return {
        "running_mean": ((1 - momentum) * running_mean + momentum * mean).astype(dtype),
        "running_var": ((1 - momentum) * running_var + momentum * (variance * (n / (n - 1)))).astype(dtype),
        "num_batches_tracked": np.array(num_batches_tracked + 1),
    }


def batch_norm_training_backward(x, grad, weight, bias, eps=1e-5, **statistics):
    """As layer_norm_backward, the means over batch and map: dL/dx = w (grad - mean(grad) - n mean(grad n)) / std.

    ``statistics``, the running ones, play no part. grad (B, C, H, W) -> grad_x, {weight (C,), bias (C,)}.
    """
    mean, variance = (a[:, None, None] for a in batch_statistics(x))
    std = np.sqrt(variance + eps)
    n = (x - mean) / std
    gradients = {"weight": sum_to(grad * n, 1), "bias": sum_to(grad, 1)}
    of_weight, of_bias = (gradients[name][:, None, None] / (x.size // x.shape[1]) for name in ("weight", "bias"))
    return weight[:, None, None] * (grad - of_bias - n * of_weight) / std, gradients


def batch_norm_backward(x, grad, weight, bias, running_mean, running_var, num_batches_tracked=None, eps=1e-5):
    """By the running statistics, which do not depend on x: dL/dx = grad w / std. -> grad_x, {weight, bias (C,)}."""
    std = np.sqrt(running_var + eps)[:, None, None]
    n = (x - running_mean[:, None, None]) / std
    return grad * weight[:, None, None] / std, {"weight": sum_to(grad * n, 1), "bias": sum_to(grad, 1)}


def relu_backward(x, grad):
    """dL/dx = grad where x > 0, else 0."""
    return grad * (x > 0)


def upsample_bilinear_backward(x, grad, scale=4):
    """y = R x C^T with two fixed matrices of weights: dL/dx = R^T grad C. (B, C, s H, s W) -> (B, C, H, W)."""
    rows, columns = (forward.bilinear_weights(n, n * scale).astype(x.dtype) for n in x.shape[2:])
    return rows.T @ grad @ columns


def deconv_backward(x, grad, weight, bias=None):
    """Of the head's transposed convolution. -> grad_x, {weight}."""
    padding, output_padding = forward.DECONV_PADDING[weight.shape[2]]
    return conv_transpose2d_backward(x, grad, weight, bias, 2, padding, output_padding)


def same_conv_backward(x, grad, weight, bias=None):
    """Of the head's convolution. -> grad_x, {weight, bias}."""
    return conv2d_backward(x, grad, weight, bias, 1, (weight.shape[2] - 1) // 2)


def sequential_training(x, layers, convolve, batch=True):
    """As layers.sequential, with batch norm by the batch (or the running ones, if not ``batch``).

    -> y, {number: what went into that layer}, {number: the new running statistics}.
    """
    inputs, statistics = {}, {}
    for i, p in layers.items():
        inputs[i] = x
        if "running_mean" not in p:
            x = convolve(x, **p)
        elif batch:
            x, statistics[i] = batch_norm_training(x, **p)
        else:
            x = forward.batch_norm(x, **p)
        if "running_mean" in p:
            inputs[str(int(i) + 1)] = x
            x = forward.relu(x)
    return x, inputs, statistics


def sequential_backward(x, grad, layers, convolve, convolve_backward, batch=True):
    """The layers in reverse, each with what went into it. -> grad_x, {number: {weight, bias}}."""
    _, inputs, _ = sequential_training(x, layers, convolve, batch)
    gradients = {}
    for i, p in reversed(layers.items()):
        if "running_mean" in p:
            grad = relu_backward(inputs[str(int(i) + 1)], grad)
            backward = batch_norm_training_backward if batch else batch_norm_backward
        else:
            backward = convolve_backward
        grad, gradients[i] = backward(inputs[i], grad, **p)
    return grad, dict(reversed(gradients.items()))


def keypoint_head_training(x, final_layer, deconv_layers=None, batch=True):
    """layers.keypoint_head in training. -> heatmaps, what went into the final layer, the new running statistics."""
    statistics = {}
    if deconv_layers:
        x, _, statistics["deconv_layers"] = sequential_training(x, deconv_layers, forward.deconv, batch)
    else:
        x = forward.upsample_bilinear(forward.relu(x))
    if "weight" in final_layer:
        return forward.same_conv(x, **final_layer), x, statistics
    y, _, statistics["final_layer"] = sequential_training(x, final_layer, forward.same_conv, batch)
    return y, x, statistics


def keypoint_head_backward(x, grad, final_layer, deconv_layers=None, batch=True):
    """grad (B, K, Hm, Wm) -> grad_x (B, C, Hp, Wp), {deconv_layers {number: ...}, final_layer {...}}."""
    _, middle, _ = keypoint_head_training(x, final_layer, deconv_layers, batch)
    if "weight" in final_layer:
        grad, gradients = same_conv_backward(middle, grad, **final_layer)
    else:
        grad, gradients = sequential_backward(middle, grad, final_layer, forward.same_conv, same_conv_backward, batch)
    if deconv_layers:
        grad, grad_deconvs = sequential_backward(x, grad, deconv_layers, forward.deconv, deconv_backward, batch)
        return grad, {"deconv_layers": grad_deconvs, "final_layer": gradients}
    return relu_backward(x, upsample_bilinear_backward(forward.relu(x), grad)), {"final_layer": gradients}
