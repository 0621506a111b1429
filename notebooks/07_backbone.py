# %% [markdown]
# # 07 · The backbone, layer by layer against PyTorch
#
# **After this notebook you can** assemble ViTPose's backbone from its layers; walk through all its activations in the
# order of execution and compare each with PyTorch's; say how large a rounding error may be, and why "closer than
# 1e-4" is no test.
#
# 35 minutes to read, 55 for the exercises. Needs: the transformer block ([06](06_block.ipynb)). Nothing is downloaded.

# %%
import math
import zlib
from importlib.util import find_spec

import numba
import numpy as np
from IPython.display import HTML, display

import minivitpose as mvp
from minivitpose import kernels, layers, teach
from minivitpose.teach import figures

example = teach.example()
config, images, reference = example.model.config, example.images, example.reference

assert (config.depth, config.num_heads, config.embed_dim) == (8, 3, 96) and images.shape == (1, 3, 256, 192)
config.describe()

# %% [markdown]
# ## Why
#
# A network with a mistake in it still gives heatmaps, and often good ones: it was trained to live with much. So a
# good picture proves little. Here is the crop's heatmap from the right network and from one whose layer norms divide
# by the wrong standard deviation, that of the statisticians, with $C - 1$. Which is which?


# %%
def norm_with_a_mistake(x, weight, bias, eps=1e-6):
    C = x.shape[-1]
    return layers.layer_norm(x, weight * np.float32(math.sqrt((C - 1) / C)), bias, eps)


x, p = example.cache["backbone.blocks.7"], example.params["backbone"]["last_norm"]
tokens = norm_with_a_mistake(x, **p)
wrong = layers.keypoint_head(layers.to_map(tokens, config.grid), **example.params["keypoint_head"])
figures.over_crop(example.crop, [wrong[0].max(0), example.heatmaps[0].max(0)], ["A", "B"], columns=2, height=260)

# %% [markdown]
# A is wrong. Nobody sees it. What finds such a mistake is a comparison of **every** intermediate array with those of
# a program that is trusted, one after the other, from the image on. The first array that is off tells where the
# mistake is.
#
# ## The backbone in one function
#
# All parts are there: patches ([01](01_patches.ipynb)), positions ([02](02_positions.ipynb)), norm, attention and MLP
# in a block ([03](03_layer_norm.ipynb) to [06](06_block.ipynb)). `tap(name, array)` is called with every intermediate
# array and returns the array to go on with; `below` puts the block's name before the names in it. `ops` is the module
# with the layers: `layers` (NumPy) or `kernels` (compiled).


# %%
def backbone(images, p, num_heads, ops=layers, tap=layers.keep):
    """(B, 3, H, W) -> (B, C, Hp, Wp)"""
    x = tap("backbone.patch_embed.proj", ops.patch_embed(images, **p["patch_embed"]["proj"]))
    grid = x.shape[2:]
    x = tap("backbone.pos", ops.add_positions(ops.to_tokens(x), p["pos_embed"]))
    for i, block in p["blocks"].items():
        name = f"backbone.blocks.{i}"
        x = tap(name, ops.block(x, block, num_heads, tap=layers.below(tap, name)))
    x = tap("backbone.last_norm", ops.layer_norm(x, **p["last_norm"]))
    return tap("backbone", ops.to_map(x, grid))


# %% [markdown]
# A tap that keeps everything makes a cache: a dict in the order of execution. The head ([08](08_decoder.ipynb)) is
# called as it is, so that the walk ends at the heatmaps.


# %%
def run(ops):
    cache = {}

    def keep(name, x):
        cache[name] = x
        return x

    x = backbone(images, example.params["backbone"], config.num_heads, ops, keep)
    head_tap = layers.below(keep, "keypoint_head")
    head_tap("final_layer", ops.keypoint_head(x, **example.params["keypoint_head"], tap=head_tap))
    return cache


