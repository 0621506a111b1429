"""The whole pass, as each thread of the crew walks through it: the page that model.py is, on packed weights."""

import hashlib
from collections import namedtuple
from pathlib import Path

import numba
import numpy as np

from minivitpose.kernels.fused.attention import attention, prepare_keys
from minivitpose.kernels.fused.deconv import deconv_relu
from minivitpose.kernels.fused.norm import layer_norm, layer_norm_to_map
from minivitpose.kernels.fused.patches import gather_patches, rows_to_maps, upsample_shift_add
from minivitpose.kernels.gemm import ADD, GELU, STORE, product

Packed = namedtuple(
    "Packed", "weight bias"
)  # of a product or a norm; in Weights those of all blocks, along the first axis
Weights = namedtuple("Weights", "embed norm1 qkv proj norm2 fc1 fc2 last_norm deconvs final zeros")
Sizes = namedtuple("Sizes", "crops height width patch stride padding channels heads d scale eps")
Buffers = namedtuple("Buffers", "images pixels x y qkv keys z hidden maps out sums scores down across lines pos")


@numba.njit
def backbone(crew, t, threads, w, s, b):
    """images -> b.x, the tokens before the last norm. Returns the number of the next step."""
    rows, tokens, sums = b.x.shape[0] // s.crops, s.height * s.width, b.sums[t]
    gather_patches(crew, 0, b.images, s.patch, s.stride, s.padding, s.height, s.width, rows, b.pixels)
    product(crew, 1, threads, b.pixels, w.embed.weight, w.embed.bias, b.pos, b.x, ADD, sums)
    step = 2
    for i in range(w.fc1.weight.shape[0]):
        layer_norm(crew, step, b.x, w.norm1.weight[i], w.norm1.bias[i], s.eps, s.channels, -np.inf, b.y)
        product(crew, step + 1, threads, b.y, w.qkv.weight[i], w.qkv.bias[i], b.qkv, b.qkv, STORE, sums)
        prepare_keys(crew, step + 2, b.qkv, s.crops, tokens, s.heads, s.d, b.keys)
        attention(crew, step + 3, threads, b.qkv, s.crops, tokens, s.heads, s.d, s.scale, b.keys, b.scores[t], b.z)
        product(crew, step + 4, threads, b.z, w.proj.weight[i], w.proj.bias[i], b.x, b.x, ADD, sums)
        layer_norm(crew, step + 5, b.x, w.norm2.weight[i], w.norm2.bias[i], s.eps, s.channels, -np.inf, b.y)
        product(crew, step + 6, threads, b.y, w.fc1.weight[i], w.fc1.bias[i], b.x, b.hidden, GELU, sums)
        product(crew, step + 7, threads, b.hidden, w.fc2.weight[i], w.fc2.bias[i], b.x, b.x, ADD, sums)
        step += 8
    return step


@numba.njit(nogil=True, cache=True)
def classic(crew, t, threads, w, s, b, heatmaps):
    """The pass with the classic head: (transposed convolution, relu) for each pair of maps, then a product."""
    step = backbone(crew, t, threads, w, s, b)
    norm, sums, last = w.last_norm, b.sums[t], len(w.deconvs) - 1
    layer_norm_to_map(crew, step, b.x, norm.weight, norm.bias, s.eps, s.channels, s.crops, s.height, s.width, b.maps[0])
    for i in range(last + 1):
        d, border = w.deconvs[i], 1 if i < last else 0
        deconv_relu(
            crew,
            step + 1 + i,
            threads,
            b.maps[i],
            s.crops,
            s.height << i,
            s.width << i,
            d.weight,
            d.bias,
            b.maps[i + 1],
            border,
            sums,
        )
    step += 2 + last
    product(crew, step, threads, b.maps[last + 1], w.final.weight, w.final.bias, b.out, b.out, STORE, sums)
    rows_to_maps(crew, step + 1, b.out, heatmaps.reshape(s.crops, heatmaps.shape[1], -1))


@numba.njit(nogil=True, cache=True)
def simple(crew, t, threads, w, s, b, heatmaps):
    """The pass with the simple head. Channels are summed before the map is enlarged: 16 times less to multiply."""
    step = backbone(crew, t, threads, w, s, b)
    norm = w.last_norm
    layer_norm(crew, step, b.x, norm.weight, norm.bias, s.eps, s.channels, 0.0, b.pixels)
    product(crew, step + 1, threads, b.pixels, w.final.weight, w.zeros, b.out, b.out, STORE, b.sums[t])
    upsample_shift_add(crew, step + 2, b.out, s.height, s.width, b.down, b.across, w.final.bias, heatmaps, b.lines[t])


def watch_sources(*functions):
    """Numba's cache compares one file, this one. Here it compares all that the passes are made from."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    stamp = hashlib.sha256(b"".join(s.read_bytes() for s in sources)).hexdigest()
    for f in functions:
        f._cache._cache_file._source_stamp = stamp


if not numba.config.DISABLE_JIT:
    watch_sources(classic, simple)
