"""Mistakes in attention."""

import math

import numpy as np

from minivitpose import layers
from minivitpose.layers import attention, linear, merge_heads, softmax, split_heads
from minivitpose.teach.mistakes.table import TABLE, mistake

HEAD = "attention_head scaled_dot_product_attention"


def scores(q, k):
    return q @ k.swapaxes(-1, -2)


def columns(x):
    """Softmax over the wrong axis."""
    return softmax(x.swapaxes(-1, -2)).swapaxes(-1, -2)


# ----------------------------------------------------------------------------------- one head, and many at once


@mistake(HEAD, "scale missing", "the scores are not scaled", "Divide q k^T by sqrt(d) before softmax.")
def no_scale(q, k, v):
    return softmax(scores(q, k)) @ v


@mistake(
    HEAD,
    "scale without root",
    "the scores are divided by d",
    "Divide by its root: scale = d ** -0.5, so that scores keep a variance of about 1.",
)
def scale_without_root(q, k, v):
    return softmax(scores(q, k) / q.shape[-1]) @ v


@mistake(
    HEAD,
    "scale of N",
    "the scores are divided by the root of the number of tokens",
    "d is the number of channels, q.shape[-1]: as many products are added up in a score.",
)
def scale_of_tokens(q, k, v):
    return softmax(scores(q, k) / math.sqrt(q.shape[-2])) @ v


@mistake(HEAD, "scale upside down", "the scores are multiplied by sqrt(d)", "Divide by it: scale = d ** -0.5.")
def scale_upside_down(q, k, v):
    return softmax(scores(q, k) * math.sqrt(q.shape[-1])) @ v


@mistake(
    HEAD,
    "scale after softmax",
    "the pattern is scaled, not the scores",
    "Scale before softmax: a row of the pattern sums to 1.",
)
def scale_after_softmax(q, k, v):
    return softmax(scores(q, k)) @ v / math.sqrt(q.shape[-1])


@mistake(
    HEAD,
    "softmax over the wrong axis",
    "softmax goes down the columns, over who asks",
    "Each row of scores (one query, all keys) must sum to 1: axis=-1.",
)
def softmax_of_columns(q, k, v):
    return columns(scores(q, k) / math.sqrt(q.shape[-1])) @ v


@mistake(
    HEAD, "softmax missing", "the scores themselves weigh the values", "Take softmax of each row of the scores first."
)
def no_softmax(q, k, v):
    return scores(q, k) / math.sqrt(q.shape[-1]) @ v


@mistake(
    HEAD,
    "no maximum subtracted",
    "softmax does not take off the row's maximum: exp of a large score is infinite",
    "exp(x - max) / sum exp(x - max), with max along axis=-1.",
)
def overflow(q, k, v):
    e = np.exp(scores(q, k) / math.sqrt(q.shape[-1]))
    return e / e.sum(-1, keepdims=True) @ v


@mistake(
    HEAD,
    "pattern transposed",
    "the pattern is transposed before it meets the values",
    "Row i of the pattern says what token i gathers: pattern @ v.",
)
def pattern_transposed(q, k, v):
    return softmax(scores(q, k) / math.sqrt(q.shape[-1])).swapaxes(-1, -2) @ v


ORDERS = {"k, q, v": (1, 0, 2), "q, v, k": (0, 2, 1), "v, k, q": (2, 1, 0), "k, v, q": (1, 2, 0), "v, q, k": (2, 0, 1)}


def enter_orders():
    """q, k, v in each of the five wrong orders, for each of the steps that can mix them up."""
    first = "softmax(q k^T / sqrt(d)) v: queries ask, keys are asked, values are gathered."
    for order, (a, b, c) in ORDERS.items():
        happens = f"q, k and v are taken in the order {order}"

        def head(*qkv, a=a, b=b, c=c):
            return layers.scaled_dot_product_attention(qkv[a], qkv[b], qkv[c])

        def split(x, num_heads, a=a, b=b, c=c):
            qkv = split_heads(x, num_heads)
            return qkv[a], qkv[b], qkv[c]

        def whole(x, qkv, proj, num_heads, head=head):
            return attend(x, qkv, proj, num_heads, head=head)

        mistake(HEAD, f"order {order}", happens, first)(head)
        mistake("split_heads", f"order {order}", happens, "The columns hold q first, then k, then v.")(split)
        mistake("attention", f"order {order}", happens, "The columns of qkv hold q first, then k, then v.")(whole)


@mistake(
    HEAD,
    "float64 leaks in",
    "the scale is a NumPy float64, such as 1 / np.sqrt(d), and turns float32 into float64",
    "Use a plain number: d ** -0.5 or math.sqrt(d).",
)
def leak(q, k, v):
    return softmax(scores(q, k) / np.sqrt(np.float64(q.shape[-1]))) @ v


# ------------------------------------------------------------------------------------------- heads apart and together