caches = {"NumPy": run(layers), "Numba": run(kernels)}
assert all(list(cache) == list(reference) for cache in caches.values()) and len(reference) == 147
assert np.array_equal(caches["NumPy"]["backbone"], example.cache["backbone"])

# %% [markdown]
# `model.py` of the package is this function with the head behind it, so the last line finds the same numbers. 147
# arrays have a name: 2 before the blocks, 17 in each of the 8 blocks, 2 after them and 7 in the head. The first ones:

# %%
first = list(reference)[: 2 + 17]
assert first[-1] == "backbone.blocks.0"
table = "".join(f"| `{name}` | {caches['NumPy'][name].shape} |\n" for name in first)
teach.say("| activation | shape |\n|---|---|\n" + table)

# %% [markdown]
# What the tokens look like on their way: the size (root of the mean square) of each token's 96 numbers, after the
# positions, after each block and after the last norm. Every block adds to the residual stream, so tokens may grow
# from block to block. The last norm takes the differences of size away; its learnt weight and bias then make new ones.

# %%
stream = ["backbone.pos", *(f"backbone.blocks.{i}" for i in range(config.depth)), "backbone.last_norm"]
sizes = [np.sqrt((caches["NumPy"][name][0] ** 2).mean(-1)) for name in stream]
figures.over_crop(example.crop, sizes, [name.removeprefix("backbone.") for name in stream], columns=5, height=250)

# %% [markdown]
# ## Against PyTorch
#
# The package has a recording of PyTorch's own ViTPose with the same weights on the same crop: 1024 numbers of each
# activation, the error of PyTorch against the same network in float64, and a signed sum over the whole array.
# `compare` walks in the order of execution and stops at the first activation that is off.

# %%
report = mvp.compare(caches["Numba"], reference)
assert report.total == 147 and report.hidden == 0
display(HTML(f'<div style="max-height:30em;overflow:auto">{report._repr_html_()}</div>'))

# %% [markdown]
# How to read a row: *chain* means that the array was computed from the image on, by our code alone. *error* is the
# largest distance from the float64 truth, *relative* the same as a part of the largest value, and *% of tol.* how
# much of the tolerance is used. The last columns show the worst element: where it is, our number, PyTorch's. The
# digits agree up to the sixth or seventh and no further. What follows is about that end.
#
# ## What rounding is
#
# A float32 has 24 binary digits and an exponent: $\pm\, 1.b_1 b_2 \ldots b_{23} \times 2^e$. The gap from one number
# to the next is $2^{e-23}$, one **unit in the last place** (ulp). Numbers are dense near zero and thin out with their
# size. With 3 digits instead of 24 one can draw all of them:

# %%
assert np.spacing(np.float32(1)) == 2.0**-23 and np.spacing(np.float32(1000)) == 2.0 ** (9 - 23)
assert np.float32(2**24) + np.float32(1) == np.float32(2**24)  # the gap there is 2: adding 1 changes nothing

toy = [significand * 2.0**e for e in range(-2, 3) for significand in (1, 1.25, 1.5, 1.75)] + [8]
figure = teach.canvas(760, 130, "toy-floats")
axes = figure.subplots()
axes.vlines(toy, 0, 1, color=figures.COLOURS[0], linewidth=1.5)
axes.vlines(2.0 ** np.arange(-2, 4), -0.3, 1, color=figures.COLOURS[1], linewidth=2.5)
figures.plain(axes, "value", title="All numbers with 3 binary digits from 1/4 to 8 (thick: powers of two)")
axes.set(yticks=[], xlim=(0, 8.1))
axes.spines["left"].set_visible(False)
figure

# %% [markdown]
# Every multiplication and every addition is computed exactly and then moved to the nearest such number: an error of
# at most half a gap. A sum of 384 products is rounded nearly 800 times.
#
# ## The order of summation changes the bits
#
# One output of the network: channel 5 of the second layer of block 0's MLP for token 100, a sum of 384 products.
# `math.fsum` adds without rounding, so the true sum of the 384 numbers is known. Here they are added in float32, in
# six orders:

