"""Draws a window of a scene: which solid each pixel sees, the light from there, smooth edges, a camera's film.

Rays start in each solid's rectangle only, so a solid costs what it covers. Edges, where neighbouring pixels see
different things, are drawn again with four rays a pixel.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from minivitpose.synthetic.background import NOISE, SHIFT, behind
from minivitpose.synthetic.camera import LARGE, Camera, extent, extents, rays, sunbeams
from minivitpose.synthetic.light import solid_light, stage_light
from minivitpose.synthetic.solids import FAR, KIND, LENGTH, ORIGIN, OWNER, R1, R2, hit, hit_solid, to_own
from minivitpose.synthetic.textures import lot
from minivitpose.synthetic.vectors import along, compiled, minus, row

SHADOW = 176  # cells of the shadow map along a side
NEAREST = 0.02  # metres: what is closer to the camera is not drawn


@dataclass(frozen=True)
class World:
    """All that can be drawn. solids (P, COLUMNS), paints (P, n), near (P, NEAR): see figure.py. surfaces, decals,
    stage: see background.py. light (4, 3): the first rows of a lamp, see light.py. balls (n, 4): centre and radius of
    what darkens the ground near it; focus (4,): centre and radius in metres of what casts shadows; grain: of the film.
    """

    solids: np.ndarray
    paints: np.ndarray
    near: np.ndarray
    surfaces: np.ndarray
    decals: np.ndarray
    stage: np.ndarray
    light: np.ndarray
    balls: np.ndarray
    focus: np.ndarray
    grain: float
    camera: Camera


@compiled
def window(low, high, corner, pitch, n):
    """The first and the last of n pixels that lie between low and high."""
    first = int(np.ceil((max(low, -LARGE / 2) - corner) / pitch))
    last = int(np.floor((min(high, LARGE / 2) - corner) / pitch))
    return max(first, 0), min(last, n - 1)


@compiled
def cast(solids, boxes, beams, corner, pitch, depth, seen):
    """The nearest solid on each ray: depth (H, W) and seen (H, W) are updated where a solid is nearer.

    boxes (P, >= 4): rectangles in pixels of the picture, where column j lies at corner[0] + j pitch[0].
    """
    H, W = depth.shape
    for i in range(len(solids)):
        left, right = window(boxes[i, 0], boxes[i, 2], corner[0], pitch[0], W)
        top, low = window(boxes[i, 1], boxes[i, 3], corner[1], pitch[1], H)
        kind, r1, r2, h = int(solids[i, KIND]), solids[i, R1], solids[i, R2], solids[i, LENGTH]
        o = to_own(solids, i, minus(row(beams, 0, 0), row(solids, i, ORIGIN)))
        oi, oj = to_own(solids, i, row(beams, 1, 0)), to_own(solids, i, row(beams, 2, 0))
        d, di, dj = (
            to_own(solids, i, row(beams, 3, 0)),
            to_own(solids, i, row(beams, 4, 0)),
            to_own(solids, i, row(beams, 5, 0)),
        )
        for y in range(top, low + 1):
            p, q = along(o, y, oj), along(d, y, dj)
            for x in range(left, right + 1):
                t = hit(kind, r1, r2, h, along(p, x, oi), along(q, x, di))
                if NEAREST < t < depth[y, x]:
                    depth[y, x], seen[y, x] = t, i


@compiled
def neighbours(seen, y, x, others):
    """The different things that a pixel and its neighbours see -> their number; others (9,) is filled with them."""
    H, W = seen.shape
    if 0 < y < H - 1 and 0 < x < W - 1:  # mostly the same all around
        a, b, c, d = seen[y - 1, x], seen[y + 1, x], seen[y, x - 1], seen[y, x + 1]
        if a == b and b == c and c == d and d == seen[y, x]:
            return 1
    n = 0
    for j in range(max(y - 1, 0), min(y + 2, H)):
        for i in range(max(x - 1, 0), min(x + 2, W)):
            known = False
            for k in range(n):
                known = known or others[k] == seen[j, i]
            if not known:
                others[n] = seen[j, i]
                n += 1
    return n


@compiled
def first_of(solids, others, n, decals, stage, o, d):
    """The nearest of n things on a ray: t, what it is, and its place among them, 9 if it is not one of them."""
    best, found, place = FAR, -1, 9
    for k in range(n):
        if others[k] >= 0:
            t = hit_solid(solids, others[k], o, d)
            if NEAREST < t < best:
                best, found, place = t, others[k], k
    if found < 0:
        best, found = behind(decals, stage, o, d)
        for k in range(n):
            if others[k] == found:
                place = k
    return best, found, place


@compiled
def look_behind(decals, stage, beams, depth, seen):
    """Fill in what the pixels see that see no solid: see ``background.behind``."""
    H, W = depth.shape
    o, d, di, dj = row(beams, 0, 0), row(beams, 3, 0), row(beams, 4, 0), row(beams, 5, 0)
    for y in range(H):
        for x in range(W):
            if seen[y, x] < 0:
                depth[y, x], seen[y, x] = behind(decals, stage, o, along(along(d, x, di), y, dj))


@compiled
def shade(tables, beams, pixel, lamp, shadow, noise, depth, seen, work, out):
    """The light of each pixel: out (H, W, 3) float32. pixel: metres that a pixel covers at depth 1; work: three arrays
    for what a pixel and its neighbours see: (9,) and (10,) int32, (10, 3) float64.
    """
    H, W = depth.shape
    solids, paints, near, surfaces, decals, stage, balls = tables
    o, middle, di, dj = row(beams, 0, 0), row(beams, 3, 0), row(beams, 4, 0), row(beams, 5, 0)
    others, known, colours = work
    for y in range(H):
        for x in range(W):
            n = neighbours(seen, y, x, others)
            count = 4 if n > 1 else 1
            for k in range(n):
                known[k] = 0
            r = g = b = 0.0
            for k in range(count):
                d = along(along(middle, x, di), y, dj)
                t, found, place = depth[y, x], seen[y, x], 0
                if n > 1:  # a turned square of four points; what it meets twice is lit once
                    d = along(along(d, (0.125, 0.375, -0.375, -0.125)[k], di), (-0.375, 0.125, -0.125, 0.375)[k], dj)
                    t, found, place = first_of(solids, others, n, decals, stage, o, d)
                if known[place] == 0 or place == 9:
                    if found >= 0:
                        c = solid_light(solids, paints, near, found, o, d, t, pixel, lamp, shadow, noise)
                    else:
                        c = stage_light(surfaces, decals, stage, balls, found, o, d, t, pixel, lamp, shadow, noise)
                    known[place] = 1
                    colours[place, 0], colours[place, 1], colours[place, 2] = c
                r, g, b = r + colours[place, 0], g + colours[place, 1], b + colours[place, 2]
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = r / count, g / count, b / count


@compiled
def develop(light, corner, pitch, size, grain, noise, shift, pixels):
    """Light -> pixels (H, W, 3) uint8 as a screen shows them, with grain and dark corners. Beyond the picture, whose
    size is (height, width), lies black: as in pose/crop.py, the last pixel fades into it over one pixel.
    """
    H, W, _ = light.shape
    height, width = size
    for y in range(H):
        v = corner[1] + y * pitch[1]
        ky = min(max(min(v + 1.0, height - v), 0.0), 1.0)
        for x in range(W):
            u = corner[0] + x * pitch[0]
            kx = min(max(min(u + 1.0, width - u), 0.0), 1.0)
            a, b = u / width - 0.5, v / height - 0.5
            fall = 1.0 - 0.35 * (a * a + b * b)
            speck = grain * (lot(noise, x + shift, y) + lot(noise, y + 3 * shift, x + 50) - 1.0)
            for c in range(3):
                value = max(light[y, x, c], 0.0) * fall
                value = 1.25 * value
                value = np.sqrt(value * (1.0 + 0.16 * value) / (1.0 + 0.40 * value))  # bright light saturates softly
                value = (value + speck) * kx * ky
                pixels[y, x, c] = np.uint8(min(max(value * 255.0 + 0.5, 0.0), 255.0))


def shadow_map(world):
    """How far each sunbeam comes -> (SHADOW, SHADOW) float64, and the lamp of light.py that goes with it."""
    beams, back = sunbeams(world.light[0], world.focus[:3], world.focus[3], SHADOW)
    boxes = extent(world.solids, beams[0], np.ascontiguousarray(back[:, :3]), parallel=True)
    depth, seen = np.full((SHADOW, SHADOW), FAR), np.full((SHADOW, SHADOW), -1, np.int32)
    cast(world.solids, boxes, beams, (0.0, 0.0), (1.0, 1.0), depth, seen)
    lamp = np.zeros((7, 4))
    lamp[:4, :3], lamp[4:] = world.light, back
    return depth, lamp


def first_hits(world, size, corner=(0.0, 0.0), pitch=(1.0, 1.0)):
    """Depth (H, W) float64 in metres and the index of the solid that each pixel sees (H, W) int32, -1 for none."""
    depth, seen = np.full(size, FAR), np.full(size, -1, np.int32)
    boxes, beams = extents(world.camera, world.solids), rays(world.camera, corner, pitch)
    cast(world.solids, boxes, beams, tuple(map(float, corner)), tuple(map(float, pitch)), depth, seen)
    return depth, seen


def balls_near(world, size, corner, pitch):
    """The balls that can darken a part of this window: the others lie further beside it than half its size."""
    at = (world.camera.project(world.balls[:, :3])[0] - corner) / pitch / (size[1], size[0])
    return world.balls[((at > -0.5) & (at < 1.5)).all(1)]


def draw(world, size, corner=(0.0, 0.0), pitch=(1.0, 1.0)):
    """A window of the world's picture -> (H, W, 3) uint8.

    size (H, W) of the window; corner: where its first pixel lies in the picture, pitch: how far apart its pixels lie.
    """
    return exposure(world, size, corner, pitch)()


def exposure(world, size, corner=(0.0, 0.0), pitch=(1.0, 1.0)):
    """The same, all but the drawing: a function without arguments that draws, one compiled call without the GIL.

    So threads draw side by side, and none waits while another lays out a scene in Python.
    """
    # Only what lies in the picture: a crop at the border is black beyond it
    (top, low), (left, right) = (inside(corner[k], pitch[k], size[1 - k], world.camera.size[1 - k]) for k in (1, 0))
    pixels = np.zeros((*size, 3), np.uint8)
    if not (top < low and left < right):
        return lambda: pixels
    start = float(corner[0] + left * pitch[0]), float(corner[1] + top * pitch[1])
    part = exposure_inside(world, (low - top, right - left), start, tuple(map(float, pitch)))

    def run():
        pixels[top:low, left:right] = part()
        return pixels

    return run


def inside(corner, pitch, n, side):
    """Which of n pixels from ``corner`` on lie less than a pixel beyond a picture of this side -> first, last + 1."""
    return max(0, math.floor((-1 - corner) / pitch) + 1), min(n, math.ceil((side - corner) / pitch))


def exposure_inside(world, size, corner, pitch):
    """The same for a window in the picture."""
    w, camera = world, world.camera
    shadow, lamp = shadow_map(world)
    tables = w.solids, w.paints, w.near, w.surfaces, w.decals, w.stage, balls_near(w, size, corner, pitch)
    view = extents(camera, w.solids), rays(camera, corner, pitch), corner, pitch, pitch[1] / camera.focal
    film = tuple(map(int, camera.size)), float(w.grain), NOISE, int(w.stage[SHIFT])
    return partial(expose, tables, view, lamp, shadow, film, np.empty((*size, 3), np.uint8))


@compiled
def expose(tables, view, lamp, shadow, film, pixels):
    """Everything from rays to pixels (H, W, 3) uint8, which are filled and returned."""
    H, W, _ = pixels.shape
    solids, decals, stage = tables[0], tables[4], tables[5]
    boxes, beams, corner, pitch, pixel = view
    size, grain, noise, shift = film
    depth, seen = np.full((H, W), FAR), np.full((H, W), np.int32(-1))
    cast(solids, boxes, beams, corner, pitch, depth, seen)
    look_behind(decals, stage, beams, depth, seen)
    light = np.empty((H, W, 3), np.float32)
    work = np.empty(9, np.int32), np.zeros(10, np.int32), np.empty((10, 3))
    shade(tables, beams, pixel, lamp, shadow, noise, depth, seen, work, light)
    develop(light, corner, pitch, size, grain, noise, shift, pixels)
    return pixels


@compiled
def hidden(solids, place, points, owner, tolerance, found):
    """found (K,): 1 where a point is hidden from the camera, 0 where it is not.

    A solid hides a point that lies behind its surface, on the line from the camera; one of the person's own only if
    the surface is more than the point's tolerance, in metres, before the point.
    """
    o = (place[0], place[1], place[2])
    for k in range(len(points)):
        d = minus(row(points, k, 0), o)
        away = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        found[k] = 0
        for i in range(len(solids)):
            own = int(solids[i, OWNER]) == owner
            if 0.0 < hit_solid(solids, i, o, d) < (1.0 - tolerance[k] / away if own else 1.0):
                found[k] = 1
                break
