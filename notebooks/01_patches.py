# %% [markdown]
# # 01 · From picture to patches
#
# **After this notebook you can** turn a picture into tokens in four ways that give the same numbers, say what a
# convolution is and when it is one matrix product, and explain the padding of 2 that users ask about.
#
# 35 minutes to read, 50 for the exercises. Needs: what the network does as a whole ([00](00_the_whole_picture.ipynb)).
# Nothing is downloaded.

# %%
import inspect

import numpy as np
from matplotlib.patches import Rectangle
from numpy.lib.stride_tricks import sliding_window_view

import minivitpose as mvp
from minivitpose import kernels, layers, teach
from minivitpose.plot import UNSEEN, overlay, patch_extent
from minivitpose.pose import network_input
from minivitpose.pose.crop import MEAN, STD, normalised
from minivitpose.pose.decode import decode
from minivitpose.teach import figures

example = teach.example()
images = example.images  # the crop as the network takes it
proj = example.params["backbone"]["patch_embed"]["proj"]
weight, bias = proj["weight"], proj["bias"]

assert images.shape == (1, 3, 256, 192) and weight.shape == (96, 3, 16, 16) and bias.shape == (96,)
images.shape, weight.shape, bias.shape

# %% [markdown]
# ## Why patches
#
# A transformer works on a list of tokens, and in its attention each token is compared with each: N tokens make a table
# of N × N numbers in every head. Could every pixel be a token?

