"""Mistakes in the derivatives of attention, of activations, of the MLP and of a block."""

import math

import numpy as np

from minivitpose import gradients as right
from minivitpose import layers
from minivitpose.layers import gelu, linear, softmax
from minivitpose.teach.mistakes.backward import diagonal, sum_forgotten
from minivitpose.teach.mistakes.table import mistake

# --------------------------------------------------------------------------------------------------------- attention


def core(q, k, v, grad, dq=True, dk=True, turn=True, turn_v=True, backward=right.softmax_backward):
    """scaled_dot_product_attention_backward, with one of its parts exchanged."""
    scale = q.shape[-1] ** -0.5
    scores = (q * scale) @ k.swapaxes(-1, -2)
    pattern, grad_scores = softmax(scores), backward(scores, grad @ v.swapaxes(-1, -2))
    return (
        (scale if dq else 1) * (grad_scores @ k),
        (scale if dk else 1) * ((grad_scores.swapaxes(-1, -2) if turn else grad_scores) @ q),
        (pattern.swapaxes(-1, -2) if turn_v else pattern) @ grad,
    )


CORE = [
    ("scale forgotten in dq", "dq lacks the scale", "dq = scale dS k.", {"dq": False}),
    ("scale forgotten in dk", "dk lacks the scale", "dk = scale dS^T q.", {"dk": False}),
    ("scale forgotten", "dq and dk lack the scale", "dq = scale dS k, dk = scale dS^T q.", {"dq": False, "dk": False}),
    ("dS not transposed for dk", "dk is dS q", "Row i of dS belongs to query i: dk = scale dS^T q.", {"turn": False}),
    ("pattern not transposed for dv", "dv is P grad", "Value j went to all rows: dv = P^T grad.", {"turn_v": False}),
    (
        "softmax's Jacobian reduced to its diagonal",
        "softmax's derivative is taken to be y (1 - y)",
        "dS = P (dP - sum_j dP_j P_j) along each row.",
        {"backward": diagonal},
    ),
    (
        "softmax's sum forgotten",
        "softmax's derivative lacks the sum over the row",
        "dS = P (dP - sum_j dP_j P_j) along each row.",
        {"backward": sum_forgotten},
    ),
]


def attention_gradients(x, grad, qkv, proj, num_heads, core=core, join=right.split_heads_backward):
    """attention_backward, with one of its parts exchanged."""
    q, k, v = layers.split_heads(linear(x, **qkv), num_heads)
    z = layers.merge_heads(layers.scaled_dot_product_attention(q, k, v))
    grad_z, grad_proj = right.linear_backward(z, grad, **proj)
    grads = join(*core(q, k, v, right.merge_heads_backward(grad_z, num_heads)))
    grad_x, grad_qkv = right.linear_backward(x, grads, **qkv)
    return grad_x, {"qkv": grad_qkv, "proj": grad_proj}


def enter_core():
    for cause, happens, instead, change in CORE:

        def heads(q, k, v, grad, change=change):
            return core(q, k, v, grad, **change)

        def whole(x, grad, qkv, proj, num_heads, heads=heads):
            return attention_gradients(x, grad, qkv, proj, num_heads, heads)

        mistake("scaled_dot_product_attention_backward", cause, happens, instead)(heads)
        mistake("attention_backward", cause, happens, instead)(whole)


enter_core()


@mistake(
    "attention_backward",
    "dq and dk swapped",
    "the gradients of q and k come back in each other's columns",
    "Side by side in the order of qkv's columns: q, k, v.",
)
def _(x, grad, qkv, proj, num_heads):
    def join(q, k, v):
        return right.split_heads_backward(k, q, v)

    return attention_gradients(x, grad, qkv, proj, num_heads, join=join)


@mistake(
    "attention_backward",
    "way through the scores forgotten",
    "only the way through the values is followed",
    "x made the scores, too: dq and dk go back through qkv as well.",
)
def _(x, grad, qkv, proj, num_heads):
    def join(q, k, v):
        return right.split_heads_backward(0 * q, 0 * k, v)

    return attention_gradients(x, grad, qkv, proj, num_heads, join=join)


# --------------------------------------------------------------------------------------------------- activations, mlp


def area_and_density(x):
    area = 0.5 * (1 + layers.erf(x / math.sqrt(2)).astype(x.dtype))
    return area, np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@mistake(
    "gelu_backward",
    "density missing",
    "Phi(x) alone is taken for the derivative",
    "x Phi(x) is a product: Phi(x) + x phi(x), phi the normal density.",
)
def _(x, grad):
    return grad * area_and_density(x)[0]


@mistake("gelu_backward", "x missing before the density", "the density is not multiplied by x", "Phi(x) + x phi(x).")
def _(x, grad):
    area, density = area_and_density(x)
    return grad * (area + density)


@mistake("gelu_backward", "grad missing", "GELU's own derivative is returned", "Multiply it by grad: the chain rule.")
def _(x, grad):
    area, density = area_and_density(x)
    return area + x * density


