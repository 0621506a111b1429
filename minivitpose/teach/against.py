"""A learner's own array beside the reference."""

import numpy as np

from minivitpose.compare import Report, compare_one
from minivitpose.teach.example import recorded


def against_reference(name, array, reference=None):
    """Compare one activation, as you computed it, with what PyTorch computed -> Report: ``.ok``, a table in a notebook.

    name: as in ``list(cache)``, such as "backbone.blocks.0.norm1". array: float32 or float64, of the activation's shape.
    reference: a Reference; the bundled recording for the course's crop if none is given.
    Raises ValueError for a name that the reference does not have.
    """
    reference = recorded() if reference is None else reference
    if name not in reference:
        near = [known for known in reference if known.endswith("." + name)] or list(reference)
        raise ValueError(f"the reference has no activation {name!r}: its names are {', '.join(near[:4])}, ...")
    row = compare_one(name, {name: np.asarray(array)}, reference, {})
    return Report([row], 1, [], 0, reference.header)
