"""Activations by name: the table of all of them, the cache of a run, and what a reference holds.

A name is the path of a module in the PyTorch model, and the array is what a forward hook on that module returns. What
no module returns has a name of its own below it. In the order of execution, for blocks i = 0, 1, ...:

| name                                | shape              | what it is                                           |
|-------------------------------------|--------------------|------------------------------------------------------|
| backbone.patch_embed.proj           | (B, C, Hp, Wp)     | each patch as C numbers                              |
| backbone.pos                        | (B, N, C)          | patches as tokens, positions added                   |
| backbone.blocks.i.norm1             | (B, N, C)          | what the attention reads                             |
| backbone.blocks.i.attn.qkv          | (B, N, 3 h d)      | queries, keys and values side by side                |
| backbone.blocks.i.attn.q, .k, .v    | (B, h, N, d)       | the same, a head apart                               |
| backbone.blocks.i.attn.scores       | (B, h, N, N)       | q k^T / sqrt(d), before softmax                      |
| backbone.blocks.i.attn.pattern      | (B, h, N, N)       | after softmax: row = who asks, column = who is asked |
| backbone.blocks.i.attn.z            | (B, N, h d)        | pattern v, heads side by side again                  |
| backbone.blocks.i.attn.proj         | (B, N, C)          | the heads mixed                                      |
| backbone.blocks.i.attn              | (B, N, C)          | the same: what the attention adds                    |
| backbone.blocks.i.resid_mid         | (B, N, C)          | the residual stream between attention and MLP        |
| backbone.blocks.i.norm2             | (B, N, C)          | what the MLP reads                                   |
| backbone.blocks.i.mlp.fc1, .mlp.act | (B, N, 4 C)        | before and after GELU                                |
| backbone.blocks.i.mlp.fc2           | (B, N, C)          | back to C numbers                                    |
| backbone.blocks.i.mlp               | (B, N, C)          | the same: what the MLP adds                          |
| backbone.blocks.i                   | (B, N, C)          | the residual stream after the block                  |
| backbone.last_norm                  | (B, N, C)          | the tokens that the head sees                        |
| backbone                            | (B, C, Hp, Wp)     | the same, laid out as a map                          |
| keypoint_head.deconv_layers.j       | (B, F, s Hp, s Wp) | classic head: deconv, batch norm, relu in turn       |
| keypoint_head.relu                  | (B, C, Hp, Wp)     | simple head                                          |
| keypoint_head.upsample              | (B, C, 4 Hp, 4 Wp) | simple head                                          |
| keypoint_head.final_layer.j         | (B, F or K, ...)   | where the final layer is several                     |
| keypoint_head.final_layer           | (B, K, Hm, Wm)     | the heatmaps                                         |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np


def activation_shapes(config, batch=1, grid=None):
    """All activations: name -> shape, in the order of execution. ``grid``: (Hp, Wp), for another image size."""
    B, C, h, d = batch, config.embed_dim, config.num_heads, config.head_dim
    Hp, Wp = grid or config.grid
    N, inner = Hp * Wp, h * d
    tokens, heads, square, hidden = (B, N, C), (B, h, N, d), (B, h, N, N), (B, N, config.mlp_dim)
    attn = {"qkv": (B, N, 3 * inner), "q": heads, "k": heads, "v": heads, "scores": square, "pattern": square}
    attn |= {"z": (B, N, inner), "proj": tokens}
    block = {"norm1": tokens, **{f"attn.{name}": shape for name, shape in attn.items()}, "attn": tokens}
    block |= {"resid_mid": tokens, "norm2": tokens}
    block |= {"mlp.fc1": hidden, "mlp.act": hidden, "mlp.fc2": tokens, "mlp": tokens}
    shapes = {"backbone.patch_embed.proj": (B, C, Hp, Wp), "backbone.pos": tokens}
    for i in range(config.depth):
        shapes |= {f"backbone.blocks.{i}.{name}": shape for name, shape in block.items()}
        shapes[f"backbone.blocks.{i}"] = tokens
    shapes |= {"backbone.last_norm": tokens, "backbone": (B, C, Hp, Wp)}
    return shapes | {f"keypoint_head.{name}": shape for name, shape in head_activation_shapes(config, (B, C, Hp, Wp))}


def head_activation_shapes(config, shape):
    B, channels, Hp, Wp = shape
    if config.head == "simple":
        yield "relu", shape
        Hp, Wp = 4 * Hp, 4 * Wp
        yield "upsample", (B, channels, Hp, Wp)
    for i, channels in enumerate(config.deconv_filters):  # noqa: B020 (the last one goes on below)
        Hp, Wp = 2 * Hp, 2 * Wp
        for j in range(3 * i, 3 * i + 3):  # transposed convolution, batch norm, relu
            yield f"deconv_layers.{j}", (B, channels, Hp, Wp)
    for j in range(3 * len(config.extra_kernels)):  # convolution, batch norm, relu
        yield f"final_layer.{j}", (B, channels, Hp, Wp)
    heatmaps = (B, config.num_keypoints, Hp, Wp)
    if config.extra_kernels:
        yield f"final_layer.{3 * len(config.extra_kernels)}", heatmaps
    yield "final_layer", heatmaps


class Cache(dict):
    """Activations of one run: name -> array, in the order of execution.

    Attributes: model and images of the run; milliseconds: name -> time since the activation before it; fused: whether
    the fast engine ran, which keeps only some activations in memory.
    """

    def __init__(self, model, images, fused=False):
        super().__init__()
        self.model, self.images, self.fused, self.milliseconds = model, images, fused, {}
        self._last = perf_counter()

    def add(self, name, x):
        self[name] = x
        now = perf_counter()
        self.milliseconds[name] = 1000 * (now - self._last)
        self._last = now


# ---------------------------------------------------------------------------------------------------------- a reference


@dataclass
class Facts:
    """What is known of one recorded activation beside its values. Errors are absolute, over the whole array."""

    shape: tuple[int, ...]
    dtype: str
    scale: float  # the largest absolute value
    error: float | None = None  # largest distance of the reference's own values from the float64 truth, in the chain
    rms: float | None = None  # root of the mean square of that distance
    error_alone: float | None = None  # both again, where every activation is computed from the reference's input
    rms_alone: float | None = None
    signed_sum: float | None = None  # of the truth (see signed_sum)


@dataclass(eq=False)
class Reference(Mapping):
    """What a trusted implementation computed for ``images``: name -> array, in the order of execution, and more.

    values: the arrays. truth: the same in float64 from the image on. alone: the same in float64, each activation
    from the reference's own inputs. facts: name -> Facts. sample: None, or how many elements of each activation are
    kept: then the arrays are flat and hold the elements that ``sample_of`` picks. header: where it comes from.
    """

    values: dict
    truth: dict = field(default_factory=dict)
    alone: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    images: np.ndarray | None = None
    sample: int | None = None
    header: dict = field(default_factory=dict)

    def __getitem__(self, name):
        return self.values[name]

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def gather_facts(self):
        """Facts of all activations, from arrays that are whole."""
        for name, x in self.values.items():
            facts = self.facts[name] = Facts(x.shape, str(x.dtype), largest(x))
            if name in self.truth:
                off = x - self.truth[name]
                facts.error, facts.rms = largest(off), root_mean_square(off)
                facts.signed_sum = signed_sum(self.truth[name])
            if name in self.alone:
                off = x - self.alone[name]
                facts.error_alone, facts.rms_alone = largest(off), root_mean_square(off)
        return self


def largest(x):
    """The largest absolute value; 0 of nothing."""
    return float(np.abs(x).max(initial=0))


def root_mean_square(x):
    """The root of the mean of the squares; 0 of nothing."""
    return float(np.sqrt(np.mean(x * x))) if x.size else 0.0


def sample_of(n, count):
    """Indices of a fixed sample of about ``count`` of n elements, sorted, the same on every machine."""
    if n <= count:
        return np.arange(n)
    return np.unique(np.random.PCG64(n).random_raw(count) % np.uint64(n)).astype(np.intp)


def signed_sum(x):
    """The sum of all elements, each under a fixed random sign, in float64.

    A plain sum misses a shuffle, and errors of one kind pile up in it; with random signs n errors of size e add up to
    about e sqrt(n), and one element that is off by much more shows.
    """
    bits = np.random.PCG64(x.size).random_raw(x.size // 64 + 1)
    signs = np.unpackbits(bits.astype("<u8").view(np.uint8))[: x.size]
    flat = x.reshape(-1).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite values make it NaN, which no tolerance lets pass
        return float(flat.sum() - 2 * flat[signs == 1].sum())
