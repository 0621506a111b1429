# %% [markdown]
# # 15 · Looking inside
#
# **After this notebook you can** see where a network looks, switch parts of it off, ask its tokens what they know, move
# what one person's tokens hold into another's picture; and say what each of these methods shows, and what it cannot.
#
# 40 minutes to read, 30 for the exercises. Needs: attention and the residual stream ([04](04_attention.ipynb),
# [06](06_block.ipynb), [07](07_backbone.ipynb)). Nothing is downloaded.

# %%
import numpy as np

from minivitpose import layers, synthetic, teach
from minivitpose.model import ViTPose
from minivitpose.parameters import nest
from minivitpose.plot import heatmap_extent, mark, overlay
from minivitpose.pose import Crop, cells_to_crop, decode_argmax
from minivitpose.pose.crop import normalised
from minivitpose.teach import figures
from minivitpose.teach.example import token_at

example = teach.example()
config, JOINTS = example.model.config, example.skeleton.keypoints
WRIST = JOINTS.index("left_wrist")
STREAMS = ["backbone.pos", *(f"backbone.blocks.{i}" for i in range(8)), "backbone.last_norm"]
SHORT = ["pos", *(f"block {i}" for i in range(8)), "last norm"]
SOME = [0, 2, 4, 6, 8]  # of the streams: pos, and every second block to the last

assert (config.depth, config.num_heads, config.head_dim, config.grid) == (8, 3, 32, (16, 12))

# %% [markdown]
# The **residual stream** is what runs from block to block, 96 numbers for each of 192 tokens. `pos` is the stream
# before the first block.
#
# One picture proves little. So beside the course's example there are 72 mannequins that the model was never trained on,
# with their true joints.

# %%
model, fast = example.model.with_engine("numba"), example.model.with_engine("fast")
pixels, keypoints, *_ = synthetic.batch(15, 72, split="test")
images, seen = normalised(pixels), keypoints[..., 2] > 0
tokens = np.array([[token_at(xy, config) for xy in person] for person in keypoints[..., :2]])  # (72, 17)

stream, patterns = {name: [] for name in STREAMS}, []
for start in range(0, 72, 12):
    _, cache = model.run_with_cache(images[start : start + 12])
    for name in STREAMS:
        stream[name].append(cache[name])
    if start < 24:  # these are large: (12, 3, 192, 192) a block
        patterns.append(np.stack([cache[f"backbone.blocks.{i}.attn.pattern"] for i in range(8)], axis=1))
stream = {name: np.concatenate(parts) for name, parts in stream.items()}
patterns, heatmaps = np.concatenate(patterns), fast(images)
cells, scores = decode_argmax(heatmaps)
found = cells_to_crop(cells, config.heatmap_size, config.image_size)

assert patterns.shape == (24, 8, 3, 192, 192) and stream["backbone.pos"].shape == (72, 192, 96)
off = np.hypot(*np.moveaxis(found - keypoints[..., :2], -1, 0))[seen]
teach.say(f"Half of all joints that are in the picture are found within {np.median(off):.1f} pixels of the truth.")

# %% [markdown]
# ## Where the heads look
#
# A row of the attention pattern says how one token shares out its attention. Here that of the token that has the left
# wrist in it (white square), in each head of each block.


# %%
def pattern_of(block):
    return example.cache[f"backbone.blocks.{block}.attn.pattern"][0]  # (3, 192, 192): row = who asks


def percent(block):
    return np.round(100 * pattern_of(block), 2)


def heads_of(joint, block):
    token = example.token_of(joint)
    titles = [f"block {block}, head {h}" for h in range(3)]
    title = f"Whom the token with the {joint} asks, in % of its attention"
    return figures.over_crop(example.crop, percent(block)[:, token], titles, token, 3, 330, title)


def all_heads():
    token = example.token_of("left_wrist")
    maps = [percent(block)[head, token] for head in range(3) for block in range(8)]
    titles = [f"block {block}, head {head}" for head in range(3) for block in range(8)]
    return figures.over_crop(
        example.crop, maps, titles, token, 8, 190, "Whom the left wrist's token asks, in % of its attention"
    )


teach.explore(heads_of, all_heads, {"joint": "left_wrist", "block": 7}, joint=JOINTS, block=range(8))

