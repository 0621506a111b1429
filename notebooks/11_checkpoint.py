# %% [markdown]
# # 11 · Inside a checkpoint
#
# **After this notebook you can** read a .pth file byte by byte, without PyTorch; say why opening one can run a
# stranger's code, and what a safe reader does instead; read safetensors by hand; and bring the names of four projects
# to one.
#
# 35 minutes to read, 55 for the exercises. Needs: the names of the parameters ([07](07_backbone.ipynb)). Nothing is
# downloaded.

# %%
import io
import json
import os
import pickle
import pickletools
import struct
import tempfile
import textwrap
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
from IPython.display import HTML, display

import minivitpose as mvp
from minivitpose import teach
from minivitpose.teach import figures

example = teach.example()
images = example.images
data = (files("minivitpose") / "data" / "mini.pth").read_bytes()
scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
folder = Path(scratch.name)  # what this notebook writes goes there

# %% [markdown]
# ## Why
#
# Weights come as a file from somebody else. Two questions before it is used: what is in it, and is it safe to open?
# Both can be answered from its bytes.

# %%
learnt = sum(x.size for x in example.model.state_dict().values())
teach.say(
    f"The bundled model: {len(data):,} bytes for {learnt:,} numbers, {len(data) / learnt:.2f} bytes each. "
    f"The first 16 bytes: `{data[:16].hex(' ')}`"
)
assert data[:2] == b"PK"

# %% [markdown]
# ## A zip file
#
# `PK` are the initials of Phil Katz: the file is a zip. So Python can list what is in it. Each entry begins with a
# header of 30 bytes, then comes its name, then padding, then its bytes.

# %%
archive = zipfile.ZipFile(io.BytesIO(data))
entries = archive.infolist()


def start_of(entry):
    """Where the bytes of an entry begin: its header says how long name and padding are."""
    name_length, extra_length = struct.unpack_from("<HH", data, entry.header_offset + 26)
    return entry.header_offset + 30 + name_length + extra_length


assert all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
assert all(start_of(entry) % 64 == 0 for entry in entries if "/data/" in entry.filename)
shown = [*entries[:7], *entries[-2:]]
rows = "".join(f"| `{e.filename}` | {start_of(e):,} | {e.file_size:,} |\n" for e in shown)
teach.say(f"{len(entries)} entries, for example:\n\n| name | first byte | bytes |\n|---|---|---|\n{rows}")

# %% [markdown]
# The same as a map, one tensor after the other in the order of the network:

# %%
state = mvp.read_state_dict(files("minivitpose") / "data" / "mini.pth")
groups = {"positions": "pos_embed", "patches": "patch_embed"}
groups |= {f"block {i}": f"blocks.{i}." for i in range(8)} | {"head": "keypoint_head"}
sizes = {title: sum(x.nbytes for n, x in state.items() if part in n) for title, part in groups.items()}
sizes[""] = len(data) - sum(sizes.values())

figure = teach.canvas(900, 140, "map-of-the-file")
axes = figure.subplots()
left = 0
for i, (title, size) in enumerate(sizes.items()):
    axes.barh(0, size / 1000, left=left / 1000, color=figures.COLOURS[i % 6], alpha=0.5, edgecolor="white", linewidth=2)
    axes.text((left + size / 2) / 1000, 0, title, ha="center", va="center", fontsize=8.5, rotation=90 * (size < 60_000))
    left += size
figures.plain(axes, "kilobytes", title="The file as a map")
axes.set(yticks=[], xlim=(0, len(data) / 1000))
axes.spines["left"].set_visible(False)
figure

# %% [markdown]
# The last strip is the last norm, the names, and the zip's own list.
#
# Nothing is compressed, and the numbers in `data/0`, `data/1`, ... begin at multiples of 64 bytes. So they lie in the
# file as they lay in memory. `data.pkl` says what they are.
#
# ## data.pkl, a program for a small machine
#
# It is a **pickle**: a list of instructions for a machine with a stack. `pickletools.dis` prints them without obeying
# any. This is how one tensor is described:

# %%
pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def listing(pickled):
    text = io.StringIO()
    pickletools.dis(pickled, text)
    return text.getvalue().splitlines()


