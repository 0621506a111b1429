# %% [markdown]
# # 12 · Comparing with the reference: find the planted bug
#
# **After this notebook you can** find one wrong line among 147 activations: walk to the first divergence, tell an
# error that a layer makes from one that it was handed, read from a picture what kind of mistake it is, and decide
# whether a small difference is rounding or a bug.
#
# 40 minutes to read, 70 for the exercises. Needs: what rounding is, and how activations are compared
# ([07](07_backbone.ipynb)). Nothing is downloaded.

# %%
import codecs
import itertools
import types

import numpy as np
from IPython.display import display

import minivitpose as mvp
from minivitpose import layers, teach
from minivitpose.teach import figures
from minivitpose.trace import Reference, sample_of

example = teach.example()
model, images = example.model, example.images
params = model.state_dict()

assert len(example.cache) == 147 and model.engine == "numpy"

# %% [markdown]
# ## Why
#
# Everybody who writes a network anew, or brings it to another framework, ends here: it runs, and the numbers are not
# quite those of the original. One line of a thousand is wrong. To learn the search, somebody must hide a mistake
# first.
#
# `planted` makes the bundled model with some functions of `layers.py` exchanged for others. All functions get a copy
# in which they call each other, so that an exchanged one is really used; the package itself stays as it is.


# %%
def planted(params="mini", **changes):
    """The bundled model, or one with these parameters, with other functions under the given names."""
    names = dict(vars(layers))
    for name, f in vars(layers).items():
        if isinstance(f, types.FunctionType) and f.__module__ == layers.__name__:
            names[name] = types.FunctionType(f.__code__, names, name, f.__defaults__)
    names |= changes
    suspect = mvp.load(params, "numpy")
    suspect.ops = types.SimpleNamespace(**names)
    return suspect


runs = {}


def run(suspect, dtype="float32"):
    """Every activation of a suspect for the crop, by name; each suspect runs once in each dtype."""
    if (suspect, dtype) not in runs:
        _, runs[suspect, dtype] = suspect.astype(dtype).run_with_cache(images.astype(dtype))
    return runs[suspect, dtype]


heatmaps = "keypoint_head.final_layer"
assert np.array_equal(run(planted())[heatmaps], example.heatmaps)  # nothing exchanged, nothing changed

# %% [markdown]
# The next cell plants six mistakes, and you will look for them. So that nobody reads them by accident, it is written
# in rot13, each letter moved on by 13 places. A folded cell at the end has it in plain letters.

# %% tags=["mystery"] jupyter={"source_hidden": true}
SEALED = """
gheaf = vgregbbyf.plpyr([Snyfr, Gehr, *[Snyfr] * 6])


qrs svefg(k, cbf_rzorq):
    erghea k + cbf_rzorq[:, 1:]


qrs frpbaq(k, jrvtug, ovnf, ehaavat_zrna, ehaavat_ine, ahz_ongpurf_genpxrq=Abar, rcf=1r-5):
    erghea ynlref.ongpu_abez(k, jrvtug, ovnf, ehaavat_zrna, ehaavat_ine, rcf=100 * rcf)


qrs guveq(k):
    erghea 0.5 * k * (1 + ac.gnau((2 / ac.cv) ** 0.5 * (k + 44715r-6 * k**3)))


qrs sbhegu(k, ahz_urnqf):
    d, x, i = ynlref.fcyvg_urnqf(k, ahz_urnqf)
    erghea (x, d, i) vs arkg(gheaf) ryfr (d, x, i)


qrs svsgu(k, jrvtug, ovnf=Abar, fgevqr=2, cnqqvat=0, bhgchg_cnqqvat=0):
    erghea ynlref.pbai_genafcbfr2q(k, jrvtug[:, :, ::-1, ::-1], ovnf, fgevqr, cnqqvat, bhgchg_cnqqvat)


qrs fvkgu(k):
    fvtavsvpnaq, rkcbarag = ac.serkc(k)
    erghea ac.yqrkc(ac.ebhaq(fvtavsvpnaq * 256) / 256, rkcbarag).nfglcr(k.qglcr)


fcbvyg = "onpxobar.oybpxf.5.ngga.cebw.jrvtug"
zlfgrel = {
    "N": cynagrq(nqq_cbfvgvbaf=svefg),
    "O": cynagrq(ongpu_abez=frpbaq),
    "P": cynagrq(tryh=guveq),
    "Q": cynagrq(fcyvg_urnqf=sbhegu),
    "R": cynagrq(pbai_genafcbfr2q=svsgu),
    "S": cynagrq(cnenzf | {fcbvyg: fvkgu(cnenzf[fcbvyg])}),
}
"""
mystery = {}  # letter -> model
exec(codecs.decode(SEALED, "rot13"))

