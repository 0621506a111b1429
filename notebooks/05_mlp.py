# %% [markdown]
# # 05 · The MLP
#
# **After this notebook you can** say what the MLP does to a token; compute GELU, and say why it needs `erf` and how
# `erf` is computed; look at what hidden neurons respond to; and count how much of a block the MLP is.
#
# 40 minutes to read, 33 for the exercises. Needs: layer norm ([03](03_layer_norm.ipynb)) and attention
# ([04](04_attention.ipynb)). Nothing is downloaded.

# %%
import importlib.util
import inspect
import math

import numba
import numpy as np

from minivitpose import compare, kernels, layers, teach
from minivitpose.config import VARIANTS
from minivitpose.kernels import vecmath
from minivitpose.kernels.simd import LANES, aligned, load, store
from minivitpose.model import forward
from minivitpose.pose.decode import cells_to_crop, decode_argmax, refine
from minivitpose.teach import figures

example = teach.example()
x = example.cache["backbone.blocks.0.norm2"]  # (1, 192, 96): the tokens as the first block's MLP reads them
fc1, fc2 = example.block["mlp"]["fc1"], example.block["mlp"]["fc2"]

assert x.shape == (1, 192, 96)
x.shape, fc1["weight"].shape, fc1["bias"].shape, fc2["weight"].shape, fc2["bias"].shape

# %% [markdown]
# ## Each token alone
#
# In attention the tokens exchange what they know. In the MLP each token works on what it has. To see it, change one
# token, the one at the left wrist, and look at which tokens come out different.

# %%
token = example.token_of("left_wrist")
changed = x.copy()
changed[0, token] *= -1


def effect(layer):
    """How far each token's result is from what it was: (192,)."""
    return np.abs(layer(changed) - layer(x))[0].mean(axis=-1)


by_attention = effect(lambda tokens: layers.attention(tokens, **example.block["attn"], num_heads=3))
by_mlp = effect(lambda tokens: layers.mlp(tokens, fc1, fc2))
assert np.flatnonzero(by_mlp > 1e-6).tolist() == [token]

figures.over_crop(
    example.crop,
    [np.log10(by_attention + 1e-6), np.log10(by_mlp + 1e-6)],
    ["attention, log10 of the change", "MLP, log10 of the change"],
    token=token,
    columns=2,
    height=310,
    title="One token was changed: attention passes it on to the others, the MLP does not",
)

# %%
teach.say(
    f"Tokens that came out different: **{np.count_nonzero(by_attention > 1e-6)}** of 192 after attention, "
    f"**{np.count_nonzero(by_mlp > 1e-6)}** after the MLP."
)

# %% [markdown]
# ## The formula
#
# For one token $x$ with $C = 96$ numbers:
#
# $$ h = \mathrm{GELU}(W_1 x + b_1), \qquad y = W_2\, h + b_2 $$
#
# $W_1$ (`fc1`, 384 rows of 96) makes $4C$ **hidden** numbers of the token, GELU bends each of them, $W_2$ (`fc2`,
# 96 rows of 384) makes $C$ numbers of them again. A hidden number and the row of $W_1$ that it comes from are called
# a **neuron**. Source: the block of Vaswani et al. 2017, with the GELU of Hendrycks and Gimpel 2016.
#
# ## A linear layer in loops
#
# Every hidden number is one dot product: the token with one row of the weight, plus one bias.


# %%
def linear_loops(x, weight, bias):
    rows = weight.tolist()
    y = np.empty((*x.shape[:-1], len(rows)), x.dtype)
    for b, image in enumerate(x.tolist()):
        for n, token in enumerate(image):
            for j, row in enumerate(rows):
                y[b, n, j] = sum(value * w for value, w in zip(token, row, strict=True)) + bias[j]
    return y


slow = linear_loops(x, **fc1)
teach.against_reference("backbone.blocks.0.mlp.fc1", slow)

# %% [markdown]
# ## In NumPy
#
# All dot products of all tokens at once are one matrix product, `(1, 192, 96) @ (96, 384)`. The weight lies in the
# checkpoint as `(out, in)`, one row a neuron, so it is turned first:

# %%
before = x @ fc1["weight"].T + fc1["bias"]
assert before.shape == (1, 192, 384) and np.allclose(before, slow, atol=1e-4)

print(inspect.getsource(layers.linear))

# %% [markdown]
# ## GELU
#
# Two linear layers in a row would be one linear layer (exercise 5.4 shows it). Something between them has to bend.
# ReLU, $\max(0, x)$, switches a number off if it is negative. GELU does the same softly:
#
# $$ \mathrm{GELU}(x) = x\, \Phi(x) $$
#
# $\Phi(x)$ is the share of a normal distribution (mean 0, standard deviation 1) that lies below $x$: near 0 for very
# negative numbers, ½ at 0, near 1 for large ones. So $x$ is multiplied by how large it is among numbers of that kind.
#
# Two cheaper formulas are in use, both from the same paper. The **tanh form** and the **sigmoid form**:
#
# $$ \tfrac12 x \left(1 + \tanh\left(\sqrt{2/\pi}\,(x + 0.044715\,x^3)\right)\right) \qquad\qquad
# x\, \mathrm{sigmoid}(1.702\, x) = \frac{x}{1 + e^{-1.702 x}} $$


# %%
def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_sigmoid(x):
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and x / inf is 0: just right
        return x / (1 + np.exp(-1.702 * x))


line = np.linspace(-5, 5, 2001)
exact = layers.gelu(line)
forms = {"GELU": exact, "tanh form": gelu_tanh(line), "sigmoid form": gelu_sigmoid(line), "ReLU": layers.relu(line)}

figure = teach.canvas(900, 300, "gelu")
left, middle, right = figure.subplots(1, 3)
left.plot(line, layers.erf(line / math.sqrt(2)) / 2 + 0.5, color=figures.INK)
for (name, y), colour, dash in zip(forms.items(), figures.COLOURS, figures.DASHES, strict=False):
    near = np.abs(line) <= 3
    middle.plot(line[near], y[near], label=name, color=colour, linestyle=dash)
    if name != "GELU":
        right.plot(line, np.abs(y - exact) + 1e-9, label=name, color=colour, linestyle=dash)
figures.plain(left, "x", "", "Φ(x): the share below x")
figures.plain(middle, "x", "", "x Φ(x) and what stands in for it")
figures.plain(right, "x", "", "Distance from x Φ(x)", log=True)
right.set_ylim(1e-7, 1)
middle.legend(frameon=False, fontsize=8)
figure

# %%
worst = {name: np.abs(y - exact).max() for name, y in forms.items() if name != "GELU"}
assert 4.7e-4 < worst["tanh form"] < 4.8e-4 < worst["sigmoid form"] < worst["ReLU"]
teach.say(
    "The largest distance from $x\\,\\Phi(x)$: "
    + ", ".join(f"**{value:.1e}** for the {name}" for name, value in worst.items())
    + ". By eye the tanh form is the same curve. A comparison of activations tells them apart at once."
)

# %% [markdown]
# ViTPose was trained with $\Phi$ itself, so this is what its weights expect.
#
# ## How erf is computed
#
# $\Phi$ is the integral of the bell curve, and that has no formula of sines, roots and exponentials. It has a name,
# the error function: $\Phi(x) = \tfrac12 \left(1 + \mathrm{erf}(x / \sqrt 2)\right)$. NumPy does not have it.
# Python's `math.erf` does, one number at a time, and `layers.gelu` calls it number by number:

# %%
assert not hasattr(np, "erf")
print(inspect.getsource(layers.gelu))

# %% [markdown]
# A compiled loop that treats many numbers at once cannot call a function that takes one. What it does at once are
# additions, multiplications and divisions. A polynomial has no more than that. The Taylor series of $\Phi(x) -
# \tfrac12$ around 0 is one, but far from 0 it needs ever more terms, and these large terms of changing sign take each
# other's digits away. A quotient of two short polynomials in $x^2$, fitted so that its largest error is as small as
# can be, does it with twelve numbers:
#
# $$ \Phi(x) - \tfrac12 \approx x\, \frac{P(x^2)}{Q(x^2)} \quad\text{for } |x| \le 5.5 $$


