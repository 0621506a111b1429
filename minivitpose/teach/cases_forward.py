"""The cases of the forward steps: step -> name of the case -> function that draws the arguments."""

import numpy as np

from minivitpose.teach.cases import EVERY, REAL, bundled


def heads(block):
    """q, k, v of the first two heads of a block of the bundled model, (1, 2, N, d)."""
    return lambda r: {x: r.real(f"backbone.blocks.{block}.attn.{x}")[:, :2, ::EVERY] for x in "qkv"}


def apart(N):
    """Rows of scores that lie 20000 apart: what is right for one row is the death of the other."""
    return np.array([1e4, -1e4])[:, None] - np.arange(N)


BOX, SIZE = (31.0, 17.0, 40.0, 90.0), (256, 192)
MAP = "keypoint_head"

CASES = {
    "patch_embed": {
        "4x4 patches": lambda r: dict(images=r(2, 3, 8, 12), weight=r(5, 3, 4, 4), bias=r(5)),
        "one image, 16x16 patches": lambda r: dict(images=r(1, 3, 32, 16), weight=r(4, 3, 16, 16), bias=r(4)),
        "rows and columns left over": lambda r: dict(images=r(1, 3, 10, 9), weight=r(3, 3, 4, 4), bias=r(3)),
        "no bias": lambda r: dict(images=r(1, 3, 8, 8), weight=r(3, 3, 4, 4), bias=None),
        REAL: lambda r: dict(
            images=r.real("images")[:, :, 48:96, 80:112],
            weight=r.params("backbone.patch_embed.proj")["weight"][:8],
            bias=r.params("backbone.patch_embed.proj")["bias"][:8],
        ),
    },
    "to_tokens": {
        "3x2 patches": lambda r: dict(x=r(2, 4, 3, 2)),
        "a square grid, one image": lambda r: dict(x=r(1, 3, 3, 3)),
        "one patch": lambda r: dict(x=r(1, 3, 1, 1)),
        REAL: lambda r: dict(x=r.real("backbone.patch_embed.proj")[:, :16]),
    },
    "positions": {
        "three images": lambda r: dict(x=r(3, 6, 4), pos_embed=r(1, 7, 4)),
        "one image, one token": lambda r: dict(x=r(1, 1, 4), pos_embed=r(1, 2, 4)),
        REAL: lambda r: dict(
            x=r.real("backbone.pos"), pos_embed=bundled()[0]["backbone.pos_embed"][:, : 192 // EVERY + 1]
        ),
    },
    "linear": {
        "a batch of tokens": lambda r: dict(x=r(2, 5, 7), weight=r(6, 7), bias=r(6)),
        "as many out as in": lambda r: dict(x=r(2, 3, 6), weight=r(6, 6), bias=r(6)),
        "no bias": lambda r: dict(x=r(3, 4), weight=r(5, 4), bias=None),
        "one token": lambda r: dict(x=r(1, 1, 9), weight=r(4, 9), bias=r(4)),
        REAL: lambda r: dict(x=r.real("backbone.blocks.0.norm1"), **r.params("backbone.blocks.0.attn.qkv")),
    },
    "layer_norm": {
        "a batch of tokens": lambda r: dict(x=3 * r(2, 5, 7) + 2, **r.norm(7), eps=1e-6),
        "one token": lambda r: dict(x=r(1, 1, 9), **r.norm(9), eps=1e-6),
        "nearly constant tokens, where eps counts": lambda r: dict(x=1e-3 * r(1, 4, 8), **r.norm(8), eps=1e-6),
        "another eps": lambda r: dict(x=r(2, 3, 9), **r.norm(9), eps=0.1),
        "constant tokens, of variance 0": lambda r: dict(x=np.full((1, 2, 8), 2.5), **r.norm(8), eps=1e-6),
        REAL: lambda r: dict(x=r.real("backbone.blocks.0"), **r.params("backbone.blocks.1.norm1"), eps=1e-6),
    },
    "softmax": {
        "scores": lambda r: dict(x=r(2, 3, 4, 5)),
        "two rows": lambda r: dict(x=r(2, 6)),
        "very large scores": lambda r: dict(x=1e4 * r(3, 7)),
        "rows that lie far apart": lambda r: dict(x=apart(4)),
        "equal scores": lambda r: dict(x=np.full((2, 6), 3.0)),
        "one score": lambda r: dict(x=r(4, 1)),
        REAL: lambda r: dict(x=r.real("backbone.blocks.1.attn.scores")[:, :2, ::EVERY]),
    },
    "scaled_dot_product_attention": {
        "two images": lambda r: dict(q=r(2, 3, 5, 4), k=r(2, 3, 5, 4), v=r(2, 3, 5, 4)),
        "one image, as many channels as tokens": lambda r: dict(q=r(1, 2, 4, 4), k=r(1, 2, 4, 4), v=r(1, 2, 4, 4)),
        "very large scores": lambda r: dict(q=100 * r(1, 2, 5, 4), k=100 * r(1, 2, 5, 4), v=r(1, 2, 5, 4)),
        "one token": lambda r: dict(q=r(1, 2, 1, 4), k=r(1, 2, 1, 4), v=r(1, 2, 1, 4)),
        REAL: heads(1),
    },
    "split_heads": {
        "three heads": lambda r: dict(x=r(2, 5, 18), num_heads=3),
        "two heads, one image": lambda r: dict(x=r(1, 4, 24), num_heads=2),
        "one head": lambda r: dict(x=r(1, 4, 9), num_heads=1),
        REAL: lambda r: dict(x=r.real("backbone.blocks.0.attn.qkv"), num_heads=3),
    },
    "merge_heads": {
        "three heads": lambda r: dict(x=r(2, 3, 5, 4)),
        "one head, one image": lambda r: dict(x=r(1, 1, 4, 3)),
        "as many heads as tokens": lambda r: dict(x=r(1, 3, 3, 3)),
    },
    "attention": {
        "two heads": lambda r: dict(x=r(2, 5, 8), **r.attention(8, 2, 4), num_heads=2),
        "three heads, one image": lambda r: dict(x=r(1, 4, 6), **r.attention(6, 3, 2), num_heads=3),
        "one head": lambda r: dict(x=r(3, 4, 5), **r.attention(5, 1, 5), num_heads=1),
        "one token": lambda r: dict(x=r(3, 1, 4), **r.attention(4, 2, 2), num_heads=2),
        "very large scores": lambda r: dict(x=30 * r(1, 4, 8), **r.attention(8, 2, 4), num_heads=2),
        REAL: lambda r: dict(x=r.real("backbone.blocks.1.norm1"), **r.params("backbone.blocks.1.attn"), num_heads=3),
    },
    "gelu": {
        "a batch of tokens": lambda r: dict(x=2 * r(2, 3, 4)),
        "around 0": lambda r: dict(x=np.linspace(-2, 2, 41)),
        "the left tail": lambda r: dict(x=np.linspace(-5, -2, 13)),
        "0 and far away": lambda r: dict(x=np.array([0.0, -0.0, 30, -30, 6, -6])),
        REAL: lambda r: dict(x=r.real("backbone.blocks.0.mlp.fc1")),
    },
    "mlp": {
        "a batch of tokens": lambda r: dict(x=r(2, 3, 4), **r.mlp(4, 16)),
        "one token": lambda r: dict(x=r(1, 1, 3), **r.mlp(3, 5)),
        REAL: lambda r: dict(x=r.real("backbone.blocks.2.norm2"), **r.params("backbone.blocks.2.mlp")),
    },
    "block": {
        "two images": lambda r: dict(x=r(2, 6, 8), p=r.block(8, 2, 4), num_heads=2),
        "one head, one token": lambda r: dict(x=r(3, 1, 5), p=r.block(5, 1, 5), num_heads=1),
        "nearly constant tokens, where eps counts": lambda r: dict(
            x=1e-3 * r(1, 4, 6), p=r.block(6, 2, 3), num_heads=2
        ),
        REAL: lambda r: dict(x=r.real("backbone.blocks.0"), p=r.params("backbone.blocks.1"), num_heads=3),
    },
    "to_map": {
        "3x2 patches": lambda r: dict(x=r(2, 6, 4), grid=(3, 2)),
        "as many channels as tokens": lambda r: dict(x=r(1, 6, 6), grid=(2, 3)),
        "one patch": lambda r: dict(x=r(1, 1, 3), grid=(1, 1)),
    },
    "conv2d": {
        "3x3, padding 1": lambda r: dict(x=r(2, 2, 5, 4), weight=r(3, 2, 3, 3), bias=r(3), stride=1, padding=1),
        "as many channels out as in": lambda r: dict(
            x=r(1, 3, 4, 5), weight=r(3, 3, 3, 3), bias=r(3), stride=1, padding=0
        ),
        "stride 2, rows left over": lambda r: dict(
            x=r(1, 2, 7, 8), weight=r(2, 2, 3, 3), bias=r(2), stride=2, padding=0
        ),
        "no bias, padding 2": lambda r: dict(x=r(1, 2, 4, 4), weight=r(3, 2, 3, 3), bias=None, stride=1, padding=2),
        "rectangular kernel": lambda r: dict(x=r(1, 2, 6, 5), weight=r(2, 2, 3, 2), bias=r(2), stride=1, padding=0),
        REAL: lambda r: dict(
            x=r.real(f"{MAP}.deconv_layers.5")[:, :, 20:28, 20:28],
            **r.params(f"{MAP}.final_layer"),
            stride=1,
            padding=0,
        ),
    },
    "conv_transpose2d": {
        "4x4, as in the head": lambda r: dict(x=r(2, 3, 3, 4), weight=r(3, 2, 4, 4), bias=r(2), stride=2, padding=1),
        "as many channels out as in": lambda r: dict(
            x=r(1, 3, 3, 2), weight=r(3, 3, 4, 4), bias=r(3), stride=2, padding=1
        ),
        "stamps that do not overlap": lambda r: dict(
            x=r(1, 2, 3, 2), weight=r(2, 3, 2, 2), bias=r(3), stride=2, padding=0
        ),
        "no bias, stride 1": lambda r: dict(x=r(1, 2, 4, 3), weight=r(2, 3, 3, 3), bias=None, stride=1, padding=1),
        "one pixel": lambda r: dict(x=r(1, 1, 1, 1), weight=r(1, 1, 4, 4), bias=r(1), stride=2, padding=1),
        REAL: lambda r: dict(
            x=r.real("backbone")[:, :32, 4:8, 4:8],
            weight=r.params(f"{MAP}.deconv_layers.0")["weight"][:32, :8],
            bias=None,
            stride=2,
            padding=1,
        ),
    },
    "batch_norm": {
        "two images": lambda r: dict(x=r(2, 3, 4, 5), **r.batch_norm(3), eps=1e-5),
        "as many channels as columns": lambda r: dict(x=r(1, 4, 3, 4), **r.batch_norm(4), eps=1e-5),
        "small variance, where eps counts": lambda r: dict(
            x=0.01 * r(1, 2, 3, 3), **r.norm(2), running_mean=0.01 * r(2), running_var=np.array([1e-5, 3e-5]), eps=1e-5
        ),
        "another eps": lambda r: dict(x=r(1, 2, 1, 3), **r.batch_norm(2), eps=0.5),
        "a channel of variance 0": lambda r: dict(
            x=np.full((1, 2, 2, 3), 0.125),
            **r.norm(2),
            running_mean=np.full(2, 0.125),
            running_var=np.zeros(2),
            eps=1e-5,
        ),
        REAL: lambda r: dict(
            x=r.real(f"{MAP}.deconv_layers.0")[:, :, 8:16, 8:16], **r.params(f"{MAP}.deconv_layers.1"), eps=1e-5
        ),
    },
    "relu": {
        "a map": lambda r: dict(x=r(2, 3, 4, 5)),
        "0 and far away": lambda r: dict(x=np.array([0.0, -0.0, 1e30, -1e30])),
        REAL: lambda r: dict(x=r.real(f"{MAP}.deconv_layers.1")[:, :8, :8, :8]),
    },
    "upsample_bilinear": {
        "four times": lambda r: dict(x=r(2, 3, 3, 2), scale=4),
        "twice, one image": lambda r: dict(x=r(1, 2, 2, 5), scale=2),
        "three times": lambda r: dict(x=r(1, 2, 4, 3), scale=3),
        "one pixel": lambda r: dict(x=r(1, 2, 1, 1), scale=4),
        REAL: lambda r: dict(x=r.real("backbone")[:, :4, :6, :5], scale=4),
    },
    "decode_argmax": {
        "random maps": lambda r: dict(heatmaps=r(5, 7, 6)),
        "Gaussians": lambda r: dict(heatmaps=r.bumps(4, 32, 24)),
        "equal highest cells": lambda r: dict(heatmaps=r.random.integers(0, 3, (4, 5, 6)).astype(float)),
        "below 0 everywhere": lambda r: dict(heatmaps=-2 - np.abs(r(3, 5, 4))),
        "one cell": lambda r: dict(heatmaps=r(2, 1, 1)),
        REAL: lambda r: dict(heatmaps=r.real(f"{MAP}.final_layer")[0]),
    },
    "decode_quarter": {
        "Gaussians": lambda r: dict(heatmaps=r.bumps(6, 32, 24)),
        "random maps, some tops at the border": lambda r: dict(heatmaps=0.1 + np.abs(r(12, 6, 5))),
        "flat tops": lambda r: dict(heatmaps=np.minimum(r.bumps(4, 24, 24, sigma=3.0), 0.3)),
        REAL: lambda r: dict(heatmaps=r.real(f"{MAP}.final_layer")[0]),
    },
    "decode_udp": {
        "Gaussians": lambda r: dict(heatmaps=r.bumps(6, 32, 24)),
        "wide Gaussians, one square map": lambda r: dict(heatmaps=r.bumps(1, 32, 32, sigma=3.0)),
        "Gaussians near the border": lambda r: dict(heatmaps=r.bumps(8, 24, 20, border=2)),
        REAL: lambda r: dict(heatmaps=r.real(f"{MAP}.final_layer")[0]),
    },
    "crop": {
        "a tall box": lambda r: dict(box=BOX, size=SIZE),
        "a wide box": lambda r: dict(box=(250.0, 120.0, 200.0, 60.0), size=SIZE),
        "a box of the crop's shape": lambda r: dict(box=(10.0, 20.0, 48.0, 64.0), size=SIZE),
        "beyond the picture's corner, small square crop": lambda r: dict(box=(-8.5, -3.25, 37.5, 21.0), size=(32, 32)),
    },
}
CASES["attention_head"] = {
    "five tokens": lambda r: dict(q=r(5, 4), k=r(5, 4), v=r(5, 4)),
    "as many channels as tokens": lambda r: dict(q=r(4, 4), k=r(4, 4), v=r(4, 4)),
    "fewer tokens than channels": lambda r: dict(q=r(3, 8), k=r(3, 8), v=r(3, 8)),
    "very large scores": lambda r: dict(q=100 * r(5, 4), k=100 * r(5, 4), v=r(5, 4)),
    "one token": lambda r: dict(q=r(1, 4), k=r(1, 4), v=r(1, 4)),
    REAL: lambda r: {name: x[0, 0] for name, x in heads(1)(r).items()},
}
