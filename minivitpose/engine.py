"""The fast forward pass: weights packed once, one workspace a calling thread, and a crew of threads that walks together
through kernels/fused/forward.py.

    engine = Engine(params, config)         # the nested dict of layers.py, float32
    heatmaps = engine(images)               # (B, 3, H, W) float32 -> (B, K, Hm, Wm) float32
"""

import math
import threading
from functools import cache

import numba
import numpy as np

from minivitpose import layers
from minivitpose.checkpoint import let_go
from minivitpose.kernels.amx import SIDE
from minivitpose.kernels.blocks import STRIP
from minivitpose.kernels.crew import SKIP, Crew, new_counters
from minivitpose.kernels.fused.attention import BLOCK_ROWS
from minivitpose.kernels.fused.attention_by_type import has_whole_blocks, new_keys
from minivitpose.kernels.fused.deconv import pack_deconv
from minivitpose.kernels.fused.forward import Buffers, Packed, Sizes, Weights, classic, simple
from minivitpose.kernels.gemm import CHUNK, SUMS, pack, round_up
from minivitpose.kernels.jit import ready
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS
from minivitpose.kernels.simd import HALF, LANES, aligned, from_half

TOGETHER = 4  # crops of a call that pass through a weight together in bfloat16; 1 is 15 to 30 % slower, 8 are no faster
GAP = 64  # bytes between the rows of the workspace: rows a power of two apart would share few places in the cache


def supports(config):
    """Whether the engine has this network: the public heads, square patches. Others run layer by layer in kernels."""
    public = {"classic": ({4}, 1), "simple": (set(), 3)}[config.head]
    head = set(config.deconv_kernels), config.final_kernel
    return head == public and not config.extra_kernels and config.patch_size[0] == config.patch_size[1]


class Engine:
    """A network packed for speed: ``engine(images)``. Calls from several threads at a time are safe."""

    def __init__(self, params, config, half=False):
        """half: bfloat16 products, float32 sums. Raises ValueError where this CPU has none, or for another head."""
        if not supports(config):
            raise ValueError(f"the fast engine has no {config.describe()}: use engine='numba'")
        if half and not HALF:
            raise ValueError("precision 'bf16' needs a CPU with bfloat16 dot products (AVX512_BF16), this one has none")
        self.config, self.half = config, half
        self.weights = pack_weights(params, config, half)
        self.pos_embed = params["backbone"]["pos_embed"]
        self.crew = cache(Crew)  # one for each number of threads, made when first asked for
        self.workspaces = threading.local()

    def __call__(self, images, tap=None):
        """images (B, 3, H, W) -> heatmaps (B, K, Hm, Wm).

        ``tap(name, array)`` sees the activations that pass through memory, image by image; the others stay in
        registers.
        """
        images = ready("images", images, images.shape, np.float32)  # read-only ones need no compilation of their own
        threads = 1 if numba.config.DISABLE_JIT else numba.get_num_threads()  # plain Python does not count atomically
        size = images.shape[2:]
        # In float32 several at a time are not faster: what passes between the layers leaves the second-level cache. A
        # tapped pass shows one. And where one has too few tokens for a block of the matrix unit, several would have
        # enough, and be summed in another order.
        together = TOGETHER if self.half and not tap and math.prod(self.config.grid_of(size)) >= SIDE else 1
        heatmaps = np.empty((len(images), self.config.num_keypoints, *self.config.map_of(size)), np.float32)
        try:
            for first, crops in groups(len(images), together):
                part = slice(first, first + crops)
                self.workspace(crops, size, threads).run(images[part], heatmaps[part], tap)
        except BaseException:  # on Ctrl-C helpers may go on writing into this workspace: the next call takes another
            self.workspaces = threading.local()
            raise
        return heatmaps

    def workspace(self, crops, *key):
        """Each calling thread has its own, for one crop and for several, of the image size that it used last."""
        mine = self.workspaces
        if getattr(mine, "key", None) != key:
            mine.key, mine.spaces = key, {}
        if crops not in mine.spaces:
            mine.spaces[crops] = Workspace(self, crops, *key)
        return mine.spaces[crops]


def groups(n, together):
    """(first, how many) of the crops that go together; what is left over goes one by one."""
    for first in range(0, n - n % together, together):
        yield first, together
    for first in range(n - n % together, n):
        yield first, 1


# ------------------------------------------------------------------------------------------------------------- packing