lines = listing(pickled)
print(*lines[:40], sep="\n")
teach.say(f"... and {len(lines) - 40:,} lines more.")

# %% [markdown]
# The column after the position is the instruction's one byte. Nearly all of the file is made of these:
#
# | instruction | what the machine does |
# |---|---|
# | `GLOBAL 'module name'` | **imports** the module and pushes what has that name in it |
# | `BINUNICODE`, `BININT`, `NEWFALSE`, ... | pushes a text, a number, False |
# | `MARK` ... `TUPLE` | makes one tuple of all that was pushed since the mark |
# | `BINPERSID` | replaces the topmost thing by what it stands for: here a storage, the entry `data/0` |
# | `BINPUT 4`, `BINGET 4` | remembers the topmost thing under a number, and pushes it again |
# | `REDUCE` | takes arguments and a function off the stack, **calls** it and pushes the result |
# | `SETITEMS`, `STOP` | puts keys and values into a dict; the topmost thing is the result |
#
# A machine for a few of them fits into a cell. Its stack after each instruction:


# %%
def trace(pickled):
    stack, marks = [], []
    for instruction, argument, _ in pickletools.genops(pickled):
        name = instruction.name
        if name in ("BINUNICODE", "BININT1"):
            stack.append(argument)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE2":
            stack[-2:] = [tuple(stack[-2:])]
        elif name == "SETITEMS":
            first = marks.pop()
            items = stack[first:]
            del stack[first:]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        yield f"| `{name}` | {'' if argument is None else f'`{argument!r}`'} | `{stack!r}` |"


small = {"shape": (16, 12), "heads": 3}
steps = [row for row in trace(pickle.dumps(small, protocol=2)) if "PUT" not in row]
teach.say("| instruction | argument | stack afterwards |\n|---|---|---|\n" + "\n".join(steps))

# %% [markdown]
# ## What else a pickle can say
#
# `GLOBAL` imports anything, and `REDUCE` calls it. That is how tensors come back, and it is all that an attacker
# needs. A class says with `__reduce__` what is to be called when its objects are read. Ours is harmless: it calls
# `print`.


# %%
class Harmless:
    def __reduce__(self):
        return print, ("this line was printed because somebody opened a file",)


harmless = pickle.dumps({"weight": Harmless()}, protocol=2)
pickle.loads(harmless)
print(*[line for line in listing(harmless) if "GLOBAL" in line or "REDUCE" in line], sep="\n")

# %% [markdown]
# With another name in place of `print` it could delete your files. The next pickle would run a command of the
# operating system. It is made and taken apart here, **never loaded**:


# %%
class Attack:
    def __reduce__(self):
        return os.system, ("echo this could be any command",)


attack = pickle.dumps({"weight": Attack()}, protocol=2)
print(*[line for line in listing(attack) if "GLOBAL" in line or "REDUCE" in line or "UNICODE" in line], sep="\n")

# %% [markdown]
# This package reads pickles with a machine of its own, `checkpoint/unpickle.py`. It knows no import and no call: a
# name stays a name, and a call becomes a placeholder that holds nothing and does nothing. A few calls are made sense
# of, those that describe tensors and dicts. Names that have no business in a checkpoint are refused at once:


# %%
def saved_as_checkpoint(pickled, name):
    path = folder / name
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
    return path


def refusal(source):
    """What the package says to a file or a mapping."""
    try:
        mvp.load(source)
        return "loaded"
    except mvp.CheckpointError as error:
        return str(error).replace(f"{folder}{os.sep}", "")


for name, content in {"harmless.pth": harmless, "attack.pth": attack}.items():
    print(textwrap.fill(refusal(saved_as_checkpoint(content, name)), 100), end="\n\n")

# %% [markdown]
# Newer versions of `torch.load` read with `weights_only=True`, which allows a list of names. With a plain
# `pickle.load`, or `weights_only=False`, opening a file means running it.
#
# ## One tensor by hand
#
# What the machine finds for a tensor is a description: which storage, from which element on, how many elements each
# way (shape), and how far apart neighbours are in each direction (stride).

# %%
from minivitpose.checkpoint.torch_objects import unpickle_torch

described, _, _ = unpickle_torch(memoryview(pickled))
name = "backbone.blocks.0.mlp.fc1.weight"
tensor = described[name]
print(tensor)

