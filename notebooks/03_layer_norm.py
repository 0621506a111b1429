# %% [markdown]
# # 03 · Layer norm
#
# **After this notebook you can** say what layer norm does to a token, and why; write it in loops, in NumPy and
# compiled; and find the two common mistakes in it.
#
# 25 minutes to read, 20 for the exercises. Needs: what a token is ([02](02_positions.ipynb)). Nothing is downloaded.

# %%
import math

import numpy as np

from minivitpose import kernels, layers, teach
from minivitpose.teach import figures

example = teach.example()
x = example.cache["backbone.pos"]  # (1, 192, 96): the tokens as the first block gets them
weight, bias = example.block["norm1"]["weight"], example.block["norm1"]["bias"]

assert x.shape == (1, 192, 96) and weight.shape == bias.shape == (96,)
x.shape, weight.shape, bias.shape

# %% [markdown]
# ## Why
#
# A network adds and multiplies numbers many times over. If some tokens are large and some are small, the large ones
# drown the small ones in every sum. Are they of different size here?

# %%
mean, std = x[0].mean(axis=-1), x[0].std(axis=-1)
figures.over_crop(
    example.crop, [mean, std], ["mean of a token's 96 numbers", "their standard deviation"], columns=2, height=300
)

# %%
teach.say(
    f"The largest token has a standard deviation of {std.max():.2f}, the smallest {std.min():.2f}: "
    f"**{std.max() / std.min():.1f} times** as much."
)

# %% [markdown]
# ## The formula
#
# For one token $x$ with $C$ numbers:
#
# $$ \mu = \frac1C \sum_c x_c, \qquad \sigma^2 = \frac1C \sum_c (x_c - \mu)^2, \qquad
# y_c = \frac{x_c - \mu}{\sqrt{\sigma^2 + \varepsilon}}\, w_c + b_c $$
#
# Each token is treated alone. $w$ (`weight`) and $b$ (`bias`) were learnt, one pair a channel, the same for all tokens.
# $\varepsilon = 10^{-6}$ keeps the root away from zero. Source: Ba, Kiros and Hinton, 2016.

# %% [markdown]
# ## In loops
#
# The formula, number by number. Slow, and nothing is hidden.


# %%
def layer_norm_loops(x, weight, bias, eps=1e-6):
    y = np.empty_like(x)
    B, N, C = x.shape
    for b in range(B):
        for n in range(N):
            token = x[b, n]
            mean = sum(token) / C
            variance = sum((value - mean) ** 2 for value in token) / C
            for c in range(C):
                y[b, n, c] = (token[c] - mean) / math.sqrt(variance + eps) * weight[c] + bias[c]
    return y


slow = layer_norm_loops(x, weight, bias)
teach.against_reference("backbone.blocks.0.norm1", slow)

# %% [markdown]
# The table compares 1024 of its numbers with what PyTorch computed for the same picture with the same weights.
#
# ## In NumPy
#
# `keepdims=True` keeps the last axis as one of length 1, so that `(1, 192, 96) - (1, 192, 1)` subtracts each token's
# own mean. This is all of `layers.layer_norm`:

# %%
import inspect

print(inspect.getsource(layers.layer_norm))

# %%
steps = {"x": x, "x - mean": x - x.mean(axis=-1, keepdims=True)}
steps["/ std"] = steps["x - mean"] / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
steps["* weight + bias"] = steps["/ std"] * weight + bias
assert np.allclose(steps["/ std"].mean(-1), 0, atol=1e-5) and np.allclose(steps["/ std"].std(-1), 1, atol=1e-3)

figure = figures.canvas(900, 240, "steps")
for i, (axes, (name, y)) in enumerate(zip(figure.subplots(1, 4), steps.items(), strict=True)):
    axes.hist(y.ravel(), bins=80, color=figures.COLOURS[i])
    figures.plain(axes, "value", "" if i else "how many of 18,432", f"{name}: std {y.std():.1f}")
figure

