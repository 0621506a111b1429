# %% [markdown]
# # 14 · How it learns
#
# **After this notebook you can** say what the network is trained to do; write the derivative of each of its layers with
# the chain rule alone; check such a derivative by measuring; and train a small ViTPose yourself and see it learn.
#
# 40 minutes to read, 45 for the exercises. Needs: the layers themselves ([03](03_layer_norm.ipynb),
# [04](04_attention.ipynb), [06](06_block.ipynb), [08](08_decoder.ipynb)). Nothing is downloaded.

# %%
import inspect
from pathlib import Path

import numpy as np

from minivitpose import gradients, layers, synthetic, teach
from minivitpose.config import Config, parameter_shapes
from minivitpose.model import ViTPose
from minivitpose.parameters import flatten, is_learnt, nest, random_state_dict
from minivitpose.pose import COCO
from minivitpose.pose.encode import encode
from minivitpose.teach import figures
from minivitpose.training import heatmap_loss, heatmap_loss_backward, loss_and_gradients
from minivitpose.training.augment import flipped
from minivitpose.training.data import MARGIN, augmented, ready
from minivitpose.training.optimiser import AdamW, clip, orthogonalised
from minivitpose.training.schedule import schedule
from minivitpose.training.settings import Settings
from minivitpose.training.start import fresh

example = teach.example()
WRIST = COCO.keypoints.index("left_wrist")

# %% [markdown]
# ## What it should do, as a number
#
# For each joint there is a heatmap that the network should have given: a small bell around the true place, with the
# value 1 on top. `encode` draws it. How far is the network's own heatmap from it?

# %%
truth = example.people[example.person].keypoints  # (17, 3): x, y in the picture, visibility
targets, weights = encode(example.crop.from_picture(truth[:, :2]), truth[:, 2] > 0)
heatmaps = example.heatmaps[0]

assert heatmaps.shape == targets.shape == (17, 64, 48) and weights.shape == (17,)
names = ("the network's heatmap", "the target", "difference")
figures.errors(heatmaps[WRIST], targets[WRIST], "Left wrist", names, aspect="equal")

# %% [markdown]
# The **loss** is one number for all of it: the mean of the squared differences.
#
# $$ L = \frac{1}{B K H_m W_m} \sum_{b,k,i,j} \big( (h_{bkij} - t_{bkij})\, w_{bk} \big)^2 $$
#
# $h$ are the heatmaps, $t$ the targets, for $B$ crops, $K$ joints and $H_m \times W_m$ cells. $w_{bk}$ is the weight of
# a joint: 0 where nobody marked it, so that nothing is learnt there. Source: Xu et al., 2022 (their code's
# `JointsMSELoss`).

# %%
loss = np.mean(((heatmaps - targets) * weights[:, None, None]) ** 2)
assert np.isclose(loss, heatmap_loss(example.heatmaps, targets[None], weights[None]))

nothing = heatmap_loss(np.zeros_like(targets)[None], targets[None], weights[None])
teach.say(f"The loss of this crop is {loss:.5f}. Heatmaps of nothing but zeros would have {nothing:.5f}.")

# %% [markdown]
# ## A derivative is a question: if this number grew a little, would the loss grow?
#
# For the heatmaps the answer can be read off the formula. Each value is in one square only:
#
# $$ \frac{\partial L}{\partial h_{bkij}} = \frac{2\, (h_{bkij} - t_{bkij})\, w_{bk}^2}{B K H_m W_m} $$
#
# We ask the same by trying it: change one value, and see what the loss does.

# %%
exact = [a.astype(np.float64)[None] for a in (heatmaps, targets, weights)]
grad_heatmaps = heatmap_loss_backward(*exact)
place = 0, WRIST, *np.unravel_index(targets[WRIST].argmax(), targets[WRIST].shape)

higher = exact[0].copy()
higher[place] += 1e-4
change = (heatmap_loss(higher, *exact[1:]) - heatmap_loss(*exact)) / 1e-4
teach.say(
    f"One value, {1e-4:g} higher: the loss changes by {change:.3e} times as much; formula: {grad_heatmaps[place]:.3e}."
)

# %% [markdown]
# Training needs this answer for each **weight** of the network: then each takes a small step the other way, and the
# loss falls. Between a weight and the loss stand many layers. The chain rule takes them one at a time.
#
# ## The chain rule, with one number
#
# $y = w x + b$ and then $L = (y - t)^2$. The derivative by something early is the derivative by what comes next, times
# how much that changes with it:
#
# $$ \frac{dL}{dw} = \frac{dL}{dy} \cdot \frac{dy}{dw} = 2 (y - t) \cdot x $$

# %%
x, w, b, t = 2.0, 0.5, 0.1, 3.0


def one_number(x, w, b):
    return (w * x + b - t) ** 2


grad = 2 * (w * x + b - t)  # dL/dy: what comes from behind
by_rule = {"x": grad * w, "w": grad * x, "b": grad}
by_trying = {
    "x": (one_number(x + 1e-6, w, b) - one_number(x, w, b)) / 1e-6,
    "w": (one_number(x, w + 1e-6, b) - one_number(x, w, b)) / 1e-6,
    "b": (one_number(x, w, b + 1e-6) - one_number(x, w, b)) / 1e-6,
}
print("\n".join(f"dL/d{name}: rule {by_rule[name]:.5f}, tried {by_trying[name]:.5f}" for name in by_rule))

# %% [markdown]
# ## The chain rule, with arrays
#
# A linear layer has many such products: $y_{ni} = \sum_j W_{ij} x_{nj} + b_i$ for token $n$. Where a number has a part
# in many outputs, the loss changes in many ways, and they **add up**. `grad` is what comes from behind, of the shape of
# $y$.