# %% [markdown]
# $$ \text{element } (i, j) = \text{storage}[\,\text{offset} + i \cdot \text{stride}_0 + j \cdot \text{stride}_1\,] $$
#
# The storage is an entry of the zip; float16 are two bytes a number, the lower one first.

# %%
raw = archive.read(next(n for n in archive.namelist() if n.endswith(f"/data/{tensor.storage.key}")))
storage = np.frombuffer(raw, "<f2")
i, j = np.indices(tensor.shape)
by_hand = storage[tensor.offset + i * tensor.stride[0] + j * tensor.stride[1]]

assert tensor.shape == (384, 96) and tensor.dtype == "float16"
assert np.array_equal(by_hand, state[name])
by_hand[:2, :4], state[name][:2, :4]

# %% [markdown]
# Strides allow views. One storage of 12 numbers, read in two ways without moving any of them: with strides (4, 1),
# and with strides (1, 4), which is the transpose. Files with such tensors exist, so a reader must not ignore the
# stride.

# %%
twelve = np.arange(12)
i, j = np.indices((4, 3))
print(twelve.reshape(3, 4), "stride (4, 1)", sep="\n")
print(twelve[i * 1 + j * 4], "stride (1, 4)", sep="\n")

# %% [markdown]
# ## All of them
#
# Every tensor with its shape and its type, the smallest and the largest number, and a histogram in between.


# %%
def histogram(x, bins=24):
    counts = np.histogram(x.astype(np.float64), bins)[0]
    return "".join(" ▁▂▃▄▅▆▇█"[int(np.ceil(8 * n / counts.max()))] for n in counts)


rows = ""
for name, x in state.items():
    numbers = (
        f"<td>{x.min():.3g}</td><td><code style='white-space:pre'>{histogram(x)}</code></td><td>{x.max():.3g}</td>"
    )
    rows += f"<tr><td style='text-align:left'>{name}</td><td>{x.shape}</td><td>{x.dtype}</td>{numbers}</tr>"
head = "".join(f"<th>{title}</th>" for title in ("name", "shape", "type", "smallest", "histogram", "largest"))
display(HTML(f"<div style='max-height:34em;overflow:auto'><table><tr>{head}</tr>{rows}</table></div>"))
assert len(state) == 115 and sum(x.dtype == np.float16 for x in state.values()) == 113

# %% [markdown]
# Two tensors are no weights: `num_batches_tracked` counts the steps of the training, as a 64-bit integer.
#
# ## float16
#
# A float16 has 11 binary digits where a float32 has 24, and half the size. Below $2^{-14}$ digits are lost one by
# one, and below $2^{-25}$ nothing is left. Where do the weights lie?

# %%
kinds = {
    "linear and patch embedding": [x for n, x in state.items() if x.ndim in (2, 4) and n.startswith("backbone")],
    "biases and norms": [x for x in state.values() if x.ndim == 1],
    "transposed convolutions": [x for n, x in state.items() if "deconv" in n and x.ndim == 4],
}
sizes = {}
for kind, arrays in kinds.items():
    x = np.abs(np.concatenate([x.ravel() for x in arrays]).astype(np.float64))
    sizes[kind] = np.log2(x[x > 0])
figure = figures.histograms(sizes, ("log2 of the size", "share"), "The sizes of the weights", np.arange(-26, 6, 0.5))
figure.axes[0].axvline(-14, color="#444444", linewidth=1)
where = dict(xycoords=("data", "axes fraction"), xytext=(-4, 0), textcoords="offset points", ha="right", fontsize=8.5)
figure.axes[0].annotate("below: fewer digits", (-14, 0.3), **where)
figure

# %% [markdown]
# How many digits do weights need? Here they are cut to fewer and fewer binary digits, and the joints of the crop are
# found again. bfloat16, another half-size type, has 8.

# %%
from minivitpose.parameters import nest
from minivitpose.pose.decode import decode


def cut(x, digits):
    """The nearest numbers with so many binary digits."""
    significand, exponent = np.frexp(x)
    return np.ldexp(np.round(significand * 2**digits) / 2**digits, exponent).astype(x.dtype)


