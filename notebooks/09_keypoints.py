# %% [markdown]
# # 09 · From heatmaps to keypoints
#
# **After this notebook you can** turn a heatmap into a point between its cells, in three ways, and say what each
# costs; map cells to pixels without losing half a cell; use the flip test; and read an OKS.
#
# 40 minutes to read, 55 for the exercises. Needs: heatmaps ([08](08_decoder.ipynb)). Nothing is downloaded.

# %%
import inspect

import numpy as np
from matplotlib.patches import Circle

from minivitpose import load, synthetic, teach
from minivitpose.pose.crop import normalised
from minivitpose.pose.decode import cells_to_crop, cells_to_picture, decode_argmax, newton_step, quarter_step, refine
from minivitpose.pose.encode import encode
from minivitpose.pose.flip import flip_heatmaps, flip_images
from minivitpose.pose.oks import oks
from minivitpose.teach import figures

example = teach.example()
names, crop, person = example.skeleton.keypoints, example.crop, example.people[example.person]
heatmaps = example.heatmaps[0]  # (17, 64, 48): one map a keypoint
truth = crop.from_picture(person.keypoints[:, :2])  # (17, 2): where the joints truly are, x and y in pixels of the crop

assert heatmaps.shape == (17, 64, 48) and crop.pixels.shape == (256, 192, 3)
SIZE, MAP = (256, 192), (64, 48)  # crop and heatmap, each (height, width)
heatmaps.shape, truth.shape

# %% [markdown]
# ## What a heatmap is
#
# The network was trained to draw a **bell** around each joint: a Gaussian with a standard deviation of $\sigma = 2$
# cells and the height 1. With the joint at $(x_0, y_0)$, in cells:
#
# $$ \mathrm{target}(x, y) = \exp\left(-\frac{(x - x_0)^2 + (y - y_0)^2}{2 \sigma^2}\right) $$
#
# $x_0$ and $y_0$ need not be whole numbers. That the bell lies between the cells is what lets us find the joint there
# again. `pose/encode.py` draws it, and leaves out what is more than 3 σ away.


# %%
def bell(x0, y0, height=64, width=48, sigma=2.0):
    x, y = np.arange(width), np.arange(height)[:, None]
    return np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))


to_cells = (np.array(MAP[::-1]) - 1) / (np.array(SIZE[::-1]) - 1)  # 47 / 191 and 63 / 255: see "From cells to pixels"
targets, weights = encode(truth, np.ones(17))
wrist = names.index("left_wrist")
assert np.abs(bell(*truth[wrist] * to_cells) - targets[wrist]).max() < np.exp(-(3**2) / 2) + 1e-6

figures.over_crop(
    crop,
    [targets[wrist], heatmaps[wrist], targets.max(axis=0), heatmaps.max(axis=0)],
    ["target, left wrist", "network, left wrist", "target, all 17", "network, all 17"],
    columns=4,
    height=300,
)


# %%
def section(joint):
    """The row of the target and of the network's heatmap that is nearest to the true joint."""
    k = names.index(joint)
    x0, y0 = truth[k] * to_cells
    row = int(np.clip(np.rint(y0), 0, 63))
    curves = {"target": targets[k, row], "network": heatmaps[k, row]}
    title = f"{joint.replace('_', ' ')}: row {row} of both maps; the line is the true joint"
    figure = figures.lines(np.arange(48), curves, ("column, in cells", "value"), title, marker="o", height=260)
    figure.axes[0].axvline(x0, color=figures.GREY, linewidth=1)
    return figure


teach.explore(section, start={"joint": "left_wrist"}, joint=names)

# %% [markdown]
# ## The highest cell
#
# The first idea: take the cell with the largest value. Flatten the map, find the place, and split it into row and
# column again. The value there is the keypoint's **score**.

# %%
place = heatmaps[wrist].argmax()
row, column = divmod(int(place), 48)
score = heatmaps[wrist].flat[place]

