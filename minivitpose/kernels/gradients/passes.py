"""The training step as each thread of the crew walks through it: forwards keeping activations, then backwards.

w weights of a block, k what its forward pass keeps, g its gradients, s Sizes, b Buffers, t the number of the thread;
counters and steps: see crew.py. A batch goes in chunks of a few crops, so that what one step leaves is still in the
cache for the next. The size of a chunk is fixed: gradients add up in the same order for any number of threads.
"""

from collections import namedtuple

import numba
import numpy as np

from minivitpose.kernels.fused.attention_by_type import attention, prepare_keys
from minivitpose.kernels.fused.forward import watch_sources
from minivitpose.kernels.fused.norm import layer_norm
from minivitpose.kernels.fused.patches import gather_patches
from minivitpose.kernels.gemm import ADD, STORE, product
from minivitpose.kernels.gradients.attention import attention_backward
from minivitpose.kernels.gradients.maps import (
    map_statistics,
    maps_to_stamps,
    norm_backward,
    norm_relu,
    relu_backward,
    stamps_to_maps,
)
from minivitpose.kernels.gradients.rows import (
    PARTIALS,
    TASK,
    add_partials,
    gelu_backward,
    gelu_rows,
    layer_norm_backward,
    loss_rows,
    scale_add,
)
from minivitpose.kernels.gradients.weights import column_sums, depth, pack_backward, pack_forward, weight_gradient
from minivitpose.kernels.jit import CACHE
from minivitpose.kernels.micro_kernel import COLUMNS

Linear = namedtuple("Linear", "weight bias")  # (N, K) as in the checkpoint and (1, N rounded up to LANES)
Weights = namedtuple("Weights", "norm1 qkv proj norm2 fc1 fc2")  # norms (2, C): weight and bias
Kept = namedtuple("Kept", "x qkv z mid hidden out")  # out is the next block's x
Gradients = namedtuple("Gradients", "norm1 qkv proj norm2 fc1 fc2")  # norms and biases are sums in float64
Sizes = namedtuple("Sizes", "crops chunk rows tokens channels hidden heads d scale eps")
Patches = namedtuple("Patches", "height width patch stride padding")
Map = namedtuple("Map", "y norm grad height width channels chunk")  # a deconv's result; chunk: crops at a time
Buffers = namedtuple(
    "Buffers", "y narrow drop wide act pixels stamps heat panels zeros partials sums keys scores work head_keys squares"
)