# %%
def linear_backward_loops(x, grad, weight):
    grad_x, grad_weight, grad_bias = np.zeros_like(x), np.zeros_like(weight), np.zeros(len(weight))
    N, Cin = x.shape
    for n in range(N):
        for i in range(len(weight)):
            for j in range(Cin):
                grad_x[n, j] += grad[n, i] * weight[i, j]  # x[n, j] went into every y[n, i]
                grad_weight[i, j] += grad[n, i] * x[n, j]  # weight[i, j] served every token
            grad_bias[i] += grad[n, i]
    return grad_x, grad_weight, grad_bias


rng = np.random.default_rng(0)
x, weight, grad = rng.standard_normal((24, 16)), rng.standard_normal((8, 16)), rng.standard_normal((24, 8))
grad_x, grad_weight, grad_bias = linear_backward_loops(x, grad, weight)

# %% [markdown]
# Three sums over one letter each: three matrix products. The shapes leave hardly a choice.

# %%
assert np.allclose(grad_x, grad @ weight)  # (24, 8) (8, 16) -> (24, 16), as x
assert np.allclose(grad_weight, grad.T @ x)  # (8, 24) (24, 16) -> (8, 16), as weight
assert np.allclose(grad_bias, grad.sum(axis=0))  # (8,), as bias

print(inspect.getsource(gradients.linear_backward))

# %% [markdown]
# All of `gradients.py` has this form: what went into the layer, then `grad`, then the layer's other arguments. Out come
# the gradient by the input, to hand to the layer before, and the gradients of the parameters under their own names.

# %% [markdown]
# ## Exercise 14.1 · Linear, backwards
#
# Difficulty ●○○ · 5 minutes. Write `linear_backward` for any number of axes: x (..., Cin), grad (..., Cout). Return
# grad_x and a dict with `weight` and, unless bias is None, `bias`.
#
# <details><summary>Hint 1</summary><code>x.reshape(-1, Cin)</code> makes one row of each token of each image.</details>
# <details><summary>Hint 2</summary>The gradient by x needs no reshape: <code>@</code> takes any number of
# axes.</details>


# %% tags=["exercise"]
def linear_backward(x, grad, weight, bias): ...  # your code


teach.check("linear_backward", linear_backward)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def linear_backward(x, grad, weight, bias):
    rows = grad.reshape(-1, len(weight))
    found = {"weight": rows.T @ x.reshape(-1, x.shape[-1])}
    if bias is not None:
        found["bias"] = rows.sum(axis=0)
    return grad @ weight, found


### END SOLUTION
teach.check("linear_backward", linear_backward)

# %% [markdown]
# ## Softmax: every output depends on every input
#
# $y_i = e^{x_i} / \sum_k e^{x_k}$. All derivatives together are a matrix, the **Jacobian**:
#
# $$ J_{ij} = \frac{\partial y_i}{\partial x_j} = y_i (\delta_{ij} - y_j) $$
#
# $\delta_{ij}$ is 1 for $i = j$, else 0. If one score grows, its own share grows, and all others lose.

# %%
x = np.array([2.0, 1.0, 0.5, 0.0, -1.0])
y = layers.softmax(x)
jacobian = np.diag(y) - np.outer(y, y)

assert np.allclose(jacobian.sum(axis=0), 0) and np.allclose(jacobian.sum(axis=1), 0)
names = [f"{value:.2f}" for value in y]
figure = figures.numbers(jacobian, names, names, "The Jacobian of a softmax over five scores", width=560)
figure.axes[0].set_xlabel("the score that grows, named by its share", fontsize=9)
figure.axes[0].set_ylabel("the share that changes", fontsize=9)
figure

# %% [markdown]
# Rows and columns sum to 0: shares only move from one to another. Nobody builds this matrix for 192 tokens. Written
# out, $\sum_i g_i J_{ij} = y_j (g_j - \sum_i g_i y_i)$, which needs one sum.

# %%
grad = rng.standard_normal(5)
assert np.allclose(grad @ jacobian, y * (grad - (grad * y).sum()))
assert np.allclose(grad @ jacobian, gradients.softmax_backward(x, grad))

# %% [markdown]
# ## Exercise 14.2 · Softmax, backwards
#
# Difficulty ●○○ · 5 minutes. Write it along the last axis of x (..., N), without the matrix.
#
# <details><summary>Hint</summary><code>keepdims=True</code> in the sum.</details>


# %% tags=["exercise"]
def softmax_backward(x, grad): ...  # your code


teach.check("softmax_backward", softmax_backward)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def softmax_backward(x, grad):
    y = layers.softmax(x)
    return y * (grad - (grad * y).sum(axis=-1, keepdims=True))


### END SOLUTION
teach.check("softmax_backward", softmax_backward)

# %% [markdown]
# ## Layer norm: what two means take away
#
# With $n = (x - \mu) / \sigma$, $y = n w + b$ and $g = \text{grad} \cdot w$:
#
# $$ \frac{\partial L}{\partial x} =
# \frac{1}{\sigma} \Big( g - \operatorname{mean}(g) - n \operatorname{mean}(g\, n) \Big) $$
#
# Layer norm forgets where a token's mean is and how long it is. So a step in these two directions cannot change the
# loss, and the two means take them out of the gradient. With 3 channels this can be drawn: without its mean a token
# lies in a plane, and $n$ lies on a circle in it.


# %%
def arrows(axes, at, vectors, title):
    axes.quiver(*at.T, *vectors.T, angles="xy", color=figures.COLOURS[0], width=0.008)
    axes.plot(*at.T, "o", color=figures.COLOURS[1], markersize=4)
    axes.plot(np.cos(turn), np.sin(turn), "--", color="grey", linewidth=0.8)
    axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    figures.plain(axes, "one direction in the plane", "the other one", title)


