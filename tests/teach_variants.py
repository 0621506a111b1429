"""Right functions written another way, all of which teach.check must accept: other orders of summation, other idioms.

``variants(step)`` adds what can be done to any function: float64 inside, results that are not contiguous, lists for
tuples, and the compiled layer where there is one.
"""

import math
from functools import partial

import numpy as np

from minivitpose import gradients, kernels, layers
from minivitpose.pose import decode
from minivitpose.teach.cases import each_array

TABLE = {}  # step -> [function, ...]


def variant(step):
    def enter(function):
        TABLE.setdefault(step, []).append(function)
        return function

    return enter


# -------------------------------------------------------------------------------------------- what any step allows


def in_float64(step, *args):
    """Computed in float64, then cast back to the dtype of the arguments."""
    given = dict(zip(step.arguments, args, strict=True))
    dtypes = {a.dtype for x in args for a in leaves(x)} or {np.dtype(np.float64)}
    result = step.truth(**each_array(lambda a: a.astype(np.float64), given))
    return each_leaf(lambda a: np.asarray(a).astype(min(dtypes)) if isinstance(a, np.ndarray) else a, result)


def scattered(step, *args):
    """The result in Fortran order."""
    result = step.truth(**dict(zip(step.arguments, args, strict=True)))
    return each_leaf(lambda a: np.asfortranarray(a) if isinstance(a, np.ndarray) else a, result)


def as_list(step, *args):
    result = step.truth(**dict(zip(step.arguments, args, strict=True)))
    return list(result) if isinstance(result, tuple) else result


def leaves(x):
    if isinstance(x, dict):
        return [a for value in x.values() for a in leaves(value)]
    return [x] if isinstance(x, np.ndarray) else []


def each_leaf(f, x):
    if isinstance(x, dict):
        return {name: each_leaf(f, value) for name, value in x.items()}
    return tuple(each_leaf(f, value) for value in x) if isinstance(x, tuple | list) else f(x)


def variants(step):
    """(name, function): every right function of a step that there is here."""
    yield "the package's own", step.truth
    for change in (in_float64, scattered, as_list) if len(step.outputs) > 1 else (in_float64, scattered):
        yield change.__name__, partial(change, step)
    name = step.solution.removeprefix("layers.")
    compiled = getattr(kernels, name, None)
    if compiled and compiled is not step.truth:
        yield "compiled", compiled
    for function in TABLE.get(step.name, []):
        yield function.__name__, function


# -------------------------------------------------------------------------------------------------- layers, otherwise


@variant("patch_embed")
def by_reshape(images, weight, bias):
    """Pad, cut into whole patches by reshape, one matrix product."""
    size = weight.shape[2]
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    B, C, H, W = padded.shape
    Hp, Wp = H // size, W // size
    patches = padded[:, :, : Hp * size, : Wp * size].reshape(B, C, Hp, size, Wp, size).transpose(0, 2, 4, 1, 3, 5)
    y = patches.reshape(B, Hp * Wp, -1) @ weight.reshape(len(weight), -1).T
    y = y if bias is None else y + bias
    return y.transpose(0, 2, 1).reshape(B, -1, Hp, Wp)


@variant("to_tokens")
def moved_axis(x):
    return np.moveaxis(x, 1, -1).reshape(len(x), -1, x.shape[1])


@variant("positions")
def both_at_once(x, pos_embed):
    return x + (pos_embed[:, 1:] + pos_embed[0, 0])


@variant("linear")
def by_einsum(x, weight, bias):
    y = np.einsum("...i,oi->...o", x, weight)
    return y if bias is None else y + bias


@variant("linear")
def in_chunks(x, weight, bias):
    """Sums over three channels at a time, backwards."""
    y = np.zeros((*x.shape[:-1], len(weight)), x.dtype)
    for first in reversed(range(0, x.shape[-1], 3)):
        y += x[..., first : first + 3] @ weight[:, first : first + 3].T
    return y if bias is None else y + bias