# %%
def taylor(x, terms):
    """The first terms of Phi(x) - 1/2 = sum over n of (-1)^n x^(2n+1) / (sqrt(2 pi) 2^n n! (2n + 1))."""
    return sum(
        (-1) ** n * x ** (2 * n + 1) / (math.sqrt(2 * math.pi) * 2**n * math.factorial(n) * (2 * n + 1))
        for n in range(terms)
    )


def quotient(x):
    return x * np.polyval(vecmath.P[::-1], x * x) / np.polyval(vecmath.Q[::-1], x * x)


assert len(vecmath.P) == len(vecmath.Q) == 6
positive = np.linspace(0.01, 5.5, 1000)
truth = layers.erf(positive / math.sqrt(2)) / 2
off = {f"Taylor, {n} terms": np.abs(taylor(positive, n) - truth) + 1e-17 for n in (6, 12, 24)}
off["P / Q, 6 and 6"] = np.abs(quotient(positive) - truth)

figure = figures.lines(
    positive, off, ("x", "error"), "Error of Φ(x) - ½: the series goes astray, the quotient does not", log=True
)
figure.axes[0].set_ylim(1e-13, 10)
figure

# %% [markdown]
# `docs/fit_polynomials.py` finds the coefficients of $P$ and $Q$, `kernels/vecmath.py` has them. The fast engine
# computes GELU so. What counts in the end is the error in float32, against the truth:

# %%
points = aligned(1, 1 << 16)
points[0] = np.linspace(-8, 8, points.size)


@numba.njit
def each(x, y):
    for j in range(0, x.shape[1], LANES):  # so many floats at once
        store(y, 0, j, vecmath.gelu(load(x, 0, j)))


fast = aligned(1, points.size)
each(points, fast)
wide = points[0].astype(np.float64)
truth = wide * np.vectorize(math.erfc)(-wide / math.sqrt(2)) / 2  # erfc(z) = 1 - erf(z), without the loss of digits
found = {"layers.gelu (math.erf)": layers.gelu(points[0]), "vecmath.gelu (P / Q)": fast[0]}
found |= {"tanh form": gelu_tanh(points[0])}
errors = {name: np.abs(y - truth) for name, y in found.items()}

highest = {name: e.reshape(256, -1).max(axis=1) + 1e-17 for name, e in errors.items()}
figure = figures.lines(
    wide.reshape(256, -1).mean(axis=1), highest, ("x", "largest error nearby"), "Error of GELU in float32", log=True
)
figure.axes[0].set_ylim(1e-12, 1e-2)
figure

# %%
assert (errors["vecmath.gelu (P / Q)"] <= 1.9e-7 * np.abs(wide) + 1e-30).all()
unit = np.spacing(np.float32(5))  # one unit in the last digit of a float32 near 5, where the errors are largest
teach.say(
    "The largest errors, in units of the last digit: "
    + ", ".join(f"{name} **{e.max() / unit:.3g}**" for name, e in errors.items())
    + "."
)

# %% [markdown]
# The polynomials err by rounding. The tanh form is a different function.
#
# ## The MLP of the first block, step by step

# %%
hidden = layers.gelu(before)
teach.against_reference("backbone.blocks.0.mlp.act", hidden)

# %%
after = layers.linear(hidden, **fc2)
assert after.shape == x.shape
teach.against_reference("backbone.blocks.0.mlp.fc2", after)

# %% [markdown]
# That is all of the MLP. `layers.mlp` says the same, with a `tap` that lets others look at what is between:

# %%
print(inspect.getsource(layers.mlp))

# %% [markdown]
# ## Three speeds
#
# A few tokens, for the sake of the loops: 16 of the 192. Numba compiles loops like these.

# %%
few = np.ascontiguousarray(x[:, :16])


def mlp_loops(x, fc1, fc2):
    before = linear_loops(x, **fc1)
    hidden = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in before.ravel().tolist()], x.dtype)
    return linear_loops(hidden.reshape(before.shape), **fc2)