# %% [markdown]
# After the third line every token has mean 0 and standard deviation 1. The last step then gives each **channel** its
# own size again, but one that was learnt.
#
# ## Compiled
#
# The same loops, compiled by Numba: one pass over each token while it is in the processor's nearest cache.

# %%
teach.race(
    {
        "loops in Python": lambda: layer_norm_loops(x, weight, bias),
        "NumPy": lambda: layers.layer_norm(x, weight, bias),
        "Numba": lambda: kernels.layer_norm(x, weight, bias),
    }
)

# %% [markdown]
# ## What two common mistakes cost
#
# **Unbiased variance**: dividing by $C - 1$, as statisticians do. **Wrong eps**: PyTorch's own default is $10^{-5}$,
# ViTPose's $10^{-6}$. Neither is easy to see in a picture.


# %%
def rms(y):
    return float(np.sqrt(np.mean((y - exact) ** 2)))


exact = layers.layer_norm(x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64))
centred = x - x.mean(axis=-1, keepdims=True)
unbiased = centred / np.sqrt(x.var(axis=-1, keepdims=True, ddof=1) + 1e-6) * weight + bias
found = {
    "float32, right": rms(layers.layer_norm(x, weight, bias)),
    "float32, eps 1e-5": rms(layers.layer_norm(x, weight, bias, eps=1e-5)),
    "float32, divided by C - 1": rms(unbiased),
}
assert found["float32, divided by C - 1"] > 1000 * found["float32, right"]
figures.bars(found, "root mean square error against float64", "An error has a size", log=True)

# %%
right, other, divided = found.values()
teach.say(
    f"Dividing by $C - 1$ costs {divided / right:,.0f} times as much as rounding, the other $\\varepsilon$ "
    f"{other / right:.1f} times: against variances from {std.min() ** 2:.0f} to {std.max() ** 2:.0f} it drowns in "
    f"float32's rounding. It would show in float64, and in tokens that are nearly constant."
)

# %% [markdown]
# ## Exercise 3.1 · Write it
#
# Difficulty ●○○ · 5 minutes. Write `layer_norm` yourself, without loops.
#
# <details><summary>Hint 1</summary>The mean over the last axis: <code>x.mean(axis=-1, keepdims=True)</code>.</details>
# <details><summary>Hint 2</summary>The variance is the mean of the squares of what is left after the mean is taken
# off.</details>


# %% tags=["exercise"]
def layer_norm(x, weight, bias, eps=1e-6): ...  # your code


teach.check("layer_norm", layer_norm)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def layer_norm(x, weight, bias, eps=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


### END SOLUTION
teach.check("layer_norm", layer_norm)

# %% [markdown]
# ## Exercise 3.2 · Break it
#
# Difficulty ●●○ · 5 minutes. Change one thing in your function and let `teach.check` tell you what you did. Can you
# make a mistake that it does not name?

# %% [markdown]
# ## Exercise 3.3 · What it forgets
#
# Difficulty ●●● · 10 minutes. Layer norm throws two numbers of each token away. Show that `5 * token + 3` comes out as
# `token` does. For which tokens is this not quite true, and why?
#
# <details><summary>Hint</summary>Look at a token that is nearly constant, and at what eps does to it.</details>

# %% tags=["exercise"]
# your code

# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
one, zero = np.ones(96), np.zeros(96)
usual = x[0, :1].astype(np.float64)
nearly_constant = 7 + 1e-3 * usual
for name, token in {"a usual token": usual, "a nearly constant one": nearly_constant}.items():
    change = layers.layer_norm(5 * token + 3, one, zero) - layers.layer_norm(token, one, zero)
    print(f"{name}: largest change {np.abs(change).max():.1e}")
### END SOLUTION

# %% [markdown]
# ## What to read next
#
# - `minivitpose/kernels/norm.py`: the compiled one, and `kernels/fused/norm.py`, which never writes the result to
#   memory.
# - Ba, Kiros, Hinton: Layer normalization (2016). Xiong et al.: On layer normalization in the transformer architecture
#   (2020): why it stands before attention and MLP here ([06](06_block.ipynb)).
# - Next: [04 · Attention](04_attention.ipynb).