turn = np.linspace(0, 2 * np.pi, 100)
angles, lengths = np.arange(12) * np.pi / 6, np.tile([0.7, 1.9], 6)
plane = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])  # two directions, both without a mean
x = (lengths * [np.cos(angles), np.sin(angles)]).T @ plane + 5.0
grad = np.tile([1.0, 0.3, -0.2], (12, 1))  # the same from behind for all tokens
back, _ = gradients.layer_norm_backward(x, grad, np.ones(3), np.zeros(3))

figure = figures.canvas(760, 400, "layer-norm-backward")
left, right = figure.subplots(1, 2)
arrows(left, x @ plane.T, grad @ plane.T, "Gradient from behind, its mean taken off")
arrows(right, x @ plane.T, back @ plane.T, "What layer norm hands on")
figure

# %% [markdown]
# Dots are tokens, arrows gradients. What is left runs along the circle: what points outwards is gone, and short tokens
# get longer arrows: the $1/\sigma$. The same for all 192 tokens of the model, whose 96 channels nobody can draw:

# %%
x = example.cache["backbone.pos"].astype(np.float64)
one, zero, grad = np.ones(96), np.zeros(96), rng.standard_normal(x.shape)
n = layers.layer_norm(x, one, zero)
back = {
    name: np.abs(gradients.layer_norm_backward(x, g, one, zero)[0]).max()
    for name, g in {"random": grad, "all ones": np.ones_like(x), "n itself": n}.items()
}
assert back["all ones"] < 1e-10 * back["random"] and back["n itself"] < 1e-3 * back["random"]
print("\n".join(f"gradient from behind {g:<9} largest number handed on {largest:.1e}" for g, largest in back.items()))

# %% [markdown]
# `n itself` leaves a little behind, because $\varepsilon$ under the root is not scaled with the token.

# %% [markdown]
# ## Exercise 14.3 · Layer norm, backwards
#
# Difficulty ●●○ · 10 minutes. Return grad_x and a dict with `weight` and `bias`, whose gradients are summed over all
# tokens.
#
# <details><summary>Hint 1</summary>Compute <code>n</code> and <code>std</code> again, as the forward pass
# does.</details>
# <details><summary>Hint 2</summary>The gradient by <code>weight</code> is the sum of <code>grad * n</code> over all
# axes but the last: <code>.reshape(-1, C).sum(axis=0)</code>.</details>


# %% tags=["exercise"]
def layer_norm_backward(x, grad, weight, bias, eps=1e-6): ...  # your code


teach.check("layer_norm_backward", layer_norm_backward)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def layer_norm_backward(x, grad, weight, bias, eps=1e-6):
    C = len(weight)
    centred = x - x.mean(axis=-1, keepdims=True)
    std = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    n, g = centred / std, grad * weight
    grad_x = (g - g.mean(axis=-1, keepdims=True) - n * (g * n).mean(axis=-1, keepdims=True)) / std
    return grad_x, {"weight": (grad * n).reshape(-1, C).sum(axis=0), "bias": grad.reshape(-1, C).sum(axis=0)}


### END SOLUTION
teach.check("layer_norm_backward", layer_norm_backward)

# %% [markdown]
# ## Attention: three ways back
#
# $S = q k^T / \sqrt d$, $P = \operatorname{softmax}(S)$, $z = P v$: two matrix products and a softmax. Each has been
# done above. With $g$ for what comes from behind, a product $z = P v$ gives $\partial L / \partial P = g v^T$ and
# $\partial L / \partial v = P^T g$.

# %%
q, k, v = (example.cache[f"backbone.blocks.0.attn.{name}"].astype(np.float64) for name in "qkv")
token = example.token_of("left_wrist")
grad = np.zeros_like(v)
grad[:, :, token] = rng.standard_normal(grad[:, :, token].shape)  # only this token's result matters to the loss

scale = q.shape[-1] ** -0.5
scores = scale * q @ k.swapaxes(-1, -2)
grad_v = layers.softmax(scores).swapaxes(-1, -2) @ grad
grad_scores = gradients.softmax_backward(scores, grad @ v.swapaxes(-1, -2))
grad_q, grad_k = scale * grad_scores @ k, scale * grad_scores.swapaxes(-1, -2) @ q

