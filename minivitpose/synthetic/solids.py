"""The one kind of surface that everything is made of: a cone with rounded ends, stretched; also with flat ends; a box.

A solid is a row of a float64 table. Columns 1 to 12 hold a map from the world to the solid's own space, in which it is
simple: the convex hull of a ball of radius r1 about (0, 0, 0) and a ball of radius r2 about (0, 0, h); or, with flat
ends, the frustum between two discs there; or the cube from -1 to 1. A ray stays a ray in that space, and a point of it
keeps its parameter t, so one formula serves limbs, heads, hands and walls.
"""

import numpy as np

from minivitpose.synthetic.vectors import along, compiled, dot, minus, row, scaled, unit

ROUND, FLAT, BOX = 0, 1, 2
KIND, ORIGIN, MAP, R1, R2, LENGTH, OWNER, COLUMNS = 0, 1, 4, 13, 14, 15, 16, 17
NEAR = 10  # so many solids may blend into one
FAR = 1e9


def solid(kind, start, axis, hint, scale=(1, 1, 1), r1=1.0, r2=1.0, length=0.0):
    """A row before it is put in the table: see ``table``. A solid with round ends and no length is a ball."""
    return kind, start, axis, hint, scale, r1, r2, length


def cone(a, b, r1, r2, hint=(0, 1, 0.01), flatten=(1, 1), kind=ROUND):
    """From a ball (or disc) of radius r1 about a to one of r2 about b; flatten: factors across, along hint first."""
    axis = np.subtract(b, a)
    length = float(np.sqrt(axis @ axis))
    if kind == ROUND and abs(r1 - r2) >= 0.999 * length:  # one ball inside the other
        big = a if r1 > r2 else b
        return solid(ROUND, big, axis, hint, (max(r1, r2) * flatten[0], max(r1, r2) * flatten[1], max(r1, r2)))
    return solid(kind, a, axis, hint, (*flatten, 1), r1, r2, length)


def egg(centre, axes, radii):
    """An ellipsoid: axes (3, 3) as columns, three radii."""
    return solid(ROUND, centre, axes[:, 2], axes[:, 0], radii)


def box(centre, axes, half):
    """A cuboid: axes (3, 3) as columns, half its edges."""
    return solid(BOX, centre, axes[:, 2], axes[:, 0], half)


def table(rows, owner):
    """Rows of ``solid`` -> (P, COLUMNS) float64. Own z is along ``axis``, own x along ``hint`` as far as it can be."""
    kind, start, axis, hint, scale, r1, r2, length = (np.array(c, float) for c in zip(*rows, strict=True))
    z = axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-12)
    x = hint - z * (hint * z).sum(1, keepdims=True)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    y = z[:, [1, 2, 0]] * x[:, [2, 0, 1]] - z[:, [2, 0, 1]] * x[:, [1, 2, 0]]  # z cross x
    out = np.empty((len(rows), COLUMNS))
    out[:, KIND], out[:, ORIGIN : ORIGIN + 3] = kind, start
    out[:, MAP : MAP + 9] = (np.stack([x, y, z], 1) / scale[:, :, None]).reshape(-1, 9)
    out[:, R1], out[:, R2], out[:, LENGTH], out[:, OWNER] = r1, r2, length, owner
    return out


@compiled
def to_own(solids, i, d):
    """A direction of the world in the own space of solid i."""
    return (dot(row(solids, i, MAP), d), dot(row(solids, i, MAP + 3), d), dot(row(solids, i, MAP + 6), d))


@compiled
def hit_solid(solids, i, o, d):
    """Where the ray o + t d first enters solid i: t, FAR if it does not. Negative: behind o."""
    p, q = to_own(solids, i, minus(o, row(solids, i, ORIGIN))), to_own(solids, i, d)
    return hit(int(solids[i, KIND]), solids[i, R1], solids[i, R2], solids[i, LENGTH], p, q)


@compiled
def hit(kind, r1, r2, h, o, d):
    """The same in the solid's own space."""
    if kind == BOX:
        return hit_box(o, d)
    if kind == FLAT:
        return hit_frustum(r1, r2, h, o, d)
    if h == 0.0:
        return hit_ball(r1, o, d)
    return hit_rounded(r1, r2, h, o, d)


@compiled
def hit_ball(r, o, d):
    """A ball about (0, 0, 0)."""
    a, b, c = dot(d, d), dot(o, d), dot(o, o) - r * r
    q = b * b - a * c
    if q < 0.0:
        return FAR
    return (-b - np.sqrt(q)) / a


