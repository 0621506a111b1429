"""The whole pass, as each thread of the crew walks through it: the page that model.py is, on packed weights.

w Weights, s Sizes, b Buffers, t the number of the thread; counters, threads and steps: see crew.py.
"""

import hashlib
from collections import namedtuple
from pathlib import Path

import numba
import numpy as np

from minivitpose.kernels.amx import AMX
from minivitpose.kernels.fused.attention_by_type import attention, prepare_keys
from minivitpose.kernels.fused.deconv import deconv_relu
from minivitpose.kernels.fused.norm import layer_norm, layer_norm_to_map
from minivitpose.kernels.fused.patches import gather_patches, rows_to_maps, upsample_shift_add
from minivitpose.kernels.gemm import ADD, GELU, STORE, product
from minivitpose.kernels.jit import CACHE

# Of a product or a norm. In Weights those of all blocks stand along the first axis.
Packed = namedtuple("Packed", "weight bias")
Weights = namedtuple("Weights", "embed norm1 qkv proj norm2 fc1 fc2 last_norm deconvs final zeros")
Sizes = namedtuple("Sizes", "crops height width patch stride padding channels heads d scale eps")
Buffers = namedtuple("Buffers", "images pixels x y qkv keys z hidden maps out sums scores down across lines pos")


@numba.njit
def backbone(counters, t, threads, w, s, b):
    """images -> b.x, the tokens before the last norm. Returns the number of the next step."""
    rows, tokens, sums = b.x.shape[0] // s.crops, s.height * s.width, b.sums[t]
    gather_patches(counters, 0, b.images, s.patch, s.stride, s.padding, s.height, s.width, rows, b.pixels)
    product(counters, 1, threads, b.pixels, w.embed.weight, w.embed.bias, b.pos, b.x, ADD, sums)
    step = 2
    for i in range(w.fc1.weight.shape[0]):
        layer_norm(counters, step, b.x, w.norm1.weight[i], w.norm1.bias[i], s.eps, s.channels, -np.inf, b.y)
        product(counters, step + 1, threads, b.y, w.qkv.weight[i], w.qkv.bias[i], b.qkv, b.qkv, STORE, sums)
        prepare_keys(counters, step + 2, b.qkv, s.crops, tokens, s.heads, s.d, b.keys)
        attention(counters, step + 3, threads, b.qkv, s.crops, tokens, s.heads, s.d, s.scale, b.keys, b.scores[t], b.z)
        product(counters, step + 4, threads, b.z, w.proj.weight[i], w.proj.bias[i], b.x, b.x, ADD, sums)
        layer_norm(counters, step + 5, b.x, w.norm2.weight[i], w.norm2.bias[i], s.eps, s.channels, -np.inf, b.y)
        product(counters, step + 6, threads, b.y, w.fc1.weight[i], w.fc1.bias[i], b.x, b.hidden, GELU, sums)
        product(counters, step + 7, threads, b.hidden, w.fc2.weight[i], w.fc2.bias[i], b.x, b.x, ADD, sums)
        step += 8
    return step


@numba.njit(nogil=True, cache=CACHE)
def classic(counters, t, threads, w, s, b, heatmaps):
    """The pass with the classic head: (transposed convolution, relu) for each pair of maps, then a product."""
    step = backbone(counters, t, threads, w, s, b)
    norm, sums, n = w.last_norm, b.sums[t], len(w.deconvs)
    to_map = s.crops, s.height, s.width, b.maps[0]
    layer_norm_to_map(counters, step, b.x, norm.weight, norm.bias, s.eps, s.channels, *to_map)
    for i in range(n):
        shape, (weight, bias), edge = (s.crops, s.height << i, s.width << i), w.deconvs[i], 1 if i + 1 < n else 0
        deconv_relu(counters, step + 1 + i, threads, b.maps[i], *shape, weight, bias, b.maps[i + 1], edge, sums)
    step += 1 + n
    product(counters, step, threads, b.maps[n], w.final.weight, w.final.bias, b.out, b.out, STORE, sums)
    rows_to_maps(counters, step + 1, b.out, heatmaps.reshape(s.crops, heatmaps.shape[1], -1))


@numba.njit(nogil=True, cache=CACHE)
def simple(counters, t, threads, w, s, b, heatmaps):
    """The pass with the simple head. Channels are summed before the map is enlarged: 16 times less to multiply."""
    step = backbone(counters, t, threads, w, s, b)
    norm, bias, lines = w.last_norm, w.final.bias, b.lines[t]
    layer_norm(counters, step, b.x, norm.weight, norm.bias, s.eps, s.channels, 0.0, b.pixels)  # and relu
    product(counters, step + 1, threads, b.pixels, w.final.weight, w.zeros, b.out, b.out, STORE, b.sums[t])
    upsample_shift_add(counters, step + 2, b.out, s.height, s.width, b.down, b.across, bias, heatmaps, lines)


def source_stamp(kernels=Path(__file__).parent.parent):
    """A hash of every file that the passes are compiled from, and of whether the system gives us the matrix unit."""
    sources = sorted(kernels.rglob("*.py"))
    return hashlib.sha256(b"".join([bytes([AMX]), *(source.read_bytes() for source in sources)])).hexdigest()


def watch_sources(*functions):
    """Numba's cache on disk looks at the date of one file, this one. Here it looks at all that the passes are made of.

    The stamp is a private part of Numba (0.61 to 0.68 have it); in a version without it nothing happens: there delete
    ``kernels/fused/__pycache__`` after a change of a kernel.
    """
    for f in functions:
        file = getattr(getattr(f, "_cache", None), "_cache_file", None)
        if hasattr(file, "_source_stamp"):
            file._source_stamp = source_stamp()


watch_sources(classic, simple)
