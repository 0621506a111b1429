"""What is behind the people: a floor or a lawn, walls with windows and pictures, or a sky over woods and houses.

Everything is a function of the ray, so it has the right perspective for any camera and costs a few lookups a pixel.
"""

import numpy as np

from minivitpose.synthetic.paint import TILE, noise_at
from minivitpose.synthetic.solids import FAR
from minivitpose.synthetic.textures import line, lot, texture
from minivitpose.synthetic.vectors import along, compiled, mix, row, scaled, step, wave

# What hangs on walls
WINDOW, PICTURE, DOOR, SHELF, POSTER = range(5)
# Columns of a surface: texture, metres a unit, cosine and sine of its turn, offset u, v, two colours, contrast
TEXTURE, UNIT, COS, SIN, OFF_U, OFF_V, COLOUR, OTHER, CONTRAST = (0, 1, 2, 3, 4, 5, 6, 9, 12)
GROUND, BACK, LEFT, RIGHT, SKY = range(5)  # rows of the table of surfaces
WALLS = 8  # more than there are surfaces: codes of decals count in steps of it
# Columns of a thing on a wall: wall, left, right, low, high in metres, kind, two colours, a number of its own
DECAL = 13
# Numbers of a stage: the walls' y, x, x (FAR: none), haze, kind of horizon, its height, its colour, the height of the
# skirting board, the turn of the horizon, the noise's offset
HAZE, HORIZON, HIGH, HORIZON_COLOUR, SKIRTING, TURN, SHIFT = 3, 4, 5, 6, 9, 10, 11
TREES, HOUSES, MOUNTAINS = 1, 2, 3


def noise_tile(n=TILE, seed=20):
    """Noise that repeats after n cells, with as much in coarse as in fine features -> (n, n) float32, about -1 to 1."""
    rng = np.random.Generator(np.random.PCG64(seed))
    total = np.zeros((n, n))
    for octave, weight in ((8, 1.0), (16, 0.8), (32, 0.6), (64, 0.5), (128, 0.45), (256, 0.5)):
        cells = rng.uniform(-1, 1, (octave, octave))
        place = np.arange(n) * octave / n
        i, share = place.astype(int), place % 1
        rows = cells[i] * (1 - share)[:, None] + cells[(i + 1) % octave] * share[:, None]
        total += weight * (rows[:, i] * (1 - share) + rows[:, (i + 1) % octave] * share)
    return (total / 1.6).astype(np.float32)


NOISE = noise_tile()


@compiled
def where(stage, o, d):
    """What a ray meets if nobody stands in its way: t and the row of the table of surfaces."""
    best, found = FAR, SKY
    if d[2] < -1e-9:
        best, found = -o[2] / d[2], GROUND
    if stage[0] < FAR and d[1] > 1e-9:
        t = (stage[0] - o[1]) / d[1]
        if 0.0 < t < best:
            best, found = t, BACK
    if stage[1] > -FAR and d[0] < -1e-9:
        t = (stage[1] - o[0]) / d[0]
        if 0.0 < t < best:
            best, found = t, LEFT
    if stage[2] < FAR and d[0] > 1e-9:
        t = (stage[2] - o[0]) / d[0]
        if 0.0 < t < best:
            best, found = t, RIGHT
    if found == GROUND and best > 400.0:
        found = SKY
    return best, found


@compiled
def behind(decals, stage, o, d):
    """The same: t and the code of what is met, -1 - surface - WALLS (number of the thing on it, from 1; 0: nothing)."""
    t, which = where(stage, o, d)
    code = -1 - which
    if which in (GROUND, SKY):
        return t, code
    x, y, z = along(o, t, d)
    u = x if which == BACK else y
    for k in range(len(decals)):
        if int(decals[k, 0]) == which and decals[k, 1] < u < decals[k, 2] and decals[k, 3] < z < decals[k, 4]:
            code = -1 - which - WALLS * (k + 1)
    return t, code


@compiled
def surface_colour(surfaces, which, u, v, size, noise):
    """The colour (3,) of the ground or a wall at u, v metres; size: metres that a pixel covers there."""
    one, cos, sin = surfaces[which, UNIT], surfaces[which, COS], surfaces[which, SIN]
    a = (cos * u + sin * v + surfaces[which, OFF_U]) / one
    b = (cos * v - sin * u + surfaces[which, OFF_V]) / one
    share, light = texture(int(surfaces[which, TEXTURE]), a, b, size / one, noise)
    share = min(max(share, 0.0), 1.0) * surfaces[which, CONTRAST]
    light = 1.0 + (light - 1.0) * surfaces[which, CONTRAST]
    light *= 1.0 + 0.10 * noise_at(noise, u * 1.7 + 31.0, v * 1.7 + 5.0)  # large soft stains: no wall is of one colour
    return scaled(mix(row(surfaces, which, COLOUR), row(surfaces, which, OTHER), share), light)