# %%
act, fc2 = caches["NumPy"]["backbone.blocks.0.mlp.act"][0], example.block["mlp"]["fc2"]["weight"]
terms = act[100] * fc2[5]
true = math.fsum(terms.astype(np.float64))
assert terms.shape == (384,) and terms.dtype == np.float32


def one_by_one(terms):
    return np.add.accumulate(terms, axis=-1)[..., -1]


def pairwise(terms):
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        left = terms[..., 2 * half :]  # of an odd number one has no partner
        terms = np.concatenate([terms[..., :half] + terms[..., half : 2 * half], left], axis=-1)
    return terms[..., 0]


orders = {
    "first to last": one_by_one,
    "last to first": lambda t: one_by_one(t[..., ::-1]),
    "small ones first": lambda t: one_by_one(np.take_along_axis(t, np.abs(t).argsort(-1), -1)),
    "16 sums side by side": lambda t: one_by_one(one_by_one(t.reshape(*t.shape[:-1], -1, 16).swapaxes(-1, -2))),
    "in pairs": pairwise,
    "in float64, rounded once": lambda t: t.astype(np.float64).sum(-1).astype(np.float32),
}
table = "| order | sum | bits | error, ulp |\n|---|---|---|---|\n"
for name, add in orders.items():
    y = np.float32(add(terms))
    table += f"| {name} | {y:.9g} | `{y.view(np.uint32):032b}` | {(y - true) / np.spacing(abs(y)):+.2f} |\n"
teach.say(table)

# %% [markdown]
# All are right to about seven digits, and they need not agree. One sum may be lucky, so here is the mean error of
# 2,304 of them: 24 tokens times 96 channels. A unit is $2^{-23}$ of their typical size.

# %%
some = act[::8, None, :] * fc2
exact = some.sum(-1, dtype=np.float64)
products = act[::8].astype(np.float64) @ fc2.T.astype(np.float64)


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


found = {name: rms(add(some) - exact) / (rms(exact) * 2**-23) for name, add in orders.items()}
found["act @ fc2.T (this machine's BLAS)"] = rms(act[::8] @ fc2.T - products) / (rms(products) * 2**-23)
assert found["in pairs"] < found["first to last"]
figures.bars(found, "root mean square error, units in the last place", "The same sums in different orders")

# %% [markdown]
# A long chain carries one running sum that grows, and every step rounds it. Several shorter chains, added at the end,
# round smaller numbers and fewer times each. A vector register adds 4, 8 or 16 numbers at once. A kernel that gives all
# of them to one sum is faster **and** closer to the truth. One that gives each an output of its own is as fast, but
# every sum still runs from first to last. The last bar tells which way this machine's BLAS goes. How the error grows
# with the length:

# %%
lengths = 2 ** np.arange(4, 14)
random = np.random.default_rng(7)
grown = {"first to last": [], "in pairs": []}
for n in lengths:
    numbers = random.standard_normal((200, n), dtype=np.float32)
    truth = numbers.sum(-1, dtype=np.float64)
    for name, add in (("first to last", one_by_one), ("in pairs", pairwise)):
        grown[name].append(rms(add(numbers) - truth) / (rms(truth) * 2**-23))
assert grown["first to last"][-1] > 3 * grown["in pairs"][-1]

figure = figures.lines(
    lengths, grown, ("length of the sum", "rms error, units in the last place"), "Long chains round more", marker="o"
)
figure.axes[0].set_xscale("log", base=2)
figure.axes[0].set_yscale("log")
figure

# %% [markdown]
# ## The error along the network
#
# The truth: the same network in float64, where all of this happens 29 binary digits further down. Is it the true one?
# PyTorch's float64 run says so, to the 11th digit of the largest value:

# %%
exact_model = example.model.astype("float64")
_, exact = exact_model.run_with_cache(images.astype(np.float64))
report64 = mvp.compare(exact, reference)
assert report64.ok and max(row.chain.relative for row in report64.rows) < 1e-11
teach.say("<br>".join(report64.verdict()))

