# %% [markdown]
# # 13 · Making it fast: from three loops to 90 % of the machine
#
# **After this notebook you can** say what a processor's peak is and measure it; climb from three loops to a matrix
# product near that peak, and tell at each step what the limit was; read off a roofline whether a layer waits for
# memory or for the multipliers; and say why the same sum in another order has other bits.
#
# 40 minutes to read, 60 for the exercises. Needs: what a linear layer is and where a ViTPose has them
# ([05](05_mlp.ipynb)). Nothing is downloaded.
#
# Every time in this notebook is measured while it runs, on the machine that runs it. Other programs on that machine
# make numbers worse, never better. Compare ratios.

# %%
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's products on one thread; must be set before NumPy is loaded

import math
import re

import numba
import numpy as np
from numba import njit

from minivitpose import teach
from minivitpose.bench.machine import gflop, multiply_adds
from minivitpose.config import parameter_shapes, variant_config
from minivitpose.kernels.simd import HALF, LANES, REGISTERS, aligned
from minivitpose.teach import figures

numba.set_num_threads(1)  # one thread everywhere, until the notebook says otherwise
example = teach.example()
small, base = variant_config("S"), variant_config("B")

# %% [markdown]
# ## Why
#
# Nearly all arithmetic of a ViTPose is products of matrices: `linear` is one, attention is two, a convolution is one.
# Here is the first layer of an MLP of ViTPose-S: 192 tokens of 384 numbers become 192 of 1536. A multiply-add counts
# as two operations.

# %%
M, K, N = 192, small.embed_dim, small.mlp_dim
rng = np.random.default_rng(0)
x, weight, y = aligned(M, K), aligned(N, K), aligned(M, N)  # arrays that begin on a cache line
x[:] = rng.standard_normal((M, K))
weight[:] = rng.standard_normal((N, K)) / math.sqrt(K)
truth = x.astype(np.float64) @ weight.T.astype(np.float64)
product = 2e-9 * M * K * N  # GFLOP

assert (M, K, N) == (192, 384, 1536)
teach.say(f"This product: {product:.3f} GFLOP. A whole ViTPose-S: {gflop(small):.1f}, ViTPose-B: {gflop(base):.1f}.")


# %% [markdown]
# The formula $y_{mn} = \sum_k x_{mk} w_{nk}$ as the textbook writes it, three loops. In Python it is so slow that only
# 2 x 16 of the 192 x 1536 results are computed; the rest is counted.


# %%
def three_loops(x, weight, y):
    for m in range(len(x)):
        for n in range(len(weight)):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[m, k] * weight[n, k]
            y[m, n] = total


few = 2 * 16 / (M * N)  # the part of the product that is computed
three_loops(x[:2], weight[:16], y)
assert np.allclose(y[:2, :16], truth[:2, :16], atol=1e-4)

# %% [markdown]
# ## What the machine could do
#
# A **vector register** holds several floats side by side. A **fused multiply-add**, FMA, takes three registers and
# computes $a b + c$ in every lane at once, rounding once. The **peak** is a loop of nothing else.
# `minivitpose.bench.peak` is that loop: twelve sums in registers, none of which waits for another.

# %%
from minivitpose.bench.peak import CHAINS, multiply_and_add

TURNS = 20_000


def peak_loop():
    multiply_and_add(TURNS, np.float32(0.5))


peak = 2e-9 * CHAINS * LANES * TURNS / teach.race({"": peak_loop}, seconds=0.5).seconds[""]
assert LANES in (4, 8, 16) and REGISTERS in (16, 32) and CHAINS == 12
teach.say(f"A register holds **{LANES}** floats here, there are {REGISTERS}, and one core does {peak:.0f} GFLOP/s.")

# %% [markdown]
# The picture: left one FMA. Right what the fast product will do with many of them, the **register tile**. Its sums
# stay in registers. For one $k$ it loads a few vectors of the weight and a few numbers of $x$, and each pair of them
# is a multiply-add.

# %%
from matplotlib.patches import Rectangle

from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, UNROLL, VECTORS


def box(axes, left, top, text, colour="#FFFFFF", width=1.0):
    place = (left + 0.06, top + 0.1), width - 0.12, 0.8
    axes.add_patch(Rectangle(*place, facecolor=colour, edgecolor="#555555"))
    axes.text(left + width / 2, top + 0.5, text, ha="center", va="center", fontsize=8.5)


figure = figures.canvas(900, 300, "fma-and-tile")
left, right = figure.subplots(1, 2)
lanes = np.arange(LANES)
rows = {"a": 2 + 0 * lanes, "b": lanes % 5, "c": 10 + lanes % 3, "a b + c": 2 * (lanes % 5) + 10 + lanes % 3}
for i, (name, values) in enumerate(rows.items()):
    left.text(-0.3, 1.2 * i + 0.5, name, ha="right", va="center", fontsize=10)
    for lane in lanes:
        box(left, lane, 1.2 * i, str(values[lane]), "#CDE5F5" if i == 3 else "#FFFFFF")
left.set(xlim=(-3, LANES + 0.2), ylim=(5, -0.2))
for j in range(VECTORS):
    box(right, 1.5 + 2 * j, 0, f"{LANES} of w", "#FBE3C4", 2)