teach.race(
    {
        "loops in Python": lambda: mlp_loops(few, fc1, fc2),
        "NumPy": lambda: layers.mlp(few, fc1, fc2),
        "Numba": lambda: kernels.mlp(few, fc1, fc2),
    }
)

# %% [markdown]
# Where does NumPy's time go? Its matrix products are compiled code, its GELU calls `math.erf` number by number. For
# all 192 tokens:

# %%
teach.race(
    {
        "both matrix products": lambda: layers.linear(layers.linear(x, **fc1), **fc2),
        "GELU between them": lambda: layers.gelu(before),
    }
)

# %% [markdown]
# ## What hidden neurons respond to
#
# Each of the 384 neurons of a block has one number a token: a map over the crop. Here are, for four of the eight
# blocks, the two neurons whose numbers differ most from token to token, and for each of four joints (the white square)
# the neuron that is there the furthest above its mean over the crop.


# %%
def hidden_of(block):
    """What comes out of the GELU of a block: (192 tokens, 384 neurons)."""
    return example.cache[f"backbone.blocks.{block}.mlp.act"][0]


def strongest(block, joint=None, count=6):
    """The neurons that differ most from token to token, or that are further above their mean at a joint's token."""
    h = hidden_of(block)
    return np.argsort(-(h.std(axis=0) if joint is None else h[example.token_of(joint)] - h.mean(axis=0)))[:count]


def neuron_maps(chosen):
    """chosen: a list of (block, joint or None, neuron)."""
    maps = [hidden_of(block)[:, n] for block, _, n in chosen]
    titles = [f"block {block}, neuron {n}" for block, _, n in chosen]
    tokens = [joint and example.token_of(joint) for _, joint, _ in chosen]
    return figures.over_crop(example.crop, maps, titles, tokens, height=225)


def draw(block, joint):
    return neuron_maps([(block, joint, n) for n in strongest(block, joint)])


def still():
    places = [(None, 2), ("nose", 1), ("left_wrist", 1), ("right_knee", 1), ("left_ankle", 1)]
    return neuron_maps([(b, joint, n) for b in (0, 2, 5, 7) for joint, m in places for n in strongest(b, joint, m)])


blocks = range(example.model.config.depth)
teach.explore(draw, still, block=blocks, joint=[None, *example.skeleton.keypoints])

# %% [markdown]
# Nobody told a neuron what to look for. Which of these follow the person, which the background, which an edge? And
# what changes from the first block to the last?
#
# <details><summary>What we see</summary>First colours, textures and bands of the picture, which come from the
# positions; in the middle the person against the background, and regions such as head or feet; last, single
# joints.</details>
#
# ## How many are on?
#
# A negative number comes out of GELU between −0.17 and 0: the neuron is off, or nearly. How many are?

# %%
assert -0.17 < exact.min() < -0.169
sizes = np.linspace(0, 1, 101)
shares = {f"block {block}": [np.mean(np.abs(hidden_of(block)) <= size) for size in sizes] for block in blocks}
figure = figures.lines(
    sizes,
    shares,
    ("size, without the sign", "share up to that size"),
    "How small the hidden numbers are",
    ordered=True,
)
figure.axes[0].axvline(0.17, color=figures.GREY, linewidth=0.8)
figure.axes[0].annotate(
    "GELU of a negative number\nis at most this large", (0.19, 0.05), fontsize=8, color=figures.GREY
)
figure