@mistake(
    "gelu_backward",
    "tanh formula",
    "the tanh formula is derived",
    "ViTPose has the exact GELU: Phi(x) + x phi(x).",
)
def _(x, grad):
    a, b = math.sqrt(2 / math.pi), 0.044715
    t = np.tanh(a * (x + b * x**3))
    return grad * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * a * (1 + 3 * b * x * x))


@mistake("gelu_backward", "step of relu", "relu's derivative is taken", "Phi(x) + x phi(x), phi the normal density.")
def _(x, grad):
    return grad * (x > 0)


def mlp_gradients(x, grad, fc1, fc2, act=gelu, back=right.gelu_backward):
    """mlp_backward, with one of its parts exchanged. back(hidden, grad)."""
    hidden = linear(x, **fc1)
    grad_hidden, grad_fc2 = right.linear_backward(act(hidden), grad, **fc2)
    grad_x, grad_fc1 = right.linear_backward(x, back(hidden, grad_hidden), **fc1)
    return grad_x, {"fc1": grad_fc1, "fc2": grad_fc2}


@mistake(
    "mlp_backward",
    "GELU's derivative missing",
    "the gradient passes GELU unchanged",
    "Between the two linear layers multiply by GELU's derivative at what went into it.",
)
def _(x, grad, fc1, fc2):
    return mlp_gradients(x, grad, fc1, fc2, back=lambda hidden, g: g)


@mistake(
    "mlp_backward",
    "GELU's derivative at its result",
    "GELU's derivative is taken at what came out of GELU",
    "Take it at what went in, linear(x, **fc1).",
)
def _(x, grad, fc1, fc2):
    return mlp_gradients(x, grad, fc1, fc2, back=lambda hidden, g: right.gelu_backward(gelu(hidden), g))


@mistake(
    "mlp_backward",
    "fc2's gradient before GELU",
    "the weight of fc2 gets its gradient from what went into GELU",
    "fc2 saw what came out of it: gelu(linear(x, **fc1)).",
)
def _(x, grad, fc1, fc2):
    return mlp_gradients(x, grad, fc1, fc2, act=lambda hidden: hidden)


@mistake("mlp_backward", "step of relu", "relu's derivative stands for GELU's", "Phi(x) + x phi(x).")
def _(x, grad, fc1, fc2):
    return mlp_gradients(x, grad, fc1, fc2, back=right.relu_backward)


@mistake("relu_backward", "passed everywhere", "grad passes unchanged", "Only where x > 0.")
def _(x, grad):
    return grad.copy()


@mistake("relu_backward", "passes at 0", "grad passes at x = 0, too", "Only where x > 0, as in PyTorch.")
def _(x, grad):
    return grad * (x >= 0)


@mistake(
    "relu_backward", "sign of grad instead of x", "what is negative in grad is dropped", "x decides: grad * (x > 0)."
)
def _(x, grad):
    return np.maximum(grad, 0)


# ------------------------------------------------------------------------------------------------------------- block


def block_gradients(x, grad, p, num_heads, past_mlp=1, past_attention=1, norm2_at=None):
    """block_backward, with factors on the two ways past a branch."""
    normed = layers.layer_norm(x, **p["norm1"])
    middle = x + layers.attention(normed, **p["attn"], num_heads=num_heads)
    inner, grad_mlp = right.mlp_backward(layers.layer_norm(middle, **p["norm2"]), grad, **p["mlp"])
    inner, grad_norm2 = right.layer_norm_backward(middle if norm2_at is None else norm2_at, inner, **p["norm2"])
    grad = past_mlp * grad + inner
    inner, grad_attn = right.attention_backward(normed, grad, **p["attn"], num_heads=num_heads)
    inner, grad_norm1 = right.layer_norm_backward(x, inner, **p["norm1"])
    grads = {"norm1": grad_norm1, "attn": grad_attn, "norm2": grad_norm2, "mlp": grad_mlp}
    return past_attention * grad + inner, grads


@mistake(
    "block_backward",
    "way past the mlp forgotten",
    "only what came through the mlp goes on",
    "x was added to the mlp's result: its gradient is grad plus what comes through the branch.",
)
def _(x, grad, p, num_heads):
    return block_gradients(x, grad, p, num_heads, past_mlp=0)


@mistake(
    "block_backward",
    "way past attention forgotten",
    "only what came through attention goes on",
    "x was added to attention's result: its gradient is grad plus what comes through the branch.",
)
def _(x, grad, p, num_heads):
    return block_gradients(x, grad, p, num_heads, past_attention=0)


@mistake(
    "block_backward",
    "norm2 at the block's input",
    "norm2's derivative is taken at x",
    "norm2 saw x + attention(norm1(x)): keep it from the forward pass.",
)
def _(x, grad, p, num_heads):
    return block_gradients(x, grad, p, num_heads, norm2_at=x)