def joints(heatmaps):
    return decode(heatmaps[0], example.crop.centre, example.crop.scale)[0]


weights = example.model.state_dict()
assert np.array_equal(cut(weights["backbone.pos_embed"], 11), weights["backbone.pos_embed"])
digits, moved, changed = range(2, 11), [], []
for n in digits:
    fewer = {name: cut(x, n) if x.dtype.kind == "f" else x for name, x in weights.items()}
    heatmaps = mvp.ViTPose(nest(fewer), example.model.config, "numpy")(images)
    changed.append(float(np.sqrt(np.mean((heatmaps - example.heatmaps) ** 2) / np.mean(example.heatmaps**2))))
    moved.append(float(np.median(np.linalg.norm(joints(heatmaps) - joints(example.heatmaps), axis=-1))))
curves = {"heatmaps, relative error": changed, "joints, median shift in pixels": moved}
figure = figures.lines(
    digits, curves, ("binary digits of the weights", ""), "Few digits are enough", log=True, marker="o"
)
figure.axes[0].axvline(8, color="#444444", linewidth=1)
figure.axes[0].annotate("bfloat16", (8, max(moved)), (4, -4), textcoords="offset points", fontsize=8.5)
figure

# %%
teach.say(
    f"With 8 digits the heatmaps change by {changed[6]:.1%}, the joints move by {moved[6]:.2g} pixels of the picture. "
    "Each further digit halves that, roughly. The training had float32 weights; they were rounded to 11 digits once."
)

# %% [markdown]
# ## safetensors
#
# A format in which there is no program: 8 bytes that say how long the header is, the header as JSON, then the
# numbers. The package writes it, and three lines read it:

# %%
from minivitpose.checkpoint.write import write_arrays

path = folder / "mini.safetensors"
write_arrays(path, state)
content = path.read_bytes()

(length,) = struct.unpack("<Q", content[:8])
header = json.loads(content[8 : 8 + length])
entry = header["backbone.blocks.0.mlp.fc1.weight"]
print(f"{length:,} bytes of header, {len(content) - 8 - length:,} bytes of numbers")
print(json.dumps(entry))

# %%
begin, end = entry["data_offsets"]  # counted from the end of the header
by_hand = np.frombuffer(content[8 + length + begin : 8 + length + end], "<f2").reshape(entry["shape"])
assert np.array_equal(by_hand, state["backbone.blocks.0.mlp.fc1.weight"])

# %% [markdown]
# Here the reader must check, too: that no tensor reaches outside the file, that none overlaps another, that the size
# fits the shape. `checkpoint/safetensors.py` does. What cannot happen is that a call is hidden in it.
#
# ## Mapped, not read
#
# Where numbers lie in a file as in memory, they need not be copied. `read_state_dict` asks the operating system to
# **map** the file: a part of it is read when it is touched. So a safetensors file of 2 GB opens as fast as a small
# one, and many processes share it. (A .pth has checksums, and checking them reads it once.) Such arrays are views,
# and cannot be written to:

# %%
mapped = mvp.read_state_dict(path)["backbone.blocks.0.mlp.fc1.weight"]
assert not mapped.flags.owndata and not mapped.flags.writeable
owner = mapped
while getattr(owner, "base", None) is not None:
    owner = owner.base
print("the array's memory belongs to:", type(owner.obj if isinstance(owner, memoryview) else owner).__name__)

teach.race(
    {
        "open and map": lambda: mvp.read_state_dict(path),
        "open, map and copy every number": lambda: {n: np.array(x) for n, x in mvp.read_state_dict(path).items()},
    },
    seconds=0.2,
)

# %% [markdown]
# ## Four projects, three sets of names
#
# The same network is published by ViTPose, by easy_ViTPose, by mmpose 1.x and in Hugging Face transformers. The first
# two share their names, which are also this package's. The others call everything something else. `convert` writes
# the model under each set of names, here as float32:

# %%
from minivitpose.checkpoint import namings, read_source
from minivitpose.checkpoint.convert import convert

source = read_source({name: x.astype(np.float32) if x.dtype == np.float16 else x for name, x in state.items()})
named = {}
for naming in ("official", "mmpose", "hf"):
    named[naming], _, _ = convert(source, naming)
    write_arrays(folder / f"{naming}.safetensors", named[naming])
