"""Mistakes in the matrix of the crop."""

import numpy as np

from minivitpose.pose.crop import PADDING, centre_and_scale, crop_matrix
from minivitpose.teach.mistakes.table import mistake


def enlarged(box, size, grow=max, padding=PADDING):
    """centre and scale of the rectangle, as the crop has them if nothing is exchanged."""
    x, y, w, h = box
    aspect = size[1] / size[0]
    width, height = grow(w, h * aspect), grow(h, w / aspect)
    return (x + w / 2, y + h / 2), (width * padding, height * padding)


def axis_matrix(step, start):
    """u -> start + step u, for x and for y."""
    return np.array([[step[0], 0, start[0]], [0, step[1], start[1]]], np.float64)


@mistake("crop", "padding missing", "the box is not enlarged by 1.25", "Multiply width and height by 1.25.")
def _(box, size):
    return crop_matrix(*enlarged(box, size, padding=1), size)


@mistake("crop", "padding twice", "the box is enlarged by 1.25 twice", "Once: width and height of the shaped box.")
def _(box, size):
    return crop_matrix(*enlarged(box, size, padding=PADDING**2), size)


@mistake(
    "crop",
    "aspect fixed on the wrong side",
    "the longer side is cut, so that a part of the person is lost",
    "Enlarge the side that is too short: width = max(w, h W / H), height = max(h, w H / W).",
)
def _(box, size):
    return crop_matrix(*enlarged(box, size, min), size)


@mistake(
    "crop",
    "aspect not fixed",
    "the box keeps its own shape, so that the person is stretched",
    "First enlarge the shorter side to the crop's shape.",
)
def _(box, size):
    return crop_matrix(*enlarged(box, size, lambda own, _: own), size)


@mistake(
    "crop",
    "aspect by the height alone",
    "the width is always made from the height",
    "A box that is wider than the crop's shape keeps its width, and its height grows.",
)
def _(box, size):
    centre, (_, height) = enlarged(box, size, lambda own, _: own)
    return crop_matrix(centre, (height * size[1] / size[0], height), size)


@mistake(
    "crop",
    "width and height of the crop swapped",
    "size is read as (width, height)",
    "It is (height, width), as in an array's shape.",
)
def _(box, size):
    return crop_matrix(*centre_and_scale(box, size[::-1]), size[::-1])


@mistake(
    "crop",
    "box taken for two corners",
    "the last two numbers of the box are taken for its other corner",
    "A box is x, y, width, height.",
)
def _(box, size):
    x, y, right, bottom = box
    return crop_matrix(*centre_and_scale((x, y, right - x, bottom - y), size), size)


@mistake(
    "crop",
    "corner taken for the centre",
    "the box's corner is taken for its centre",
    "The centre is x + w / 2, y + h / 2.",
)
def _(box, size):
    return crop_matrix(box[:2], centre_and_scale(box, size)[1], size)


@mistake(
    "crop",
    "w - 1 for the box",
    "the centre is x + (w - 1) / 2",
    "It is x + w / 2: a box has edges, w apart.",
)
def _(box, size):
    (x, y), scale = centre_and_scale(box, size)
    return crop_matrix((x - 0.5, y - 0.5), scale, size)


@mistake(
    "crop",
    "w instead of w - 1",
    "a crop pixel is scale / W wide",
    "In UDP the corners are pixels, W - 1 apart: scale / (W - 1).",
)
def _(box, size):
    (x, y), scale = centre_and_scale(box, size)
    return axis_matrix((scale[0] / size[1], scale[1] / size[0]), (x - scale[0] / 2, y - scale[1] / 2))


@mistake(
    "crop",
    "half-pixel offset",
    "pixels are taken for squares, whose centres lie at + 0.5",
    "In UDP a pixel is a point: u = 0 lies on the rectangle's left edge, u = W - 1 on its right one.",
)
def _(box, size):
    (x, y), (width, height) = centre_and_scale(box, size)
    step = width / size[1], height / size[0]
    return axis_matrix(step, (x - width / 2 + step[0] / 2 - 0.5, y - height / 2 + step[1] / 2 - 0.5))


@mistake("crop", "x and y swapped", "the row of y comes first", "The first row gives x, the second y.")
def _(box, size):
    return crop_matrix(*centre_and_scale(box, size), size)[::-1]


@mistake(
    "crop",
    "inverse matrix",
    "the matrix leads from the picture to the crop",
    "From crop pixels to picture pixels: so each crop pixel knows where to look.",
)
def _(box, size):
    return np.linalg.inv(np.vstack([crop_matrix(*centre_and_scale(box, size), size), [0, 0, 1]]))[:2]