cells, scores = decode_argmax(heatmaps)  # all 17 at once: (17, 2) x, y in cells, and (17,)
assert cells[wrist].tolist() == [column, row] and scores[wrist] == score
teach.say(f"The left wrist's highest cell is column **{column}**, row **{row}**, with a score of **{score:.2f}**.")

# %% [markdown]
# A cell is four pixels wide. A joint right in the middle between two cells is two pixels from both: that is the error
# that stays even with a perfect heatmap.
#
# ## A quarter of a cell
#
# The second idea: look at the neighbours. If the right one is higher than the left one, the top of the bell lies to
# the right. Go a quarter of a cell that way, and the same for up and down.


# %%
def quarter(heatmap, x, y):
    """The step (x, y) in cells from the highest cell."""
    right, left, below, above = heatmap[y, x + 1], heatmap[y, x - 1], heatmap[y + 1, x], heatmap[y - 1, x]
    return 0.25 * np.sign([right - left, below - above])


by_package = quarter_step(heatmaps, cells)  # of all 17 at once
assert np.array_equal(quarter(heatmaps[wrist], column, row), by_package[wrist])

offsets = np.linspace(-0.5, 0.5, 100)
bells = np.stack([bell(24 + t, 32) for t in offsets])
PIXELS = 191 / 47  # of the crop, in a cell


def off(mode, maps=bells, x0=24 + offsets):
    """How far from the truth a decoder lands along x, in pixels of the crop."""
    found, heights = decode_argmax(maps)
    return np.abs(refine(maps, found, heights, mode)[:, 0] - x0) * PIXELS


figures.lines(
    offsets,
    {"highest cell": off("argmax"), "a quarter towards the higher neighbour": off("plain")},
    ("where the joint lies between the cells, in cells", "error, in pixels of the crop"),
    "What is lost on a perfect heatmap",
    height=270,
)

# %%
assert 2 < off("argmax").max() < 2.04 and 1 < off("plain").max() < 1.02
teach.say(
    f"Pixels lost at most: **{off('argmax').max():.2f}** with the highest cell, **{off('plain').max():.2f}** with the "
    f"quarter step. On average: {off('argmax').mean():.2f} and {off('plain').mean():.2f}."
)

# %% [markdown]
# ## The top of a parabola
#
# The third idea uses that we know the shape. The logarithm of a Gaussian is a **parabola**:
#
# $$ \log \mathrm{target}(x) = -\frac{(x - x_0)^2}{2 \sigma^2} $$
#
# Three points fix a parabola. With $L_-$, $L_0$, $L_+$ the logarithms at the cell left of the highest, at it, and
# right of it, its slope and its curvature at the highest cell are
#
# $$ g = \frac{L_+ - L_-}{2}, \qquad H = L_+ - 2 L_0 + L_- $$
#
# and its top lies $-g / H$ further: one step of **Newton's method**. For a parabola one step is all it takes.

# %%
t = 0.3  # the joint lies 0.3 cells to the right of cell 24
values = bell(24 + t, 32)[32, 23:26]
L = np.log(values)
g, H = (L[2] - L[0]) / 2, L[2] - 2 * L[1] + L[0]
assert np.isclose(-g / H, t) and np.isclose(H, -1 / 2**2)
for name, number in {"values": values, "logarithms": L, "slope g": g, "curvature H": H, "step -g / H": -g / H}.items():
    print(f"{name:12}", np.round(number, 4))


# %%
def draw_parabola(axes, curve, peak, title):
    """The logarithm of a row, the parabola through three of its points, and the parabola's top."""
    low, high = max(peak - 5, 0), min(peak + 6, len(curve))
    near, log = np.arange(low, high), np.log(np.clip(curve, 0.001, 50))
    axes.plot(near, log[low:high], "o", color=figures.COLOURS[0], label="log of the cells")
    g, H = (log[peak + 1] - log[peak - 1]) / 2, log[peak + 1] - 2 * log[peak] + log[peak - 1]
    fine = np.linspace(-2.5, 2.5, 101)
    axes.plot(peak + fine, log[peak] + g * fine + H * fine**2 / 2, "--", color=figures.COLOURS[1], label="parabola")
    axes.plot(peak - g / H, log[peak] - g * g / H / 2, "^", markersize=9, color=figures.COLOURS[1], label="its top")
    figures.plain(axes, "column, in cells", "", f"{title}: step {-g / H:+.2f}")