assert [len(arrays) for arrays in named.values()] == [115, 115, 115 + 8 * 4]  # q, k, v apart: 4 more a block


def other_names(name):
    """The names of one parameter in mmpose and in transformers, where qkv is three: query, key and value."""
    split = [name.replace(".qkv.", f".{letter}.") for letter in "qkv"] if ".qkv." in name else [name]
    hf = [namings.renamed(n, "hf", back=True) for n in split]
    assert all(n in named["hf"] for n in hf)
    return [namings.renamed(name, "mmpose", back=True)], hf


def short(names):
    return "<br>".join(f"`{name.removeprefix('backbone.').removesuffix('.weight')}`" for name in names)


table = "| ViTPose, easy_ViTPose | mmpose 1.x | Hugging Face |\n|---|---|---|\n"
for name in state:
    if (name.endswith("weight") or "pos_embed" in name) and not any(f"blocks.{i}" in name for i in range(1, 8)):
        table += f"| {' | '.join(short(names) for names in ([name], *other_names(name)))} |\n"
teach.say(f"Without `backbone.` before and `.weight` behind them:\n\n{table}")

# %% [markdown]
# All but two differences are names. **qkv**: transformers keeps three matrices; one below the other they are the one
# of the others.

# %%
qkv = named["official"]["backbone.blocks.0.attn.qkv.weight"]
at = "backbone.encoder.layer.0.attention.attention"
apart = [named["hf"][f"{at}.{part}.weight"] for part in ("query", "key", "value")]
assert qkv.shape == (288, 96) and np.array_equal(np.concatenate(apart), qkv)

bias = [named["hf"][f"{at}.{part}.bias"] for part in ("query", "key", "value")]
figure = figures.lines(
    range(288), {"qkv.bias": np.concatenate(bias)}, ("row", "bias"), "query, key, value: 96 rows each"
)
for edge in (95.5, 191.5):
    figure.axes[0].axvline(edge, color="#444444", linewidth=1)
figure

# %% [markdown]
# The keys' bias has hardly left zero, where the training began. It adds the same number to all scores of a row, and
# softmax takes that off again: its true gradient is 0. What moves it is rounding, since the optimiser divides by the
# size of the gradient, and so makes steps of mere noise. In other blocks that has taken it further. It means nothing
# there either, for any other bias of the keys does as well:

# %%
moved_keys = dict(named["official"])
moved_keys["backbone.blocks.0.attn.qkv.bias"] = np.concatenate([bias[0], bias[1] + np.float32(0.5), bias[2]])
expected = example.model(images)
change = np.abs(mvp.load(moved_keys, "numpy")(images) - expected).max()
assert change < 1e-4 * np.abs(expected).max()
teach.say(f"With 0.5 added to every key's bias the heatmaps change by {change:.0e}: rounding.")

# %% [markdown]
# **The class token's slot**: official positions have 193 rows. Row 0 belonged to a class token in the pretraining;
# ViTPose has no such token, yet adds row 0 to every token ([02](02_positions.ipynb)). mmpose 1.x has added it once
# and for all, and keeps 192 rows.

# %%
ours, theirs = (named[naming]["backbone.pos_embed"] for naming in ("official", "mmpose"))
assert ours.shape == (1, 193, 96) and theirs.shape == (1, 192, 96)
assert np.array_equal(theirs, ours[:, 1:] + ours[:, :1])

# %% [markdown]
# Loaded back, all three are the same network. `load` sees by the names which set it is. One thing no tensor shows:
# layer norms have eps $10^{-12}$ in transformers, so it is given here, to compare like with like.

# %%
for naming in named:
    model = mvp.load(folder / f"{naming}.safetensors", "numpy", eps=1e-6)
    off = np.abs(model(images) - expected).max()
    said = "the same bits" if off == 0 else f"largest difference {off:.0e}"
    print(f"{naming:9}{said}, pipeline {model.config.pipeline!r}")
    assert off == 0 if naming != "mmpose" else off < 1e-4 * np.abs(expected).max()

