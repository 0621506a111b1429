"""Files to arrays, safely and without PyTorch; and arrays to the parameters of a network, strictly."""

from minivitpose.checkpoint.errors import CheckpointError
from minivitpose.checkpoint.fit import MismatchError, fit, not_finite
from minivitpose.checkpoint.mapped import let_go
from minivitpose.checkpoint.reader import Checkpoint, read_checkpoint, read_state_dict
from minivitpose.checkpoint.sources import read_source

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "MismatchError",
    "fit",
    "let_go",
    "not_finite",
    "read_checkpoint",
    "read_source",
    "read_state_dict",
]
