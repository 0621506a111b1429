"""Whatever `minivitpose.load` takes, as a Checkpoint: a path, a folder, a model on the hub, "mini", or a mapping."""

from importlib.resources import as_file, files
from os import PathLike

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError
from minivitpose.checkpoint.hub import fetch, is_hub
from minivitpose.checkpoint.reader import Checkpoint, clean_names, read_checkpoint
from minivitpose.checkpoint.state_dict import WRAPPERS

BUNDLED = {"mini": "mini.pth"}


def read_source(source):
    """The Checkpoint of a path, "mini", "hf:OWNER/NAME[/FILE]" or a mapping of names to arrays or tensors.

    A mapping may be what a training script saves, with the weights under one of WRAPPERS.
    Raises CheckpointError for anything else, and as read_checkpoint does.
    """
    if isinstance(source, str) and source in BUNDLED:
        with as_file(files("minivitpose") / "data" / BUNDLED[source]) as path:
            return read_checkpoint(path)
    if is_hub(source):
        return read_checkpoint(fetch(source))
    if isinstance(source, (str, PathLike)):
        return read_checkpoint(source)
    if not hasattr(source, "items"):
        kinds = "a path, 'mini' or a mapping of names to arrays"
        raise CheckpointError(f"expected {kinds}, found {type(source).__name__}")
    inner = next((source[key] for key in WRAPPERS if hasattr(source.get(key), "items")), source)
    return Checkpoint(clean_names({str(name): as_array(name, value) for name, value in inner.items()}), "mapping")


def without_torch(value):
    """A PyTorch tensor's numbers as an array, bfloat16 as float32; anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def as_array(name, value):
    """A NumPy array with values of its own, from an array or a PyTorch tensor, without importing PyTorch."""
    value = without_torch(value)
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiub":
        raise CheckpointError(f"{name}: expected an array or tensor of numbers, found {type(value).__name__}")
    return np.array(value)
