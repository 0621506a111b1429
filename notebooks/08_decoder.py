# %% [markdown]
# # 08 · The decoder
#
# **After this notebook you can** turn tokens into heatmaps: explain a transposed convolution in three ways and
# compute it in two; say what batch norm does at inference and fold it away; and compare the classic head with the
# simple one.
#
# 40 minutes to read, 50 for the exercises. Needs: what tokens are ([02](02_positions.ipynb)). A convolution is what
# cut the image into patches ([01](01_patches.ipynb)). Nothing is downloaded.

# %%
import inspect

import numpy as np
from matplotlib.patches import Rectangle

from minivitpose import kernels, layers, teach
from minivitpose.config import parameter_shapes, variant_config
from minivitpose.teach import figures

example = teach.example()
tokens = example.cache["backbone.last_norm"]  # (1, 192, 96): what the transformer hands over
head = example.params["keypoint_head"]
deconv = head["deconv_layers"]  # 0: transposed convolution, 1: batch norm, (2: relu); 3, 4, (5): once more

assert tokens.shape == (1, 192, 96) and list(deconv) == ["0", "1", "3", "4"]
assert deconv["0"]["weight"].shape == (96, 64, 4, 4) and deconv["3"]["weight"].shape == (64, 32, 4, 4)
assert head["final_layer"]["weight"].shape == (17, 32, 1, 1)
{f"deconv_layers.{i}": {name: a.shape for name, a in p.items()} for i, p in deconv.items()}

# %% [markdown]
# ## The tokens as a map
#
# The 192 tokens are the 16 × 12 patches in reading order. To lay them out as an image again, each **channel** has to
# become one map of 16 × 12. The memory holds token after token, so the channels must come first: turn, then reshape.

# %%
x = tokens.transpose(0, 2, 1).reshape(1, 96, 16, 12)
scrambled = tokens.reshape(1, 96, 16, 12)  # the right shape, without an error, and all wrong

assert np.array_equal(x, layers.to_map(tokens, (16, 12))) and np.array_equal(layers.to_tokens(x), tokens)
liveliest = np.argsort(-layers.relu(x[0]).std(axis=(1, 2)))[:3]
figures.over_crop(
    example.crop,
    [*x[0, liveliest], *scrambled[0, liveliest]],
    [f"channel {c}" for c in liveliest] + [f"{c}, only reshaped" for c in liveliest],
    title="Left: turned and reshaped. Right: only reshaped",
)

# %%
teach.against_reference("backbone", x)

# %% [markdown]
# A cell of this map is 16 pixels wide: too coarse for a wrist. The decoder makes the map four times as wide and high,
# in two steps of two: 16 × 12 → 32 × 24 → 64 × 48.
#
# ## A transposed convolution, as stamping
#
# Take a stamp: a small kernel, here 4 × 4. Every input pixel presses it onto the output, multiplied by the pixel's
# own value. From one pixel to the next the stamp moves by the **stride**, here 2. Where stamps overlap, they add up.

# %%
small = np.array([[1, 2, 1], [3, 1, 2], [1, 1, 4]], np.float64)
stamp = np.array([[4, 3, 2, 1], [3, 2, 1, 1], [2, 1, 1, 0], [1, 1, 0, 0]], np.float64)


def show_numbers(axes, matrix, title, high=None, low=0):
    """A matrix in colours with its numbers."""
    axes.imshow(matrix, cmap=figures.VALUES, vmin=low, vmax=matrix.max() if high is None else high)
    for (i, j), value in np.ndenumerate(matrix):
        ink = "white" if value < 0.6 * (high or matrix.max()) else "black"
        axes.text(j, i, f"{value:g}", ha="center", va="center", fontsize=8, color=ink)
    figures.bare(axes, title)


def frame(axes, i, j, height, width, colour="#D55E00", dash="-"):
    """A frame around cells from (i, j) on."""
    axes.add_patch(Rectangle((j - 0.45, i - 0.45), width - 0.1, height - 0.1, fill=False, ec=colour, lw=2.2, ls=dash))