def pack_weights(params, config, half):
    """Everything as forward.py reads it. Pages of a mapped file are let go behind it, so that nothing is held twice."""
    backbone, head = params["backbone"], params["keypoint_head"]
    proj, blocks = backbone["patch_embed"]["proj"], list(backbone["blocks"].values())
    h, d, padded = config.num_heads, config.head_dim, round_up(config.head_dim, LANES)

    def every(pack_one):
        """The Packed of every block, stacked."""
        first = pack_one(blocks[0])
        stacked = Packed(*(aligned(len(blocks), *a.shape, dtype=a.dtype) for a in first))
        for i, block in enumerate(blocks):
            stacked.weight[i], stacked.bias[i] = pack_one(block)
            let_go(backbone["pos_embed"])
        return stacked

    def qkv(block):
        weight, bias = block["attn"]["qkv"]["weight"], block["attn"]["qkv"].get("bias")
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        return linear(*(pad_heads(a, 3 * h, d, padded, 0) for a in (weight, bias)), half)

    def mix(block):
        p = block["attn"]["proj"]
        return linear(pad_heads(p["weight"], h, d, padded, 1), p["bias"], half)

    return Weights(
        embed=linear(proj["weight"].reshape(config.embed_dim, -1), proj.get("bias")),
        norm1=every(lambda block: norm(**block["norm1"])),
        qkv=every(qkv),
        proj=every(mix),
        norm2=every(lambda block: norm(**block["norm2"])),
        fc1=every(lambda block: linear(**block["mlp"]["fc1"], half=half)),
        fc2=every(lambda block: linear(**block["mlp"]["fc2"], half=half)),
        last_norm=norm(**backbone["last_norm"]),
        **pack_head(head, config, half),
    )


def pack_head(head, config, half):
    """The head's part of Weights. The simple head's 3x3 convolution is one product for its 9 K taps: see patches.py."""
    final, deconvs = head["final_layer"], head.get("deconv_layers", {})
    pairs = [(deconvs[str(3 * i)], deconvs[str(3 * i + 1)]) for i in range(len(config.deconv_kernels))]
    if pairs:
        last = linear(final["weight"][:, :, 0, 0], final["bias"], half)
    else:
        taps = final["weight"].transpose(0, 2, 3, 1).reshape(9 * config.num_keypoints, -1)
        last = Packed(pack(taps), np.asarray(final["bias"], np.float32))
    return {
        "deconvs": tuple(fold(p, bn, half) for p, bn in pairs),
        "final": Packed(*map(on_a_line, last)),
        "zeros": aligned(1, round_up(9 * config.num_keypoints, LANES)),
    }


def linear(weight, bias, half=False):
    bias = np.zeros(len(weight)) if bias is None else bias
    return Packed(*map(on_a_line, (pack(weight, half), pad_to(bias, LANES))))


def norm(weight, bias):
    return Packed(pad_to(weight, LANES), pad_to(bias, LANES))


def fold(p, bn, half):
    """A transposed convolution with its batch norm inside: norm(conv(x)) = (factor W) x + (bias - mean factor)."""
    factor = bn["weight"].astype(np.float64) / np.sqrt(bn["running_var"].astype(np.float64) + 1e-5)
    bias = bn["bias"] - bn["running_mean"] * factor
    weight = (p["weight"] * factor[:, None, None]).astype(np.float32)
    return Packed(*map(on_a_line, pack_deconv(weight, bias.astype(np.float32), half)))


def pad_heads(weight, heads, d, padded, axis):
    """Zeros between the heads along one axis, so that each head begins with a whole vector."""
    if d == padded:
        return weight
    shape = (*weight.shape[:axis], heads, d, *weight.shape[axis + 1 :])
    pads = [(0, padded - d) if i == axis + 1 else (0, 0) for i in range(len(shape))]
    return np.pad(weight.reshape(shape), pads).reshape(*weight.shape[:axis], heads * padded, *weight.shape[axis + 1 :])


def pad_to(x, unit):
    """(n,) -> (1, n rounded up), zeros behind."""
    return np.pad(np.asarray(x, np.float32), (0, -len(x) % unit))[None]


def on_a_line(x):
    """A copy that begins on a cache line, so that no load of a whole vector straddles two lines."""
    y = aligned(*x.shape, dtype=x.dtype)
    y[:] = x
    return y


# ----------------------------------------------------------------------------------------------------------- workspace


