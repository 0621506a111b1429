"""The textbook, compiled: the names, signatures and results of ``minivitpose.layers``, one file an operation.

Here the loops stand that NumPy hides. Each file has a thin function, which checks shapes and lays arrays out, and a
compiled loop, parallel over outputs that do not depend on each other: any number of threads gives the same bits.
"""

import types

from minivitpose import layers
from minivitpose.kernels.attention import scaled_dot_product_attention
from minivitpose.kernels.conv import conv2d
from minivitpose.kernels.conv_transpose import conv_transpose2d
from minivitpose.kernels.gelu import gelu
from minivitpose.kernels.linear import linear
from minivitpose.kernels.norm import batch_norm, layer_norm
from minivitpose.kernels.relu import relu
from minivitpose.kernels.softmax import softmax
from minivitpose.kernels.upsample import upsample_bilinear
from minivitpose.layers import (  # nothing to compile: tables, reshapes and taps
    DECONV_PADDING,
    add_positions,
    below,
    bicubic_weights,
    bilinear_weights,
    erf,
    keep,
    merge_heads,
    resize_positions,
    split_heads,
    to_map,
    to_tokens,
)


def rewired(f):
    """The very same code, but the names in it are looked up in this module: a block of layers.py, wired of kernels.

    So the wiring is written once, in layers.py, and cannot differ between the two.
    """
    g = types.FunctionType(f.__code__, globals(), f.__name__, f.__defaults__, f.__closure__)
    g.__kwdefaults__, g.__doc__ = f.__kwdefaults__, f.__doc__
    return g


patch_embed = rewired(layers.patch_embed)
attention = rewired(layers.attention)
mlp = rewired(layers.mlp)
block = rewired(layers.block)
deconv = rewired(layers.deconv)
same_conv = rewired(layers.same_conv)
sequential = rewired(layers.sequential)
keypoint_head = rewired(layers.keypoint_head)

__all__ = [
    "DECONV_PADDING",
    "add_positions",
    "attention",
    "batch_norm",
    "below",
    "bicubic_weights",
    "bilinear_weights",
    "block",
    "conv2d",
    "conv_transpose2d",
    "deconv",
    "erf",
    "gelu",
    "keep",
    "keypoint_head",
    "layer_norm",
    "linear",
    "merge_heads",
    "mlp",
    "patch_embed",
    "relu",
    "resize_positions",
    "same_conv",
    "scaled_dot_product_attention",
    "sequential",
    "softmax",
    "split_heads",
    "to_map",
    "to_tokens",
    "upsample_bilinear",
]