row_of = {joint: int(cells[names.index(joint), 1]) for joint in ("left_wrist", "left_shoulder")}
figure = teach.canvas(900, 290, "parabola")
panels = figure.subplots(1, 3)
draw_parabola(panels[0], bell(24 + t, 32)[32], 24, "A perfect bell")
for ax, (joint, at) in zip(panels[1:], row_of.items(), strict=True):
    k = names.index(joint)
    draw_parabola(ax, heatmaps[k, at], int(np.clip(cells[k, 0], 1, 46)), joint.replace("_", " ").capitalize())
panels[0].set_ylabel("logarithm", fontsize=9, color=figures.GREY)
panels[0].legend(frameon=False, fontsize=8.5, loc="lower center")
figure

# %% [markdown]
# In two dimensions the slope is a vector, the **gradient** $g$, and the curvature a matrix, the **Hessian** $H$, and
# the step is $-H^{-1} g$. The mixed derivative comes from two of the diagonal neighbours, as in ViTPose's own code.


# %%
def newton(L):
    """L (3, 3), the logarithms around the highest cell -> the step (x, y) in cells to the top."""
    (_, up, _), (left, middle, right), (_, down, _) = L
    gradient = np.array([right - left, down - up]) / 2
    tiny = np.finfo(np.float32).eps  # where a map is flat there is no curvature to divide by: no step
    xx, yy = right - 2 * middle + left + tiny, down - 2 * middle + up + tiny
    xy = (L[2, 2] - right - down + 2 * middle - left - up + L[0, 0]) / 2
    return -np.linalg.solve([[xx, xy], [xy, yy]], gradient)


patch = np.log(bell(24.3, 31.8)[31:34, 23:26])
assert np.allclose(newton(patch), (0.3, -0.2)) and np.allclose(newton(patch), newton_step(patch[None])[0], atol=1e-5)
newton(patch)

# %% [markdown]
# ## First a blur
#
# A network's heatmap is no perfect bell. A little noise in three values is large in their differences. So the map is
# smoothed first, with a Gaussian of 2 cells over 11 cells. A blurred bell is a wider bell with its top at the same
# place. Beyond the border the map is mirrored. Then everything below 0.001 is raised to it, so that the logarithm
# exists.
#
# Blur, logarithm, Newton step: this is **DARK** (Zhang et al. 2020), as **UDP** (Huang et al. 2020) uses it, and as
# ViTPose's results on COCO were made.


# %%
def blurred(heatmap):
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 2.0**2))
    taps /= taps.sum()
    height, width = heatmap.shape
    padded = np.pad(heatmap.astype(np.float64), 5, mode="reflect")
    rows = sum(tap * padded[i : i + height] for i, tap in enumerate(taps))
    return sum(tap * rows[:, j : j + width] for j, tap in enumerate(taps))


def udp(heatmap, x, y):
    """The step (x, y) in cells from a highest cell that is not at the border."""
    L = np.log(np.clip(blurred(heatmap), 0.001, 50))
    return newton(L[y - 1 : y + 2, x - 1 : x + 2])


refined = refine(heatmaps, cells, scores, "udp")  # what the package does, for all 17 at once
for k, (x, y) in enumerate(cells.astype(int)):
    if 0 < x < 47 and 0 < y < 63 and scores[k] > 0.1:
        assert np.allclose((x, y) + udp(heatmaps[k], x, y), refined[k], atol=1e-3)
print(inspect.getsource(newton_step))

# %% [markdown]
# ## How much it helps
#
# Perfect bells and bells with noise, at every place between two cells. The Newton step stands there with and without
# the blur.

# %%
random = np.random.default_rng(9)
places = np.linspace(-0.5, 0.5, 22)


