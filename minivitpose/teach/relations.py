"""What simple thing relates the numbers found to those expected, where no known mistake does: a hint, not a name."""

from itertools import permutations

import numpy as np

CLOSE = 1e-4  # of the largest number: the relation is there, be it in float32
NEARLY = 1e-2
MANY = 100_000  # elements; larger arrays are not put in order


def relation(found, expected):
    """Two arrays of one shape, finite -> a sentence, or "" where none of the simple relations holds."""
    if expected.size < 2 or not np.isfinite(found).all():
        return ""
    for ask in (
        zeros,
        sign,
        factor,
        shift,
        permuted,
        reversed_axis,
        moved,
        one_right,
        one_wrong,
        rim,
        shuffled,
        nearly,
    ):
        if text := ask(found, expected):
            return text
    return ""


def close(a, b, part=CLOSE):
    """The same, up to a small part of the largest number of b."""
    return bool(np.abs(a - b).max(initial=0) <= part * np.abs(b).max(initial=0))


def zeros(found, expected):
    return "" if found.any() else "All numbers found are 0."


def sign(found, expected):
    return "The sign is flipped: everything found is minus what is expected." if close(found, -expected) else ""


def factor(found, expected):
    """One number that everything is off by, and what it may be: a length of the shape or its root."""
    f = float((found * expected).sum() / (expected * expected).sum()) if expected.any() else 0.0
    if abs(f) < 1e-6 or abs(f - 1) < NEARLY / 10 or not close(found / f, expected):
        return ""
    known = {}
    for n in (2, *(n for n in expected.shape if n > 1)):
        known |= {f"1 / {n}": 1 / n, f"sqrt({n})": n**0.5, f"1 / sqrt({n})": n**-0.5}
    names = [name for name, value in known.items() if abs(f / value - 1) < CLOSE]
    return f"Everything found is {f:.6g} times what is expected" + (f", that is {names[0]}." if names else ".")


def shift(found, expected):
    c = float(np.mean(found - expected))
    if abs(c) <= CLOSE * np.abs(expected).max() or not close(found - c, expected):
        return ""
    return f"Everything found is {abs(c):.6g} too {'large' if c > 0 else 'small'}."


def permuted(found, expected):
    """Equal after a transpose."""
    if not 2 <= expected.ndim <= 4:
        return ""
    for axes in permutations(range(expected.ndim)):
        turned = found.transpose(axes)
        if axes != tuple(range(expected.ndim)) and turned.shape == expected.shape and close(turned, expected):
            return f"It is transposed: transpose{axes} of what was found is what is expected."
    return ""


def reversed_axis(found, expected):
    for axis, n in enumerate(expected.shape):
        if n > 1 and close(np.flip(found, axis), expected):
            return f"It is the right way round only after a flip along axis {axis}."
    return ""


def moved(found, expected):
    """Equal where both reach, after a step along one axis."""
    for axis, n in enumerate(expected.shape):
        early, late = np.arange(n - 1), np.arange(1, n)
        for word, at, source in (("far", late, early), ("little", early, late)):
            if n > 2 and close(found.take(at, axis), expected.take(source, axis)):
                return f"Everything lies one place too {word} along axis {axis}."
    return ""


def wrong(found, expected):
    return np.abs(found - expected) > CLOSE * np.abs(expected).max(initial=0)


def one_right(found, expected):
    """Right at one index of the first axis alone."""
    bad = wrong(found, expected).reshape(len(expected), -1).any(axis=1)
    if len(bad) > 1 and not bad[0] and bad[1:].all():
        return "Only the first along axis 0, of the batch for instance, is right; all others are wrong."
    return ""


def one_wrong(found, expected):
    """Wrong at one index of an axis alone."""
    bad = wrong(found, expected)
    for axis, n in enumerate(expected.shape):
        at = np.flatnonzero(bad.any(axis=tuple(i for i in range(bad.ndim) if i != axis)))
        if n > 1 and len(at) == 1:
            return f"All that is wrong lies at index {at[0]} of axis {axis}, which has {n}."
    return ""


def rim(found, expected):
    """Maps that are wrong in their corners or at their border alone."""
    if expected.ndim < 3 or min(expected.shape[-2:]) < 3:
        return ""
    bad = wrong(found, expected)
    if not bad.any() or bad[..., 1:-1, 1:-1].any():
        return ""
    if not bad[..., 1:-1, :].any() and not bad[..., :, 1:-1].any():
        return "Only the corners are wrong."
    return "Only the border is wrong: look at what stands beyond it."


def shuffled(found, expected):
    if expected.size > MANY or not close(np.sort(found, axis=None), np.sort(expected, axis=None)):
        return ""
    return (
        "" if close(found, expected) else "These are the right numbers in another order: look at reshape and transpose."
    )


def nearly(found, expected):
    return "It is nearly right: look for a constant (eps), a constant of too few digits, or low precision." * close(
        found, expected, NEARLY
    )
