"""The light that comes back along a ray: sun with a soft shadow, sky, the ground's reflection, gloss and haze.

A lamp is an array (7, 4). Rows 0 to 3: the unit vector to the sun, then the light (r, g, b) of the sun, of the sky and
of the ground. Rows 4 to 6: the map from a point to the shadow map's column, row and depth.
"""

import numpy as np

from minivitpose.synthetic.background import (
    BACK,
    GROUND,
    HAZE,
    SKIRTING,
    SKY,
    WALLS,
    decal_colour,
    sky_colour,
    surface_colour,
)
from minivitpose.synthetic.paint import GLOSS, colour_at
from minivitpose.synthetic.solids import FAR, blended_normal
from minivitpose.synthetic.vectors import along, compiled, dot, minus, mix, row, scaled, times, unit

REACH = 0.035  # metres over which the surfaces of neighbouring solids flow into each other
TO_SUN, SUN, SKYLIGHT, BOUNCE, TO_SHADOW = 0, 1, 2, 3, 4  # rows of a lamp


@compiled
def lit(shadow, lamp, x, bias):
    """The share of the sun that reaches a point, 0 to 1: 4 x 4 looks at the shadow map, weighted to be smooth."""
    n = shadow.shape[0]
    u = dot(row(lamp, TO_SHADOW, 0), x) + lamp[TO_SHADOW, 3]
    v = dot(row(lamp, TO_SHADOW + 1, 0), x) + lamp[TO_SHADOW + 1, 3]
    t = dot(row(lamp, TO_SHADOW + 2, 0), x) + lamp[TO_SHADOW + 2, 3] - bias
    if not (2.0 < u < n - 4.0 and 2.0 < v < n - 4.0):
        return 1.0
    i, j = int(v), int(u)
    b, a = v - i, u - j
    total = 0.0
    for k in range(-1, 3):
        wk = 1.0 - b if k == -1 else (b if k == 2 else 1.0)
        for l in range(-1, 3):
            if shadow[i + k, j + l] > t:
                wl = 1.0 - a if l == -1 else (a if l == 2 else 1.0)
                total += wk * wl
    return total / 9.0


@compiled
def open_sky(balls, x, n):
    """How much of the sky a point with normal n sees past the balls that stand for the people, 0 to 1."""
    light = 1.0
    for k in range(len(balls)):
        d = minus(row(balls, k, 0), x)
        square, r = dot(d, d), balls[k, 3] * balls[k, 3]
        if square < 36.0 * r:
            square = max(square, 1.2 * r)
            light *= 1.0 - 0.9 * min(r / square * max(dot(d, n) / np.sqrt(square), 0.0), 1.0)
    return light


@compiled
def ambient(lamp, n):
    """The light (3,) of sky and ground on a surface with this normal."""
    return mix(row(lamp, BOUNCE, 0), row(lamp, SKYLIGHT, 0), 0.5 + 0.5 * n[2])


@compiled
def solid_light(solids, paints, near, i, o, d, t, pixel, lamp, shadow, noise):
    """The light (3,) that solid i sends back along a ray o + t d; pixel: metres that a pixel covers at depth 1."""
    x = along(o, t, d)
    n = blended_normal(solids, near, i, x, REACH)
    colour = colour_at(solids, paints, i, x, pixel * t, noise)
    toward = unit(d)
    sun = max((dot(n, row(lamp, TO_SUN, 0)) + 0.15) / 1.15, 0.0)  # wrapped a little, as on skin and cloth
    if sun > 0.0:
        sun *= lit(shadow, lamp, along(x, 0.02, n), 0.03)
    rim = 0.62 + 0.38 * min(max(-1.4 * dot(n, toward), 0.0), 1.0)  # little sky reaches folds and far edges
    low = min(1.0, 0.72 + 0.5 * x[2])  # nor what is near the ground
    light = along(scaled(ambient(lamp, n), rim * low), sun, row(lamp, SUN, 0))
    back = times(colour, light)
    gloss = paints[i, GLOSS]
    if gloss > 0.0 and sun > 0.0:
        half = max(dot(n, unit(minus(row(lamp, TO_SUN, 0), toward))), 0.0)
        back = along(back, 0.6 * gloss * sun * half**24, row(lamp, SUN, 0))
    return back


@compiled
def stage_light(surfaces, decals, stage, balls, code, o, d, t, pixel, lamp, shadow, noise):
    """The light (3,) from what is behind everybody, see ``background.behind``: ground, walls or sky."""
    which, decal = (-1 - code) % WALLS, (-1 - code) // WALLS - 1
    if which == SKY:
        return sky_colour(surfaces, stage, d, noise)
    x, slant, glow = along(o, t, d), np.sqrt(dot(d, d)), 0.0
    if which == GROUND:
        n, u, v = (0.0, 0.0, 1.0), x[0], x[1]
        size = 0.6 * pixel * t * min(slant / max(-d[2], 1e-3), 12.0)
    elif which == BACK:
        n, u, v = (0.0, -1.0, 0.0), x[0], x[2]
        size = pixel * t * slant / d[1]
    else:
        n, u, v = (1.0 if d[0] < 0.0 else -1.0, 0.0, 0.0), x[1], x[2]
        size = pixel * t * slant / abs(d[0])
    if decal >= 0:
        colour, glow = decal_colour(decals, decal, u, v, size, noise)
    else:
        colour = surface_colour(surfaces, which, u, v, size, noise)
        if which != GROUND and v < stage[SKIRTING]:
            colour = along((0.05, 0.05, 0.05), 0.7, colour)
    sun = max(dot(n, row(lamp, TO_SUN, 0)), 0.0)
    if sun > 0.0:
        sun *= lit(shadow, lamp, x, 0.02)
    dark = open_sky(balls, x, n) * corners(stage, which, x)
    light = along(scaled(ambient(lamp, n), dark * (1.0 - glow)), sun, row(lamp, SUN, 0))
    back = times(colour, (light[0] + glow, light[1] + glow, light[2] + glow))
    if stage[HAZE] > 0.0:
        back = mix(back, row(surfaces, SKY, 6), 1.0 - np.exp(-t * stage[HAZE]))
    return back


@compiled
def corners(stage, which, x):
    """Rooms are darker where walls and the floor meet."""
    if which == GROUND:
        return 1.0 - 0.3 * np.exp(-2.5 * max(stage[0] - x[1], 0.0)) if stage[0] < FAR else 1.0
    dark = min(1.0, 0.75 + 0.25 * x[2])
    if stage[0] < FAR:
        dark *= 1.0 - 0.25 * np.exp(-2.0 * min(abs(x[0] - stage[1]), abs(x[0] - stage[2])))
    return dark