# %%
tables = {f"{side} x {side} pixels a token": ((256 // side) * (192 // side)) ** 2 for side in (1, 4, 8, 16, 32)}
assert 4 * tables["1 x 1 pixels a token"] > 9e9 and 4 * tables["16 x 16 pixels a token"] == 147_456  # bytes
figures.bars(tables, "numbers in one table, N × N", "The smaller the patch, the larger the table", log=True)

# %% [markdown]
# In float32, one table of single pixels would take more than 9 GB. With 16 × 16 pixels to a patch there are 192 tokens,
# and a table takes 147 kB. The price: within a patch, all detail must be told in the 96 numbers of its token.
#
# ## The pixels become numbers about 0
#
# First each colour is shifted and scaled by the mean and the standard deviation of ImageNet's pixels:
#
# $$ x_c = \frac{v_c / 255 - \mathrm{mean}_c}{\mathrm{std}_c} $$
#
# where $v_c$ is the byte of colour $c$. The public checkpoints were trained so, and the bundled model is, too.

# %%
by_hand = (example.crop.pixels / 255 - MEAN) / STD
by_hand = by_hand.transpose(2, 0, 1)[None]  # the colours first, and a batch of one
assert np.allclose(by_hand, network_input(example.crop), atol=1e-5)

names = [f"{name}, mean {m:.3f}, std {s:.3f}" for name, m, s in zip(("red", "green", "blue"), MEAN, STD, strict=True)]
title = "Three maps of numbers: white is 0, the mean of that colour; purple is above, orange below"
figures.tiles(list(images[0]), names, 3, 330, limits="signed", title=title)

# %% [markdown]
# RGB, not BGR: a picture read with OpenCV has its channels the other way round, and the network does not complain. That
# and a forgotten normalisation are frequent mistakes of those who run ViTPose.
#
# ## The formula
#
# The patch embedding is a **convolution**: a filter slides over the picture, and where it stands its numbers are
# multiplied with the pixels under it and summed.
#
# $$ y_{o,i,j} = b_o + \sum_{c=0}^{2} \sum_{a=0}^{15} \sum_{b=0}^{15} w_{o,c,a,b}\; x_{c,\; s i + a,\; s j + b} $$
#
# $o$ is the number of the filter and of the channel that it makes, $i, j$ row and column of the patch, $c$ the colour,
# $a, b$ the pixel in the patch. $s = 16$ is the **stride**, the step from one place to the next. $x$ has a border of
# two zeros around it, the **padding**; more of that below.
#
# ## One number, in loops


# %%
def one_number(padded, o, i, j):
    total = float(bias[o])
    for c in range(3):
        for a in range(16):
            for b in range(16):
                total += float(weight[o, c, a, b]) * float(padded[c, 16 * i + a, 16 * j + b])
    return total


padded = np.pad(images[0], ((0, 0), (2, 2), (2, 2)))
assert padded.shape == (3, 260, 196)
mine, expected = one_number(padded, 5, 7, 6), example.cache["backbone.patch_embed.proj"][0, 5, 7, 6]
assert np.isclose(mine, expected, atol=1e-4)

one = teach.race({"one number": lambda: one_number(padded, 5, 7, 6)}).seconds["one number"]
teach.say(
    f"{mine:.5f}, and the network has {expected:.5f}. There are 96 × 192 = 18,432 such numbers: in these loops all of "
    f"them would take {18_432 * one:.0f} seconds."
)

# %% [markdown]
# ## All numbers, with the inner sums in NumPy


# %%
def patch_embed_loops(images, weight, bias):
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    y = np.empty((len(images), len(weight), 16, 12), images.dtype)
    for n in range(len(images)):
        for o in range(len(weight)):
            for i in range(16):
                for j in range(12):
                    window = padded[n, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
                    y[n, o, i, j] = np.sum(weight[o] * window) + bias[o]
    return y


teach.against_reference("backbone.patch_embed.proj", patch_embed_loops(images, weight, bias))

# %% [markdown]
# The table compares 1024 of its numbers, and a sum over all, with what PyTorch computed for the same picture.
#
# ## A sliding window that takes large steps
#
# Usually a convolution moves one pixel at a time and makes a map as large as the picture. With a stride of 16 only
# every 16th place of that map is computed, each way. No pixel is under two windows, and none between them is left out.

# %%
channel = int(example.cache["backbone.patch_embed.proj"][0].std(axis=(1, 2)).argmax())  # answers this picture most
single = {"weight": weight[channel : channel + 1], "bias": bias[channel : channel + 1], "padding": 2}
dense = layers.conv2d(images, **single, stride=1)[0, 0]
sparse = layers.conv2d(images, **single, stride=16)[0, 0]
assert dense.shape == (245, 181) and sparse.shape == (16, 12) and np.allclose(dense[::16, ::16], sparse, atol=1e-4)

titles = [f"stride {stride}: {' × '.join(map(str, x.shape))}" for stride, x in ((1, dense), (16, sparse))]
title = f"Filter {channel} over the crop: the right map is every 16th place of the left"
figures.tiles([dense, sparse], titles, 2, 380, title=title)

# %% [markdown]
# ## So it is cutting, and one matrix product
#
# If no window overlaps another, the picture can be cut into patches first. Each patch, written as one row of 3 × 16 ×
# 16 = 768 numbers, meets each filter, written as one column of 768 numbers. That is a matrix product. Cutting a picture
# into rows like this is called **im2col**.

# %%
cut = padded[:, :256, :192].reshape(3, 16, 16, 12, 16)  # colour, patch row, pixel row, patch column, pixel column
patches = cut.transpose(1, 3, 0, 2, 4).reshape(192, 768)  # one row a patch: colour, pixel row, pixel column
filters = weight.reshape(96, 768)
tokens = patches @ filters.T + bias
assert tokens.shape == (192, 96)


def as_picture(patches, gap=0):
    """Patches of normalised numbers -> the colours that they stand for, with white gaps between them."""
    colours = patches.reshape(16, 12, 3, 16, 16).transpose(0, 3, 1, 4, 2) * STD + MEAN
    framed = np.pad(colours.clip(0, 1), ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=1)
    return framed.reshape(16 * (16 + gap), 12 * (16 + gap), 3)


canvas = teach.canvas(900, 300, "im2col")
parts = {"patches\n192 × 768": patches, "times filters\n768 × 96": filters.T, "= tokens\n192 × 96": tokens}
first, *others = canvas.subplots(1, 4, width_ratios=[410, 600, 180, 150])
first.imshow(as_picture(patches, gap=4), interpolation="nearest")
figures.bare(first, "the crop, cut")
for ax, (title, matrix) in zip(others, parts.items(), strict=True):
    most = np.quantile(np.abs(matrix), 0.99)
    ax.imshow(matrix, cmap=figures.SIGNED, vmin=-most, vmax=most, interpolation="nearest", aspect="auto")
    figures.bare(ax, title)
canvas

# %% [markdown]
# In the first matrix a row is a patch. Its thirds are red, green and blue. Rows are patches in reading order, so the
# steps from top to bottom are the wall, the floor and the person.
#
# The same numbers again? As a map, the channels come before rows and columns.

# %%
as_map = tokens.T.reshape(1, 96, 16, 12)
teach.against_reference("backbone.patch_embed.proj", as_map)

# %% [markdown]
# `layers.conv2d` does the same for any stride. `sliding_window_view` makes all windows visible as axes without copying
# a pixel, and `tensordot` sums over colour, row and column, which is the matrix product again. `patch_embed` only sets
# the stride and the padding.

# %%
print(inspect.getsource(layers.conv2d))
print(inspect.getsource(layers.patch_embed))

# %% [markdown]
# Compiled by Numba, a patch is copied into one row, and all filters are tried on it while it is in the nearest cache.

# %%
teach.race(
    {
        "loops over windows": lambda: patch_embed_loops(images, weight, bias),
        "one product, already cut": lambda: patches @ filters.T + bias,
        "layers.patch_embed (NumPy)": lambda: layers.patch_embed(images, weight, bias),
        "kernels.patch_embed (Numba)": lambda: kernels.patch_embed(images, weight, bias),
    }
)

# %% [markdown]
# NumPy hands the product to BLAS, a library made for it, which a plain compiled loop does not easily beat.
# [13](13_fast.ipynb) tells what it takes.
#
# ## Why is the padding 2?
#
# A convolution with kernel $k$, stride $s$ and padding $p$ makes of $H$ pixels
#
# $$ \left\lfloor \frac{H + 2p - k}{s} \right\rfloor + 1 $$
#
# outputs. With $p = 2$: (256 + 4 - 16) / 16 = 15.25, rounded down 15, plus 1 is 16. With $p = 0$: (256 - 16) / 16 = 15,
# plus 1 is 16. The same grid, so why have it? ViTPose's patch embedding can also let patches overlap: `ratio` r divides
# the stride. Its padding is one formula for all r, 4 + 2 (r // 2 - 1). Let the code say which grids come out:

# %%
rows = []
for ratio in (1, 2, 4):
    padding = 4 + 2 * (ratio // 2 - 1)
    with_padding, without = (layers.patch_embed(images, **proj, padding=p, ratio=ratio).shape[2:] for p in (padding, 0))
    assert with_padding == (16 * ratio, 12 * ratio)
    rows.append(f"| {ratio} | {16 // ratio} | {padding} | {with_padding} | {without} |")
teach.say("| ratio | stride | padding | grid | grid with padding 0 |\n|-:|-:|-:|:-|:-|\n" + "\n".join(rows))

# %% [markdown]
# Where patches overlap, the padding is what makes the grid r times as fine. Where they do not, it is not needed, and
# nobody chose it for its own sake. But the weights were learnt with it, so it belongs to the checkpoint.
#
# What it does: all patches move by two pixels, up and to the left.


# %%
def corner(ax, padding, low_right):
    """The crop around one of its corners, with the borders of the patches."""
    ring = np.pad(example.crop.pixels / 255, ((padding, padding), (padding, padding), (0, 0)), constant_values=np.nan)
    ring = np.where(np.isnan(ring), MEAN, ring)  # a padding of 0 is the mean colour
    ax.imshow(ring, extent=(-padding, 192 + padding, 256 + padding, -padding), interpolation="nearest")
    for step in range(17):
        edge = 16 * step - padding
        for colour, width in (("black", 2.4), ("white", 1.0)):
            ax.plot([edge] * 2, [-padding, 256 - padding], color=colour, linewidth=width, visible=step <= 12)
            ax.plot([-padding, 192 - padding], [edge] * 2, color=colour, linewidth=width)
    if padding:
        ax.add_patch(Rectangle((190, 0), 2, 256, color=UNSEEN, linewidth=0))
        ax.add_patch(Rectangle((0, 254), 192, 2, color=UNSEEN, linewidth=0))
    x, y = (160, 224) if low_right else (-4, -4)
    ax.set(xlim=(x, x + 36), ylim=(y + 36, y))
    ax.set_xlabel("x, pixels of the crop", fontsize=8.5, color=figures.GREY)
    ax.tick_params(labelsize=8, colors=figures.GREY)
    ax.set_title(f"padding {padding}, {'last' if low_right else 'first'} patches", fontsize=9.5)


canvas = teach.canvas(900, 270, "padding")
for ax, (padding, low_right) in zip(canvas.subplots(1, 4), ((2, False), (2, True), (0, False), (0, True)), strict=True):
    corner(ax, padding, low_right)
canvas

# %% [markdown]
# With padding 2 the first patch sees two rows and columns that are not there; after the normalisation they are 0, the
# mean colour. And 16 patches from -2 on end at 254: **the last two rows and columns, orange here, are seen by no
# patch**. That can be proved by filling them with anything:

# %%
other = images.copy()
other[:, :, 254:], other[:, :, :, 190:] = 100, -100
assert np.array_equal(layers.patch_embed(other, **proj), layers.patch_embed(images, **proj))
other[:, :, 253, 100] = 100  # one row further up
assert not np.array_equal(layers.patch_embed(other, **proj), layers.patch_embed(images, **proj))
print("rows 254, 255 and columns 190, 191 change nothing; row 253 does")

# %% [markdown]
# ### And if you forget it?
#
# Then everything runs, all shapes are right, and every patch is off by two pixels. `replace` lets the network go on
# with the wrong array:

# %%
name = "backbone.patch_embed.proj"
shifted = layers.patch_embed(images, **proj, padding=0)
wrong, wrong_cache = example.model.run_with_cache(images, replace={name: shifted})
right = example.heatmaps
figures.errors(
    wrong[0].max(axis=0),
    right[0].max(axis=0),
    "The highest of the 17 heatmaps in each cell",
    ("padding 0", "padding 2", "difference"),
    aspect="equal",
)

# %%
crop = example.crop
found = [decode(maps, crop.centre, crop.scale)[0][0] for maps in (wrong, right)]
moved = np.linalg.norm(found[0] - found[1], axis=1) * (crop.pixels.shape[1] - 1) / crop.scale[0]
off = np.linalg.norm(shifted - example.cache[name]) / np.linalg.norm(example.cache[name])
assert off > 0.05
teach.say(
    f"The tokens are off by {100 * off:.0f} % of their size, the joints by {np.median(moved):.1f} pixels of the crop "
    f"(median; at most {moved.max():.1f}). It still is a pose: looking at the picture would not tell you."
)

# %% [markdown]
# Comparing activations does. This is the first one, and already off:

# %%
report = mvp.compare({name: shifted}, example.reference)
assert report.first_divergence.name == name
print(report.verdict()[0])

# %% [markdown]
# ## What was learnt: the filters
#
# Each of the 96 filters is a small colour picture of 16 × 16 pixels. A token's number is large where its patch looks
# like the filter. Each is shown in its own range of colours.


# %%
def mosaic(pictures, columns):
    """(n, 16, 16, 3) -> one picture with white gaps, each between its own smallest and largest value."""
    low, high = (f(pictures, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    framed = np.pad((pictures - low) / (high - low), ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=1)
    return framed.reshape(-1, columns, 18, 18, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 18 * columns, 3)


directions = np.linalg.svd(filters, full_matrices=False)[2][:32].reshape(32, 3, 16, 16)
canvas = teach.canvas(900, 510, "filters")
above, below = canvas.subplots(2, 1, height_ratios=[6, 2])
above.imshow(mosaic(weight.transpose(0, 2, 3, 1), 16), interpolation="nearest")
below.imshow(mosaic(directions.transpose(0, 2, 3, 1), 16), interpolation="nearest")
figures.bare(above, "The 96 filters")
figures.bare(below, "The 32 directions that they react to most, all of them together (singular vectors)")
canvas

# %% [markdown]
# A filter of a small model, trained for a short time, keeps much of the noise that it began with, and single ones may
# look like nothing. What counts is what they see together. The lower rows are the directions in the space of patches
# that change the token most: stripes, spots of colour, light against dark. Large models show more of that in single
# filters, too.
#
# What does one filter answer to?


# %%
y = example.cache["backbone.patch_embed.proj"][0]  # (96, 16, 12)
busiest = y.std(axis=(1, 2)).argsort()[::-1].tolist()


def one_filter(channel):
    """The filter, its answers, and the patches that it likes most and least."""
    order = y[channel].ravel().argsort()
    canvas = teach.canvas(900, 240, "one-filter")
    axes = canvas.subplots(1, 8, width_ratios=[1.2, 1.6, 1, 1, 1, 1, 1, 1])
    axes[0].imshow(mosaic(weight[channel].transpose(1, 2, 0)[None], 1)[:16, :16], interpolation="nearest")
    overlay(axes[1], example.crop, y[channel], patch_extent(example.crop))
    titles = [f"filter {channel}", "its answers"]
    for ax, token in zip(axes[2:], [*order[::-1][:3], *order[:3]], strict=True):
        colours = patches[token].reshape(3, 16, 16).transpose(1, 2, 0) * STD + MEAN
        ax.imshow(colours.clip(0, 1), interpolation="nearest")
        titles.append(f"{y[channel].ravel()[token]:+.1f}")
    for ax, title in zip(axes, titles, strict=True):
        figures.bare(ax, title)
    return canvas


def busy_filters():
    names = [f"filter {o}" for o in busiest[:12]]
    return figures.over_crop(example.crop, y[busiest[:12]], names, title="The 12 filters that vary most over this crop")


teach.explore(one_filter, busy_filters, channel=busiest)

# %% [markdown]
# ## How much of a patch survives in 96 numbers?
#
# 768 numbers go in, 96 come out. Can the patch be guessed from its token? Guessing means one more matrix product, from
# 96 back to 768.
#
# - **Knowing nothing of pictures:** the shortest patch that gives this token, by the pseudo-inverse of the filters.
# - **Knowing what patches look like:** the matrix that guesses best on other patches, by least squares. They come from
#   the left part of the scene, where other people are.


# %%
left = normalised(example.image[None, :, :400])[0]
assert crop.centre[0] - crop.scale[0] / 2 > 400  # none of the crop is among them
others = sliding_window_view(left, (16, 16), axis=(1, 2))[:, ::5, ::5].transpose(1, 2, 0, 3, 4).reshape(-1, 768)


def guess(filters):
    """The crop's patches from what these filters make of them, by a linear rule fitted to the other patches."""
    seen = np.column_stack([others @ filters.T, np.ones(len(others))]).astype(np.float64)
    square = seen.T @ seen
    square += 1e-3 * square.trace() / len(square) * np.eye(len(square))  # a little ridge keeps it stable
    rule = np.linalg.solve(square, seen.T @ others)
    return np.column_stack([patches @ filters.T, np.ones(len(patches))]) @ rule


def kept(guessed):
    """Percent of the patches' squares that the guess explains."""
    return 100 * (1 - np.square(patches - guessed).sum() / np.square(patches).sum())


# %%
random = np.random.default_rng(0).standard_normal((96, 768)) / np.sqrt(768)
guesses = {
    "knowing nothing": patches @ filters.T @ np.linalg.pinv(filters.T),
    "knowing patches": guess(filters),
    "knowing patches, random filters": guess(random),
}
pictures = [as_picture(patches), *map(as_picture, guesses.values())]
titles = ["the 192 patches", *(f"{name}\n{kept(x):.1f} % kept" for name, x in guesses.items())]
assert all(kept(guesses[name]) > 80 for name in list(guesses)[1:])
figures.tiles(pictures, titles, columns=4, height=330, title="768 numbers a patch, guessed back from 96")

# %% [markdown]
# Most of the picture is still there. Neighbouring pixels are alike, so a patch holds far less than 768 free numbers,
# and 96 different looks at it nearly fix it. Even random filters keep most. So the task of this layer is not to
# squeeze: it is to hand the pixels on in a form in which the first block can use them.
#
# ## Exercise 1.1 · From map to tokens
#
# Difficulty ●○○ · 5 minutes. The convolution gives (B, C, Hp, Wp), a map. The blocks want (B, N, C): one row a patch,
# in reading order. Write `to_tokens`.
#
# <details><summary>Hint 1</summary>Make one axis of the last two: <code>x.reshape(B, C, Hp * Wp)</code>.</details>
# <details><summary>Hint 2</summary>Then swap the last two axes. A reshape alone gives the right shape with the wrong
# numbers.</details>


# %% tags=["exercise"]
def to_tokens(x): ...  # your code


teach.check("to_tokens", to_tokens)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def to_tokens(x):
    B, C, Hp, Wp = x.shape
    return x.reshape(B, C, Hp * Wp).transpose(0, 2, 1)


### END SOLUTION
teach.check("to_tokens", to_tokens)

# %% [markdown]
# ## Exercise 1.2 · The patch embedding
#
# Difficulty ●●○ · 15 minutes. Write `patch_embed`: pad by 2, cut, one matrix product. The stride is the side of the
# kernel, which need not be 16. What is left over on the right and below is cut off. `bias` may be None.
#
# <details><summary>Hint 1</summary>After padding, H' // s patches fit into H' rows.</details>
# <details><summary>Hint 2</summary>The cell that made <code>patches</code> does nearly all of it.</details>
# <details><summary>Hint 3</summary><code>np.einsum("bciajk,ocak->boij", cut, weight)</code> with the axes of
# <code>cut</code> batch, colour, patch row, pixel row, patch column, pixel column.</details>


# %% tags=["exercise"]
def patch_embed(images, weight, bias=None): ...  # your code


teach.check("patch_embed", patch_embed)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def patch_embed(images, weight, bias=None):
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    (B, colours, H, W), side = padded.shape, weight.shape[2]
    Hp, Wp = H // side, W // side
    cut = padded[:, :, : Hp * side, : Wp * side].reshape(B, colours, Hp, side, Wp, side)
    y = np.einsum("bciajk,ocak->boij", cut, weight, optimize=True)
    return y if bias is None else y + bias[:, None, None]


### END SOLUTION
teach.check("patch_embed", patch_embed)

# %% [markdown]
# ## Exercise 1.3 · Mend it from outside
#
# Difficulty ●●○ · 10 minutes. Somebody gives you a patch embedding with padding 0 that you cannot change. Which picture
# do you have to give it, so that the right tokens come out?
#
# <details><summary>Hint</summary>Which pixel does the first patch see with padding 2? The picture must still be
# 256 × 192.</details>

# %% tags=["exercise"]
mended = images  # change this
off = np.abs(layers.patch_embed(mended, **proj, padding=0) - layers.patch_embed(images, **proj))
print(f"largest difference {off.max():.1e}")

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
mended = np.zeros_like(images)
mended[:, :, 2:, 2:] = images[:, :, :-2, :-2]  # two pixels down and to the right; the last two fall off
difference = np.abs(layers.patch_embed(mended, **proj, padding=0) - layers.patch_embed(images, **proj)).max()
assert difference < 1e-4
print(f"largest difference {difference:.1e}")
### END SOLUTION

# %% [markdown]
# ## Exercise 1.4 · Any convolution
#
# Difficulty ●●● · 20 minutes. Write `conv2d` for any stride and padding, but with a loop over the **kernel** and not
# over the picture: for each of its kh × kw places, one product of a strided slice of the picture with one (Cout, Cin)
# matrix. The decoder needs convolutions, too ([08](08_decoder.ipynb)).
#
# <details><summary>Hint 1</summary>The pixels that kernel place (a, b) meets are
# <code>x[:, :, a : a + stride * height : stride, b : b + stride * width : stride]</code>.</details>
# <details><summary>Hint 2</summary>Sum over the colours with
# <code>np.einsum("bchw,oc->bohw", part, weight[:, :, a, b])</code>.</details>


# %% tags=["exercise"]
def conv2d(x, weight, bias=None, stride=1, padding=0): ...  # your code


teach.check("conv2d", conv2d)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def conv2d(x, weight, bias=None, stride=1, padding=0):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    Cout, _, kh, kw = weight.shape
    height, width = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    y = np.zeros((len(x), Cout, height, width), x.dtype)
    for a in range(kh):
        for b in range(kw):
            part = x[:, :, a : a + stride * height : stride, b : b + stride * width : stride]
            y += np.einsum("bchw,oc->bohw", part, weight[:, :, a, b], optimize=True)
    return y if bias is None else y + bias[:, None, None]


### END SOLUTION
teach.check("conv2d", conv2d)

# %% [markdown]
# ## What to read next
#
# - `minivitpose/kernels/conv.py`: the compiled convolution, one patch at a time. `kernels/fused/patches.py`: the
#   cutting alone; the product is the same one that all other layers of the fast engine use.
# - Dosovitskiy et al.: An image is worth 16x16 words (2021), section 3.1 and figure 7, with the filters of a large
#   model.
# - Dumoulin and Visin: A guide to convolution arithmetic for deep learning (2016): stride and padding, drawn.
# - Next: [02 · Positions](02_positions.ipynb).