# %% [markdown]
# For mmpose the last bits differ: `(x + row) + slot` and `x + (row + slot)` round differently
# ([07](07_backbone.ipynb)). `pipeline` is what surrounds the network in that project, and there the differences are
# larger ([10](10_crops.ipynb)).
#
# ## Experts
#
# A ViTPose+ file holds six models that share almost everything. In each MLP, `fc2` gives the first channels for all
# datasets; the last quarter comes from an **expert** of the dataset. One below the other they are an ordinary `fc2`.
# Made from our own weights:

# %%
plus = {}
for name, x in named["official"].items():
    if ".mlp.fc2." in name:
        plus[name] = x[:72]  # of 96
        plus[name.replace("fc2", "experts.0")] = x[72:]
        plus[name.replace("fc2", "experts.1")] = np.zeros_like(x[72:])  # what another dataset would have learnt
    else:
        plus[name] = x

coco, other = (mvp.load(plus, "numpy", expert=expert) for expert in (0, 1))
assert np.array_equal(coco(images), expected) and not np.array_equal(other(images), expected)
print(f"{len(plus)} tensors instead of {len(named['official'])}; expert 0 gives the same bits as the plain model")

# %% [markdown]
# ## Strict loading
#
# A loader that skips what it does not know gives a network with random weights in it, and nobody notices. Here one
# error lists everything that is wrong. A misspelt name, a transposed weight, a keypoint too few:

# %%
broken = dict(named["official"])
broken["backbone.blocks.1.norm1.weigth"] = broken.pop("backbone.blocks.1.norm1.weight")
broken["backbone.blocks.2.mlp.fc1.weight"] = broken["backbone.blocks.2.mlp.fc1.weight"].T
broken["keypoint_head.final_layer.bias"] = broken["keypoint_head.final_layer.bias"][:16]
print(refusal(broken))

# %% [markdown]
# And when all names and shapes fit, the numbers are looked at:

# %%
broken = {name: np.array(x) for name, x in named["hf"].items()}
broken["head.conv.bias"][3] = np.nan
broken["backbone.encoder.layer.2.attention.attention.key.weight"][7, 80:] = np.inf
print(refusal(broken))

# %% [markdown]
# The error speaks of the file's own names, whichever set that is.

# %% [markdown]
# ## Exercise 11.1 · Read a tensor by hand
#
# Difficulty ●●○ · 10 minutes. Write `read_tensor(content, name)`: the bytes of a whole safetensors file and a name ->
# the array. The types in our file are `"F16"` and `"I64"`.
#
# <details><summary>Hint 1</summary>The three steps are above: length, header, the bytes between the two
# offsets.</details>
# <details><summary>Hint 2</summary>In NumPy's spelling the types are <code>"&lt;f2"</code> and <code>"&lt;i8"</code>.
# </details>


# %% tags=["exercise"]
def read_tensor(content, name): ...  # your code


def check_read_tensor(function):
    for name, x in state.items():
        found = function(content, name)
        if found is None:
            return "not yet: nothing was returned"
        assert found.dtype == x.dtype and found.shape == x.shape, f"{name}: {found.dtype} {found.shape}"
        assert np.array_equal(found, x), f"{name}: the type and the shape are right, the numbers are not"
    return f"right: {len(state)} tensors"


check_read_tensor(read_tensor)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def read_tensor(content, name):
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    dtype = {"F16": "<f2", "I64": "<i8"}[entry["dtype"]]
    return np.frombuffer(content[begin:end], dtype).reshape(entry["shape"])


### END SOLUTION
check_read_tensor(read_tensor)

# %% [markdown]
# ## Exercise 11.2 · The slot
#
# Difficulty ●○○ · 10 minutes. Write `fold(pos_embed)`, which makes mmpose's positions (1, 192, C) of official ones
# (1, 193, C). Then look at what a program does that cuts row 0 off, as one that knows no class token may: draw the
# heatmaps with and without it.
#
# <details><summary>Hint 1</summary>Which row is it, and to which rows is it added?</details>
# <details><summary>Hint 2</summary><code>mvp.load</code> takes a mapping. With row 0 set to zeros it is as if it had
# been cut off.</details>


# %% tags=["exercise"]
def fold(pos_embed): ...  # your code


