"""From the arrays of a state dict to the parameters of a network: strictly, or not at all."""

from importlib.resources import as_file, files
from os import PathLike

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError, printable
from minivitpose.checkpoint.reader import read_state_dict
from minivitpose.config import ConfigError, parameter_shapes, read_config
from minivitpose.parameters import cast, nest

BUNDLED = {"mini": "mini.pth"}
IGNORED = ("backbone.cls_token",)  # a leftover of the pretraining that some public files carry


def read_source(source):
    """Name -> array, from a path, the name of a bundled model, or a mapping of names to arrays or tensors."""
    if isinstance(source, str) and source in BUNDLED:
        with as_file(files("minivitpose") / "data" / BUNDLED[source]) as path:
            return read_state_dict(path)
    if isinstance(source, (str, PathLike)):
        return read_state_dict(source)
    if not hasattr(source, "items"):
        raise CheckpointError(f"expected a path, 'mini' or a mapping of names to arrays, found {type(source).__name__}")
    return {name: as_array(name, value) for name, value in source.items()}


def as_array(name, value):
    """A NumPy array with values of its own, from an array or a PyTorch tensor, without importing PyTorch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiub":
        raise CheckpointError(f"{name}: expected an array or tensor of numbers, found {type(value).__name__}")
    return np.array(value)


def fit(state_dict, num_heads=None, options=None, dtype="float32"):
    """(nested parameters, Config) of these arrays: all checked first, nothing loaded half.

    Raises CheckpointError with a line for every missing, unexpected and mis-shaped parameter, expected and found, or
    for every one that holds NaN or infinite values. ``num_batches_tracked``, which nothing depends on, may be absent.
    """
    shapes = {name: x.shape for name, x in state_dict.items() if name not in IGNORED}
    try:
        config = read_config(shapes, num_heads, **(options or {}))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    expected = parameter_shapes(config)
    expected = {n: shape for n, shape in expected.items() if n in shapes or not n.endswith("num_batches_tracked")}
    faults = [f"missing {name}: expected {shape}" for name, shape in expected.items() if name not in shapes]
    faults += [f"unexpected {name}: found {shape}" for name, shape in shapes.items() if name not in expected]
    for name in shapes.keys() & expected.keys():
        if shapes[name] != expected[name]:
            faults.append(f"mis-shaped {name}: expected {expected[name]}, found {shapes[name]}")
        elif not name.endswith("num_batches_tracked") and state_dict[name].dtype.kind != "f":
            faults.append(f"mistyped {name}: expected floating point, found {state_dict[name].dtype}")
    raise_if(faults, f"do not fit {config.describe()}")

    arrays = {name: cast(state_dict[name], dtype) for name in expected}
    faults = [f"{name}: {fault}" for name, x in arrays.items() if (fault := not_finite(x))]
    raise_if(faults, "hold NaN or infinite values")
    return nest(arrays), config


class MismatchError(CheckpointError):
    """Parameters that do not fit the network: the message has one line for each, ``faults`` is the list of them."""

    def __init__(self, headline, faults):
        self.faults = [printable(fault, limit=200) for fault in faults]
        ValueError.__init__(self, "\n  ".join([headline, *self.faults]))


def raise_if(faults, what):
    if faults:
        raise MismatchError(f"{len(faults)} of the parameters {what}:", sorted(faults))


def not_finite(x):
    """What is wrong with the values of x, or an empty string. Minimum and maximum show it without a temporary array."""
    if x.dtype.kind != "f" or not x.size or (np.isfinite(x.min()) and np.isfinite(x.max())):
        return ""
    finite = np.isfinite(x)
    first = tuple(map(int, np.unravel_index(np.argmin(finite), x.shape)))
    return f"{x.size - finite.sum()} of {x.size} values, the first at {first}: {x[first]}"