def newton_only(maps):
    """The Newton step without a blur, along x, at the highest cell; no step where the parabola has no top."""
    x, y = decode_argmax(maps)[0].astype(int).T
    n, near = np.arange(len(maps))[:, None, None], np.arange(-1, 2)
    patches = np.log(np.clip(maps[n, y[:, None, None] + near[:, None], x[:, None, None] + near], 0.001, 50))
    steps = newton_step(patches)[:, 0]
    return x + np.where(np.abs(steps) < 2, steps, 0)


def curves(noise, repeats):
    """Mean error in pixels at each place, for each decoder."""
    found = {"highest cell": [], "quarter step": [], "Newton, no blur": [], "blur and Newton (UDP)": []}
    for t in places:
        maps = np.stack([bell(12 + t, y, 24, 24) for y in random.uniform(11.5, 12.5, repeats)])
        maps += noise * random.standard_normal(maps.shape)
        for name, mode in zip(found, ("argmax", "plain", None, "udp"), strict=True):
            error = off(mode, maps, 12 + t) if mode else np.abs(newton_only(maps) - 12 - t) * PIXELS
            found[name].append(error.mean())
    return found


# %%
results = {"perfect bells": curves(0.0, 20), "with noise of 0.05 in each cell": curves(0.05, 150)}
figure = teach.canvas(900, 320, "decoders")
panels = figure.subplots(1, 2, sharey=True)
for ax, (title, found) in zip(panels, results.items(), strict=True):
    for (name, y), colour, dash in zip(found.items(), figures.COLOURS, figures.DASHES, strict=False):
        ax.plot(places, y, label=name, color=colour, linestyle=dash)
    figures.plain(ax, "where the joint lies between the cells, in cells", "", title.capitalize())
panels[0].set_ylabel("mean error, in pixels of the crop", fontsize=9, color=figures.GREY)
panels[1].legend(frameon=False, fontsize=8.5)
figure

# %%
perfect, noisy = results.values()
assert max(perfect["blur and Newton (UDP)"]) < 0.05
assert np.mean(noisy["blur and Newton (UDP)"]) < np.mean(noisy["Newton, no blur"])
for title, found in results.items():
    teach.say(
        f"{title.capitalize()}: " + ", ".join(f"{name} **{np.mean(y):.2f}**" for name, y in found.items()) + " pixels."
    )

# %% [markdown]
# ## On many people
#
# 24 crops of mannequins that the network was not trained on. First the decoders on the true heatmaps, which is the
# best that any network could do; then on the network's own.

# %%
pixels, keypoints, boxes, areas = synthetic.batch(9, 24, split="test")  # keypoints (24, 17, 3): x, y and visibility
model = load("mini")
own = model(normalised(pixels))
ideal, known = zip(*(encode(points[:, :2], points[:, 2] > 0) for points in keypoints), strict=True)
ideal, known = np.stack(ideal), np.stack(known) > 0


def error(maps, mode, to_pixels=lambda cells: cells_to_crop(cells, MAP, SIZE)):
    """How far the decoded keypoints are from the true ones, in pixels: (number of known keypoints,)."""
    found, heights = decode_argmax(maps)
    found = to_pixels(refine(maps, found, heights, mode))
    return np.linalg.norm(found - keypoints[..., :2], axis=-1)[known]


# %%
modes = {"highest cell": "argmax", "quarter step": "plain", "blur and Newton (UDP)": "udp"}
table = {
    "true heatmaps": {name: error(ideal, mode).mean() for name, mode in modes.items()},
    "the network's heatmaps": {name: error(own, mode).mean() for name, mode in modes.items()},
}
from_worst = list(table["true heatmaps"].values())
assert from_worst == sorted(from_worst, reverse=True)