ours = grad_q, grad_k, grad_v
theirs = gradients.scaled_dot_product_attention_backward(q, k, v, grad)
assert all(np.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
sizes = [np.linalg.norm(a[0], axis=(0, 2)) for a in ours]
assert np.count_nonzero(sizes[0]) == 1
titles = ["as the one who asks (q)", "as the one who is asked (k)", "as the one who gives (v)"]
figures.over_crop(example.crop, sizes, titles, token, 3, 320, "One token's result: whose q, k and v get a gradient")

# %% [markdown]
# The loss looked at one token only, the marked one. Its own query gets a gradient, but keys and values get theirs
# wherever it looked. So through attention every token can learn what another one needs of it.

# %% [markdown]
# ## Exercise 14.4 · Attention, backwards
#
# Difficulty ●●● · 15 minutes. Go back through `proj`, the heads and `qkv`. x and grad (B, N, C); qkv and proj are dicts
# with `weight` and `bias`. Return grad_x and `{"qkv": {...}, "proj": {...}}`. Take from `layers` and `gradients` what
# you like.
#
# <details><summary>Hint 1</summary>Forwards first: q, k, v by <code>layers.split_heads(layers.linear(x, **qkv),
# num_heads)</code>, then z, which <code>proj</code> got.</details>
# <details><summary>Hint 2</summary><code>gradients.merge_heads_backward</code> and
# <code>gradients.split_heads_backward</code> put numbers where they came from.</details>


# %% tags=["exercise"]
def attention_backward(x, grad, qkv, proj, num_heads): ...  # your code


teach.check("attention_backward", attention_backward)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def attention_backward(x, grad, qkv, proj, num_heads):
    q, k, v = layers.split_heads(layers.linear(x, **qkv), num_heads)
    z = layers.merge_heads(layers.scaled_dot_product_attention(q, k, v))
    grad_z, grad_proj = gradients.linear_backward(z, grad, **proj)
    grad_z = gradients.merge_heads_backward(grad_z, num_heads)
    of_heads = gradients.scaled_dot_product_attention_backward(q, k, v, grad_z)
    grad_x, grad_qkv = gradients.linear_backward(x, gradients.split_heads_backward(*of_heads), **qkv)
    return grad_x, {"qkv": grad_qkv, "proj": grad_proj}


### END SOLUTION
teach.check("attention_backward", attention_backward)

# %% [markdown]
# ## GELU and ReLU: the slope at each number
#
# A function of single numbers multiplies the gradient by its slope there. ReLU's is 0 or 1: where it is 0, nothing is
# learnt. GELU's slope is smooth, and for some numbers negative.

# %%
x = np.linspace(-4, 4, 161)
curves = {
    "GELU": layers.gelu(x),
    "its slope": gradients.gelu_backward(x, np.ones_like(x)),
    "slope of ReLU": gradients.relu_backward(x, np.ones_like(x)),
}
assert curves["its slope"].min() < 0 < 1 < curves["its slope"].max()
figures.lines(x, curves, ("x", "value"), "What GELU lets pass backwards", height=260, width=560)

# %% [markdown]
# ## The head: batch norm looks at the whole batch
#
# In training, batch norm takes mean and variance of each channel over **all crops of the batch**, and moves its running
# statistics a tenth of the way towards them. Only these serve later. So in training one crop's result depends on its
# neighbours in the batch:

# %%
p = {"weight": np.ones(3), "bias": np.zeros(3), "running_mean": np.zeros(3), "running_var": np.ones(3)}
x = rng.standard_normal((2, 3, 4, 5))
y, statistics = gradients.batch_norm_training(x, **p)
other = np.stack([x[0], x[1] + 2.0])  # the second crop is another one
y_other, _ = gradients.batch_norm_training(other, **p)

assert np.allclose(statistics["running_mean"], 0.1 * x.mean(axis=(0, 2, 3)))
assert np.array_equal(layers.batch_norm(x, **p)[0], layers.batch_norm(other, **p)[0])  # later: each crop alone
teach.say(f"The first crop is the same, its result differs by up to {np.abs(y - y_other)[0].max():.2f}.")

# %% [markdown]
# Backwards it is layer norm again, with the means over batch and map instead of channels: moving or stretching a whole
# channel changes nothing, so these two directions are taken out.

# %%
grad = rng.standard_normal(x.shape)
back, _ = gradients.batch_norm_training_backward(x, grad, **p)
assert np.allclose(back.sum(axis=(0, 2, 3)), 0) and np.allclose((back * y).sum(axis=(0, 2, 3)), 0, atol=1e-3)

# %% [markdown]
# ## Exercise 14.5 · Batch norm in training, forwards
#
# Difficulty ●●○ · 10 minutes. Return y and a dict with the new `running_mean` and `running_var`. They differ in one
# point from what y is made with: the variance that is gathered has **Bessel's correction**, $n / (n - 1)$ with $n = B H
# W$.
#
# <details><summary>Hint 1</summary>The means are over <code>axis=(0, 2, 3)</code>.</details>
# <details><summary>Hint 2</summary><code>new = (1 - momentum) * old + momentum * found</code></details>


# %% tags=["exercise"]
def batch_norm_training(x, weight, bias, running_mean, running_var, eps=1e-5, momentum=0.1): ...  # your code


teach.check("batch_norm_training", batch_norm_training)


# %% tags=["solution"] jupyter={"source_hidden": true}
### BEGIN SOLUTION
def batch_norm_training(x, weight, bias, running_mean, running_var, eps=1e-5, momentum=0.1):
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    y = layers.batch_norm(x, weight, bias, mean, variance, eps=eps)
    n = x.size // x.shape[1]
    return y, {
        "running_mean": (1 - momentum) * running_mean + momentum * mean,
        "running_var": (1 - momentum) * running_var + momentum * variance * n / (n - 1),
    }


### END SOLUTION
teach.check("batch_norm_training", batch_norm_training)

# %% [markdown]
# ## A transposed convolution's way back is a convolution
#
# Forwards, each pixel stamps the kernel onto a larger map ([08](08_decoder.ipynb)). Backwards, it collects what comes
# from under its stamp, each cell times the kernel's value there. That is a convolution with the same kernel and stride.
# The name "transposed" says so: as matrices, one is the other's transpose, and $\langle A x, g \rangle = \langle x, A^T
# g \rangle$.

# %%
x, kernel = rng.standard_normal((1, 6, 16, 12)), rng.standard_normal((6, 5, 4, 4))
grad = rng.standard_normal((1, 5, 32, 24))
back = layers.conv2d(grad, kernel, stride=2, padding=1)

assert np.allclose(back, gradients.conv_transpose2d_backward(x, grad, kernel, None, 2, 1)[0])
assert np.isclose((layers.conv_transpose2d(x, kernel, None, 2, 1) * grad).sum(), (x * back).sum())
back.shape

# %% [markdown]
# ## All the way back
#
# Now the layers in reverse, with the loss of one joint alone. Which tokens does it reach? `block_backward` is the chain
# rule once more: along the residual connection the gradient passes as it is, and what comes through the branches is
# added.

# %%
p, cache, only_wrist = example.params, example.cache, (np.arange(17) == WRIST)[None].astype(np.float32)
grad = heatmap_loss_backward(example.heatmaps, targets[None], only_wrist)
grad, _ = gradients.keypoint_head_backward(cache["backbone"], grad, **p["keypoint_head"], batch=False)
inputs = ["backbone.pos"] + [f"backbone.blocks.{i}" for i in range(8)]  # of blocks 0 to 7 and of the last norm
grad, _ = gradients.layer_norm_backward(cache[inputs[8]], layers.to_tokens(grad), **p["backbone"]["last_norm"])
reached = [grad]
for i in reversed(range(8)):
    grad, _ = gradients.block_backward(cache[inputs[i]], grad, p["backbone"]["blocks"][str(i)], num_heads=3)
    reached.append(grad)

sizes = [np.linalg.norm(g[0], axis=-1) for g in reached]
powers = [np.log10(np.maximum(size / size.max(), 1e-3)) for size in sizes]
titles = ["before the last norm"] + [f"before block {i}" for i in reversed(range(8))]
title = "Gradient of the left wrist's loss at each token, as powers of ten of the largest (-3: a thousandth or less)"
figures.over_crop(example.crop, powers, titles, token, 5, 260, title, "gradient-flow")

# %%
reach = [(size > 0.01 * size.max()).mean() for size in sizes]
teach.say(
    f"Tokens that get more than a hundredth of the largest gradient: {reach[0]:.0%} before the last norm, "
    f"{reach[1]:.0%} before the last block, {reach[-1]:.0%} before the first. What these tokens hold changes this "
    "wrist's heatmap."
)

# %% [markdown]
# ## Is it right? Measure the slope
#
# A derivative can be checked without knowing how it was made: move the input by $h$ along a direction $d$ and back, and
# compare.
#
# $$ \frac{L(x + h d) - L(x - h d)}{2 h} \approx \sum \frac{\partial L}{\partial x}\, d $$
#
# How small should $h$ be? Both ends are wrong: a large $h$ sees the curve instead of the slope (error grows as $h^2$),
# with a small one the difference drowns in rounding (error grows as $1/h$).


# %%
def slope_errors(layer, back, dtype):
    """The relative error of the measured slope for each step size: root mean squares over four random directions."""
    off, true = np.zeros((4, len(steps))), np.zeros((4, 1))
    for row, d in enumerate(np.random.default_rng(1).standard_normal((4, *x.shape))):
        X, D, H = x.astype(dtype), d.astype(dtype), steps.astype(dtype)
        true[row] = (back * d).sum()
        for i, h in enumerate(H):
            rise = ((layer(X + h * D) - layer(X - h * D)) * grad).sum() / (2 * float(h))
            off[row, i] = rise - true[row, 0]
    return np.sqrt((off**2).mean(axis=0) / (true**2).mean())


def cast(p, dtype):
    return nest({name: w.astype(dtype) for name, w in flatten(p).items()})


def gradient_check(dtype):
    """Both layers of the first block, computed in dtype, beside their derivatives in float64."""
    norm, attn = (cast(example.block[part], dtype) for part in ("norm1", "attn"))
    of_norm, _ = gradients.layer_norm_backward(x, grad, **cast(norm, np.float64))
    of_attn, _ = gradients.attention_backward(x, grad, **cast(attn, np.float64), num_heads=3)
    return {
        f"layer norm, {dtype}": slope_errors(lambda X: layers.layer_norm(X, **norm), of_norm, dtype),
        f"attention, {dtype}": slope_errors(lambda X: layers.attention(X, **attn, num_heads=3), of_attn, dtype),
    }


x, steps = cache["backbone.pos"][:, 60:108].astype(np.float64), np.logspace(0, -11, 23)
grad = rng.standard_normal(x.shape)
found = gradient_check("float32") | gradient_check("float64")

figure = figures.lines(steps, found, ("step h", "relative error of the slope"), "The gradient check", True, 340, 700)
figure.axes[0].set_xscale("log")
figure

# %%
best = {name: steps[errors.argmin()] for name, errors in found.items()}
assert found["layer norm, float64"].min() < 1e-7 and found["attention, float64"].min() < 1e-7
assert all(found[f"{layer}, float32"].min() > found[f"{layer}, float64"].min() for layer in ("layer norm", "attention"))
teach.say(
    "Best steps: " + "; ".join(f"{name} {h:.0e} (error {found[name].min():.0e})" for name, h in best.items()) + "."
)

# %% [markdown]
# Each curve is a V. In float64 there is room between the two evils, in float32 hardly. So derivatives are checked in
# float64, and the step is taken near the bottom of the V.
#
# ## The whole model, checked
#
# The same for single parameters of a whole network, a very small one with random weights, so that no layer is trivial.

# %%
tiny = Config(16, 2, 2, image_size=(64, 48), deconv_filters=(8, 8))
params = nest(random_state_dict(parameter_shapes(tiny), seed=3))
model = ViTPose(params, tiny, engine="numpy")
images = rng.standard_normal((2, 3, 64, 48))
wanted = rng.standard_normal((2, 17, *tiny.heatmap_size)), np.ones((2, 17))
loss, grads, _ = loss_and_gradients(model, images, *wanted)

names = [
    "backbone.patch_embed.proj.weight",
    "backbone.pos_embed",
    "backbone.blocks.0.attn.qkv.weight",
    "backbone.blocks.1.mlp.fc1.bias",
    "backbone.last_norm.weight",
    "keypoint_head.deconv_layers.0.weight",
    "keypoint_head.deconv_layers.1.weight",
    "keypoint_head.final_layer.weight",
]

# %%
lines = [f"{'parameter':<41}{'by rule':>12}{'measured':>12}{'difference':>12}"]
for name in names:
    weight, by_rule = flatten(params)[name].reshape(-1), flatten(grads)[name].reshape(-1)
    i, was = len(weight) // 2, weight[len(weight) // 2]
    losses = []
    for value in (was + 1e-5, was - 1e-5):
        weight[i] = value
        losses.append(loss_and_gradients(model, images, *wanted)[0])
    weight[i] = was
    measured = (losses[0] - losses[1]) / 2e-5
    assert abs(measured - by_rule[i]) < 1e-5 * np.abs(by_rule).max()
    lines.append(f"{name:<41}{by_rule[i]:12.6f}{measured:12.6f}{abs(measured - by_rule[i]):12.0e}")
print("\n".join(lines))

# %% [markdown]
# Measuring takes two forward passes for each parameter. The way back gives all of them at once. What does it cost? Here
# for the bundled model, compiled:

# %%
fast = example.model.with_engine("fast")
race = teach.race(
    {
        "forwards": lambda: fast(example.images),
        "forwards and back": lambda: loss_and_gradients(fast, example.images, targets[None], weights[None]),
    }
)
race

# %%
count = sum(w.size for name, w in example.model.state_dict().items() if is_learnt(name))
teach.say(
    f"{count:,} derivatives in {race.times('forwards and back', 'forwards'):.1f} times the time of one forward pass. "
    f"To measure them would take {2 * count:,} forward passes. That is why networks can be trained at all."
)

# %% [markdown]
# ## A step down
#
# **Gradient descent** takes a step against the gradient: $\theta \leftarrow \theta - \eta\, g$, with the **learning
# rate** $\eta$. **AdamW** keeps two running means, of the gradient ($m$) and of its square ($v$), and divides:
#
# $$ m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
# \theta \leftarrow (1 - \eta \lambda)\, \theta - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon} $$
#
# $\hat m = m / (1 - \beta_1^t)$ and $\hat v = v / (1 - \beta_2^t)$ make up for the start at 0 ($t$ counts the steps);
# $\lambda$ pulls the weights to 0 a little. So each number has its own step size. In a narrow valley that helps:


# %%
def descend(curvature, point, optimiser, rate, count=60):
    """The points passed on the way down 1/2 p C p."""
    point = point.copy()
    adam, path = AdamW({"point": point}, depth=0), [point.copy()]
    for _ in range(count):
        gradient = curvature @ point
        if optimiser == "AdamW":
            adam.step({"point": gradient}, rate)
        else:
            point -= rate * gradient
        path.append(point.copy())
    return np.array(path)


def draw_valley(axes, turn, title):
    curvature, start = turn @ np.diag([1.0, 50.0]) @ turn.T, turn @ [-1.8, 1.1]
    X, Y = np.meshgrid(np.linspace(-2.4, 2.4, 90), np.linspace(-2.4, 2.4, 90))
    P = np.stack([X, Y], axis=-1)
    axes.contour(X, Y, np.sqrt((P @ curvature * P).sum(-1)), levels=12, colors="#BBBBBB", linewidths=0.7)
    for i, (name, rate) in enumerate({"gradient descent": 0.038, "AdamW": 0.1}.items()):
        path = descend(curvature, start, name, rate)
        label = f"{name}, ends {np.linalg.norm(path[-1]):.2f} from the lowest point"
        style = {"color": figures.COLOURS[i], "linestyle": figures.DASHES[i], "marker": "os"[i], "markersize": 2.5}
        axes.plot(*path.T, linewidth=1.2, label=label, **style)
    figures.plain(axes, "parameter 1", "parameter 2", title)
    axes.legend(fontsize=8.5, loc="lower left")
    axes.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4))