@mistake(
    "split_heads",
    "reshaped without transposing",
    "the array is reshaped straight to (3, B, h, N, d): the shape fits, the numbers are those of other tokens",
    "Reshape to (B, N, 3, h, d), then transpose(2, 0, 3, 1, 4).",
)
def split_straight(x, num_heads):
    B, N, inner = x.shape
    return x.reshape(3, B, num_heads, N, inner // (3 * num_heads))


@mistake(
    "split_heads",
    "tokens and heads not swapped",
    "the heads are cut out with (B, N, h, d) reshaped to (B, h, N, d)",
    "Axes are swapped by transpose, never by reshape.",
)
def split_halfway(x, num_heads):
    parts = x.reshape(*x.shape[:2], 3, -1).transpose(2, 0, 1, 3)
    return parts.reshape(3, len(x), num_heads, x.shape[1], -1)


@mistake(
    "split_heads",
    "heads before q, k, v",
    "the columns are read as heads first and q, k, v inside each head",
    "They are q, k, v first: reshape to (B, N, 3, h, d), not (B, N, h, 3, d).",
)
def split_heads_first(x, num_heads):
    return x.reshape(*x.shape[:2], num_heads, 3, -1).transpose(3, 0, 2, 1, 4)


@mistake(
    "split_heads",
    "channels before heads",
    "the channels of all heads are read as if they took turns",
    "A head's channels lie side by side: reshape to (B, N, 3, h, d), not (B, N, 3, d, h).",
)
def split_interleaved(x, num_heads):
    return x.reshape(*x.shape[:2], 3, -1, num_heads).transpose(2, 0, 4, 1, 3)


@mistake(
    "merge_heads",
    "reshaped without transposing",
    "(B, h, N, d) is reshaped straight to (B, N, h d): the shape fits, a row mixes tokens",
    "First transpose(0, 2, 1, 3), then reshape.",
)
def merge_straight(x):
    B, h, N, d = x.shape
    return x.reshape(B, N, h * d)


@mistake(
    "merge_heads",
    "channels before heads",
    "the heads take turns in the columns",
    "A head's channels lie side by side: transpose to (B, N, h, d), not (B, N, d, h).",
)
def merge_interleaved(x):
    return x.transpose(0, 2, 3, 1).reshape(len(x), x.shape[2], -1)


def attend(x, qkv, proj, num_heads, split=split_heads, head=layers.scaled_dot_product_attention, merge=merge_heads):
    """attention, with one of its parts exchanged."""
    return linear(merge(head(*split(linear(x, **qkv), num_heads))), **proj)


def enter_parts():
    """In attention, what can go wrong in its parts: the same causes and words."""
    for step, part in (("scaled_dot_product_attention", "head"), ("split_heads", "split"), ("merge_heads", "merge")):
        for m in [m for m in TABLE[step] if not m.cause.startswith("order")]:
            cause = m.cause if part == "head" else f"{part}: {m.cause}"

            def whole(x, qkv, proj, num_heads, part=part, function=m.function):
                return attend(x, qkv, proj, num_heads, **{part: function})

            mistake("attention", cause, m.happens, m.instead)(whole)


@mistake(
    "attention",
    "scale of C",
    "the scores are divided by sqrt(C)",
    "Each head has d = C / h channels of its own: divide by sqrt(d).",
)
def _(x, qkv, proj, num_heads):
    q, k, v = split_heads(linear(x, **qkv), num_heads)
    return linear(merge_heads(softmax(scores(q, k) / math.sqrt(x.shape[-1])) @ v), **proj)


@mistake(
    "attention",
    "softmax over the heads",
    "softmax goes over the heads",
    "It goes over the keys, the last axis of (B, h, N, N).",
)
def _(x, qkv, proj, num_heads):
    q, k, v = split_heads(linear(x, **qkv), num_heads)
    pattern = softmax((scores(q, k) / math.sqrt(q.shape[-1])).swapaxes(1, -1)).swapaxes(1, -1)
    return linear(merge_heads(pattern @ v), **proj)


@mistake("attention", "bias of qkv missing", "the bias of qkv is left out", "linear(x, **qkv) has it.")
def _(x, qkv, proj, num_heads):
    return attention(x, {"weight": qkv["weight"]}, proj, num_heads)


@mistake("attention", "bias of proj missing", "the bias of proj is left out", "linear(z, **proj) has it.")
def _(x, qkv, proj, num_heads):
    return attention(x, qkv, {"weight": proj["weight"]}, num_heads)


@mistake(
    "attention",
    "proj missing",
    "the heads are not mixed at the end",
    "After the merge comes one more linear layer, proj.",
)
def _(x, qkv, proj, num_heads):
    return merge_heads(layers.scaled_dot_product_attention(*split_heads(linear(x, **qkv), num_heads)))


enter_orders()
enter_parts()
