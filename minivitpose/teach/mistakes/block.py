"""Mistakes in the wiring of a block."""

from minivitpose.layers import attention, layer_norm, mlp
from minivitpose.teach.mistakes.table import mistake


def parts(p, num_heads, eps=1e-6):
    """norm1, attention, norm2, mlp as functions of x alone."""
    return (
        lambda x: layer_norm(x, **p["norm1"], eps=eps),
        lambda x: attention(x, **p["attn"], num_heads=num_heads),
        lambda x: layer_norm(x, **p["norm2"], eps=eps),
        lambda x: mlp(x, **p["mlp"]),
    )


@mistake(
    "block",
    "residual of attention missing",
    "attention's result replaces x",
    "Add it to x: x = x + attention(norm1(x)).",
)
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    x = attn(norm1(x))
    return x + mlp(norm2(x))


@mistake("block", "residual of mlp missing", "the mlp's result replaces x", "Add it to x: x + mlp(norm2(x)).")
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    return mlp(norm2(x + attn(norm1(x))))


@mistake("block", "both residuals missing", "nothing is ever added to x", "Twice: x = x + branch(norm(x)).")
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    return mlp(norm2(attn(norm1(x))))


@mistake(
    "block",
    "post-norm",
    "each norm comes after the sum, as in the first transformer of 2017",
    "ViT has it before: x + attention(norm1(x)), x + mlp(norm2(x)).",
)
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    x = norm1(x + attn(x))
    return norm2(x + mlp(x))


@mistake(
    "block", "norm of the branch", "each norm comes after its branch", "The norm comes first: x + attention(norm1(x))."
)
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    x = x + norm1(attn(x))
    return x + norm2(mlp(x))


@mistake("block", "norm1 used twice", "norm1 stands before the mlp, too", "The mlp has a norm of its own, norm2.")
def _(x, p, num_heads):
    norm1, attn, _, mlp = parts(p, num_heads)
    x = x + attn(norm1(x))
    return x + mlp(norm1(x))


@mistake(
    "block", "norms swapped", "norm1 and norm2 are swapped", "norm1 stands before attention, norm2 before the mlp."
)
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    x = x + attn(norm2(x))
    return x + mlp(norm1(x))


@mistake("block", "norm1 missing", "attention gets x without a norm", "x + attention(norm1(x)).")
def _(x, p, num_heads):
    _, attn, norm2, mlp = parts(p, num_heads)
    x = x + attn(x)
    return x + mlp(norm2(x))


@mistake("block", "norm2 missing", "the mlp gets x without a norm", "x + mlp(norm2(x)).")
def _(x, p, num_heads):
    norm1, attn, _, mlp = parts(p, num_heads)
    x = x + attn(norm1(x))
    return x + mlp(x)


@mistake(
    "block",
    "residual after the norm",
    "the branch is added to the normalised x",
    "Keep x itself for the sum: y = norm1(x), then x + attention(y).",
)
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    x = norm1(x)
    x = norm2(x + attn(x))
    return x + mlp(x)


@mistake(
    "block",
    "branches side by side",
    "the mlp gets the block's input, not what attention made of it",
    "One after the other: x = x + attention(norm1(x)), then x + mlp(norm2(x)).",
)
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    return x + attn(norm1(x)) + mlp(norm2(x))


@mistake("block", "mlp before attention", "the mlp comes first", "Attention comes first, then the mlp.")
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads)
    x = x + mlp(norm2(x))
    return x + attn(norm1(x))


@mistake("block", "eps 1e-5", "the norms have eps 1e-5, PyTorch's default", "ViTPose has 1e-6.")
def _(x, p, num_heads):
    norm1, attn, norm2, mlp = parts(p, num_heads, 1e-5)
    x = x + attn(norm1(x))
    return x + mlp(norm2(x))