class Workspace:
    """Every array that a pass of so many crops writes, for one image size and number of threads."""

    def __init__(self, engine, crops, size, threads):
        c = engine.config
        grid = Hp, Wp = c.grid_of(size)
        self.engine, self.crew, self.grid, self.tokens = engine, engine.crew(threads), grid, Hp * Wp
        self.heads = c.num_heads, c.head_dim, round_up(c.head_dim, LANES)
        n, d = len(c.deconv_kernels), self.heads[2]
        rows = crops * round_up(self.tokens, ROWS)
        kind = np.uint16 if engine.half else np.float32  # of what goes into a product
        scale = np.float32(c.head_dim**-0.5 if c.qk_scale is None else c.qk_scale)
        patches = Hp, Wp, c.patch_size[0], c.stride, c.padding
        self.sizes = Sizes(crops, *patches, c.embed_dim, c.num_heads, d, scale, c.eps)

        def buffer(rows, columns, kind=np.float32):
            return aligned(rows, round_up(columns, COLUMNS) + GAP // np.dtype(kind).itemsize, dtype=kind)

        def map_buffer(i, channels):
            """Before deconv i: with a border of zeros for its taps; the last one without, for the final layer."""
            border = 2 * (i < n)
            pixels = ((Hp << i) + border) * ((Wp << i) + border)
            return buffer(round_up(crops * pixels, ROWS) + ROWS * (i < n), channels, kind)

        pos = buffer(rows, c.embed_dim)
        by_crop = pos.reshape(crops, -1, pos.shape[1])
        by_crop[:, : self.tokens, : c.embed_dim] = folded_positions(engine, grid)
        maps = tuple(map_buffer(i, channels) for i, channels in enumerate([c.embed_dim, *c.deconv_filters]))
        down, across = (shifted(layers.bilinear_weights(m, 4 * m)) for m in grid)
        panels = round_up(self.tokens, COLUMNS) // COLUMNS
        pairs = engine.half and has_whole_blocks(self.tokens, d)
        self.buffers = Buffers(
            images=None,
            pixels=buffer(rows, max(3 * c.patch_size[0] ** 2, c.embed_dim)),
            pos=pos,
            x=buffer(rows, c.embed_dim),
            y=buffer(rows, c.embed_dim, kind),
            qkv=buffer(rows, 3 * c.num_heads * d, np.uint16 if pairs else np.float32),
            keys=new_keys(crops * c.num_heads, self.tokens, d, pairs),
            z=buffer(rows, c.num_heads * d, kind),
            hidden=buffer(rows, c.mlp_dim, kind),
            maps=maps,
            out=buffer(len(maps[-1]), c.num_keypoints) if n else buffer(rows, 9 * c.num_keypoints),
            sums=aligned(threads, CHUNK, SUMS),
            scores=aligned(threads, max(BLOCK_ROWS, STRIP), panels * COLUMNS + d + LANES),
            down=down,
            across=np.ascontiguousarray(across.transpose(0, 2, 1)),
            lines=aligned(threads, 3 * Hp, 4 * Wp),
        )
        self.steps = list(self.activations())  # of forward.py
        self.counters = new_counters(len(self.steps))

    def run(self, images, heatmaps, tap=None):
        """Crops (n, 3, H, W) into heatmaps (n, K, Hm, Wm). With a tap step by step: the others are marked done."""
        e, b = self.engine, self.buffers._replace(images=images)
        walk = classic if e.config.head == "classic" else simple
        if tap is None:
            self.counters[:] = 0
            self.crew.go(walk, self.counters, e.weights, self.sizes, b, heatmaps)
            return
        for i, step in enumerate(self.steps):
            self.counters[:] = SKIP
            self.counters[i] = 0
            self.crew.go(walk, self.counters, e.weights, self.sizes, b, heatmaps)
            if step:
                tap(*step(b))
        tap("keypoint_head.final_layer", heatmaps.copy())

    def activations(self):
        """For each step of forward.py what it leaves in memory: buffers -> (name, array), or None."""
        c, (h, d, padded) = self.engine.config, self.heads

        def tokens(name, buffer, columns, heads=0):
            def read(b):
                x = as_float(getattr(b, buffer)[: self.tokens, :columns])
                x = x.reshape(self.tokens, heads, padded)[:, :, :d].reshape(self.tokens, -1) if heads else x
                return name, x[None].copy()

            return read

        def map_of(name, i, border):
            def read(b):
                height, width = (side << i for side in self.grid)
                H, W, channels = height + 2 * border, width + 2 * border, [c.embed_dim, *c.deconv_filters][i]
                x = as_float(b.maps[i])[: H * W, :channels].reshape(H, W, channels)
                return name, x[border : border + height, border : border + width].transpose(2, 0, 1)[None].copy()

            return read

        yield None
        yield tokens("backbone.pos", "x", c.embed_dim)
        for i in range(c.depth):
            block = f"backbone.blocks.{i}"
            yield tokens(f"{block}.norm1", "y", c.embed_dim)
            yield tokens(f"{block}.attn.qkv", "qkv", 3 * h * padded, 3 * h)
            yield None
            yield tokens(f"{block}.attn.z", "z", h * padded, h)
            yield tokens(f"{block}.resid_mid", "x", c.embed_dim)
            yield tokens(f"{block}.norm2", "y", c.embed_dim)
            yield tokens(f"{block}.mlp.act", "hidden", c.mlp_dim)
            yield tokens(block, "x", c.embed_dim)
        n = len(c.deconv_kernels)
        yield map_of("backbone", 0, 1) if n else None
        for i in range(n):
            yield map_of(f"keypoint_head.deconv_layers.{3 * i + 2}", i + 1, int(i + 1 < n))
        yield None
        yield None


def as_float(x):
    return from_half(x) if x.dtype == np.uint16 else x


def folded_positions(engine, grid):
    """What is added to each token: its position and the class-token slot, (N, C); interpolated for another grid."""
    pos_embed = engine.pos_embed
    if grid != engine.config.grid:
        pos_embed = layers.resize_positions(pos_embed, engine.config.grid, grid)
    return pos_embed[0, 1:] + pos_embed[0, :1]


def shifted(weights):
    """(m, n) -> (3, m, n) float32: the same weights for the pixel before, at and after; 0 beyond the edge."""
    padded = np.pad(weights, ((1, 1), (0, 0)))
    return np.stack([padded[i : i + len(weights)] for i in range(3)]).astype(np.float32)
