"""Files to arrays, safely and without PyTorch; and arrays to the parameters of a network, strictly."""

from minivitpose.checkpoint.errors import CheckpointError
from minivitpose.checkpoint.fit import MismatchError, fit, not_finite, read_source
from minivitpose.checkpoint.mapped import let_go
from minivitpose.checkpoint.reader import Checkpoint, read_checkpoint, read_state_dict

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
