# %% [markdown]
# # 10 · Crops, affine maps and the pipelines that disagree
#
# **After this notebook you can** turn a person's box into the network's input, number by number, and bring a point
# back; say what "unbiased" means for a crop, and why programs with the same weights give different keypoints; and
# recognise the usual mistakes of this step by what they cost.
#
# 35 minutes to read, 40 for the exercises. Needs: what a heatmap is and how a point is read off it
# ([09](09_keypoints.ipynb)). Nothing is downloaded.

# %%
import math

import numpy as np
from matplotlib.patches import Rectangle

from minivitpose import synthetic, teach
from minivitpose.plot import outline, show_picture
from minivitpose.pose import network_input
from minivitpose.pose.crop import MEAN, MODES, STD, Crop, centre_and_scale, crop, crop_matrix, normalised
from minivitpose.teach import figures

example = teach.example()
image, box = example.image, example.boxes[example.person]
size = example.model.config.image_size  # height and width of what the network takes

assert image.dtype == np.uint8 and image.ndim == 3 and size == (256, 192)
image.shape, box, size

# %% [markdown]
# ## Why
#
# The picture has one size, the people in it have many, and the network takes one size only: 256 rows and 192 columns
# with one person in the middle. So each person is cut out and scaled. Every point that the network finds has to travel
# the same way back. An error here is an error in every keypoint, and no training removes it.
#
# ## From the box to a rectangle
#
# A box is `x, y, w, h`: the left upper corner, then width and height. Some programs give two corners instead, `x1, y1,
# x2, y2`. Four numbers do not tell which they are. The package refuses where it can see the mistake:

# %%
from minivitpose.pose.boxes import check_boxes

x, y, w, h = box
corners = (x, y, x + w, y + h)
try:
    print(check_boxes([corners], image))
except ValueError as refusal:
    print(refusal)
print(check_boxes([corners], image, "xyxy"))

# %% [markdown]
# The crop is 3 wide to 4 high. The shorter side of the box grows until the box has that shape, too. Nothing is
# squeezed. Then everything grows by 1.25 about the centre, so that hands and feet near the edge have ground around
# them.

# %%
W, H = size[1], size[0]
shaped = max(w, h * W / H), max(h, w * H / W)  # width and height, 3 to 4
scale = tuple(1.25 * side for side in shaped)
centre = x + w / 2, y + h / 2

assert np.isclose(shaped[0] / shaped[1], 3 / 4) and (centre, scale) == centre_and_scale(box, size)


# %%
def frame(axes, centre, scale, colour, dashes, text):
    corner = np.subtract(centre, np.divide(scale, 2))
    patch = Rectangle(corner, *scale, fill=False, edgecolor=colour, linewidth=2, linestyle=dashes, label=text)
    patch.set_path_effects(outline(2))
    axes.add_patch(patch)


person = crop(image, box, size)
figure = figures.canvas(740, 355, "rectangle")
left, right = figure.subplots(1, 2, width_ratios=(640, 360))
show_picture(left, image)
frame(left, centre, (w, h), "#FFFFFF", "-", "the box")
frame(left, centre, shaped, "#56B4E9", "--", "3 to 4")
frame(left, centre, scale, "#E69F00", ":", "times 1.25: what is cut out")
left.set_title("Three rectangles about one centre", fontsize=10.5, loc="left")
left.legend(loc="lower left", fontsize=9, facecolor="#888888", labelcolor="white")
show_picture(right, person.pixels)
right.set_title("The crop, 192 x 256", fontsize=10.5, loc="left")
figure

# %% [markdown]
# ## The map, forwards and back
#
# Crop pixel $(u, v)$ lies in the picture at $(x, y)$. With $(c_x, c_y)$ the centre of the rectangle and $(S_x, S_y)$
# its width and height:
#
# $$ \begin{pmatrix} x \\ y \end{pmatrix} =
# \begin{pmatrix} \frac{S_x}{W-1} & 0 & c_x - \frac{S_x}{2} \\ 0 & \frac{S_y}{H-1} & c_y - \frac{S_y}{2} \end{pmatrix}
# \begin{pmatrix} u \\ v \\ 1 \end{pmatrix} $$
#
# The 1 makes the last column a shift. A map of this kind, a matrix and a shift, is called affine.

