"""Parameters, flat as in a state dict ("a.b": x) and nested as the layers take them ({"a": {"b": x}})."""

import numpy as np


def nest(flat):
    """{"a.b": x} -> {"a": {"b": x}}, in order."""
    tree = {}
    for name, x in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = x
    return tree


def flatten(tree, prefix=""):
    """{"a": {"b": x}} -> {"a.b": x}, in order."""
    flat = {}
    for name, x in tree.items():
        flat |= flatten(x, f"{prefix}{name}.") if isinstance(x, dict) else {f"{prefix}{name}": x}
    return flat


def copied(params):
    """Nested parameters that share no memory with ``params``, their numbers in C order."""
    return nest({name: np.array(x, order="C") for name, x in flatten(params).items()})


def stands_in(name, places):
    """Whether a parameter is, or is in, one of the places: "blocks.1.norm1" is in "blocks.1", "blocks.11" is not."""
    return any(f"{name}.".startswith(place.rstrip(".") + ".") for place in places)


def cast(x, dtype):
    """Weights to the dtype of the model, counters as they are; no copy where nothing changes."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which loading finds and names
        return x.astype(dtype, copy=False) if x.dtype.kind == "f" else x


def is_learnt(name):
    """Whether training learns it: batch norm's statistics and its counter are gathered, not learnt."""
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def random_state_dict(shapes, seed=0):
    """Seeded random values for **every** parameter: name -> shape to name -> float64 array (counters int64).

    No layer can hide behind a zero bias or a norm of ones, the activations keep about the same size from layer to
    layer, and batch norm's variances are positive.
    """
    rng = np.random.default_rng(seed)
    return {name: random_value(name, tuple(shape), rng) for name, shape in shapes.items()}


def random_value(name, shape, rng):
    if name.endswith("num_batches_tracked"):
        return np.array(rng.integers(1, 1000))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("pos_embed"):
        return 0.3 * rng.standard_normal(shape)
    if len(shape) > 1:
        terms = 4 * shape[0] if "deconv_layers" in name else np.prod(shape[1:])  # of the sum that makes one output
        return rng.standard_normal(shape) / np.sqrt(terms)
    return float(name.endswith("weight")) + 0.2 * rng.standard_normal(shape)