# %% [markdown]
# With it the error of each float32 run has a size, for every activation. PyTorch's own was measured over whole arrays
# when it was recorded and stands in `reference.facts`.

# %%
units = {name: rms(x) * 2**-23 for name, x in exact.items()}
errors = {"PyTorch": {name: reference.facts[name].rms / units[name] for name in exact}}
errors |= {who: {name: rms(c[name] - exact[name]) / units[name] for name in exact} for who, c in caches.items()}


def stations(axes, names):
    """Marks and names the stations of the network along the x axis."""
    starts = [i for i, name in enumerate(names) if name.endswith(("norm1", "last_norm", "deconv_layers.0"))]
    for start in starts:
        axes.axvline(start - 0.5, color="#999999", linewidth=0.6)
    middle = (np.array([0, *starts]) + np.array([*starts, len(names)]) - 1) / 2
    labels = ["patches", *(f"block {i}" for i in range(len(starts) - 2)), "", "head"]
    axes.set_xticks(middle, labels, fontsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-1, len(names))


figure = figures.lines(
    range(len(exact)),
    {who: list(error.values()) for who, error in errors.items()},
    ("", "rms error, units in the last place"),
    "The rounding error of each activation, from the image on",
    height=380,
    width=900,
)
stations(figure.axes[0], list(exact))
figure.axes[0].set_ylim(0)
figure

# %%
worst = {who: max(error.values()) for who, error in errors.items()}
ratio = {who: max(error[n] / errors["PyTorch"][n] for n in error) for who, error in errors.items()}
digits = math.floor(24 - math.log2(max(worst.values())))
teach.say(
    "".join(f"{who}: at most {worst[who]:.1f} units, at most {ratio[who]:.2f} times PyTorch's.  \n" for who in errors)
    + f"Of the 24 binary digits of a typical number {digits} or more are right everywhere."
)

# %% [markdown]
# The error does not pile up without end: each layer adds its own, and sums over many channels average what came in.
# The patch embedding starts high; exercise 7.3 asks why. `attn.pattern` often stands out: the exponential in softmax
# turns an absolute error of a score into a relative error of a weight.
#
# ## Why a fixed tolerance is no test
#
# A usual test is `np.allclose(ours, theirs, atol=1e-4)`. A head as it is before training, with weights of about 0.001
# as ViTPose begins with, gives heatmaps far smaller than that. Then zeros pass:

# %%
random = np.random.default_rng(0)
untrained = {}
for layer, p in example.params["keypoint_head"]["deconv_layers"].items():
    one, zero = np.ones(len(p["weight"])), np.zeros(len(p["weight"]))
    fresh = dict(weight=one, bias=zero, running_mean=zero, running_var=one)
    small = dict(weight=random.normal(0, 1e-3, p["weight"].shape))
    untrained[layer] = fresh if "running_mean" in p else small
final = dict(weight=random.normal(0, 1e-3, (17, 32, 1, 1)), bias=np.zeros(17))
heatmaps = layers.keypoint_head(exact["backbone"], final, untrained)

assert np.allclose(np.zeros_like(heatmaps), heatmaps, atol=1e-4)
teach.say(
    f"The largest value is {np.abs(heatmaps).max():.1e}, and `np.allclose(zeros, heatmaps, atol=1e-4)` is **True**."
)

# %% [markdown]
# Where numbers have a usual size, 1e-4 is still too wide. A mistake as people make it: somebody types the attention's
# scale $1 / \sqrt{32} = 0.17677669...$ with six digits, 0.176776. For each activation, the largest error that comes
# of it, and the largest rounding error of PyTorch itself:

