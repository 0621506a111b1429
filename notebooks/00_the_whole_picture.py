# %% [markdown]
# # 00 · The whole picture
#
# **After this notebook you can** follow a picture through ViTPose from its pixels to the joints of a person, find every
# number on the way by its name, and say what the rest of the course is about.
#
# 30 minutes to read, 35 for the exercises. Needs: Python, and what a matrix product is. Nothing is downloaded.

# %%
import inspect
import io

import numpy as np
from IPython.display import Image as Shown
from matplotlib.patches import Rectangle
from PIL import Image

import minivitpose as mvp
from minivitpose import teach, trace
from minivitpose.draw import draw_poses
from minivitpose.parameters import is_learnt
from minivitpose.plot import demo_figure, show_picture
from minivitpose.pose import crop, network_input
from minivitpose.pose.decode import cells_to_crop
from minivitpose.teach import figures

example = teach.example()
block, token = example.model.config.depth - 1, example.token_of("nose")
pattern = example.cache[f"backbone.blocks.{block}.attn.pattern"][0]
note = "The model was trained on drawn mannequins alone."
figure = demo_figure(
    example.image, example.crop, pattern, example.heatmaps[0], example.poses, example.skeleton, token, block, note
)


def shown(figure):
    """The figure as a small PNG of 256 colours."""
    large, small = io.BytesIO(), io.BytesIO()
    figure.savefig(large, format="png", dpi=figure.dpi)
    Image.open(large).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2).save(
        small, "png", optimize=True
    )
    return Shown(small.getvalue())


shown(figure)

# %% [markdown]
# Read the upper row from left to right; each step is a part of this course.
#
# 1. **The crop.** One person is cut out of the picture and scaled to 256 × 192 pixels.
# 2. **Patches.** The crop is cut into 16 × 12 squares. Each becomes a list of numbers, a *token*.
# 3. **Attention.** In each of eight blocks, every token gathers from all tokens what it needs. The picture shows whom
#    the marked token looks at.
# 4. **Heatmaps.** The decoder turns the tokens into one map a joint: how likely is the joint to be here?
# 5. **Keypoints.** The highest point of each map, taken back into the picture.
#
# ## The same in three lines
#
# `mvp.load("mini")` loads the small model that comes with the package. `engine="numpy"` is the textbook: plain NumPy,
# nothing compiled.

# %%
model = mvp.load("mini", engine="numpy")
image, boxes = example.image, example.boxes
poses = mvp.estimate(model, image, boxes)

assert image.shape == (480, 640, 3) and poses[0].keypoints.shape == (17, 2)
model

# %% [markdown]
# `boxes` says where the people are, each as x, y, width and height in pixels. ViTPose does not look for people: that is
# the work of a detector. Here the boxes come from the program that drew the scene.
#
# `estimate` hides four steps. Here they are, one after the other.
#
# ### Step 1 · Crop

# %%
person = crop(image, boxes[example.person], model.config.image_size)
images = network_input(person)
assert person.pixels.shape == (256, 192, 3) and images.shape == (1, 3, 256, 192) and images.dtype == np.float32

canvas = teach.canvas(820, 400, "scene-and-crop")
left, right = canvas.subplots(1, 2, width_ratios=[640 / 480, 192 / 256])
show_picture(left, image)
show_picture(right, person.pixels)
for number, (x, y, w, h) in enumerate(boxes):
    left.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="white", linewidth=1.5))
    left.text(x, y - 9, f"box {number}", fontsize=8, bbox=dict(facecolor="white", linewidth=0, pad=1.5))
left.set_title(f"The scene; box {example.person} is looked at closely", fontsize=10, loc="left")
right.set_title("Its crop, a quarter larger than the box", fontsize=10, loc="left")
shown(canvas)

# %% [markdown]
# `network_input` turns the bytes into floats of about -2 to 2 and puts the colours first: (batch, colours, height,
# width). [01](01_patches.ipynb) does it by hand, and [10](10_crops.ipynb) shows what can go wrong with crops.
#
# ### Step 2 · The network
#
# All of the network is one call. It knows nothing of boxes or pictures: numbers in, numbers out.

