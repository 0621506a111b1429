# %% [markdown]
# # 04 · Attention
#
# **After this notebook you can** compute attention for one token by hand, and for all tokens and heads with two matrix
# products; say why scores are divided by $\sqrt d$ and why softmax takes the maximum off; split and merge heads
# without mixing them up; and read an attention map.
#
# 40 minutes to read, 40 for the exercises. Needs: layer norm ([03](03_layer_norm.ipynb)). Nothing is downloaded.

# %%
import inspect
import math

import numpy as np

from minivitpose import gradients, kernels, layers, load, teach
from minivitpose.pose import cells_to_crop, decode_argmax
from minivitpose.teach import figures

example = teach.example()
cache, config = example.cache, example.model.config
at = "backbone.blocks.3"  # the block that is looked at, one of eight
x = cache[f"{at}.norm1"]  # what its attention reads
weights = example.params["backbone"]["blocks"]["3"]["attn"]

assert x.shape == (1, 192, 96) and config.grid == (16, 12)
assert weights["qkv"]["weight"].shape == (288, 96) and weights["proj"]["weight"].shape == (96, 96)
x.shape, config.num_heads, config.head_dim

# %% [markdown]
# ## Why
#
# A token begins as one patch of 16 x 16 pixels. This is the patch with a wrist in it, and the person whose wrist it
# is:

# %%
token = example.token_of("right_wrist")
row, column = divmod(token, 12)
padded = np.pad(example.crop.pixels, ((2, 2), (2, 2), (0, 0)))  # the patches begin two pixels outside the crop
patch = padded[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
assert patch.shape == (16, 16, 3)

figure = figures.canvas(560, 320, "patch-and-person")
left, right = figure.subplots(1, 2)
left.imshow(patch)
right.imshow(example.crop.pixels)
figures.mark(right, example.crop, token)
figures.bare(left, f"all that token {token} was made of")
figures.bare(right, "where it lies")
figure

# %% [markdown]
# From the patch alone it is hard to say whether it shows a wrist, and impossible to say whether it is the left or the
# right one. The token has to ask the others. Which of the layers lets it? We change one token a little in the first
# block and count the tokens that come out changed.


# %%
def changed_tokens(layer):
    before = cache["backbone.blocks.0.norm1"].astype(np.float64)
    after = before.copy()
    after[0, token] += np.linspace(-1, 1, 96)
    return int((layer(after) != layer(before)).any(axis=-1).sum())


counts = {
    "layer norm": changed_tokens(lambda x: layers.layer_norm(x, **example.block["norm1"])),
    "linear": changed_tokens(lambda x: layers.linear(x, **example.block["attn"]["qkv"])),
    "MLP": changed_tokens(lambda x: layers.mlp(x, **example.block["mlp"])),
    "attention": changed_tokens(lambda x: layers.attention(x, **example.block["attn"], num_heads=3)),
}
assert counts == {"layer norm": 1, "linear": 1, "MLP": 1, "attention": 192}
figures.bars(counts, "of 192 tokens changed", "Change one token: only attention tells the others")

# %% [markdown]
# ## One query by hand
#
# Every token makes three vectors of itself. Its **query** says what it looks for. Its **key** says what can be found
# at it. Its **value** is what it hands over. One token asks here, and four tokens answer, with $d = 3$ numbers each.

# %%
query = [2.0, 0.0, 1.0]
keys = [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
values = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]


def attend_loops(query, keys, values):
    """What one token gathers: its scores, the shares it gives to the others, and the weighted sum of their values."""
    d = len(query)
    scores = [sum(query[c] * key[c] for c in range(d)) / math.sqrt(d) for key in keys]
    exps = [math.exp(score) for score in scores]
    total = sum(exps)
    shares = [e / total for e in exps]
    gathered = [sum(share * value[c] for share, value in zip(shares, values, strict=True)) for c in range(d)]
    return scores, shares, gathered


scores, shares, gathered = attend_loops(query, keys, values)
print("scores  ", np.round(scores, 3))
print("shares  ", np.round(shares, 3))
print("gathered", np.round(gathered, 3))

# %% [markdown]
# **First, scores.** The query is multiplied with each key, number by number, and summed up. A key that points the way
# the query points gets a high score. Then **softmax** makes shares of the scores: all positive, with the sum 1.

# %%
products = np.array(keys) @ query
exps = np.exp(products / math.sqrt(3))
table = np.column_stack([keys, products, products / math.sqrt(3), exps, exps / exps.sum()])
assert np.allclose(table[:, 4], scores) and np.allclose(table[:, 6], shares) and np.isclose(sum(shares), 1)

heading = ["key 0", "key 1", "key 2", "query · key", "/ √3", "exp", "share"]
figures.numbers(table, [f"token {i}" for i in range(4)], heading, "The query is (2, 0, 1): who fits it?", width=640)

# %% [markdown]
# **Then the sum.** Every value counts as much as its share. The last row is what the asking token gets.

# %%
weighted = np.array(shares)[:, None] * values
table = np.column_stack([[*shares, sum(shares)], np.vstack([values, np.full(3, np.nan)]), [*weighted, gathered]])
assert np.allclose(weighted.sum(axis=0), gathered)

heading = ["share", *(f"value {c}" for c in range(3)), *(f"share × value {c}" for c in range(3))]
names = [*(f"token {i}" for i in range(4)), "sum"]
figure = figures.numbers(table, names, heading, "What it gathers stands in the last row", width=760)
for text in [t for t in figure.axes[0].texts if t.get_text() == "nan"]:
    text.set_text("")
figure

# %% [markdown]
# Why not take only the best one? A choice has no useful derivative: a small change of a key would change nothing, or
# everything. Shares move a little when a key moves a little, and so the network can learn.
#
# ## The formula
#
# For the query $q$ of one token, and the keys $k_j$ and values $v_j$ of all $N$ tokens, with $d$ numbers each:
#
# $$ s_j = \frac{q \cdot k_j}{\sqrt d}, \qquad a_j = \frac{e^{s_j}}{\sum_i e^{s_i}}, \qquad z = \sum_j a_j v_j $$
#
# $s$ are the scores, $a$ is the pattern (shares, attention weights), and $z$ is what the token gathers. Source:
# Vaswani et al., 2017, equation 1.
#
# ## The same for a wrist
#
# Queries, keys and values come from one linear layer, `qkv`. We take that of block 3: what its tokens hold has passed
# through three blocks, so that there is something to ask for. Of its 288 outputs the first 96 are queries, the next
# 96 keys and the last 96 values. Each 96 are three **heads** of 32; for now we look at one head alone.

# %%
qkv = layers.linear(x, **weights["qkv"])
assert qkv.shape == (1, 192, 3 * 3 * 32)  # q, k and v; heads; numbers of a head

pattern_of = cache[f"{at}.attn.pattern"][0]  # (3, 192, 192): used here only to choose a head
head = int(pattern_of[:, token].max(axis=-1).argmax())  # the one that is surest about this token
own = slice(32 * head, 32 * head + 32)
q, k, v = qkv[0, :, :96][:, own], qkv[0, :, 96:192][:, own], qkv[0, :, 192:][:, own]
assert q.shape == k.shape == v.shape == (192, 32)

scores, shares, gathered = (np.array(a) for a in attend_loops(q[token].tolist(), k.tolist(), v.tolist()))
assert np.allclose(shares, pattern_of[head, token], atol=1e-4)
teach.say(f"Head {head} for token {token}: 192 scores from {scores.min():.2f} to {scores.max():.2f}.")

# %%
half = int((np.cumsum(np.sort(shares)[::-1]) < 0.5).sum()) + 1
handed = shares * np.linalg.norm(v, axis=1)
titles = ["scores", "shares: softmax of them", "share × size of the value"]
figures.over_crop(example.crop, [scores, shares, handed], titles, token=token, columns=3, height=330)

# %%
teach.say(
    f"The shares sum to {shares.sum():.4f}. Of the 192 tokens the {half} with the largest shares make one half of it; "
    f"with equal shares it would be 96."
)

# %% [markdown]
# Softmax makes small differences of scores into large ratios of shares: one more in the score is $e = 2.718$ times the
# share. What arrives is one vector of 32 numbers. The tokens with the largest shares give this much of it:

# %%
given = shares[:, None] * v  # (192, 32): what each token hands over
best = np.argsort(shares)[::-1][:5]
rest = np.delete(np.arange(192), best)
strips = [*given[best], given[best].sum(axis=0), given[rest].sum(axis=0), gathered]
labels = [f"token {j}: {100 * shares[j]:.1f} % of its value" for j in best]
labels += ["these five together", "the other 187 together", "what arrives"]
assert np.allclose(strips[-3] + strips[-2], gathered, atol=1e-4)

figure = figures.canvas(860, 280, "gathered")
axes = figure.subplots()
most = np.abs(strips).max()
shown = axes.imshow(strips, cmap=figures.SIGNED, vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
axes.axhline(len(best) - 0.5, color="black", linewidth=1.2)
figures.plain(axes, f"channel of head {head}", title="Where the 32 numbers that arrive come from")
axes.grid(visible=False)
figure.colorbar(shown, ax=axes).ax.tick_params(labelsize=8)
figure

# %% [markdown]
# ## All tokens at once
#
# Every token asks at the same time. Put the queries below each other, and all scores are **one matrix product**: row
# $i$ and column $j$ of $q k^T$ is query $i$ times key $j$. The sum over values is a second product.
#
# $$ z = \mathrm{softmax}\!\left(\frac{q k^T}{\sqrt d}\right) v $$


# %%
def attend(q, k, v):
    scores = q @ k.T / np.float32(math.sqrt(q.shape[-1]))
    pattern = layers.softmax(scores)
    return scores, pattern, pattern @ v


scores, pattern, z = attend(q, k, v)
assert np.allclose(z[token], gathered, atol=1e-4)
for name, array in {"q, k, v": q, "scores": scores, "pattern": pattern, "z": z}.items():
    print(f"{name:8} {array.shape}")

# %% [markdown]
# Softmax runs along the last axis, so each **row** sums to 1: a row says whom one token asks. A **column** says who
# asks one token, and its sum can be anything.

# %%
assert np.allclose(pattern.sum(axis=1), 1, atol=1e-5)
figure = figures.canvas(900, 380, "pattern")
square, *maps = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
square.imshow(pattern, vmax=np.quantile(pattern, 0.995), interpolation="nearest")
square.annotate(
    "", (191, token), (207, token), arrowprops={"arrowstyle": "-|>", "color": "black"}, annotation_clip=False
)
square.set_xticks(range(0, 192, 24))
square.set_yticks(range(0, 192, 24))
figures.plain(square, "token that is asked", "token that asks", f"Pattern of head {head}: 192 × 192 shares")
square.grid(visible=False)
for axes, shown, text in zip(
    maps, (pattern[token], pattern.sum(axis=0)), ("arrow: the wrist's row", "sums of columns"), strict=True
):
    figures.overlay(axes, example.crop, shown.reshape(16, 12), figures.patch_extent(example.crop))
    figures.bare(axes, f"{text}\n{shown.min():.2g} to {shown.max():.2g}")
figures.mark(maps[0], example.crop, token)
figure

# %% [markdown]
# The square is read in strips of 12: token 0 to 11 are the topmost row of patches, 12 to 23 the next. The brightest
# colour stands for the highest half per cent of the shares.
#
# ## Why divide by the root of d
#
# Take queries and keys whose numbers are random, with mean 0 and variance 1. A score is a sum of $d$ products. Each
# product has variance 1, and variances of independent numbers add up: the sum has variance $d$, so its size grows as
# $\sqrt d$. What does softmax make of that? We draw such queries and keys for growing $d$, and measure three things:
# the spread of the scores, the **entropy** $-\sum_j a_j \log_2 a_j$ of the shares in bits (0: all on one token,
# $\log_2 N$: equal shares), and the length of the gradient that comes back through softmax.


# %%
def entropy(pattern):
    return -(pattern * np.log2(np.maximum(pattern, 1e-37))).sum(axis=-1)  # 0 log 0 counts as 0


rng = np.random.default_rng(4)
dims = 2 ** np.arange(11)
spread, bits, slope = ({"as they are": [], "divided by √d": []} for _ in range(3))
for d in dims:
    product = rng.standard_normal((192, d)) @ rng.standard_normal((d, 192))
    grad = rng.standard_normal((192, 192))
    for name, s in {"as they are": product, "divided by √d": product / math.sqrt(d)}.items():
        spread[name].append(s.std())
        bits[name].append(entropy(layers.softmax(s)).mean())
        slope[name].append(np.median(np.linalg.norm(gradients.softmax_backward(s, grad), axis=1)))
assert np.allclose(spread["as they are"], np.sqrt(dims), rtol=0.25)
assert np.allclose(spread["divided by √d"], 1, atol=0.25)

# %%
figure = figures.canvas(900, 290, "root-d")
panels = [
    (spread, "standard deviation of the scores", "Scores grow as √d", True),
    (bits, "bits", "Entropy of the shares", False),
    (slope, "length (median of the rows)", "Gradient that comes back", True),
]
for axes, (curves, unit, title, log) in zip(figure.subplots(1, 3), panels, strict=True):
    for i, (name, y) in enumerate(curves.items()):
        axes.plot(
            dims, y, label=name, color=figures.COLOURS[i], linestyle=figures.DASHES[i], marker="os"[i], markersize=3
        )
    figures.plain(axes, "d", unit, title, log)
    axes.set_xscale("log", base=2)
figure.axes[1].axhline(math.log2(192), color="black", linewidth=0.8, linestyle=":")
figure.axes[1].annotate(
    "equal shares", (1024, math.log2(192)), (0, 3), textcoords="offset points", fontsize=8, ha="right"
)
figure.axes[1].set_ylim(-0.3, 8.4)
figure.axes[1].legend(frameon=False, fontsize=8.5, loc="lower left")
figure

# %% [markdown]
# Without the division the heads of ViTPose, $d$ = 32 to 80, would begin their training with few tokens asked instead of
# more than a hundred. Larger ones, from 256 on, would have all shares on one token, and there softmax is flat: next to
# no gradient comes back. With the division all three stay as they are for any $d$.
#
# The bundled model was trained with the division. What if somebody forgets it? The option `qk_scale=1` of `load` does
# that:

# %%
forgot, forgot_cache = load("mini", engine="numpy", qk_scale=1.0).run_with_cache(example.images)
ends = [cells_to_crop(decode_argmax(maps[0])[0], maps.shape[2:], (256, 192)) for maps in (example.heatmaps, forgot)]
moved = np.linalg.norm(ends[1] - ends[0], axis=-1)
name = f"{at}.attn.pattern"
teach.say(
    f"Without the division the mean entropy in block 3 falls from {entropy(cache[name]).mean():.2f} to "
    f"{entropy(forgot_cache[name]).mean():.2f} bits, and the 17 keypoints move by {moved.mean():.1f} pixels of the "
    f"crop on average, the furthest by {moved.max():.0f}."
)

# %% [markdown]
# ## Softmax in float32
#
# The largest number that float32 has is about $3.4 \cdot 10^{38}$, which is $e^{88.7}$. So `exp` overflows for a score
# of 89, and below $-104$ it gives 0. Three rows whose shares are the same in truth, as only differences of scores
# count:


# %%
def softmax_naive(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


with np.errstate(all="ignore"):  # NumPy would warn of what is shown here on purpose
    for centre in (1, 101, -119):
        scores = np.array([centre - 1, centre, centre + 1], np.float32)
        print(f"scores {scores}".ljust(32), f"naive {softmax_naive(scores).round(4)}".ljust(32), end="")
        print(f"package {layers.softmax(scores).round(4)}")
    assert np.isnan(softmax_naive(np.array([100, 101, 102], np.float32))).any()

# %% [markdown]
# $\infty / \infty$ and $0 / 0$ are both NaN, and one NaN is in every token after the next product. The remedy is to
# take a number $m$ off all scores of a row. It cancels:
#
# $$ \frac{e^{s_j - m}}{\sum_i e^{s_i - m}} = \frac{e^{-m} e^{s_j}}{e^{-m} \sum_i e^{s_i}}
# = \frac{e^{s_j}}{\sum_i e^{s_i}} $$
#
# With $m$ the **maximum of the row** the largest exponent is 0: no overflow, and the sum is at least 1, so no $0 / 0$.
# The maximum of the **whole array** is not enough. A row that lies far below another one is lost:

# %%
rows = np.array([[0, 1, 2], [200, 201, 202]], np.float32)
with np.errstate(all="ignore"):
    for name, shares in {
        "maximum of each row": layers.softmax(rows),
        "maximum of the array": softmax_naive(rows - rows.max()),
    }.items():
        print(f"{name:22} {shares[0].round(4)}  {shares[1].round(4)}")
    assert np.isnan(softmax_naive(rows - rows.max())[0]).all()

# %%
largest = {i: cache[f"backbone.blocks.{i}.attn.scores"].max() for i in range(config.depth)}
teach.say(
    f"The largest scores of this model in blocks 0 to {config.depth - 1} are "
    + ", ".join(f"{value:.1f}" for value in largest.values())
    + ". Nothing keeps another model, or another picture, from more than 88."
)

# %% [markdown]
# ## Many heads
#
# One pattern gives a token one set of shares. A wrist may want to ask the elbow about one thing and the shoulder about
# another. So the 96 channels are cut into 3 heads of 32, and each head has a pattern of its own. The number of
# multiplications stays the same: $N^2 \cdot 96$ for one large head, and $3 \cdot N^2 \cdot 32$ for three.
#
# The 288 outputs of `qkv` lie like this:

# %%
figure = figures.canvas(900, 105, "columns")
axes = figure.subplots()
for part, letter in enumerate("qkv"):
    for h in range(3):
        left = 96 * part + 32 * h
        axes.barh(0, 32, left=left, color=figures.COLOURS[part], alpha=0.75 - 0.2 * h, edgecolor="white")
        axes.text(left + 16, 0, f"{letter}\nhead {h}", ha="center", va="center", fontsize=8.5, color="black")
axes.set_xticks(range(0, 289, 32))
axes.set_yticks([])
axes.set_xlim(0, 288)
figures.plain(axes, "column of qkv", title="One token's 288 numbers: queries, keys, values; in each the heads in turn")
axes.grid(visible=False)
figure

# %% [markdown]
# We want an array of shape (head, token, 32) for each of q, k, v. `reshape` only cuts the row of numbers in memory
# into pieces; it never moves one. Cutting the 288 columns into (3, 3, 32) is right: q, k and v, in each the heads, in
# each its numbers. Then `transpose` brings the axes into the order that we want.

# %%
print(inspect.getsource(layers.split_heads))
q, k, v = layers.split_heads(qkv, num_heads=3)
assert q.shape == k.shape == v.shape == (1, 3, 192, 32)
assert np.array_equal(k[0, head], qkv[0, :, 96:192][:, own])  # as we cut it out by hand above

# %% [markdown]
# **What goes wrong without the transpose?** `qkv.reshape(3, 1, 3, 192, 32)` has the right shape too, and no error
# comes. To see what it does, we send numbers through that say where they come from.

# %%
origin = np.arange(192 * 288).reshape(1, 192, 288)  # token = origin // 288, column = origin % 288
right, wrong = layers.split_heads(origin, 3)[0][0, 0], origin.reshape(3, 1, 3, 192, 32)[0][0, 0]
assert right.shape == wrong.shape and set(wrong.ravel() // 288) == set(range(22))

figure = figures.canvas(900, 290, "origin")
for axes, (name, ids, most) in zip(
    figure.subplots(1, 4),
    [
        ("right: from which token", right // 288, 191),
        ("right: from which column", right % 288, 287),
        ("no transpose: which token", wrong // 288, 191),
        ("no transpose: which column", wrong % 288, 287),
    ],
    strict=True,
):
    shown = axes.imshow(ids, vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    figures.plain(axes, "channel of q, head 0", "", name)
    axes.set_title(name, fontsize=9.5, loc="left")
    axes.grid(visible=False)
    figure.colorbar(shown, ax=axes).ax.tick_params(labelsize=8)
figure.axes[0].set_ylabel("row: should be the token", fontsize=9, color=figures.GREY)
figure

# %% [markdown]
# Right: row 0 is token 0, row 191 is token 191, and all columns are the 32 queries of head 0. Without the transpose,
# the "queries of head 0" are all 288 numbers of the first 21 tokens and a part of the next one's, keys and values among
# them. The map shows it:

# %%
wrong_q, wrong_k, _ = qkv.reshape(3, 1, 3, 192, 32)
mixed = layers.softmax(wrong_q[0, head] @ wrong_k[0, head].T / np.float32(math.sqrt(32)))
maps = {f"head {head}, the wrist's row": pattern[token], "without the transpose": mixed[token]}
maps["how far off"] = np.abs(mixed - pattern)[token]
figures.over_crop(example.crop, list(maps.values()), list(maps), token=token, columns=3, height=330)

# %%
off = np.abs(mixed - pattern).sum(axis=-1).mean() / 2
teach.say(f"On average {100 * off:.0f} % of a token's attention lies on tokens where it does not belong.")

# %% [markdown]
# Such a map does not follow the person at all. What is shown at a patch depends on which piece of 32 numbers fell
# there: of which token, and whether it is a query, a key or a value. Nine pieces make one token, so these kinds come
# again nine patches on: they are the bands in the picture of the columns above.

# %% [markdown]
# ## What the heads see
#
# Choose a token by its row and column on the grid of 16 x 12 patches, a block and a head. Left: whom the token asks.
# Right: who asks it. On a page without a kernel you see a selection instead: four joints, the heads of the first and
# the last block.


# %%
heads, blocks = range(config.num_heads), range(config.depth)


def draw(row, column, head, block):
    pattern, token = cache[f"backbone.blocks.{block}.attn.pattern"][0, head], 12 * row + column
    titles = [f"whom it asks (block {block}, head {head})", "who asks it"]
    maps = [pattern[token], pattern[:, token]]
    return figures.over_crop(example.crop, maps, titles, token=token, columns=2, height=360, name="explore")


def sheet(joints=("nose", "left_elbow", "right_wrist", "left_knee"), blocks=(0, config.depth - 1)):
    tokens = [example.token_of(joint) for joint in joints]
    patterns = [(b, h, cache[f"backbone.blocks.{b}.attn.pattern"][0, h]) for b in blocks for h in heads]
    maps = [pattern[t] for t in tokens for _, _, pattern in patterns]
    title = "Whom four joints ask: a row for each joint, a column for each head"
    marked = np.repeat(tokens, len(patterns))
    figure = figures.over_crop(example.crop, maps, None, marked, len(patterns), 195, title, "heads")
    for axes, (b, h, _) in zip(figure.axes, patterns, strict=False):
        axes.set_title(f"block {b}\nhead {h}", fontsize=9)
    for axes, joint in zip(figure.axes[:: len(patterns)], joints, strict=True):
        axes.annotate(
            joint.replace("_", " "), (-0.08, 0.5), xycoords="axes fraction", rotation=90, va="center", ha="right"
        )
    return figure


wrist = dict(zip(("row", "column"), divmod(example.token_of("right_wrist"), 12), strict=True))
teach.explore(draw, sheet, wrist | {"block": blocks[-1]}, row=range(16), column=range(12), head=heads, block=blocks)

# %% [markdown]
# How much do two heads differ? The share of attention that one would have to move to become the other, from 0 to 1:

# %%
for block in blocks:
    p = cache[f"backbone.blocks.{block}.attn.pattern"][0]
    apart = np.array([[np.abs(a - b).sum(axis=-1).mean() / 2 for b in p] for a in p])
    pairs = apart[np.triu_indices(len(p), 1)]
    print(f"block {block}: least alike {pairs.max():.2f}, most alike {pairs.min():.2f}")

# %% [markdown]
# ## Merge and mix
#
# Each head has gathered 32 numbers for each token. `merge_heads` lays the heads side by side again, 96 numbers a
# token. Then the linear layer `proj` mixes them, so that one head's finding can reach every channel.

# %%
scores = (q * np.float32(32**-0.5)) @ k.swapaxes(-1, -2)  # all heads at once: @ treats the first axes as a batch
pattern = layers.softmax(scores)
gathered = pattern @ v
z = layers.merge_heads(gathered)
out = layers.linear(z, **weights["proj"])
steps = {"q, k, v": q, "scores": scores, "pattern": pattern, "pattern @ v": gathered, "z": z, "proj": out}
for name, array in steps.items():
    print(f"{name:12} {array.shape}")

# %% [markdown]
# A matrix product is a sum over columns, so the output is the sum of what each head gives on its own, and the bias.
# The heads never meet before this sum.

# %%
parts = [gathered[:, h] @ weights["proj"]["weight"][:, 32 * h : 32 * h + 32].T for h in heads]
assert np.allclose(sum(parts) + weights["proj"]["bias"], out, atol=1e-4)
sizes = {f"head {h}": np.linalg.norm(part[0], axis=-1) for h, part in enumerate(parts)}
figures.over_crop(
    example.crop,
    list(sizes.values()),
    list(sizes),
    columns=3,
    height=330,
    title="How long the vector is that each head adds",
)

# %% [markdown]
# ## Beside the reference
#
# Everything that this notebook computed of block 3, against what PyTorch computed for the same picture with the same
# weights. The column "% of tol." says how much of the allowed error was used.

# %%
computed = {"qkv": qkv, "q": q, "k": k, "v": v, "scores": scores, "pattern": pattern, "z": z, "proj": out, "": out}
report = teach.against_reference({f"{at}.attn.{name}".rstrip("."): x for name, x in computed.items()})
assert report.ok
report

# %% [markdown]
# `attn` is the name of the whole module; what it returns is what `proj` returns, so the last two rows are the same.
# The whole of attention in the package:

# %%
print(inspect.getsource(layers.attention))

# %% [markdown]
# ## Attention as a whole
#
# Two numbers sum up a head. How far away does it look, on average over all tokens? And how many bits is the entropy of
# its shares? An entropy of $b$ bits is that of equal shares on $2^b$ tokens.

# %%
place = np.stack(np.divmod(np.arange(192), 12), axis=-1)  # (192, 2): row and column of each token
far = np.linalg.norm(place[:, None] - place, axis=-1)  # (192, 192), in patches
patterns = [cache[f"backbone.blocks.{block}.attn.pattern"][0] for block in blocks]
distance = np.array([(p * far).sum(axis=-1).mean(axis=-1) for p in patterns])  # (8 blocks, 3 heads)
bits = np.array([entropy(p).mean(axis=-1) for p in patterns])
assert distance.shape == bits.shape == (8, 3) and (bits <= math.log2(192) + 1e-3).all()

# %%
figure = figures.canvas(860, 320, "heads-in-numbers")
for axes, y, unit, title, equal in zip(
    figure.subplots(1, 2),
    (distance, bits),
    ("patches of 16 pixels", "bits"),
    ("Mean distance attended", "Mean entropy of the shares"),
    (far.mean(), math.log2(192)),
    strict=True,
):
    for h in heads:
        axes.plot(np.arange(8) + 0.1 * (h - 1), y[:, h], "osD"[h], color=figures.COLOURS[h], label=f"head {h}")
    axes.axhline(equal, color="black", linestyle="--", linewidth=1)
    axes.annotate("equal shares", (7.2, equal), (0, 3), textcoords="offset points", fontsize=8, ha="right")
    figures.plain(axes, "block", unit, title)
    axes.set_xticks(blocks)
figure.legend(
    *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
)
figure

# %%
sharpest, broadest = (np.unravel_index(i, bits.shape) for i in (bits.argmin(), bits.argmax()))
teach.say(
    f"The sharpest head is head {sharpest[1]} of block {sharpest[0]}: $2^{{{bits.min():.1f}}}$ is about "
    f"{2 ** bits.min():.0f} tokens. The broadest is head {broadest[1]} of block {broadest[0]}, about "
    f"{2 ** bits.max():.0f} of 192."
)

# %% [markdown]
# A word of care. A pattern says from where values were taken. It does not say what was in them, and it is not a proof
# of what the network decided by. [06](06_block.ipynb) takes branches out and looks at the keypoints instead.
#
# ## From loops to compiled code
#
# One head in three ways: the loops from above for each of the 192 queries, two matrix products in NumPy, and loops
# again, compiled by Numba. This is the compiled loop that makes the scores:

# %%
from minivitpose.kernels.attention import dots

print(inspect.getsource(dots.py_func))

# %%
one = [a[:, head : head + 1] for a in (q, k, v)]  # (1, 1, 192, 32) each
as_lists = [a[0, 0].tolist() for a in one]


def head_loops():
    queries, keys, values = as_lists
    return [attend_loops(query, keys, values)[2] for query in queries]


assert np.allclose(head_loops(), layers.scaled_dot_product_attention(*one)[0, 0], atol=1e-4)
teach.race(
    {
        "loops in Python": head_loops,
        "NumPy": lambda: layers.scaled_dot_product_attention(*one),
        "Numba": lambda: kernels.scaled_dot_product_attention(*one),
    }
)

# %% [markdown]
# ## What it costs
#
# The two products of each head make $N \cdot N \cdot d$ multiplications each, $2 N^2 C$ for all heads. `qkv` and
# `proj` make $4 N C^2$. Twice the height and width of the picture are four times the tokens, and sixteen times the
# first of these. Both are the same where $N = 2C$, which is the bundled model's crop: 192 tokens of 96 numbers.


# %%
def products_between_tokens(N, C=96):
    return 2 * N * N * C


def products_of_linear(N, C=96):
    return 4 * N * C * C


assert products_between_tokens(192) == products_of_linear(192)  # N = 2 C
assert products_between_tokens(4 * 192) == 16 * products_between_tokens(192)

tokens = np.array([48, 96, 192, 432, 768, 1728, 3072])
curves = {
    "between tokens: 2 N² C": products_between_tokens(tokens),
    "linear layers: 4 N C²": products_of_linear(tokens),
}
figure = figures.lines(
    tokens, curves, ("tokens N", "multiplications"), "Attention of one block, C = 96", log=True, marker="o"
)
axes = figure.axes[0]
axes.set_xscale("log")
for N, size in {192: "256 × 192", 768: "512 × 384", 3072: "1024 × 768\npixels"}.items():
    axes.axvline(N, color="grey", linewidth=0.7)
    axes.annotate(size, (N, axes.get_ylim()[0]), (-3, 4), textcoords="offset points", fontsize=8, ha="right")
figure

# %%
random = np.random.default_rng(0).standard_normal


def heads_of(N):
    return [random((1, 3, N, 32), dtype=np.float32) for _ in range(3)]


inputs = {"256 x 192: 192 tokens": heads_of(192), "384 x 288: 432 tokens": heads_of(432)}
inputs["512 x 384: 768 tokens"] = heads_of(768)
times = teach.race({name: lambda a=a: kernels.scaled_dot_product_attention(*a) for name, a in inputs.items()})
times

# %%
longer = times.times("512 x 384: 768 tokens", "256 x 192: 192 tokens")
teach.say(
    f"Four times the tokens make 16 times the products. They took {longer:.0f} times as long here, beside "
    "whatever else this machine was doing."
)

# %% [markdown]
# The memory grows in the same way: $h N^2$ scores of 4 bytes each. The fast engine of this package therefore never
# writes them to memory. It takes a few rows of one head at a time, which fit into the nearest cache.

# %% [markdown]
# ## Exercise 4.1 · Softmax
#
# Difficulty ●○○ · 5 minutes. Write `softmax` along the last axis, for an array of any shape, which survives large
# scores.
#
# <details><summary>Hint 1</summary>Take off <code>x.max(axis=-1, keepdims=True)</code> first.</details>
# <details><summary>Hint 2</summary>The sum needs <code>keepdims=True</code> too, so that each row is divided by its
# own sum.</details>


# %% tags=["exercise"]
def softmax(x): ...  # your code


teach.check("softmax", softmax)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


### END SOLUTION
teach.check("softmax", softmax)

# %% [markdown]
# ## Exercise 4.2 · One head
#
# Difficulty ●●○ · 5 minutes. Write `attention_head`: q, k, v of shape $(N, d)$ in, what each token gathers out. Your
# function shall give float32 for float32.
#
# <details><summary>Hint 1</summary>Scores first: <code>q @ k.T</code>, divided by the root of
# <code>q.shape[-1]</code>.</details>
# <details><summary>Hint 2</summary>A <code>np.float64</code> number such as <code>np.sqrt(32)</code> makes float32
# arrays into float64. A Python number such as <code>math.sqrt(32)</code> does not.</details>


# %% tags=["exercise"]
def attention_head(q, k, v): ...  # your code


teach.check("attention_head", attention_head)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def attention_head(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    return layers.softmax(scores) @ v


### END SOLUTION
teach.check("attention_head", attention_head)

# %% [markdown]
# ## Exercise 4.3 · Split the heads
#
# Difficulty ●●○ · 10 minutes. Write `split_heads`: $(B, N, 3 h d)$ in, three arrays of $(B, h, N, d)$ out. First
# without the transpose, to see what `teach.check` says; then right.
#
# <details><summary>Hint 1</summary>Cut the last axis only: <code>x.reshape(B, N, 3, num_heads, d)</code>.</details>
# <details><summary>Hint 2</summary>The axes are now (B, N, 3, h, d) and shall become (3, B, h, N, d).</details>


# %% tags=["exercise"]
def split_heads(x, num_heads): ...  # your code; return q, k, v


teach.check("split_heads", split_heads)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def split_heads(x, num_heads):
    B, N, columns = x.shape
    q, k, v = x.reshape(B, N, 3, num_heads, columns // (3 * num_heads)).transpose(2, 0, 3, 1, 4)
    return q, k, v


### END SOLUTION
teach.check("split_heads", split_heads)

# %% [markdown]
# ## Exercise 4.4 · Attention
#
# Difficulty ●●○ · 10 minutes. Put all of it together: `attention(x, qkv, proj, num_heads)`, where `qkv` and `proj` are
# dicts with `weight` and `bias`, so that `layers.linear(x, **qkv)` is the first step.
#
# <details><summary>Hint 1</summary>linear, split the heads, scores, softmax, times v, merge the heads,
# linear.</details>
# <details><summary>Hint 2</summary>For four axes the transpose of the keys is <code>k.swapaxes(-1,
# -2)</code>.</details>
# <details><summary>Hint 3</summary>To merge: <code>z.transpose(0, 2, 1, 3).reshape(B, N, -1)</code>.</details>


# %% tags=["exercise"]
def attention(x, qkv, proj, num_heads): ...  # your code


teach.check("attention", attention)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def attention(x, qkv, proj, num_heads):
    B, N, _ = x.shape
    q, k, v = layers.split_heads(layers.linear(x, **qkv), num_heads)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    z = layers.softmax(scores) @ v
    return layers.linear(z.transpose(0, 2, 1, 3).reshape(B, N, -1), **proj)


### END SOLUTION
teach.check("attention", attention)

# %% [markdown]
# ## Exercise 4.5 · Does attention know where a token is?
#
# Difficulty ●●● · 10 minutes. Shuffle the 192 tokens of `x` and run attention. How does the output differ from that of
# the tokens in order? What does that say about the positions of notebook [02](02_positions.ipynb)?
#
# <details><summary>Hint</summary>Compare <code>attention(x[:, order])</code> with <code>attention(x)[:,
# order]</code>.</details>

# %% tags=["exercise"]
order = np.random.default_rng(5).permutation(192)
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
shuffled = layers.attention(x[:, order], **weights, num_heads=3)
in_order = layers.attention(x, **weights, num_heads=3)[:, order]
print(f"largest difference: {np.abs(shuffled - in_order).max():.1e}, largest number: {np.abs(in_order).max():.1f}")
print("The same but for rounding: attention sees a set of tokens. Only the positions that were added to them say where")
print("each one is, and whatever a head knows of near and far it has read off these.")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/kernels/attention.py`: the compiled loops. `kernels/fused/attention.py`: a few rows at a time, without
#   the square of scores in memory. Dao et al.: FlashAttention (2022) does the same on a graphics card.
# - Vaswani et al.: Attention is all you need (2017), sections 3.2.1 and 3.2.2. Dosovitskiy et al.: An image is worth
#   16x16 words (2021), figure 7: distance attended in a large model.
# - Jain and Wallace: Attention is not explanation (2019), and Wiegreffe and Pinter: Attention is not not explanation
#   (2019).
# - The way back through softmax: [14](14_learning.ipynb), and `minivitpose/gradients.py`.
# - Next: [05 · MLP](05_mlp.ipynb).