# %%
maps = [run(suspect)[heatmaps][0].max(0) for suspect in mystery.values()]
titles = [f"model {letter}" for letter in mystery]
figures.over_crop(example.crop, [*maps, example.heatmaps[0].max(0)], [*titles, "the right one"], columns=7, height=210)

# %% [markdown]
# One or two may look broken, but others nobody would suspect. All six are wrong.
#
# ## A reference that is whole
#
# The bundled recording of PyTorch holds 1024 numbers of each activation: enough to find **where**, too few to see
# **what**. So here the reference is made in the notebook, by the textbook in float64, after checking that this is
# PyTorch's truth. (With PyTorch installed, `minivitpose.reference.record` makes a whole one of PyTorch's own.)

# %%
values, truth = example.cache, run(model, "float64")
assert mvp.compare(truth, example.reference).ok

inputs = {name: x.astype(np.float64) for name, x in values.items()}
_, alone = model.astype("float64").run_with_cache(images.astype(np.float64), replace=inputs)
reference = Reference(dict(values), dict(truth), dict(alone), images=images).gather_facts()

# %% [markdown]
# `values` is the float32 run, `truth` the float64 run, `alone` what each layer makes in float64 of the float32 run's
# own inputs.
#
# ## Two ways to search
#
# The first suspect is an open one: one of the 96 numbers of a bias was forgotten, in the second norm of block 4.

# %%
bias = "backbone.blocks.4.norm2.bias"
largest = np.abs(params[bias]).argmax()
forgotten = planted(params | {bias: np.where(np.arange(96) == largest, np.float32(0), params[bias])})
cache = run(forgotten)
names = list(reference)

# %% [markdown]
# **By halves.** Look at the middle one of the 147. If it is good, the mistake lies behind it, else before it or in it.


# %%
def is_bad(cache, name):
    return not teach.against_reference(name, cache[name], reference).ok


low, high = 0, len(names) - 1
while low < high:
    middle = (low + high) // 2
    bad = is_bad(cache, names[middle])
    print(f"{names[middle]:35} {'bad' if bad else 'good'}")
    low, high = (low, middle) if bad else (middle + 1, high)
assert names[low] == "backbone.blocks.4.norm2"
print("found:", names[low])

# %% [markdown]
# At most eight looks instead of 147. It is the way when each look is expensive, because somebody must write an
# activation out of another program by hand.
#
# **In order.** With all activations at hand, `compare` walks from the image on and stops at the first that diverges.
# It is safer, too: exercise 12.5 shows where the halves go wrong.

# %%
report = mvp.compare(cache, reference)
assert report.first_divergence.name == "backbone.blocks.4.norm2"
teach.say("<br>".join(report.verdict()))

# %% [markdown]
# ## Alone and in the chain
#
# Behind the first bad activation everything is bad, for it computes with bad numbers. That says nothing about those
# layers. So each layer is also run **alone**, fed the reference's input. Only a layer that is wrong itself is wrong
# then:


# %%
def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def error(cache, against):
    """Root mean square error of each activation, relative to its size."""
    return np.array([rms(cache[name] - against[name]) / rms(against[name]) for name in names])


def stations(axes, first="patches", block="block "):
    """Marks and names the stations of the network along the x axis."""
    labels = [first, *(f"{block}{i}" for i in range(model.config.depth)), "", "head"]
    starts = [i for i, name in enumerate(names) if name.endswith(("norm1", "last_norm", "deconv_layers.0"))]
    for start in starts:
        axes.axvline(start - 0.5, color="#999999", linewidth=0.6)
    axes.set_xticks((np.array([0, *starts]) + np.array([*starts, len(names)]) - 1) / 2, labels, fontsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-1, len(names))