# %%
for block in blocks:
    incoming, h = example.cache[f"backbone.blocks.{block}.mlp.fc1"], hidden_of(block)
    squares = np.sort(h * h, axis=1)[:, ::-1]
    largest = squares[:, : h.shape[1] // 10].sum() / squares.sum()
    teach.say(
        f"Block {block}: **{np.mean(incoming < 0):.0%}** of the numbers before the GELU are negative. Of a "
        f"token's squares after it, the largest tenth makes up {largest:.0%} of the sum."
    )

# %% [markdown]
# ## A memory of keys and values
#
# The same two matrix products can be read as a memory (Geva et al. 2021). Row $j$ of `fc1` is a **key** $k_j$, a
# pattern that is compared with the token. Column $j$ of `fc2` is a **value** $v_j$, which is written to the token as
# strongly as the key fits:
#
# $$ y = b_2 + \sum_{j=1}^{4C} \mathrm{GELU}(k_j \cdot x + b_{1,j})\; v_j $$
#
# How many of the 384 entries does the token at the left wrist read? Add up the largest contributions first, and look
# at what is still missing.


# %%
def missing(block, token):
    """What is missing of the sum after 1, 2, ... entries, as a share of its length: (384,)."""
    values = example.params["backbone"]["blocks"][str(block)]["mlp"]["fc2"]["weight"].T  # (384, 96): row j is v_j
    entries = hidden_of(block)[token][:, None] * values
    order = np.argsort(-np.linalg.norm(entries, axis=1))
    total = entries.sum(axis=0)
    rest = total - np.cumsum(entries[order], axis=0)
    return np.linalg.norm(rest, axis=1) / np.linalg.norm(total)


everything = fc2["bias"] + sum(
    strength * value for strength, value in zip(hidden[0, token], fc2["weight"].T, strict=True)
)
assert np.allclose(everything, after[0, token], atol=1e-4)
figures.lines(
    np.arange(1, 385),
    {f"block {block}": missing(block, token) for block in blocks},
    ("entries added up, the largest first", "missing, as a share"),
    "The sum of 384 entries, at the left wrist",
    ordered=True,
)

# %%
needed = {block: 1 + int(np.argmax(missing(block, token) < 0.25)) for block in blocks}
teach.say(
    "Entries until less than a quarter is missing: "
    + ", ".join(f"**{n}** in block {b}" for b, n in needed.items())
    + "."
)

# %% [markdown]
# What does one entry do? Take the three that contribute most to a joint's token in the last block. Above: where the
# key fits. Below: how the heatmaps change if this neuron is set to 0 everywhere, the largest change of the 17.

# %%
model = example.model.with_engine("numba")
plain = model(example.images)[0]


def silence(joint, block):
    """Which neurons count most at a joint, where they are active, and what changes without them."""
    name = f"backbone.blocks.{block}.mlp.act"
    lengths = np.linalg.norm(example.params["backbone"]["blocks"][str(block)]["mlp"]["fc2"]["weight"], axis=0)
    at = example.token_of(joint)
    neurons = np.argsort(-np.abs(hidden_of(block)[at]) * lengths)[:3]
    above, below, names = [], [], []
    for n in neurons:
        without = example.cache[name].copy()
        without[..., n] = 0
        change = np.abs(model.run_with_cache(example.images, replace={name: without})[0][0] - plain)
        above.append(hidden_of(block)[:, n])
        below.append(change.max(axis=0))
        names.append(example.skeleton.keypoints[change.max(axis=(1, 2)).argmax()].replace("_", " "))
    titles = [f"neuron {n} of block {block}" for n in neurons] + [f"without it: most at {name}" for name in names]
    return figures.over_crop(example.crop, above + below, titles, token=at, columns=3, height=250)


start = {"joint": "left_wrist", "block": blocks[-1]}
teach.explore(silence, start=start, joint=example.skeleton.keypoints, block=blocks)

# %% [markdown]
# ## Counting
#
# A block has four matrices: `qkv` with $3C^2$ numbers, `proj` with $C^2$, `fc1` and `fc2` with $4C^2$ each. So 8 of
# 12 parts are in the MLP: two thirds. Biases and norms hardly count. Each number of a matrix is used once for each of
# the $N$ tokens; attention also multiplies every token with every token, twice.


# %%
def multiplications(C, N=192):
    return {"attention: qkv and proj": 4 * N * C * C, "attention: N × N": 2 * N * N * C, "MLP": 8 * N * C * C}


learnt = {
    name: sum(a.size for layer in part.values() for a in layer.values())
    for name, part in example.block.items()
    if name in ("attn", "mlp")
}
C = 96
assert learnt == {"attn": 4 * C * C + 4 * C, "mlp": 8 * C * C + 5 * C}
learnt

# %%
figure = teach.canvas(900, 260, "counting")
axes = figure.subplots()
names = ["matrices of a block", *(f"multiplications, {name} (C = {VARIANTS[name][0]})" for name in VARIANTS)]
rows = [{"attention: qkv and proj": 4, "attention: N × N": 0, "MLP": 8}]
rows += [multiplications(width) for width, _, _ in VARIANTS.values()]
starts = np.zeros(len(rows))
for part, colour, hatch in zip(rows[0], figures.COLOURS, ("//", "..", ""), strict=False):
    share = np.array([row[part] / sum(row.values()) for row in rows])
    axes.barh(names, share, left=starts, color=colour, label=part, hatch=hatch, edgecolor="white")
    for y in np.flatnonzero(share):
        style = {"ha": "center", "va": "center", "fontsize": 8.5, "color": "black"}
        axes.text(
            starts[y] + share[y] / 2, y, f"{share[y]:.0%}", bbox={"fc": "white", "ec": "none", "pad": 1.5}, **style
        )
    starts += share
figures.plain(axes, "share", "", "Two thirds of a block are its MLP")
axes.invert_yaxis()
axes.set_xlim(0, 1)
axes.legend(frameon=False, fontsize=8.5, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.42))
figure

