"""Known mistakes, by step; docs/mistakes.md lists them."""

from minivitpose.teach.mistakes import (  # noqa: F401 - they fill the table
    attention,
    backward,
    backward_block,
    block,
    conv,
    crop,
    decode,
    maps,
    norms,
    patches,
    tokens,
    training,
)
from minivitpose.teach.mistakes.table import TABLE, Mistake, mistake, replay

__all__ = ["Mistake", "mistake", "mistakes_of", "replay"]


def mistakes_of(step):
    """The known mistakes of a step, [] if there are none."""
    return TABLE.get(step, [])
