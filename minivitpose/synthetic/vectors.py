"""Three numbers at a time, points and colours, in compiled code. A tuple of floats costs nothing there."""

import numpy as np
from numba import njit

from minivitpose.kernels.jit import CACHE

# Compiled for one thread each, without the GIL: pictures go side by side, and a picture never depends on who drew it.
compiled = njit(nogil=True, cache=CACHE, error_model="numpy")


@compiled
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def along(o, t, d):
    """o + t d."""
    return o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]


@compiled
def minus(a, b):
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@compiled
def scaled(a, k):
    return a[0] * k, a[1] * k, a[2] * k


@compiled
def times(a, b):
    """Element by element, as light with the colour that it falls on."""
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


@compiled
def mix(a, b, share):
    """a where share is 0, b where it is 1."""
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2]))


@compiled
def unit(a):
    return scaled(a, 1.0 / max(np.sqrt(dot(a, a)), 1e-30))


@compiled
def row(table, i, first):
    """Three neighbours in a row of a table."""
    return table[i, first], table[i, first + 1], table[i, first + 2]


@compiled
def step(x, width):
    """0 below -width, 1 above width, a straight line between."""
    return min(max(0.5 + 0.5 * x / width, 0.0), 1.0)


@compiled
def wave(x):
    """A triangle wave of period 1 between -1 and 1."""
    return 4.0 * abs(x - np.floor(x + 0.5)) - 1.0