def along(curves, title, height=320):
    """Errors along the network, each {name: 147 numbers}; the rounding of the right float32 run is the floor."""
    floor = {"rounding, float32": error(values, truth)}
    shown = {text: np.where(y > 0, y, np.nan) for text, y in (floor | curves).items()}
    figure = figures.lines(range(147), shown, ("", "rms error, relative"), title, log=True, height=height, width=900)
    stations(figure.axes[0])
    figure.axes[0].get_legend().remove()
    figure.legend(loc="outside lower center", frameon=False, fontsize=8.5, ncols=4)
    return figure


_, by_itself = forgotten.run_with_cache(images, replace=dict(values))
along({"in the chain": error(cache, truth), "alone": error(by_itself, alone)}, "One forgotten bias")

# %% [markdown]
# (Gaps in the curve *alone* are copies, which have no error at all.) The spike is the mistake; the plateau behind it
# is what became of it. If a layer is bad in the chain and good alone, go back: the error came in before.
#
# ## What kinds of mistakes look like
#
# The place is known; now the kind. Three pictures of the first bad activation tell most of it: **where** in the array
# the error is, ours **against** the expected numbers, and how it goes on **along** the network. Four open mistakes:


# %%
def repeated_border(images, weight, bias=None, stride=None, padding=None, ratio=1):
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")  # should be zeros
    return layers.conv2d(padded, weight, bias, 16, 0)


def unscaled(q, k, v, qk_scale=None, tap=layers.keep):
    return layers.scaled_dot_product_attention(q, k, v, 1.0, tap)  # should be 1 / sqrt(d)


def transposed_grid(x, grid):
    B, N, C = x.shape
    return x.transpose(0, 2, 1).reshape(B, C, *grid[::-1]).swapaxes(2, 3)  # should be reshape(B, C, *grid)


open_mistakes = {
    "the border is repeated": planted(patch_embed=repeated_border),
    "one bias is forgotten": forgotten,
    "the scale is missing": planted(scaled_dot_product_attention=unscaled),
    "the grid is transposed": planted(to_map=transposed_grid),
}


# %%
def first_bad(suspect):
    """(name of the first activation that diverges, all that the suspect computed)"""
    cache = run(suspect)
    return next(name for name in names if is_bad(cache, name)), cache


def where(axes, off):
    """|error| as a picture: tokens x channels, or the mean over heads or channels of a map."""
    picture = np.abs(off[0])
    picture = picture.mean(0) if picture.ndim == 3 else picture
    axes.imshow(picture, cmap=figures.VALUES, aspect="auto", interpolation="nearest")
    axes.tick_params(labelsize=8)


def against(axes, ours, expected):
    """Ours against expected, some of the elements."""
    some = sample_of(ours.size, 3000)
    x, y = expected.ravel()[some], ours.ravel()[some]
    axes.plot([x.min(), x.max()], [x.min(), x.max()], color="#999999", linewidth=1)
    axes.plot(x, y, ".", color=figures.COLOURS[0], markersize=2.5)


# %%
figure = teach.canvas(900, 920, "kinds-of-mistakes")
grid = figure.subplots(4, 3, width_ratios=[1, 1, 1.5])
for row, (title, suspect) in zip(grid, open_mistakes.items(), strict=True):
    name, found = first_bad(suspect)
    where(row[0], found[name] - truth[name])
    against(row[1], found[name], truth[name])
    row[2].semilogy(error(found, truth), color=figures.COLOURS[1], linewidth=1.4)
    row[2].semilogy(error(values, truth), "--", color=figures.COLOURS[0], linewidth=1)
    figures.plain(row[1], "expected", "ours")
    figures.plain(row[2], "", "rms error")
    stations(row[2], "", "")
    row[0].set_title(f"{title}:\n|error| in {name.removeprefix('backbone.')}", fontsize=9, loc="left")
grid[0, 2].set_title("blocks 0 to 7, head (dashed: rounding)", fontsize=9, loc="left")
figure

# %% [markdown]
# | what you see | what it often is |
# |---|---|
# | an error at the border alone | padding, cropping, an index that is off by one |
# | one channel, or one head | a parameter that was lost, or that belongs to another |
# | a straight line with another slope | a factor: a missing scale, another eps, a norm left out |
# | the same numbers in another order, no line at all | a transpose, a reshape in the wrong order, heads first |
# | a bent line | another function than the one that was trained with |
# | a line with a thin cloud around it, everywhere | low precision, in the weights or in the sums |
#
# A shuffle has a test of its own: sorted, both arrays are equal.

