"""One field of many JSON entries -> one checked array, or one line that names the entry, the expected and the found.

The whole column is converted at once, which is quick; only where that fails are the entries looked at one by one.
"""

import numpy as np

REQUIRED = object()
FAR = 1e12  # beyond are no pixels, and squares of squares would overflow


class CocoError(ValueError):
    """COCO content that cannot be used: one line with which entry, what was expected and what was found."""


def check_list(entries, what):
    """The same list if it is a list of JSON objects."""
    if not isinstance(entries, list):
        raise CocoError(f"{what}s: expected a list, found {shown(entries)}")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise CocoError(f"{what} {i}: expected an object {{...}}, found {shown(entry)}")
    return entries


def column(entries, what, field, missing):
    """The field of each entry; missing: the value where there is none, REQUIRED if there must be one."""
    if missing is not REQUIRED:
        return [entry.get(field, missing) for entry in entries]
    try:
        return [entry[field] for entry in entries]
    except KeyError:
        i = next(i for i, entry in enumerate(entries) if field not in entry)
        raise CocoError(f"{named(entries, what, i)}: {field} is missing") from None


def named(entries, what, i):
    """ "annotation 12 (id 34)": the place in the list, and the id if there is a proper one."""
    number = entries[i].get("id")
    return f"{what} {i} (id {number})" if is_integer(number) else f"{what} {i}"


def is_integer(value):
    """Whether it is a whole number that int64 can hold; True is none."""
    return type(value) is int and abs(value) < 2**63


def integers(entries, what, field, missing=REQUIRED, unique=False, known=None, where=""):
    """(n,) int64. unique: each value once; known: the values that there are, where: what holds them."""
    values = column(entries, what, field, missing)
    for i, value in enumerate(values):
        if not is_integer(value):
            hint = "; leave out the quotes" if isinstance(value, str) and value.isdecimal() else ""
            name = f"{what} {i}" if field == "id" else named(entries, what, i)
            raise CocoError(f"{name}: {field}: expected a whole number, found {shown(value)}{hint}")
        if known is not None and value not in known:
            some = ", ".join(map(str, list(known)[:5])) + (", ..." if len(known) > 5 else "")
            expected = f"expected one of {where}: {some}" if known else f"and {where} is empty"
            raise CocoError(f"{named(entries, what, i)}: {field} {value} is not known, {expected}")
    if unique and len(set(values)) < len(values):
        seen = {}
        for i, value in enumerate(values):
            if value in seen:
                raise CocoError(f"{what} {i}: {field} {value} was {what} {seen[value]}'s already, expected unique ids")
            seen[value] = i
    return np.array(values, np.int64)


def texts(entries, what, field):
    """A list of n strings, none empty."""
    values = column(entries, what, field, REQUIRED)
    for i, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise CocoError(f"{named(entries, what, i)}: {field}: expected a text, found {shown(value)}")
    return values


def numbers(entries, what, field, shape, missing=REQUIRED, minimum=None):
    """(n, *shape) float64 of finite numbers; shape () for a number each, (length,) for a list each.

    missing: what stands for a field that is not there; minimum: the least that a given one may be.
    """
    values = column(entries, what, field, missing)
    if not values:
        return np.zeros((0, *shape))
    if fault(values, (len(values), *shape)):
        for i, value in enumerate(values):
            problem = fault(value, shape)
            if problem:
                raise CocoError(f"{named(entries, what, i)}: {field}: {problem}, found {shown(value)}")
    array = np.array(values, np.float64)
    if minimum is not None:
        for i in np.flatnonzero(array < minimum):
            if field in entries[i]:
                raise CocoError(f"{named(entries, what, i)}: {field}: expected at least {minimum}, found {array[i]:g}")
    return array


def fault(value, shape):
    """What is wrong with a value that should be usual numbers of this shape; "" if nothing."""
    expected = f"expected {shape[0]} numbers" if shape else "expected a number"
    try:
        array = np.array(value)
    except (ValueError, OverflowError):  # lists of unequal lengths
        return expected
    if array.dtype.kind not in "iuf":
        return expected
    if array.shape != shape:
        return expected + (f" but it has {len(array)}" if array.ndim == 1 and shape else "")
    usual = np.abs(array) <= FAR  # False for NaN
    return "" if usual.all() else f"{expected}, not NaN, infinite or beyond {FAR:g}"


def shown(value):
    """What the file has there, in at most 60 characters on one line."""
    text = " ".join(repr(value[:20] if isinstance(value, list | str) else value).split())
    return text if len(text) <= 60 else text[:57] + "..."
