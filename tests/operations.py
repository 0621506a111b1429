"""ONE table of cases, an operation with its arguments, that drives every comparison: naive x numpy x numba x torch.

Every tensor is random, biases and running statistics too: a zero hides what was forgotten.
"""

import ast
import inspect
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np

import naive

# The largest difference that is accepted, as a part of the largest number in the expected output.
TOLERANCE = {np.float64: 1e-12, np.float32: 4e-6}

# These make tables or take no array, and answer in float64 whatever they are fed.
ALWAYS_FLOAT64 = {"erf", "bicubic_weights", "bilinear_weights"}


@dataclass(frozen=True)
class Function:
    """An argument that is a function of the engine under test, by its name."""

    name: str


@dataclass(frozen=True)
class Case:
    operation: str
    name: str
    build: callable  # draws the arguments; the first is passed by its place, the rest by their names

    def __str__(self):
        return f"{self.operation}: {self.name}"

    def arguments(self, dtype=np.float64):
        """The same numbers each time; arrays in ``dtype``."""
        return arrays(lambda a: a.astype(dtype), self.build(Draw(zlib.crc32(str(self).encode()))))


class Draw:
    """r(2, 3) is a random array of that shape; the rest is what layers are made of."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.random.standard_normal(shape)

    def positive(self, *shape):
        return self.random.uniform(0.2, 3, shape)

    def linear(self, n, m, bias=True):
        return {"weight": self(n, m)} | ({"bias": self(n)} if bias else {})

    def conv(self, n, m, k, bias=True):
        return {"weight": self(n, m, k, k)} | ({"bias": self(n)} if bias else {})

    def deconv(self, m, n, k):
        return {"weight": self(m, n, k, k)}

    def norm(self, C):
        return {"weight": self(C), "bias": self(C)}

    def batch_norm(self, C):
        statistics = {"running_mean": self(C), "running_var": self.positive(C), "num_batches_tracked": np.array(7)}
        return self.norm(C) | statistics

    def attention(self, C, h, d, bias=True):
        return {"qkv": self.linear(3 * h * d, C, bias), "proj": self.linear(C, h * d)}

    def mlp(self, C, hidden):
        return {"fc1": self.linear(hidden, C), "fc2": self.linear(C, hidden)}

    def block(self, C, h, d, bias=True):
        p = {"norm1": self.norm(C), "attn": self.attention(C, h, d, bias)}
        return p | {"norm2": self.norm(C), "mlp": self.mlp(C, 2 * C)}


def arrays(f, x):
    """f of every float array in nested dicts; all else as it is."""
    if isinstance(x, dict):
        return {name: arrays(f, y) for name, y in x.items()}
    return f(x) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def call(engine, operation, arguments, **more):
    """The operation of an engine, a module or any object whose attributes are functions."""
    named = {k: getattr(engine, v.name) if isinstance(v, Function) else v for k, v in arguments.items()}
    first, *_ = named
    return getattr(engine, operation)(named.pop(first), **named, **more)


@cache
def expected(case, dtype=np.float64):
    """What the oracle says, in float64, to the arguments as they are in ``dtype``."""
    arguments = arrays(lambda a: a.astype(np.float64).tolist(), case.arguments(dtype))
    return np.array(call(naive, case.operation, arguments))


def error(actual, truth):
    """The largest difference as a part of the largest number in truth; nan stays nan, and no tolerance accepts it."""
    truth = np.asarray(truth, np.float64)
    return np.abs(np.asarray(actual, np.float64) - truth).max(initial=0) / max(np.abs(truth).max(initial=0), 1e-300)


def check(actual, truth, dtype, operation=None):
    """Shape, dtype and value."""
    actual = np.asarray(actual)
    assert actual.shape == truth.shape
    assert actual.dtype == (np.float64 if operation in ALWAYS_FLOAT64 else dtype)
    assert error(actual, truth) <= TOLERANCE[dtype]


def final(r, C, K):
    """A final layer of several: 3x3 convolution, batch norm, (relu,) 1x1 convolution."""
    return {"0": r.conv(C, C, 3), "1": r.batch_norm(C), "3": r.conv(K, C, 1)}


def deconvs(r, C, inner, kernels):
    layers = {}
    for i, k in enumerate(kernels):
        layers |= {str(3 * i): r.deconv(C if i == 0 else inner, inner, k), str(3 * i + 1): r.batch_norm(inner)}
    return layers


TABLE = {
    "conv2d": {
        "1x1": lambda r: dict(x=r(1, 3, 4, 5), weight=r(2, 3, 1, 1), bias=r(2)),
        "3x3, padded, three images": lambda r: dict(x=r(3, 2, 5, 4), weight=r(3, 2, 3, 3), bias=r(3), padding=1),
        "2x2, stride 2": lambda r: dict(x=r(1, 2, 4, 6), weight=r(3, 2, 2, 2), bias=r(3), stride=2),
        "3x3, stride 2, padding 3": lambda r: dict(
            x=r(1, 2, 6, 3), weight=r(2, 2, 3, 3), bias=r(2), stride=2, padding=3
        ),
        "rectangular kernel, rows left over": lambda r: dict(
            x=r(2, 2, 7, 9), weight=r(2, 2, 3, 2), bias=r(2), stride=3
        ),
        "stride above the kernel": lambda r: dict(
            x=r(1, 2, 7, 8), weight=r(2, 2, 2, 2), bias=r(2), stride=3, padding=1
        ),
        "no bias": lambda r: dict(x=r(1, 2, 4, 4), weight=r(3, 2, 3, 3), padding=2),
        "a wide map": lambda r: dict(x=r(1, 1, 2, 19), weight=r(2, 1, 2, 3), bias=r(2)),
        "the kernel covers the map": lambda r: dict(x=r(2, 3, 4, 4), weight=r(5, 3, 4, 4), bias=r(5)),
    },
    "patch_embed": {
        "16x16": lambda r: dict(images=r(1, 3, 32, 48), weight=r(4, 3, 16, 16), bias=r(4)),
        "ratio 2": lambda r: dict(images=r(2, 3, 32, 16), weight=r(3, 3, 16, 16), bias=r(3), ratio=2),
        "no bias": lambda r: dict(images=r(1, 3, 16, 32), weight=r(3, 3, 16, 16)),
        "stride and padding given": lambda r: dict(
            images=r(1, 3, 12, 9), weight=r(3, 3, 4, 4), bias=r(3), stride=3, padding=1
        ),
        "4x4 patches": lambda r: dict(images=r(1, 3, 8, 12), weight=r(3, 3, 4, 4), bias=r(3)),
    },
    "to_tokens": {"3x2 grid": lambda r: dict(x=r(2, 4, 3, 2)), "one patch": lambda r: dict(x=r(1, 3, 1, 1))},
    "add_positions": {
        "three images": lambda r: dict(x=r(3, 6, 4), pos_embed=r(1, 7, 4)),
        "one token": lambda r: dict(x=r(1, 1, 4), pos_embed=r(1, 2, 4)),
    },
    "resize_positions": {
        "up": lambda r: dict(pos_embed=r(1, 13, 3), old_grid=(4, 3), new_grid=(7, 5)),
        "down": lambda r: dict(pos_embed=r(1, 43, 3), old_grid=(7, 6), new_grid=(3, 4)),
        "taller and narrower": lambda r: dict(pos_embed=r(1, 17, 2), old_grid=(4, 4), new_grid=(6, 2)),
        "the same": lambda r: dict(pos_embed=r(1, 7, 3), old_grid=(3, 2), new_grid=(3, 2)),
        "from one patch": lambda r: dict(pos_embed=r(1, 2, 3), old_grid=(1, 1), new_grid=(2, 3)),
    },
    "bicubic_weights": {
        "up": lambda r: dict(n=5, m=12),
        "down": lambda r: dict(n=9, m=4),
        "the same": lambda r: dict(n=4, m=4),
        "from two": lambda r: dict(n=2, m=5),
    },
    "linear": {
        "batch of tokens": lambda r: dict(x=r(2, 5, 7), weight=r(6, 7), bias=r(6)),
        "no bias": lambda r: dict(x=r(3, 4), weight=r(5, 4)),
        "one row, one output": lambda r: dict(x=r(1, 9), weight=r(1, 9), bias=r(1)),
        "a vector": lambda r: dict(x=r(6), weight=r(3, 6), bias=r(3)),
        "one input": lambda r: dict(x=r(4, 1), weight=r(8, 1), bias=r(8)),
        "longer than registers": lambda r: dict(x=r(2, 3, 133), weight=r(5, 133), bias=r(5)),
    },
    "layer_norm": {
        "tokens": lambda r: dict(x=3 * r(2, 5, 7) + 2, weight=r(7), bias=r(7)),
        "small signal, so that eps counts": lambda r: dict(x=1e-3 * r(4, 8), weight=r(8), bias=r(8)),
        "eps given": lambda r: dict(x=r(1, 1, 9), weight=r(9), bias=r(9), eps=0.1),
        "one channel": lambda r: dict(x=r(3, 1), weight=r(1), bias=r(1)),
        "longer than registers": lambda r: dict(x=r(3, 133), weight=r(133), bias=r(133)),
        "a row of equal numbers": lambda r: dict(x=np.full((2, 6), 2.5), weight=r(6), bias=r(6)),
    },
    "softmax": {
        "scores": lambda r: dict(x=r(2, 3, 4, 5)),
        "huge": lambda r: dict(x=1e4 * r(3, 7)),
        "huge and far below": lambda r: dict(x=np.array([[1e4, 1e4 - 1, -1e4], [-1e4, -1e4 - 2, -1e4 - 3]])),
        "equal": lambda r: dict(x=np.full((2, 6), 1e4)),
        "one": lambda r: dict(x=r(4, 1)),
        "a vector": lambda r: dict(x=r(37)),
    },
    "scaled_dot_product_attention": {
        "two images": lambda r: dict(q=r(2, 3, 5, 4), k=r(2, 3, 5, 4), v=r(2, 3, 5, 4)),
        "scale given": lambda r: dict(q=r(1, 2, 4, 3), k=r(1, 2, 4, 3), v=r(1, 2, 4, 3), qk_scale=0.7),
        "one token": lambda r: dict(q=r(1, 2, 1, 4), k=r(1, 2, 1, 4), v=r(1, 2, 1, 4)),
        "one head, one channel": lambda r: dict(q=r(3, 1, 6, 1), k=r(3, 1, 6, 1), v=r(3, 1, 6, 1)),
        "other tokens asked, wider values": lambda r: dict(q=r(1, 2, 3, 4), k=r(1, 2, 5, 4), v=r(1, 2, 5, 6)),
    },
    "split_heads": {
        "three heads": lambda r: dict(x=r(2, 5, 18), num_heads=3),
        "one head": lambda r: dict(x=r(1, 4, 9), num_heads=1),
    },
    "merge_heads": {"three heads": lambda r: dict(x=r(2, 3, 5, 4)), "one head": lambda r: dict(x=r(1, 1, 4, 3))},
    "attention": {
        "two heads": lambda r: dict(x=r(2, 5, 8), **r.attention(8, 2, 4), num_heads=2),
        "no bias for qkv": lambda r: dict(x=r(1, 4, 6), **r.attention(6, 3, 2, bias=False), num_heads=3),
        "head dim not C / h": lambda r: dict(x=r(1, 4, 6), **r.attention(6, 2, 5), num_heads=2),
        "scale given": lambda r: dict(x=r(1, 4, 6), **r.attention(6, 2, 3), num_heads=2, qk_scale=0.3),
        "one head": lambda r: dict(x=r(3, 4, 5), **r.attention(5, 1, 5), num_heads=1),
        "one token": lambda r: dict(x=r(3, 1, 4), **r.attention(4, 2, 2), num_heads=2),
    },
    "erf": {"both sides": lambda r: dict(x=np.linspace(-7, 7, 29)), "tiny": lambda r: dict(x=1e-9 * r(4))},
    "gelu": {
        "a map": lambda r: dict(x=2 * r(2, 3, 4)),
        "zero, large, both signs": lambda r: dict(x=np.array([0.0, -0.0, 30, -30, 1e4, -1e4, 6, -6])),
        "around zero": lambda r: dict(x=np.linspace(-2, 2, 41)),
        "the tail": lambda r: dict(x=np.linspace(-5, -2, 13)),
        "tiny": lambda r: dict(x=1e-20 * r(5)),
    },
    "mlp": {
        "tokens": lambda r: dict(x=r(2, 3, 4), **r.mlp(4, 16)),
        "one token": lambda r: dict(x=r(1, 1, 3), **r.mlp(3, 5)),
    },
    "block": {
        "two images": lambda r: dict(x=r(2, 6, 8), p=r.block(8, 2, 4), num_heads=2),
        "no bias for qkv, scale and eps given": lambda r: dict(
            x=r(1, 4, 6), p=r.block(6, 3, 2, bias=False), num_heads=3, qk_scale=0.4, eps=0.05
        ),
        "head dim not C / h": lambda r: dict(x=r(1, 3, 6), p=r.block(6, 2, 5), num_heads=2),
        "one head, one token": lambda r: dict(x=r(3, 1, 5), p=r.block(5, 1, 5), num_heads=1),
    },
    "to_map": {
        "3x2 grid": lambda r: dict(x=r(2, 6, 4), grid=(3, 2)),
        "one patch": lambda r: dict(x=r(1, 1, 3), grid=(1, 1)),
    },
    "conv_transpose2d": {
        "4x4, as in the head": lambda r: dict(x=r(1, 3, 4, 3), weight=r(3, 2, 4, 4), padding=1),
        "3x3 with output padding": lambda r: dict(
            x=r(3, 2, 3, 4), weight=r(2, 3, 3, 3), bias=r(3), padding=1, output_padding=1
        ),
        "2x2": lambda r: dict(x=r(1, 2, 3, 2), weight=r(2, 5, 2, 2), bias=r(5)),
        "1x1, stride 1": lambda r: dict(x=r(1, 3, 2, 3), weight=r(3, 2, 1, 1), bias=r(2), stride=1),
        "2x2, stride 3": lambda r: dict(x=r(1, 2, 3, 4), weight=r(2, 2, 2, 2), bias=r(2), stride=3),
        "2x2, stride 3, output padding 2": lambda r: dict(
            x=r(1, 2, 3, 2), weight=r(2, 2, 2, 2), bias=r(2), stride=3, output_padding=2
        ),
        "4x4, stride 1, padding 3": lambda r: dict(
            x=r(2, 2, 4, 5), weight=r(2, 3, 4, 4), bias=r(3), stride=1, padding=3
        ),
        "rectangular kernel": lambda r: dict(x=r(1, 2, 5, 3), weight=r(2, 2, 2, 3), bias=r(2), stride=2, padding=1),
        "16x16, stride 16": lambda r: dict(x=r(1, 2, 2, 1), weight=r(2, 1, 16, 16), bias=r(1), stride=16, padding=2),
        "one pixel": lambda r: dict(x=r(1, 1, 1, 1), weight=r(1, 1, 4, 4), bias=r(1), padding=1),
    },
    "batch_norm": {
        "two images": lambda r: dict(x=r(2, 3, 4, 5), **r.batch_norm(3)),
        "small variance, so that eps counts": lambda r: (
            dict(x=r(1, 2, 3, 3), **r.norm(2)) | {"running_mean": r(2), "running_var": 1e-5 * r.positive(2)}
        ),
        "eps given": lambda r: dict(x=r(1, 2, 1, 3), **r.batch_norm(2), eps=0.5),
    },
    "relu": {
        "a map": lambda r: dict(x=r(2, 3, 4, 5)),
        "zero and large": lambda r: dict(x=np.array([0.0, -0.0, 1e30, -1e30, 1e-30, -1e-30])),
    },
    "upsample_bilinear": {
        "x4": lambda r: dict(x=r(2, 3, 3, 2)),
        "x2": lambda r: dict(x=r(1, 2, 2, 5), scale=2),
        "x3": lambda r: dict(x=r(1, 2, 4, 3), scale=3),
        "x1": lambda r: dict(x=r(1, 2, 3, 2), scale=1),
        "one pixel": lambda r: dict(x=r(1, 2, 1, 1)),
    },
    "bilinear_weights": {
        "up": lambda r: dict(n=4, m=16),
        "uneven": lambda r: dict(n=3, m=7),
        "from one": lambda r: dict(n=1, m=4),
    },
    "deconv": {
        "kernel 4": lambda r: dict(x=r(1, 3, 4, 3), **r.deconv(3, 2, 4)),
        "kernel 3": lambda r: dict(x=r(2, 2, 2, 3), **r.deconv(2, 3, 3)),
        "kernel 2": lambda r: dict(x=r(1, 2, 3, 2), **r.deconv(2, 2, 2)),
        "a bias": lambda r: dict(x=r(1, 2, 3, 2), **r.deconv(2, 3, 4), bias=r(3)),
    },
    "same_conv": {
        "kernel 1": lambda r: dict(x=r(2, 3, 4, 3), **r.conv(2, 3, 1)),
        "kernel 3": lambda r: dict(x=r(1, 2, 3, 4), **r.conv(3, 2, 3)),
        "kernel 5, no bias": lambda r: dict(x=r(1, 2, 3, 4), **r.conv(2, 2, 5, bias=False)),
    },
    "sequential": {
        "transposed convolutions": lambda r: dict(
            x=r(1, 3, 2, 3), layers=deconvs(r, 3, 2, (4, 4)), convolve=Function("deconv")
        ),
        "convolutions": lambda r: dict(x=r(2, 3, 4, 3), layers=final(r, 3, 2), convolve=Function("same_conv")),
    },
    "keypoint_head": {
        "classic": lambda r: dict(x=r(1, 3, 3, 2), deconv_layers=deconvs(r, 3, 4, (4, 4)), final_layer=r.conv(5, 4, 1)),
        "kernels 4, 3, 2": lambda r: dict(
            x=r(2, 2, 2, 1), deconv_layers=deconvs(r, 2, 3, (4, 3, 2)), final_layer=r.conv(2, 3, 3)
        ),
        "one transposed convolution, more final layers": lambda r: dict(
            x=r(1, 3, 2, 3), deconv_layers=deconvs(r, 3, 2, (4,)), final_layer=final(r, 2, 3)
        ),
        "simple": lambda r: dict(x=r(1, 3, 3, 2), final_layer=r.conv(5, 3, 3)),
        "simple, more final layers": lambda r: dict(x=r(1, 2, 2, 3), final_layer=final(r, 2, 3)),
    },
}

CASES = [Case(operation, name, build) for operation, cases in TABLE.items() for name, build in cases.items()]


def public_names(module):
    """Functions and constants that a module itself makes, in the order of its source."""
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets]
    return names