# %%
near = [np.abs(np.subtract(divmod(t, 12), divmod(example.token_of("left_wrist"), 12))).max() <= 1 for t in range(192)]
rows = np.stack([pattern_of(block)[:, example.token_of("left_wrist")] for block in range(8)])  # (8, 3, 192)
teach.say(
    "Share of the attention that stays within one patch of the wrist, blocks 0 to 7 (mean of the heads): "
    + ", ".join(f"{share:.0%}" for share in rows[..., near].sum(-1).mean(-1))
    + f". If all 192 tokens got the same it would be {np.mean(near):.0%}."
)

# %% [markdown]
# **What this shows**: from where information can come in this head. **What it cannot**: whether what came was used.
# What is moved is $v$, not the pattern; a head may look at a place and take nothing from it. Attention is not an
# explanation (Jain and Wallace, 2019).

# %% [markdown]
# ## Exercise 15.1 · Make such a map yourself
#
# Difficulty ●○○ · 5 minutes. One head: from q, k, v (N, d) to its result (N, d). The map above is one row of what is
# under way.
#
# <details><summary>Hint</summary><code>layers.softmax</code> of the scores, which are divided by
# <code>np.sqrt(d)</code>, times v. A NumPy float64 number makes float32 arrays float64: take <code>d **
# -0.5</code>.</details>


# %% tags=["exercise"]
def attention_head(q, k, v): ...  # your code


teach.check("attention_head", attention_head)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def attention_head(q, k, v):
    scores = q @ k.T * q.shape[-1] ** -0.5
    return layers.softmax(scores) @ v


### END SOLUTION
teach.check("attention_head", attention_head)

# %% [markdown]
# ## What a head does on average
#
# One person's map mixes what the head always does with what it found in this picture. So we lay the maps of 24 people
# over each other, with the asking token in the middle, and take the mean.


# %%
def by_offset(joint):
    """Mean attention of the joint's token by offset: (8, 3, 31, 23), NaN where fewer than 4 people have a patch."""
    total, count = np.zeros((8, 3, 31, 23)), np.zeros((31, 23))
    k = JOINTS.index(joint)
    for i in np.flatnonzero(seen[:24, k]):
        row, column = divmod(tokens[i, k], 12)
        window = slice(15 - row, 31 - row), slice(11 - column, 23 - column)
        total[:, :, *window] += patterns[i, :, :, tokens[i, k]].reshape(8, 3, 16, 12)
        count[window] += 1
    return np.where(count >= 4, total / np.maximum(count, 1), np.nan)


def draw_offsets(joint):
    maps = by_offset(joint).swapaxes(0, 1).reshape(24, 31, 23)  # a row of pictures for each head
    figure, axes = figures.grid(24, 8, 165, title=f"Mean attention of the {joint}'s token by offset, 24 people")
    for i, (ax, values) in enumerate(zip(axes, maps, strict=True)):
        ax.imshow(values[4:27, 2:21], extent=(-9.5, 9.5, 11.5, -11.5), cmap=figures.VALUES, interpolation="nearest")
        ax.plot(0, 0, "+", color="white", markersize=9)
        share = np.nansum(values[14:17, 10:13])
        figures.bare(ax, f"block {i % 8}, head {i // 8}\nnear: {share:.0%}")
    return figure


teach.explore(draw_offsets, start={"joint": "left_wrist"}, joint=JOINTS)

# %% [markdown]
# The cross is the asking token, one cell is one patch; `near` is the share within one patch of it. A spot beside the
# cross means that the head looks in this direction, whatever the picture. An even map is a mean over very different
# pictures: look at single people before you call such a head idle.
#
# ## All blocks at once: rollout
#
# After the first block a token is no longer its own patch: it holds what it gathered. **Attention rollout** follows
# this through the blocks:
#
# $$ R = \tfrac12 (A_7 + I) \cdot \tfrac12 (A_6 + I) \cdots \tfrac12 (A_1 + I) \cdot \tfrac12 (A_0 + I) $$
#
# $A_i$ is the pattern of block $i$, its heads' mean; $I$, the identity, stands for the residual connection. Row $n$ of
# $R$ says of which patches token $n$ is a mixture at the end. Source: Abnar and Zuidema, 2020.


# %%
def rollout(patterns):
    """patterns: for each block (h, N, N) -> (N, N), rows sum to 1."""
    joined = np.eye(patterns[0].shape[-1])
    for pattern in patterns:
        joined = (pattern.mean(axis=0) + np.eye(len(joined))) / 2 @ joined
    return joined


