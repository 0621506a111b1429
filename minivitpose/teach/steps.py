"""The steps of the course: what a learner writes in each, and the function that knows the right answer."""

from dataclasses import dataclass
from difflib import get_close_matches
from html import escape

import numpy as np

from minivitpose import gradients, layers
from minivitpose.pose import decode
from minivitpose.pose.crop import centre_and_scale, crop_matrix
from minivitpose.teach.cases import cases_of
from minivitpose.teach.cases_backward import CASES as BACKWARD
from minivitpose.teach.cases_forward import CASES as FORWARD
from minivitpose.training import loss

# The largest error that is accepted, as a part of the largest number expected. docs/mistakes.md has the margins: far
# above the roundings of any right order of summation, far below the smallest mistake.
TOLERANCE = {np.float64: 1e-11, np.float32: 1e-5}
WHY = {
    np.float64: "float64 keeps 16 digits, and the order of a sum may cost a few of them",
    np.float32: "float32 keeps 7 digits, and the order of a sum may cost one or two of them",
}


@dataclass(frozen=True, eq=False)
class Step:
    """One function of the course.

    arguments: their names, in order. source: the paper to read. summary: what it does, in a line; shapes: what goes in
    and what comes out. truth: a function of these arguments that is right in float64. solution: where the package has
    it. outputs: the names of what comes out, () for one array. free: outputs of any dtype. ignored: keys that may be
    there or not. dtypes: those it is tried in.
    """

    name: str
    arguments: tuple
    source: str
    summary: str
    shapes: str
    truth: callable
    solution: str
    outputs: tuple = ()
    free: tuple = ()
    ignored: tuple = ()
    dtypes: tuple = (np.float64, np.float32)
    tolerance: dict | None = None

    @property
    def signature(self):
        return f"{self.name}({', '.join(self.arguments)})"

    @property
    def cases(self):
        return cases_of(self.name, (FORWARD | BACKWARD)[self.name])

    def allowed(self, dtype):
        """The largest error accepted, as a part of the largest number expected."""
        return (self.tolerance or TOLERANCE)[dtype]


def refined(mode):
    """heatmaps (K, Hm, Wm) -> the highest points in cells (K, 2), scores (K,), refined as in that mode of decode."""

    def truth(heatmaps):
        cells, scores = decode.decode_argmax(heatmaps)
        return decode.refine(heatmaps, cells, scores, mode), scores

    return truth


def box_matrix(box, size):
    """The matrix of the crop around a box: crop pixel -> picture pixel, (2, 3)."""
    return crop_matrix(*centre_and_scale(box, size), size)


def layer(name, arguments, source, summary, shapes, solution=None, **more):
    """A step whose truth is a function of layers.py."""
    solution = solution or name
    truth = getattr(layers, solution)
    return Step(name, tuple(arguments.split()), source, summary, shapes, truth, f"layers.{solution}", **more)


def backward(name, arguments, gives, solution=None, **more):
    """A step whose truth is a function of gradients.py."""
    solution, layer = solution or name, name.removesuffix("_backward")
    more = {"outputs": ("grad_x", "gradients")} | more
    truth, summary = getattr(gradients, solution), f"the derivative of {layer}"
    shapes = f"grad has the shape of what came out, each gradient that of its array -> {gives}"
    return Step(name, tuple(arguments.split()), CHAIN, summary, shapes, truth, f"gradients.{solution}", **more)


VIT, TRANSFORMER = "Dosovitskiy et al. 2021 (ViT)", "Vaswani et al. 2017"
VITPOSE, DARK = "Xu et al. 2022 (ViTPose)", "Zhang et al. 2020 (DARK)"
NORM, BATCH, GELU = "Ba et al. 2016", "Ioffe and Szegedy 2015", "Hendrycks and Gimpel 2016"
CONV, UDP, CHAIN = "Dumoulin and Visin 2016", "Huang et al. 2020 (UDP)", "Rumelhart et al. 1986"
CELLS = "(K, Hm, Wm) -> xy (K, 2) in cells, scores (K,)"
PIXELS = {"outputs": ("xy", "scores"), "free": ("xy",)}