@numba.njit
def linear(counters, step, threads, x, weight, bias, panels, base, y, after, sums):
    """y = after(x @ weight^T + bias), with the weight packed by pack_forward."""
    panels = panels[: -(-weight.shape[0] // COLUMNS) * depth(panels, weight.shape[1])]
    product(counters, step, threads, x, panels, bias, base, y, after, sums)


@numba.njit
def linear_grad(counters, step, threads, grad, weight, panels, zeros, y, sums):
    """y = grad @ weight, with the weight packed by pack_backward."""
    n, k = weight.shape
    panels = panels[: -(-k // COLUMNS) * depth(panels, n)]
    product(counters, step, threads, grad, panels, zeros[:k].reshape(1, k), y, y, STORE, sums)


@numba.njit(nogil=True, cache=CACHE)
def embed(counters, t, threads, images, w, pos, x, p, s, b):
    """images (B, 3, H, W) -> x, the first block's input. pos (chunk rows, >= C): each token's position."""
    pack_forward(counters, 0, w.weight, b.panels[0])
    step = 1
    for first in range(0, s.crops, s.chunk):
        last = min(first + s.chunk, s.crops)
        out = x[first * s.rows : last * s.rows]
        pixels = b.pixels[: len(out)]
        gather_patches(
            counters, step, images[first:last], p.patch, p.stride, p.padding, p.height, p.width, s.rows, pixels
        )
        linear(counters, step + 1, threads, pixels, w.weight, w.bias, b.panels[0], pos, out, ADD, b.sums[t])
        step += 2


@numba.njit(nogil=True, cache=CACHE)
def embed_backward(counters, t, threads, images, grad, g, p, s, b):
    step = 0
    for first in range(0, s.crops, s.chunk):
        last = min(first + s.chunk, s.crops)
        dy = grad[first * s.rows : last * s.rows]
        pixels = b.pixels[: len(dy)]
        gather_patches(
            counters, step, images[first:last], p.patch, p.stride, p.padding, p.height, p.width, s.rows, pixels
        )
        weight_gradient(counters, step + 1, threads, dy, pixels, first > 0, g.weight, b.work[t])
        column_sums(counters, step + 2, dy, g.bias, b.sums[t])
        step += 3


@numba.njit(nogil=True, cache=CACHE)
def block_forward(counters, t, threads, w, k, drops, s, b):
    """k.x -> k.out, and the other fields of k. drops (2, B): what each branch is multiplied by; or (2, 0), nothing."""
    sums, dropping = b.sums[t], drops.shape[1] > 0
    for i, weight in enumerate((w.qkv.weight, w.proj.weight, w.fc1.weight, w.fc2.weight)):
        pack_forward(counters, i, weight, b.panels[i])
    step = 4
    for first in range(0, s.crops, s.chunk):
        last = min(first + s.chunk, s.crops)
        r0, r1, crops = first * s.rows, last * s.rows, last - first
        x, qkv, z, mid, hidden, out = k.x[r0:r1], k.qkv[r0:r1], k.z[r0:r1], k.mid[r0:r1], k.hidden[r0:r1], k.out[r0:r1]
        y, act, branch = b.y[: r1 - r0], b.act[: r1 - r0], b.drop[: r1 - r0]

        layer_norm(counters, step, x, w.norm1[0:1], w.norm1[1:2], s.eps, s.channels, -np.inf, y)
        linear(counters, step + 1, threads, y, w.qkv.weight, w.qkv.bias, b.panels[0], qkv, qkv, STORE, sums)
        prepare_keys(counters, step + 2, qkv, crops, s.tokens, s.heads, s.d, b.keys)
        attention(counters, step + 3, threads, qkv, crops, s.tokens, s.heads, s.d, s.scale, b.keys, b.scores[t], z)
        if dropping:
            linear(counters, step + 4, threads, z, w.proj.weight, w.proj.bias, b.panels[1], x, branch, STORE, sums)
            scale_add(counters, step + 5, branch, drops[0, first:last], x, s.channels, mid)
        else:
            linear(counters, step + 4, threads, z, w.proj.weight, w.proj.bias, b.panels[1], x, mid, ADD, sums)
        layer_norm(counters, step + 6, mid, w.norm2[0:1], w.norm2[1:2], s.eps, s.channels, -np.inf, y)
        linear(counters, step + 7, threads, y, w.fc1.weight, w.fc1.bias, b.panels[2], hidden, hidden, STORE, sums)
        gelu_rows(counters, step + 8, hidden, s.hidden, act)
        if dropping:
            linear(counters, step + 9, threads, act, w.fc2.weight, w.fc2.bias, b.panels[3], mid, branch, STORE, sums)
            scale_add(counters, step + 10, branch, drops[1, first:last], mid, s.channels, out)
        else:
            linear(counters, step + 9, threads, act, w.fc2.weight, w.fc2.bias, b.panels[3], mid, out, ADD, sums)
        step += 11


@numba.njit(nogil=True, cache=CACHE)
def block_backward(counters, t, threads, w, k, drops, grad, g, s, b):
    """grad (M, >= C): the gradient by k.out becomes the one by k.x. g: the block's own."""
    sums, work, dropping, C = b.sums[t], b.work[t], drops.shape[1] > 0, s.channels
    for i, weight in enumerate((w.qkv.weight, w.proj.weight, w.fc1.weight, w.fc2.weight)):
        pack_backward(counters, i, weight, b.panels[i])
    step = 4
    for first in range(0, s.crops, s.chunk):
        last = min(first + s.chunk, s.crops)
        r0, r1, crops, add = first * s.rows, last * s.rows, last - first, first > 0
        x, qkv, z, mid, hidden, dx = k.x[r0:r1], k.qkv[r0:r1], k.z[r0:r1], k.mid[r0:r1], k.hidden[r0:r1], grad[r0:r1]
        y, act, wide, narrow = b.y[: r1 - r0], b.act[: r1 - r0], b.wide[: r1 - r0], b.narrow[: r1 - r0]
        none, tasks = dx[:0], -(-(r1 - r0) // TASK)

        branch = b.drop[: r1 - r0] if dropping else dx
        if dropping:
            scale_add(counters, step, dx, drops[1, first:last], none, C, branch)
        linear_grad(counters, step + 1, threads, branch, w.fc2.weight, b.panels[3], b.zeros, wide, sums)
        gelu_backward(counters, step + 2, hidden, s.hidden, wide, act)
        weight_gradient(counters, step + 3, threads, branch, act, add, g.fc2.weight, work)
        column_sums(counters, step + 4, branch, g.fc2.bias, sums)
        layer_norm(counters, step + 5, mid, w.norm2[0:1], w.norm2[1:2], s.eps, C, -np.inf, y)
        weight_gradient(counters, step + 6, threads, wide, y, add, g.fc1.weight, work)
        column_sums(counters, step + 7, wide, g.fc1.bias, sums)
        linear_grad(counters, step + 8, threads, wide, w.fc1.weight, b.panels[2], b.zeros, narrow, sums)
        layer_norm_backward(counters, step + 9, mid, narrow, w.norm2, s.eps, C, dx, b.partials)
        add_partials(counters, step + 10, b.partials, tasks, g.norm2)

        if dropping:
            scale_add(counters, step + 11, dx, drops[0, first:last], none, C, branch)
        linear_grad(counters, step + 12, threads, branch, w.proj.weight, b.panels[1], b.zeros, narrow, sums)
        weight_gradient(counters, step + 13, threads, branch, z, add, g.proj.weight, work)
        column_sums(counters, step + 14, branch, g.proj.bias, sums)
        attention_backward(
            counters, step + 15, qkv, narrow, crops, s.tokens, s.heads, s.d, s.scale,
            b.head_keys[t], b.squares[t], wide,
        )  # fmt: skip
        layer_norm(counters, step + 16, x, w.norm1[0:1], w.norm1[1:2], s.eps, C, -np.inf, y)
        weight_gradient(counters, step + 17, threads, wide, y, add, g.qkv.weight, work)
        column_sums(counters, step + 18, wide, g.qkv.bias, sums)
        linear_grad(counters, step + 19, threads, wide, w.qkv.weight, b.panels[0], b.zeros, narrow, sums)
        layer_norm_backward(counters, step + 20, x, narrow, w.norm1, s.eps, C, dx, b.partials)
        add_partials(counters, step + 21, b.partials, tasks, g.norm1)
        step += 22


# ------------------------------------------------------------------------------------------------------------- head


@numba.njit
def deconv_input(counters, step, x, norm, tokens, s, channels, y):
    """What goes into a deconv: the last layer norm of the tokens, or batch norm and relu of the map before."""
    if tokens:
        layer_norm(counters, step, x, norm[0:1], norm[1:2], s.eps, channels, -np.inf, y)
    else:
        norm_relu(counters, step, x, norm, channels, y)


@numba.njit(nogil=True, cache=CACHE)
def deconv(counters, t, threads, x, norm, tokens, weight, m, s, b, partials):
    """x (B R, >= C) normalised -> m.y, before its batch norm. weight (C, 16 F), F channels for each tap.

    partials: what map_statistics leaves, for the chunks one after the other; or (0, F), nothing.
    """
    pack_backward(counters, 0, weight, b.panels[0])
    rows, inner, step = len(x) // s.crops, len(m.y) // s.crops, 1
    pixels = 4 * m.height * m.width
    tasks = -(-pixels // TASK) * PARTIALS
    for first in range(0, s.crops, m.chunk):
        last = min(first + m.chunk, s.crops)
        part, crops = x[first * rows : last * rows], last - first
        u, y = b.y[: len(part)], m.y[first * inner : last * inner]
        deconv_input(counters, step, part, norm, tokens, s, weight.shape[0], u)
        linear_grad(counters, step + 1, threads, u, weight, b.panels[0], b.zeros, b.stamps[: len(part)], b.sums[t])
        stamps_to_maps(counters, step + 2, b.stamps, rows, crops, m.height, m.width, m.channels, y)
        if len(partials):
            map_statistics(counters, step + 3, y, crops, pixels, m.channels, partials[first * tasks : last * tasks])
        step += 4


@numba.njit(nogil=True, cache=CACHE)
def deconv_backward(counters, t, threads, x, norm, tokens, weight, m, grad, g, of_norm, s, b):
    """m.grad, by the batch-normed map, -> grad, by x (added to it for tokens), and g (C, 16 F).

    Before a map, grad becomes what relu_backward makes of it. of_norm (2, C): += the sums for that norm's own.
    """
    pack_forward(counters, 0, weight, b.panels[0])
    rows, inner, step = len(x) // s.crops, len(m.y) // s.crops, 1
    C, pixels = weight.shape[0], 4 * m.height * m.width
    none = b.zeros[:C].reshape(1, C)
    for first in range(0, s.crops, m.chunk):
        last = min(first + m.chunk, s.crops)
        crops, r0, r1 = last - first, first * rows, last * rows
        dy, tasks = m.grad[first * inner : last * inner], -(-(r1 - r0) // TASK)
        u, stamps = b.y[: r1 - r0], b.stamps[: r1 - r0]
        norm_backward(counters, step, m.y[first * inner : last * inner], m.norm, m.channels, crops, pixels, dy)
        maps_to_stamps(counters, step + 1, dy, crops, m.height, m.width, m.channels, stamps)
        deconv_input(counters, step + 2, x[r0:r1], norm, tokens, s, C, u)
        weight_gradient(counters, step + 3, threads, u, stamps, first > 0, g, b.work[t])
        dx = b.narrow[: r1 - r0] if tokens else grad[r0:r1]
        linear(counters, step + 4, threads, stamps, weight, none, b.panels[0], dx, dx, STORE, b.sums[t])
        if tokens:
            layer_norm_backward(counters, step + 5, x[r0:r1], dx, norm, s.eps, C, grad[r0:r1], b.partials)
        else:
            relu_backward(counters, step + 5, x[r0:r1], norm, C, dx, b.partials)
        add_partials(counters, step + 6, b.partials, tasks, of_norm)
        step += 7


@numba.njit(nogil=True, cache=CACHE)
def final_and_loss(counters, t, threads, w, m, targets, target_weight, losses, g, of_norm, s, b):
    """The last convolution, 1 x 1, on the last map; the loss; and back to m.grad. chunk: m's, for its own pixels."""
    pack_forward(counters, 0, w.weight, b.panels[0])
    pack_backward(counters, 1, w.weight, b.panels[1])
    rows, step = len(m.y) // s.crops, 2
    for first in range(0, s.crops, m.chunk):
        last = min(first + m.chunk, s.crops)
        r0, r1 = first * rows, last * rows
        y, grad, u, heat = m.y[r0:r1], m.grad[r0:r1], b.y[: r1 - r0], b.heat[: r1 - r0]
        norm_relu(counters, step, y, m.norm, m.channels, u)
        linear(counters, step + 1, threads, u, w.weight, w.bias, b.panels[0], heat, heat, STORE, b.sums[t])
        loss_rows(
            counters, step + 2, heat, targets[first:last], target_weight[first:last], targets.size, losses[first:last]
        )
        weight_gradient(counters, step + 3, threads, heat, u, first > 0, g.weight, b.work[t])
        column_sums(counters, step + 4, heat, g.bias, b.sums[t])
        linear_grad(counters, step + 5, threads, heat, w.weight, b.panels[1], b.zeros, grad, b.sums[t])
        relu_backward(counters, step + 6, y, m.norm, m.channels, grad, b.partials)
        add_partials(counters, step + 7, b.partials, -(-(r1 - r0) // TASK), of_norm)
        step += 8


watch_sources(embed, embed_backward, block_forward, block_backward, deconv, deconv_backward, final_and_loss)
