"""The fast training step: loss_and_gradients through kernels/gradients/passes.py, in float32 or products in bfloat16.

Heads other than the classic one of the public models are the textbook's, behind the fast backbone.
"""

import threading

import numba
import numpy as np

from minivitpose import gradients as textbook
from minivitpose.engine import GAP
from minivitpose.kernels.amx import DEEP
from minivitpose.kernels.blocks import STRIP
from minivitpose.kernels.crew import Crew, new_counters
from minivitpose.kernels.fused.attention import BLOCK_ROWS
from minivitpose.kernels.fused.attention_by_type import has_whole_blocks, new_keys
from minivitpose.kernels.gemm import CHUNK, SUMS, round_up, rows_to_round
from minivitpose.kernels.gradients import passes
from minivitpose.kernels.gradients.attention_in_pairs import rows_of_pairs
from minivitpose.kernels.gradients.maps import means_and_variances
from minivitpose.kernels.gradients.passes import Buffers, Gradients, Kept, Linear, Map, Patches, Sizes, Weights
from minivitpose.kernels.gradients.rows import PARTIALS, TASK
from minivitpose.kernels.gradients.weights import WORK
from minivitpose.kernels.jit import ready
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS
from minivitpose.kernels.simd import HALF, LANES, aligned
from minivitpose.model import positions
from minivitpose.training.backward import TrainingError, head_step

ROWS_AT_A_TIME = 768  # rows of a chunk: what a step leaves of them is in the cache for the next
BATCH_NORM_EPS = 1e-5
STEPS = 22  # of passes.py for a chunk, at most

mine = threading.local()  # each calling thread keeps the workspace that it used last


def supports(model):
    """Whether the kernels have this backbone: float32, square patches, rows of whole vectors."""
    c = model.config
    widths = (c.embed_dim, c.head_dim, c.mlp_dim, 3 * c.patch_size[0] ** 2)
    whole = c.patch_size[0] == c.patch_size[1] and not any(n % LANES for n in widths)
    return whole and model.dtype == np.float32


def has_fast_head(config):
    """Whether the kernels have this head too: transposed 4 x 4 convolutions, and a last one of 1 x 1."""
    classic = config.head == "classic" and set(config.deconv_kernels) == {4} and config.final_kernel == 1
    return classic and not config.extra_kernels and not any(F % LANES for F in config.deconv_filters)


def loss_and_gradients(model, images, targets, target_weight, drops, batch, half=False):
    """As training.backward.textbook. half: products of bfloat16 with sums in float32; all else stays float32."""
    if half and not HALF:
        raise TrainingError("precision 'bf16' needs a CPU with bfloat16 products (AVX512_BF16): train in float32")
    threads = 1 if numba.config.DISABLE_JIT else numba.get_num_threads()
    key = model.config, len(images), images.shape[2:], threads, half
    if getattr(mine, "key", None) != key:
        free()  # the old one goes before the new one comes
        mine.key, mine.space = key, Workspace(*key)
    try:
        return mine.space.step(model.params, images, targets, target_weight, drops, batch)
    except BaseException:  # on Ctrl-C helpers may go on writing into this workspace: the next call takes another
        free()
        raise


def free():
    """Let go of the calling thread's workspace: for a batch of 32 ViTPose-S has 1.6 GB, mini 0.3."""
    mine.key = mine.space = None