@variant("layer_norm")
def by_mean_of_squares(x, weight, bias, eps):
    """E[x^2] - E[x]^2, which is fine where the mean is not large."""
    mean = x.mean(-1, keepdims=True)
    variance = np.maximum((x * x).mean(-1, keepdims=True) - mean * mean, 0)
    return (x - mean) * (weight / np.sqrt(variance + eps)) + bias


@variant("layer_norm")
def by_var(x, w, b, eps=1e-6):
    return (x - np.mean(x, axis=-1)[..., None]) / np.sqrt(np.var(x, axis=-1)[..., None] + eps) * w + b


@variant("layer_norm")
def token_by_token(x, weight, bias, eps):
    y = np.empty_like(x)
    for at in np.ndindex(*x.shape[:-1]):
        token = x[at]
        mean = sum(token) / len(token)
        variance = sum((value - mean) ** 2 for value in token) / len(token)
        y[at] = (token - mean) * (variance + eps) ** -0.5 * weight + bias
    return y


@variant("softmax")
def by_logarithm(x):
    x = x - x.max(-1, keepdims=True)
    return np.exp(x - np.log(np.exp(x).sum(-1, keepdims=True)))


@variant("softmax")
def row_by_row(x, axis=-1):
    flat = x.reshape(-1, x.shape[-1])
    return np.stack([np.exp(row - max(row)) / sum(np.exp(row - max(row))) for row in flat]).reshape(x.shape)


@variant("attention_head")
def with_plain_transpose(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[1])
    return layers.softmax(scores) @ v


@variant("scaled_dot_product_attention")
def by_two_einsums(q, k, v):
    scores = np.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    return np.einsum("bhnm,bhmd->bhnd", layers.softmax(scores), v)


@variant("split_heads")
def cut_then_split(x, num_heads):
    parts = np.split(x, 3, axis=-1)
    return tuple(np.stack(np.split(part, num_heads, axis=-1), axis=1) for part in parts)


@variant("merge_heads")
def side_by_side(x):
    return np.concatenate(list(x.swapaxes(0, 1)), axis=-1)


@variant("attention")
def head_by_head(x, qkv, proj, num_heads):
    """Each head adds its own part to the result: no axis for the heads."""
    C = x.shape[-1]
    d = C // num_heads
    y = np.zeros_like(x) + proj["bias"]
    for j in range(num_heads):
        rows = [slice(part * C + j * d, part * C + (j + 1) * d) for part in range(3)]
        q, k, v = (x @ qkv["weight"][r].T + qkv["bias"][r] for r in rows)
        y = y + layers.softmax(q @ k.swapaxes(1, 2) * d**-0.5) @ v @ proj["weight"][:, rows[0]].T
    return y


@variant("gelu")
def number_by_number(x):
    values = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel().tolist()]
    return np.array(values, x.dtype).reshape(x.shape)


@variant("mlp")
def fc1_and_fc2(x, fc1, fc2):
    hidden = x @ fc1["weight"].T + fc1["bias"]
    return layers.gelu(hidden) @ fc2["weight"].T + fc2["bias"]


@variant("block")
def in_one_line_each(x, p, num_heads):
    x = layers.attention(layers.layer_norm(x, **p["norm1"]), **p["attn"], num_heads=num_heads) + x
    return layers.mlp(layers.layer_norm(x, **p["norm2"]), **p["mlp"]) + x


@variant("to_map")
def reshaped_first(x, grid):
    return np.moveaxis(x.reshape(len(x), *grid, -1), -1, 1)