# %%
matrix = np.array(
    [[scale[0] / (W - 1), 0, centre[0] - scale[0] / 2], [0, scale[1] / (H - 1), centre[1] - scale[1] / 2]]
)
assert np.allclose(matrix, crop_matrix(centre, scale, size)) and np.allclose(matrix, person.matrix)

for u, v in [(0, 0), (W - 1, H - 1), ((W - 1) / 2, (H - 1) / 2)]:
    print(f"crop pixel ({u:5.1f}, {v:5.1f}) lies at", (matrix @ (u, v, 1)).round(2), "in the picture")

# %% [markdown]
# The corner pixels lie on the rectangle's corners, the middle on its centre. The way back takes the shift off and
# undoes the matrix. All 17 true joints, to the crop and back:

# %%
joints = example.people[example.person].keypoints[:, :2]
in_crop = (joints - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
back = in_crop @ matrix[:, :2].T + matrix[:, 2]

assert np.allclose(in_crop, person.from_picture(joints)) and np.abs(back - joints).max() < 1e-9
for k in (0, 9, 15):
    print(f"{example.skeleton.keypoints[k]:>10}: {joints[k].round(2)} -> {in_crop[k].round(2)} -> {back[k].round(2)}")

# %% [markdown]
# Why does the matrix go from the crop to the picture, and not the other way? The other way would *push* each picture
# pixel to a place in the crop. Where the crop is larger than the rectangle, nobody pushes into some of its pixels.
# *Pulling*, from each crop pixel, leaves no hole.

# %%
small = crop(image, min(example.boxes, key=lambda one: one[2] * one[3]), size)  # the smallest person
pushed, pulled = np.zeros_like(small.pixels), np.zeros_like(small.pixels)
rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
targets = np.rint(small.from_picture(np.stack([columns, rows], axis=-1))).astype(int)  # of each picture pixel
hits = ((targets >= 0) & (targets < (W, H))).all(axis=-1)
pushed[targets[hits, 1], targets[hits, 0]] = image[hits]

v, u = np.mgrid[:H, :W]
sources = np.rint(small.to_picture(np.stack([u, v], axis=-1))).astype(int)  # of each crop pixel
inside = ((sources >= 0) & (sources < image.shape[1::-1])).all(axis=-1)
pulled[inside] = image[sources[inside, 1], sources[inside, 0]]

titles = ["pushed: holes", "pulled: the nearest pixel", "pulled: a mean of four pixels"]
figures.tiles([pushed, pulled, small.pixels], titles, columns=3, height=300)

# %% [markdown]
# ## Between the pixels
#
# A crop pixel lies between four pixels of the picture. Its colour is their mean, and a pixel counts the more, the
# nearer it is: **bilinear** interpolation. One crop pixel by hand, where the colours change most:

# %%
changes = np.abs(np.diff(person.pixels[64:192, 48:144].astype(int), axis=1)).sum(axis=-1)
v, u = np.add(np.unravel_index(changes.argmax(), changes.shape), (64, 48))
x, y = matrix @ (u, v, 1)
j, i = math.floor(x), math.floor(y)
along, down = x - j, y - i  # how far between, 0 to 1
weights = np.outer([1 - down, down], [1 - along, along])  # of the four neighbours
colour = (weights[..., None] * image[i : i + 2, j : j + 2]).sum(axis=(0, 1))

assert np.isclose(weights.sum(), 1) and (np.floor(colour + 0.5) == person.pixels[v, u]).all()
print(f"crop pixel ({u}, {v}) is picture point ({x:.3f}, {y:.3f}); its colour {colour.round(2)} is rounded")

# %%
figure = figures.canvas(440, 330, "bilinear")
axes = figure.subplots()
axes.imshow(image, interpolation="nearest")
axes.set(xlim=(j - 2.5, j + 3.5), ylim=(i + 2.5, i - 1.5), xticks=range(j - 2, j + 4), yticks=range(i - 1, i + 3))
for a, b in np.ndindex(2, 2):
    pixel = Rectangle((j + b - 0.5, i + a - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=2.5)
    pixel.set_path_effects(outline(2))
    axes.add_patch(pixel)
    style = {"ha": "center", "va": "center", "fontsize": 11, "color": "white", "weight": "bold"}
    axes.text(j + b, i + a, f"{weights[a, b]:.2f}", path_effects=outline(1.5), **style)
axes.plot(x, y, "o", markersize=9, markerfacecolor="#E69F00", markeredgecolor="black")
figures.plain(axes, "x in the picture (pixels)", "y (pixels)", "Four pixels, their weights, the point between")
axes.grid(visible=False)
figure

# %% [markdown]
# ## In loops, in NumPy, compiled
#
# The same for every crop pixel. A pixel outside the picture counts as black.


# %%
def warp_loops(image, matrix, size):
    height, width, _ = image.shape
    pixels = np.zeros((*size, 3), np.uint8)
    for v in range(size[0]):
        for u in range(size[1]):
            x, y = (row[2] + row[1] * v + row[0] * u for row in matrix.tolist())
            j, i = math.floor(x), math.floor(y)
            total = np.zeros(3)
            for a, weight_a in ((i, 1 - (y - i)), (i + 1, y - i)):
                for b, weight_b in ((j, 1 - (x - j)), (j + 1, x - j)):
                    if 0 <= a < height and 0 <= b < width:
                        total += image[a, b] * weight_a * weight_b
            pixels[v, u] = np.floor(total + 0.5)
    return pixels


few = (64, 48)  # a small crop, so that the loops are soon done
few_matrix = crop_matrix(centre, scale, few)
slow = warp_loops(image, few_matrix, few)

# %% [markdown]
# `pose/warp.py` has it in NumPy: the loops over `v` and `u` become arrays, the loops over four neighbours stay.
# `pose/warp_kernel.py` has the loops again, compiled. All three give the same bytes.

# %%
from minivitpose.pose import warp, warp_kernel

assert np.array_equal(slow, warp.warp(image, few_matrix, few))
assert np.array_equal(slow, warp_kernel.warp(image, few_matrix, few))
teach.race({"loops in Python": warp_loops, "NumPy": warp.warp, "Numba": warp_kernel.warp}, image, few_matrix, few)

# %% [markdown]
# ## Into the network
#
# Colours from 0 to 255 become numbers between -2.2 and 2.65: divided by 255, less the mean, by the standard deviation
# of the pictures of the pretraining, each colour by itself. The colours move to the front, and a batch axis is added.

# %%
images = ((person.pixels / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)[None]

assert images.shape == (1, 3, 256, 192) and images.dtype == np.float32
assert images.min() > -2.2 and images.max() < 2.65
assert np.array_equal(images, network_input(person))
teach.against_reference("keypoint_head.final_layer", example.model(np.ascontiguousarray(images)))

# %% [markdown]
# The network gives on our crop what PyTorch gave on its own.
#
# ## Pixels as points or as squares
#
# The formula above has $W - 1$ in it. Is a row of 4 pixels 3 long, from the first point to the last, or 4, from edge
# to edge? Both are consistent. Here 4 crop pixels are laid over a rectangle that is 6 pixels wide, in three ways:

# %%
n, S = 4, 6
u = np.arange(n)
ways = {
    '"udp": points, u S / (W - 1)': u * S / (n - 1),
    '"plain": u S / W': u * S / n,
    '"easy": squares, (u + 1/2) S / W': (u + 0.5) * S / n,
}
figure = figures.canvas(900, 270, "points-or-squares")
axes = figure.subplots()
for row, (name, places) in enumerate(ways.items()):
    axes.hlines(row, 0, S, color="#999999", linewidth=1)
    if "squares" in name:
        for place in places:
            axes.add_patch(Rectangle((place - S / n / 2, row - 0.2), S / n, 0.4, fill=False, edgecolor="#0072B2"))
    axes.plot(places, 0 * places + row, "o", color="#0072B2", markersize=9)
    axes.plot(S - places, 0 * places + row - 0.3, "x", color="#D55E00", markersize=8)
axes.axvspan(0, S, color="#E69F00", alpha=0.12)
figures.plain(axes, "place in a rectangle of width S = 6 (pixels of the picture)", "", "Where 4 crop pixels lie")
axes.set_yticks(range(3), list(ways), fontsize=9)
axes.set(xlim=(-0.4, S + 0.4), ylim=(2.5, -0.6))
figure

# %% [markdown]
# Dots: the crop pixels. Crosses: the same seen in a mirror. With points on the corners, and with squares, a pixel
# falls on a pixel in the mirror. With "plain" it does not: the crop leans to the left, and mirrored it leans to the
# right. That is the bias that **UDP** (unbiased data processing, Huang et al. 2020) removes. How far is the crop's
# middle pixel from the rectangle's centre?

# %%
middle = ((W - 1) / 2, (H - 1) / 2, 1)
off = {mode: crop_matrix((0, 0), scale, size, mode) @ middle / (scale[0] / W) for mode in ("udp", "plain")}

assert np.allclose(off["udp"], 0) and np.allclose(off["plain"], -0.5)
off

# %% [markdown]
# "plain" is half a crop pixel off to the left and upwards. No training sees it, because the targets are made by the
# same map; it shows when a mirrored crop is used, or when the points are taken back by another map than they came by.
#
# ## Four crops of one person
#
# The programs that run ViTPose cut in four ways. "hf", of transformers, is "udp" in float32 with another border.
# "easy", of easy_ViTPose, cuts another rectangle: whole pixels, 10 pixels more on each side instead of a quarter.

# %%
crops = {mode: crop(image, box, size, mode) for mode in MODES}
changes = [np.abs(crops[mode].pixels.astype(int) - crops["udp"].pixels).mean(-1) for mode in MODES[1:]]
titles = [f'"{mode}"' for mode in MODES]
for mode, change in zip(MODES[1:], changes, strict=True):
    titles.append(f'"{mode}" against "udp"\nmean {change.mean():.2g}, most {change.max():.0f} levels')
figures.tiles([c.pixels for c in crops.values()] + changes, titles, columns=4, height=235)

# %% [markdown]
# Now the mistake: a network sees one crop, and its points are taken back by another crop's map. How far does each
# joint land from where it was? A row says how it was cut, a column how it was decoded:


# %%
def moved(a, b):
    return np.linalg.norm(crops[b].to_picture(crops[a].from_picture(joints)) - joints, axis=1)


table = np.array([[moved(a, b).mean() for b in MODES] for a in MODES])

assert np.allclose(np.diag(table), 0) and table[0, 1] > 0.1 and table[0, 2] < 0.01
title = "Mean distance over 17 joints (pixels of the picture)"
rows, columns = ([f'{word} "{mode}"' for mode in MODES] for word in ("cut", "decoded"))
figures.numbers(table, rows, columns, title, width=560)

# %% [markdown]
# "easy" stands apart because its rectangle is another one. easy_ViTPose itself keeps to its rectangle, but lays the
# map of "udp" over it. That is the third bar of each joint here:

# %%
easy = crops["easy"]
laid_over = crop_matrix(easy.centre, easy.scale, size, "udp")
as_easy_does = easy.from_picture(joints) @ laid_over[:, :2].T + laid_over[:, 2]
ways = {
    'cut "plain", decoded "udp"': moved("plain", "udp"),
    'cut "udp", decoded "plain"': moved("udp", "plain"),
    "as easy_ViTPose does": np.linalg.norm(as_easy_does - joints, axis=1),
}
figure = figures.canvas(900, 330, "moved")
axes = figure.subplots()
for k, (name, distances) in enumerate(ways.items()):
    style = {"color": figures.COLOURS[k], "hatch": ("", "//", "..")[k], "edgecolor": "white", "label": name}
    axes.bar(np.arange(17) + 0.27 * (k - 1), distances, 0.25, **style)
figures.plain(axes, "", "moved by (pixels of the picture)", "How far each joint moves")
axes.set_xticks(range(17), [name.replace("_", " ") for name in example.skeleton.keypoints], rotation=40, ha="right")
axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper left")
axes.set_ylim(top=1.25 * axes.get_ylim()[1])
figure

# %% [markdown]
# "plain" read as "udp" grows towards the right and the lower end, since steps of $S / W$ and of $S / (W - 1)$ drift
# apart. These are errors of the crop alone. The heatmap's cells, 48 or 47 to the width, and the decoders differ as
# well: [docs/pipelines.md](../docs/pipelines.md) goes through all of it.
#
# ## What the usual mistakes cost
#
# None of them raises an error, and each comes up again and again in the projects' issue lists: red and blue swapped,
# because OpenCV reads BGR; colours not normalised; a box squeezed to 3 : 4 instead of grown. First on one person, the
# highest of the 17 heatmaps at each place:

# %%
mean, std = MEAN[:, None, None], STD[:, None, None]
mistakes = {
    "right": lambda images: images,
    "red and blue swapped": lambda images: ((images * std + mean)[:, ::-1] - mean) / std,
    "colours 0 to 1": lambda images: images * std + mean,
    "colours 0 to 255": lambda images: 255 * (images * std + mean),
}
fast = example.model.with_engine("fast")
heatmaps = [fast(np.ascontiguousarray(change(example.images)))[0] for change in mistakes.values()]
figures.over_crop(example.crop, [maps.max(axis=0) for maps in heatmaps], list(mistakes), columns=4, height=310)

# %% [markdown]
# Below each title stands how low and how high the heatmaps go. A first look, and no more: a low peak says that the
# input is wrong. A peak near 1, as the targets of the training have it, does not say that it is right.
#
# Now 24 mannequins, each in a picture of its own, with true joints. The error is the median distance of all visible
# joints, and a pixel of these pictures is one of a right crop, so that 4 pixels are one cell of the heatmap.

# %%
from minivitpose.pose.decode import decode

pictures, truth, boxes, _ = synthetic.batch(10, 24, split="test", size=(512, 384), margin=2.0)
boxes, visible = boxes.astype(float), truth[..., 2] == 2


def error(crops, change=mistakes["right"], mode="udp"):
    images = change(normalised(np.stack([one.pixels for one in crops])))
    centres, scales = (np.array([getattr(one, name) for one in crops]) for name in ("centre", "scale"))
    found, _ = decode(fast(np.ascontiguousarray(images)), centres, scales, mode)
    return float(np.median(np.linalg.norm(found - truth[..., :2], axis=-1)[visible]))


def crops_of(boxes, cut=crop):
    return [cut(picture, tuple(box)) for picture, box in zip(pictures, boxes, strict=True)]


def resized(boxes, factor):  # about the centre
    return np.concatenate([boxes[:, :2] + (1 - factor) / 2 * boxes[:, 2:], factor * boxes[:, 2:]], axis=1)


def squeezed(picture, box):
    x, y, w, h = box
    centre, scale = (x + w / 2, y + h / 2), (1.25 * w, 1.25 * h)
    return Crop(warp_kernel.warp(picture, crop_matrix(centre, scale, size), size), box, centre, scale)


# %%
good = crops_of(boxes)
found = {name: error(good, change) for name, change in mistakes.items()}
found['decoded as "plain"'] = error(good, mode="plain")
found["squeezed to 3 : 4"] = error(crops_of(boxes, squeezed))
found["without the 1.25"] = error(crops_of(resized(boxes, 1 / 1.25)))
corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
found["corners taken for width and height"] = error(crops_of(corners))

assert found["right"] < min(found["colours 0 to 255"], found["corners taken for width and height"])
figures.bars(found, "median distance from the true joint (pixels of the crop)", "What a mistake costs, 24 mannequins")

# %% [markdown]
# Some mistakes are mild. That is what makes them dangerous: nothing looks broken, and the numbers are a little worse.
# How mild red and blue are depends on the training: one that changes colours at random learns to care less.
#
# Leaving out the 1.25 has two sides. The person is larger in the crop, so that a cell of the heatmap is less of the
# picture; but hands and feet come near the edge, or out of the crop.
#
# ## A box that is a little off
#
# Boxes come from a detector. How far may they be off? The box is moved, by a share of its own width and height, or
# resized about its centre; the true joints stay.

# %%
shares = np.linspace(-0.4, 0.4, 9)
factors = np.array([0.5, 0.6, 0.75, 0.9, 1, 1.2, 1.5, 1.75, 2])
shifts = {name: np.array(step) for name, step in {"sideways": (1, 0), "up and down": (0, 1)}.items()}
moved_by = {
    name: [error(crops_of(boxes + np.concatenate([s * step * boxes[:, 2:], 0 * boxes[:, 2:]], axis=1))) for s in shares]
    for name, step in shifts.items()
}
resized_by = [error(crops_of(resized(boxes, factor))) for factor in factors]

# %%
figure = figures.canvas(900, 300, "box-off")
left, right_half = figure.subplots(1, 2, sharey=True)
for k, (name, errors) in enumerate(moved_by.items()):
    left.plot(shares, errors, figures.DASHES[k], color=figures.COLOURS[k], marker="o", markersize=4, label=name)
figures.plain(left, "moved by (share of the box)", "median error (pixels of the crop)", "The box is moved")
left.legend(frameon=False, fontsize=9)
right_half.plot(factors, resized_by, color=figures.COLOURS[2], marker="o", markersize=4)
figures.plain(right_half, "resized to (times the box)", "", "The box is too small, or too large")
right_half.set_xscale("log")
right_half.set_xticks([0.5, 0.75, 1, 1.5, 2], ["0.5", "0.75", "1", "1.5", "2"])
right_half.minorticks_off()
left.set_ylim(bottom=0)
figure

# %%
teach.say(
    f"With the right boxes the error is {found['right']:.1f} pixels. Moved sideways by a tenth of the width it is "
    f"{moved_by['sideways'][5]:.1f}, by four tenths {moved_by['sideways'][8]:.1f}; with boxes twice as large "
    f"{resized_by[8]:.1f}, half as large {resized_by[0]:.1f}."
)

# %% [markdown]
# The curve is flat near the right box and steep further away. The 1.25 and the random boxes of the training make it
# flat: the network has seen such crops. A box that is too small cuts joints off, and what is not in the crop cannot be
# found.
#
# ## Beyond the picture lies black
#
# A rectangle often reaches out of the picture. Those pixels are black, not grey and not repeated. After the
# normalisation black is not 0:

# %%
narrow = image[:, : int(box[0] + 0.6 * box[2])]  # the picture ends in the middle of the person
edge = crop(narrow, (box[0], box[1], narrow.shape[1] - box[0], box[3]), size)
outside = edge.to_picture([(W - 1, H / 2)])[0, 0] > narrow.shape[1]

assert outside and (edge.pixels[:, -1] == 0).all()
assert np.allclose(network_input(edge)[0, :, H // 2, -1], -MEAN / STD)
print("black, as the network gets it:", (-MEAN / STD).round(2))

# %% [markdown]
# How does it begin? A white picture, 4 pixels wide, pulled at steps of half a pixel across its right border. "udp"
# fades over one pixel, as OpenCV does; "hf" is black at once, as SciPy is.

# %%
white = np.full((1, 4, 3), 255, np.uint8)
across = np.array([[0.5, 0, 2.0], [0, 1, 0]])
for mode, hard in {"udp": False, "hf": True}.items():
    print(f"{mode:>4}", *(f"{value:4}" for value in warp.warp(white, across, (1, 7), hard)[0, :, 0]))

# %% [markdown]
# ## Several people
#
# Each person is cut out and goes through the network alone. A neighbour is often in the crop as well. Nothing tells
# the network who is meant but the place: the person in the middle, of the crop's size. The crops of everybody in the
# picture, and the one that the picture's edge cuts, with what the network found:

# %%
from minivitpose import estimate
from minivitpose.draw import draw_poses
from minivitpose.pose import Pose


def with_pose(one, keypoints):
    pose = Pose(np.float32(one.from_picture(keypoints)), np.ones(17), (0, 0, W, H))
    return draw_poses(one.pixels, [pose], example.skeleton)


everybody = [crop(image, one, size) for one in example.boxes]
shown = [with_pose(one, pose.keypoints) for one, pose in zip(everybody, example.poses, strict=True)]
shown.append(with_pose(edge, estimate(example.model, narrow, [edge.box])[0].keypoints))
titles = [f"person {i}" for i in range(len(everybody))] + ["cut by the edge"]
figures.tiles(shown, titles, columns=6, height=195)

# %% [markdown]
# ## Turned, for training
#
# Training wants crops that are never the same. `crop_matrix` takes a rotation: the matrix gets a sine and a cosine,
# and the joints go through its inverse, so that they stay true.


# %%
def draw(degrees):
    turned = crop_matrix(centre, scale, size, rotation=degrees)
    corners = np.array([(0, 0, 1), (W - 1, 0, 1), (W - 1, H - 1, 1), (0, H - 1, 1)]) @ turned.T
    figure = figures.canvas(760, 370, "turned")
    left, middle = figure.subplots(1, 2, width_ratios=(640, 360))
    show_picture(left, image)
    left.plot(*np.vstack([corners, corners[:1]]).T, color="#E69F00", linewidth=2, path_effects=outline(2))
    show_picture(middle, turned_with_joints(degrees))
    return figure


def turned_with_joints(degrees):
    turned = crop_matrix(centre, scale, size, rotation=degrees)
    there = (joints - turned[:, 2]) @ np.linalg.inv(turned[:, :2]).T
    pose = Pose(np.float32(there), np.ones(17), (0, 0, W, H))
    return draw_poses(warp_kernel.warp(image, turned, size), [pose], example.skeleton)


def still():
    angles = (-60, -30, 0, 30, 60)
    titles = [f"{angle} degrees" for angle in angles]
    return figures.tiles([turned_with_joints(angle) for angle in angles], titles, columns=5, height=215)


teach.explore(draw, still, {"degrees": 30}, degrees=list(range(-90, 91, 10)))

# %% [markdown]
# The black corners are again what lies beyond the picture. The drawn joints are the true ones.

# %% [markdown]
# ## Exercise 10.1 · From box to matrix
#
# Difficulty ●●○ · 10 minutes. Write the map of the "udp" crop: a box `(x, y, w, h)` and a size `(height, width)` in,
# the matrix out, crop pixel to picture pixel.
#
# <details><summary>Hint 1</summary>Three steps: the centre; width and height grown to the crop's shape and by 1.25;
# the matrix.</details>
# <details><summary>Hint 2</summary>The size comes as (height, width), the box as (width, height). The step along u is
# the rectangle's width over (W - 1).</details>


# %% tags=["exercise"]
def box_to_matrix(box, size): ...  # your code


teach.check("crop", box_to_matrix)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def box_to_matrix(box, size):
    x, y, w, h = box
    H, W = size
    width, height = 1.25 * max(w, h * W / H), 1.25 * max(h, w * H / W)
    across, down = width / (W - 1), height / (H - 1)
    return np.array([[across, 0, x + w / 2 - width / 2], [0, down, y + h / 2 - height / 2]])


### END SOLUTION
teach.check("crop", box_to_matrix)

# %% [markdown]
# ## Exercise 10.2 · The inverse
#
# Difficulty ●●○ · 10 minutes. Write `inverse(matrix)`: the 2 x 3 matrix that takes picture points back to the crop,
# for any affine map, turned ones too. Do without `np.linalg`.
#
# <details><summary>Hint 1</summary>If x = A u + t, then u = A⁻¹ x - A⁻¹ t. So the new shift is minus the inverse times
# the old shift.</details>
# <details><summary>Hint 2</summary>The inverse of ((a, b), (c, d)) is ((d, -b), (-c, a)) / (ad - bc).</details>


# %% tags=["exercise"]
def inverse(matrix): ...  # your code


def off_after_the_round_trip(inverse):
    turned = crop_matrix(centre, scale, size, rotation=30)
    back = inverse(turned)
    if back is None:
        return "nothing returned yet"
    there = (joints @ turned[:, :2].T + turned[:, 2]) @ back[:, :2].T + back[:, 2]
    return f"the joints are off by {np.abs(there - joints).max():.1e} pixels"


off_after_the_round_trip(inverse)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def inverse(matrix):
    (a, b, p), (c, d, q) = matrix
    linear = np.array([[d, -b], [-c, a]]) / (a * d - b * c)
    return np.column_stack([linear, -linear @ (p, q)])


### END SOLUTION
off_after_the_round_trip(inverse)

# %% [markdown]
# ## Exercise 10.3 · Sample between pixels
#
# Difficulty ●●○ · 10 minutes. Write `sample(image, x, y)` for arrays `x` and `y` of any shape: colours as floats, one
# more axis of 3 at the end, black outside. The cell compares it with `warp` at 49,152 points.
#
# <details><summary>Hint 1</summary>Four terms: for both rows and both columns the pixel, times its weight down, times
# its weight along.</details>
# <details><summary>Hint 2</summary>Indices outside must not be looked up: use index 0 there and weight 0.</details>


# %% tags=["exercise"]
def sample(image, x, y): ...  # your code


def compare_with_warp(sample):
    x, y = np.moveaxis(edge.to_picture(np.stack(np.meshgrid(np.arange(W), np.arange(H)), axis=-1)), -1, 0)
    colours = sample(narrow, x, y)
    if colours is None:
        return "nothing returned yet"
    off = np.abs(np.floor(np.asarray(colours) + 0.5) - edge.pixels).max()
    return f"off by at most {off:.0f} of 255 levels"


compare_with_warp(sample)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def sample(image, x, y):
    height, width, _ = image.shape
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    total = np.zeros((*np.shape(x), 3))
    for a, weight_a in ((i, 1 - (y - i)), (i + 1, y - i)):
        for b, weight_b in ((j, 1 - (x - j)), (j + 1, x - j)):
            inside = (a >= 0) & (a < height) & (b >= 0) & (b < width)
            taken = image[np.where(inside, a, 0), np.where(inside, b, 0)]
            total += taken * np.where(inside, weight_a * weight_b, 0)[..., None]
    return total


### END SOLUTION
compare_with_warp(sample)

# %% [markdown]
# ## Exercise 10.4 · Choose a pipeline
#
# Difficulty ●●● · 10 minutes. Five checkpoints. Which of the pipelines "udp", "plain", "mmpose", "hf", "easy" makes
# the numbers of the program each came with? [docs/pipelines.md](../docs/pipelines.md) has what you need. Then: which
# of your answers would also be right for the accuracy, and which only repeats a program?
#
# <details><summary>Hint</summary>The authors trained COCO and MPII with UDP, and all their other sets
# without.</details>

# %% tags=["exercise"]
checkpoints = {
    "the authors' ViTPose-B, COCO, 17 keypoints": ...,
    "the authors' ViTPose-H, whole body, 133 keypoints": ...,
    "a ViTPose of mmpose 1.x": ...,
    "a ViTPose in the format of transformers": ...,
    "easy_ViTPose's model of 25 keypoints": ...,
}

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
from minivitpose.config import variant_config

answers = dict(zip(checkpoints, ("udp", "plain", "mmpose", "hf", "easy"), strict=True))
for name, pipeline in answers.items():
    print(f"{pipeline:>7}: {name}")
# What the loader takes where only the number of keypoints tells:
assert [variant_config("B", num_keypoints=k).pipeline for k in (17, 133, 25)] == ["udp", "plain", "easy"]
print(
    "'udp' and 'mmpose' cut alike and decode alike but near the border; 'plain' fits what its model was trained with."
)
print(
    "'hf' decodes every model as if it were trained with UDP, and 'easy' is half a pixel off: those repeat a program."
)
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/pose/crop.py`, `warp.py` and `warp_kernel.py`: all of this. `pose/pipelines.py`: the five families in
#   a table. [docs/pipelines.md](../docs/pipelines.md): how they were measured.
# - Huang, Zhu, Guo, Huang: The devil is in the details, delving into unbiased data processing for human pose
#   estimation (2020).
# - Next: [11 · Inside a checkpoint](11_checkpoint.ipynb).