# %%
typed = mvp.load("mini", "numpy", qk_scale=0.176776)
_, spoilt = typed.run_with_cache(images)
mistake = {name: float(np.abs(spoilt[name] - exact[name]).max()) for name in exact}
rounding = {name: reference.facts[name].error for name in exact}
curves = {"with the mistake": list(mistake.values()), "PyTorch's own rounding": list(rounding.values())}
curves["the fixed tolerance"] = [1e-4] * len(exact)
title = "The fixed tolerance against what rounding and a mistake really are"
figure = figures.lines(range(len(exact)), curves, ("", "largest error"), title, log=True, width=900)
stations(figure.axes[0], list(exact))
figure

# %%
passed = sum(mistake[name] < 1e-4 for name in exact)
report = mvp.compare(spoilt, reference)
assert report.first_divergence.name == "backbone.blocks.0.attn.scores"
teach.say(f"The fixed tolerance lets {passed} of {len(exact)} activations pass. `compare` stops where the mistake is:")
teach.say("<br>".join(report.verdict()))

# %% [markdown]
# ## What this project does instead
#
# Two right programs differ, so "equal to PyTorch" cannot be asked. But each has a distance from the truth, and
# PyTorch's is known. The rule, in `compare.py`:
#
# > The error of an activation against the float64 truth is at most **1.5 times** PyTorch's own float32 error.
#
# *Error* is the root mean square over the array. The largest single error depends on luck, so it has three times as
# much room. The tolerance follows the data: it is small where PyTorch is exact, and wide where the formula itself
# loses digits. `docs/numerics.md` says more.

# %%
from minivitpose.compare import FACTOR, PEAK

assert FACTOR["chain"] == 1.5 and PEAK == 3
print(
    f"rms: {FACTOR['chain']} times PyTorch's in the chain, {FACTOR['alone']} times alone; largest: {PEAK} times as much"
)

# %% [markdown]
# ## The same bits for any number of threads
#
# If two threads share one sum, its order depends on who is first, and the last bits change from run to run. Here
# every thread owns whole outputs, and no sum is split. So a fingerprint of the heatmaps does not depend on the number
# of threads:

# %%
compiled = example.model.with_engine("numba")
most = numba.config.NUMBA_NUM_THREADS
fingerprints = {}
for threads in sorted({1, min(2, most), min(3, most), most}):
    numba.set_num_threads(threads)
    fingerprints[threads] = [f"{zlib.crc32(compiled(images).tobytes()):08x}" for _ in range(2)]
numba.set_num_threads(most)
assert len({fingerprint for two in fingerprints.values() for fingerprint in two}) == 1
for threads, two in fingerprints.items():
    print(f"{threads} thread{'s' * (threads > 1)}, two runs:", *two)

# %% [markdown]
# ## Live, if PyTorch is installed
#
# With PyTorch at hand nothing needs to be bundled: `reference.twin` makes the PyTorch model with the same weights,
# and `reference.record` hangs hooks on it, runs it in float32 and in float64, and keeps whole arrays. Then every
# layer can also be checked **alone**, fed PyTorch's own input, so that no error comes from the layers before.

# %%
if find_spec("torch"):
    from minivitpose.reference import record, twin

    live = record(twin(example.model), images)
    teach.say("<br>".join(mvp.compare(compiled.run_with_cache(images)[1], live).verdict()))
else:
    print("PyTorch is not installed here; the bundled recording above was made by these very calls.")

# %% [markdown]
# ## The same function at other sizes
#
# Nothing in `backbone` knows the number of channels, blocks or tokens: the weights say it. The public models are the
# same code with other numbers:

# %%
from minivitpose.bench.machine import gflop, multiply_adds
from minivitpose.config import VARIANTS, parameter_shapes, variant_config
from minivitpose.parameters import is_learnt

variants = {name: variant_config(name) for name in VARIANTS}
learnt = {
    name: sum(math.prod(shape) for key, shape in parameter_shapes(c).items() if is_learnt(key))
    for name, c in variants.items()
}
assert learnt["B"] == 89_994_513 and round(gflop(variants["B"])) == 37