c = np.sqrt(0.5)
figure = figures.canvas(880, 430, "valley")
axes = figure.subplots(1, 2)
draw_valley(axes[0], np.eye(2), "A valley along one parameter")
draw_valley(axes[1], np.array([[c, -c], [c, c]]), "The same valley, turned")
figure

# %% [markdown]
# 60 steps each. Plain descent must take small steps, or it leaps ever higher between the walls; so it creeps along the
# floor. AdamW first goes equally fast both ways, and then swings a little, because its mean $m$ remembers. Turned,
# plain descent does the same as before. AdamW does not: its step sizes belong to the single parameters, and no single
# one lies along the valley.
#
# ## Muon: a matrix as a whole
#
# The gradient of a weight matrix is large in a few directions (singular vectors) and small in all others. Muon makes
# them alike: of $G = U S V^T$ it takes about $U V^T$, by a few matrix products instead of a decomposition. Source:
# Jordan et al., 2024.

# %%
_, grads, _ = loss_and_gradients(example.model, example.images, targets[None], weights[None])
G = grads["backbone"]["blocks"]["2"]["attn"]["proj"]["weight"]
before = np.linalg.svd(G, compute_uv=False) / np.linalg.norm(G)
after = np.linalg.svd(orthogonalised(G[None])[0], compute_uv=False)

