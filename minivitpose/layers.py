"""The textbook: every layer of ViTPose as a plain NumPy function, in the order in which an image meets them.

B batch, N tokens, C channels (embed dim), h heads, d head dim, Hp x Wp patch grid, K keypoints, Hm x Wm heatmap.

Parameters carry the checkpoint's own names and are applied with ``**``: ``linear(x, **p["qkv"])``. No function changes
its arguments, and dtype in is dtype out: float64 proves the algorithm, float32 is the product. Functions built from
other functions take ``tap(name, array)``, which sees every intermediate and returns the array to go on with.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def keep(name, x):
    """The tap that only lets pass."""
    return x


def below(tap, prefix):
    """The tap for what happens inside ``prefix``: it puts that name before each name."""
    return lambda name, x: tap(f"{prefix}.{name}", x)


# ------------------------------------------------------------------------------------- from the image to tokens


def conv2d(x, weight, bias=None, stride=1, padding=0):
    """Slide a kernel over the padded map: y[o, i, j] = bias[o] + sum_cab weight[o, c, a, b] x[c, s i + a, s j + b].

    x (B, Cin, H, W), weight (Cout, Cin, kh, kw) -> (B, Cout, (H + 2 padding - kh) // stride + 1, the same for W).
    Source: torch.nn.Conv2d.
    """
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]  # (B, Cin, H, W, kh, kw)
    y = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))  # (B, H, W, Cout)
    if bias is not None:
        y = y + bias
    return y.transpose(0, 3, 1, 2)


def patch_embed(images, weight, bias=None, stride=None, padding=None, ratio=1):
    """Cut the image into patches and project each to C numbers: a convolution whose stride is the patch size.

    images (B, 3, H, W), weight (C, 3, 16, 16) -> (B, C, Hp, Wp). With ``ratio`` r the stride is 16 / r, so that patches
    overlap and there are r times as many each way. The padding, 2 for ratio 1, is the checkpoints': training had it.
    Source: PatchEmbed in ViTPose's backbone.
    """
    stride = weight.shape[2] // ratio if stride is None else stride
    padding = 4 + 2 * (ratio // 2 - 1) if padding is None else padding
    return conv2d(images, weight, bias, stride, padding)


def to_tokens(x):
    """(B, C, Hp, Wp) -> (B, N, C): one row a patch, patches in reading order."""
    B, C, Hp, Wp = x.shape
    return x.reshape(B, C, Hp * Wp).transpose(0, 2, 1)


def add_positions(x, pos_embed):
    """Tell each token where it is. x (B, N, C), pos_embed (1, 1 + N, C) -> (B, N, C).

    Slot 0 belonged to the class token of the pretraining. ViTPose has no such token, yet adds its slot to every token.
    """
    return x + pos_embed[:, 1:] + pos_embed[:, :1]


def resize_positions(pos_embed, old_grid, new_grid):
    """Positions for another patch grid, bicubic between the known ones: (1, 1 + Hp Wp, C) -> (1, 1 + Hp' Wp', C).

    Source: torch.nn.functional.interpolate(mode="bicubic", align_corners=False), which has a = -3/4.
    """
    C = pos_embed.shape[2]
    rows, columns = (bicubic_weights(n, m).astype(pos_embed.dtype) for n, m in zip(old_grid, new_grid, strict=True))
    table = pos_embed[0, 1:].reshape(*old_grid, C)
    table = np.einsum("yi,xj,ijc->yxc", rows, columns, table, optimize=True)
    return np.concatenate([pos_embed[:, :1], table.reshape(1, -1, C)], axis=1)


def bicubic_weights(n, m):
    """(m, n) float64: output sample i of m is sum_j weights[i, j] x[j], by Keys' cubic convolution with a = -3/4."""
    a = -0.75
    weights = np.zeros((m, n))
    for i in range(m):
        centre = (i + 0.5) * n / m - 0.5
        first = math.floor(centre) - 1
        for j in range(first, first + 4):
            t = abs(centre - j)
            near = ((a + 2) * t - (a + 3)) * t * t + 1
            far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
            weights[i, min(max(j, 0), n - 1)] += near if t <= 1 else far  # outside the map its edge goes on
    return weights


# ------------------------------------------------------------------------------------------------ a transformer block


def linear(x, weight, bias=None):
    """y = x W^T + b. x (..., Cin), weight (Cout, Cin), bias (Cout,) -> (..., Cout). Source: torch.nn.Linear."""
    y = x @ weight.T
    return y if bias is None else y + bias


def layer_norm(x, weight, bias, eps=1e-6):
    """Shift and scale each token to mean 0 and variance 1, then by the learnt weight and bias. (..., C) -> (..., C).

    The variance is the mean square, without Bessel's correction. Source: Ba et al. 2016, torch.nn.LayerNorm.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


def softmax(x):
    """Positive numbers that sum to 1 along the last axis: exp(x) / sum exp(x). (..., N) -> (..., N).

    The maximum is taken off first: it cancels in the quotient and keeps exp from overflowing.
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def scaled_dot_product_attention(q, k, v, qk_scale=None, tap=keep):
    """Each token gathers the values of all tokens, by how well its query fits their keys: softmax(q k^T / sqrt(d)) v.

    q, k, v (B, h, N, d) -> (B, h, N, d). ``qk_scale`` replaces 1 / sqrt(d). Source: Vaswani et al. 2017, equation 1.
    """
    scale = q.shape[-1] ** -0.5 if qk_scale is None else qk_scale
    scores = tap("scores", (q * scale) @ k.swapaxes(-1, -2))  # (B, h, N, N): row = who asks, column = who is asked
    pattern = tap("pattern", softmax(scores))
    return pattern @ v


def split_heads(x, num_heads):
    """(B, N, 3 h d) -> three of (B, h, N, d): the columns are q, k, v in turn, in each of them the heads in turn."""
    B, N, inner = x.shape
    return x.reshape(B, N, 3, num_heads, inner // (3 * num_heads)).transpose(2, 0, 3, 1, 4)


def merge_heads(x):
    """(B, h, N, d) -> (B, N, h d)."""
    B, h, N, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, N, h * d)


def attention(x, qkv, proj, num_heads, qk_scale=None, tap=keep):
    """Multi-head self-attention: h attentions side by side, d channels each, then mixed. (B, N, C) -> (B, N, C).

    qkv {weight (3 h d, C), bias (3 h d,) or none}, proj {weight (C, h d), bias (C,)}. Source: Vaswani et al. 2017.
    """
    q, k, v = split_heads(tap("qkv", linear(x, **qkv)), num_heads)
    q, k, v = tap("q", q), tap("k", k), tap("v", v)
    z = tap("z", merge_heads(scaled_dot_product_attention(q, k, v, qk_scale, tap)))
    return tap("proj", linear(z, **proj))


erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has no erf of its own


def gelu(x):
    """x Phi(x), Phi the normal distribution itself (erf), not the tanh formula. Source: Hendrycks and Gimpel 2016."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)).astype(x.dtype))


def mlp(x, fc1, fc2, tap=keep):
    """Two linear layers with a GELU between, on each token alone: (..., C) -> (..., 4 C) -> (..., C)."""
    hidden = tap("act", gelu(tap("fc1", linear(x, **fc1))))
    return tap("fc2", linear(hidden, **fc2))


def block(x, p, num_heads, qk_scale=None, eps=1e-6, tap=keep):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)). (B, N, C) -> (B, N, C).

    p {norm1, attn {qkv, proj}, norm2, mlp {fc1, fc2}}. Source: Dosovitskiy et al. 2021, equations 2 and 3.
    """
    y = tap("norm1", layer_norm(x, **p["norm1"], eps=eps))
    y = tap("attn", attention(y, **p["attn"], num_heads=num_heads, qk_scale=qk_scale, tap=below(tap, "attn")))
    x = tap("resid_mid", x + y)
    y = tap("norm2", layer_norm(x, **p["norm2"], eps=eps))
    return x + tap("mlp", mlp(y, **p["mlp"], tap=below(tap, "mlp")))


# ------------------------------------------------------------------------------------- from tokens to heatmaps


def to_map(x, grid):
    """(B, N, C) -> (B, C, Hp, Wp): the tokens laid out as an image again."""
    B, N, C = x.shape
    return x.transpose(0, 2, 1).reshape(B, C, *grid)


def conv_transpose2d(x, weight, bias=None, stride=2, padding=0, output_padding=0):
    """Every input pixel stamps the kernel, times its value, onto a larger map; stamps that overlap add up.

    x (B, Cin, H, W), weight (Cin, Cout, kh, kw) -> (B, Cout, stride (H - 1) + kh - 2 padding + output_padding, ...).
    Source: torch.nn.ConvTranspose2d, the transpose of conv2d's matrix.
    """
    B, _, H, W = x.shape
    _, Cout, kh, kw = weight.shape
    stamps = np.tensordot(x, weight, axes=(1, 0)).transpose(0, 3, 1, 2, 4, 5)  # (B, Cout, H, W, kh, kw)
    height, width = stride * (H - 1) + kh + output_padding, stride * (W - 1) + kw + output_padding
    y = np.zeros((B, Cout, height, width), x.dtype)
    for a in range(kh):
        for b in range(kw):
            y[:, :, a : a + stride * H : stride, b : b + stride * W : stride] += stamps[..., a, b]
    y = y[:, :, padding : height - padding, padding : width - padding]
    return y if bias is None else y + bias[:, None, None]


def batch_norm(x, weight, bias, running_mean, running_var, num_batches_tracked=None, eps=1e-5):
    """Shift and scale each channel by the statistics that training gathered. x (B, C, H, W), the rest (C,).

    ``num_batches_tracked`` only counts training steps. Source: Ioffe and Szegedy 2015, torch.nn.BatchNorm2d.eval().
    """
    scale = weight / np.sqrt(running_var + eps)
    return (x - running_mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]


def relu(x):
    """max(x, 0)."""
    return np.maximum(x, 0)


def upsample_bilinear(x, scale=4):
    """Enlarge a map by linear interpolation, first down the rows and then along them. (B, C, H, W) -> (B, C, s H, s W).

    Source: torch.nn.functional.interpolate(mode="bilinear", align_corners=False).
    """
    rows, columns = (bilinear_weights(n, n * scale).astype(x.dtype) for n in x.shape[2:])
    return rows @ x @ columns.T


def bilinear_weights(n, m):
    """(m, n) float64: output sample i of m lies between two input samples and takes each by its nearness."""
    weights = np.zeros((m, n))
    for i in range(m):
        centre = max((i + 0.5) * n / m - 0.5, 0)
        left = math.floor(centre)
        weights[i, left] += 1 - (centre - left)
        weights[i, min(left + 1, n - 1)] += centre - left
    return weights


DECONV_PADDING = {4: (1, 0), 3: (1, 1), 2: (0, 0)}  # kernel: (padding, output_padding), so that each doubles the map


def deconv(x, weight, bias=None):
    """The head's transposed convolution: twice the height and width, for kernels 4, 3 and 2."""
    padding, output_padding = DECONV_PADDING[weight.shape[2]]
    return conv_transpose2d(x, weight, bias, 2, padding, output_padding)


def same_conv(x, weight, bias=None):
    """The head's convolution: odd kernel, height and width stay."""
    return conv2d(x, weight, bias, 1, (weight.shape[2] - 1) // 2)


def sequential(x, layers, convolve, tap=keep):
    """Convolutions with batch norm and relu behind, under their numbers in the checkpoint: {"0", "1", "3", ...}."""
    for i, p in layers.items():
        if "running_mean" in p:
            x = tap(i, batch_norm(x, **p))
            x = tap(str(int(i) + 1), relu(x))
        else:
            x = tap(i, convolve(x, **p))
    return x


def keypoint_head(x, final_layer, deconv_layers=None, tap=keep):
    """Feature map to one heatmap a keypoint: (B, C, Hp, Wp) -> (B, K, 4 Hp, 4 Wp).

    Classic: (transposed convolution, batch norm, relu) twice, then a convolution. Simple: relu, bilinear x4, then a 3x3
    convolution. ``final_layer`` is one convolution, or several with batch norm and relu between.
    Source: Xu et al. 2022.
    """
    if deconv_layers:
        x = sequential(x, deconv_layers, deconv, below(tap, "deconv_layers"))
    else:
        x = tap("upsample", upsample_bilinear(tap("relu", relu(x))))
    if "weight" in final_layer:
        return same_conv(x, **final_layer)
    return sequential(x, final_layer, same_conv, below(tap, "final_layer"))