def without_own(row, token):
    """The token's own share would outshine all others."""
    return np.where(np.arange(len(row)) == token, 0, row)


rolled = rollout([pattern_of(block) for block in range(8)])
assert np.allclose(rolled.sum(axis=1), 1, atol=1e-5)
chosen = ["nose", "left_wrist", "right_hip", "right_ankle"]
marked = [example.token_of(joint) for joint in chosen]
maps = [without_own(rolled[t], t) for t in marked] + [without_own(pattern_of(7)[:, t].mean(axis=0), t) for t in marked]
titles = [f"{joint}, rollout" for joint in chosen] + [f"{joint}, last block alone" for joint in chosen]
figures.over_crop(example.crop, maps, titles, marked * 2, 4, 270, "All blocks joined; below, the last block alone")

# %% [markdown]
# **What this shows**: over which tokens information can have travelled. **What it cannot**: with every block the rows
# of $R$ become more alike, whatever the network does with them. Rollout knows nothing of the values and of the MLPs,
# and takes branch and residual connection as equally strong. Are they?

# %%
sizes = []
for i, before in enumerate(STREAMS[:8]):
    branch = np.linalg.norm(example.cache[f"backbone.blocks.{i}.attn"], axis=-1)
    sizes.append(np.median(branch / np.linalg.norm(example.cache[before], axis=-1)))
teach.say(
    "Length of what attention adds, as a share of the token it is added to (median), blocks 0 to 7: "
    + ", ".join(f"{size:.2f}" for size in sizes)
    + ". Rollout takes it to be 1 everywhere."
)

# %% [markdown]
# ## Exercise 15.2 · The strongest head instead of the mean
#
# Difficulty ●●○ · 10 minutes. Write a rollout that takes, for each pair of tokens, the **largest** of the heads'
# values, and then makes each row sum to 1 again. What changes in the map of the left wrist?
#
# <details><summary>Hint</summary><code>pattern.max(axis=0)</code>, then divide by the sum over the last axis.</details>

# %% tags=["exercise"]
# your code


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def rollout_of_largest(patterns):
    joined = np.eye(patterns[0].shape[-1])
    for pattern in patterns:
        strongest = pattern.max(axis=0)
        strongest = strongest / strongest.sum(axis=-1, keepdims=True)
        joined = (strongest + np.eye(len(joined))) / 2 @ joined
    return joined


strongest = rollout_of_largest([pattern_of(block) for block in range(8)])
token = example.token_of("left_wrist")
spread = [np.exp(-np.sum(r[token] * np.log(r[token]))) for r in (rolled, strongest)]
print(f"attention is spread over about {spread[0]:.0f} tokens with the mean, {spread[1]:.0f} with the largest:")
print("hardly anything changes, since eight blocks of mixing wash out which head it was")
maps = [without_own(joined[token], token) for joined in (rolled, strongest)]
figures.over_crop(example.crop, maps, ["mean of the heads", "largest of the heads"], token, 2, 300)
### END SOLUTION

# %% [markdown]
# ## Switch it off
#
# To know whether a part is used, take it away and see what breaks. A head's result is 32 columns of `attn.z`. `replace`
# lets the model go on with another array: here one whose columns are 0.

# %%
name = "backbone.blocks.7.attn.z"
z = example.cache[name].copy()
z[..., 32:64] = 0  # head 1
by_replacing, _ = example.model.run_with_cache(example.images, replace={name: z})


def without(block, part):
    """The model without a head (0 to 2), without all of a block's attention ("attn"), or without its MLP ("mlp")."""
    flat = dict(fast.state_dict())
    layer = f"backbone.blocks.{block}." + ("mlp.fc2" if part == "mlp" else "attn.proj")
    weight = flat[f"{layer}.weight"] = flat[f"{layer}.weight"].copy()
    if isinstance(part, int):
        weight[:, 32 * part : 32 * part + 32] = 0
    else:
        weight[:], flat[f"{layer}.bias"] = 0, np.zeros_like(flat[f"{layer}.bias"])
    return ViTPose(nest(flat), config)


assert np.allclose(without(7, 1)(example.images), by_replacing, atol=1e-4)

# %% [markdown]
# Both ways give the same heatmaps: a head that is 0 and a `proj` that does not read it are one thing. The second can
# run on the fast engine, so we can afford each head and each branch on 24 people.

