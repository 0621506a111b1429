"""Textures of floors and walls: how much of a surface's other colour there is at a point, and how light it is.

All are functions of u and v, in units of the surface's own, and of ``blur``, the units that a pixel covers: far away,
where a pixel covers whole tiles, only their mean is left.
"""

import numpy as np

from minivitpose.synthetic.paint import TILE, noise_at
from minivitpose.synthetic.vectors import compiled, step, wave

(PLAIN, MOTTLED, PLANKS, TILES, BRICKS, GRASS, STRIPES, BOARD, HEXAGONS, TERRAZZO, MARBLE, BLOBS, HERRING) = range(13)


@compiled
def lot(noise, a, b):
    """A number that belongs to a cell: 0 to 1, unrelated to that of the next cell."""
    i, j = int(a), int(b)
    x = 13.37 * noise[(i * 57 + j * 131) & (TILE - 1), (i * 101 + j * 37 + 11) & (TILE - 1)]
    return x - np.floor(x)


@compiled
def line(x, half, blur):
    """1 on the lines at whole numbers, 0 away from them."""
    d = abs(x - np.floor(x + 0.5))
    return 1.0 - step(d - half, max(blur, 0.01))


@compiled
def texture(kind, u, v, blur, noise):
    """share of the other colour, 0 to 1, and light, about 1."""
    fade = 1.0 / (1.0 + 9.0 * blur * blur)
    if kind in (PLANKS, HERRING):
        return planks(kind, u, v, blur, fade, noise)
    if kind in (TILES, BRICKS, BOARD, HEXAGONS):
        return tiles(kind, u, v, blur, fade, noise)
    if kind == STRIPES:
        stripe = step(wave(u), max(2.0 * blur, 0.05)) - 0.5
        return 0.5 + stripe * fade, 1.0 + 0.04 * noise_at(noise, u * 11.0, v * 11.0)
    return clouds(kind, u, v, fade, noise)


@compiled
def planks(kind, u, v, blur, fade, noise):
    """Boards of length 5 in rows of height 1; for HERRING lengthwise and across in turn."""
    if kind == HERRING and (int(np.floor(u / 4.0)) + int(np.floor(v / 4.0))) % 2 == 0:
        u, v = v, u
    row = np.floor(v)
    along = u / 5.0 + lot(noise, row, 3.0)
    gap = max(line(v, 0.02, blur), line(along, 0.004, blur / 5.0))
    grain = noise_at(noise, u * 3.0 + 40.0 * row, v * 22.0)
    share = 0.25 + 0.5 * lot(noise, row, np.floor(along)) + 0.25 * grain
    return 0.5 + (share - 0.5) * (0.3 + 0.7 * fade), 1.0 - 0.45 * gap * fade


@compiled
def tiles(kind, u, v, blur, fade, noise):
    """Tiles with joints between them, each a little lighter or darker than the next; BOARD has two colours."""
    if kind == BOARD:
        a, b = step(wave(u), max(4.0 * blur, 0.03)) * 2.0 - 1.0, step(wave(v), max(4.0 * blur, 0.03)) * 2.0 - 1.0
        return 0.5 + 0.5 * a * b * fade, 1.0 + 0.05 * noise_at(noise, u * 15.0, v * 15.0)
    if kind == HEXAGONS:
        b, c = 0.5 * u + 0.866 * v, 0.5 * u - 0.866 * v
        joint = max(line(u, 0.03, blur), max(line(b, 0.03, blur), line(c, 0.03, blur)))
        own = lot(noise, np.floor(u) + 7.0 * np.floor(b), np.floor(c))
        return joint * fade, 1.0 + 0.25 * (own - 0.5) * fade
    row = np.floor(v)
    if kind == BRICKS:
        u = u / 2.2 + 0.5 * (row % 2)
    joint = max(line(u, 0.025, blur), line(v, 0.04 if kind == BRICKS else 0.025, blur))
    tint = 0.22 * (lot(noise, np.floor(u), row) - 0.5) + 0.08 * noise_at(noise, u * 17.0, v * 17.0)
    return joint * fade + 0.08 * (1.0 - fade), 1.0 + tint * (0.2 + 0.8 * fade)


@compiled
def clouds(kind, u, v, fade, noise):
    """All that is made of noise alone."""
    if kind == MOTTLED:
        return 0.5 + 0.5 * noise_at(noise, u * 9.0, v * 9.0), 1.0 + 0.10 * fade * noise_at(noise, u * 61.0, v * 61.0)
    if kind == GRASS:
        fine = noise_at(noise, u * 90.0, v * 50.0) * fade
        return 0.5 + 0.35 * noise_at(noise, u * 6.0, v * 6.0) + 0.3 * fine, 1.0 + 0.30 * fine
    if kind == TERRAZZO:
        light, dark = noise_at(noise, u * 31.0, v * 31.0), noise_at(noise, v * 19.0, u * 19.0)
        chips = min(step(light - 0.55, 0.1) + step(-dark - 0.6, 0.1), 1.0)
        return chips * fade + 0.2 * (1.0 - fade), 1.0 + 0.08 * noise_at(noise, u * 3.0, v * 3.0)
    if kind == MARBLE:
        bend = noise_at(noise, u * 5.0, v * 5.0)
        vein = 1.0 - step(abs(wave(0.7 * u + 0.5 * v + 0.8 * bend)) - 0.06, 0.12)
        return vein * fade, 1.0 + 0.1 * bend
    if kind == BLOBS:
        blob = step(noise_at(noise, u * 4.0 + 3.0, v * 4.0) - 0.15, 0.05)
        return blob, 1.0 + 0.06 * noise_at(noise, u * 25.0, v * 25.0)
    return 0.2 * noise_at(noise, u * 2.0, v * 2.0), 1.0 + 0.03 * noise_at(noise, u * 30.0, v * 30.0)