assert G.shape == (96, 96) and (after[before > 0.02] > 0.6).all() and after.max() < 1.25
figures.lines(
    np.arange(1, 97),
    {"gradient (its norm is 1)": before, "orthogonalised, as Muon steps": after},
    ("number of the direction, by size", "singular value"),
    "Gradient of blocks.2.attn.proj.weight, one crop",
    log=True,
)

# %%
share = np.cumsum(before**2)
teach.say(
    f"The first {np.searchsorted(share, 0.9) + 1} of 96 directions hold nine tenths of the squared gradient. After it "
    f"{(after > 0.5).sum()} directions have a singular value above a half."
)

# %% [markdown]
# ## What it learns from
#
# The bundled model has never seen a photograph. Its world is drawn: people of cones and boxes, whose joints are known
# exactly. Filled marks are visible joints, hollow ones are hidden; blue circles are the person's left, orange squares
# the right.


# %%
def show_joints(axes, pixels, keypoints, title=""):
    axes.imshow(pixels)
    for (x, y, seen), side in zip(keypoints, COCO.sides, strict=True):
        if seen:
            colour, shape = {"left": ("#56B4E9", "o"), "right": ("#E69F00", "s"), "middle": ("#F0F0F0", "^")}[side]
            fill = "full" if seen == 2 else "none"
            axes.plot(x, y, shape, markersize=4, color=colour, markeredgewidth=1, fillstyle=fill)
    axes.set(xlim=(-0.5, pixels.shape[1] - 0.5), ylim=(pixels.shape[0] - 0.5, -0.5))
    figures.bare(axes, title)


