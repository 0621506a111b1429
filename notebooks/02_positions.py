# %% [markdown]
# # 02 · Positions, and the slot of the class token
#
# **After this notebook you can** say why a transformer must be told where its tokens are, read the table of positions
# as a map, run a model on another image size, and spot a mistake that is easily made when ViTPose is ported.
#
# 30 minutes to read, 35 for the exercises. Needs: what a token is ([01](01_patches.ipynb)). Nothing is downloaded.

# %%
import inspect

import numpy as np

import minivitpose as mvp
from minivitpose import layers, teach
from minivitpose.pose import crop, network_input
from minivitpose.pose.decode import decode
from minivitpose.teach import figures
from minivitpose.training.start import waves

example = teach.example()
tokens = layers.to_tokens(example.cache["backbone.patch_embed.proj"])  # the patches, before the positions
pos_embed = example.params["backbone"]["pos_embed"]
rng = np.random.default_rng(0)

assert tokens.shape == (1, 192, 96) and pos_embed.shape == (1, 193, 96)
tokens.shape, pos_embed.shape

# %% [markdown]
# ## Why positions
#
# Attention lets every token look at every other ([04](04_attention.ipynb) takes it apart). Nothing in its formula says
# which token stood where. So what if the tokens come in another order?

# %%
order = rng.permutation(192)
qkv = layers.linear(tokens.astype(np.float64), **example.block["attn"]["qkv"])  # float64: no rounding to argue about
q, k, v = layers.split_heads(qkv, example.model.config.num_heads)
answer = layers.scaled_dot_product_attention(q, k, v)
shuffled = layers.scaled_dot_product_attention(q[:, :, order], k[:, :, order], v[:, :, order])

difference = np.abs(shuffled - answer[:, :, order]).max()
assert difference < 1e-10
print(f"each token gets the same answer, wherever it stands: largest difference {difference:.0e}")

# %% [markdown]
# The same answers in the new order: attention is blind to order. So are layer norm and the MLP, which look at each
# token alone, and so is the whole stack of blocks. If no positions are added, these two pictures are one to it:


# %%
def patchwork(order):
    """The crop with its patches in another order (256 × 192 pixels, cut without the padding, for the eye)."""
    patches = example.crop.pixels.reshape(16, 16, 12, 16, 3).transpose(0, 2, 1, 3, 4).reshape(192, 16, 16, 3)
    return patches[order].reshape(16, 12, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(256, 192, 3)


def run(x, model=example.model):
    """Heatmaps and cache if ``x`` (1, 192, 96) goes into the first block."""
    return model.run_with_cache(example.images.astype(model.dtype), replace={"backbone.pos": x.astype(model.dtype)})


exact = example.model.astype("float64")
last = [run(x, exact)[1]["backbone.last_norm"] for x in (tokens, tokens[:, order])]
assert np.allclose(last[1], last[0][:, order], rtol=0, atol=1e-9)
title = "Without positions, the same to all eight blocks"
figures.tiles([example.crop.pixels, patchwork(order)], ["the crop", "its patches, shuffled"], 2, 320, title=title)

# %% [markdown]
# `assert` has just shown it: after eight blocks, each token has the same numbers in both.
#
# ## The formula
#
# ViTPose adds to each token a vector that was learnt for its place:
#
# $$ z_n = x_n + p_{1 + n} + p_0, \qquad n = 0, \dots, N - 1 $$
#
# $x_n$ is the token of patch $n$, in reading order. $p$ is the table `pos_embed`: N + 1 rows of C numbers, here 193 ×
# 96. Row $1 + n$ belongs to patch $n$. Row 0 is added to every token; that is odd, and we come to it.
#
# ## The code
#
# In loops:


# %%
def add_positions_loops(x, pos_embed):
    z = np.empty_like(x)
    B, N, C = x.shape
    for b in range(B):
        for n in range(N):
            for c in range(C):
                z[b, n, c] = x[b, n, c] + pos_embed[0, 1 + n, c] + pos_embed[0, 0, c]
    return z


teach.against_reference("backbone.pos", add_positions_loops(tokens, pos_embed))

# %% [markdown]
# In NumPy it is one line. The table has a first axis of length 1, and `pos_embed[:, :1]` keeps row 0 as an axis of
# length 1, so both spread over all images and all tokens by broadcasting.

# %%
print(inspect.getsource(layers.add_positions))
teach.against_reference("backbone.pos", layers.add_positions(tokens, pos_embed))

# %%
teach.race(
    {
        "loops in Python": lambda: add_positions_loops(tokens, pos_embed),
        "NumPy": lambda: layers.add_positions(tokens, pos_embed),
    }
)

# %% [markdown]
# There is no Numba version: 18,432 sums are too few to gain anything. The fast engine adds both rows into one table
# when the model is loaded, and exercise 2.2 does the same.
#
# How large are the three parts of a token?

# %%
size = {"the patch": tokens[0], "its position": pos_embed[0, 1:]}
size = {name: np.linalg.norm(vectors, axis=1) for name, vectors in size.items()}
figures.over_crop(example.crop, list(size.values()), [f"length of {name}" for name in size], columns=2, height=300)

# %%
teach.say(
    f"Mean length of the vectors: {size['the patch'].mean():.1f} from the patch, {size['its position'].mean():.1f} "
    f"from its position. Row 0, which all tokens get, has length {np.linalg.norm(pos_embed[0, 0]):.2f}."
)

# %% [markdown]
# ## What was learnt
#
# The training of this model did not start from a random table, but from sines and cosines: the first half of the
# channels are waves along the columns, the second half along the rows, each from fast to slow (`waves` in
# `training/start.py`). Neighbours then are alike from the start. After that every one of the 193 × 96 numbers was free
# to change. What has become of them?
#
# Each small map below belongs to one patch: how much is its position like every other position? (Cosine of the angle
# between the two vectors, after the mean of all positions is taken off: 1 is the same direction, 0 is none in common.)


# %%
def centred(table):
    """(192, C) without the mean of its rows."""
    return table - table.mean(axis=0)


def cosines(place):
    """Cosines of all pairs of rows: (192, 192)."""
    unit = place / np.linalg.norm(place, axis=1, keepdims=True)
    return unit @ unit.T


place, at_start = centred(pos_embed[0, 1:]), centred(waves((16, 12), 96))
similarity = cosines(place)
assert similarity.shape == (192, 192) and np.allclose(np.diag(similarity), 1, atol=1e-5)

maps = np.pad(similarity.reshape(16, 12, 16, 12), ((0, 0), (0, 0), (0, 2), (0, 2)), constant_values=np.nan)
mosaic = maps.transpose(0, 2, 1, 3).reshape(16 * 18, 12 * 14)
canvas = teach.canvas(620, 800, "similarity")
ax = canvas.subplots()
image = ax.imshow(mosaic, cmap=figures.SIGNED, vmin=-1, vmax=1, interpolation="nearest")
ax.set_xticks(14 * np.arange(12) + 5.5, range(12), fontsize=8, color=figures.GREY)
ax.set_yticks(18 * np.arange(16) + 7.5, range(16), fontsize=8, color=figures.GREY)
figures.plain(ax, "column of the patch", "row of the patch", "192 maps: where the positions are like this patch's own")
ax.grid(visible=False)
canvas.colorbar(image, ax=ax, shrink=0.4, label="cosine").ax.tick_params(labelsize=8)
canvas

# %% [markdown]
# Each map is 1 at its own patch and falls off around it. It does not go on falling: most maps rise a second time, less
# high, rows away in the same column, and those of the edge are rings. The table has kept what is near, and it is no
# flat sheet. Some of the maps over the crop, with their patch marked, and below them the same for the
# table that the training started from:


# %%
def one_place(row, column):
    token = 12 * row + column
    title = f"like row {row}, column {column}"
    return figures.over_crop(example.crop, [similarity[token]], [title], token, columns=1, height=420)


def some_places():
    joints = ("nose", "left_wrist", "left_ankle")
    chosen = {"corner": 0, "left edge": 96, "low right": 191}
    chosen |= {joint.replace("_", " "): example.token_of(joint) for joint in joints}
    places = list(chosen.values())
    maps = [*similarity[places], *cosines(at_start)[places]]
    titles = [*chosen, *(f"{name}, start" for name in chosen)]
    return figures.over_crop(example.crop, maps, titles, places * 2, columns=6)


teach.explore(one_place, some_places, {"row": 8, "column": 6}, row=range(16), column=range(12))

# %% [markdown]
# At the start the maps are crosses: a patch was like its neighbours, and a little like all of its row and its column.
# Training has made spots of the crosses where people stand. At the edge there is seldom anybody, since the crop is
# larger than the box: there a patch has become like the edge all around.
#
# Is the table a sum of one vector for the row and one for the column? Take the mean over each row and over each column
# of the grid, and see how much of the variance they explain. What is left needs both. At the start nothing was left, as
# each wave runs along the rows or along the columns. So what is left was learnt.


# %%
def explained(place):
    """Percent of a table's variance that depends on the row, on the column, on both together only."""
    plane = place.reshape(16, 12, 96)
    row, column = plane.mean(axis=1, keepdims=True), plane.mean(axis=0, keepdims=True)
    parts = {"the row": row, "the column": column, "both together only": plane - row - column}
    parts = {name: np.broadcast_to(part, plane.shape) for name, part in parts.items()}
    return {name: 100 * np.square(part).sum() / np.square(plane).sum() for name, part in parts.items()}


shares, before = explained(place), explained(at_start)
assert all(np.isclose(sum(percent.values()), 100, atol=0.01) for percent in (shares, before))
assert before["both together only"] < 1e-9 < 1 < shares["both together only"]
shares |= {f"at the start, {name}": round(share, 6) for name, share in before.items()}
figures.bars(shares, "percent of the variance", "What a position depends on")

# %% [markdown]
# And the strongest patterns in the table, its principal components, each a map over the grid.

# %%
u, s, _ = np.linalg.svd(place, full_matrices=False)
names = [f"{100 * share:.0f} % of the variance" for share in s[:6] ** 2 / np.sum(s**2)]
patterns = list((u * s).T[:6].reshape(6, 16, 12))
figures.tiles(patterns, names, 6, 210, limits="signed", title="The first six patterns of the table")

# %% [markdown]
# ## Do the joints need them?
#
# The decoder works on the grid, too, so it knows where each token lies. Yet only the positions tell the *blocks*. What
# becomes of the heatmaps if these are wrong? `replace` lets the network go on with tokens of our own making.

# %%
grid = pos_embed[0, 1:].reshape(16, 12, 96)


def with_table(grid, slot=pos_embed[:, :1]):
    """The tokens with another table of positions, (16, 12, 96)."""
    return tokens + grid.reshape(1, 192, 96) + slot


cases = {
    "right": with_table(grid),
    "none": with_table(0 * grid),
    "shuffled": with_table(pos_embed[0, 1:][order]),
    "4 rows down": with_table(np.roll(grid, 4, axis=0)),
    "3 columns right": with_table(np.roll(grid, 3, axis=1)),
    "mirrored": with_table(grid[:, ::-1]),
}
results = {name: run(x)[0][0] for name, x in cases.items()}
assert np.array_equal(cases["right"], example.cache["backbone.pos"])

highest = [heatmaps.max(axis=0) for heatmaps in results.values()]
figures.over_crop(example.crop, highest, list(cases), columns=6, height=225, title="The highest of the 17 heatmaps")

# %%
truth = example.people[example.person].keypoints[:, :2]


def distances(heatmaps):
    """Of the 17 joints found, to the true ones, in pixels of the picture."""
    found, _ = decode(heatmaps, example.crop.centre, example.crop.scale)
    return np.linalg.norm(found - truth, axis=1)


moved_by = {name: float(np.median(distances(heatmaps))) for name, heatmaps in results.items()}
assert moved_by["right"] < min(moved_by["none"], moved_by["shuffled"])
figures.bars(moved_by, "pixels of the picture, median over 17 joints", "How far the joints are from the truth")

# %% [markdown]
# Without positions, or with shuffled ones, the pose is lost, though all patches are still there. Moving the whole table
# is another kind of lie. The tokens still know who is whose neighbour, but the network believes that a foot is where a
# knee is, and it has learnt where feet usually are. A move sideways does less harm: heads are above feet in most
# pictures, but left and right have no such order.
#
# ## The slot of the class token
#
# The table has 193 rows for 192 patches. In the pretraining of the public models (MAE) a first token stood before the
# patches, the **class token**, with row 0 as its position. ViTPose has no such token. Yet its code adds row 0 to every
# token:
#
# `x = x + pos_embed[:, 1:] + pos_embed[:, :1]`
#
# The code does not say why. The weights were trained so and expect it. The bundled model had no pretraining, but the
# same code: its row 0 began at zero and was learnt with the rest. Somebody who ports ViTPose and knows ViT sees 193
# rows and no class token, and drops row 0, or takes the first 192 rows. What does that cost?

# %%
right = cases["right"]
mistakes = {
    "row 0 forgotten": with_table(grid, 0),
    "the first 192 rows": with_table(pos_embed[0, :-1].reshape(16, 12, 96), 0),
    "row 0 twice": with_table(grid, 2 * pos_embed[:, :1]),
    "columns before rows": with_table(grid.reshape(12, 16, 96).transpose(1, 0, 2)),
}
wrong = {name: 100 * np.linalg.norm(x - right) / np.linalg.norm(right) for name, x in mistakes.items()}
assert min(wrong.values()) > 1e-3  # float32 rounds at 1e-5 percent
figures.bars(wrong, "percent of the tokens' size", "How far off the tokens are, with four mistakes")

# %%
before, _ = decode(results["right"], example.crop.centre, example.crop.scale)
for name, x in mistakes.items():
    after, _ = decode(run(x)[0][0], example.crop.centre, example.crop.scale)
    moved = np.linalg.norm(after - before, axis=1)
    print(f"{name:22} joints move by {np.median(moved):6.2f} pixels (median), {moved.max():6.2f} (most)")

# %% [markdown]
# What row 0 is worth depends on the model: how large it is, and how much the training used it. A mistake that moves the
# joints a little is worse than one that moves them much, for nobody sees it. The poses look right, and the accuracy is
# a little lower than the paper's. Comparing activations finds it at once, and in the right place:

# %%
slot_forgotten = run(mistakes["row 0 forgotten"])[1]
slot_forgotten["backbone.pos"] = mistakes["row 0 forgotten"]  # the cache has what the model itself computed there
print(mvp.compare(slot_forgotten, example.reference).verdict()[0])

# %% [markdown]
# ## Another image size
#
# The table was learnt for 16 × 12 patches. A larger crop has more patches and needs more positions. They are
# interpolated between the known ones as if each channel were a picture: bicubic, as PyTorch does it. Row 0 stays as it
# is.

# %%
larger = layers.resize_positions(pos_embed, (16, 12), (24, 18))
assert larger.shape == (1, 1 + 24 * 18, 96) and np.array_equal(larger[:, 0], pos_embed[:, 0])
component = place.T @ u[:, 0]  # the strongest pattern of above
known, between = ((table[0, 1:] - pos_embed[0, 1:].mean(axis=0)) @ component for table in (pos_embed, larger))
titles = ["learnt: 16 × 12", "interpolated: 24 × 18"]
figures.tiles(
    [known.reshape(16, 12), between.reshape(24, 18)], titles, 2, 280, limits="signed", title="The strongest pattern"
)

# %% [markdown]
# `model(images)` does this by itself where the size is not the usual one. The same person in crops of three sizes:

# %%
sizes, maps, found = [(192, 144), (256, 192), (384, 288)], [], []
for height, width in sizes:
    sized = crop(example.image, example.boxes[example.person], (height, width))
    heatmaps = example.model(network_input(sized))[0]
    assert heatmaps.shape == (17, height // 4, width // 4)
    keypoints, scores = decode(heatmaps, sized.centre, sized.scale)
    off = np.median(np.linalg.norm(keypoints - truth, axis=1))
    maps.append(heatmaps.max(axis=0))
    found.append(f"{height} × {width} pixels\n{off:.1f} pixels off (median), mean score {scores.mean():.2f}")
figures.tiles(maps, found, columns=3, height=400, title="Heatmaps of three image sizes, one set of weights")

# %% [markdown]
# It runs, without any training for these sizes, and the larger crop need not be the worse one: a cell of its heatmap is
# less of the picture. But its joints are more patches apart than in any crop of the training, and each patch shows less
# of the person. The further off the size, the less it can be relied upon.
#
# ## Exercise 2.1 · Write it
#
# Difficulty ●○○ · 5 minutes. Write `positions`: x (B, N, C) and the table (1, 1 + N, C) in, tokens with positions out.
# Then make the mistakes of above and let the check name them.
#
# <details><summary>Hint</summary>Three terms. Which rows belong to the patches, and which to all?</details>


# %% tags=["exercise"]
def positions(x, pos_embed): ...  # your code


teach.check("positions", positions)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def positions(x, pos_embed):
    return x + pos_embed[:, 1:] + pos_embed[:, :1]


### END SOLUTION
teach.check("positions", positions)

# %% [markdown]
# ## Exercise 2.2 · One table
#
# Difficulty ●○○ · 5 minutes. Both rows can be added together once, when the model is loaded, and the bias of the patch
# embedding with them. Make one table (192, 96) so that the patches without bias plus this table are `backbone.pos`.
#
# <details><summary>Hint</summary>Addition does not mind the order: (W x + b) + p + p0 = W x + (b + p + p0).</details>

# %% tags=["exercise"]
proj = example.params["backbone"]["patch_embed"]["proj"]
without_bias = layers.to_tokens(layers.patch_embed(example.images, proj["weight"]))
table = np.zeros((192, 96), np.float32)  # your code
print("largest difference", np.abs(without_bias + table - example.cache["backbone.pos"]).max())

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
table = proj["bias"] + pos_embed[0, 1:] + pos_embed[0, 0]
difference = np.abs(without_bias + table - example.cache["backbone.pos"]).max()
assert difference < 1e-4
print(f"largest difference {difference:.1e}: rounding, as the sums are in another order")
### END SOLUTION

# %% [markdown]
# ## Exercise 2.3 · Read the place off the vector
#
# Difficulty ●●● · 15 minutes. Given only the vector of a position, can you say its row and its column? Fit a linear
# rule on every second patch, as on a chessboard, and try it on the others. With 96 numbers a position and only 96
# examples, a rule can learn anything by heart: use only the first 12 principal components.
#
# <details><summary>Hint 1</summary><code>(u * s)[:, :12]</code> from above, with a column of ones beside it.</details>
# <details><summary>Hint 2</summary><code>np.linalg.lstsq(inputs[black], targets[black])</code>, where
# <code>black = (rows + columns) % 2 == 0</code>.</details>

# %% tags=["exercise"]
rows, columns = np.divmod(np.arange(192), 12)
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
black = (rows + columns) % 2 == 0
inputs = np.column_stack([(u * s)[:, :12], np.ones(192)])
targets = np.column_stack([rows, columns])
rule = np.linalg.lstsq(inputs[black], targets[black])[0]
error = np.abs(inputs @ rule - targets)[~black]
middle = np.abs(targets[~black] - targets[black].mean(axis=0))
print("mean error in rows and columns, on the patches that were not used to fit the rule")
print("the rule:", error.mean(axis=0).round(2), " always saying the middle:", middle.mean(axis=0).round(2))
### END SOLUTION

# %% [markdown]
# ## Exercise 2.4 · In the mirror
#
# Difficulty ●●○ · 10 minutes. Did swapping left and right in the table do little harm above, or much? Say why, from
# the maps of similarity. Then find the patches whose positions are most unlike those of their mirror images.
#
# <details><summary>Hint</summary>The mirror of row r, column c is row r, column 11 - c:
# <code>np.arange(192).reshape(16, 12)[:, ::-1].ravel()</code>.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
mirror = np.arange(192).reshape(16, 12)[:, ::-1].ravel()
alike = similarity[np.arange(192), mirror]
print(f"mean similarity with the mirror image {alike.mean():.2f}, with all positions {similarity.mean():.2f}")
away, straight, down = (moved_by[name] for name in ("mirrored", "right", "4 rows down"))
print(f"The joints are {away:.1f} pixels off with the table in the mirror, {straight:.1f} with the table as it is, and")
print(f"{down:.1f} with it four rows down.")
print("People are seen from in front and from behind, so a left arm may be on either side; and training mirrors crops")
print("and renames the joints. What is learnt for a place holds for its mirror image, mirrored. Yet a token must know")
print("on which side it is: the two are alike, but not the same.")
figures.over_crop(
    example.crop, [alike], ["like the position in the mirror"], int(alike.argmin()), columns=1, height=420
)
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `layers.bicubic_weights`, 14 lines: interpolation as one matrix. `folded_positions` in `minivitpose/engine.py`.
# - Dosovitskiy et al.: An image is worth 16x16 words (2021), figure 7 in the middle: the same maps of similarity for a
#   large model.
# - He et al.: Masked autoencoders are scalable vision learners (2022): the pretraining, and its class token.
# - Next: [03 · Layer norm](03_layer_norm.ipynb).