# %%
canvas_so_far, states = np.zeros((8, 8)), []
for i, j in np.ndindex(3, 3):
    canvas_so_far[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += small[i, j] * stamp
    states.append((i, j, canvas_so_far.copy()))

figure, axes = figures.grid(
    12, 4, 230, name="stamping", title="A 3 × 3 input, stride 2: nine stamps, one after the other"
)
show_numbers(axes[0], small, "the input")
show_numbers(axes[1], stamp, "the stamp")
for ax, (i, j, state) in zip(axes[2:], states, strict=False):
    show_numbers(ax, state, f"+ {small[i, j]:g} × stamp, from pixel ({i}, {j})", canvas_so_far.max())
    frame(ax, 2 * i, 2 * j, 4, 4)
show_numbers(axes[11], canvas_so_far, "padding 1 keeps what is framed")
frame(axes[11], 1, 1, 6, 6, "white", "--")
figure

# %% [markdown]
# **Padding** in a convolution adds a border to the input. Here it is the reverse: it cuts a border off the output,
# where few stamps reach. With one output map per output channel, and a stamp for each pair of channels, this is all:


# %%
def stamp_loops(x, weight, stride=2, padding=0):
    """x (B, Cin, H, W), weight (Cin, Cout, kh, kw) -> (B, Cout, stride (H - 1) + kh - 2 padding, the same for W)."""
    B, Cin, H, W = x.shape
    _, Cout, kh, kw = weight.shape
    height, width = stride * (H - 1) + kh, stride * (W - 1) + kw
    y = np.zeros((B, Cout, height, width))
    for b in range(B):
        for c in range(Cin):
            for i in range(H):
                for j in range(W):
                    y[b, :, stride * i : stride * i + kh, stride * j : stride * j + kw] += x[b, c, i, j] * weight[c]
    return y[:, :, padding : height - padding, padding : width - padding].astype(x.dtype)


assert np.array_equal(stamp_loops(small[None, None], stamp[None, None])[0, 0], canvas_so_far)
first = stamp_loops(x, deconv["0"]["weight"], stride=2, padding=1)
teach.against_reference("keypoint_head.deconv_layers.0", first)

# %% [markdown]
# ## In NumPy
#
# All stamps at once are one matrix product over the input channels. Then sixteen additions, one for each place in the
# kernel: the place $(a, b)$ of every stamp lands on every second pixel, from row $a$ and column $b$ on.

# %%
print(inspect.getsource(layers.conv_transpose2d))

# %% [markdown]
# How large is the result? The first stamp takes $k$ pixels, each further one begins $s$ pixels later, and $p$ pixels
# go on each side. `output_padding` $o$ adds rows and columns at the end that no stamp filled:
#
# $$ H' = s\,(H - 1) + k - 2p + o $$

# %%
for k, (padding, extra) in layers.DECONV_PADDING.items():
    heights = [2 * (H - 1) + k - 2 * padding + extra for H in (16, 32)]
    assert heights == [32, 64]
    y = layers.conv_transpose2d(np.ones((1, 1, 16, 12)), np.ones((1, 1, k, k)), None, 2, padding, extra)
    print(f"kernel {k}, stride 2, padding {padding}, output_padding {extra}: 16 x 12 -> {y.shape[2]} x {y.shape[3]}")

# %% [markdown]
# ## The same, as gathering
#
# Stand on one output pixel and ask: whose stamps reach me? Stamps begin at every second pixel and are four wide, so
# it is two rows and two columns of input pixels, four in all, each with a different place of its stamp:
#
# $$ y_{i,j} = \sum_{a,b} w_{a,b}\; x_{(i+p-a)/s,\ (j+p-b)/s} $$
#
# The sum runs over those $a$ and $b$ for which both divisions leave no remainder and the input has such a pixel.


# %%
def reaching(i, j, size=3, k=4, stride=2, padding=1):
    """Whose stamps reach output pixel (i, j): a list of (input row, input column, kernel row, kernel column)."""
    found = []
    for a, b in np.ndindex(k, k):
        (row, row_rest), (column, column_rest) = divmod(i + padding - a, stride), divmod(j + padding - b, stride)
        if row_rest == column_rest == 0 and 0 <= row < size and 0 <= column < size:
            found.append((row, column, a, b))
    return found


cropped = canvas_so_far[1:-1, 1:-1]
gathered = np.array(
    [[sum(small[r, c] * stamp[a, b] for r, c, a, b in reaching(i, j)) for j in range(6)] for i in range(6)]
)
assert np.array_equal(gathered, cropped)
reaching(2, 3), reaching(3, 2)

# %%
figure, axes = figures.grid(6, 3, 250, name="gathering", title="Two output pixels, and what reaches them")
for row, (i, j) in enumerate([(2, 3), (3, 2)]):
    panels = axes[3 * row : 3 * row + 3]
    terms = reaching(i, j)
    show_numbers(panels[0], small, "from these input pixels")
    show_numbers(panels[1], stamp, "by these places of the stamp")
    show_numbers(
        panels[2],
        cropped,
        " + ".join(f"{small[r, c]:g}·{stamp[a, b]:g}" for r, c, a, b in terms) + f" = {cropped[i, j]:g}",
    )
    frame(panels[2], i, j, 1, 1)
    for (r, c, a, b), colour, dash in zip(
        terms, ("#D55E00", "#FFFFFF", "#E69F00", "#CC79A7"), figures.DASHES, strict=False
    ):
        frame(panels[0], r, c, 1, 1, colour, dash)
        frame(panels[1], a, b, 1, 1, colour, dash)
figure

# %% [markdown]
# The lower an input pixel lies, the higher is the place of the stamp that comes from it: gathering reads the kernel
# **turned**. Stamping writes it as it is. A convolution layer is the other way round, which a single 1 shows:

# %%
dot = np.zeros((1, 1, 7, 7))
dot[0, 0, 3, 3] = 1
stamped = layers.conv_transpose2d(dot, stamp[None, None], stride=1)[0, 0, 2:9, 2:9]
slid = layers.conv2d(dot, stamp[None, None], padding=2)[0, 0]
assert np.array_equal(stamped[1:5, 1:5], stamp) and np.array_equal(slid[2:6, 2:6], stamp[::-1, ::-1])
figures.tiles(
    [dot[0, 0], stamp, stamped, slid],
    ["a single 1", "the kernel", "conv_transpose2d: as it is", "conv2d: turned by 180°"],
    columns=4,
    height=200,
)

# %% [markdown]
# Each output pixel belongs to one of four kinds, by even or odd row and even or odd column. A kind uses the same 2 ×
# 2 places of the kernel everywhere. So a transposed convolution with kernel 4 and stride 2 is four ordinary 2 × 2
# convolutions, whose results are interleaved, and no two of them write to the same pixel:


# %%
def four_convolutions(x, weight):
    """Kernel 4, stride 2, padding 1."""
    B, _, H, W = x.shape
    y = np.empty((B, weight.shape[1], 2 * H, 2 * W), x.dtype)
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for r in (0, 1):
        for c in (0, 1):
            part = padded[:, :, r : r + H + 1, c : c + W + 1]
            y[:, :, r::2, c::2] = layers.conv2d(part, turned[:, :, r::2, c::2])
    return y


assert np.allclose(four_convolutions(x, deconv["0"]["weight"]), first, atol=1e-4)

# %% [markdown]
# ## Why "transposed"
#
# A convolution is linear: some matrix $M$ turns the flattened input into the flattened output. Feed it one unit
# vector after the other, and its answers are the columns of $M$. The convolution below goes from 6 × 6 to 3 × 3, the
# transposed one back from 3 × 3 to 6 × 6, with the same kernel, stride and padding.


# %%
def matrix_of(f, height, width):
    """The matrix of a linear map of (1, 1, height, width) arrays: column n is the answer to unit vector n."""
    units = np.eye(height * width).reshape(-1, 1, 1, height, width)
    return np.stack([f(unit).ravel() for unit in units], axis=1)


M = matrix_of(lambda u: layers.conv2d(u, stamp[None, None], None, 2, 1), 6, 6)
T = matrix_of(lambda u: layers.conv_transpose2d(u, stamp[None, None], None, 2, 1), 3, 3)
assert M.shape == (9, 36) and np.array_equal(T, M.T)

figure = teach.canvas(900, 400, "matrices")
left, right = figure.subplots(1, 2, width_ratios=[36, 9])
left.imshow(M, cmap=figures.VALUES)
right.imshow(T, cmap=figures.VALUES)
left.set_title("M: conv2d, 36 numbers in, 9 out. Each row is the kernel at one place", fontsize=10, loc="left")
right.set_title("Its transpose", fontsize=10)
for ax in (left, right):
    ax.set_xlabel("input pixel", fontsize=9)
    ax.set_ylabel("output pixel", fontsize=9)
    ax.tick_params(labelsize=8)
figure

# %% [markdown]
# It is the transpose of $M$, not its inverse: going back does not give back what was there. The same is true with
# channels, and it explains their order in the checkpoint. A convolution's weight is `(Cout, Cin, kh, kw)`. The
# transposed layer goes the other way with the same array, so what was `Cout` is now what comes in: `(Cin, Cout, kh,
# kw)`. For any maps $u$ and $v$, $\langle \mathrm{conv}(u), v \rangle = \langle u, \mathrm{conv}^{\mathsf T}(v)
# \rangle$:

# %%
weight = deconv["0"]["weight"].astype(np.float64)  # (96, 64, 4, 4): in from 96 channels, out to 64
random = np.random.default_rng(8)
u, v = random.standard_normal((1, 64, 32, 24)), random.standard_normal((1, 96, 16, 12))
there = np.vdot(layers.conv2d(u, weight, None, 2, 1), v)
back = np.vdot(u, layers.conv_transpose2d(v, weight, None, 2, 1))
assert np.isclose(there, back)
there, back

# %% [markdown]
# Where both numbers of channels are the same, as in the second transposed convolution of ViTPose-B with its 256 and
# 256, a wrong order raises no error. It gives other maps. Ours goes from 64 channels to 32; here is the half of it that
# comes from the first 32:

# %%
maps, half = layers.relu(layers.batch_norm(first, **deconv["1"]))[:, :32], deconv["3"]["weight"][:32]
good = layers.deconv(maps, half)
bad = layers.deconv(maps, half.transpose(1, 0, 2, 3))
assert bad.shape == good.shape
teach.say(
    f"With the axes swapped the result is off by **{np.abs(bad - good).std() / good.std():.0%}** of its own spread."
)

# %% [markdown]
# ## Four speeds

# %%
weight = deconv["0"]["weight"]
teach.race(
    {
        "stamping in loops": lambda: stamp_loops(x, weight, 2, 1),
        "NumPy, stamping": lambda: layers.conv_transpose2d(x, weight, None, 2, 1),
        "NumPy, gathering: four convolutions": lambda: four_convolutions(x, weight),
        "Numba, gathering": lambda: kernels.conv_transpose2d(x, weight, None, 2, 1),
    }
)

# %% [markdown]
# Threads may gather without waiting for each other, as every output pixel belongs to one of them. If they stamped,
# two could add to the same pixel at the same time. So `kernels/conv_transpose.py` gathers, pixel by pixel.
#
# ## Batch norm
#
# Behind each transposed convolution every **channel** is shifted and scaled:
#
# $$ y = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}\, w + b, \qquad \varepsilon = 10^{-5} $$
#
# $w$ (`weight`) and $b$ (`bias`) were learnt, one pair a channel. $\mu$ (`running_mean`) and $\sigma^2$
# (`running_var`) were gathered in training: a running mean over the batches that went by. At inference they are
# constants. A layer norm measures each token as it comes; this does not look at the input at all. Source: Ioffe and
# Szegedy 2015.

# %%
p = deconv["1"]
channel = (slice(None), None, None)  # (64,) -> (64, 1, 1): one number for a whole map
normed = (first - p["running_mean"][channel]) / np.sqrt(p["running_var"][channel] + 1e-5)
normed = normed * p["weight"][channel] + p["bias"][channel]
teach.against_reference("keypoint_head.deconv_layers.1", normed)

# %%
order, here = np.argsort(p["running_mean"]), np.arange(64)
seen = {  # name: mean, spread
    "training: running mean ± root of running variance": (p["running_mean"], np.sqrt(p["running_var"])),
    "this crop: mean ± standard deviation": (first[0].mean(axis=(1, 2)), first[0].std(axis=(1, 2))),
}
figure = teach.canvas(900, 260, "statistics")
axes = figure.subplots()
for (name, (mean, spread)), shift, mark, colour in zip(
    seen.items(), (-0.18, 0.18), "os", figures.COLOURS, strict=False
):
    axes.errorbar(here + shift, mean[order], spread[order], fmt=mark, ms=4, lw=1.2, capsize=2, color=colour, label=name)
figures.plain(
    axes, "channel, sorted", "value before batch norm", "Batch norm subtracts what training saw, not what is here"
)
axes.legend(frameon=False, fontsize=8.5)
figure

# %% [markdown]
# As the statistics are constants, batch norm is one multiplication and one addition a channel, and a convolution can
# do both by itself: multiply the kernels that make output channel $o$ by $g_o = w_o / \sqrt{\sigma_o^2 +
# \varepsilon}$, and add the bias $b_o - \mu_o\, g_o$. Batch norm is **folded** into the convolution and costs
# nothing.

# %%
gain = p["weight"] / np.sqrt(p["running_var"] + 1e-5)
folded = {"weight": deconv["0"]["weight"] * gain[None, :, None, None], "bias": p["bias"] - p["running_mean"] * gain}
assert folded["weight"].shape == (96, 64, 4, 4)

off = np.abs(layers.deconv(x, **folded) - normed).max()
assert off < 1e-4 * np.abs(normed).max()
teach.say(f"Folded and unfolded differ by at most **{off:.1e}**, of values up to {np.abs(normed).max():.1f}: rounding.")

# %% [markdown]
# Then ReLU, $\max(0, y)$: what is negative becomes 0. And all of it once more.

# %%
stage = {"2": layers.relu(normed)}
stage["3"] = layers.conv_transpose2d(stage["2"], **deconv["3"], stride=2, padding=1)
stage["4"] = layers.batch_norm(stage["3"], **deconv["4"])
stage["5"] = layers.relu(stage["4"])
assert stage["2"].shape == (1, 64, 32, 24) and stage["5"].shape == (1, 32, 64, 48)

teach.against_reference({f"keypoint_head.deconv_layers.{j}": array for j, array in stage.items()})

# %% [markdown]
# ## Heatmaps growing
#
# From top to bottom: maps of the tokens, then after the first transposed convolution, then after the second. Of each
# the liveliest channels. Which of them belong to one joint, which to several, which to the background?
#
# <details><summary>What we see</summary>Channels of tokens light up at several joints, or at all of the person. After
# the second transposed convolution most have one bell or two, a joint or a pair of them; how a heatmap is summed of
# these comes next.</details>

# %%
stages = {"tokens, 16 × 12": x[0], "32 × 24": stage["2"][0], "64 × 48": stage["5"][0]}


def channels(name, first=0, count=6):
    chosen = np.argsort(-stages[name].std(axis=(1, 2)))[first : first + count]
    return [(stages[name][c], f"{name.split(',')[0]}, channel {c}") for c in chosen]


def show_channels(pairs):
    return figures.over_crop(example.crop, [m for m, _ in pairs], [t for _, t in pairs], height=225)


teach.explore(
    lambda stage, first: show_channels(channels(stage, first)),
    lambda: show_channels([pair for name in stages for pair in channels(name)]),
    stage=list(stages),
    first=range(0, 30, 6),
)

# %% [markdown]
# ## The last convolution: 17 weighted sums
#
# Its kernel is 1 × 1, so it looks at one cell at a time. Every heatmap is a weighted sum of the 32 maps, plus a bias:
#
# $$ \mathrm{heatmap}_k = b_k + \sum_{c=1}^{32} w_{k,c}\; \mathrm{map}_c $$

# %%
final = head["final_layer"]
heatmaps = np.empty((1, 17, 64, 48), np.float32)
for k in range(17):
    heatmaps[0, k] = final["bias"][k] + sum(
        w * m for w, m in zip(final["weight"][k, :, 0, 0], stage["5"][0], strict=True)
    )
teach.against_reference("keypoint_head.final_layer", heatmaps)


# %%
def weighted(joint):
    """The largest parts of a heatmap's sum, what all others add, and the heatmap."""
    k = example.skeleton.keypoints.index(joint)
    parts = final["weight"][k] * stage["5"][0]
    largest = np.argsort(-parts.std(axis=(1, 2)))[:4]
    rest = heatmaps[0, k] - parts[largest].sum(axis=0)
    titles = [f"{final['weight'][k, c, 0, 0]:+.2f} × map {c}" for c in largest]
    titles += ["all others, bias", joint.replace("_", " ")]
    shown = [*parts[largest], rest, heatmaps[0, k]]
    return shown, [f"{title}\n{figures.ends(part)}" for title, part in zip(titles, shown, strict=True)]


def draw_sums(joints):
    pictures, titles = zip(*(weighted(joint) for joint in joints), strict=True)
    return figures.tiles(
        sum(pictures, []),
        sum(titles, []),
        height=215,
        limits="signed rows",
        title="Orange is negative, violet positive: four parts of the sum, the rest, and the heatmap",
    )


teach.explore(
    lambda joint: draw_sums([joint]),
    lambda: draw_sums(["left_wrist", "right_wrist", "nose"]),
    joint=list(example.skeleton.keypoints),
)

# %% [markdown]
# Each row has one scale, that of its strongest picture: what looks pale adds little.
#
# ## The simple head
#
# The paper shows that a plain transformer needs no elaborate decoder. The **simple** head has no transposed
# convolution: ReLU, enlarge by 4 with fixed weights, then one 3 × 3 convolution from $C$ channels to 17. Enlarging is
# **bilinear**: each new value lies between two old ones and takes each by its nearness, first down the rows, then
# along them.

# %%
weights = layers.bilinear_weights(5, 20)
old, new = np.array([1.0, 3.0, 2.0, 0.5, 2.5]), np.arange(20)
figure = teach.canvas(900, 270, "bilinear")
left, right = figure.subplots(1, 2, width_ratios=[1, 1.7])
left.imshow(weights.T, cmap=figures.VALUES, aspect="auto")
figures.plain(left, "new sample", "old sample", "The weights: 20 new of 5 old")
left.grid(visible=False)
left.set_xticks(range(0, 20, 4))
right.set_xticks(range(0, 20, 4))
right.plot(new, weights @ old, "o-", markersize=4, linewidth=1, color=figures.COLOURS[0], label="new: 20 samples")
right.plot((np.arange(5) + 0.5) * 4 - 0.5, old, "s", markersize=8, color=figures.COLOURS[1], label="old: 5 samples")
figures.plain(right, "new sample", "value", "Straight lines between the old samples, flat at the edges")
right.legend(frameon=False, fontsize=8.5)
figure

# %% [markdown]
# Enlarging by 4 is itself a transposed convolution: one with a fixed stamp, a tent of 8 × 8, and stride 4. Only at
# the edges do they differ, where the stamp of a pixel outside is missing.

# %%
tent = 1 - np.abs(np.arange(8) - 3.5) / 4
one_map = layers.relu(x[:, liveliest[:1]])
enlarged = layers.upsample_bilinear(one_map, scale=4)
by_stamps = layers.conv_transpose2d(one_map, np.outer(tent, tent)[None, None].astype(np.float32), stride=4, padding=2)
inside = (..., slice(2, -2), slice(2, -2))
assert enlarged.shape == by_stamps.shape == (1, 1, 64, 48) and np.allclose(
    enlarged[inside], by_stamps[inside], atol=1e-5
)

simple_steps = layers.upsample_bilinear(layers.relu(x))[0]
busiest = np.argsort(-stage["5"][0].std(axis=(1, 2)))[:2]
figures.over_crop(
    example.crop,
    [one_map[0, 0], simple_steps[liveliest[0]], simple_steps[liveliest[1]], *stage["5"][0, busiest]],
    ["relu of a token map", "enlarged by 4", "enlarged by 4", "classic head", "classic head"],
    columns=5,
    height=270,
    title="What the last convolution reads: in the simple head enlarged token maps, in the classic one learnt maps",
)

# %% [markdown]
# So in the simple head the transformer itself has to tell the joints apart; the head only draws. What does each head
# cost in ViTPose-B?

# %%
configs = {name: variant_config("B", head=name) for name in ("classic", "simple")}
learnt = {
    name: sum(
        np.prod(shape, dtype=int) for key, shape in parameter_shapes(c).items() if key.startswith("keypoint_head")
    )
    for name, c in configs.items()
}
products = {  # cells x numbers of the kernel x channels in x channels out
    "classic": 16 * 12 * 16 * 768 * 256 + 32 * 24 * 16 * 256 * 256 + 64 * 48 * 256 * 17,
    "simple": 64 * 48 * 9 * 768 * 17,
}
assert learnt["classic"] > 30 * learnt["simple"]
for name in configs:
    teach.say(f"{name}: **{learnt[name]:,}** numbers learnt, {products[name] / 1e6:,.0f} million multiplications.")

# %% [markdown]
# The paper reports 75.8 AP on COCO for ViTPose-B with the classic head and 75.5 with the simple one: nearly the same.
# The mini model has the classic head, with 64 and 32 channels where ViTPose-B has 256 twice.
#
# ## Do stamps leave a pattern?
#
# Transposed convolutions are known for checkerboard patterns (Odena et al. 2016). Count how many stamps reach each
# output pixel, for the three kernels that ViTPose's head knows:

# %%
figure, axes = figures.grid(
    3, 3, 310, name="coverage", title="How many stamps reach each pixel (6 × 6 input, stride 2)"
)
for ax, k in zip(axes, (4, 3, 2), strict=True):
    padding, extra = layers.DECONV_PADDING[k]
    count = layers.conv_transpose2d(np.ones((1, 1, 6, 6)), np.ones((1, 1, k, k)), None, 2, padding, extra)[0, 0]
    inner = sorted(set(count[2:-2, 2:-2].ravel().astype(int).tolist()))
    assert inner == {4: [4], 3: [1, 2, 4], 2: [1]}[k]
    show_numbers(ax, count, f"kernel {k}: away from the edge {', '.join(map(str, inner))}", 4)
figure

# %% [markdown]
# Kernel 4 covers evenly, as 2 divides 4. Kernel 3 does not: some pixels get four stamps, others one. All public
# ViTPose models with the classic head have kernel 4.
#
# Even coverage is not the end of it. The four kinds of output pixels use different places of the kernel, and nothing
# forces these to agree. How much of a map's variance do the means of its four kinds explain? A map without a pattern
# has about 0.


# %%
def pattern(maps):
    """maps (C, H, W) -> (C,): the share of the variance that lies between even and odd rows and columns."""
    kinds = np.stack([maps[:, r::2, c::2].mean(axis=(1, 2)) for r in (0, 1) for c in (0, 1)], axis=1)
    return kinds.var(axis=1) / np.maximum(maps.var(axis=(1, 2)), 1e-12)


figures.bars(
    {
        "after the first transposed convolution": pattern(stage["2"][0]).mean(),
        "after the second": pattern(stage["5"][0]).mean(),
        "the heatmaps": pattern(heatmaps[0]).mean(),
    },
    "share of the variance, mean over the maps",
    "How much of the maps is a pattern of even and odd",
    width=760,
)

# %% [markdown]
# Look at the maps above again with this in mind. The loss is measured on the heatmaps alone. What the maps before
# them look like does not count, as long as the last weighted sum is even.

# %% [markdown]
# ## Exercise 8.1 · Write it
#
# Difficulty ●●○ · 15 minutes. Write `conv_transpose2d`, by stamping or by gathering. The bias may be `None`.
#
# <details><summary>Hint 1</summary>Begin with zeros of the full size, stride (H − 1) + kh, and cut the padding off at
# the end.</details>
# <details><summary>Hint 2</summary>Two loops are enough: over the kernel's rows a and columns b. The place (a, b) of
# all stamps lands on <code>y[:, :, a : a + stride * H : stride, b : b + stride * W : stride]</code>.</details>
# <details><summary>Hint 3</summary>What lands there: <code>np.einsum("bchw,co->bohw", x, weight[:, :, a,
# b])</code>.</details>


# %% tags=["exercise"]
def conv_transpose2d(x, weight, bias, stride, padding): ...  # your code


teach.check("conv_transpose2d", conv_transpose2d)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def conv_transpose2d(x, weight, bias, stride, padding):
    B, _, H, W = x.shape
    _, Cout, kh, kw = weight.shape
    height, width = stride * (H - 1) + kh, stride * (W - 1) + kw
    y = np.zeros((B, Cout, height, width), x.dtype)
    for a in range(kh):
        for b in range(kw):
            place = y[:, :, a : a + stride * H : stride, b : b + stride * W : stride]
            place += np.einsum("bchw,co->bohw", x, weight[:, :, a, b])
    y = y[:, :, padding : height - padding, padding : width - padding]
    return y if bias is None else y + bias[:, None, None]


### END SOLUTION
teach.check("conv_transpose2d", conv_transpose2d)

# %% [markdown]
# ## Exercise 8.2 · Batch norm
#
# Difficulty ●○○ · 5 minutes. Write `batch_norm` for inference.
#
# <details><summary>Hint</summary>One number a channel: <code>weight[:, None, None]</code> has the shape (C, 1, 1),
# which goes with (B, C, H, W).</details>


# %% tags=["exercise"]
def batch_norm(x, weight, bias, running_mean, running_var, eps=1e-5): ...  # your code


teach.check("batch_norm", batch_norm)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def batch_norm(x, weight, bias, running_mean, running_var, eps=1e-5):
    gain = weight / np.sqrt(running_var + eps)
    return (x - running_mean[:, None, None]) * gain[:, None, None] + bias[:, None, None]


### END SOLUTION
teach.check("batch_norm", batch_norm)

# %% [markdown]
# ## Exercise 8.3 · The simple head's parts
#
# Difficulty ●●○ · 15 minutes. Write `relu`, and `upsample_bilinear` for any whole factor.
#
# <details><summary>Hint 1</summary>New sample i lies at old place (i + ½) / scale − ½. Outside it is pushed to the
# edge.</details>
# <details><summary>Hint 2</summary>The floor of that place is the left neighbour; the fraction is the right one's
# weight.</details>
# <details><summary>Hint 3</summary>Do the rows, then the columns. With up and down for the upper and lower neighbour:
# <code>x[:, :, up] * (1 - t[:, None]) + x[:, :, down] * t[:, None]</code>.</details>


# %% tags=["exercise"]
def relu(x): ...  # your code


teach.check("relu", relu)


# %% tags=["exercise"]
def upsample_bilinear(x, scale): ...  # your code


teach.check("upsample_bilinear", upsample_bilinear)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def relu(x):
    return np.maximum(x, 0)


### END SOLUTION
teach.check("relu", relu)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def neighbours(n, scale):
    place = np.clip((np.arange(n * scale) + 0.5) / scale - 0.5, 0, n - 1)
    left = np.floor(place).astype(int)
    return left, np.minimum(left + 1, n - 1), place - left


def upsample_bilinear(x, scale):
    up, down, t = neighbours(x.shape[2], scale)
    t = t.astype(x.dtype)[:, None]
    x = x[:, :, up] * (1 - t) + x[:, :, down] * t
    left, right, t = neighbours(x.shape[3], scale)
    t = t.astype(x.dtype)
    return x[..., left] * (1 - t) + x[..., right] * t


### END SOLUTION
teach.check("upsample_bilinear", upsample_bilinear)

# %% [markdown]
# ## Exercise 8.4 · A head without batch norm
#
# Difficulty ●●○ · 10 minutes. Fold both batch norms and compute the heatmaps with three convolutions and two ReLUs.
# How far are they from the heatmaps above? Why can ReLU not be folded away, too?
#
# <details><summary>Hint</summary>Put the folding above into a function of a convolution's weight and a batch norm's
# parameters.</details>

# %% tags=["exercise"]
# your code


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def fold(weight, p):
    gain = p["weight"] / np.sqrt(p["running_var"] + 1e-5)
    return {"weight": weight * gain[None, :, None, None], "bias": p["bias"] - p["running_mean"] * gain}


y = layers.relu(layers.deconv(x, **fold(deconv["0"]["weight"], deconv["1"])))
y = layers.relu(layers.deconv(y, **fold(deconv["3"]["weight"], deconv["4"])))
y = layers.same_conv(y, **final)
print(f"largest difference {np.abs(y - heatmaps).max():.1e}, of values up to {heatmaps.max():.2f}")
print("ReLU is not linear: no convolution does it.")
assert np.allclose(y, heatmaps, atol=1e-4)
### END SOLUTION

# %% [markdown]
# ## Exercise 8.5 · Which kernels cover evenly?
#
# Difficulty ●○○ · 5 minutes. For kernels 1 to 8 and strides 1 to 4, find out whether all pixels away from the edge
# get equally many stamps. What is the rule?
#
# <details><summary>Hint</summary>One dimension is enough: <code>layers.conv_transpose2d(np.ones((1, 1, 1, 20)),
# np.ones((1, 1, 1, k)), stride=s)</code>, and leave k numbers out at each end.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
for s in range(1, 5):
    row = []
    for k in range(1, 9):
        stamps = layers.conv_transpose2d(np.ones((1, 1, 1, 20)), np.ones((1, 1, 1, k)), stride=s)[0, 0, 0, k:-k]
        row.append("even" if stamps.min() == stamps.max() else "-")
        assert (row[-1] == "even") == (k % s == 0)
    print(f"stride {s}: kernels 1 to 8: " + " ".join(f"{cell:>5}" for cell in row))
print("Even where the stride divides the kernel.")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/kernels/conv_transpose.py`, and `kernels/fused/deconv.py`, where the fast engine does the transposed
#   convolution with batch norm and ReLU in one go.
# - Dumoulin and Visin: A guide to convolution arithmetic for deep learning (2016). Odena, Dumoulin, Olah:
#   Deconvolution and checkerboard artifacts (2016). Xu et al.: ViTPose (2022), for the two heads.
# - Next: [09 · From heatmaps to keypoints](09_keypoints.ipynb).
