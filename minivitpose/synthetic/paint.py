"""The colour of a solid at a point of it: two colours and a pattern, in the solid's own axes."""

import numpy as np

from minivitpose.synthetic.solids import MAP, ORIGIN, to_own
from minivitpose.synthetic.vectors import compiled, dot, minus, mix, row, scaled, step, wave

PLAIN, HOOPS, CHECKS, SPOTS, CURLS, LEAVES, WOOD = range(7)
TILE = 256  # cells of the tile of noise along a side, a power of two
# Columns: two colours, pattern, its length in metres, gloss, grain, and whose axes the pattern follows (-1: its own)
PATTERN, PITCH, GLOSS, GRAIN, FOLLOWS = 6, 7, 8, 9, 10


def linear(colour):
    """Screen colour -> light: the square is near enough to sRGB's curve, and its inverse is a root."""
    r, g, b = map(float, colour)
    return r * r, g * g, b * b


def paint(colour, second=None, pattern=PLAIN, pitch=0.1, gloss=0.0, grain=0.0):
    """A row of the table of paints. Colours as shown on a screen, 0 to 1; grain: how mottled, 0 to 1."""
    light = linear(colour)
    dark = (light[0] / 2, light[1] / 2, light[2] / 2) if second is None else linear(second)
    return (*light, *dark, pattern, pitch, gloss, grain, -1.0)


@compiled
def noise_at(noise, u, v):
    """The tile of noise at a point, between its cells linearly; it repeats every TILE cells. -> about -1 to 1."""
    fu, fv = np.floor(u), np.floor(v)
    a, b = u - fu, v - fv
    i, j = int(fu) & (TILE - 1), int(fv) & (TILE - 1)
    k, l = (i + 1) & (TILE - 1), (j + 1) & (TILE - 1)
    return (noise[i, j] * (1 - b) + noise[i, l] * b) * (1 - a) + (noise[k, j] * (1 - b) + noise[k, l] * b) * a


@compiled
def colour_at(solids, paints, i, x, size, noise):
    """The colour (3,) of solid i at a point of the world; size: metres that a pixel covers there."""
    j = i if paints[i, FOLLOWS] < 0.0 else int(paints[i, FOLLOWS])
    p = to_own(solids, j, minus(x, row(solids, j, ORIGIN)))
    px, py, pz = p[0] * unit_of(solids, j, 0), p[1] * unit_of(solids, j, 1), p[2] * unit_of(solids, j, 2)
    pattern, pitch = int(paints[i, PATTERN]), paints[i, PITCH]
    share = 0.0
    blur = max(4.0 * size / pitch, 0.12)
    if pattern == HOOPS:
        share = step(wave(pz / pitch), blur)
    elif pattern == CHECKS:
        a, b = step(wave(px / pitch + 0.25), blur), step(wave(pz / pitch), blur)
        share = 0.5 * (a + b)
    elif pattern == SPOTS:
        u, v = px / pitch, pz / pitch
        u += 0.5 * (np.floor(v) % 2)
        a, b = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
        share = 1.0 - step(a * a + b * b - 0.07, blur * 0.3)
    elif pattern in (CURLS, LEAVES):
        q = 7.0 / pitch
        share = step(noise_at(noise, (px + 0.5 * py) * q, (pz - 0.5 * py) * q) * 1.3, 0.8)
    elif pattern == WOOD:
        share = 0.6 * step(noise_at(noise, px * 9.0 + py * 9.0, pz * 130.0), 1.0)
    light = 1.0 + paints[i, GRAIN] * 0.55 * noise_at(noise, (px + py) * 60.0 + 17.0 * i, (pz - 0.4 * py) * 60.0)
    return scaled(mix(row(paints, i, 0), row(paints, i, 3), share), light)


@compiled
def unit_of(solids, i, k):
    """The length in metres of one unit along own axis k."""
    m = row(solids, i, MAP + 3 * k)
    return 1.0 / np.sqrt(dot(m, m))