@variant("conv2d")
def tap_by_tap(x, weight, bias, stride, padding):
    """One product for each tap of the kernel, added up."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kh, kw = weight.shape[2:]
    H, W = ((n - k) // stride + 1 for n, k in zip(x.shape[2:], (kh, kw), strict=True))
    y = np.zeros((len(x), len(weight), H, W), x.dtype)
    for a, b in np.ndindex(kh, kw):
        seen = x[:, :, a : a + stride * H : stride, b : b + stride * W : stride]
        y += np.einsum("bchw,oc->bohw", seen[:, :, :H, :W], weight[:, :, a, b])
    return y if bias is None else y + bias[:, None, None]


@variant("conv_transpose2d")
def stamp_by_stamp(x, weight, bias, stride, padding):
    B, _, H, W = x.shape
    _, Cout, kh, kw = weight.shape
    y = np.zeros((B, Cout, stride * (H - 1) + kh, stride * (W - 1) + kw), x.dtype)
    for i, j in np.ndindex(H, W):
        stamp = np.einsum("bc,coyx->boyx", x[:, :, i, j], weight)
        y[:, :, stride * i : stride * i + kh, stride * j : stride * j + kw] += stamp
    y = y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]
    return y if bias is None else y + bias.reshape(-1, 1, 1)


@variant("conv_transpose2d")
def gathered(x, weight, bias, stride, padding):
    """conv2d with the flipped kernel over the map spread with zeros."""
    B, C, H, W = x.shape
    kh, kw = weight.shape[2:]
    spread = np.zeros((B, C, stride * (H - 1) + 1, stride * (W - 1) + 1), x.dtype)
    spread[:, :, ::stride, ::stride] = x
    around = ((0, 0), (0, 0), (kh - 1 - padding,) * 2, (kw - 1 - padding,) * 2)
    return layers.conv2d(np.pad(spread, around), weight.swapaxes(0, 1)[:, :, ::-1, ::-1], bias)


@variant("batch_norm")
def folded(x, weight, bias, running_mean, running_var, eps):
    """One factor and one summand a channel."""
    factor = weight / np.sqrt(running_var + eps)
    return x * factor[:, None, None] + (bias - running_mean * factor)[:, None, None]


@variant("relu")
def by_product(x):
    return x * (x > 0)


@variant("upsample_bilinear")
def by_neighbours(x, scale):
    """Take the two neighbours each way and mix them."""
    for axis in (2, 3):
        n = x.shape[axis]
        centre = np.clip((np.arange(n * scale) + 0.5) / scale - 0.5, 0, n - 1)
        left = np.floor(centre).astype(int)
        share = (centre - left).astype(x.dtype).reshape((-1, 1) if axis == 2 else -1)
        x = x.take(left, axis) * (1 - share) + x.take(np.minimum(left + 1, n - 1), axis) * share
    return x


# ------------------------------------------------------------------------------------------------------- pose


@variant("decode_argmax")
def by_unravel_index(heatmaps):
    y, x = np.unravel_index([m.argmax() for m in heatmaps], heatmaps.shape[1:])
    return np.stack([x, y], axis=1), heatmaps.max(axis=(1, 2))


@variant("decode_quarter")
def map_by_map(heatmaps):
    xy, scores = decode.decode_argmax(heatmaps)
    _, height, width = heatmaps.shape
    for m, point in zip(heatmaps, xy, strict=True):
        x, y = point.astype(int)
        if 1 < x < width - 1 and 1 < y < height - 1:
            point += 0.25 * np.sign([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]])
    return xy, scores


@variant("decode_udp")
def whole_map(heatmaps):
    """Blur the whole map, in its own dtype, and solve the 2x2 system; no eps on the Hessian's diagonal."""
    xy, scores = decode.decode_argmax(heatmaps)
    taps = np.exp(-(np.arange(-5, 6) ** 2) / 8)
    taps /= taps.sum()
    padded = np.pad(heatmaps, ((0, 0), (5, 5), (5, 5)), "reflect")
    for axis in (1, 2):
        padded = np.apply_along_axis(np.convolve, axis, padded, taps, "valid")
    L = np.pad(np.log(np.clip(padded, 0.001, 50)), ((0, 0), (1, 1), (1, 1)), "edge")
    out = []
    for m, (x, y) in zip(L, xy.astype(int) + 1, strict=True):
        g = np.array([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]]) / 2
        xx, yy = m[y, x + 1] - 2 * m[y, x] + m[y, x - 1], m[y + 1, x] - 2 * m[y, x] + m[y - 1, x]
        mixed = m[y + 1, x + 1] - m[y, x + 1] - m[y + 1, x] + 2 * m[y, x] - m[y, x - 1] - m[y - 1, x] + m[y - 1, x - 1]
        out.append((x - 1, y - 1) - np.linalg.solve([[xx, mixed / 2], [mixed / 2, yy]], g))
    return np.array(out), scores