@compiled
def decal_colour(decals, k, u, v, size, noise):
    """The colour (3,) of thing k on a wall at u, v metres, and how much it glows by itself, 0 to 1."""
    wide, high = decals[k, 2] - decals[k, 1], decals[k, 4] - decals[k, 3]
    a, b = (u - decals[k, 1]) / wide, (v - decals[k, 3]) / high
    edge = min(min(a, 1.0 - a) * wide, min(b, 1.0 - b) * high)
    kind, own, other, number = int(decals[k, 5]), row(decals, k, 6), row(decals, k, 9), decals[k, 12]
    if kind == WINDOW:
        bars = max(line(a * number, 0.02 * number, 2.0 * size / wide * number), line(b * 2.0, 0.03, 4.0 * size / high))
        bars = max(bars, 1.0 - step(edge - 0.06, max(size, 0.005)))
        trees = step(noise_at(noise, u * 14.0, 3.0) * 0.25 + 0.35 - b, 0.06)
        sky = (0.55 + 0.3 * b + 0.15 * noise_at(noise, u * 20.0, v * 34.0), 0.75, 0.9)
        return mix(mix(sky, (0.12, 0.25, 0.1), trees), (0.75, 0.75, 0.73), bars), 0.75 * (1.0 - bars)
    if kind == SHELF:
        return books(own, b * number, edge, u, noise), 0.0
    inside = step(edge - 0.045, max(size, 0.004))  # of the frame
    if inside == 0.0:
        return own, 0.0
    if kind == DOOR:
        panel = max(line(a * 2.0, 0.06, 0.02), line(b * 2.0 + 0.1, 0.03, 0.02))
        face = scaled(other, 1.0 - 0.3 * panel)
    elif kind == PICTURE:
        x = 0.5 + 0.5 * noise_at(noise, u * 23.0 + 7.0 * number, v * 23.0)
        y = 0.5 + 0.5 * noise_at(noise, v * 17.0 + 5.0 * number, u * 17.0)
        face = (other[0] * x + 0.3 * y, other[1] * y + 0.2 * x, other[2] * (1.0 - x) + 0.2 * y)
    else:  # a poster
        face = mix(own, other, step(wave(b * number + 0.4 * wave(a)), max(0.2, 4.0 * size)))
    return mix(own, face, inside), 0.0


@compiled
def books(wood, height, edge, u, noise):
    """Rows of books on boards: height counts the boards."""
    board = np.floor(height)
    if edge < 0.03 or height - board < 0.08:
        return wood
    book = np.floor(u * 24.0)
    if height - board > 0.5 + 0.45 * lot(noise, book, board):
        return scaled(wood, 0.25)
    x, y = lot(noise, book + 5.0, board), lot(noise, book, board + 9.0)
    return 0.08 + 0.5 * x, 0.08 + 0.4 * y, 0.08 + 0.4 * (1.0 - x) * y


@compiled
def sky_colour(surfaces, stage, d, noise):
    """The colour (3,) of what is farther than everything: woods, houses or mountains on the horizon, and the sky."""
    flat = np.sqrt(d[0] * d[0] + d[1] * d[1])
    up = d[2] / flat
    if up < 1.4 * stage[HIGH]:
        light, green = horizon(int(stage[HORIZON]), stage[HIGH], np.arctan2(d[0], d[1]) + stage[TURN], up, noise)
        if light > 0.0:
            r, g, b = stage[HORIZON_COLOUR], stage[HORIZON_COLOUR + 1], stage[HORIZON_COLOUR + 2]
            return r * light, g * light * green, b * light
    sky = mix(row(surfaces, SKY, COLOUR), row(surfaces, SKY, OTHER), np.sqrt(min(max(up, 0.0) * 1.6, 1.0)))
    if up <= 0.01:
        return sky
    far = 9.0 / (up + 0.12)
    cloud = step(noise_at(noise, d[0] / flat * far, far) - 0.1, 0.5) * surfaces[SKY, CONTRAST] * min(1.0, 6.0 * up)
    return mix(sky, (0.95, 0.95, 0.95), cloud)


@compiled
def horizon(kind, high, angle, up, noise):
    """How light the horizon is in a direction (0: the sky is there), and a factor of its green."""
    if kind == TREES:
        edge = high * (0.7 + 0.35 * noise_at(noise, angle * 30.0, 3.0) + 0.12 * noise_at(noise, angle * 190.0, 9.0))
        if up < edge:
            leaf = 0.55 * noise_at(noise, angle * 210.0, up * 240.0) + 0.3 * noise_at(noise, angle * 60.0, up * 70.0)
            return (1.0 + leaf) * (0.55 + 0.45 * max(up / edge, 0.0)), 1.0
    elif kind == HOUSES:
        column = np.floor(angle * 9.0)
        if up < high * (0.35 + 1.1 * lot(noise, column, 2.0)):
            tint = 0.55 + 0.6 * lot(noise, column, 5.0)
            a, b = angle * 63.0, up * 42.0
            if 0.3 < a - np.floor(a) < 0.75 and 0.25 < b - np.floor(b) < 0.75:  # a window, perhaps lit
                tint *= 1.35 if lot(noise, np.floor(a), np.floor(b)) > 0.8 else 0.45
            return tint, 0.9 + 0.2 * lot(noise, column, 8.0)
    elif kind == MOUNTAINS:
        light = 1.0 + 0.25 * noise_at(noise, angle * 90.0, up * 130.0)
        if up < 0.55 * high * (0.75 + 0.5 * noise_at(noise, angle * 26.0, 49.0)):  # the nearer ones
            return 0.8 * light, 1.0
        if up < high * (0.75 + 0.5 * noise_at(noise, angle * 14.0, 40.0)):
            return 1.25 * light, 1.0
    return 0.0, 1.0
