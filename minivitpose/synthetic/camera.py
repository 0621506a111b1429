"""A pinhole camera: from metres to pixels, and the rays that go back.

The world's x runs to the right of the picture, y away from the camera, z up. A pixel is a point, as in pose/crop.py:
the picture's middle is ((W - 1) / 2, (H - 1) / 2). A ray is o + t d with d so long that t is the depth in metres.
"""

from dataclasses import dataclass

import numpy as np

from minivitpose.synthetic.body import about_x, about_y, about_z
from minivitpose.synthetic.solids import BOX, FLAT, KIND, LENGTH, MAP, ORIGIN, R1, R2
from minivitpose.synthetic.vectors import compiled, dot, minus, row

LARGE = 1e9  # pixels


@dataclass(frozen=True)
class Camera:
    """place (3,) metres; axes (3, 3): rows are the camera's right, down and forward in the world; focal in pixels;
    size (height, width) of the picture.
    """

    place: np.ndarray
    axes: np.ndarray
    focal: float
    size: tuple

    @property
    def middle(self):
        return (self.size[1] - 1) / 2, (self.size[0] - 1) / 2

    def project(self, points):
        """Points (..., 3) in metres -> (..., 2) x, y in pixels, and depths (...) in metres."""
        seen = (np.asarray(points) - self.place) @ self.axes.T
        depth = np.maximum(seen[..., 2], 0.05)  # what is behind the camera lies far outside the picture
        return seen[..., :2] / depth[..., None] * self.focal + self.middle, seen[..., 2]


def look(place, pitch, yaw, roll, focal, size):
    """A camera turned down by pitch, left by yaw, clockwise by roll; degrees."""
    turn = about_z(yaw) @ about_x(-pitch) @ about_y(roll)
    right, forward, up = turn.T
    return Camera(np.asarray(place, float), np.stack([right, -up, forward]), focal, size)


def rays(camera, corner=(0.0, 0.0), pitch=(1.0, 1.0)):
    """Rays of a grid of points of the picture, linear in column i and row j -> (6, 3): o, o_i, o_j, d, d_i, d_j.

    corner: where column 0, row 0 lies in the picture; pitch: how far apart columns and rows lie. Both x, y in pixels.
    """
    u, v = (np.array(corner) - camera.middle) / camera.focal
    du, dv = np.array(pitch) / camera.focal
    right, down, forward = camera.axes
    still = np.zeros(3)
    return np.array([camera.place, still, still, forward + u * right + v * down, du * right, dv * down])


def sunbeams(toward, centre, radius, n):
    """Parallel rays, n x n over a square of 2 radius about a point, from the light to the scene -> (6, 3) as ``rays``.

    toward (3,): unit vector to the light. Also the (3, 4) map from a point to column, row and t.
    """
    right = np.cross(toward, [0.0, 1.0, 0.02])
    right /= np.linalg.norm(right)
    down = np.cross(toward, right)
    start = centre + toward * 20.0
    cell = 2 * radius / (n - 1)
    still = np.zeros(3)
    beams = np.array([start - radius * (right + down), cell * right, cell * down, -toward, still, still])
    back = np.stack([right / cell, down / cell, -toward])
    return beams, np.concatenate([back, -(back @ beams[0])[:, None]], 1)


@compiled
def seen_ends(solids, i, place, axes, e):
    """The ends of solid i as a camera at ``place`` sees them: e (2, 3, 4), for each end and each of the camera's axes
    the half axes of its ellipsoid or disc, then its centre. -> 1 or 2, how many there are. A box has the ball around.
    """
    for k in range(3):
        m = row(solids, i, MAP + 3 * k)
        square = dot(m, m)
        for a in range(3):  # a column of the map from the solid's own space to the world, as the camera sees it
            e[0, a, k] = dot(row(axes, a, 0), m) / square
    ends = 2 if solids[i, LENGTH] > 0.0 else 1
    for end in range(ends - 1, -1, -1):
        r = solids[i, R2] if end else solids[i, R1]
        if solids[i, KIND] == BOX:
            r = 1.7320508
        for a in range(3):
            start = dot(row(axes, a, 0), minus(row(solids, i, ORIGIN), place))
            e[end, a, 3] = start + e[0, a, 2] * solids[i, LENGTH] * end
            for k in range(3):
                e[end, a, k] = e[0, a, k] * (0.0 if solids[i, KIND] == FLAT and k == 2 else r)
    return ends


@compiled
def fill_extent(solids, place, axes, focal, middle, parallel, e, out):
    """Fill out (P, 5): see ``extent``; e (2, 3, 4) is for the work in between.

    Exact for solids with round or flat ends (the hull of two ellipsoids or discs), not for solids that reach behind the
    camera: these get the largest rectangle. ``parallel``: parallel rays, axes in pixels a metre.
    """
    for i in range(len(solids)):
        out[i, 0], out[i, 1], out[i, 2], out[i, 3], out[i, 4] = LARGE, LARGE, -LARGE, -LARGE, LARGE
        for end in range(seen_ends(solids, i, place, axes, e)):
            z, depths = e[end, 2, 3], row(e[end], 2, 0)
            zz = dot(depths, depths)
            out[i, 4] = min(out[i, 4], z - np.sqrt(zz))
            for a in range(2):
                p, half = e[end, a, 3], row(e[end], a, 0)
                aa, az = dot(half, half), dot(half, depths)
                if parallel:
                    low, high = p - np.sqrt(aa), p + np.sqrt(aa)
                elif z * z - zz < 1e-6 or z < 0.0:
                    low, high = -LARGE, LARGE
                else:  # planes through the camera that touch the ellipsoid: a quadratic in their slope
                    A, B = z * z - zz, p * z - az
                    root = np.sqrt(max(B * B - A * (p * p - aa), 0.0))
                    low, high = (B - root) / A * focal + middle[a], (B + root) / A * focal + middle[a]
                out[i, a] = min(out[i, a], low)
                out[i, a + 2] = max(out[i, a + 2], high)


def extent(solids, place, axes, focal=1.0, middle=(0.0, 0.0), parallel=False):
    """The rectangle that each solid covers -> (P, 5) float64: left, top, right, bottom in pixels, the nearest depth."""
    out = np.empty((len(solids), 5))
    fill_extent(solids, place, axes, focal, middle, parallel, np.empty((2, 3, 4)), out)
    return out


def extents(camera, solids):
    """The same in a camera's picture."""
    return extent(solids, camera.place, camera.axes, camera.focal, camera.middle)
