"""From a person's box to the network's input: cut out, scale, normalise; and the way back to the picture.

A pixel is a point: the picture's corner pixels are the points (0, 0) and (w - 1, h - 1). The crop takes a rectangle of
the picture whose corners become the crop's corner pixels, W - 1 and H - 1 apart. Huang et al. 2020 call this unbiased
(UDP), and ViTPose was trained with it.
"""

from dataclasses import dataclass

import numpy as np

from minivitpose.pose.image import as_image

PADDING = 1.25  # the crop is this much wider and higher than the person's box
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's pixels, RGB, 0 to 1: the pretraining had it
STD = np.array([0.229, 0.224, 0.225], np.float32)
FAR = 1e7  # pixels; a box that reaches further is no box in this picture


class BoxError(ValueError):
    """A box that cannot be used: one line with the box, what is wrong, what was expected and the likely fix."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A rectangle of a picture, scaled to the network's size.

    pixels (H, W, 3) uint8 RGB; box (x, y, w, h) of the person; centre (x, y) and scale (width, height) of the rectangle
    that was cut out. The last three are in pixels of the picture.
    """

    pixels: np.ndarray
    box: tuple
    centre: tuple
    scale: tuple

    def to_picture(self, xy):
        """Points of the crop -> points of the picture. (..., 2) x, y in pixels -> (..., 2) float64."""
        corner, step = grid(self.centre, self.scale, self.pixels.shape[:2])
        return np.asarray(xy, np.float64) * step + corner

    def from_picture(self, xy):
        """Points of the picture -> points of the crop: the inverse of to_picture."""
        corner, step = grid(self.centre, self.scale, self.pixels.shape[:2])
        return (np.asarray(xy, np.float64) - corner) / step


def crop(image, box, size=(256, 192)):
    """Cut a person out of a picture and scale it to the network's size.

    image (H, W, 3) uint8 RGB; box (x, y, w, h) in pixels, may reach beyond the picture; size (height, width) -> Crop.
    What lies outside the picture is black. Raises ImageError, BoxError. Source: TopDownAffine with use_udp in ViTPose.
    """
    image = as_image(image)
    box = check_box(box, image)
    centre, scale = centre_and_scale(box, size)
    corner, step = grid(centre, scale, size)
    rows = corner[1] + step[1] * np.arange(size[0])  # where each row and column of the crop lies in the picture
    columns = corner[0] + step[0] * np.arange(size[1])
    return Crop(warp(image, rows, columns), box, centre, scale)


def centre_and_scale(box, size):
    """The rectangle to cut out: the box, enlarged to the crop's shape and then by PADDING about its centre.

    box (x, y, w, h), size (height, width) -> centre (x, y), scale (width, height), all in pixels of the picture.
    """
    x, y, w, h = box
    aspect = size[1] / size[0]
    width, height = max(w, h * aspect), max(h, w / aspect)
    return (x + w / 2, y + h / 2), (width * PADDING, height * PADDING)


def grid(centre, scale, size):
    """Where the crop's pixel (0, 0) lies in the picture, and how far apart its pixels lie: two float64 pairs x, y."""
    corner = np.subtract(centre, np.divide(scale, 2))
    return corner, np.divide(scale, (size[1] - 1, size[0] - 1))


def warp(image, rows, columns):
    """The picture at points between its pixels, each the mean of its four neighbours weighted by nearness (bilinear).

    image (H, W, 3) uint8, rows (m,) and columns (n,) in pixels -> (m, n, 3) uint8, rounded. Beyond the border lies
    black, and the last pixel fades into it over one pixel, as in cv2.warpAffine with a constant border of 0.
    """
    above, below = neighbours(rows, image.shape[0])
    left, right = neighbours(columns, image.shape[1])
    pixels = np.zeros((len(rows), len(columns), 3), np.float32)
    for i, down in (above, below):
        for j, across in (left, right):
            pixels += image[np.ix_(i, j)] * (down[:, None, None] * across[:, None])
    return np.rint(pixels).astype(np.uint8)


def neighbours(positions, n):
    """For points on a line of n pixels: (index, weight) of the pixel before and of the pixel after each point.

    positions (m,) float64 -> two pairs of (m,) arrays; a pixel outside 0 .. n - 1 weighs nothing.
    """
    before = np.clip(np.floor(positions), -2, n).astype(np.intp)
    share = positions - np.floor(positions)
    pairs = (before, 1 - share), (before + 1, share)
    return [(i.clip(0, n - 1), np.where((i >= 0) & (i < n), w, 0).astype(np.float32)) for i, w in pairs]


def network_input(crop):
    """Crop -> (1, 3, H, W) float32: (colour / 255 - MEAN) / STD, the colour channels first."""
    x = (crop.pixels.astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def whole_picture(image):
    """The box of the entire picture: (0, 0, width, height)."""
    height, width = as_image(image).shape[:2]
    return 0.0, 0.0, float(width), float(height)


def check_box(box, image, name="box"):
    """The box as four Python floats x, y, w, h; BoxError with one line if it is none, or nowhere in the picture.

    box: four numbers in pixels, x and y of its left upper corner, then width and height. Partly outside is fine.
    """
    name = f"{name} {short(box)}"
    x, y, w, h = four_numbers(box, name)
    if w <= 0 or h <= 0:
        corners = f"; if these are two corners, give ({x:g}, {y:g}, {w - x:g}, {h - y:g})" if w > x and h > y else ""
        raise BoxError(f"{name}: width and height must be above 0, found {w:g} and {h:g}; a box is x, y, w, h{corners}")
    height, width = image.shape[:2]
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise BoxError(f"{name}: wholly outside the picture, which is {width} wide and {height} high; check its units")
    return x, y, w, h


def four_numbers(box, name):
    """Four finite Python floats, or BoxError."""
    try:
        values = np.asarray(box)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal lengths, tensors that are not plain numbers
        values = np.asarray(None)
    if values.dtype.kind not in "iuf":
        raise BoxError(f"{name}: expected four numbers x, y, w, h in pixels")
    if values.shape != (4,):
        raise BoxError(f"{name}: expected four numbers x, y, w, h, found {values.shape}{count_hint(values.shape)}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise BoxError(f"{name}: a number is NaN or infinite; drop this box, a detector has failed")
    if np.abs(values).max() > FAR:
        raise BoxError(f"{name}: a number is beyond {FAR:g} pixels; check its units")
    return tuple(values.tolist())


def count_hint(shape):
    """The likely reason for a wrong number of numbers."""
    if shape == (5,):
        return "; leave out the score"
    return "; give one box at a time" if len(shape) == 2 and shape[1] == 4 else ""


def short(value):
    """What the user gave, in at most 60 characters on one line."""
    if isinstance(value, tuple | list) or np.ndim(value) == 1:
        value = f"({', '.join(plain(v) for v in value[:20])})"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def plain(value):
    """A number as one would write it; NumPy's own text for it has the type's name around."""
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)
