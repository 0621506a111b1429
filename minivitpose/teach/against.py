"""A learner's own arrays beside the reference."""

from collections.abc import Mapping

import numpy as np

from minivitpose.compare import Report, compare_one
from minivitpose.teach.example import recorded


def against_reference(name, array=None, reference=None):
    """Compare what you computed with what PyTorch computed -> Report: ``.ok``, a table in a notebook.

    name: of an activation as in ``list(cache)``, such as "backbone.blocks.0.norm1", and array, float32 or float64, of
    its shape; or, in place of both, a mapping of names to arrays, all of which are compared in the order given.
    reference: a Reference; the bundled recording for the course's crop if none is given.
    Raises ValueError for a name that the reference does not have.
    """
    reference = recorded() if reference is None else reference
    arrays = name if isinstance(name, Mapping) else {name: array}
    for known in arrays:
        if known not in reference:
            near = [other for other in reference if other.endswith("." + known)] or list(reference)
            raise ValueError(f"the reference has no activation {known!r}: its names are {', '.join(near[:4])}, ...")
    rows = [compare_one(name, {name: np.asarray(x)}, reference, {}) for name, x in arrays.items()]
    return Report(rows, len(rows), [], 0, reference.header)