def check_fold(function):
    found = function(ours)
    if found is None:
        return "not yet: nothing was returned"
    assert found.shape == (1, 192, 96), f"expected (1, 192, 96), found {found.shape}"
    return "right" if np.allclose(found, theirs, atol=1e-6) else "not yet: the shape is right, the numbers are not"


check_fold(fold)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def fold(pos_embed):
    return pos_embed[:, 1:] + pos_embed[:, :1]


cut_off = dict(named["official"])
cut_off["backbone.pos_embed"] = ours * (np.arange(193) > 0)[:, None].astype(np.float32)
without = mvp.load(cut_off, "numpy")(images)
titles = ["as it should be", "without row 0", "the largest difference"]
maps = [expected[0].max(0), without[0].max(0), np.abs(without - expected)[0].max(0)]
display(figures.over_crop(example.crop, maps, titles, columns=3, height=260))
shift = np.linalg.norm(joints(without) - joints(expected), axis=-1)
teach.say(f"The joints move by {np.median(shift):.1f} pixels of the picture (median), at most by {shift.max():.1f}.")
### END SOLUTION
check_fold(fold)

# %% [markdown]
# ## Exercise 11.3 · A fifth set of names
#
# Difficulty ●●● · 20 minutes. Somebody ported ViTPose to another framework, where the weights of linear layers are
# stored as (inputs, outputs). Here are the names. Write `translate(strange)`, which gives the official mapping back.
# You are done when the model loads and its heatmaps have the same bits.
#
# <details><summary>Hint 1</summary>A table of beginnings, as <code>RULES</code> in
# <code>checkpoint/namings.py</code>, and <code>str.replace</code> do most of it.</details>
# <details><summary>Hint 2</summary><code>kernel</code> and <code>scale</code> both become <code>weight</code>. Only
# two-dimensional kernels are transposed.</details>
# <details><summary>Hint 3</summary>What is missing or left over, <code>refusal(translate(strange))</code>
# says.</details>

# %% tags=["exercise"]
STRANGE = {
    "backbone.patch_embed.proj": "vit/embed",
    "backbone.pos_embed": "vit/positions",
    "backbone.blocks.": "vit/layer_",
    ".norm1": "/ln_a",
    ".norm2": "/ln_b",
    ".attn.": "/self_attention/",
    ".mlp.fc1": "/dense_in",
    ".mlp.fc2": "/dense_out",
    "backbone.last_norm": "vit/ln_final",
    "keypoint_head.deconv_layers.": "decoder/",
    "keypoint_head.final_layer": "decoder/out",
}
strange = {}
for name, x in named["official"].items():
    is_norm = ".norm" in name or "last_norm" in name or "layers.1" in name or "layers.4" in name
    for old, new in STRANGE.items():
        name = name.replace(old, new)
    name = name.replace(".weight", "/scale" if is_norm else "/kernel").replace(".", "/")
    strange[name] = np.ascontiguousarray(x.T) if x.ndim == 2 else x
print(*list(strange)[:12], "...", *list(strange)[-6:], sep="\n")


def translate(strange): ...  # your code


def check_translate(function):
    found = function(dict(strange))
    if found is None:
        return "not yet: nothing was returned"
    said = refusal(found)
    if said != "loaded":
        return f"not yet: {said}"
    same = np.array_equal(mvp.load(found, "numpy")(images), expected)
    return "right" if same else "not yet: it loads, but the heatmaps are others"


check_translate(translate)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def translate(strange):
    found = {}
    for name, x in strange.items():
        for official, theirs in STRANGE.items():
            official = official.replace(".", "/")
            name = name.replace(theirs, official) if theirs != "decoder/" else name
        name = name.replace("decoder/", "keypoint_head/deconv_layers/")
        name = name.replace("/kernel", "/weight").replace("/scale", "/weight").replace("/", ".")
        found[name] = np.ascontiguousarray(x.T) if x.ndim == 2 else x
    return found


### END SOLUTION
check_translate(translate)

# %% [markdown]
# ## Exercise 11.4 · Would you open it?
#
# Difficulty ●●○ · 10 minutes. Four pickles. Write `names_in(pickled)`, which lists the names that a pickle would
# import, without loading it. Which of the four would you open?
#
# <details><summary>Hint 1</summary><code>pickletools.genops(pickled)</code> yields (instruction, argument, position)
# and obeys nothing.</details>
# <details><summary>Hint 2</summary>Protocol 2 has <code>GLOBAL</code>, whose argument is "module name". Protocol 4
# has <code>STACK_GLOBAL</code>, without an argument: module and name are the last two texts before it.</details>