# %%
name, found = first_bad(open_mistakes["the grid is transposed"])
assert np.allclose(np.sort(found[name], axis=None), np.sort(values[name], axis=None), atol=1e-5)
some = {"ours": found[name], "expected": values[name], "difference": found[name] - values[name]}
figures.histograms(some, title=f"{name}: the same numbers, at other places", bins=np.linspace(-4, 4, 81))

# %% [markdown]
# ## Rounding or bug?
#
# Two suspects more. One is right, and sums backwards. The other has another eps in its layer norms, $10^{-12}$
# instead of $10^{-6}$: this is what happens when the weights of one project are loaded by another's code
# ([11](11_checkpoint.ipynb)). Which is which?


# %%
def backwards(x, weight, bias=None):
    y = x[..., ::-1] @ weight[:, ::-1].T
    return y if bias is None else y + bias


suspects = {"sums backwards": planted(linear=backwards), "eps is 1e-12": mvp.load("mini", "numpy", eps=1e-12)}
for title, suspect in suspects.items():
    found = error(run(suspect), values)
    teach.say(
        f"**{title}**, in float32: {np.count_nonzero(found)} of {len(found)} activations differ from those of the "
        f"right run, the worst by {found.max():.0e} of its size."
    )

# %% [markdown]
# So float32 accuses the one that is right, and acquits the one that is wrong: its mistake, a hundred-millionth, is
# smaller than a float32's last digit.
#
# **Run both in float64.** Rounding shrinks by a factor of $2^{29}$, more than eight decimal digits, since float64 has
# 29 binary digits more. A mistake stays as large as it is.

# %%
curves = {}
for title, suspect in suspects.items():
    for dtype, right in (("float32", values), ("float64", truth)):
        off = error(run(suspect, dtype), right)
        curves[f"{title}, {dtype}{'' if off.any() else ' (no difference at all)'}"] = off
assert curves["sums backwards, float64"].max() < 1e-12 < 1e-9 < curves["eps is 1e-12, float64"].max()
along(curves, "The difference from the right run of the same type: rounding falls, a mistake stays", height=400)

# %%
for title, suspect in suspects.items():
    report = mvp.compare(run(suspect, "float64"), reference)
    teach.say(f"**{title}**: {report.verdict()[0]}")
    assert report.ok == (title == "sums backwards")

# %% [markdown]
# So the order of the search is: walk in float32, which shows large mistakes at once. If all that is left is small,
# rerun in float64.
#
# ## Solved: model A
#
# **Where?**

# %%
cache = run(mystery["A"])
report = mvp.compare(cache, reference)
teach.say("<br>".join(report.verdict()))

# %% [markdown]
# The patches are right, the tokens with their positions are not, and the layer is wrong alone, too. **What kind?**
# Ours, expected and their difference, tokens down and channels across:

# %%
name = "backbone.pos"
assert report.first_divergence.name == name
figures.errors(
    cache[name][0],
    truth[name][0],
    f"{name}: the difference is the same for every token",
    ("ours", "expected", "difference"),
)

# %% [markdown]
# Stripes: each channel is off by its own number, and by the same in all 192 tokens. Something is not added that
# depends on the channel alone. What adds things to tokens here? The positions, one row a token, and slot 0 of the
# class token, the same for all ([02](02_positions.ipynb)):

# %%
off = (cache[name] - truth[name])[0]
assert np.allclose(off, off[:1], atol=1e-4) and np.allclose(off[0], -params["backbone.pos_embed"][0, 0], atol=1e-4)

# %% [markdown]
# The difference is slot 0, with a minus. **Is it the function or its input?** `teach.check` tests one function by
# itself, on small arrays, and knows the usual mistakes:

# %%
teach.check("positions", mystery["A"].ops.add_positions)

# %% [markdown]
# **Done** means: the mistake can be made again, and its numbers are the same, everywhere. So plant it, and compare:


# %%
def same(mine, letter):
    """Whether your planted model computes what the mystery does: in float64, every activation."""
    if mine is None:
        return "not yet: no model was planted"
    a, b = (run(suspect, "float64") for suspect in (mine, mystery[letter]))
    off = [name for name in names if np.abs(a[name] - b[name]).max() > 1e-9 * np.abs(b[name]).max()]
    return (
        f"not yet: the first difference is at {off[0]}" if off else f"right: this is model {letter}, in all activations"
    )