for i in range(ROWS):
    box(right, 0, 1.2 + i, "x", "#FBE3C4")
    for j in range(VECTORS):
        box(right, 1.5 + 2 * j, 1.2 + i, f"{LANES} sums", "#CDE5F5", 2)
right.set(xlim=(-0.2, 1.7 + 2 * VECTORS), ylim=(ROWS + 1.5, -0.2))
figures.bare(left, f"one instruction: {LANES} multiply-adds")
figures.bare(right, f"the tile: {ROWS + VECTORS} loads feed {ROWS * VECTORS} multiply-adds")
figure

# %% [markdown]
# ## What memory gives
#
# Memory comes in **cache lines**, of 64 bytes on most processors, 16 floats: who asks for one number gets its line.
# Left: the time to read one number, when every $s$-th number of a large array is read. Up to $s = 16$ each step wastes
# more of the line; beyond, every number is a line of its own, and the price hardly grows.
#
# Right: how many gigabytes a second one core reads, from arrays of growing size. Small arrays stay in a small, fast
# memory beside the core, the caches. Each fall is the end of one.

# %%
from minivitpose.kernels.simd import load as load_vector
from minivitpose.kernels.simd import splat, sum_lanes


@njit
def every(x, stride):
    total = 0
    for i in range(0, len(x), stride):
        total ^= x[i]
    return total


@njit
def read(x, times):
    a = b = c = d = e = f = g = h = splat(np.float32(0))  # eight sums, so that none waits for another
    for _ in range(times):
        for j in range(0, x.shape[1], 8 * LANES):
            a, b = a + load_vector(x, 0, j), b + load_vector(x, 0, j + LANES)
            c, d = c + load_vector(x, 0, j + 2 * LANES), d + load_vector(x, 0, j + 3 * LANES)
            e, f = e + load_vector(x, 0, j + 4 * LANES), f + load_vector(x, 0, j + 5 * LANES)
            g, h = g + load_vector(x, 0, j + 6 * LANES), h + load_vector(x, 0, j + 7 * LANES)
    return sum_lanes(a + b + c + d + (e + f + g + h))