# %% [markdown]
# The narrow mini model has more tokens than channels, so its tokens times tokens weigh more. In the large models they
# nearly vanish.
#
# ## What the wrong GELU does
#
# `model.forward` takes the module that holds the layers. A second copy of `layers` with another `gelu` in it is a
# network with the same weights and the wrong activation.


# %%
def layers_with(**functions):
    """A second copy of the module ``layers``, in which some functions are others."""
    spec = importlib.util.find_spec("minivitpose.layers")
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    vars(copy).update(functions)
    return copy


def run_with(gelu):
    """Every activation by name, and "heatmaps"."""
    found = {}
    wired = layers_with(gelu=gelu)
    forward(example.images, example.params, example.model.config, wired, tap=lambda name, x: found.setdefault(name, x))
    return found


wrong = {"tanh form": run_with(gelu_tanh), "sigmoid form": run_with(gelu_sigmoid), "ReLU": run_with(layers.relu)}
report = compare(wrong["tanh form"], example.reference)
assert report.first_divergence.name == "backbone.blocks.0.mlp.act"
report

# %% [markdown]
# The comparison with PyTorch stops at the first activation that is off by more than rounding, and that is the GELU
# itself. Does anybody see it in the result?


# %%
def points_of(heatmaps):
    cells, scores = decode_argmax(heatmaps)
    return cells_to_crop(refine(heatmaps, cells, scores, "udp"), (64, 48), (256, 192))


results = {"rounding (Numba's sums)": plain}
results |= {name: found["keypoint_head.final_layer"][0] for name, found in wrong.items()}
right = example.heatmaps[0]
panels = {
    "Largest change of a heatmap": ({n: np.abs(h - right).max() for n, h in results.items()}, "heatmap's own units"),
    "How far a keypoint moves, on average": (
        {n: np.linalg.norm(points_of(h) - points_of(right), axis=1).mean() for n, h in results.items()},
        "pixels of the crop",
    ),
}
figure = teach.canvas(900, 230, "wrong-gelu")
for axes, (title, (values, unit)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
    axes.barh(list(values), list(values.values()), height=0.6, color=figures.COLOURS[0])
    figures.plain(axes, unit, "", title)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.grid(visible=False)
    for y, value in enumerate(values.values()):
        axes.annotate(f"{value:.1e}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
figure

# %%
change = [np.abs(h - right).max() for h in results.values()]
assert change == sorted(change)

# %% [markdown]
# The further the form is from GELU, the more the heatmaps change. Nobody sees the tanh form in the picture; the
# activations show it at once. Weights and activation belong together.

# %% [markdown]
# ## Exercise 5.1 · A linear layer
#
# Difficulty ●○○ · 5 minutes. Write `linear`, without loops. The bias may be `None`.
#
# <details><summary>Hint 1</summary>The weight has one row an output: <code>x @ weight.T</code>.</details>
# <details><summary>Hint 2</summary>The product with <code>@</code> treats all axes before the last as a
# batch.</details>


# %% tags=["exercise"]
def linear(x, weight, bias): ...  # your code


teach.check("linear", linear)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def linear(x, weight, bias):
    y = x @ weight.T
    return y if bias is None else y + bias


### END SOLUTION
teach.check("linear", linear)

# %% [markdown]
# ## Exercise 5.2 · GELU
#
# Difficulty ●○○ · 5 minutes. Write `gelu`. What goes in as float32 comes out as float32.
#
# <details><summary>Hint 1</summary><code>np.vectorize(math.erf)</code> is erf of every number of an array, in
# float64.</details>
# <details><summary>Hint 2</summary>The square root of 2 stands inside erf: <code>erf(x /
# math.sqrt(2))</code>.</details>


# %% tags=["exercise"]
def gelu(x): ...  # your code


teach.check("gelu", gelu)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)).astype(x.dtype))