def without_slot(x, pos_embed):
    return x + pos_embed[:, 1:]


same(planted(add_positions=without_slot), "A")

# %% [markdown]
# ## Solved: model B
#
# Nobody sees it in the heatmaps. **Where?**

# %%
cache = run(mystery["B"])
report = mvp.compare(cache, reference)
name = report.first_divergence.name
assert name == "keypoint_head.deconv_layers.1"
teach.say("<br>".join(report.verdict()))

# %% [markdown]
# The first batch norm of the head. **What kind?** Against each other the numbers lie on a line, nearly. In each of
# the 64 channels the line has a slope of its own, a little below 1. A batch norm scales a channel by
# $w / \sqrt{\mathit{var} + \varepsilon}$, so look at what is missing from a slope of 1 against the channel's
# variance:

# %%
cache64 = run(mystery["B"], "float64")
p = model.params["keypoint_head"]["deconv_layers"]["1"]
ours, right = ((c[name][0] - p["bias"][:, None, None]).reshape(64, -1) for c in (cache64, truth))
slope = (ours * right).sum(-1) / (right * right).sum(-1)

figure = teach.canvas(640, 280, "slope-of-each-channel")
axes = figure.subplots()
axes.plot(p["running_var"], 1 - slope, "o", color=figures.COLOURS[0], markersize=4)
title = "The smaller the variance, the more is missing"
figures.plain(axes, "running_var of the channel", "1 - slope", title, log=True)
figure

# %% [markdown]
# A constant is added to the variance that should not be there. Each channel tells which:
# $\text{slope}^2 = (\mathit{var} + 10^{-5}) / (\mathit{var} + \varepsilon)$.

# %%
variance = p["running_var"].astype(np.float64)
eps = (variance + 1e-5) / slope**2 - variance
assert np.allclose(eps, 1e-3, rtol=1e-5)
teach.say(f"Solved for eps: {eps.min():.6f} in one channel, {eps.max():.6f} in another. It should be 0.00001.")


# %%
def wide_batch_norm(x, eps=1e-3, **p):
    return layers.batch_norm(x, **p, eps=eps)


same(planted(batch_norm=wide_batch_norm), "B")

# %% [markdown]
# In the exercises you do the same: find where, find what, plant it again until `same` says that it is the same. All
# tools are above: `compare`, `error`, `along`, `where`, `against`, `run`, `teach.check`.

# %% [markdown]
# ## Exercise 12.1 · Model C
#
# Difficulty ●○○ · 10 minutes. Find the mistake, and plant it.
#
# <details><summary>Hint 1</summary>Once you know the layer, do not draw ours against the expected output, but the
# error against the layer's <b>input</b>.</details>
# <details><summary>Hint 2</summary>The error depends on the input alone, and has a smooth curve. So it is another
# function, close to the right one.</details>
# <details><summary>Hint 3</summary>Many papers and libraries have an approximation of GELU, with tanh in
# it.</details>

# %% tags=["exercise"]
mine = None  # planted(name_of_a_layer=your_function)

same(mine, "C")

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
cache = run(mystery["C"])
report = mvp.compare(cache, reference)
teach.say("<br>".join(report.verdict()))

x, off = cache["backbone.blocks.0.mlp.fc1"], cache["backbone.blocks.0.mlp.act"] - truth["backbone.blocks.0.mlp.act"]
some = sample_of(x.size, 4000)
figure = teach.canvas(640, 260, "error-against-input")
axes = figure.subplots()
axes.plot(x.ravel()[some], off.ravel()[some], ".", color=figures.COLOURS[0], markersize=2.5)
figures.plain(axes, "input of the layer", "error of its output", "The error is a function of the input: another GELU")
axes.set_xlim(-6, 6)
display(figure, teach.check("gelu", mystery["C"].ops.gelu))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


mine = planted(gelu=tanh_gelu)
### END SOLUTION
same(mine, "C")

# %% [markdown]
# ## Exercise 12.2 · Model D
#
# Difficulty ●●○ · 15 minutes. Find the mistake, and plant it.
#
# <details><summary>Hint 1</summary>What comes before is right, and what comes out has a right shape and a usual size.
# Is it perhaps right, and the wrong thing?</details>
# <details><summary>Hint 2</summary>Compare what you found with <b>other</b> activations of the reference, not only
# with the one of the same name.</details>
# <details><summary>Hint 3</summary>It is in one of the eight blocks only. A function that does something different in
# every eighth call can ask <code>next(turns)</code> with <code>turns = itertools.cycle([False] * 7 + [True])</code>;
# for another block the True stands elsewhere.</details>