# %%
large = aligned(1, 32 << 20)  # 128 MiB of float32
large += 1
strides, kib = 2 ** np.arange(8), 2 ** np.arange(3, 18)
integers = large[0, : 16 << 20].view(np.int32)
calls = {s: lambda s=s: every(integers, s) for s in strides}
each = [1e9 * spent / (integers.size // s) for s, spent in teach.race(calls, seconds=0.1).seconds.items()]

parts = {size: large[:, : 256 * size] for size in kib}
calls = {size: lambda size=size: read(parts[size], max(1, 4096 // size)) for size in kib}
spent = teach.race(calls, seconds=0.1).seconds
rates = [parts[size].nbytes * max(1, 4096 // size) / spent[size] / 1e9 for size in kib]
bandwidth = rates[-1]

figure = figures.canvas(900, 290, "memory")
left, right = figure.subplots(1, 2)
left.plot(strides, each, marker="o", markersize=4, color=figures.COLOURS[0])
left.axvline(16, color=figures.COLOURS[1], linestyle="--", linewidth=1.2)
left.annotate("16 floats: a cache line", (16, 0), (4, 4), textcoords="offset points", fontsize=8.5)
figures.plain(left, "every s-th number is read: s", "one number (nanoseconds)", "A cache line, measured")
left.set_xscale("log", base=2)
left.set_xticks(strides, strides)
left.set_ylim(bottom=0)
right.plot(kib, rates, marker="o", markersize=4, color=figures.COLOURS[2])
figures.plain(right, "size of the array", "read by one core (GB/s)", "The caches, measured", log=True)
right.set_xscale("log", base=2)
right.set_xticks(kib[::3], ["8 KiB", "64 KiB", "512 KiB", "4 MiB", "32 MiB"])
right.tick_params(which="minor", labelsize=8, colors="#5F6368")
figure

# %% [markdown]
# So the peak is not to be had from memory: at one load for each multiply-add, memory would have to give 4 bytes for
# every 2 operations.

# %%
teach.say(
    f"From memory come {bandwidth:.0f} GB/s, from the nearest cache {rates[0]:.0f}. "
    f"One fresh float for each multiply-add at the peak would be {4 * peak / 2:.0f} GB/s."
)

# %% [markdown]
# ## The ladder
#
# Each rung is checked against float64 before it may take part. The first is the same three loops, compiled by Numba.

# %%
rungs = {"three loops, Python": (lambda: three_loops(x[:2], weight[:16], y), few * product)}


def rung(name, run):
    y[:] = 0
    run()
    assert np.abs(y - truth).max() < 1e-5 * np.abs(truth).max(), name
    rungs[name] = run, product


compiled = njit(error_model="numpy")(three_loops)
rung("three loops, Numba", lambda: compiled(x, weight, y))

# %% [markdown]
# **What limits it:** the chain. Each addition needs the sum before it and waits several cycles for it. The compiler
# may not break the chain into several sums, since floats added in another order give another result. If we allow that,
# with the flag `reassoc`, it uses vectors by itself:

# %%
reordered = njit(error_model="numpy", fastmath={"reassoc", "contract"})(three_loops)
rung("sums may be reordered", lambda: reordered(x, weight, y))

# %% [markdown]
# **The order of the loops.** The very same code on a weight that lies transposed in memory: now each step of $k$ goes
# to another row, which is another cache line. Of each line that comes, one number is used.

# %%
turned = aligned(K, N)
turned[:] = weight.T
rung("the weight lies transposed", lambda: compiled(x, turned.T, y))


# %% [markdown]
# With $k$ in the middle, **i-k-j**, the inner loop runs along rows of the transposed weight and of $y$. Neighbours do
# not depend on each other, so the compiler makes vectors of them, and the order of each sum is still that of $k$.


# %%
@njit(error_model="numpy", fastmath={"contract"})  # contract: a product and a sum may become one FMA
def i_k_j(x, turned, y):
    for m in range(len(x)):
        row = y[m]
        row[:] = 0
        for k in range(len(turned)):
            a, b = x[m, k], turned[k]
            for n in range(len(row)):
                row[n] += a * b[n]


rung("i-k-j", lambda: i_k_j(x, turned, y))

# %% [markdown]
# **By hand or by the compiler?** `kernels/simd.py` has vectors as a type: `load`, `fma`, `store` are one instruction
# each. The same loops, written so. Compare the two in the chart below: in a simple loop the compiler finds by itself
# what a hand would write.

# %%
from minivitpose.kernels.simd import fma, store


@njit
def by_hand(x, turned, y):
    y[:] = 0
    for m in range(len(x)):
        for k in range(len(turned)):
            a = splat(x[m, k])
            for n in range(0, y.shape[1], LANES):
                store(y, m, n, fma(a, load_vector(turned, k, n), load_vector(y, m, n)))


rung("i-k-j, vectors by hand", lambda: by_hand(x, turned, y))


# %% [markdown]
# **What limits both:** every row of $x$ reads the whole weight again, from a cache further away. **Blocks** lift that
# limit: 8 rows of 768 numbers, 24 KiB, stay in the nearest cache while all rows of $x$ meet them.


# %%
@njit(error_model="numpy", fastmath={"contract"})
def blocks(x, turned, y, depth, width):
    y[:] = 0
    for n0 in range(0, y.shape[1], width):
        for k0 in range(0, len(turned), depth):
            for m in range(len(x)):
                row = y[m, n0 : n0 + width]
                for k in range(k0, k0 + depth):
                    a, b = x[m, k], turned[k, n0 : n0 + width]
                    for n in range(width):
                        row[n] += a * b[n]


assert 8 * 768 * 4 == 24 * 1024 and K % 8 == 0 and N % 768 == 0
rung("in blocks", lambda: blocks(x, turned, y, 8, 768))

# %% [markdown]
# **What limits it:** for each multiply-add it still loads the weight, loads $y$ and stores $y$. The **register tile**
# of the picture above keeps $y$ in registers over all of $k$. No compiler finds it in loops, so
# `kernels/micro_kernel.py` writes it as instructions, and a loop over tiles is left:

# %%
from minivitpose.kernels.micro_kernel import tile_product


@njit
def tiles(x, turned, y):
    for j in range(0, y.shape[1], COLUMNS):
        for i in range(0, len(x), ROWS):
            tile_product(y, i, j, x, i, 0, turned, 0, j, len(turned), 0, False)


assert COLUMNS == VECTORS * LANES and M % ROWS == 0 and N % COLUMNS == 0
rung("register tile", lambda: tiles(x, turned, y))

# %% [markdown]
# **What limits it:** from one row of the weight to the next is a long way in memory. So the weight is **packed** once,
# at load: `COLUMNS` columns side by side, in the order in which the tile reads them. And $k$ runs in blocks of 128,
# each summed apart: one block of a panel fits the nearest cache, and short chains round less.

# %%
from minivitpose.kernels.gemm import BLOCK, pack

panels = aligned(N // COLUMNS * K, COLUMNS)
panels[:] = pack(weight)


@njit(nogil=True)
def packed(x, panels, y, first, last):
    K = x.shape[1]
    for p in range(first, last):
        for k in range(0, K, BLOCK):
            for i in range(0, len(x), ROWS):
                tile_product(y, i, p * COLUMNS, x, i, k, panels, p * K + k, 0, min(BLOCK, K - k), p * K + k, k > 0)


assert BLOCK == 128 and K % BLOCK == 0
rung("packed panels", lambda: packed(x, panels, y, 0, N // COLUMNS))

# %% [markdown]
# **Threads**: two of them, each with half of the panels. No sum is split between them. And `kernels/gemm.py`, the
# package's own: that, with the next block fetched meanwhile, and rectangles of $y$ for whoever is free.

# %%
from concurrent.futures import ThreadPoolExecutor

from minivitpose.kernels.crew import Crew, new_counters
from minivitpose.kernels.gemm import CHUNK, STORE, SUMS
from minivitpose.kernels.gemm import product as gemm_product

helper, half = ThreadPoolExecutor(1), N // COLUMNS // 2


def on_two_threads():
    other = helper.submit(packed, x, panels, y, 0, half)
    packed(x, panels, y, half, N // COLUMNS)
    other.result()


@njit(nogil=True)
def gemm(counters, t, threads, x, panels, bias, y, sums):
    gemm_product(counters, 0, threads, x, panels, bias, y, y, STORE, sums[t])


crew, counters, bias, sums = Crew(1), new_counters(1), aligned(1, N), aligned(1, CHUNK, SUMS)


def the_package():
    counters[:] = 0
    crew.go(gemm, counters, x, panels, bias, y, sums)


rung("kernels/gemm.py", the_package)
rung("packed panels, two threads", on_two_threads)


# %% [markdown]
# Last NumPy: a call for each row of $x$, and one call for all, which goes to its BLAS library.


# %%
def row_by_row():
    for m in range(M):
        y[m] = weight @ x[m]


rung("NumPy, row by row", row_by_row)
rung("NumPy, one call", lambda: np.matmul(x, weight.T, out=y))

slow = [name for name in rungs if name.startswith(("three", "the weight"))]
times = {}
for some in (slow, [name for name in rungs if name not in slow]):  # apart, so that the fast ones get many calls
    times |= teach.race({name: rungs[name][0] for name in some} | {"peak": peak_loop}).seconds
    peak = max(peak, 2e-9 * CHAINS * LANES * TURNS / times["peak"])
speeds = {name: work / times[name] for name, (_, work) in rungs.items()}
shown = speeds | {"peak of one core": peak}
figures.bars(shown, "GFLOP/s (logarithmic)", "One product, 192 x 384 times 384 x 1536", log=True, width=800)

# %%
best, python, first = (speeds[name] for name in ("kernels/gemm.py", "three loops, Python", "three loops, Numba"))
teach.say(
    f"From Python to the package's product: **{best / python:,.0f} times**, {best / peak:.0%} of the peak of one core. "
    f"Compiling alone brought {first / python:.0f} times, and all that came after {best / first:.0f} times more. "
    f"A crop through ViTPose-S would take the loops in Python about **{gflop(small) / python / 60:.0f} minutes**."
)

# %% [markdown]
# A rung above the peak would only say that the peak's own loop was disturbed. Which rungs are far apart and which are
# level depends on the machine, on the size of its caches above all: where the whole weight, 2.4 MB, comes fast enough
# from one of them, blocks bring little, as the loads and stores were the limit already.
# [docs/performance.md](../docs/performance.md) has the same ladder, longer, measured on a quiet machine, with what
# limits each rung there.
#
# ## What the compiler wrote
#
# Numba shows the machine code. Of each product, its inner loop: the stretch between two labels that multiplies most.
# In the names of the instructions `ps` is a whole vector of floats, `ss` a single one, and brackets are an address in
# memory.


# %%
def multiplications(code, kind):
    return len(re.findall(rf"\tv?(?:fmadd\d+|mul){kind}\t", code))


def inner_loop(function):
    text = max(function.inspect_asm().values(), key=len)
    return max(
        re.split(r"\n\.L\w+:", text), key=lambda part: (multiplications(part, "ps"), multiplications(part, "ss"))
    )


functions = {"three loops": compiled, "sums may be reordered": reordered, "i-k-j": i_k_j, "in blocks": blocks}
print(f"{'inner loop of':24}{'vector':>8}{'single':>8}{'loads':>8}   loads for a multiply-add")
for name, function in (functions | {"register tile": tiles, "packed panels": packed}).items():
    code = inner_loop(function)
    vector, single = multiplications(code, "ps"), multiplications(code, "ss")
    loads = len(re.findall(r"\t\w+\t[^\s,]*\([^\n]*%[xyz]mm", code))
    ratio = f"{loads / (vector + single):.2f}" if vector + single else "(not an x86 processor)"
    print(f"{name:24}{vector:8}{single:8}{loads:8}   {ratio}")

# %% [markdown]
# Three loops multiply single floats: a vector register is there and hardly used. The tile's loop has `UNROLL` steps of
# $k$ in it, each with `ROWS` times `VECTORS` multiply-adds, and by far the fewest loads for each of them. Its first
# instructions on vectors:

# %%
from minivitpose.kernels.simd import ARCHITECTURE, FMA

if ARCHITECTURE == "x86" and FMA:
    assert multiplications(inner_loop(tiles), "ps") == UNROLL * ROWS * VECTORS
vectors = [line for line in inner_loop(tiles).splitlines() if "mm" in line]  # registers xmm, ymm, zmm
print(*vectors[:10], sep="\n")

# %% [markdown]
# ## Still right
#
# Speed is worth nothing if the numbers are others. The packed product on the real tokens of the first block, beside
# PyTorch's recording. This fc1 is a small one: 96 numbers of a token become 384.

# %%
tokens, fc1 = example.cache["backbone.blocks.0.norm2"][0], example.block["mlp"]["fc1"]
ours = aligned(len(tokens), len(fc1["weight"]))
packed(np.ascontiguousarray(tokens), pack(fc1["weight"]), ours, 0, ours.shape[1] // COLUMNS)

assert tokens.shape == (192, 96) and ours.shape == (192, 384) and ours.shape[1] % COLUMNS == 0
teach.against_reference("backbone.blocks.0.mlp.fc1", (ours + fc1["bias"])[None])

# %% [markdown]
# ## Memory or arithmetic: the roofline
#
# A layer that does few operations for each byte it moves waits for memory; one that does many is limited by the
# multipliers. Operations for each byte are its **arithmetic intensity** $I$, and
#
# $$ \text{speed} \le \min(\text{peak},\; I \cdot \text{bandwidth}) $$
#
# is the **roofline** (Williams, Waterman and Patterson 2009). The least that must move: the input and the weight read
# once, the output written once. All of it follows from shapes.

# %%
from minivitpose.config import parameter_shapes
from minivitpose.trace import activation_shapes

BLOCK_0, HEAD = "backbone.blocks.0", "keypoint_head"
layers_of = {  # the layer: what goes in, and its name
    "patch embedding": ("images", "backbone.patch_embed.proj"),
    "qkv": (f"{BLOCK_0}.norm1", f"{BLOCK_0}.attn.qkv"),
    "proj": (f"{BLOCK_0}.attn.z", f"{BLOCK_0}.attn.proj"),
    "fc1": (f"{BLOCK_0}.norm2", f"{BLOCK_0}.mlp.fc1"),
    "fc2": (f"{BLOCK_0}.mlp.act", f"{BLOCK_0}.mlp.fc2"),
    "deconv 1": ("backbone", f"{HEAD}.deconv_layers.0"),
    "deconv 2": (f"{HEAD}.deconv_layers.2", f"{HEAD}.deconv_layers.3"),
    "final layer": (f"{HEAD}.deconv_layers.5", f"{HEAD}.final_layer"),
}


def intensity(config, inside, name):
    shapes = activation_shapes(config) | {"images": (1, 3, *config.image_size)}
    numbers = [shapes[inside], parameter_shapes(config)[f"{name}.weight"], shapes[name]]
    blocks = config.depth if name.startswith(BLOCK_0) else 1
    operations = 2 * multiply_adds(config)[name.replace("blocks.0", "blocks.*")] / blocks
    return operations / (4 * sum(math.prod(shape) for shape in numbers))


intensities = {name: [intensity(c, *layer) for c in (small, base)] for name, layer in layers_of.items()}
# The others, about: operations a number, and the bytes that are read and written for it.
rest = {"layer norm": 8 / 8, "GELU": 26 / 8, "softmax": 20 / 8, "x + y": 1 / 12}
assert intensity(small, *layers_of["fc1"]) == 2 * M * K * N / (4 * (M * K + K * N + M * N))

# %%
figure = figures.canvas(900, 560, "roofline")
top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
line = np.geomspace(0.05, 400, 200)
top.plot(line, np.minimum(peak, line * bandwidth), color="black", linewidth=2)
at = intensities["fc1"][0]
for name, speed in speeds.items():
    if "two" not in name:
        top.plot(at, speed, "o", color=figures.COLOURS[1], markersize=5, alpha=0.8)
top.annotate("the ladder's rungs", (at, speeds["three loops, Numba"]), (-12, 0), textcoords="offset points", ha="right")
figures.plain(top, "", "GFLOP/s, one core", "The roofline of this machine, and where the layers stand", log=True)
names = list(intensities) + list(rest)
of_small, of_base = np.array(list(intensities.values())).T
bottom.plot(
    of_base, range(len(of_base)), "s", color=figures.COLOURS[2], label="ViTPose-B", markersize=11, fillstyle="none"
)
bottom.plot(of_small, range(len(of_small)), "o", color=figures.COLOURS[0], label="ViTPose-S", markersize=6)
bottom.plot(list(rest.values()), range(len(intensities), len(names)), "D", color="#555555", label="both, about")
for axes in (top, bottom):
    axes.axvspan(line[0], peak / bandwidth, color="#E69F00", alpha=0.15)
bottom.text(peak / bandwidth, -0.9, "memory limits  ", ha="right", fontsize=9)
bottom.text(peak / bandwidth, -0.9, "  the multipliers limit", fontsize=9)
figures.plain(bottom, "operations for each byte that must move", "")
bottom.set_yticks(range(len(names)), names, fontsize=8.5)
bottom.set(xscale="log", xlim=line[[0, -1]], ylim=(len(names) - 0.5, -1.5))
bottom.legend(frameon=True, fontsize=8.5, loc="lower right")
figure

# %% [markdown]
# The large products stand far to the right, even for a single crop: each weight that comes from memory serves 192
# tokens. Norms, GELU, softmax and additions stand on the left: what they cost is moving numbers. If their numbers are
# still in a cache, they cost little; best is never to write them down.
#
# ## Fusing: what is never written
#
# The engine "fast" joins steps. GELU is applied to a tile of fc1 before it leaves the cache, the scores of attention
# live and die in it, a residual is where the sum of a product begins, batch norm is folded into the weights of the
# transposed convolution. Which activations are left in memory? It can be asked:

# %%
fast = example.model.with_engine("fast")
layer_by_layer, fused = list(example.cache), list(fast.run_fused(example.images)[1])
print("one block, layer by layer:", *(n.removeprefix(BLOCK_0) or "(block)" for n in layer_by_layer if BLOCK_0 in n))
print("one block, fused:", *(n.removeprefix(BLOCK_0) or "(block)" for n in fused if BLOCK_0 in n))

assert set(fused) < set(layer_by_layer)

# %% [markdown]
# In megabytes, for ViTPose-B. Names that are only other views of the same numbers do not count: heads apart, and the
# output of a module that is that of its last layer.

# %%
KINDS = {"attn.scores": "attention scores", "attn.pattern": "attention pattern", "mlp.fc1": "fc1 before GELU"}
KINDS |= {"attn.proj": "what attention adds", "mlp.fc2": "what the MLP adds"}
views = re.compile(r"\.(q|k|v|attn|mlp)$|^backbone$")
kept, never = {}, {}
in_memory = {re.sub(r"\d+", "*", name) if "blocks" in name else name for name in fused}
for name, shape in activation_shapes(base).items():
    if views.search(name):
        continue
    pattern = re.sub(r"\d+", "*", name) if "blocks" in name else name
    kind = next(
        (kind for end, kind in KINDS.items() if name.endswith(end)), "head" if HEAD in name else "norms, q k v, stream"
    )
    group = kept if pattern in in_memory else never
    group[kind] = group.get(kind, 0) + 4e-6 * math.prod(shape)

# %%
figure = figures.canvas(760, 290, "fused")
axes = figure.subplots()
kinds = sorted(kept | never, key=lambda kind: -(kept.get(kind, 0) + never.get(kind, 0)))
written, saved = ([group.get(kind, 0) for kind in kinds] for group in (kept, never))
axes.barh(range(len(kinds)), written, color=figures.COLOURS[0], label="passes through memory in both")
style = {"color": figures.COLOURS[4], "hatch": "//", "edgecolor": "white"}
axes.barh(range(len(kinds)), saved, left=written, label="never written by the fused engine", **style)
figures.plain(axes, "written in one pass of ViTPose-B (MB)", "", "What fusing does not write")
axes.set_yticks(range(len(kinds)), kinds, fontsize=9)
axes.invert_yaxis()
axes.legend(frameon=False, fontsize=9, loc="lower right")
figure

# %%
total = sum(written) + sum(saved)
assert sum(saved) > 0.3 * total
teach.say(
    f"Layer by layer {total:.0f} MB, fused {sum(written):.0f} MB: "
    f"**{sum(saved) / total:.0%}** is never written, and so never read again."
)

# %% [markdown]
# And what is written goes to the same few arrays again and again, the **workspace**, so that it is still in a cache
# when the next step reads it. Layer by layer, each array is a new one.
#
# ## Three engines, one meaning
#
# ViTPose-S with random weights, one crop, one thread each: the textbook in NumPy, the same layers compiled, the fused
# engine.

# %%
from minivitpose import load
from minivitpose.parameters import random_state_dict

state = random_state_dict(parameter_shapes(small))
models = {engine: load(state, engine=engine) for engine in ("numpy", "numba", "fast")}
heatmaps = {engine: model(example.images) for engine, model in models.items()}
assert all(np.allclose(maps, heatmaps["numpy"], atol=1e-4) for maps in heatmaps.values())
race = teach.race(models, example.images)
race

# %%
rate = gflop(small) / race.seconds["fast"]
teach.say(
    f"The fused engine: {gflop(small):.1f} GFLOP at {rate:.0f} GFLOP/s, {rate / peak:.0%} of the peak of one core."
)

# %% [markdown]
# ## Where the time goes
#
# The cache of a run also holds when each activation was there. Layer by layer, engine "numba": the share of the time
# beside the share of the operations.

# %%
GROUPS = {
    "qkv, proj, fc1, fc2": r"\.(qkv|attn\.proj|fc1|fc2)$",
    "attention": r"\.(scores|pattern|z)$",
    "GELU": r"\.act$",
    "transposed convolutions": r"deconv_layers\.[03]$",
    "patch embedding": r"patch_embed\.proj$",
    "norms, relu, final layer, all else": "",
}


def shares(values):
    found = dict.fromkeys(GROUPS, 0)
    for name, value in values.items():
        found[next(group for group, pattern in GROUPS.items() if re.search(pattern, name))] += value
    return np.array(list(found.values())) / sum(values.values())


_, cache = models["numba"].run_with_cache(example.images)
time, work = shares(cache.milliseconds), shares(multiply_adds(small))
assert work[0] > 0.5 and np.isclose(time.sum(), 1) and np.isclose(work.sum(), 1)

# %%
figure = figures.canvas(800, 300, "where-time-goes")
axes = figure.subplots()
places = np.arange(len(GROUPS))
ways = {"of the time": (time, "", -0.2), "of the operations": (work, "//", 0.2)}
for color, (name, (values, hatch, up)) in zip(figures.COLOURS[::4], ways.items(), strict=False):
    bars = axes.barh(places + up, 100 * values, 0.36, color=color, hatch=hatch, edgecolor="white", label=name)
    axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=8)
figures.plain(axes, "per cent", "", "ViTPose-S, layer by layer")
axes.set_yticks(places, list(GROUPS), fontsize=9)
axes.margins(x=0.1)
axes.invert_yaxis()
axes.legend(frameon=False, fontsize=9, loc="lower right")
figure

# %% [markdown]
# Only the operations of products are counted, since nothing else comes near. So they are what to make fast first;
# after that, each time that is far above its operations is what is left to gain.
#
# ## Any number of threads, the same bits
#
# Float addition is not associative: $(a + b) + c$ and $a + (b + c)$ may differ in the last bit. If threads shared a
# sum, the result would depend on how many there are. In this package a thread owns whole sums, never a part of one.

# %%
results = {}
for threads in range(1, min(2, numba.config.NUMBA_NUM_THREADS) + 1):
    numba.set_num_threads(threads)
    results[threads] = [model(example.images) for model in (models["fast"], models["numba"])]
numba.set_num_threads(1)

assert all(np.array_equal(a, b) for maps in results.values() for a, b in zip(maps, results[1], strict=True))
assert not np.array_equal(*results[1])  # but one engine is not the other
print("the same bits with", " and ".join(map(str, results)), "threads, engines fast and numba")

# %% [markdown]
# Bit for bit equal, for both engines. The two engines are not equal to each other: their sums run in other orders.

# %%
numbers = rng.standard_normal(1000, dtype=np.float32)
orders = {"forwards": np.cumsum(numbers)[-1], "backwards": np.cumsum(numbers[::-1])[-1]}
orders |= {"NumPy's sum, in pairs": numbers.sum(), "largest last": np.cumsum(numbers[np.argsort(np.abs(numbers))])[-1]}
for name, total in orders.items():
    print(f"{name:22} {total:.7f}   bits {total.view(np.uint32):032b}")
assert len({float(total) for total in orders.values()}) > 1

# %% [markdown]
# Which order is best? A chain of $K$ additions rounds $K$ times, and each rounding stays in the sum. Many short
# chains, added up at the end, round less. Here are products of random numbers, summed in three orders, against
# float64:

# %%
lengths = 2 ** np.arange(7, 14)
factors = rng.standard_normal((300, 1), dtype=np.float32)
terms = rng.standard_normal((300, lengths[-1]), dtype=np.float32) * factors


def chain(terms):  # np.cumsum adds one after the other
    return np.cumsum(terms, axis=-1)[..., -1]


def in_pieces(terms, pieces):  # so many chains, then their sum
    return chain(chain(terms.reshape(len(terms), pieces, -1)))


ways = {"one chain": chain, "blocks of 128, as kernels/gemm.py": lambda t: in_pieces(t, t.shape[1] // BLOCK)}
ways["64 chains side by side, as kernels/linear.py"] = lambda t: in_pieces(t, 64)
errors = {}
for name, way in ways.items():
    off = [way(terms[:, :k]) - terms[:, :k].sum(axis=1, dtype=np.float64) for k in lengths]
    errors[name] = [np.sqrt(np.mean(d**2)) / np.sqrt(k) for d, k in zip(off, lengths, strict=True)]

assert errors["blocks of 128, as kernels/gemm.py"][-1] < errors["one chain"][-1] / 2
labels = ("numbers in the sum", "relative rms error")
figure = figures.lines(lengths, errors, labels, "Short chains round less", log=True, marker="o", width=760)
figure.axes[0].set_xscale("log", base=2)
figure.axes[0].tick_params(which="minor", labelsize=8, colors="#5F6368")
figure

# %% [markdown]
# So the package's fast product is also more exact than the textbook's loop. [docs/numerics.md](../docs/numerics.md)
# says how it is held to that.
#
# ## Half the bits
#
# **bfloat16** is the upper half of a float32: the same range, 8 bits of precision instead of 24. Some processors
# multiply pairs of them and add in float32, twice as many in an instruction, with half the bytes to move. What it
# costs is accuracy:

# %%
from minivitpose.kernels.simd import from_half, to_half

rounded = from_half(to_half(numbers))
worst = np.abs(rounded / numbers - 1).max()
assert worst <= 2**-8
print("a number", numbers[0], "as bfloat16", rounded[0], f"; the worst of 1000 is off by {worst:.2%}")
if HALF:
    half_model = load(state, precision="bf16")
    times = teach.race({"float32": models["fast"], "bf16": half_model}, example.images)
    print(f"this processor has it: float32 takes {times.times('float32', 'bf16'):.2f} times as long")
else:
    print("this processor has no bfloat16 products, so the package refuses precision='bf16'")

# %% [markdown]
# ## Exercise 13.1 · Guess, then measure
#
# Difficulty ●○○ · 10 minutes. The three loops can stand in six orders. You know i-j-k (with the weight as it lies, and
# transposed) and i-k-j. Guess how fast **k-i-j** and **j-k-i** are on the transposed weight, then write and race them.
#
# <details><summary>Hint 1</summary>Ask of each: along which axis of which arrays does the inner loop run? Is that a
# row or a column in memory?</details>
# <details><summary>Hint 2</summary>In k-i-j the inner loop is as in i-k-j. But how often is y read and written as a
# whole?</details>

# %% tags=["exercise"]
guess = ["...", "...", "..."]  # the fastest first

# your code


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
@njit(error_model="numpy", fastmath={"contract"})
def k_i_j(x, turned, y):
    y[:] = 0
    for k in range(len(turned)):
        for m in range(len(x)):
            a, b, row = x[m, k], turned[k], y[m]
            for n in range(len(row)):
                row[n] += a * b[n]


@njit(error_model="numpy", fastmath={"contract"})
def j_k_i(x, turned, y):
    y[:] = 0
    for n in range(y.shape[1]):
        for k in range(len(turned)):
            for m in range(len(x)):
                y[m, n] += x[m, k] * turned[k, n]


orders = {"i-k-j": i_k_j, "k-i-j": k_i_j, "j-k-i": j_k_i}
narrow, result = turned[:, :384].copy(), np.zeros((M, 384), np.float32)  # a quarter: one of them is slow
for function in orders.values():
    function(x, narrow, result)
    assert np.abs(result - truth[:, :384]).max() < 1e-5 * np.abs(truth).max()
print(teach.race(orders, x, narrow, result, seconds=0.2))
### END SOLUTION

# %% [markdown]
# ## Exercise 13.2 · A blocked product that is right
#
# Difficulty ●●● · 20 minutes. Write `linear(x, weight, bias)` around a compiled loop of your own that works in blocks.
# It must take any shape `(..., Cin)`, float32 and float64, no bias, and arrays that are not contiguous; `teach.check`
# tries all of that.
#
# <details><summary>Hint 1</summary>Outside the loop: <code>np.ascontiguousarray</code>, <code>reshape(-1, Cin)</code>,
# and at the end <code>reshape(*x.shape[:-1], Cout)</code>.</details>
# <details><summary>Hint 2</summary>The last block may be smaller: <code>min(k0 + depth, K)</code>.</details>
# <details><summary>Hint 3</summary>Begin from the bias instead of zeros, and it costs nothing.</details>


# %% tags=["exercise"]
def blocked_linear(x, weight, bias): ...  # your code


teach.check("linear", blocked_linear)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
@njit(error_model="numpy", fastmath={"contract"})
def add_blocks(x, turned, y, depth, width):
    K, N = turned.shape
    for n0 in range(0, N, width):
        n1 = min(n0 + width, N)
        for k0 in range(0, K, depth):
            for m in range(len(x)):
                row = y[m, n0:n1]
                for k in range(k0, min(k0 + depth, K)):
                    a, b = x[m, k], turned[k, n0:n1]
                    for n in range(len(row)):
                        row[n] += a * b[n]


def blocked_linear(x, weight, bias):
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    y = np.zeros((len(rows), len(weight)), x.dtype)
    if bias is not None:
        y += bias
    add_blocks(rows, np.ascontiguousarray(weight.T), y, 8, 768)
    return y.reshape(*x.shape[:-1], len(weight))


### END SOLUTION
teach.check("linear", blocked_linear)

# %% [markdown]
# ## Exercise 13.3 · The intensity of attention
#
# Difficulty ●●○ · 15 minutes. One head of ViTPose-B: q, k and v are 192 x 64. Compute operations for each byte twice:
# step by step, where the scores and the pattern are written and read again, and fused, where only q, k, v are read and
# the result is written. On which side of this machine's corner does each stand?
#
# <details><summary>Hint 1</summary>Two products of 192 x 192 x 64 multiply-adds each; leave softmax's operations
# out.</details>
# <details><summary>Hint 2</summary>Step by step: q, k in, scores out; scores in, pattern out; pattern, v in, result
# out.</details>

# %% tags=["exercise"]
tokens_of_base, d = 192, base.head_dim

# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
tokens_of_base, d = 192, base.head_dim
operations = 2 * 2 * tokens_of_base**2 * d
square, head = tokens_of_base**2, tokens_of_base * d
intensity_of = {
    "step by step": operations / (4 * (4 * square + 4 * head)),
    "fused": operations / (4 * 4 * head),
}
for name, value in intensity_of.items():
    print(f"{name:>13}: {value:.1f} operations a byte; the corner is at {peak / bandwidth:.1f}")
assert intensity_of["fused"] == tokens_of_base / 4
### END SOLUTION

# %% [markdown]
# ## Exercise 13.4 · Another tile
#
# Difficulty ●●○ · 15 minutes. A tile of $r$ rows and $v$ vectors needs $rv$ registers for the sums, $v$ for the weight
# and 1 for the number of $x$. It loads $r + v$ times for $rv$ multiply-adds. Which tile that fits has the fewest loads
# for a multiply-add, with 16 and with 32 registers? The package took 6 x 2 and 6 x 4. Why not your winner?
#
# <details><summary>Hint</summary>Think of 192 tokens, of widths 384, 768 and 1024, and of maps that are 12, 24 and 48
# wide.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
for registers in (16, 32):
    fits = [(r, v) for r in range(1, 32) for v in range(1, 32) if r * v + v + 1 <= registers]
    for r, v in sorted(fits, key=lambda tile: (tile[0] + tile[1]) / (tile[0] * tile[1]))[:3]:
        print(f"{registers} registers: {r} x {v}, {(r + v) / (r * v):.3f} loads for a multiply-add")
print(f"the package's: 6 x 2 has {8 / 12:.3f}, 6 x 4 has {10 / 24:.3f}; 1 is enough where loads are as fast as FMAs")
print("6 rows divide 192 tokens and maps 12, 24 and 48 wide; 2 or 4 vectors divide the widths of ViTPose-S to H:")
print("no tile is half empty there. The bundled model is 96 wide: one and a half tiles of 4 vectors of 16")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - [docs/performance.md](../docs/performance.md): the ladder with twelve rungs, why each is faster, and what did not
#   help.
# - `minivitpose/kernels/micro_kernel.py` and `gemm.py`: the tile and the product around it.
#   `kernels/fused/forward.py`: a whole pass on one page. `kernels/crew.py`: the threads.
# - Williams, Waterman, Patterson: Roofline (2009). Goto and van de Geijn: Anatomy of high-performance matrix
#   multiplication (2008), where packed panels come from.
# - Next: [14 · How it learns](14_learning.ipynb).
