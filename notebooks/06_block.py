# %% [markdown]
# # 06 · The block and the residual stream
#
# **After this notebook you can** build a transformer block of its pieces; see the whole backbone as one sum; say why
# the norm stands before attention and MLP and not behind the addition; and find out what a branch is good for by
# taking it out.
#
# 35 minutes to read, 35 for the exercises. Needs: attention ([04](04_attention.ipynb)) and the MLP
# ([05](05_mlp.ipynb)). Nothing is downloaded.

# %%
import inspect
from types import SimpleNamespace

import numpy as np
from IPython.display import display

from minivitpose import gradients, kernels, layers, synthetic, teach
from minivitpose.config import VARIANTS
from minivitpose.model import forward
from minivitpose.pose import cells_to_crop, decode_argmax
from minivitpose.pose.crop import normalised
from minivitpose.teach import figures

example = teach.example()
cache, config = example.cache, example.model.config
x, p = cache["backbone.pos"], example.block  # the tokens, and the parameters of the first block

assert x.shape == (1, 192, 96) and (config.depth, config.num_heads) == (8, 3)
list(p)

# %% [markdown]
# ## Why
#
# Attention brings something to a token from the others. The MLP makes something of what a token has. A network repeats
# both many times. If each step **replaced** the token, then whatever a later step needs would have to be carried
# through every step between. So each step only **adds** to the token instead. The black line below, from left to
# right, is the **residual stream**; what turns off and comes back is a **branch**.


# %%
PLUS = {"boxstyle": "circle,pad=0.2", "facecolor": "white"}


def box(axes, x, y, text):
    style = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": figures.COLOURS[0]}
    axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style)


def branch(axes, left, right, names):
    axes.plot([left, left, right, right], [0, 1, 1, 0], color=figures.COLOURS[0])
    for i, name in enumerate(names):
        box(axes, left + (i + 1) * (right - left) / (len(names) + 1), 1, name)
    axes.text(right, 0, "+", ha="center", va="center", fontsize=12, bbox=PLUS)


# %%
figure = figures.canvas(880, 240, "block")
pre, post = figure.subplots(2, 1)
branch(pre, 0.4, 4, ["norm 1", "attention"])
branch(pre, 5.4, 9, ["norm 2", "MLP"])
branch(post, 0.4, 2.6, ["attention"])
branch(post, 5.4, 7.6, ["MLP"])
box(post, 3.6, 0, "norm 1")
box(post, 8.6, 0, "norm 2")
for axes, title in ((pre, "Pre-norm: ViTPose"), (post, "Post-norm: Vaswani et al., 2017")):
    axes.annotate(
        "", (10, 0), (-0.4, 0), arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 1.8}, zorder=0
    )
    axes.set(xlim=(-0.5, 10.1), ylim=(-0.6, 1.6))
    figures.bare(axes)
    axes.set_title(title, fontsize=10.5, loc="left")
figure

# %% [markdown]
# ## The formula
#
# For the tokens $x$, all at once:
#
# $$ x \leftarrow x + \mathrm{attention}(\mathrm{norm}_1(x)), \qquad
# x \leftarrow x + \mathrm{mlp}(\mathrm{norm}_2(x)) $$
#
# Source: Dosovitskiy et al., 2021, equations 2 and 3.
#
# ## In one cell

# %%
made = {}
made["norm1"] = layers.layer_norm(x, **p["norm1"])
made["attn"] = layers.attention(made["norm1"], **p["attn"], num_heads=3)
made["resid_mid"] = x + made["attn"]
made["norm2"] = layers.layer_norm(made["resid_mid"], **p["norm2"])
made["mlp"] = layers.mlp(made["norm2"], **p["mlp"])
made["block"] = made["resid_mid"] + made["mlp"]
for name, array in made.items():
    assert array.shape == x.shape
    print(f"{name:10} {array.shape}")

# %% [markdown]
# Everything has the shape of the stream, or it could not be added to it. The same lines again and again, with other
# weights each time, are the backbone:

# %%
stream, after = x, {}
for i, weights in example.params["backbone"]["blocks"].items():
    stream = stream + layers.attention(layers.layer_norm(stream, **weights["norm1"]), **weights["attn"], num_heads=3)
    stream = stream + layers.mlp(layers.layer_norm(stream, **weights["norm2"]), **weights["mlp"])
    after[f"backbone.blocks.{i}"] = stream
after["backbone.last_norm"] = layers.layer_norm(stream, **example.params["backbone"]["last_norm"])
list(after)

# %% [markdown]
# ## Beside the reference
#
# The pieces of block 0, then what leaves each block, against what PyTorch computed for the same picture.

# %%
computed = {f"backbone.blocks.0.{name}": array for name, array in made.items() if name != "block"} | after
assert np.array_equal(made["block"], after["backbone.blocks.0"])
report = teach.against_reference(computed)
assert report.ok
report

# %% [markdown]
# This is all of `layers.block` in the package. `tap` only looks at what passes. Compiled by Numba it is the same code
# with other parts: `kernels.block`.

# %%
print(inspect.getsource(layers.block))
teach.race(
    {
        "NumPy": lambda: layers.block(x, p, num_heads=3),
        "Numba": lambda: kernels.block(x, p, num_heads=3),
    }
)

# %% [markdown]
# ## The stream is a sum
#
# Nothing in the stream is ever overwritten: a branch can only add, though what it adds may point against what is there,
# and so take it out. So at the end of the backbone it is what it was at the beginning, plus what
# each branch has added:
#
# $$ x_{\mathrm{end}} = x_{\mathrm{pos}} + \sum_{i=0}^{7} (a_i + m_i) $$
#
# $a_i$ is the output of attention in block $i$, $m_i$ that of its MLP. Here they are, for the token of the right
# wrist:

# %%
branches = {f"{kind} {i}": cache[f"backbone.blocks.{i}.{kind}"] for i in range(8) for kind in ("attn", "mlp")}
total = cache["backbone.pos"]
for added in branches.values():
    total = total + added
assert np.array_equal(total, cache["backbone.blocks.7"])  # the same additions in the same order: the same bits