# %%
heatmaps = model(images)
assert heatmaps.shape == (1, 17, 64, 48)

# %% [markdown]
# Seventeen maps of 64 × 48 cells, one a joint, in the order of `example.skeleton.keypoints`. A cell stands for about
# four pixels of the crop.


# %%
def one_joint(joint):
    k = example.skeleton.keypoints.index(joint)
    return figures.over_crop(person, [heatmaps[0, k]], [joint], columns=1, height=420)


def all_joints():
    names = [name.replace("_", " ") for name in example.skeleton.keypoints]
    return figures.over_crop(person, heatmaps[0], names, columns=9, height=165, title="One heatmap a joint")


teach.explore(one_joint, all_joints, joint=example.skeleton.keypoints)

# %% [markdown]
# ### Step 3 · The peaks
#
# The joint is where its map is highest. From the cell to the crop, from the crop to the picture:

# %%
k = example.skeleton.keypoints.index("left_shoulder")
row, column = divmod(int(heatmaps[0, k].argmax()), 48)
in_crop = cells_to_crop((column, row), (64, 48), (256, 192))
in_picture = person.to_picture(in_crop)
between = poses[example.person].keypoints[k]

teach.say(
    f"The map of the left shoulder is highest in row {row}, column {column}: that is x = {in_crop[0]:.1f}, "
    f"y = {in_crop[1]:.1f} in the crop, and **x = {in_picture[0]:.1f}, y = {in_picture[1]:.1f} in the picture**. "
    f"`estimate` also looks between the cells: x = {between[0]:.1f}, y = {between[1]:.1f}."
)

# %% [markdown]
# ### Step 4 · Back in the picture

# %%
shown(figures.people(image, poses, example.skeleton))

# %% [markdown]
# How good is that? The scene was drawn, so the true joints are known.

# %%
found = np.stack([pose.keypoints for pose in poses])  # (people, joints, 2)
truth = np.stack([one.keypoints for one in example.people])  # (people, joints, 3): x, y, and 2 where it can be seen
off = np.linalg.norm(found - truth[:, :, :2], axis=2)[truth[:, :, 2] == 2]
teach.say(
    f"Of the {len(off)} joints that can be seen, half are closer than **{np.median(off):.1f} pixels** to the truth, "
    f"nine in ten closer than {np.quantile(off, 0.9):.1f}. The worst is {off.max():.0f} pixels off."
)

# %% [markdown]
# ## The network in one page
#
# This is all that `model(images)` does. `ops` is the module that holds the layers, `tap` sees every number that is
# computed on the way, and `p` are the weights, under the names that they have in the checkpoint.

# %%
print(inspect.getsource(mvp.model.forward))

# %% [markdown]
# Each `ops.` is a function of a few lines, and each gets a notebook. You will write most of them yourself.
#
# ## The letters
#
# The whole package uses these letters.

# %%
c = model.config
(Hp, Wp), (Hm, Wm) = c.grid, heatmaps.shape[2:]
letters = {
    "B": (len(images), "batch: images at once"),
    "N": (Hp * Wp, "tokens, one a patch"),
    "C": (c.embed_dim, "channels: numbers of a token"),
    "h": (c.num_heads, "attention heads"),
    "d": (c.head_dim, "numbers of a head, C / h"),
    "Hp × Wp": (f"{Hp} × {Wp}", "grid of patches"),
    "K": (c.num_keypoints, "keypoints, the joints"),
    "Hm × Wm": (f"{Hm} × {Wm}", "cells of a heatmap"),
}
assert (Hp, Wp, Hm, Wm) == (16, 12, 64, 48) and c.embed_dim == 96 and c.num_heads * c.head_dim == c.embed_dim
teach.say(
    "| letter | here | what |\n|:-|-:|:-|\n" + "\n".join(f"| {x} | {n} | {what} |" for x, (n, what) in letters.items())
)

