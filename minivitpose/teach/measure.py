"""How far arrays are from what is right: the faults of their form, then the error of their numbers."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations

import numpy as np

from minivitpose.teach.cases import each_array, numbers
from minivitpose.teach.run import Fault, read

NOTHING = 1e-30  # if the largest number expected is smaller, all are taken for 0: float32 ends there


@dataclass(frozen=True)
class Error:
    """The error of one output. allowed: the largest one accepted, in the output's own units."""

    name: str
    found: np.ndarray  # float64
    expected: np.ndarray  # float64
    allowed: float

    @cached_property
    def off(self):
        """|found - expected|; what is not finite is infinitely far off."""
        with np.errstate(all="ignore"):
            off = np.abs(self.found - self.expected)
        return np.where(np.isfinite(off), off, np.inf)

    @property
    def largest(self):
        return float(self.off.max(initial=0))

    @property
    def rms(self):
        return float(np.sqrt(np.mean(np.square(self.off)))) if self.off.size else 0.0

    @property
    def share(self):
        """The largest error in units of what is allowed."""
        return self.largest / self.allowed

    @property
    def at(self):
        """Where the largest error is."""
        return tuple(map(int, np.unravel_index(int(self.off.argmax()), self.off.shape)))


@lru_cache(maxsize=1024)
def expected(step, case, dtype):
    """name -> array, float64: the truth for the arguments as they are in ``dtype``."""
    exact = each_array(lambda a: a.astype(np.float64), numbers(case, dtype))
    return {name: x.astype(np.float64) for name, x in read(step, step.truth(**exact)).arrays.items()}


def form_fault(step, arrays, truth, dtype):
    """The first Fault in names, shapes and dtypes, or None."""
    if arrays.keys() != truth.keys():
        lacks, more = [n for n in truth if n not in arrays], [n for n in arrays if n not in truth]
        found = [f"{word} {', '.join(n)}" for word, n in (("missing are", lacks), ("nobody asked for", more)) if n]
        return Fault("wrong names", f"expected the outputs {', '.join(truth)}; {'; '.join(found)}.")
    for name, x in arrays.items():
        subject = f"{name}: " if name else ""
        if x.shape != truth[name].shape:
            return Fault("wrong shape", subject + shape_text(x, truth[name]))
        if name not in step.free and x.dtype != dtype:
            return dtype_fault(subject, x.dtype, np.dtype(dtype))
    return None


def shape_text(x, truth):
    """Both shapes, and whether a transpose or a reshape would fit."""
    text = f"expected the shape {truth.shape}, found {x.shape}"
    orders = permutations(range(x.ndim)) if x.ndim == truth.ndim <= 4 else ()
    fits = [axes for axes in orders if x.transpose(axes).shape == truth.shape]
    right = [axes for axes in fits if np.allclose(x.transpose(axes), truth, 1e-4, 1e-6)]
    if right:
        return f"{text}; the numbers are right, the axes are not in order: transpose{right[0]} puts them right."
    if fits:
        return f"{text}; transpose{fits[0]} would give this shape, but not yet the right numbers."
    if x.size != truth.size:
        return f"{text}."
    same = np.allclose(x.ravel(), truth.ravel(), 1e-4, 1e-6)
    return f"{text}; a reshape would fit, {'and then the numbers are right' if same else 'but look at the order'}."


def dtype_fault(subject, found, wanted):
    cause = "float64 leaks in" if found == np.float64 else "wrong dtype"
    return Fault(cause, f"{subject}expected {wanted}, as the arguments are, found {found}.")


def errors(step, arrays, truth, dtype):
    """The Error of each output; shapes must fit."""
    for name, right in truth.items():
        largest = float(np.abs(right).max(initial=0))
        scale = largest if largest > NOTHING else 1.0
        yield Error(name, arrays[name].astype(np.float64), right, step.allowed(dtype) * scale)


def alike(step, a, b, allowed):
    """Two dicts of arrays: the same names, shapes, dtypes and numbers, with NaN and infinities at the same places."""
    if a.keys() != b.keys():
        return False
    if any(a[name].dtype != b[name].dtype for name in a if name not in step.free):
        return False
    return all(same_numbers(a[name], b[name], allowed) for name in a)


def same_numbers(a, b, allowed):
    if a.shape != b.shape:
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return False
    scale = np.abs(b[finite]).max(initial=0) or 1.0
    return np.abs(a[finite] - b[finite]).max(initial=0) <= allowed * scale