@compiled
def cross_cone(k, m, o, d):
    """Where a ray crosses x^2 + y^2 = (k - m z)^2: both t, or FAR, FAR."""
    w, v = k - m * o[2], -m * d[2]
    a = d[0] * d[0] + d[1] * d[1] - v * v
    b = o[0] * d[0] + o[1] * d[1] - w * v
    q = b * b - a * (o[0] * o[0] + o[1] * o[1] - w * w)
    if q < 0.0 or a == 0.0:
        return FAR, FAR
    root = np.sqrt(q)
    return (-b - root) / a, (-b + root) / a


@compiled
def hit_rounded(r1, r2, h, o, d):
    """Two balls and the mantle that touches both, from z = low to z = high."""
    sine = (r1 - r2) / h
    cosine = np.sqrt(1.0 - sine * sine)
    low, high = r1 * sine, h + r2 * sine
    best = FAR
    for t in cross_cone(r1 / cosine, sine / cosine, o, d):
        if t < best and low <= o[2] + t * d[2] <= high:
            best = t
    t = hit_ball(r1, o, d)
    if t < best and o[2] + t * d[2] <= low:
        best = t
    t = hit_ball(r2, (o[0], o[1], o[2] - h), d)
    if t < best and o[2] + t * d[2] >= high:
        best = t
    return best


@compiled
def hit_frustum(r1, r2, h, o, d):
    best = FAR
    for t in cross_cone(r1, (r1 - r2) / h, o, d):
        if t < best and 0.0 <= o[2] + t * d[2] <= h:
            best = t
    if d[2] != 0.0:
        for z, r in ((0.0, r1), (h, r2)):
            t = (z - o[2]) / d[2]
            x, y = o[0] + t * d[0], o[1] + t * d[1]
            if t < best and x * x + y * y <= r * r:
                best = t
    return best


@compiled
def hit_box(o, d):
    first, last = -FAR, FAR
    for k in range(3):
        if d[k] == 0.0:
            if abs(o[k]) > 1.0:
                return FAR
        else:
            a, b = (-1.0 - o[k]) / d[k], (1.0 - o[k]) / d[k]
            first, last = max(first, min(a, b)), min(last, max(a, b))
    return first if first <= last else FAR


@compiled
def surface(solids, i, x):
    """How far a point of the world is from solid i, about, and the outward normal (3,) there. Boxes and solids with
    flat ends: for points on the surface alone.
    """
    p = to_own(solids, i, minus(x, row(solids, i, ORIGIN)))
    kind, h, r1, r2 = int(solids[i, KIND]), solids[i, LENGTH], solids[i, R1], solids[i, R2]
    d = 0.0
    if kind == BOX:
        n = box_normal(p)
    elif kind == FLAT:
        n = frustum_normal(r1, r2, h, p)
    else:
        z = 0.0
        if h > 0.0:  # the foot on the axis of the perpendicular to the mantle
            sine = (r1 - r2) / h
            z = min(max(p[2] - np.sqrt((p[0] * p[0] + p[1] * p[1]) / (1.0 - sine * sine)) * sine, 0.0), h)
            r1 += (r2 - r1) * z / h
        n = (p[0], p[1], p[2] - z)
        d = np.sqrt(dot(n, n)) - r1
    n = unit(n)
    # A normal goes back to the world by the transposed map, which also says how long a step along it is there
    n = along(along(scaled(row(solids, i, MAP), n[0]), n[1], row(solids, i, MAP + 3)), n[2], row(solids, i, MAP + 6))
    length = max(np.sqrt(dot(n, n)), 1e-30)
    return d / length, scaled(n, 1.0 / length)


@compiled
def box_normal(p):
    a, b, c = abs(p[0]), abs(p[1]), abs(p[2])
    if a >= b and a >= c:
        return p[0], 0.0, 0.0
    if b >= c:
        return 0.0, p[1], 0.0
    return 0.0, 0.0, p[2]


@compiled
def frustum_normal(r1, r2, h, p):
    across = np.sqrt(p[0] * p[0] + p[1] * p[1])
    if p[2] < 1e-6 * h and across < r1 * 0.99999:
        return 0.0, 0.0, -1.0
    if p[2] > h * (1 - 1e-6) and across < r2 * 0.99999:
        return 0.0, 0.0, 1.0
    return p[0], p[1], across * (r1 - r2) / h


@compiled
def blended_normal(solids, near, i, x, reach):
    """The normal at a point of solid i, smoothed where its neighbours are closer than ``reach`` metres."""
    _, n = surface(solids, i, x)
    for k in range(NEAR):
        j = near[i, k]
        if j < 0:
            break
        d, m = surface(solids, j, x)
        w = 1.0 - max(d, 0.0) / reach
        if w > 0.0:
            n = along(n, w * w, m)
    return unit(n)
