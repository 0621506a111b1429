"""The weights that a training starts from: new ones, or a checkpoint's, with another number of keypoints if wanted."""

import numpy as np

from minivitpose.config import parameter_shapes, read_config
from minivitpose.parameters import flatten, nest

NEAR, FAR = 0.5, 8.0  # patches to a radian of the fastest and the slowest wave of the table of positions
LEFT_OUT = 0.4  # how much of what tokens have in common each block takes away at first


def fresh(config, seed=0):
    """New parameters, nested, float32.

    Matrices and kernels of the backbone are drawn uniformly as Glorot and Bengio (2010) tell, so that activations keep
    their size; the head's kernels are normal and small (0.001, as in ViTPose's head); norms are 1, biases 0. Positions
    and attention begin with what most trained transformers end up with, see ``waves`` and ``set_attention``: from there
    the same is learnt from fewer crops. The slot of the class token, which is added to every position, starts at 0.
    """
    rng = np.random.default_rng(seed)
    params = nest({name: first_value(name, tuple(shape), rng) for name, shape in parameter_shapes(config).items()})
    params["backbone"]["pos_embed"][0, 1:] = waves(config.grid, config.embed_dim)
    for block in params["backbone"]["blocks"].values():
        set_attention(block["attn"], rng)
    return params


def waves(grid, channels):
    """Sines and cosines of a patch's column, then of its row, from fast to slow: (Hp Wp, C), 0.5 high.

    grid (Hp, Wp). The dot product of two rows depends on how far apart the patches are, and falls with it.
    """
    angles = np.stack(np.indices(grid), axis=-1).reshape(-1, 2, 1)[:, ::-1] / np.geomspace(NEAR, FAR, channels // 4)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(angles), -1)
    return 0.5 * np.pad(table, [(0, 0), (0, channels - table.shape[1])])


def set_attention(p, rng):
    """Keys are queries, so that a token looks at those like it, and these are near it; and the projection is the
    values' matrix turned back and made negative: of what they have in common, a part is taken away.

    p: {"qkv": ..., "proj": ...} of a block, changed in place. Source: Trockman and Kolter, Mimetic initialization of
    self-attention layers, 2023, who draw both products of matrices around multiples of the identity.
    """
    C, inner = p["proj"]["weight"].shape
    look, value = rng.standard_normal((2, inner, C)) / np.sqrt(C)
    p["qkv"]["weight"][:] = np.concatenate([look, look, value])
    p["proj"]["weight"][:] = -LEFT_OUT * value.T


def first_value(name, shape, rng):
    if name.endswith("num_batches_tracked"):
        return np.array(0)
    if name.endswith(("pos_embed", "attn.qkv.weight", "attn.proj.weight")):  # set together, by ``fresh``
        x = np.zeros(shape)
    elif name.startswith("keypoint_head") and len(shape) > 1:
        x = 0.001 * rng.standard_normal(shape)
    elif len(shape) > 1:
        fan_out, fan_in = shape[0], int(np.prod(shape[1:]))
        x = np.sqrt(6 / (fan_in + fan_out)) * rng.uniform(-1, 1, shape)
    else:
        x = np.full(shape, float(name.endswith(("weight", "running_var"))))
    return x.astype(np.float32)


def with_keypoints(params, config, dataset, count, seed=0):
    """The same network with a new last layer for ``count`` keypoints: (params, config)."""
    flat = flatten(params)
    shapes = {name: x.shape for name, x in flat.items()}
    last = next(
        name for name in reversed(shapes) if name.endswith(".weight") and shapes[name][0] == config.num_keypoints
    )
    rng = np.random.default_rng(seed)
    for name in (last, last.replace("weight", "bias")):
        flat[name] = first_value(name, (count, *shapes[name][1:]), rng)
    shapes = {name: x.shape for name, x in flat.items()}
    options = {"image_size": config.image_size, "ratio": config.ratio, "qk_scale": config.qk_scale, "eps": config.eps}
    options |= {"dataset": dataset, "pipeline": config.pipeline}
    return nest(flat), read_config(shapes, config.num_heads, **options)