# %% [markdown]
# ## Every activation has a name
#
# `run_with_cache` runs the same network and keeps each intermediate result, an *activation*. A name is the path of the
# module in the PyTorch model: what a forward hook on that module would return. The table is the docstring of
# `trace.py`:

# %%
heatmaps, cache = model.run_with_cache(example.images)
assert len(cache) == 147 and sum(name.startswith("backbone.blocks.0") for name in cache) == 17
teach.say(inspect.getdoc(trace))

# %% [markdown]
# `example.images` is the crop as it was when PyTorch's activations were recorded. The course computes with it from here
# on.
#
# What these arrays look like, in the order of execution. Tokens are shown as a matrix, a token a row. Of several heads
# or channels the first is shown.

# %%
front, back = "backbone.blocks.0.", "keypoint_head."
attention = ["qkv", "q", "k", "v", "scores", "pattern", "z", "proj"]
inside = ["norm1", *(f"attn.{name}" for name in attention), "resid_mid", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2"]
names = ["backbone.patch_embed.proj", "backbone.pos", *(front + name for name in inside), "backbone.blocks.0"]
names += ["backbone.last_norm", "backbone", *(f"{back}deconv_layers.{i}" for i in (0, 2, 5)), f"{back}final_layer"]

pictures = [cache[name][0] if cache[name].ndim == 3 else cache[name][0, 0] for name in names]
short = [name.replace(front, "block 0: ").replace("backbone.blocks.0", "block 0") for name in names]
short = [name.removeprefix("backbone.").removeprefix(back) for name in short]
titles = [f"{text}\n{' × '.join(map(str, cache[name].shape))}" for text, name in zip(short, names, strict=True)]
shown(figures.tiles(pictures, titles, columns=6, height=170, title="From the patches to the heatmaps"))

# %% [markdown]
# Any of them can be taken out of the cache and looked at, and notebooks [03](03_layer_norm.ipynb) to
# [15](15_looking_inside.ipynb) do little else.
#
# ## Where the weights and the time are
#
# The weights have the same names as the activations, so one function sorts both.

# %%
PARTS = {"keypoint_head": "decoder", "patch_embed": "patch embedding", "pos": "positions", "attn": "attention"}
PARTS |= {"mlp": "MLP", "norm": "layer norms"}


def shares(amounts):
    """{name: amount} -> {part of the network: percent of all}."""
    percent = dict.fromkeys([*PARTS.values(), "residual sums"], 0.0)
    for name, amount in amounts.items():
        percent[next((part for key, part in PARTS.items() if key in name), "residual sums")] += amount
    total = sum(percent.values())
    return {part: 100 * amount / total for part, amount in percent.items()}


def quickest(model, runs):
    """Milliseconds of each activation, the least of a few runs: what other work on this machine disturbed least."""
    runs = [model.run_with_cache(example.images)[1].milliseconds for _ in range(runs)]
    return {name: min(run[name] for run in runs) for name in runs[0]}


compiled = model.with_engine("numba")
weights = {name: x.size for name, x in model.state_dict().items() if is_learnt(name)}
textbook, quick = quickest(model, 5), quickest(compiled, 30)
assert sum(weights.values()) == 1_119_089 and shares(weights)["attention"] + shares(weights)["MLP"] > 70

# %%
columns = {
    f"share of the {sum(weights.values()):,} weights": shares(weights),
    "share of the time, NumPy": shares(textbook),
    "share of the time, Numba": shares(quick),
}
canvas = teach.canvas(900, 270, "weights-and-time")
for i, (ax, (title, percent)) in enumerate(zip(canvas.subplots(1, 3, sharey=True), columns.items(), strict=True)):
    ax.barh(list(percent), list(percent.values()), height=0.62, color=figures.COLOURS[i])
    figures.plain(ax, "percent", "", title)
    ax.bar_label(ax.containers[0], fmt="%.1f", fontsize=8, padding=3)
    ax.margins(x=0.2)
    ax.grid(visible=False)
ax.invert_yaxis()
canvas

# %%
slow, fast = sum(textbook.values()), sum(quick.values())
teach.say(f"Together {slow:.0f} ms in NumPy and {fast:.0f} ms in Numba, on the machine that ran this notebook.")

# %% [markdown]
# Most weights are in the matrices of attention and MLP. Time need not go where the weights are: a weight of the decoder
# is used again in every cell of a map, and the products of queries and keys have no weights at all. NumPy also has no
# erf of its own, which makes the GELU in its MLP slow ([05](05_mlp.ipynb)).
#
# ## How each number is checked
#
# The package comes with a recording of what PyTorch computed for this crop with these weights: 1024 numbers of each
# activation, what they are in float64, and a sum over all of them. `mvp.compare` walks through the activations in
# order.

# %%
compiled_cache = compiled.run_with_cache(example.images)[1]
report = mvp.compare(compiled_cache, example.reference)
assert report.total == 147
teach.say("  \n".join(report.verdict()))

# %% [markdown]
# No tolerance is guessed: in float32, an activation may be off the float64 truth by as much as PyTorch's own float32
# is, times 1.5. `report` itself is a table of all of them.
#
# And if something is wrong? Suppose that somebody wrote 1e-3 for the epsilon of the layer norms, where ViTPose has
# 1e-6. In a picture of the pose nobody would see it.

# %%
wrong = mvp.load("mini", engine="numba", eps=1e-3)
bad = mvp.compare(wrong.run_with_cache(example.images)[1], example.reference)
assert not bad.ok
teach.say(bad.verdict()[0])

# %% [markdown]
# The comparison stops at the first activation that is off, and that is the layer to look at.
# [12](12_find_the_bug.ipynb) is about nothing else.
#
# ## Three engines, one meaning
#
# `numpy` is the textbook. `numba` is the same layers, compiled. `fast` fuses them and packs the weights for the
# processor. All three have the same weights and give the same heatmaps up to rounding.

# %%
engines = {name: model.with_engine(name) for name in ("numpy", "numba", "fast")}
results = {name: engine(example.images) for name, engine in engines.items()}
largest = np.abs(results["numpy"]).max()
assert all(np.allclose(x, results["numpy"], atol=1e-4 * largest) for x in results.values())

race = teach.race(engines, example.images)
race

# %%
apart = max(np.abs(x - results["numpy"]).max() for x in results.values()) / largest
teach.say(
    f"The largest difference between two of them is {apart:.1e} of the largest value. "
    f"The fast engine is **{race.times('numpy', 'fast'):.0f} times** as fast as the textbook here."
)

# %% [markdown]
# ## What this model can and cannot do
#
# The bundled model has 1 million weights, an eightieth of ViTPose-B. It has seen drawn mannequins and nothing else, no
# photograph. It is made for looking inside, not for measuring: [docs/mini.md](../docs/mini.md) says how good it is, and
# where it fails. For people in photographs load a public checkpoint with the same `mvp.load`
# ([docs/checkpoints.md](../docs/checkpoints.md)): the code of this course is the same for all of them.
#
# A pose network also cannot say that nobody is there. It answers whatever it is shown:

# %%
rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (256, 192, 3), dtype=np.uint8)
strange = {"the person": person.pixels, "upside down": person.pixels[::-1], "a grey wall": np.full_like(noise, 128)}
strange["noise"] = noise
answers = {name: mvp.estimate(model, pixels)[0] for name, pixels in strange.items()}

