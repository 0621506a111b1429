"""Small models with random values in every tensor, for the tests."""

import numpy as np

from minivitpose import load
from minivitpose.config import Config, parameter_shapes
from minivitpose.parameters import random_state_dict

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_keypoints": 5, "image_size": (64, 48)}
SMALL |= {"patch_size": (16, 16), "deconv_filters": (8, 6)}


def small_config(**changes):
    """A ViTPose of 12 tokens that a test runs in a millisecond."""
    return Config(**(SMALL | changes))


def state_dict_for(config, seed=0, dtype="float32"):
    state = random_state_dict(parameter_shapes(config), seed)
    return {name: x.astype(dtype) if x.dtype.kind == "f" else x for name, x in state.items()}


def small_model(engine="numpy", dtype="float64", seed=0, **changes):
    config = small_config(**changes)
    options = {"num_heads": config.num_heads, "image_size": config.image_size}
    options |= {"qk_scale": config.qk_scale, "ratio": config.ratio}
    return load(state_dict_for(config, seed, dtype), engine, dtype=dtype, **options)


def images_for(model, batch=1, seed=0, size=None):
    height, width = size or model.config.image_size
    return np.random.default_rng(seed).standard_normal((batch, 3, height, width)).astype(model.dtype)