SIZE = (128, 96)  # a quarter of the usual pixels, so that the training below is short
pixels, keypoints, *_ = synthetic.batch(14, 384, size=SIZE)
new_pixels, new_keypoints, *_ = synthetic.batch(14, 64, split="val", size=SIZE)  # shares no scene with the first
wide, wide_keypoints, *_ = synthetic.batch(14, [4], size=tuple(round(MARGIN * n) for n in SIZE), margin=MARGIN)

figure, axes = figures.grid(21, 7, 165, title="Two rows of mannequins; below, one of them, changed at random six times")
for i in range(14):
    show_joints(axes[i], pixels[i], keypoints[i])
show_joints(axes[14], pixels[4], keypoints[4], "as it is")
middle, config = np.array(wide.shape[2:0:-1]) - 1, Config(64, 2, 4, image_size=SIZE, deconv_filters=(32, 32))
for i in range(15, 21):
    changed = augmented(
        np.random.default_rng(i), wide[0], middle / 2, middle / MARGIN, wide_keypoints[0], COCO, Settings(), config
    )
    show_joints(axes[i], *changed, "changed")
figure

# %% [markdown]
# **Augmentation** turns, scales, mirrors and recolours a crop, another way each time; the keypoints move along. So the
# network does not see the same numbers twice and cannot learn them by heart. What happens without it?
#
# ## Training, live
#
# A small ViTPose, from new weights. The loop is all there is to training: batch, loss and gradients, step. Three
# helpers are in it. `fresh` draws the first weights: positions begin as waves, and keys like queries
# ([docs/training.md](../docs/training.md#what-a-new-model-starts-with)). `clip` shortens the gradients, together one
# long vector, to length 1 if they are longer, so that one odd batch cannot throw the weights away. `schedule` lets the
# rate rise over the first 20 steps, while the optimiser's means are still of few gradients, and then fall along half
# a cosine.

# %%
assert config.grid == (8, 6) and config.heatmap_size == (32, 24)


def train(images, targets, weights, steps, batch, rate=2e-3, seed=1):
    """Yields after each step: its number, the loss, the gradients (flat) and the model."""
    params = fresh(config, seed)
    flat, optimiser, rng = flatten(params), AdamW(params, config.depth), np.random.default_rng(seed)
    for step in range(1, steps + 1):
        chosen = rng.permutation(len(images))[:batch]
        model = ViTPose(params, config)
        loss, grads, statistics = loss_and_gradients(model, images[chosen], targets[chosen], weights[chosen])
        grads = flatten(grads)
        clip(grads)
        optimiser.step(grads, rate * schedule(step - 1, steps, warm_up=20))
        for name, x in flatten(statistics).items():
            flat[name][...] = x
        yield step, loss, grads, params


# %% [markdown]
# Three things to compare: it learns **8 crops**; it learns **768 crops** (384 and their mirror images); and, without
# any network, the **mean heatmap**: the same answer for everybody. New crops, 64 of them, are never learnt from.

# %%
mirrored = flipped(pixels, keypoints, COCO.flip_index)
many = ready(np.concatenate([pixels, mirrored[0]]), np.concatenate([keypoints, mirrored[1]]), COCO, config)
few, new = tuple(a[:8] for a in many), ready(new_pixels, new_keypoints, COCO, config)
mean = (many[1] * many[2][..., None, None]).sum(axis=0) / many[2].sum(axis=0)[:, None, None]
baseline = heatmap_loss(mean, *new[1:])


def follow(pool, steps, batch, every, moments, shown):
    """Train, and note: losses, losses on new crops, the root mean square of each parameter's gradient, heatmaps."""
    log = {"loss": [], "at": [], "new": [], "gradients": [], "heatmaps": []}
    for step, loss, grads, params in train(*pool, steps, batch):
        log["loss"].append(loss)
        log["gradients"].append({name: np.sqrt(np.mean(g * g)) for name, g in grads.items()})
        if step % every == 0 or step in moments:
            model = ViTPose(params, config)
            log["at"].append(step)
            log["new"].append(heatmap_loss(model(new[0]), *new[1:]))
            if step in moments:
                log["heatmaps"].append(model(shown))
    return log


shown = np.concatenate([few[0][4:5], new[0][3:4]])  # one that is learnt, one that is not
by_heart = follow(few, 200, 8, 10, (1, 40, 80, 120, 200), shown)
in_general = follow(many, 480, 16, 20, (1, 60, 120, 240, 480), shown)

