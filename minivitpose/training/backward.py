"""The loss of a batch and its derivative by every parameter: model.forward in training, and then in reverse.

Here it is written with the textbook's gradients; models of the engines "numba" and "fast" take the compiled pass of
training/fast.py where that has their network, and this one elsewhere.
"""

import numpy as np

from minivitpose import gradients as g
from minivitpose import layers
from minivitpose.model import check_images, positions
from minivitpose.training.loss import heatmap_loss, heatmap_loss_backward


class TrainingError(ValueError):
    """These arrays or options do not make a training step; the message says what was expected and what was found."""


def loss_and_gradients(
    model, images, targets, target_weight, *, drop_path=0.0, rng=None, batch_norm="batch", precision="float32"
):
    """One batch: (loss, gradients, statistics).

    images (B, 3, H, W), targets (B, K, Hm, Wm), target_weight (B, K), all of the model's dtype. drop_path: the rate of
    the last block; it grows linearly from 0 at the first (ViTPose: S 0.1, B 0.3, L 0.5, H 0.55). rng: a NumPy
    Generator or a seed, needed with drop_path: the same gives the same drops with every engine.
    precision: "bf16" multiplies in bfloat16 and sums in float32, where the compiled pass has the network.
    batch_norm: "batch" normalises by the batch, "running" by the running statistics and leaves them (fine-tuning).

    loss: float, see heatmap_loss. gradients: nested as model.params, of the same dtype, without the statistics of
    batch norm. statistics: these, nested in the same way: running_mean, running_var and num_batches_tracked after this
    batch; empty for "running". The model itself is not changed.
    Raises TrainingError for shapes, dtypes, values or options that do not fit, and ValueError for images as model does.
    """
    check_images(images, model.config, model.dtype)
    check_targets(model, images, targets, target_weight)
    if batch_norm not in ("batch", "running"):
        raise TrainingError(f"batch_norm must be 'batch' or 'running', not {batch_norm!r}")
    if precision not in ("float32", "bf16"):
        raise TrainingError(f"precision must be 'float32' or 'bf16', not {precision!r}")
    drops = draw_drops(model, len(images), drop_path, rng)
    batch = batch_norm == "batch"
    if model.engine != "numpy":
        from minivitpose.training import fast  # importing Numba takes a while: only who needs it waits

        if fast.supports(model):
            return fast.loss_and_gradients(model, images, targets, target_weight, drops, batch, precision == "bf16")
    if precision == "bf16":
        raise TrainingError("precision 'bf16' is for float32 models that the compiled pass has: train in float32")
    return textbook(model, images, targets, target_weight, drops, batch)


def draw_drops(model, batch, rate, rng):
    """What each block's two branches are multiplied by, for each image: (depth, 2, B, 1, 1)."""
    shape = (model.config.depth, 2, batch, 1, 1)
    if not rate:
        return np.ones(shape, model.dtype)
    if not 0 < rate < 1 or rng is None:
        raise TrainingError(f"drop_path needs a rate of at least 0 and below 1, and rng=; found {rate} and {rng}")
    rng, rates = np.random.default_rng(rng), g.drop_path_rates(model.config.depth, rate)
    return np.stack([g.drop_mask(shape[1:], rate, rng, model.dtype) for rate in rates])


def textbook(model, images, targets, target_weight, drops, batch):
    """loss_and_gradients with the functions of layers.py and gradients.py."""
    params, config = model.params, model.config
    inputs, x, grid = backbone_training(images, params["backbone"], config, drops)
    loss, grad, grad_norm, grad_head, statistics = head_step(x, grid, params, config, targets, target_weight, batch)
    grad_backbone = backbone_backward(images, grad, params["backbone"], config, drops, inputs, grid)
    gradients = {"backbone": grad_backbone | {"last_norm": grad_norm}, "keypoint_head": grad_head}
    return loss, like(gradients, params), {"keypoint_head": statistics} if batch else {}