table = (
    "| variant | channels C | blocks | heads | of dim | parameters | GFLOP a crop |\n|---|---|---|---|---|---|---|\n"
)
for name, c in variants.items():
    sizes = f"{c.embed_dim} | {c.depth} | {c.num_heads} | {c.head_dim} | {learnt[name]:,}"
    table += f"| {name} | {sizes} | {gflop(c):.1f} |\n"
teach.say(table)

# %% [markdown]
# Where does the arithmetic go? A block multiplies $12\,N C^2$ times in its four linear layers and $2\,N^2 C$ times in
# the attention itself ($q k^T$, and pattern times $v$). So with many tokens the attention wins, and with many
# channels the linear layers. A crop has $N = 192$ tokens, far on the left:

# %%
counts = multiply_adds(variants["B"])
N, C, depth = 192, 768, 12
assert counts["backbone.blocks.*.attn.scores"] == depth * N * N * C
assert sum(n for name, n in counts.items() if ".blocks." in name) == depth * (12 * N * C**2 + 2 * N**2 * C)

tokens = 192 * 2.0 ** np.arange(-1, 7, 0.25)
shares = {f"ViTPose-{n}, C = {variants[n].embed_dim}": tokens / (6 * variants[n].embed_dim + tokens) for n in "SBLH"}
figure = figures.lines(
    tokens, shares, ("tokens N", "share of a block's arithmetic"), "The part that grows with N squared"
)
figure.axes[0].set_xscale("log")
figure.axes[0].axvline(192, color="#999999", linewidth=1)
figure.axes[0].annotate("a 256 x 192 crop", (192, 0.8), (5, 0), textcoords="offset points", fontsize=8.5)
figure

# %% [markdown]
# ## Exercise 7.1 · A block, head by head
#
# Difficulty ●●● · 15 minutes. Write `block(x, p, num_heads)` with NumPy alone, without the functions of `layers`, and
# in a form in which no array has an axis for the heads: loop over the heads, and let **each head add its own part to
# the residual stream**. Head $j$ uses rows of `qkv` to make its own $q, k, v$, and columns of `proj` to write its
# result. `p` is `{norm1, attn {qkv, proj}, norm2, mlp {fc1, fc2}}`, each with `weight` and `bias`; eps is $10^{-6}$.
#
# <details><summary>Hint 1</summary>With <code>d = C // num_heads</code>, head j has the rows <code>j * d : (j + 1) *
# d</code> of q's part of the weight, the same of k's part, which begins at row C, and of v's, at row 2 C.</details>
# <details><summary>Hint 2</summary><code>z @ W.T</code> with z = [z_0, z_1, ...] side by side is the sum over j of
# <code>z_j @ W[:, j * d : (j + 1) * d].T</code>. The bias of proj is added once.</details>
# <details><summary>Hint 3</summary>NumPy has no erf: <code>np.vectorize(math.erf, otypes=[float])</code> makes one,
# and <code>.astype(x.dtype)</code> keeps float32 what was float32.</details>


# %% tags=["exercise"]
def block(x, p, num_heads): ...  # your code


teach.check("block", block)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def head(y, qkv, rows):
    """What one head gathers. y (B, N, C), rows: which rows of each of q, k and v are its own -> (B, N, d)."""
    C = len(qkv["weight"]) // 3
    q, k, v = (y @ qkv["weight"][i * C :][rows].T + qkv["bias"][i * C :][rows] for i in range(3))
    scores = q * (rows.stop - rows.start) ** -0.5 @ k.swapaxes(-1, -2)
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    return pattern / pattern.sum(-1, keepdims=True) @ v