token = example.token_of("right_wrist")
rows = {"pos": cache["backbone.pos"]} | branches | {"sum: the end": total}
strips = np.stack([array[0, token] for array in rows.values()])
figure = figures.canvas(900, 430, "sum")
axes = figure.subplots()
most = np.quantile(np.abs(strips), 0.99)
shown = axes.imshow(strips, cmap=figures.SIGNED, vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
axes.set_yticks(range(len(rows)), list(rows))
axes.axhline(len(rows) - 1.5, color="black", linewidth=1.2)
figures.plain(axes, "channel", title="One token: 17 terms and their sum")
axes.grid(visible=False)
figure.colorbar(shown, ax=axes).ax.tick_params(labelsize=8)
figure

# %% [markdown]
# Who adds much, and who little? Left: the length of what each branch adds, as a mean over all tokens, and the length
# of the stream that it is added to. Right: does it point the way the stream already points (1), against it (-1), or
# across (0)?


# %%
def length(array):
    return np.linalg.norm(array[0], axis=-1)


def cosine(a, b):
    return (a[0] * b[0]).sum(axis=-1) / (length(a) * length(b))


before, before_each = cache["backbone.pos"], []
for added in branches.values():
    before_each.append(before)
    before = before + added
sizes = np.array([length(added).mean() for added in branches.values()])
streams = np.array([length(array).mean() for array in before_each])
directions = np.array([cosine(a, b).mean() for a, b in zip(branches.values(), before_each, strict=True)])

# %%
figure = figures.canvas(900, 320, "sizes")
left, right = figure.subplots(1, 2)
left.bar(range(16), sizes, color=figures.COLOURS[0], width=0.6, label="what the branch adds")
left.plot(range(16), streams, "s--", color=figures.COLOURS[1], label="the stream before it")
right.bar(range(16), directions, color=figures.COLOURS[2], width=0.6)
right.axhline(0, color="black", linewidth=0.8)
right.set_ylim(-1, 1)
figures.plain(left, "", "length of the vector (logarithmic)", "How much is added", log=True)
figures.plain(right, "", "cosine, mean over tokens", "Along the stream, or across it")
for axes in (left, right):
    axes.set_xticks(range(16), list(branches), rotation=90)
left.legend(frameon=False, fontsize=8.5)
figure

# %%
most, least = list(branches)[int(sizes.argmax())], list(branches)[int(sizes.argmin())]
teach.say(
    f"The longest contribution is that of {most}, the shortest that of {least}. The stream has a length of "
    f"{streams[0]:.0f} before the first block, {streams[-1]:.0f} before the last MLP and {length(total).mean():.0f} "
    f"after it."
)

# %% [markdown]
# And where in the picture does each branch add most?

# %%
maps = [length(added) for added in branches.values()]
title = "Length of what each branch adds to each token"
figures.over_crop(example.crop, maps, list(branches), columns=8, height=190, title=title)

# %% [markdown]
# How much of a token's direction is left from block to block? The cosine between the stream at two places, as a mean
# over all tokens:

# %%
places = ["pos", *(f"block {i}" for i in range(8))]
states = [cache["backbone.pos"], *(cache[f"backbone.blocks.{i}"] for i in range(8))]
alike = np.array([[cosine(a, b).mean() for b in states] for a in states])
assert np.allclose(np.diag(alike), 1, atol=1e-5)
figures.numbers(alike, places, places, "Cosine between the stream at two places", width=720)

# %% [markdown]
# ## The norm: before, or behind?
#
# The transformer of 2017 had the norm behind the addition, on the stream itself: $x \leftarrow \mathrm{norm}(x +
# f(x))$. What does that change? We build both of 24 blocks with random weights, without any training, and watch three
# things on the way through:
#
# - the size of the stream (root mean square);
# - how alike its tokens are (mean cosine between two tokens);
# - the size of the gradient, from the end back to each block, compared with its size at the end.


# %%
def random_block(rng, C=48):
    def linear(n, m):
        return {"weight": rng.standard_normal((n, m)) / np.sqrt(m), "bias": np.zeros(n)}

    def norm():
        return {"weight": np.ones(C), "bias": np.zeros(C)}

    attn = {"qkv": linear(3 * C, C), "proj": linear(C, C)}
    mlp = {"fc1": linear(4 * C, C), "fc2": linear(C, 4 * C)}
    return {"norm1": norm(), "attn": attn, "norm2": norm(), "mlp": mlp}


def post_norm(x, p, num_heads):
    x = layers.layer_norm(x + layers.attention(x, **p["attn"], num_heads=num_heads), **p["norm1"])
    return layers.layer_norm(x + layers.mlp(x, **p["mlp"]), **p["norm2"])


def post_norm_backward(x, grad, p, num_heads):
    first = x + layers.attention(x, **p["attn"], num_heads=num_heads)
    middle = layers.layer_norm(first, **p["norm1"])
    grad, _ = gradients.layer_norm_backward(middle + layers.mlp(middle, **p["mlp"]), grad, **p["norm2"])
    grad = grad + gradients.mlp_backward(middle, grad, **p["mlp"])[0]
    grad, _ = gradients.layer_norm_backward(first, grad, **p["norm1"])
    return grad + gradients.attention_backward(x, grad, **p["attn"], num_heads=num_heads)[0]


# %% [markdown]
# The package has the derivative of the pre-norm block, `gradients.block_backward`. The one of the post-norm block is
# made above of the derivatives of its parts. We trust it only after comparing with a difference quotient: a small step
# in a random direction.

# %%
rng = np.random.default_rng(6)
p_small, x_small, grad, step = random_block(rng), *(rng.standard_normal((1, 5, 48)) for _ in range(3))
up, down = (post_norm(x_small + sign * 1e-6 * step, p_small, 4) for sign in (1, -1))
by_steps = ((up - down) / 2e-6 * grad).sum()
by_formula = (post_norm_backward(x_small, grad, p_small, 4) * step).sum()
assert np.isclose(by_steps, by_formula, rtol=1e-6)
print(f"by small steps {by_steps:.7f}, by the formula {by_formula:.7f}")


# %%
def rms(a):
    return np.sqrt(np.mean(a * a))


def tokens_alike(x):
    unit = x[0] / np.linalg.norm(x[0], axis=-1, keepdims=True)
    return (unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean()


def pre_norm_backward(x, grad, p, num_heads):
    return gradients.block_backward(x, grad, p, num_heads)[0]


# %%
def through(seed, block, block_backward, last_norm, depth=24):
    rng = np.random.default_rng(seed)
    blocks = [random_block(rng) for _ in range(depth)]
    states, grad = [rng.standard_normal((1, 24, 48))], rng.standard_normal((1, 24, 48))
    for p in blocks:
        states.append(block(states[-1], p, 4))
    if last_norm:  # a pre-norm network has one norm at its end
        grad, _ = gradients.layer_norm_backward(states[-1], grad, np.ones(48), np.zeros(48))
    grads = [grad]
    for p, x in zip(blocks[::-1], states[-2::-1], strict=True):
        grads.append(block_backward(x, grads[-1], p, 4))
    grads = [rms(g) / rms(grad) for g in grads[::-1]]
    return np.array([[rms(x) for x in states], [tokens_alike(x) for x in states], grads])


pre = np.array([through(seed, layers.block, pre_norm_backward, True) for seed in range(6)])
post = np.array([through(seed, post_norm, post_norm_backward, False) for seed in range(6)])
assert pre.shape == post.shape == (6, 3, 25)  # seeds, the three things, places

# %%
figure = figures.canvas(900, 310, "pre-and-post")
titles = ("Size of the stream", "How alike the tokens are", "Gradient that gets back here")
units = ("root mean square", "mean cosine", "compared with the end")
for j, axes in enumerate(figure.subplots(1, 3)):
    for i, (name, runs) in enumerate({"pre-norm": pre, "post-norm": post}.items()):
        style = {"color": figures.COLOURS[i], "linestyle": figures.DASHES[i]}
        axes.plot(np.median(runs[:, j], axis=0), label=name, **style)
        axes.fill_between(
            range(25), runs[:, j].min(axis=0), runs[:, j].max(axis=0), color=figures.COLOURS[i], alpha=0.15
        )
    figures.plain(axes, "blocks passed", units[j], titles[j], log=j == 2)
figure.axes[0].legend(frameon=False, fontsize=8.5)
figure

# %% [markdown]
# Lines are medians of six draws of the weights, bands reach from the lowest to the highest.

# %%
assert np.allclose(post[:, 0, 1:], 1, atol=1e-3) and (pre[:, 0, -1] > 3).all()  # size
assert (post[:, 1, -1] > 0.99).all() and (pre[:, 1, -1] < 0.95).all()  # alike
assert (pre[:, 2] > 0.9).all() and (np.median(post[:, 2], axis=0).min() < 0.5)  # gradient
end, weakest = np.median(pre[:, :, -1], axis=0), np.median(post[:, 2].min(axis=-1))
teach.say(
    f"After 24 blocks the pre-norm stream has grown to {end[0]:.1f}; post-norm is held at 1. The mean cosine between "
    f"two tokens is {end[1]:.2f} with pre-norm and {np.median(post[:, 1, -1]):.4f} with post-norm. At its weakest "
    f"place the gradient is {pre[:, 2].min():.2f} of that at the end with pre-norm, and {weakest:.2f} with post-norm."
)

# %% [markdown]
# **Pre-norm** leaves the stream alone: there is a way from the end to the beginning that only adds, and the gradient
# comes back along it whole. The price is that the stream grows. So it needs one norm at the end, `last_norm`.
#
# **Post-norm** keeps the size, but each norm also scales down what was there before, and the way back leads through
# all of the norms. Without training every token ends up as nearly the same vector, and the gradient depends on the
# draw. The first transformers therefore needed a slow start of the learning rate; pre-norm needs it less (Xiong et
# al., 2020).
#
# ## Take a branch out
#
# What is a branch good for? The stream is a sum, so we can leave out one term: `run_with_cache(replace=...)` goes on
# with zeros instead of what the branch computed. Everything behind it then works with what is left. We do that for
# the person whom we know and 15 others that the model was never trained on, and measure how far the keypoints that can
# be seen are from the true ones.

# %%
pixels, keypoints, *_ = synthetic.batch(6, 15, split="test")  # (15, 17, 3): x and y in the crop, 2 if it can be seen
images = np.concatenate([example.images, normalised(pixels)])
truth = example.people[example.person].keypoints  # in the picture
target = np.concatenate([example.crop.from_picture(truth[:, :2])[None], keypoints[..., :2]])
seen = np.concatenate([truth[None, :, 2], keypoints[..., 2]]) == 2
model = example.model.with_engine("numba")
assert images.shape == (16, 3, 256, 192) and target.shape == (16, 17, 2)


def distances(heatmaps, who=slice(None)):
    """From each keypoint found to the true one, in pixels of the crop."""
    found = cells_to_crop(decode_argmax(heatmaps)[0], (64, 48), (256, 192))
    return np.linalg.norm(found - target[who], axis=-1)[seen[who]]


whole, whole_cache = model.run_with_cache(images)
without = {}
for name in branches:
    kind, i = name.split()
    place = f"backbone.blocks.{i}.{kind}"
    without[name], _ = model.run_with_cache(images, replace={place: np.zeros_like(whole_cache[place])})

# %%
errors = {"nothing taken out": distances(whole).mean()}
errors |= {f"without {name}": distances(heatmaps).mean() for name, heatmaps in without.items()}
figures.bars(errors, "mean distance from the true keypoint, pixels of the crop", "What a missing branch costs")

# %%
costs = {name: value - errors["nothing taken out"] for name, value in list(errors.items())[1:]}
dear, cheap = max(costs, key=costs.get), min(costs, key=costs.get)
teach.say(
    f"Dearest is the model {dear}: {costs[dear]:+.1f} pixels. Cheapest is the one {cheap}: {costs[cheap]:+.1f}. "
    f"These are 16 people: enough to see what is dear, too few to rank the rest."
)

# %% [markdown]
# Taken out alone, many a branch is hardly missed. The stream leads past each of them, so what comes behind still gets
# most of what it needs, and can make up for some of the rest. In a chain without a stream nothing would be left. (On
# large residual networks: Veit et al., 2016.) It does not follow that all of these branches could go at once.
#
# The heatmap of the right wrist of the person whom we know, with each branch missing in turn:

# %%
joint = example.skeleton.keypoints.index("right_wrist")
maps = {"nothing taken out": whole} | {f"without {name}": heatmaps for name, heatmaps in without.items()}
figures.over_crop(example.crop, [array[0, joint] for array in maps.values()], list(maps), columns=6, height=230)

# %% [markdown]
# ## Read the stream early
#
# The stream has the same shape at every place. So we can give it to `last_norm` and the head too early, as if the
# remaining blocks were not there. What does the head read in it?


# %%
def read(stream):
    x = kernels.layer_norm(stream, **example.params["backbone"]["last_norm"])
    return kernels.keypoint_head(layers.to_map(x, config.grid), **example.params["keypoint_head"])


states = {"before block 0": whole_cache["backbone.pos"]}
states |= {f"after block {i}": whole_cache[f"backbone.blocks.{i}"] for i in range(8)}
early = {name: read(stream) for name, stream in states.items()}
assert np.allclose(early["after block 7"], whole, atol=1e-5)

joints = ("nose", "right_wrist", "left_knee")
chosen = [(joint, name) for joint in joints for name in list(early)[::2]]  # after every second block
maps = [early[name][0, example.skeleton.keypoints.index(joint)] for joint, name in chosen]
titles = [f"{joint.replace('_', ' ')}, {name}" for joint, name in chosen]
figures.over_crop(example.crop, maps, titles, columns=5, height=230, name="early")

# %%
errors = {name: distances(heatmaps).mean() for name, heatmaps in early.items()}
figures.bars(errors, "mean distance from the true keypoint, pixels of the crop", "How good the keypoints are so far")

# %% [markdown]
# Each map has colours of its own scale; its lowest and highest value stand above it. The norm and the head were
# trained on the last stream only, so an early map shows what is there **in the form that the head can read**. More may
# be there in another form.
#
# ## What a block costs
#
# With $C$ channels and $N$ tokens, a block has $12 C^2 + 13 C$ parameters and makes $12 N C^2 + 2 N^2 C$
# multiplications. Each comes with an addition, so that it is twice as many floating point operations.


# %%
def products(N, C):
    """Multiplications in each part of a block."""
    return {
        "qkv": 3 * N * C * C,
        "q kᵀ": N * N * C,
        "pattern · v": N * N * C,
        "proj": N * C * C,
        "fc1": 4 * N * C * C,
        "fc2": 4 * N * C * C,
    }


def size(tree):
    return sum(size(x) if isinstance(x, dict) else x.size for x in tree.values())


N, C = 192, 96
assert size(p) == 12 * C**2 + 13 * C and sum(products(N, C).values()) == 12 * N * C**2 + 2 * N**2 * C
assert size(p["norm1"]) + size(p["norm2"]) == 4 * C and size(p["mlp"]) == 8 * C**2 + 5 * C
millions = {name: count / 1e6 for name, count in products(N, C).items()}
figures.bars(millions, "million multiplications", f"One block, N = {N} tokens, C = {C} channels")

# %%
print("variant  channels  blocks   parameters in blocks   of the work: between tokens")
for name, (C, depth, _) in VARIANTS.items():
    work = products(192, C)
    share = (work["q kᵀ"] + work["pattern · v"]) / sum(work.values())
    print(f"{name:7}  {C:8}  {depth:6}  {depth * (12 * C**2 + 13 * C):21,}  {share:24.1%}")

# %% [markdown]
# At this picture size nearly all of the work of the large models is in the linear layers. That is why the fast engine
# of this package is, above all, a fast matrix product.

# %% [markdown]
# ## Exercise 6.1 · The block
#
# Difficulty ●●○ · 10 minutes. Write `block(x, p, num_heads)`. `p` has `norm1`, `attn`, `norm2` and `mlp`, each a dict
# for the layer of `minivitpose.layers`.
#
# <details><summary>Hint 1</summary>The formula above is two lines; each is one line of Python.</details>
# <details><summary>Hint 2</summary><code>layers.attention(..., **p["attn"], num_heads=num_heads)</code></details>


# %% tags=["exercise"]
def block(x, p, num_heads): ...  # your code


teach.check("block", block)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def block(x, p, num_heads):
    x = x + layers.attention(layers.layer_norm(x, **p["norm1"]), **p["attn"], num_heads=num_heads)
    return x + layers.mlp(layers.layer_norm(x, **p["norm2"]), **p["mlp"])


### END SOLUTION
teach.check("block", block)

# %% [markdown]
# ## Exercise 6.2 · Three wrong blocks
#
# Difficulty ●●○ · 10 minutes. Write three blocks, each with one mistake: the norm behind the addition; `norm1` used
# twice; the second addition forgotten. What does `teach.check` say to each? How far do the keypoints of one person
# move from the true ones if such a block runs in the whole network? `keypoints_with(block)` below runs it.
#
# <details><summary>Hint</summary>The first one stands in this notebook already.</details>


# %% tags=["exercise"]
def keypoints_with(block):
    """Distances in pixels of the crop from the true keypoints, with your block in all eight places."""
    parts = {**vars(kernels), "block": lambda x, p, num_heads, *rest: block(x, p, num_heads)}
    heatmaps = forward(example.images, example.params, config, SimpleNamespace(**parts))
    return distances(heatmaps, slice(0, 1))


# your code


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def one_norm_twice(x, p, num_heads):
    x = x + layers.attention(layers.layer_norm(x, **p["norm1"]), **p["attn"], num_heads=num_heads)
    return x + layers.mlp(layers.layer_norm(x, **p["norm1"]), **p["mlp"])


def addition_forgotten(x, p, num_heads):
    x = x + layers.attention(layers.layer_norm(x, **p["norm1"]), **p["attn"], num_heads=num_heads)
    return layers.mlp(layers.layer_norm(x, **p["norm2"]), **p["mlp"])


for wrong in (post_norm, one_norm_twice, addition_forgotten):
    display(teach.check("block", wrong))
blocks = {"right": layers.block, "post-norm": post_norm, "norm1 twice": one_norm_twice, "no sum": addition_forgotten}
found = {name: keypoints_with(function).mean() for name, function in blocks.items()}
display(figures.bars(found, "mean distance from the true keypoint, pixels of the crop", "Three wrong blocks"))
print("Where a wrong block costs few pixels, a look at the result would not have found it. The check does.")
### END SOLUTION

# %% [markdown]
# ## Exercise 6.3 · Skip a block
#
# Difficulty ●●○ · 10 minutes. Take a whole block out, in two ways: zeros for both of its branches, and the stream
# before the block in place of what leaves it. Show that the heatmaps are the same. Which of the eight blocks can be
# spared best? And the best two, both at once: is what that costs the sum of what each costs alone?
#
# <details><summary>Hint 1</summary>Names for <code>replace</code>: <code>backbone.blocks.2.attn</code>,
# <code>backbone.blocks.2.mlp</code>, <code>backbone.blocks.2</code>.</details>
# <details><summary>Hint 2</summary>What enters block 2 is <code>whole_cache["backbone.blocks.1"]</code>; what enters
# block 0 is <code>whole_cache["backbone.pos"]</code>.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
entering = ["backbone.pos", *(f"backbone.blocks.{i}" for i in range(7))]
skipped = {}
for i in range(8):
    name = f"backbone.blocks.{i}"
    zeros = {f"{name}.{kind}": np.zeros_like(whole_cache[name]) for kind in ("attn", "mlp")}
    one_way, _ = model.run_with_cache(images, replace=zeros)
    other_way, _ = model.run_with_cache(images, replace={name: whole_cache[entering[i]]})
    assert np.array_equal(one_way, other_way)
    skipped[f"without block {i}"] = distances(one_way).mean()
(first, second), entered = np.argsort(list(skipped.values()))[:2], whole_cache["backbone.pos"]
both = {f"backbone.blocks.{i}.{kind}": np.zeros_like(entered) for i in (first, second) for kind in ("attn", "mlp")}
skipped[f"without {first} and {second}"] = distances(model.run_with_cache(images, replace=both)[0]).mean()
skipped["with all"] = distances(whole).mean()
display(figures.bars(skipped, "mean distance from the true keypoint, pixels of the crop", "What a missing block costs"))
### END SOLUTION

# %% [markdown]
# ## Exercise 6.4 · When do the tokens cost more than the channels?
#
# Difficulty ●○○ · 5 minutes. With growing $N$ the products between tokens, $2 N^2 C$, catch up with the linear layers,
# $12 N C^2$. At how many tokens are they equal, for C = 96 and for C = 768? How large a picture is that?
#
# <details><summary>Hint</summary>Divide both by 2 N C.</details>

# %% tags=["exercise"]
equal_at = {96: None, 768: None}  # channels: tokens

for C, N in equal_at.items():
    if N is not None:
        print(f"C = {C}:", "right" if 2 * N**2 * C == 12 * N * C**2 else "not yet")

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
equal_at = {96: 6 * 96, 768: 6 * 768}
for C, N in equal_at.items():
    assert 2 * N**2 * C == 12 * N * C**2
    height = 16 * np.sqrt(N * 4 / 3)  # N = (height / 16) (width / 16), and width = 3/4 height
    print(f"C = {C}: N = 6 C = {N} tokens, a picture of {height:.0f} x {0.75 * height:.0f} pixels")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/model.py`: the loop over the blocks, in three lines. `minivitpose/gradients.py`: `block_backward`.
# - He et al.: Deep residual learning for image recognition (2016), and Identity mappings in deep residual networks
#   (2016), where the norm first moved into the branch.
# - Xiong et al.: On layer normalization in the transformer architecture (2020). Dong, Cordonnier and Loukas: Attention
#   is not all you need (2021), on tokens that become alike.
# - Veit, Wilber and Belongie: Residual networks behave like ensembles of relatively shallow networks (2016).
# - Elhage et al.: A mathematical framework for transformer circuits (2021): the residual stream as a channel that all
#   parts read and write.
# - Next: [07 · The backbone, layer by layer against PyTorch](07_backbone.ipynb).