# %%
PARTS = [0, 1, 2, "attn", "mlp"]
moved, lost = np.zeros((8, 5, 24, 17)), np.zeros((8, 5, 24, 17))
for block in range(8):
    for j, part in enumerate(PARTS):
        there, score = decode_argmax(without(block, part)(images[:24]))
        there = cells_to_crop(there, config.heatmap_size, config.image_size)
        moved[block, j] = np.hypot(*np.moveaxis(there - found[:24], -1, 0))
        lost[block, j] = scores[:24] - score
counted = seen[:24] & (scores[:24] > np.median(scores[:24]))  # joints that the whole model is sure of

rows, columns = [f"block {i}" for i in range(8)], [*(f"head {h}" for h in range(3)), "all heads", "MLP"]
title = "How far joints move, pixels (yellow: 10 or more)"
figures.numbers(moved[..., counted].mean(-1), rows, columns, title, 1, top=10)

# %%
figures.numbers(lost[..., counted].mean(-1), rows, columns, "How much of its score a joint loses (mean)")

# %%
damage = moved[..., counted].mean(-1)
block, head = np.unravel_index(damage[:, :3].argmax(), (8, 3))
teach.say(
    f"The head that is missed most is head {head} of block {block}: joints move by {damage[block, head]:.1f} pixels. "
    f"The three heads of that block, each removed alone, move joints by {damage[block, :3].sum():.1f} pixels in "
    f"sum; all removed together, by {damage[block, 3]:.1f}."
)

# %% [markdown]
# **What this shows**: what the network does without a part. **What it cannot**: a sum of single removals is not the
# removal of all, for what one head does another may do too, or undo. And zeros are nothing that later layers ever met;
# part of the damage is their surprise.

# %% [markdown]
# ## Exercise 15.3 · The wrists' head
#
# Difficulty ●●○ · 5 minutes. `moved` is (8 blocks, 5 parts, 24 people, 17 joints). Which single head's loss moves the
# two **wrists** most? Is it the same as for the ankles?
#
# <details><summary>Hint</summary>Choose the joints on the last axis, and of them only those that are
# <code>counted</code>.</details>

# %% tags=["exercise"]
worst_for_wrists = None  # (block, head)

if worst_for_wrists is not None:
    wrists = [i for i, name in enumerate(JOINTS) if name.endswith("wrist")]
    by_head = (moved[:, :3, :, wrists] * counted[:, wrists]).sum((-1, -2))
    print("right" if by_head[worst_for_wrists] == by_head.max() else "not yet")


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def worst_head(joint):
    pair = [i for i, name in enumerate(JOINTS) if name.endswith(joint)]
    table = (moved[..., pair] * counted[:, pair]).sum((-1, -2)) / counted[:, pair].sum()
    block, head = np.unravel_index(table[:, :3].argmax(), (8, 3))
    return int(block), int(head), round(float(table[block, head]), 1)


answers = {joint: worst_head(joint) for joint in ("wrist", "ankle")}
print("\n".join(f"{joint}s: block {b}, head {h}, {pixels} pixels" for joint, (b, h, pixels) in answers.items()))
worst_for_wrists = worst_head("wrist")[:2]
### END SOLUTION

# %% [markdown]
# ## What a token knows: linear probes
#
# Take the tokens that truly have a joint in them. Can a linear map tell **which** joint, from the 96 numbers alone? If
# so, the information is there, and easy to read. The map is fitted to 48 people by ridge regression, in closed form,
#
# $$ W = (X^\top X + \lambda I)^{-1} X^\top Y $$
#
# and tested on the 24 others. $X$ has the tokens in its rows, each channel brought to mean 0 and size 1; $Y$ has a
# column for each joint, 1 where the token is that joint's, else 0; $\lambda$ keeps $W$ small.


# %%
def ridge(x, y, strength=300.0):
    """Fit y by x -> a function that predicts. x (n, C), y (n, m)."""
    mean, size, target = x.mean(axis=0), x.std(axis=0) + 1e-6, y.mean(axis=0)
    x = (x - mean) / size
    weight = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (y - target))
    return lambda new: (new - mean) / size @ weight + target


def at_joints(x, people):
    """The tokens with a joint in them, and its number. x (72, N, C) -> (n, C), (n,)"""
    person, joint = np.nonzero(seen[people])
    return x[people][person, tokens[people][person, joint]].astype(np.float64), joint