def block(x, p, num_heads):
    y, d = norm(x, **p["norm1"]), x.shape[-1] // num_heads
    x = x + p["attn"]["proj"]["bias"]
    for j in range(num_heads):
        rows = slice(j * d, (j + 1) * d)
        x = x + head(y, p["attn"]["qkv"], rows) @ p["attn"]["proj"]["weight"][:, rows].T
    fc1, fc2 = p["mlp"]["fc1"], p["mlp"]["fc2"]
    hidden = norm(x, **p["norm2"]) @ fc1["weight"].T + fc1["bias"]
    erf = np.vectorize(math.erf, otypes=[float])(hidden / math.sqrt(2)).astype(x.dtype)
    return x + (0.5 * hidden * (1 + erf)) @ fc2["weight"].T + fc2["bias"]


### END SOLUTION
teach.check("block", block)

# %% [markdown]
# ## Exercise 7.2 · A shallower backbone
#
# Difficulty ●○○ · 10 minutes. Run only the first two blocks, and compare what comes out of them with the recording.
# Then let the head look at the tokens after 0, 1, 2 and so on up to 8 blocks (with the last norm between): when do the
# joints appear?
#
# <details><summary>Hint 1</summary>A backbone with fewer blocks is the same function with fewer parameters: give it a
# copy of <code>p</code> with another <code>"blocks"</code>.</details>
# <details><summary>Hint 2</summary>The tokens after block 1 are kept by a tap, or stand in
# <code>example.cache</code>. The head is <code>layers.keypoint_head(map,
# **example.params["keypoint_head"])</code>.</details>

# %% tags=["exercise"]
tokens = None  # your code: the tokens after two blocks, (1, 192, 96)

"not yet" if tokens is None else teach.against_reference("backbone.blocks.1", tokens)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def shallow(depth, tap=layers.keep):
    p = dict(example.params["backbone"])
    p["blocks"] = {i: block for i, block in p["blocks"].items() if int(i) < depth}
    return backbone(images, p, config.num_heads, tap=tap)


kept = {}
shallow(2, lambda name, x: kept.setdefault(name, x))
display(teach.against_reference("backbone.blocks.1", kept["backbone.blocks.1"]))

maps = [layers.keypoint_head(shallow(depth), **example.params["keypoint_head"])[0].max(0) for depth in range(9)]
display(figures.over_crop(example.crop, maps, [f"after {depth} blocks" for depth in range(9)], columns=5, height=230))
### END SOLUTION

# %% [markdown]
# ## Exercise 7.3 · Who rounds worst?
#
# Difficulty ●●○ · 15 minutes. The curve above mixes what a layer rounds itself with what came in from before.
# Separate the two: feed every layer the **same** input in float32 and in float64, and show which layers round worst.
# Why those?
#
# <details><summary>Hint 1</summary><code>model.run_with_cache(images, replace=inputs)</code> notes what each layer
# computed and then goes on with <code>inputs[name]</code>. As inputs take the true activations, rounded to
# float32.</details>
# <details><summary>Hint 2</summary>Do it twice, with <code>example.model</code> and with <code>exact_model</code>,
# which wants the same inputs as float64.</details>
# <details><summary>Hint 3</summary>How many products does each of them add up, and how large are they beside their
# sum?</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
inputs = {name: x.astype(np.float32) for name, x in exact.items()}
_, ours = example.model.run_with_cache(images, replace=inputs)
widened = {name: x.astype(np.float64) for name, x in inputs.items()}
_, theirs = exact_model.run_with_cache(images.astype(np.float64), replace=widened)
alone = {name: rms(ours[name] - theirs[name]) / units[name] for name in exact}

kinds = ["patch_embed.proj", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "attn.scores", "norm1", "mlp.act"]
shown = {kind: rms([e for name, e in alone.items() if name.endswith(kind)]) for kind in kinds}
unit = "rms error of the layer alone, units in the last place"
display(figures.bars(shown, unit, "Long sums round worst"))


def cancelling(f, x, p, y):
    """How many times as large the terms are together as the sum that is left of them."""
    return rms(f(np.abs(inputs[x]) if x in inputs else np.abs(images), np.abs(p["weight"]))) / rms(exact[y])