titles = [f"{name}\nmean score {answers[name].score:.2f}" for name in strange]
drawn = [draw_poses(strange[name], [answers[name]], example.skeleton) for name in strange]
shown(figures.tiles(drawn, titles, columns=4, height=335, title="17 joints, whatever is in the picture"))

# %% [markdown]
# The score of a joint is the height of its peak. That is all the network says about its own doubt.
#
# ## How this course works
#
# Every notebook has the same parts: a question, a formula, loops, NumPy, the compiled version, a comparison with
# PyTorch's numbers, exercises.
#
# - **Exercises.** `teach.check("layer_norm", my_function)` tries your function on many inputs. If it is wrong, it says
#   what is off and, for the common mistakes, which one you made. Hints unfold with a click. The solution is in the
#   folded cell below.
# - **Without solutions.** `python notebooks/build.py --learners my-course` writes copies to hand out, with empty
#   solutions.
# - **Pictures.** `teach.save_figures("figures")` in a last cell writes all figures of a notebook as SVG.
# - **Sliders.** Where a picture depends on a choice, a running notebook shows a slider or a menu; a printed one shows a
#   few choices side by side.
#
# | notebook | what it answers |
# |:-|:-|
# | 00 · The whole picture | how does a picture become joints? |
# | [01 · Patches](01_patches.ipynb) | how do pixels become tokens? |
# | [02 · Positions](02_positions.ipynb) | how does a token know where it is? |
# | [03 · Layer norm](03_layer_norm.ipynb) | why are tokens scaled, and how? |
# | [04 · Attention](04_attention.ipynb) | how do tokens exchange what they know? |
# | [05 · GELU and MLP](05_mlp.ipynb) | what does each token work out for itself? |
# | [06 · Block and residual stream](06_block.ipynb) | how do the parts add up? |
# | [07 · Backbone against PyTorch](07_backbone.ipynb) | are all activations right, to the last digit? |
# | [08 · Decoder](08_decoder.ipynb) | how do tokens become heatmaps? |
# | [09 · Heatmaps to keypoints](09_keypoints.ipynb) | how does a peak become a point between the pixels? |
# | [10 · Crops](10_crops.ipynb) | what happens before and after the network? |
# | [11 · Inside a checkpoint](11_checkpoint.ipynb) | what is in a file of weights, and is it safe? |
# | [12 · Find the bug](12_find_the_bug.ipynb) | something is off: which layer? |
# | [13 · Making it fast](13_fast.ipynb) | what does the processor need? |
# | [14 · How it learns](14_learning.ipynb) | where do the weights come from? |
# | [15 · Looking inside](15_looking_inside.ipynb) | what do the heads and channels do? |