# %% tags=["exercise"]
mine = None  # planted(name_of_a_layer=your_function)

same(mine, "D")

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
cache = run(mystery["D"])
report = mvp.compare(cache, reference)
teach.say("<br>".join(report.verdict()))

figure = teach.canvas(900, 300, "which-is-which")
at = "backbone.blocks.1.attn"
for axes, (ours, expected) in zip(figure.subplots(1, 4), itertools.product("qk", "qk"), strict=True):
    against(axes, cache[f"{at}.{ours}"], truth[f"{at}.{expected}"])
    figures.plain(axes, f"expected {expected}", f"our {ours}")
display(figure)
assert np.allclose(cache[f"{at}.q"], truth[f"{at}.k"], atol=1e-3)

my_turns = itertools.cycle([False, True, *[False] * 6])


def keys_first(x, num_heads):
    q, k, v = layers.split_heads(x, num_heads)
    return (k, q, v) if next(my_turns) else (q, k, v)


mine = planted(split_heads=keys_first)
### END SOLUTION
same(mine, "D")

# %% [markdown]
# ## Exercise 12.3 · Model E
#
# Difficulty ●●○ · 15 minutes. Find the mistake, and plant it.
#
# <details><summary>Hint 1</summary>The sum over all pixels of a channel is nearly what it should be. So what each
# pixel gives away is right in sum, and goes to the wrong places.</details>
# <details><summary>Hint 2</summary>Feed both layers a map that is 1 in one pixel and 0 elsewhere
# (<code>mystery["E"].ops</code> has the functions), and draw what comes out.</details>
# <details><summary>Hint 3</summary>Turn one of the two pictures by 180 degrees.</details>

# %% tags=["exercise"]
mine = None  # planted(name_of_a_layer=your_function)

same(mine, "E")

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
cache = run(mystery["E"])
report = mvp.compare(cache, reference)
teach.say("<br>".join(report.verdict()))

point = np.zeros((1, 96, 5, 5), np.float32)
point[0, 0, 2, 2] = 1
weight = params["keypoint_head.deconv_layers.0.weight"]
stamps = [ops.deconv(point, weight)[0, 0, 2:8, 2:8] for ops in (mystery["E"].ops, layers)]
titles = ["ours", "expected", "ours, turned by 180 degrees"]
display(figures.tiles([*stamps, stamps[0][::-1, ::-1]], titles, columns=3, height=220, limits="signed"))
display(teach.check("conv_transpose2d", mystery["E"].ops.conv_transpose2d))


def turned(x, weight, bias=None, stride=2, padding=0, output_padding=0):
    return layers.conv_transpose2d(x, weight[..., ::-1, ::-1], bias, stride, padding, output_padding)


mine = planted(conv_transpose2d=turned)
### END SOLUTION
same(mine, "E")

# %% [markdown]
# ## Exercise 12.4 · Model F
#
# Difficulty ●●● · 20 minutes. Find the mistake, and plant it. No function is wrong this time.
#
# <details><summary>Hint 1</summary>Ours against expected is a line with a thin cloud around it. Rerun it in float64:
# does the cloud go away? Is any layer but the first bad one wrong alone?</details>
# <details><summary>Hint 2</summary>If the code is right, a parameter is not. You can look at
# <code>mystery["F"].params</code>, or, as with another program, solve for the weight: 192 inputs and outputs are
# enough for a matrix of 96 x 96 (<code>np.linalg.lstsq</code>, in float64).</details>
# <details><summary>Hint 3</summary>How many binary digits does each number of that weight have? <code>np.frexp</code>
# takes a number apart: <code>significand * 2**n</code> is whole if n digits are enough.</details>

# %% tags=["exercise"]
mine = None  # planted(params | {name: another_array})

same(mine, "F")

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
cache, cache64 = run(mystery["F"]), run(mystery["F"], "float64")
_, by_itself = mystery["F"].run_with_cache(images, replace=dict(values))
curves = {"in the chain": error(cache, truth), "alone": error(by_itself, alone)}
curves["in the chain, float64"] = error(cache64, truth)
display(along(curves, "Model F: one layer is wrong alone, and float64 changes nothing"))