block0, at = example.block, "backbone.blocks.0"
patches = example.params["backbone"]["patch_embed"]["proj"]
rows = {
    "patch_embed.proj": (768, cancelling(layers.patch_embed, "", patches, "backbone.patch_embed.proj")),
    "attn.qkv": (96, cancelling(layers.linear, f"{at}.norm1", block0["attn"]["qkv"], f"{at}.attn.qkv")),
    "mlp.fc2": (384, cancelling(layers.linear, f"{at}.mlp.act", block0["mlp"]["fc2"], f"{at}.mlp.fc2")),
}
table = "".join(f"| `{name}` | {n} | {times:.1f} |\n" for name, (n, times) in rows.items())
teach.say("| layer | terms of a sum | terms together / what is left |\n|---|---|---|\n" + table)
teach.say(
    "Two things count: how many terms a sum has, and how much of them cancels. Neighbouring pixels are alike, so the "
    "terms of the patch embedding are large beside their sum, and there are most of them. `norm1` and `mlp.act` have "
    "short chains or none. `q`, `k`, `v` and `attn` are copies and round not at all."
)
### END SOLUTION

# %% [markdown]
# ## Exercise 7.4 · A better sum
#
# Difficulty ●●○ · 10 minutes. Kahan's sum keeps what each addition loses in a second number and puts it back in the
# next step. Write `careful(terms)` for `terms` (..., n) in float32, using float32 alone, so that the mean error of
# the sums above is below one unit.
#
# <details><summary>Hint 1</summary>After <code>new = total + x</code> the number <code>(new - total) - x</code> is
# what was added too much. In exact arithmetic it is 0, in float32 it is the rounding error itself.</details>
# <details><summary>Hint 2</summary>Take it off the next term before that is added.</details>


# %% tags=["exercise"]
def careful(terms): ...  # your code


def check_careful(function):
    sums = function(some)
    if sums is None:
        return "not yet: nothing was returned"
    assert sums.shape == (24, 96) and sums.dtype == np.float32, "expected float32 (24, 96)"
    true = some.sum(-1, dtype=np.float64)
    error, plain = (rms(y - true) / (rms(true) * 2**-23) for y in (sums, one_by_one(some)))
    return f"{'right' if error < 1 else 'not yet'}: {error:.2f} units; one by one it is {plain:.2f}"


check_careful(careful)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def careful(terms):
    total = too_much = np.zeros(terms.shape[:-1], np.float32)
    for i in range(terms.shape[-1]):
        x = terms[..., i] - too_much
        new = total + x
        too_much = (new - total) - x
        total = new
    return total


### END SOLUTION
check_careful(careful)

# %% [markdown]
# ## Exercise 7.5 · A larger crop
#
# Difficulty ●○○ · 5 minutes. ViTPose-B is to look at crops of 512 x 384 instead of 256 x 192 pixels. How many tokens
# are that? By which factor does the arithmetic of the blocks grow? By which factor the memory of one attention
# pattern?
#
# <details><summary>Hint</summary>Each side has twice as many patches.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
large = multiply_adds(variant_config("B", image_size=(512, 384)))
blocks = [sum(n for name, n in c.items() if ".blocks." in name) for c in (counts, large)]
print(f"{(512 // 16) * (384 // 16)} tokens, 4 times as many")
print(f"the blocks' arithmetic grows {blocks[1] / blocks[0]:.2f} times: a little more than 4")
print("the pattern grows 16 times: its size is heads x N x N")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/model.py`, the network in one page; `compare.py` and `docs/numerics.md`, the rule and how tight it
#   is.
# - `minivitpose/reference.py`: the PyTorch twin and its hooks.
# - Goldberg: What every computer scientist should know about floating-point arithmetic (1991). Higham: Accuracy and
#   stability of numerical algorithms, chapter 4 on sums.
# - Dosovitskiy et al. 2021 (ViT) and Xu et al. 2022 (ViTPose) for the sizes.
# - Next: [08 · The decoder](08_decoder.ipynb). How to hunt a mistake with these tools: [12](12_find_the_bug.ipynb).