# %%
path = Path("../docs/mini-log.csv")  # the training of the bundled model; not in an installed package
table = np.genfromtxt(path, delimiter=",", names=True) if path.exists() else None

figure = figures.canvas(900, 330, "loss-curves")
axes = figure.subplots(1, 2 if table is None else 3)
for ax, log, title in zip(axes, (by_heart, in_general), ("8 crops", "768 crops"), strict=False):
    smooth = np.convolve(log["loss"], np.ones(8) / 8, "valid")
    ax.plot(np.arange(8, len(log["loss"]) + 1), smooth, color=figures.COLOURS[0], label="what it learns from")
    ax.plot(log["at"], log["new"], "--", color=figures.COLOURS[1], label="new crops")
    ax.axhline(baseline, color="black", linestyle=":", label="mean heatmap, on new crops")
    figures.plain(ax, "step", "loss", f"Learning {title}", log=True)
    ax.set_ylim(2e-4, 4e-2)
axes[1].legend(fontsize=8.5, frameon=False, loc="lower left")
if table is not None:
    known = np.isfinite(table["validation_loss"])
    axes[2].plot(table["step"], table["loss"], color=figures.COLOURS[0])
    axes[2].plot(table["step"][known], table["validation_loss"][known], "--o", color=figures.COLOURS[1], markersize=3)
    figures.plain(axes[2], "step", "loss", "The bundled model", log=True)
    axes[2].set_xticks((0, 20_000, 40_000))
figure

# %%
learnt, unseen = np.mean(by_heart["loss"][-8:]), by_heart["new"][-1]
assert learnt < 0.2 * baseline < unseen and in_general["new"][-1] < unseen
teach.say(
    f"Eight crops: {learnt:.5f} on them, but {unseen:.5f} on new ones, against {baseline:.5f} of the mean heatmap. It "
    f"knows them by heart and nothing else. 768 crops: {np.mean(in_general['loss'][-8:]):.5f} on them and "
    f"{in_general['new'][-1]:.5f} on new ones."
)

# %% [markdown]
# The bundled model saw many more crops, each changed at random, for much longer. (Its crops have four times the pixels,
# so its losses cannot be compared with the others.) Where both curves stay together, what is learnt holds for new
# crops, too. The leaps up are where it was trained on: at a high rate again, at first on scenes that it had not met.
# After the second leap, half of what it learns from is harder than the new crops, so the solid line is the higher one.
# After each leap the new crops are others, after the last one the hardest.
#
# ## What it sees while it learns
#
# The highest of five heatmaps at each place: nose, wrists, ankles. First on a crop that is learnt by heart, then on a
# new one.

# %%
rows = [(by_heart, 0, pixels[4]), (by_heart, 1, new_pixels[3]), (in_general, 1, new_pixels[3])]
five = [i for i, name in enumerate(COCO.keypoints) if name.endswith(("nose", "wrist", "ankle"))]
texts = ["by heart, learnt crop", "by heart, new crop", "768 crops, new crop"]
figure, axes = figures.grid(
    18, 6, 215, title="Heatmaps of nose, wrists and ankles during training (dark: 0, bright: 0.7 and more)"
)
for row, (log, which, crop_pixels) in enumerate(rows):
    axes[6 * row].imshow(crop_pixels)
    figures.bare(axes[6 * row], texts[row])
    moments = (1, 40, 80, 120, 200) if log is by_heart else (1, 60, 120, 240, 480)
    for ax, found, step in zip(axes[6 * row + 1 :], log["heatmaps"], moments, strict=False):
        ax.imshow(found[which][five].max(axis=0), vmin=0, vmax=0.7, cmap=figures.VALUES)
        figures.bare(ax, f"step {step}")
figure

# %% [markdown]
# ## Who learns how much
#
# The size of the gradients, layer by layer, in the second training. AdamW divides by just this size, so layers with
# small gradients learn as fast as the others.

# %%
groups = [
    "backbone.patch_embed",
    "backbone.blocks.0",
    "backbone.blocks.1",
    "keypoint_head.deconv_layers.0.",
    "keypoint_head.final_layer",
]
curves = {}
for group in groups:
    of_group = [[size for name, size in sizes.items() if name.startswith(group)] for sizes in in_general["gradients"]]
    curves[group.rstrip(".")] = np.convolve(np.sqrt(np.mean(np.square(of_group), axis=1)), np.ones(15) / 15, "valid")
steps = np.arange(15, 481)
figure = figures.lines(steps, curves, ("step", "root mean square"), "Gradient of one number, by layer", True, 340, 760)
figure.axes[0].set_ylim(1e-6, 5e-2)
figure.axes[0].legend(fontsize=8.5, frameon=False, ncols=2, loc="upper right")
figure

# %% [markdown]
# ## In earnest
#
# The whole of it, with checkpoints, validation, drop path and a mean over the weights, is one command. Stopped at any
# moment, it goes on where it was, and ends with the same bits:
#
# ```
# minivitpose train --config docs/mini.toml --out runs/mini        # as the bundled model was trained
# minivitpose train --out runs/mine --weights vitpose-b-coco.pth \
#     --annotations people.json --images pictures --keypoints 5    # on from a checkpoint, with other keypoints
# ```
#
# ## What to read next
#
# - `minivitpose/gradients.py` beside `layers.py`: every derivative, with its formula. `training/backward.py`: in
#   reverse order.
# - `docs/training.md`: all settings. `kernels/gradients/`: the same derivatives, compiled.
# - Rumelhart, Hinton, Williams: Learning representations by back-propagating errors (1986). Loshchilov, Hutter:
#   Decoupled weight decay regularization (2019). Ioffe, Szegedy: Batch normalization (2015).
# - Next: [15 · Looking inside](15_looking_inside.ipynb).