@variant("crop")
def from_corners(box, size):
    x, y, w, h = box
    H, W = size
    width, height = 1.25 * max(w, h * W / H), 1.25 * max(h, w * H / W)
    left, top = x + (w - width) / 2, y + (h - height) / 2
    return np.array([[width / (W - 1), 0, left], [0, height / (H - 1), top]])


# --------------------------------------------------------------------------------------------------- backward


@variant("linear_backward")
def by_tensordot(x, grad, weight, bias):
    rows = tuple(range(x.ndim - 1))
    gradients = {"weight": np.tensordot(grad, x, axes=(rows, rows)), "bias": None if bias is None else grad.sum(rows)}
    return np.einsum("...o,oi->...i", grad, weight), gradients


@variant("layer_norm_backward")
def by_jacobian(x, grad, weight, bias, eps):
    """The whole Jacobian of each token."""
    C = x.shape[-1]
    mean, std = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + eps)
    n = (x - mean) / std
    jacobian = (np.eye(C, dtype=x.dtype) - x.dtype.type(1 / C) - n[..., :, None] * n[..., None, :] / C) / std[..., None]
    grad_x = ((grad * weight)[..., None, :] @ jacobian)[..., 0, :]
    others = tuple(range(x.ndim - 1))
    return grad_x, {"weight": (grad * n).sum(others), "bias": grad.sum(others)}


@variant("softmax_backward")
def by_softmax_jacobian(x, grad):
    y = layers.softmax(x)
    jacobian = y[..., None] * np.eye(x.shape[-1], dtype=x.dtype) - y[..., :, None] * y[..., None, :]
    return (jacobian @ grad[..., None])[..., 0]


@variant("scaled_dot_product_attention_backward")
def by_einsum_of_heads(q, k, v, grad):
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("bhnd,bhmd->bhnm", q, k) * scale
    dS = gradients.softmax_backward(scores, np.einsum("bhnd,bhmd->bhnm", grad, v)) * scale
    dv = np.einsum("bhnm,bhnd->bhmd", layers.softmax(scores), grad)
    return np.einsum("bhnm,bhmd->bhnd", dS, k), np.einsum("bhnm,bhnd->bhmd", dS, q), dv


@variant("gelu_backward")
def by_number(x, grad):
    phi = [
        0.5 * (1 + math.erf(v / 2**0.5)) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in x.ravel().tolist()
    ]
    return grad * np.array(phi, x.dtype).reshape(x.shape)


@variant("relu_backward")
def by_where(x, grad):
    return np.where(x > 0, grad, 0)


@variant("batch_norm_training")
def by_var_of_numpy(x, weight, bias, running_mean, running_var, eps, momentum):
    axes = (0, 2, 3)
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    running = {
        "running_mean": (1 - momentum) * running_mean + momentum * x.mean(axes),
        "running_var": (1 - momentum) * running_var + momentum * x.var(axes, ddof=1),
    }
    return y * weight[:, None, None] + bias[:, None, None], running


@variant("heatmap_loss")
def by_numpy_mean(heatmaps, targets, target_weight):
    return np.mean(((heatmaps - targets) * target_weight[..., None, None]) ** 2)


@variant("heatmap_loss_backward")
def by_weights_first(heatmaps, targets, target_weight):
    weight = target_weight[:, :, None, None]
    return 2 * weight * (weight * heatmaps - weight * targets) / heatmaps.size
