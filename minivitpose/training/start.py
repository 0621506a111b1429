"""The weights that a training starts from: new ones, or a checkpoint's, with another number of keypoints if wanted."""

import numpy as np

from minivitpose.config import parameter_shapes, read_config
from minivitpose.parameters import flatten, nest


def fresh(config, seed=0):
    """New parameters, nested, float32.

    Matrices and kernels of the backbone are drawn uniformly as Glorot and Bengio (2010) tell, so that activations keep
    their size; positions and the head's kernels are normal and small (0.02; 0.001 as in ViTPose's head); norms are 1,
    biases 0. The slot of the class token, which is added to every position, starts at 0.
    """
    rng = np.random.default_rng(seed)
    return nest({name: first_value(name, tuple(shape), rng) for name, shape in parameter_shapes(config).items()})


def first_value(name, shape, rng):
    if name.endswith("num_batches_tracked"):
        return np.array(0)
    if name.endswith("pos_embed"):
        x = 0.02 * rng.standard_normal(shape)
        x[:, 0] = 0
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
