"""Poses drawn on a picture: pixels in, pixels out, every edge smooth.

A stroke covers a pixel as far as the pixel's centre lies inside it, counted over one pixel: 1 half a pixel within the
edge, 0 half a pixel without. So nothing is drawn larger and scaled down, and only the pixels near a stroke are touched.
Left is blue with round joints, right orange with square ones: safe for the colour-blind.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from minivitpose.files import replacing
from minivitpose.pose.image import as_image

PERSON = ((240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0), (0, 114, 178))  # Okabe and Ito, but the sides'
DARK = (20, 24, 31)
RIM = 0.85  # how much the dark rim of a stroke covers what is under it
FINE = 0.4  # the strokes of hand and face are so much thinner where the whole body is drawn
STRIP = 64  # rows of a long line that are drawn at a time
FAR = 1e7  # pixels; a keypoint beyond is none


def draw_poses(image, poses, skeleton, threshold=None, stroke=None):
    """The picture with everybody's limbs, joints and box.

    image (H, W, 3) uint8 RGB; poses a list of Pose; skeleton a Skeleton with as many keypoints -> a new array. Joints
    with a score below ``threshold``, and limbs that end there, are left out; None draws all. A box that is the whole
    picture is not drawn. stroke: the width of a limb in pixels; None goes by the person's size.
    Raises ImageError, and ValueError for a pose with another number of keypoints.
    """
    canvas = as_image(image).copy()
    for i, pose in enumerate(poses):
        width = stroke_width(image, pose.box) if stroke is None else stroke
        draw_box(canvas, pose.box, 0.3 * width, PERSON[i % len(PERSON)])
        draw_pose(canvas, pose, skeleton, threshold, width)
    return canvas


def stroke_width(image, box):
    """The width of a limb in pixels: it goes with the person's size, within limits that go with the picture's."""
    diagonal, person = math.hypot(*image.shape[:2]), math.hypot(*box[2:])
    return max(1.2, min(max(0.011 * person, 0.0015 * diagonal), 0.008 * diagonal))


def draw_box(canvas, box, width, colour):
    """The four sides of a box, none if it is the whole picture."""
    x, y, w, h = box
    height, across = canvas.shape[:2]
    if x <= 0 and y <= 0 and x + w >= across and y + h >= height:
        return
    corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    for a, b in sides:
        draw_line(canvas, a, b, max(width, 0.8), colour, rim=0.9 * width)


def draw_pose(canvas, pose, skeleton, threshold, width):
    """One person: limbs with a dark rim, which shows on light ground as the colour does on dark, and joints on top."""
    if len(pose.keypoints) != len(skeleton.keypoints):
        found, expected = len(pose.keypoints), len(skeleton.keypoints)
        raise ValueError(f"pose: found {found} keypoints, expected {expected} as in skeleton {skeleton.name!r}")
    seen = (np.abs(pose.keypoints) < FAR).all(axis=1)  # NaN is not
    if threshold is not None:
        seen &= pose.scores >= threshold
    widths, xy = width * fineness(skeleton), pose.keypoints.astype(np.float64)
    for (a, b), rgb in zip(skeleton.links, skeleton.link_colours, strict=True):
        if seen[a] and seen[b]:
            stroke = min(widths[a], widths[b])
            draw_line(canvas, xy[a], xy[b], stroke, rgb, rim=0.9 * stroke)
    for point, stroke, side, rgb, shown in zip(xy, widths, skeleton.sides, skeleton.colours, seen, strict=True):
        if shown:
            draw_joint(canvas, point, 2.5 * stroke, DARK, square=side == "right")
            draw_joint(canvas, point, 1.7 * stroke, rgb, square=side == "right")


def fineness(skeleton):
    """(K,): FINE for the keypoints of hand and face, 1 for the others, and for all where no body is around them."""
    body = any("shoulder" in name for name in skeleton.keypoints)
    fine = [body and any(part in name for part in ("face-", "hand_", "thumb", "finger")) for name in skeleton.keypoints]
    return np.where(fine, FINE, 1.0)


def draw_line(canvas, a, b, width, colour, rim=0.0):
    """A line with round ends from point a to point b, x, y in pixels, ``width`` wide, and ``rim`` more with its rim."""
    (ax, ay), reach = a, (width + rim) / 2 + 1
    length = math.hypot(b[0] - ax, b[1] - ay)
    ux, uy = ((b[0] - ax) / length, (b[1] - ay) / length) if length else (1, 0)
    top, bottom = inside(min(ay, b[1]) - reach, max(ay, b[1]) + reach, canvas.shape[0])
    for start in range(top, bottom, STRIP):  # the part of a slanting line in a strip of rows lies in few columns
        rows = np.arange(start, min(start + STRIP, bottom))
        columns = line_columns(a, b, reach, rows[0], rows[-1], canvas.shape[1])
        x, y = (columns - ax).astype(np.float32), (rows - ay).astype(np.float32)[:, None]
        along, across = x * np.float32(ux) + y * np.float32(uy), x * np.float32(uy) - y * np.float32(ux)
        beyond = along - np.clip(along, 0, np.float32(length))  # either end
        distance = np.sqrt(across * across + beyond * beyond)
        if rim:
            blend(canvas, rows, columns, DARK, RIM * np.clip((width + rim) / 2 + 0.5 - distance, 0, 1))
        blend(canvas, rows, columns, colour, np.clip(width / 2 + 0.5 - distance, 0, 1))


def line_columns(a, b, reach, first, last, limit):
    """The columns where pixels of the line from a to b, with ``reach`` around it, lie in rows first .. last."""
    (ax, ay), (dx, dy) = a, (b[0] - a[0], b[1] - a[1])
    ends = 0, 1
    if abs(dy) > 1e-9:  # where along the line it enters and leaves these rows
        ends = (min(max((row - ay) / dy, 0), 1) for row in (first - reach, last + reach))
    low, high = sorted(ax + t * dx for t in ends)
    return np.arange(*inside(low - reach, high + reach, limit))


def draw_joint(canvas, centre, size, colour, square=False):
    """A disc, or a square of about its area, around a point."""
    (x, y), reach = centre, size / 2 + 1
    rows = np.arange(*inside(y - reach, y + reach, canvas.shape[0]))
    columns = np.arange(*inside(x - reach, x + reach, canvas.shape[1]))
    across, down = np.abs(columns - x), np.abs(rows - y)[:, None]
    if square:
        half = 0.45 * size + 0.5
        covered = np.clip(half - across, 0, 1) * np.clip(half - down, 0, 1)
    else:
        covered = np.clip(size / 2 + 0.5 - np.hypot(across, down), 0, 1)
    blend(canvas, rows, columns, colour, covered)


def inside(low, high, limit):
    """The range of whole numbers from low to high, within 0 .. limit - 1, as for range(); empty if there is none."""
    start = min(max(math.floor(low), 0), limit)
    return start, max(start, min(math.ceil(high) + 1, limit))


def blend(canvas, rows, columns, colour, covered):
    """Lay a colour over the window of these rows (m,) and columns (n,); covered (m, n): 0 not at all, 1 wholly."""
    i, j = np.nonzero(covered)
    if len(i):
        window = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        under, share = window[i, j].astype(np.float32), covered[i, j, None].astype(np.float32)
        window[i, j] = np.rint(under + share * (np.float32(colour) - under))


# What is written for a picture file of this kind. 4:4:4 JPEG: else thin coloured strokes fade.
KINDS = {
    ".jpg": {"format": "JPEG", "quality": 90, "subsampling": 0},
    ".png": {"format": "PNG", "compress_level": 3},
    ".webp": {"format": "WEBP", "quality": 90},
}
KINDS[".jpeg"] = KINDS[".jpg"]


def save_picture(pixels, path):
    """Write (H, W, 3) uint8 RGB as the path's ending says: .jpg, .png or .webp; the whole file or none.

    Raises OSError, and ValueError for another ending.
    """
    path = Path(path)
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: expected an ending of {', '.join(KINDS)}, found {path.suffix!r}")
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, **kind)