figure = teach.canvas(900, 190, "people")
for ax, (title, bars) in zip(figure.subplots(1, 2), table.items(), strict=True):
    ax.barh(list(bars), list(bars.values()), height=0.6, color=figures.COLOURS[0])
    for y, value in enumerate(bars.values()):
        ax.annotate(f"{value:.2f}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    figures.plain(ax, "mean error, in pixels of the crop", "", title.capitalize())
    ax.grid(visible=False)
    ax.margins(x=0.15)
    ax.invert_yaxis()
figure

# %%
closer = error(own, "udp") < error(own, "argmax")
teach.say(
    f"On the network's heatmaps UDP is closer to the truth than the highest cell for **{closer.mean():.0%}** of the "
    f"{known.sum()} keypoints. The median error is {np.median(error(own, 'argmax')):.2f} pixels with the highest cell, "
    f"{np.median(error(own, 'udp')):.2f} with UDP."
)

# %% [markdown]
# A good decoder takes away the error of the grid. It cannot take away the network's own.
#
# ## From cells to pixels
#
# Which pixel is cell $x$? Three answers are in use, for a crop $W = 192$ pixels and a map $W_m = 48$ cells wide:
#
# | | pixel of cell $x$ | idea |
# |---|---|---|
# | UDP | $x\,(W - 1) / (W_m - 1)$ | pixels and cells are points; the corner cells lie on the corner pixels |
# | plain | $x\, W / W_m$ | four pixels a cell, counted from the corner |
# | half a pixel | $(x + \frac12)\, W / W_m - \frac12$ | pixels and cells are squares; their outer edges coincide |
#
# Each is right if targets and decoding both use it. ViTPose's targets for COCO were drawn by the first. Who decodes
# with another one moves every point:

# %%
columns = np.arange(48)
conventions = {
    "UDP": lambda cells: cells_to_crop(cells, MAP, SIZE),
    "plain": lambda cells: cells * 4.0,
    "half a pixel": lambda cells: (cells + 0.5) * 4.0 - 0.5,
}
across = {name: f(np.stack([columns, columns], axis=-1).astype(np.float64))[:, 0] for name, f in conventions.items()}
assert across["UDP"][47] == 191 and across["plain"][47] == 188 and across["half a pixel"][47] == 189.5
moved = {name: x - across["UDP"] for name, x in across.items() if name != "UDP"}
figures.lines(
    columns, moved, ("column, in cells", "moved, in pixels"), "How far a point moves in another convention", height=240
)

# %%
teach.say(
    "Mean error on the true heatmaps, in pixels: "
    + ", ".join(f"**{error(ideal, 'udp', f).mean():.2f}** by {name}" for name, f in conventions.items())
    + f". The highest cell, not refined, is {error(ideal, 'argmax').mean():.2f} off by the UDP convention."
)
assert error(ideal, "udp", conventions["plain"]).mean() > error(ideal, "argmax").mean()

# %% [markdown]
# Multiplying by four loses more than the whole refinement gains.
#
# From the crop to the picture it is the crop's own affine map ([10](10_crops.ipynb)). The package goes in one step,
# from cells to the picture:

# %%
in_picture = cells_to_picture(refined, MAP, np.array(crop.centre), np.array(crop.scale), "udp")
assert np.allclose(in_picture, crop.to_picture(cells_to_crop(refined, MAP, SIZE)), atol=1e-3)
teach.say(f"One cell is {PIXELS:.2f} pixels of the crop, and {crop.scale[0] / 47:.2f} pixels of this picture.")

# %% [markdown]
# ## Scores
#
# The score is the height of the heatmap at its highest cell. The targets have the height 1, so a network that is sure
# draws a high bell. If it wavers between two places, the mean squared error is smallest for a low bell at both. A
# score is no probability: it may be above 1, and in another network it may mean something else.

# %%
heights = own.max(axis=(2, 3))[known]
distances, hidden = error(own, "udp"), keypoints[..., 2][known] == 1
figure = teach.canvas(640, 300, "scores")
axes = figure.subplots()
axes.plot(heights[~hidden], distances[~hidden], "o", markersize=4, color=figures.COLOURS[0], label="visible joints")
axes.plot(heights[hidden], distances[hidden], "x", markersize=5, color=figures.COLOURS[1], label="hidden joints")
figures.plain(axes, "score", "error, in pixels", "Score and error of each keypoint of the 24 crops", log=True)
axes.legend(fontsize=8.5, loc="lower left")
figure

# %%
order = np.argsort(heights)
low, high = order[: len(order) // 2], order[len(order) // 2 :]
teach.say(
    f"Mean error of the half with the lower scores: **{distances[low].mean():.1f}** pixels; with the higher ones: "
    f"**{distances[high].mean():.1f}**. Mean score of visible joints {heights[~hidden].mean():.2f}, of hidden ones "
    f"{heights[hidden].mean():.2f}."
)

# %% [markdown]
# ## The flip test
#
# Show the network the mirrored crop as well, turn the result back, and take the mean. Its mistakes on the two are not
# quite the same, and some cancel. In the mirror a left wrist is a right wrist: the heatmaps must change their
# **names** as well.

# %%
mirrored = model(flip_images(example.images))[0]
turned = mirrored[:, :, ::-1]
renamed = flip_heatmaps(mirrored, example.skeleton.flip_index)
assert np.array_equal(renamed[wrist], turned[names.index("right_wrist")])
figures.over_crop(
    crop,
    [heatmaps[wrist], turned[wrist], renamed[wrist], (heatmaps[wrist] + renamed[wrist]) / 2],
    ["left wrist", "mirrored, turned back", "... and renamed", "mean"],
    columns=4,
    height=300,
    title="The left wrist, and what the mirrored crop says of it",
)

# %%
flipped = flip_heatmaps(model(flip_images(normalised(pixels))), example.skeleton.flip_index)
both = (own + flipped) / 2
teach.say(
    f"Mean error on the 24 crops: **{error(own, 'udp').mean():.2f}** pixels from the crop alone, "
    f"**{error(both, 'udp').mean():.2f}** with the flip test. It costs a second run of the network."
)

# %% [markdown]
# Does the turned map lie exactly on the other? In UDP's convention yes: pixel $u$ becomes pixel $191 - u$, and cell
# $x$ becomes cell $47 - x$. In the plain one, with $x = u / 4$, it does not. There the official code moves the turned
# map by one cell:

# %%
u = np.array([0.0, 50.0, 191.0])
back = {"UDP": 47 - (191 - u) * 47 / 191 - u * 47 / 191, "plain": 47 - (191 - u) / 4 - u / 4}
assert np.allclose(back["UDP"], 0) and np.allclose(back["plain"], -0.75)
print("cells off after turning back:", {name: np.round(cells_off, 2).tolist() for name, cells_off in back.items()})
print("plain, moved by one cell:", (back["plain"] + 1).tolist())

# %% [markdown]
# ## How good is good enough: OKS
#
# Where an eye is, everybody sees. Where in a hip the joint is, two annotators do not agree to the pixel. COCO's
# **object keypoint similarity** takes that into account. For a joint $d$ pixels off, on a person whose area is $s^2$
# pixels:
#
# $$ \mathrm{similarity} = \exp\left(-\frac{d^2}{2 s^2 k^2}\right), \qquad k = 2 \sigma $$
#
# $\sigma$ is how much annotators spread at this joint, relative to the person's size. The OKS of a pose is the mean
# over its labelled joints: 1 is perfect. AP, the number in the papers, counts people whose OKS is above thresholds
# from 0.5 to 0.95.

# %%
sigmas = np.array(example.skeleton.sigmas)
shrink = 191 / crop.scale[0]  # pixels of the crop in a pixel of the picture
size = np.sqrt(person.area) * shrink  # s, in pixels of the crop


def radius(similarity):
    """How many pixels of the crop off a joint may be for this similarity: (17,)."""
    return 2 * sigmas * size * np.sqrt(2 * np.log(1 / similarity))


points = cells_to_crop(refined, MAP, SIZE)
figure, axes = figures.grid(
    2,
    2,
    480,
    width=760,
    name="oks",
    title="Dot: the true joint. Circle: where the similarity is 0.5 or 0.9. Cross: the network's",
)
for ax, similarity in zip(axes, (0.5, 0.9), strict=True):
    ax.imshow(crop.pixels // 2 + 127)
    for (x, y), r in zip(truth, radius(similarity), strict=True):
        ax.add_patch(Circle((x, y), r, fill=False, ec=figures.COLOURS[0], lw=1.3))
    ax.plot(*truth.T, "o", markersize=2.5, color=figures.COLOURS[0])
    ax.plot(*points.T, "x", markersize=5, color=figures.COLOURS[1])
    ax.set(xlim=(-0.5, 191.5), ylim=(255.5, -0.5))
    figures.bare(ax, f"similarity {similarity}")
figure

# %%
sides = [name for name in names if not name.startswith("right_")]
figures.bars(
    {name.removeprefix("left_"): radius(0.5)[names.index(name)] for name in sides},
    "pixels of this crop",
    "How far off a joint may be for a similarity of one half",
)

# %%
assert radius(0.5)[names.index("left_hip")] > 4 * radius(0.5)[names.index("left_eye")]


def oks_of(cells, convention="UDP"):
    """The OKS of this person's pose, in the picture, as pycocotools computes it."""
    to_pixels = conventions[convention]
    pose = crop.to_picture(to_pixels(cells))
    return oks(pose[None], person.keypoints, person.box, person.area, sigmas)[0]


found = {name: oks_of(refine(heatmaps, cells, scores, mode)) for name, mode in modes.items()}
found["UDP, wrong convention (plain)"] = oks_of(refined, "plain")
teach.say(
    "OKS of the person in the crop: " + ", ".join(f"{name} **{value:.3f}**" for name, value in found.items()) + "."
)

# %% [markdown]
# ## Exercise 9.1 · The highest cell
#
# Difficulty ●○○ · 5 minutes. Write `decode_argmax` for heatmaps `(K, Hm, Wm)`: the cells as x, y, shape `(K, 2)`, and
# the scores `(K,)`. Among equal cells the first in reading order.
#
# <details><summary>Hint 1</summary>Flatten each map: <code>heatmaps.reshape(K, -1)</code>.</details>
# <details><summary>Hint 2</summary>Column is the remainder of the division by the width, row the quotient. x is the
# column.</details>


# %% tags=["exercise"]
def decode_argmax_yours(heatmaps): ...  # your code: return xy, scores


teach.check("decode_argmax", decode_argmax_yours)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def decode_argmax_yours(heatmaps):
    K, _, width = heatmaps.shape
    flat = heatmaps.reshape(K, -1)
    place = flat.argmax(axis=1)
    return np.stack([place % width, place // width], axis=1), flat[np.arange(K), place]


### END SOLUTION
teach.check("decode_argmax", decode_argmax_yours)

# %% [markdown]
# ## Exercise 9.2 · The quarter step
#
# Difficulty ●●○ · 10 minutes. Write `decode_quarter`. As in the official code there is a step only where 1 < x < Wm −
# 1 and 1 < y < Hm − 1.
#
# <details><summary>Hint 1</summary>A loop over the K maps is fine.</details>
# <details><summary>Hint 2</summary>The result must hold fractions: make the cells float first.</details>


# %% tags=["exercise"]
def decode_quarter(heatmaps): ...  # your code: return xy, scores


teach.check("decode_quarter", decode_quarter)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def decode_quarter(heatmaps):
    cells, scores = decode_argmax_yours(heatmaps)
    _, height, width = heatmaps.shape
    xy = cells.astype(np.float64)
    for k, (x, y) in enumerate(cells):
        if 1 < x < width - 1 and 1 < y < height - 1:
            xy[k] += quarter(heatmaps[k], x, y)
    return xy, scores


### END SOLUTION
teach.check("decode_quarter", decode_quarter)

# %% [markdown]
# ## Exercise 9.3 · Blur, logarithm, Newton
#
# Difficulty ●●● · 20 minutes. Write `decode_udp`. Beyond the border of the logarithm the border's value is repeated.
#
# <details><summary>Hint 1</summary><code>blurred</code> and <code>newton</code> are above.</details>
# <details><summary>Hint 2</summary>Pad the logarithm by one cell: <code>np.pad(L, 1, mode="edge")</code>. The 3 × 3
# cells around (x, y) then begin at row y and column x.</details>


# %% tags=["exercise"]
def decode_udp(heatmaps): ...  # your code: return xy, scores


teach.check("decode_udp", decode_udp)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def decode_udp(heatmaps):
    cells, scores = decode_argmax_yours(heatmaps)
    xy = cells.astype(np.float64)
    for k, (x, y) in enumerate(cells):
        L = np.pad(np.log(np.clip(blurred(heatmaps[k]), 0.001, 50)), 1, mode="edge")
        xy[k] += newton(L[y : y + 3, x : x + 3])
    return xy, scores


### END SOLUTION
teach.check("decode_udp", decode_udp)

# %% [markdown]
# ## Exercise 9.4 · Why not the centre of mass?
#
# Difficulty ●●○ · 10 minutes. A fourth idea: the mean of all cells, weighted by their values. Compare its error with
# those of the highest cell and of UDP, on the true heatmaps and on the network's own. What happens if a map has two
# bells?
#
# <details><summary>Hint</summary>Set negative values to 0, and divide by the sum: <code>(maps * columns).sum(axis=(2,
# 3)) / maps.sum(axis=(2, 3))</code>.</details>

# %% tags=["exercise"]
# your code


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def centre_of_mass(maps):
    maps = np.maximum(maps, 0).astype(np.float64)
    x, y = np.arange(48), np.arange(64)[:, None]
    total = maps.sum(axis=(2, 3)) + 1e-12
    return np.stack([(maps * x).sum(axis=(2, 3)) / total, (maps * y).sum(axis=(2, 3)) / total], axis=-1)


for name, maps in {"true": ideal, "network's": own}.items():
    apart = np.linalg.norm(cells_to_crop(centre_of_mass(maps), MAP, SIZE) - keypoints[..., :2], axis=-1)[known]
    others = f"highest cell {error(maps, 'argmax').mean():.2f}, UDP {error(maps, 'udp').mean():.2f}"
    print(f"{name} heatmaps: centre of mass {apart.mean():.2f} pixels, {others}")
two = bell(10, 32) + 0.8 * bell(38, 32)
print("two bells at x = 10 and 38: the centre of mass is at", np.round(centre_of_mass(two[None, None])[0, 0, 0], 1))
print("On a clean map it is exact. On the network's every far cell above 0 pulls at it, and of two bells it finds the")
print("place between, where nothing is.")
### END SOLUTION

# %% [markdown]
# ## Exercise 9.5 · What a convention costs in OKS
#
# Difficulty ●●○ · 10 minutes. Decode the true heatmaps of the 24 crops with each convention and print the mean OKS of
# the people. Which of them could still count at the threshold of 0.95?
#
# <details><summary>Hint</summary><code>oks(points[None], keypoints[i], boxes[i], areas[i], sigmas)[0]</code>, all in
# pixels of the crop.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
cells_24 = refine(ideal, *decode_argmax(ideal), "udp")
labelled = np.where(known[..., None], keypoints, 0)  # joints outside the crop do not count
for name, to_pixels in conventions.items():
    all_points = to_pixels(cells_24)
    each = [oks(p[None], t, b, a, sigmas)[0] for p, t, b, a in zip(all_points, labelled, boxes, areas, strict=True)]
    print(f"{name:13} mean OKS {np.mean(each):.3f}, of 24 people above 0.95: {np.sum(np.array(each) > 0.95)}")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/pose/decode.py`, where the families of programs and their blurs stand side by side, `pose/flip.py`,
#   `pose/oks.py`; `docs/pipelines.md` for what the differences cost.
# - Zhang et al.: Distribution-aware coordinate representation (DARK, 2020). Huang et al.: The devil is in the
#   details: delving into unbiased data processing (UDP, 2020).
# - Next: [10 · Crops, affine maps and the pipelines that disagree](10_crops.ipynb).