### END SOLUTION
teach.check("gelu", gelu)

# %% [markdown]
# ## Exercise 5.3 · The MLP
#
# Difficulty ●○○ · 3 minutes. Put your two functions together. `fc1` and `fc2` are dicts with `weight` and `bias`.
#
# <details><summary>Hint</summary><code>linear(x, **fc1)</code> hands over both.</details>


# %% tags=["exercise"]
def mlp(x, fc1, fc2): ...  # your code


teach.check("mlp", mlp)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def mlp(x, fc1, fc2):
    return linear(gelu(linear(x, **fc1)), **fc2)


### END SOLUTION
teach.check("mlp", mlp)

# %% [markdown]
# ## Exercise 5.4 · Without the bend
#
# Difficulty ●●○ · 10 minutes. Leave the GELU out. Find one weight of shape `(96, 96)` and one bias that do what the
# two linear layers do together. How many numbers did the two layers have, and how many has yours?
#
# <details><summary>Hint 1</summary>Write y = W2 (W1 x + b1) + b2 and multiply out.</details>
# <details><summary>Hint 2</summary>The bias is <code>fc2["weight"] @ fc1["bias"] + fc2["bias"]</code>.</details>

# %% tags=["exercise"]
one = {"weight": None, "bias": None}  # your code

if one["weight"] is not None:
    two_layers = layers.linear(layers.linear(x, **fc1), **fc2)
    print("right" if np.allclose(layers.linear(x, **one), two_layers, atol=1e-3) else "not yet")

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
one = {"weight": fc2["weight"] @ fc1["weight"], "bias": fc2["weight"] @ fc1["bias"] + fc2["bias"]}
two_layers = layers.linear(layers.linear(x, **fc1), **fc2)
one_layer = layers.linear(x, **one)
numbers = [sum(a.size for p in group for a in p.values()) for group in ((fc1, fc2), (one,))]
print(f"largest difference {np.abs(two_layers - one_layer).max():.1e}; numbers: {numbers[0]:,} and {numbers[1]:,}")
assert np.allclose(two_layers, one_layer, atol=1e-3)
### END SOLUTION

# %% [markdown]
# ## Exercise 5.5 · A better constant
#
# Difficulty ●●● · 10 minutes. In the sigmoid form stands 1.702. Is there a constant that comes closer to
# $x\,\Phi(x)$, measured by the largest distance? Draw that distance over the constant.
#
# <details><summary>Hint</summary>Try a few hundred constants between 1.5 and 2 on <code>line</code>, and take the
# largest absolute difference from <code>exact</code> for each.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
constants = np.linspace(1.5, 2, 501)
distance = [np.abs(line / (1 + np.exp(-a * line)) - exact).max() for a in constants]
print(f"best: {constants[np.argmin(distance)]:.3f}, {min(distance):.4f} off; 1.702 is {worst['sigmoid form']:.4f} off")
figures.lines(constants, {"": distance}, ("constant", "largest distance from GELU"), "The sigmoid form", height=220)
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/kernels/gelu.py` and `kernels/linear.py`: the compiled ones. `kernels/vecmath.py`: the polynomials.
# - Hendrycks and Gimpel: Gaussian error linear units (2016). Geva, Schuster, Berant, Levy: Transformer feed-forward
#   layers are key-value memories (2021).
# - Next: [06 · The block and the residual stream](06_block.ipynb), where norm, attention and MLP come together.