class Workspace:
    """Every array that a step writes, for one network, batch, image size, number of threads and kind of products."""

    def __init__(self, config, crops, size, threads, half):
        c = self.config = config
        self.crew, self.threads = Crew(threads), threads
        Hp, Wp = self.grid = c.grid_of(size)
        self.patches = Patches(Hp, Wp, c.patch_size[0], c.stride, c.padding)
        tokens, inner, scale = Hp * Wp, c.num_heads * c.head_dim, c.qk_scale or c.head_dim**-0.5
        rows, chunk = chunks(crops, tokens)
        pairs = half and has_whole_blocks(tokens, c.head_dim)
        self.sizes = Sizes(
            crops, chunk, rows, tokens, c.embed_dim, c.mlp_dim, c.num_heads, c.head_dim, np.float32(scale), c.eps
        )
        M = crops * rows
        self.x = [buffer(M, c.embed_dim) for _ in range(c.depth + 1)]
        self.kept = [
            Kept(
                x=before,
                qkv=buffer(M, 3 * inner, pairs),
                z=buffer(M, inner, half),
                mid=buffer(M, c.embed_dim),
                hidden=buffer(M, c.mlp_dim, half),
                out=after,
            )
            for before, after in zip(self.x[:-1], self.x[1:], strict=True)
        ]
        self.grad, self.pos = buffer(M, c.embed_dim), buffer(chunk * rows, c.embed_dim)
        filters = c.deconv_filters if has_fast_head(c) else ()
        self.maps = [new_map(i, F, crops, self.grid) for i, F in enumerate(filters)]
        self.last_chunk = chunks(crops, 4 ** len(filters) * tokens)[1]
        self.buffers = self.make_buffers(chunk * rows, inner, half, pairs)
        self.statistics = [aligned(PARTIALS * crops * -(-pixels(m) // TASK), m.channels) for m in self.maps]
        self.losses = np.zeros(crops)
        self.counters = new_counters(4 + STEPS * crops)

    def make_buffers(self, most, inner, half, pairs):
        """most: rows of a chunk of tokens. pairs: attention in bfloat16."""
        c, s, threads = self.config, self.sizes, self.threads
        panels, F = round_up(s.tokens, COLUMNS) // COLUMNS, max((m.channels for m in self.maps), default=0)
        deep = round_up(max(c.embed_dim, inner, c.mlp_dim, F), COLUMNS)
        widest = max(deep, 3 * inner, 16 * F, 3 * c.patch_size[0] ** 2, c.num_keypoints)
        heat = self.last_chunk * len(self.maps[-1].y) // s.crops if self.maps else 0
        kind = np.uint32 if half else np.float32  # of what lies in pairs or not
        head_keys = rows_of_pairs(s.tokens, c.head_dim) if pairs else 2 * panels * c.head_dim
        levels = [most, *(m.chunk * chunks(1, m.height * m.width)[0] for m in self.maps), heat]  # rows of a chunk
        return Buffers(
            y=buffer(max(levels), max(c.embed_dim, F), half),
            narrow=buffer(max(levels), max(c.embed_dim, inner)),
            drop=buffer(most, c.embed_dim),
            wide=buffer(most, max(3 * inner, c.mlp_dim)),
            act=buffer(most, c.mlp_dim, half),
            pixels=buffer(most, 3 * c.patch_size[0] ** 2),
            stamps=buffer(max(levels[:-1]) + 1, 16 * F, half),
            heat=buffer(heat, c.num_keypoints),
            panels=aligned(4, deep * round_up(widest, COLUMNS) // COLUMNS, COLUMNS, dtype=kind),
            zeros=aligned(round_up(widest, COLUMNS)),
            partials=aligned(PARTIALS * -(-max(levels) // TASK), max(c.embed_dim, F)),
            sums=aligned(threads, CHUNK + half * rows_to_round(widest), SUMS),
            keys=new_keys(s.chunk * c.num_heads, s.tokens, c.head_dim, pairs),
            scores=aligned(threads, max(BLOCK_ROWS, STRIP), panels * COLUMNS + c.head_dim + LANES),
            work=aligned(threads, WORK, SUMS, dtype=kind),
            head_keys=aligned(threads, head_keys, COLUMNS, dtype=np.uint32 if pairs else np.float32),
            squares=aligned(threads, 2, max(s.rows, 3 * STRIP), panels * COLUMNS + LANES),
        )

    def go(self, walk, *arguments):
        self.counters[:] = 0
        self.crew.go(walk, self.counters, *arguments)

    def step(self, params, images, targets, target_weight, drops, batch):
        """(loss, gradients, statistics) of training.loss_and_gradients."""
        s, b, backbone = self.sizes, self.buffers, params["backbone"]
        images = ready("images", images, images.shape, np.float32)
        proj = linear(backbone["patch_embed"]["proj"], flat=True)
        self.set_positions(backbone["pos_embed"])
        blocks = [block_weights(p) for p in backbone["blocks"].values()]
        drops = [d.reshape(2, -1) if (d != 1).any() else np.ones((2, 0), np.float32) for d in drops]

        self.go(passes.embed, images, proj, self.pos, self.x[0], self.patches, s, b)
        for w, k, d in zip(blocks, self.kept, drops, strict=True):
            self.go(passes.block_forward, w, k, d, s, b)
        head = self.head if self.maps else self.textbook_head
        loss, of_norm, of_head, statistics = head(params, targets, target_weight, batch)
        of_blocks = []
        for w, k, d in zip(reversed(blocks), reversed(self.kept), reversed(drops), strict=True):
            of_blocks.append(block_gradients(w))
            self.go(passes.block_backward, w, k, d, self.grad, of_blocks[-1], s, b)
        of_proj = like(proj)
        self.go(passes.embed_backward, images, self.grad, of_proj, self.patches, s, b)
        gradients = self.position_gradients(backbone["pos_embed"])
        gradients["patch_embed"] = {"proj": named(of_proj, backbone["patch_embed"]["proj"])}
        pairs = zip(backbone["blocks"].items(), reversed(of_blocks), strict=True)
        gradients["blocks"] = {i: named_block(g, p) for (i, p), g in pairs}
        gradients["last_norm"] = of_norm
        gradients = {"backbone": {name: gradients[name] for name in backbone}, "keypoint_head": of_head}
        return loss, gradients, {"keypoint_head": statistics} if batch else {}

    def set_positions(self, pos_embed):
        """For each crop of a chunk what is added to its tokens: their position and slot 0."""
        s, table = self.sizes, positions(pos_embed, self.config, self.grid)
        by_crop = self.pos.reshape(s.chunk, s.rows, -1)
        by_crop[:, : s.tokens, : s.channels] = table[:, 1:] + table[:, :1]

    def position_gradients(self, pos_embed):
        s, c = self.sizes, self.config
        grad = self.grad.reshape(s.crops, s.rows, -1)[:, : s.tokens, : s.channels]
        _, found = textbook.add_positions_backward(None, grad, None)
        if self.grid != c.grid:
            found["pos_embed"] = textbook.resize_positions_backward(pos_embed, found["pos_embed"], c.grid, self.grid)
        return found

    def textbook_head(self, params, targets, target_weight, batch):
        """As ``head``."""
        s = self.sizes
        x, grad = (a.reshape(s.crops, s.rows, -1)[:, : s.tokens, : s.channels] for a in (self.x[-1], self.grad))
        found = head_step(x, self.grid, params, self.config, targets, target_weight, batch)
        self.grad[:] = 0
        loss, grad[:], of_norm, of_head, statistics = found
        return loss, of_norm, of_head, statistics

    def head(self, params, targets, target_weight, batch):
        """Forwards and backwards: (loss, the last norm's gradients, the head's, running statistics)."""
        s, b, p, last_norm = self.sizes, self.buffers, params["keypoint_head"], norm(params["backbone"]["last_norm"])
        deconvs = p["deconv_layers"]
        names = [(str(3 * i), str(3 * i + 1)) for i in range(len(self.maps))]
        weights = [taps(deconvs[conv]["weight"]) for conv, _ in names]
        inputs = [(self.x[-1], last_norm, True)] + [(m.y, m.norm, False) for m in self.maps[:-1]]
        statistics = {}
        stages = zip(self.maps, names, weights, inputs, self.statistics, strict=True)
        for m, (_, bn), weight, given, partials in stages:
            self.go(passes.deconv, *given, weight, m, s, b, partials if batch else partials[:0])
            statistics[bn] = self.set_norm(m, deconvs[bn], partials if batch else None)

        final, of_norms = linear(p["final_layer"], flat=True), [np.zeros((2, len(last_norm[0])))]
        of_norms += [np.zeros((2, m.channels)) for m in self.maps]
        of_final, last = like(final), self.maps[-1]._replace(chunk=self.last_chunk)
        targets = ready(
            "targets", targets.reshape(*targets.shape[:2], -1), (*targets.shape[:2], pixels(last)), np.float32
        )
        target_weight = ready("target_weight", target_weight, target_weight.shape, np.float32)
        self.go(passes.final_and_loss, final, last, targets, target_weight, self.losses, of_final, of_norms[-1], s, b)

        found = {"final_layer": named(of_final, p["final_layer"])}
        self.grad[:] = 0
        of_weights = [np.empty(w.shape, np.float32) for w in weights]
        for i in reversed(range(len(self.maps))):
            m, grad = self.maps[i], self.maps[i - 1].grad if i else self.grad
            m.norm[4:] = of_norms[i + 1] / (s.crops * pixels(m)) if batch else 0
            self.go(passes.deconv_backward, *inputs[i], weights[i], m, grad, of_weights[i], of_norms[i], s, b)
        found["deconv_layers"] = {}
        for (conv, bn), of_weight, of_norm in zip(names, of_weights, of_norms[1:], strict=True):
            found["deconv_layers"] |= {conv: {"weight": untap(of_weight)}, bn: named_norm(of_norm)}
        loss = float(self.losses.sum() / targets.size)
        return loss, named_norm(of_norms[0]), {name: found[name] for name in p}, {"deconv_layers": statistics}

    def set_norm(self, m, p, partials):
        """Mean, scale, bias and 1 / std of a batch norm into m.norm. -> the new running statistics, or None."""
        if partials is None:
            mean, variance, moved = p["running_mean"], p["running_var"].astype(np.float64), None
        else:
            n = self.sizes.crops * pixels(m)
            mean, variance = means_and_variances(partials, self.sizes.crops, pixels(m))
            running = {name: p[name] for name in ("running_mean", "running_var", "num_batches_tracked") if name in p}
            moved = textbook.moved_statistics(mean, variance, n, **running)
        inverse = 1 / np.sqrt(variance + BATCH_NORM_EPS)
        m.norm[:4] = mean, inverse * p["weight"], p["bias"], inverse
        return moved


# ---------------------------------------------------------------------------------------------------------- arrays


def buffer(rows, columns, half=False):
    kind = np.dtype(np.uint16 if half else np.float32)
    whole = round_up(columns, max(COLUMNS, 2 * DEEP))  # products in bfloat16 read whole registers
    return aligned(rows, whole + GAP // kind.itemsize, dtype=kind)


def chunks(crops, pixels):
    """(rows of a crop, crops of a chunk)."""
    rows = round_up(pixels, ROWS)
    return rows, min(crops, max(1, ROWS_AT_A_TIME // rows))


def pixels(m):
    """Of the map m.y."""
    return 4 * m.height * m.width


def new_map(i, F, crops, grid):
    """What deconv i makes of a map of ``height`` x ``width``."""
    height, width = (n << i for n in grid)
    rows, chunk = round_up(4 * height * width, ROWS), chunks(crops, height * width)[1]
    return Map(buffer(crops * rows, F), aligned(6, F), buffer(crops * rows, F), height, width, F, chunk)


def norm(p):
    return np.stack([p["weight"], p["bias"]])


def linear(p, flat=False):
    weight = p["weight"].reshape(len(p["weight"]), -1) if flat else p["weight"]
    bias = aligned(1, round_up(len(weight), LANES))
    bias[0, : len(weight)] = p.get("bias", 0)
    return Linear(ready("weight", weight, weight.shape, np.float32), bias)


def block_weights(p):
    parts = {"qkv": p["attn"]["qkv"], "proj": p["attn"]["proj"], "fc1": p["mlp"]["fc1"], "fc2": p["mlp"]["fc2"]}
    return Weights(norm1=norm(p["norm1"]), norm2=norm(p["norm2"]), **{name: linear(q) for name, q in parts.items()})


def taps(weight):
    """(Cin, F, 4, 4) -> (Cin, 16 F): the F channels of each tap side by side."""
    weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    return ready("weight", weight, weight.shape, np.float32)


def untap(weight):
    """(Cin, 16 F) -> (Cin, F, 4, 4)."""
    return np.ascontiguousarray(weight.reshape(len(weight), 4, 4, -1).transpose(0, 3, 1, 2))


def like(w):
    """Where the gradients of a Linear go: the weight's is written, the bias's added up in float64."""
    return Linear(np.empty(w.weight.shape, np.float32), np.zeros(len(w.weight)))


def block_gradients(w):
    norms = {"norm1": np.zeros(w.norm1.shape), "norm2": np.zeros(w.norm2.shape)}
    return Gradients(qkv=like(w.qkv), proj=like(w.proj), fc1=like(w.fc1), fc2=like(w.fc2), **norms)


def named(g, p):
    """The gradients of a Linear as a dict like its parameters."""
    found = {"weight": g.weight.reshape(p["weight"].shape), "bias": g.bias.astype(np.float32)}
    return {name: found[name] for name in p}


def named_norm(g):
    weight, bias = g.astype(np.float32)
    return {"weight": weight, "bias": bias}


def named_block(g, p):
    attn = {"qkv": named(g.qkv, p["attn"]["qkv"]), "proj": named(g.proj, p["attn"]["proj"])}
    mlp = {"fc1": named(g.fc1, p["mlp"]["fc1"]), "fc2": named(g.fc2, p["mlp"]["fc2"])}
    return {"norm1": named_norm(g.norm1), "attn": attn, "norm2": named_norm(g.norm2), "mlp": mlp}