# %% tags=["exercise"]
class Third:
    def __reduce__(self):
        return eval, ("1 + 1",)


suspects = {
    "A": pickle.dumps({"epoch": 3, "lr": 1e-3}, 4),
    "B": pickle.dumps({"weight": np.float32(2)}, 2),
    "C": pickle.dumps({"epoch": 3, "optimiser": Third()}, 4),
    "D": attack,
}


def names_in(pickled): ...  # your code


def check_names_in(function):
    found = {letter: function(pickled) for letter, pickled in suspects.items()}
    if any(names is None for names in found.values()):
        return "not yet: nothing was returned"
    wrong = []
    for letter, expected in {"A": set(), "B": {"scalar", "dtype"}, "C": {"eval"}, "D": {"system"}}.items():
        last = {str(name).replace(" ", ".").rsplit(".", 1)[-1] for name in found[letter]}
        if not expected <= last or bool(expected) != bool(last):
            wrong.append(letter)
    return "right" if not wrong else f"not yet: look at {', '.join(wrong)}"


check_names_in(names_in)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def names_in(pickled):
    texts, names = [], []
    for instruction, argument, _ in pickletools.genops(pickled):
        if instruction.name == "GLOBAL":
            names.append(argument.replace(" ", "."))
        elif instruction.name == "STACK_GLOBAL":
            names.append(".".join(texts[-2:]))
        elif "UNICODE" in instruction.name:
            texts.append(argument)
    return names


for letter, pickled in suspects.items():
    print(letter, names_in(pickled))
print("\nA imports nothing. B wants NumPy's scalars: harmless. C and D run what they like: open neither.")
### END SOLUTION
check_names_in(names_in)

# %% [markdown]
# ## Exercise 11.5 · A view
#
# Difficulty ●○○ · 5 minutes. A file describes a tensor of shape (384, 96) with offset 0 and strides (1, 384).
# Another has shape (3, 96), offset 192 and strides (288, 1). What are they, most likely? Write
# `element(storage, offset, stride, index)` and read them out of `line` to see.
#
# <details><summary>Hint</summary>The formula stands above. Compare with transposes and columns of ordinary
# arrays.</details>

# %% tags=["exercise"]
line = np.arange(384 * 96)


def element(storage, offset, stride, index): ...  # your code


def check_element(function):
    found = function(line, 0, (1, 384), (3, 2))
    if found is None:
        return "not yet: nothing was returned"
    right = found == line.reshape(96, 384).T[3, 2] and function(line, 192, (288, 1), (2, 5)) == 192 + 576 + 5
    return "right" if right else "not yet"


check_element(element)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def element(storage, offset, stride, index):
    return storage[offset + sum(i * step for i, step in zip(index, stride, strict=True))]


first = np.array([[element(line, 0, (1, 384), (i, j)) for j in range(96)] for i in range(384)])
second = np.array([[element(line, 192, (288, 1), (i, j)) for j in range(96)] for i in range(3)])
assert np.array_equal(first, line.reshape(96, 384).T)
assert np.array_equal(second, line[: 3 * 288].reshape(3, 288)[:, 192:])
print("the first is the transpose of a (96, 384) matrix, stored once")
print("the second is columns 192 to 287 of three rows of 288: the values, v, in the output of a qkv layer")
### END SOLUTION
check_element(element)

# %% [markdown]
# ## What to read next
#
# - `minivitpose/checkpoint/`: `unpickle.py` (the machine without calls), `torch_zip.py`, `safetensors.py`,
#   `namings.py`, `experts.py`, `fit.py` (strict loading); `docs/checkpoints.md` lists the public files.
# - On the command line: `minivitpose inspect FILE`, `minivitpose convert IN OUT --naming hf`.
# - The documentation of Python's `pickletools`, of PyTorch's `torch.load`, and the safetensors format.
# - Xu et al.: ViTPose++ (2022) for the experts.
# - Next: [12 · Find the planted bug](12_find_the_bug.ipynb).