ROWS = [
    layer(
        "patch_embed", "images weight bias", VIT,
        "project patches: a convolution, its stride the kernel's size s, padding 2; bias may be None",
        "images (B, 3, H, W), weight (C, 3, s, s) -> (B, C, Hp, Wp)",
    ),
    layer("to_tokens", "x", VIT, "one row a patch, in reading order", "(B, C, Hp, Wp) -> (B, N, C)"),
    layer(
        "positions", "x pos_embed", VITPOSE, "add to each token its own position, and slot 0",
        "x (B, N, C), pos_embed (1, 1 + N, C) -> (B, N, C)", solution="add_positions",
    ),
    layer(
        "linear", "x weight bias", VIT, "x W^T + b; bias may be None",
        "x (..., Cin), weight (Cout, Cin), bias (Cout,) -> (..., Cout)",
    ),
    layer(
        "layer_norm", "x weight bias eps", NORM, "each token to mean 0 and variance 1, then times weight plus bias",
        "x (..., C), weight and bias (C,) -> (..., C)",
    ),
    layer("softmax", "x", TRANSFORMER, "positive numbers that sum to 1 along the last axis", "(..., N) -> (..., N)"),
    layer(
        "attention_head", "q k v", TRANSFORMER, "one head: softmax(q k^T / sqrt(d)) v", "each (N, d) -> (N, d)",
        solution="scaled_dot_product_attention",
    ),
    layer(
        "scaled_dot_product_attention", "q k v", TRANSFORMER, "all heads at once: softmax(q k^T / sqrt(d)) v",
        "each (B, h, N, d) -> (B, h, N, d)",
    ),
    layer(
        "split_heads", "x num_heads", TRANSFORMER, "the columns are q, k, v in turn, in each the heads in turn",
        "(B, N, 3 h d) -> q, k, v, each (B, h, N, d)", outputs=("q", "k", "v"),
    ),
    layer("merge_heads", "x", TRANSFORMER, "the heads side by side again", "(B, h, N, d) -> (B, N, h d)"),
    layer(
        "attention", "x qkv proj num_heads", TRANSFORMER, "linear qkv, split, attend, merge, linear proj",
        "x (B, N, C), qkv and proj {weight, bias} -> (B, N, C)",
    ),
    layer("gelu", "x", GELU, "x Phi(x), Phi the normal distribution, by erf", "any shape"),
    layer("mlp", "x fc1 fc2", VIT, "linear, GELU, linear", "x (..., C), fc1 and fc2 {weight, bias} -> (..., C)"),
    layer(
        "block", "x p num_heads", VIT, "x + attention(norm1(x)), then x + mlp(norm2(x)); eps is 1e-6",
        "x (B, N, C), p {norm1, attn {qkv, proj}, norm2, mlp {fc1, fc2}} -> (B, N, C)",
    ),
    layer(
        "to_map", "x grid", VITPOSE, "the tokens laid out as an image again",
        "x (B, N, C), grid (Hp, Wp) -> (B, C, Hp, Wp)",
    ),
    layer(
        "conv2d", "x weight bias stride padding", CONV, "slide a kernel over the padded map; bias may be None",
        "x (B, Cin, H, W), weight (Cout, Cin, kh, kw) -> (B, Cout, H', W')",
    ),
    layer(
        "conv_transpose2d", "x weight bias stride padding", CONV,
        "every pixel stamps the kernel, stamps add up, padding is cut off each side; bias may be None",
        "x (B, Cin, H, W), weight (Cin, Cout, kh, kw) -> (B, Cout, H', W')",
    ),
    layer(
        "batch_norm", "x weight bias running_mean running_var eps", BATCH, "each channel by the running statistics",
        "x (B, C, H, W), the rest (C,) -> (B, C, H, W)",
    ),
    layer("relu", "x", VITPOSE, "max(x, 0)", "any shape"),
    layer(
        "upsample_bilinear", "x scale", VITPOSE, "enlarge by linear interpolation, the corners not aligned",
        "(B, C, H, W) -> (B, C, s H, s W)",
    ),
    Step(
        "decode_argmax", ("heatmaps",), VITPOSE, "the highest cell; among equals the first in reading order",
        CELLS, decode.decode_argmax, "pose.decode.decode_argmax", **PIXELS,
    ),
    Step(
        "decode_quarter", ("heatmaps",), VITPOSE,
        "the highest cell, moved 1/4 towards the higher neighbour each way, where 1 < x < Wm - 1 and 1 < y < Hm - 1",
        CELLS, refined("plain"), "pose.decode.quarter_step", **PIXELS,
    ),
    Step(
        "decode_udp", ("heatmaps",), DARK,
        "blur (11 taps, sigma 2, border reflected), clip to 0.001 .. 50, log, one Newton step from the highest cell",
        CELLS, refined("udp"), "pose.decode.newton_step", **PIXELS, tolerance=dict.fromkeys(TOLERANCE, 1e-5),
    ),
    Step(
        "crop", ("box", "size"), UDP,
        "crop pixel -> picture pixel: the box, enlarged to the crop's shape and by 1.25, its corners on corner pixels",
        "box (x, y, w, h), size (height, width) -> (2, 3) float64", box_matrix, "pose.crop.crop_matrix",
        dtypes=(np.float64,),
    ),
    backward("positions_backward", "x grad pos_embed", "grad_x, {pos_embed}", solution="add_positions_backward"),
    backward("linear_backward", "x grad weight bias", "grad_x, {weight, bias}"),
    backward("layer_norm_backward", "x grad weight bias eps", "grad_x, {weight, bias}"),
    backward("softmax_backward", "x grad", "grad_x; x is what went into softmax", outputs=()),
    backward(
        "scaled_dot_product_attention_backward", "q k v grad", "grad_q, grad_k, grad_v",
        outputs=("grad_q", "grad_k", "grad_v"),
    ),
    backward("attention_backward", "x grad qkv proj num_heads", "grad_x, {qkv {weight, bias}, proj {weight, bias}}"),
    backward("gelu_backward", "x grad", "grad_x", outputs=()),
    backward("mlp_backward", "x grad fc1 fc2", "grad_x, {fc1 {weight, bias}, fc2 {weight, bias}}"),
    backward("block_backward", "x grad p num_heads", "grad_x, {norm1, attn, norm2, mlp}"),
    backward("conv2d_backward", "x grad weight bias stride padding", "grad_x, {weight, bias}"),
    backward("conv_transpose2d_backward", "x grad weight bias stride padding", "grad_x, {weight, bias}"),
    backward("relu_backward", "x grad", "grad_x; nothing passes at 0", outputs=()),
    Step(
        "batch_norm_training", ("x", "weight", "bias", "running_mean", "running_var", "eps", "momentum"), BATCH,
        "each channel by the batch's own statistics, and the running ones moved towards them",
        "x (B, C, H, W), the rest (C,) -> y, {running_mean, running_var}", gradients.batch_norm_training,
        "gradients.batch_norm_training", outputs=("y", "statistics"), ignored=("num_batches_tracked",),
    ),
    backward(
        "batch_norm_training_backward", "x grad weight bias running_mean running_var eps",
        "grad_x, {weight, bias}; the running statistics play no part",
    ),
    Step(
        "heatmap_loss", ("heatmaps", "targets", "target_weight"), VITPOSE,
        "the mean over all of ((heatmaps - targets) weight)^2", "(B, K, Hm, Wm) twice, (B, K) -> a number",
        loss.heatmap_loss, "training.loss.heatmap_loss", outputs=("loss",), free=("loss",),
    ),
    Step(
        "heatmap_loss_backward", ("heatmaps", "targets", "target_weight"), CHAIN,
        "the derivative of the loss by the heatmaps", "(B, K, Hm, Wm) twice, (B, K) -> (B, K, Hm, Wm)",
        loss.heatmap_loss_backward, "training.loss.heatmap_loss_backward",
    ),
]  # fmt: skip
STEPS = {step.name: step for step in ROWS}


def find(name):
    """The step of that name. Raises ValueError that lists the names like it."""
    if name in STEPS:
        return STEPS[name]
    like = get_close_matches(str(name), STEPS, 4, 0.5) or [known for known in STEPS if str(name) in known][:4]
    raise ValueError(f"no step {name!r}; " + (f"like it: {', '.join(like)}" if like else "steps() lists all of them"))


class Steps(tuple):
    """All steps; prints as a table."""

    def __str__(self):
        return "\n".join(f"{step.signature}\n    {step.summary}\n    {step.shapes}" for step in self)

    __repr__ = __str__

    def _repr_html_(self):
        left = ' style="text-align:left"'
        rows = ""
        for step in self:
            cells = f"<code>{escape(step.signature)}</code>", *map(escape, (step.summary, step.shapes, step.source))
            rows += f"<tr>{''.join(f'<td{left}>{cell}</td>' for cell in cells)}</tr>"
        head = "".join(f"<th{left}>{title}</th>" for title in ("you write", "what it does", "shapes", "to read"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def steps():
    """Every step that ``check`` knows, with the signature to write and what it does: a table to print -> Steps."""
    return Steps(STEPS.values())