at = "backbone.blocks.5.attn"
y = cache64[f"{at}.proj"][0] - params[f"{at}.proj.bias"]
solved = np.linalg.lstsq(cache64[f"{at}.z"][0], y)[0].T
significand, _ = np.frexp(solved)
file_significand, _ = np.frexp(params[f"{at}.proj.weight"])
left = [np.abs(x * 2**8 - np.round(x * 2**8)).max() for x in (significand, file_significand)]
teach.say(
    f"Significands times $2^8$ differ from whole numbers by at most {left[0]:.1e} in the weight solved for, by "
    f"{left[1]:.2f} in the file's. So somebody rounded it to 8 binary digits, which is bfloat16."
)


def rounded(x, digits=8):
    significand, exponent = np.frexp(x)
    return np.ldexp(np.round(significand * 2**digits) / 2**digits, exponent).astype(x.dtype)


mine = planted(params | {f"{at}.proj.weight": rounded(params[f"{at}.proj.weight"])})
### END SOLUTION
same(mine, "F")

# %% [markdown]
# ## Exercise 12.5 · Where the halves go wrong
#
# Difficulty ●●○ · 10 minutes. Write the search by halves as a function `halves(bad)`: `bad` is a list of 147
# booleans in the order of execution -> the number of the first bad one, looking at no more than 8 of them. Then run it
# on all six models and compare with the walk. For one it names another activation. Which, and why?
#
# <details><summary>Hint 1</summary>The loop stands above.</details>
# <details><summary>Hint 2</summary>The search takes for granted that behind the first bad activation all are
# bad.</details>


# %% tags=["exercise"]
def halves(bad): ...  # your code


class Looks(list):
    """A list that counts how often somebody looks."""

    count = 0

    def __getitem__(self, i):
        self.count += 1
        return super().__getitem__(i)


def check_halves(function):
    for first in range(147):
        bad = Looks([i >= first for i in range(147)])
        found = function(bad)
        if found is None:
            return "not yet: nothing was returned"
        assert found == first, f"the first bad one is {first}, found {found}"
        assert bad.count <= 8, f"looked {bad.count} times"
    return "right: at most 8 looks"


check_halves(halves)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def halves(bad):
    low, high = 0, len(bad) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if bad[middle] else (middle + 1, high)
    return low


for letter, suspect in mystery.items():
    cache = run(suspect)
    bad = [is_bad(cache, name) for name in names]
    print(f"{letter}: the walk finds {names[bad.index(True)]}, the halves {names[halves(bad)]}")
print("\nIn model D q and k are wrong, and v, which is computed beside them, is right. The halves look at v and go on.")
### END SOLUTION
check_halves(halves)

# %% [markdown]
# ## In pairs
#
# One plants a mistake with `planted`, and hands over only the model: `suspect(images)`, `suspect.run_with_cache`. The
# other finds it, and fills in a row of this table. Then change places. Good ones to plant: the MLP's input taken
# before the norm, the last norm forgotten, the residual added twice, positions of a transposed grid, an image in BGR.
#
# | planted | first divergence | wrong alone? | what it looked like | stays in float64? | minutes |
# |---|---|---|---|---|---|
# | | | | | | |
#
# ## All six on one page
#
# When you are done: the errors of the six models along the network. Where a curve leaves the floor, there the mistake
# is. How far it rises says how bad it is, and whether a picture could have shown it.

# %%
curves = {f"model {letter}": error(run(suspect), truth) for letter, suspect in mystery.items()}
assert all(curve[-1] > 10 * error(values, truth)[-1] for curve in curves.values())
along(curves, "Six mistakes, from the image to the heatmaps", height=420)

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
print(codecs.decode(SEALED, "rot13"))
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/compare.py`: the walk. `minivitpose/trace.py`: what a reference holds. `minivitpose/reference.py`:
#   how PyTorch is recorded.
# - `tests/test_compare.py` of the project: mistakes that are planted to test the search itself.
# - `docs/mistakes.md`: the mistakes that `teach.check` knows. On the command line: `minivitpose compare`.
# - Zeller: Why programs fail, on searching by halves.
# - Next: [13 · Making it fast](13_fast.ipynb).
