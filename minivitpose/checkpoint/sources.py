"""Whatever `minivitpose.load` takes, as a Checkpoint: a path, a folder, a model on the hub, "mini", or a mapping."""

from importlib.resources import as_file, files
from os import PathLike

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError
from minivitpose.checkpoint.hub import fetch, is_hub
from minivitpose.checkpoint.reader import Checkpoint, read_checkpoint

BUNDLED = {"mini": "mini.pth"}


def read_source(source):
    """The Checkpoint of a path, "mini", "hf:OWNER/NAME[/FILE]" or a mapping of names to arrays or tensors.

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
    return Checkpoint({name: as_array(name, value) for name, value in source.items()}, "mapping")


def as_array(name, value):
    """A NumPy array with values of its own, from an array or a PyTorch tensor, without importing PyTorch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiub":
        raise CheckpointError(f"{name}: expected an array or tensor of numbers, found {type(value).__name__}")
    return np.array(value)