# %% [markdown]
# ## Exercise 0.1 · Find the peaks
#
# Difficulty ●○○ · 5 minutes. Write `decode_argmax`: heatmaps (K, Hm, Wm) in, the highest cell of each map and its value
# out. The cells are (K, 2), **x first**, then y. Two values come back: cells and scores. Then break it and run the
# check again.
#
# <details><summary>Hint 1</summary>Give each map one axis: <code>flat = heatmaps.reshape(K, Hm * Wm)</code>. Then
# <code>flat.argmax(axis=1)</code>.</details>
# <details><summary>Hint 2</summary>Reading order: number = y * Wm + x, so y is number // Wm.</details>


# %% tags=["exercise"]
def decode_argmax(heatmaps): ...  # your code


teach.check("decode_argmax", decode_argmax)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def decode_argmax(heatmaps):
    K, Hm, Wm = heatmaps.shape
    flat = heatmaps.reshape(K, Hm * Wm)
    number = flat.argmax(axis=1)
    return np.stack([number % Wm, number // Wm], axis=1), flat.max(axis=1)


### END SOLUTION
teach.check("decode_argmax", decode_argmax)

# %% [markdown]
# ## Exercise 0.2 · The token of a joint
#
# Difficulty ●●○ · 10 minutes. Which token has the left wrist in its patch? Patches are 16 pixels wide, tokens are
# numbered in reading order, 12 in a row. One thing is odd: the first patch begins at pixel -2, not 0.
# [01](01_patches.ipynb) says why.
#
# <details><summary>Hint 1</summary>The column is (x + 2) // 16.</details>
# <details><summary>Hint 2</summary>The number is row * 12 + column.</details>


# %% tags=["exercise"]
def token_of(x, y): ...  # x, y in pixels of the crop -> the number of the token


for joint in ("nose", "left_wrist", "right_ankle"):
    truth = example.people[example.person].keypoints[example.skeleton.keypoints.index(joint), :2]
    print(joint, "yours:", token_of(*person.from_picture(truth)), "expected:", example.token_of(joint))


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def token_of(x, y):
    return int((y + 2) // 16) * 12 + int((x + 2) // 16)


for k, joint in enumerate(example.skeleton.keypoints):
    truth = example.people[example.person].keypoints[k, :2]
    assert token_of(*person.from_picture(truth)) == example.token_of(joint)
print("all 17 joints agree")
### END SOLUTION

# %% [markdown]
# ## Exercise 0.3 · The largest activation
#
# Difficulty ●○○ · 5 minutes. Which activations take most memory, and how much of all of it is the attention's scores
# and patterns? What if the crop were twice as high and twice as wide?
#
# <details><summary>Hint</summary>An array knows its own size: <code>x.nbytes</code>.</details>

# %% tags=["exercise"]
# your code: for name, x in cache.items(): ...

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
size = {name: x.nbytes / 2**20 for name, x in cache.items()}
for name in sorted(size, key=size.get, reverse=True)[:3]:
    print(f"{size[name]:.2f} MB  {name}  {cache[name].shape}")
square = sum(n for name, n in size.items() if name.endswith(("scores", "pattern")))
print(f"scores and patterns: {100 * square / sum(size.values()):.0f} % of {sum(size.values()):.0f} MB")
wide = trace.activation_shapes(model.config, grid=(32, 24))
large = {name: 4 * np.prod(shape) / 2**20 for name, shape in wide.items()}
square = sum(n for name, n in large.items() if name.endswith(("scores", "pattern")))
print(f"twice as high and wide: {100 * square / sum(large.values()):.0f} % of {sum(large.values()):.0f} MB")
print("four times as many tokens: all else grows by 4, N x N by 16")
### END SOLUTION

# %% [markdown]
# ## Exercise 0.4 · One pixel
#
# Difficulty ●●○ · 15 minutes. Change one pixel of the crop and run the network again. How many of the 192 tokens change
# after the patch embedding, after the positions, after the first attention? Then change the pixel in the last row and
# the last column.
#
# <details><summary>Hint 1</summary><code>other = example.images.copy()</code>, then
# <code>other[0, :, 120, 90] += 1</code>, then <code>model.run_with_cache(other)</code>.</details>
# <details><summary>Hint 2</summary>A token has changed if any of its numbers has:
# <code>(a != b).any(axis=-1).sum()</code>. The patch embedding has its channels on axis 1.</details>

# %% tags=["exercise"]
# your code


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def changes(y, x):
    other = example.images.copy()
    other[0, :, y, x] += 1
    other = model.run_with_cache(other)[1]
    stages = ["backbone.pos", *(f"backbone.blocks.{i}" for i in range(model.config.depth))]
    return {name: np.abs(other[name] - cache[name])[0].max(axis=-1) for name in stages}


inner, corner = changes(120, 90), changes(255, 191)
assert np.count_nonzero(inner["backbone.pos"]) == 1 and not any(x.any() for x in corner.values())
teach.say("Tokens that change: " + ", ".join(f"{np.count_nonzero(x)} in `{name}`" for name, x in inner.items()) + ".")
print("The pixel in the corner changes nothing: the network never sees the last two rows and columns.")
maps = [np.log10(np.maximum(x, 1e-6)) for x in inner.values()]
titles = [name.removeprefix("backbone.") for name in inner]
figures.over_crop(person, maps, titles, columns=5, title="How much each token changes, log10")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/layers.py`, from top to bottom: 280 lines, every layer of the network.
# - Xu, Zhang, Zhang, Tao: ViTPose, simple vision transformer baselines for human pose estimation (2022). Figure 2 is
#   the picture at the top of this notebook.
# - Dosovitskiy et al.: An image is worth 16x16 words (2021): where the backbone comes from.
# - Next: [01 · Patches](01_patches.ipynb).