def head_step(x, grid, params, config, targets, target_weight, batch):
    """Forwards from the tokens before the last norm to the loss, and back to them.

    -> loss, grad_x (B, N, C), the gradients of the last norm, those of the head, the new running statistics.
    """
    norm, head = params["backbone"]["last_norm"], params["keypoint_head"]
    x_map = layers.to_map(layers.layer_norm(x, **norm, eps=config.eps), grid)
    heatmaps, _, statistics = g.keypoint_head_training(x_map, **head, batch=batch)
    grad, grad_head = g.keypoint_head_backward(
        x_map, heatmap_loss_backward(heatmaps, targets, target_weight), **head, batch=batch
    )
    grad, grad_norm = g.layer_norm_backward(x, layers.to_tokens(grad), **norm, eps=config.eps)
    return heatmap_loss(heatmaps, targets, target_weight), grad, grad_norm, like(grad_head, head), statistics


def backbone_training(images, p, config, drops):
    """images -> {name: the input of each block}, the tokens before the last norm, (Hp, Wp)."""
    x = layers.patch_embed(images, **p["patch_embed"]["proj"], ratio=config.ratio)
    grid = x.shape[2:]
    x = layers.add_positions(layers.to_tokens(x), positions(p["pos_embed"], config, grid))
    inputs = {}
    for (i, block), (of_attn, of_mlp) in zip(p["blocks"].items(), drops, strict=True):
        inputs[i] = x
        factors = {"attn": of_attn, "mlp": of_mlp}
        x = layers.block(x, block, config.num_heads, config.qk_scale, config.eps, dropping(factors))
    return inputs, x, grid


def dropping(factors):
    """The tap that multiplies what it finds in ``factors``: drop path, put into the textbook's block."""
    return lambda name, x: x * factors[name] if name in factors else x


def backbone_backward(images, grad, p, config, drops, inputs, grid):
    """From the tokens before the last norm back to the patch embedding: the gradients, without the last norm's."""
    blocks = {}
    for (i, block), factors in zip(reversed(p["blocks"].items()), reversed(drops), strict=True):
        x = inputs[i]
        grad, blocks[i] = g.block_backward(x, grad, block, config.num_heads, config.qk_scale, config.eps, factors)
    pos_embed = positions(p["pos_embed"], config, grid)
    grad, grad_positions = g.add_positions_backward(grad, grad, pos_embed)  # x itself plays no part
    if grid != config.grid:
        old = g.resize_positions_backward(p["pos_embed"], grad_positions["pos_embed"], config.grid, grid)
        grad_positions = {"pos_embed": old}
    grad = layers.to_map(grad, grid)
    _, grad_proj = g.patch_embed_backward(images, grad, **p["patch_embed"]["proj"], ratio=config.ratio)
    return grad_positions | {"patch_embed": {"proj": grad_proj}, "blocks": blocks}


def like(gradients, params):
    """Nested as the parameters and in their order, without what is not learnt."""
    return {
        name: like(gradients[name], p) if isinstance(p, dict) else gradients[name]
        for name, p in params.items()
        if name in gradients
    }


def check_targets(model, images, targets, target_weight):
    """Raises TrainingError unless targets and their weights fit the images and the model."""
    config = model.config
    scale = 4 if config.head == "simple" else 2 ** len(config.deconv_kernels)
    sides = zip(images.shape[2:], config.patch_size, strict=True)
    grid = ((n + 2 * config.padding - p) // config.stride + 1 for n, p in sides)
    shape = (len(images), config.num_keypoints, *(n * scale for n in grid))
    for name, x, wanted in [("targets", targets, shape), ("target_weight", target_weight, shape[:2])]:
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        if found != f"{model.dtype} {wanted}":
            hint = ": (B, K, 1) loses its last axis" if getattr(x, "shape", None) == (*wanted, 1) else ""
            raise TrainingError(f"{name}: expected {model.dtype} {wanted}, found {found}{hint}")
        if not np.isfinite(x).all():
            raise TrainingError(f"{name}: expected finite numbers, found {x[~np.isfinite(x)][0]}")
    if not len(images):
        raise TrainingError("images: expected at least one, found none")