def probe(x, classes, shuffle=None):
    """The share of held-out tokens of which the right class is read. classes (17,): the class of each joint."""
    (known, joint), (new, truth) = at_joints(x, np.arange(48)), at_joints(x, np.arange(48, 72))
    label = classes[joint] if shuffle is None else shuffle.permutation(classes[joint])
    return (ridge(known, np.eye(classes.max() + 1)[label])(new).argmax(axis=1) == classes[truth]).mean()


# %% [markdown]
# Two questions: which of the 17 joints; and which of 9 kinds, where left and right count as one. Two controls: labels
# that are **shuffled**, so that there is nothing to find; and a probe that sees only the token's **place** in the crop,
# since heads are above feet in most pictures.

# %%
joints = np.arange(17)
kinds = np.array([(k + 1) // 2 for k in range(17)])  # nose 0, eyes 1, ears 2, ...
assert len({JOINTS[k].split("_")[-1] for k in range(17)}) == kinds.max() + 1 == 9
place = np.concatenate([np.eye(16).repeat(12, axis=0), np.tile(np.eye(12), (16, 1))], axis=1)[None].repeat(72, axis=0)
shuffle = np.random.default_rng(0)
curves = {
    "which of 9 kinds": [probe(stream[name], kinds) for name in STREAMS],
    "which of 9, by place alone": [probe(place, kinds)] * len(STREAMS),
    "which of 17 joints": [probe(stream[name], joints) for name in STREAMS],
    "which of 17, by place alone": [probe(place, joints)] * len(STREAMS),
    "17, labels shuffled": [np.mean([probe(stream[name], joints, shuffle) for _ in range(3)]) for name in STREAMS],
}
figure = figures.lines(
    range(len(STREAMS)), curves, ("", "share right"), "What a linear probe reads off a joint's token", False, 380, 760
)
figure.axes[0].set_xticks(range(len(STREAMS)), SHORT)
figure.axes[0].set_ylim(0, 1)
figure.axes[0].legend(fontsize=8.5, frameon=False, loc="upper left", ncols=2)
figure

# %%
count, of_kinds = seen[48:].sum(), curves["which of 9 kinds"]
teach.say(
    f"From {of_kinds[0]:.0%} before the first block to {of_kinds[-1]:.0%} after the last norm; the place alone gives "
    f"{curves['which of 9, by place alone'][0]:.0%}. {count} tokens were asked, so a few hundredths are chance (one "
    f"standard error is at most {0.5 / np.sqrt(count):.1%})."
)

# %% [markdown]
# **What this shows**: that the information is in the token, and where it becomes linear. **What it cannot**: that the
# network uses it; and a low curve may mean that it is there in another form, or in the neighbours' tokens. The head
# reads a joint off several tokens together.

# %% [markdown]
# ## Exercise 15.4 · Left or right?
#
# Difficulty ●●○ · 10 minutes. Take one pair, such as the knees: can a probe tell the left from the right one off the
# token, by block? Beside it: how often is the left joint's heatmap the higher one at the true place of the left joint?
#
# <details><summary>Hint 1</summary>Keep of <code>at_joints</code> only the tokens of the two joints; let y be 1 and
# -1.</details>
# <details><summary>Hint 2</summary>The cell of a place in the heatmap: x * 47 / 191 and y * 63 / 255,
# rounded.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
LEFT, RIGHT = JOINTS.index("left_knee"), JOINTS.index("right_knee")


def side_probe(x):
    parts = []
    for people in (np.arange(48), np.arange(48, 72)):
        x_joint, joint = at_joints(x, people)
        pair = np.isin(joint, (LEFT, RIGHT))
        parts.append((x_joint[pair], np.where(joint[pair] == LEFT, 1.0, -1.0)[:, None]))
    (known, y), (new, truth) = parts
    return (np.sign(ridge(known, y)(new)) == truth).mean()


lines = [f"{short:<10}{side_probe(stream[name]):.0%}" for name, short in zip(STREAMS, SHORT, strict=True)]
cell = np.rint(keypoints[..., :2] * [47 / 191, 63 / 255]).astype(int).clip(0, [47, 63])
people = np.flatnonzero(seen[:, LEFT])
at_left = heatmaps[people, :, cell[people, LEFT, 1], cell[people, LEFT, 0]]
print("\n".join([*lines, f"the head: {(at_left[:, LEFT] > at_left[:, RIGHT]).mean():.0%}"]))
### END SOLUTION

# %% [markdown]
# ## Reading the stream early
#
# All blocks write into the same stream. So the last norm and the head can be put behind **any** block: what would the
# heatmap be if the network stopped there? (For language models this is called the logit lens: nostalgebraist, 2020.)


# %%
def read(x):
    """Last norm and head on a stream (B, 192, 96) -> heatmaps."""
    p = model.params
    x = layers.layer_norm(x, **p["backbone"]["last_norm"], eps=config.eps)
    return model.ops.keypoint_head(np.ascontiguousarray(layers.to_map(x, config.grid)), **p["keypoint_head"])


maps, titles = [], []
for joint in ("left_wrist", "right_ankle"):
    for i in SOME:
        maps.append(read(example.cache[STREAMS[i]])[0, JOINTS.index(joint)])
        titles.append(f"{joint}, {SHORT[i]}")
assert np.allclose(maps[4], example.heatmaps[0, WRIST], atol=1e-3)
figures.over_crop(example.crop, maps, titles, None, 5, 215, "The heatmap, if the network stopped after ...")

# %% [markdown]
# The scale is each map's own. **What this shows**: in which block the answer appears in the form that the head expects.
# **What it cannot**: the head has only ever seen what comes after the last block. An early map that says nothing may
# only be in a form that it does not know; the probes above, trained for each block, are fairer.
#
# ## How alike tokens are, and how long
#
# The angle between the wrist's token and each other, block by block (cosine similarity, after the crop's mean token is
# taken off), and each token's length.

# %%
token, maps, titles = example.token_of("left_wrist"), [], []
for i in SOME:
    x = example.cache[STREAMS[i]][0]
    centred = x - x.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    maps.append(without_own(unit @ unit[token], token))
    titles.append(f"alike, {SHORT[i]}")
lengths = [np.linalg.norm(example.cache[STREAMS[i]][0], axis=1) for i in SOME]
maps += [length / np.median(length) for length in lengths]
titles += [f"length, {SHORT[i]}" for i in SOME]
title = "Similarity to the left wrist's token; below, the length of tokens as a multiple of their median"
figures.over_crop(example.crop, maps, titles, [token] * 5 + [None] * 5, 5, 215, title)

# %%
longest = [(x / np.median(x, axis=1, keepdims=True)) for x in (np.linalg.norm(stream[n], axis=2) for n in STREAMS[:9])]
teach.say(
    "Longest token as a multiple of its crop's median (mean of 72 crops), "
    + ", ".join(f"{short}: {x.max(axis=1).mean():.1f}" for short, x in zip(SHORT, longest, strict=False))
    + f". Tokens of more than three medians after block 7: {(longest[8] > 3).mean():.1%}."
)

# %% [markdown]
# Large vision transformers keep a few very long tokens in empty parts of the picture, as a notepad (Darcet et al.,
# 2024: artefacts, and registers against them). The sentence above says whether this small one does so, too.
#
# ## Move one person's tokens into another's picture
#
# **Activation patching**: run person A, but at one place replace the stream by that of person B, in the nine tokens
# around B's left wrist. Does A's heatmap now have a wrist there? And from which block on? Then we know where the
# information is that the head acts upon. (Causal tracing: Meng et al., 2022.)


# %%
def around(token):
    """The 3 x 3 tokens around one, as far as there are some."""
    row, column = divmod(int(token), 12)
    return [
        12 * r + c
        for r in range(row - 1, row + 2)
        for c in range(column - 1, column + 2)
        if 0 <= r < 16 and 0 <= c < 12
    ]


def far_apart(a, b):
    return np.abs(np.subtract(divmod(tokens[a, WRIST], 12), divmod(tokens[b, WRIST], 12))).max() >= 3


clear = scores[:, WRIST] * (np.hypot(*(found - keypoints[..., :2])[:, WRIST].T) < 16) * seen[:, WRIST]
free, pairs = list(np.argsort(-clear)[:40]), []  # the people whose wrist is found best
while free:
    a = free.pop(0)
    b = next((b for b in free if far_apart(a, b)), None)
    if b is not None:
        free.remove(b)
        pairs.append((a, b))
A, B = np.array(pairs).T

# %%
patched = [heatmaps[A, WRIST]]
for name in STREAMS[:9]:
    new = stream[name][A].copy()
    for row, b in enumerate(B):
        new[row, around(tokens[b, WRIST])] = stream[name][b, around(tokens[b, WRIST])]
    patched.append(model.run_with_cache(images[A], replace={name: new})[0][:, WRIST])
patched = np.stack(patched)  # (10, pairs, 64, 48)
assert patched.shape == (10, len(pairs), 64, 48)

STEPS = ["untouched", *SHORT[:9]]
shown = scores[B, WRIST].argmax()  # of all pairs, the one whose B is found best
a, b, size = A[shown], B[shown], config.image_size[::-1]
title = "Left wrist's heatmap of A; the marked patch and its neighbours come from B, after ..."
figure, axes = figures.grid(7, 7, 225, title=title, name="patching")
for ax, i in zip(axes, [-1, 0, *(i + 1 for i in SOME)], strict=True):
    who, values = (b, heatmaps[b, WRIST]) if i < 0 else (a, patched[i, shown])
    crop = Crop(pixels[who], (0, 0, *size), (size[0] / 2, size[1] / 2), size)
    overlay(ax, crop, values, heatmap_extent(crop, values.shape))
    mark(ax, crop, tokens[b, WRIST])
    x, y = cells[b, WRIST].astype(int)
    figures.bare(ax, f"{'B, as it is' if i < 0 else STEPS[i]}\nthere: {values[y, x]:.2f}")
figure

# %%
row = np.arange(len(pairs))
at_b = patched[:, row, *cells[B, WRIST].astype(int).T[::-1]] / scores[B, WRIST]
at_a = patched[:, row, *cells[A, WRIST].astype(int).T[::-1]] / scores[A, WRIST]
curves = {
    "at B's wrist, as a share of B's own": at_b.mean(axis=1),
    "at A's wrist, as a share of A's own": at_a.mean(axis=1),
}
labels = ("B's tokens put in after", "share of the heatmap's value")
figure = figures.lines(range(10), curves, labels, f"Patching, mean of {len(pairs)} pairs", False, 290, 700, "o")
figure.axes[0].set_xticks(range(10), STEPS)
figure

# %%
teach.say(
    f"Nine tokens put in before the first block bring {at_b[1].mean():.0%} of B's value to that place, after block 7 "
    f"{at_b[9].mean():.0%} (untouched: {at_b[0].mean():.0%})."
)

# %% [markdown]
# Patched early, the blocks that follow still compare these nine tokens with a person who stands differently; patched
# late, what they gathered before comes along. After block 7 only the head follows, which sees little more than these
# tokens: that end of the curve is no surprise, the way up to it is the finding. **What this shows**: a cause, not only
# a correlation; these tokens, at this depth, make the peak. **What it cannot**: the mixture is a picture that never
# was, and another pair, joint or size of the window gives other numbers.
#
# ## Left and right as a direction
#
# After block 7, the mean difference between the token of the left and of the right joint, over 48 people, is a
# direction in the stream. If the network writes left and right there, then moving the tokens around a **left** joint
# against it should turn it into a right one. We try it on the 24 others, and, for comparison, with random directions of
# the same length.

# %%
X, AMOUNTS = stream["backbone.blocks.7"], np.array([-2, 0, 2, 4])
cell = np.rint(keypoints[..., :2] * [47 / 191, 63 / 255]).astype(int).clip(0, [47, 63])


def steer(kind, direction):
    """Mean heatmap values at the true left joint, of the left and of the right joint: (amounts, 2)."""
    left, right = JOINTS.index(f"left_{kind}"), JOINTS.index(f"right_{kind}")
    people, values = 48 + np.flatnonzero(seen[48:, left]), []
    for amount in AMOUNTS:
        new = X[people].copy()
        for row, i in enumerate(people):
            new[row, around(tokens[i, left])] -= np.float32(amount) * direction
        heat = read(new)[np.arange(len(people)), :, cell[people, left, 1], cell[people, left, 0]]
        values.append(heat[:, [left, right]].mean(axis=0))
    return np.array(values)


def side_direction(kind):
    left, right = JOINTS.index(f"left_{kind}"), JOINTS.index(f"right_{kind}")
    both = np.flatnonzero(seen[:48, left] & seen[:48, right])
    return (X[both, tokens[both, left]] - X[both, tokens[both, right]]).mean(axis=0)


# %%
def random_like(direction, rng):
    noise = rng.standard_normal(96).astype(np.float32)
    return noise * (np.linalg.norm(direction) / np.linalg.norm(noise))


rng, steered = np.random.default_rng(5), {}
figure, axes = figures.grid(
    3, 3, 290, title="Heatmaps at the true left joint, while its tokens are moved towards right"
)
for ax, kind in zip(axes, ("wrist", "knee", "ankle"), strict=True):
    direction = side_direction(kind)
    steered[kind] = steer(kind, direction)
    control = np.mean([steer(kind, random_like(direction, rng)) for _ in range(2)], axis=0)
    for values, dashes, note in ((steered[kind], "-", ""), (control, ":", ", random")):
        for i, side in enumerate(("left", "right")):
            style = {"color": figures.COLOURS[i], "linestyle": dashes, "marker": "os"[i], "markersize": 3.5}
            ax.plot(AMOUNTS, values[:, i], label=side + note, **style)
    figures.plain(ax, "times the mean difference", "value" if kind == "wrist" else "", f"{kind}s")
    ax.set_ylim(bottom=-0.05)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
figure

# %%
teach.say(
    "Heatmaps of left and right joint, untouched and moved by 4 times the difference: "
    + "; ".join(
        f"{kind}s, left {v[1, 0]:.2f} and {v[3, 0]:.2f}, right {v[1, 1]:.2f} and {v[3, 1]:.2f}"
        for kind, v in steered.items()
    )
    + "."
)

# %% [markdown]
# Where the solid lines cross and the dotted ones do not, the direction carries the side. **What it cannot show**: that
# it is the only one. A step that is too long takes the tokens where the head has never been.
#
# ## Move the picture by one patch
#
# The positions are added to the tokens, so a person who stands one patch further to the right gives other tokens. How
# much other? We compare each token with the one that has **the same pixels** after the move, and with the one at **the
# same place**.

# %%
shifted = images[:24].copy()
shifted[..., 16:] = images[:24, ..., :-16]
shifted[..., :16] = images[:24, ..., :1]  # the border is repeated
after, cache = model.run_with_cache(shifted)


def alike(a, b):
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean()


curves = {"same pixels, one patch on": [], "same place": []}
for name in STREAMS:
    middle = stream[name][:24].mean(axis=(0, 1))
    old, new = (x.reshape(24, 16, 12, 96) - middle for x in (stream[name][:24], cache[name]))
    curves["same pixels, one patch on"].append(alike(old[:, :, 1:10], new[:, :, 2:11]))
    curves["same place"].append(alike(old[:, :, 2:11], new[:, :, 2:11]))
figure = figures.lines(
    range(len(STREAMS)), curves, ("", "cosine similarity"), "Tokens after a move by one patch", False, 260, 700, "o"
)
figure.axes[0].set_xticks(range(len(STREAMS)), SHORT)
figure.axes[0].set_ylim(0, 1.05)
figure

# %%
on = decode_argmax(after)[0][..., 0] - cells[:24, :, 0]
sure = counted & (cells[:24, :, 0] < 42)
teach.say(
    "Heatmaps should move by 4 cells. Of the joints that the model is sure of, "
    f"{(np.abs(on[sure] - 4) <= 1).mean():.0%} do, within one cell."
)

# %% [markdown]
# What a convolution makes of a picture moves with it, up to the border, by whole strides. A transformer with learnt
# positions has to **learn** it. How well it did is what the two curves and the sentence say.
#
# ## What each method answers
#
# | method | the question | not answered |
# |---|---|---|
# | attention maps, rollout | where could information come from? | was it used? |
# | removal | what does the network do without it? | what does it do with it? |
# | probe | is it in the token, readable? | does the network read it? |
# | early reading | is it there in the head's own form? | is it there in another form? |
# | patching, steering | does it cause the answer? | is it the only cause? |
#
# Where two methods agree, one may begin to believe.
#
# ## What to read next
#
# - `minivitpose/model.py`: `run_with_cache` and `replace`, which all of this is made of. `trace.py`: the names of all
#   activations.
# - Abnar, Zuidema: Quantifying attention flow in transformers (2020). Jain, Wallace: Attention is not explanation
#   (2019). Alain, Bengio: Understanding intermediate layers using linear classifier probes (2016). Meng et al.:
#   Locating and editing factual associations (2022). Darcet et al.: Vision transformers need registers (2024).
# - Back to the start: [00 · The whole picture](00_the_whole_picture.ipynb).
