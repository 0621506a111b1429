"""From a person's box to the network's input: cut out, scale, normalise; and the way back to the picture.

The programs that run ViTPose cut in four ways (MODES). In "udp", which ViTPose was trained with, a pixel is a point
and the rectangle's corners become the crop's corner pixels, W - 1 and H - 1 apart: Huang et al. 2020 call it unbiased.
``docs/pipelines.md`` tells how the others differ, and by how much.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np

from minivitpose.pose.image import as_image
from minivitpose.pose.warp import resize, warp

MODES = ("udp", "plain", "hf", "easy")
PADDING = 1.25  # the crop is this much wider and higher than the person's box
EASY_MARGIN = 10  # pixels; easy_ViTPose adds this on each side instead
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's pixels, RGB, 0 to 1: the pretraining had it
STD = np.array([0.229, 0.224, 0.225], np.float32)
FAR = 1e7  # pixels; a box that reaches further is no box in this picture
TINY = 1e-6  # pixels; nor is a smaller one, and float32 would lose it


class BoxError(ValueError):
    """A box that cannot be used: one line with the box, what is wrong, what was expected and the likely fix."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A rectangle of a picture, scaled to the network's size.

    pixels (H, W, 3) uint8 RGB; box (x, y, w, h) of the person; centre (x, y) and scale (width, height) of the rectangle
    that was cut out; mode, how it was cut. Box, centre and scale are in pixels of the picture.
    """

    pixels: np.ndarray
    box: tuple
    centre: tuple
    scale: tuple
    mode: str = "udp"

    @property
    def matrix(self):
        """Crop pixel -> picture pixel, (2, 3) float64."""
        return crop_matrix(self.centre, self.scale, self.pixels.shape[:2], self.mode)

    def to_picture(self, xy):
        """Points of the crop -> points of the picture. (..., 2) x, y in pixels -> (..., 2) float64."""
        return np.asarray(xy, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def from_picture(self, xy):
        """Points of the picture -> points of the crop: the inverse of to_picture."""
        return from_picture(xy, self.matrix)


def crop(image, box, size=(256, 192), mode="udp"):
    """Cut a person out of a picture and scale it to the network's size.

    image (H, W, 3) uint8 RGB; box (x, y, w, h) in pixels, may reach beyond the picture; size (height, width) -> Crop.
    What lies outside the picture is black. Modes: "udp" (official COCO and MPII, mmpose 1.x), "plain" (the other
    official datasets), "hf" (transformers), "easy" (easy_ViTPose). Raises ImageError, BoxError, ValueError for another
    mode.
    """
    image = as_image(image)
    box = check_box(box, image)
    check_size(size)
    if mode == "easy":
        return easy_crop(image, box, size)
    centre, scale = centre_and_scale(box, size, mode)
    cut = kernels.warp if (kernels := loaded_kernels()) else warp
    pixels = cut(image, crop_matrix(centre, scale, size, mode), size, hard=mode == "hf")
    return Crop(pixels, box, centre, scale, mode)


def loaded_kernels():
    """The compiled loops if Numba is loaded, else None: same bytes, and nobody waits for Numba for one crop."""
    if "numba" not in sys.modules:
        return None
    from minivitpose.pose import warp_kernel

    return warp_kernel


def check_mode(mode, known):
    """ValueError that lists the modes there are."""
    if mode not in known:
        raise ValueError(f"mode: expected one of {', '.join(known)}, found {mode!r}")


def centre_and_scale(box, size, mode="udp"):
    """The rectangle to cut out: the box, enlarged to the crop's shape and then by PADDING about its centre.

    box (x, y, w, h), size (height, width) -> centre (x, y), scale (width, height), all in pixels of the picture. In
    mode "hf" rounded to float32 where transformers does, the scale in units of 200 pixels.
    """
    x, y, w, h = box
    aspect = size[1] / size[0]
    width, height = max(w, h * aspect), max(h, w / aspect)
    centre, scale = (x + w / 2, y + h / 2), (width * PADDING, height * PADDING)
    if mode == "hf":
        centre = np.float32(centre).tolist()
        scale = (np.float32([width / 200, height / 200]) * np.float32(PADDING) * np.float32(200)).tolist()
    return tuple(centre), tuple(scale)


def check_size(size):
    """Raises ValueError for what is no (height, width) of a crop."""
    whole = isinstance(size, tuple | list) and all(isinstance(side, int | np.integer) for side in size)
    if not whole or len(size) != 2 or min(size) < 2:
        raise ValueError(f"size: expected (height, width), whole numbers from 2, found {size!r}")


def crop_matrix(centre, scale, size, mode="udp", rotation=0.0):
    """The affine map of a crop: crop pixel (u, v, 1) -> picture pixel (x, y), (2, 3) float64.

    centre (x, y) and scale (width, height) of the rectangle in picture pixels; size (height, width) of the crop;
    rotation in degrees turns the rectangle about its centre, anticlockwise as one sees it, so that the person in the
    crop turns clockwise. Sources: get_warp_matrix ("udp", "hf") and get_affine_transform ("plain") of ViTPose,
    cv2.resize after pad_image ("easy"). The official functions differ in the sign of the rotation; this is UDP's.
    """
    check_mode(mode, MODES)
    size, centre, scale = np.array(size[::-1], np.float64), np.asarray(centre), np.asarray(scale)
    angle = math.radians(rotation)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    if mode == "hf":
        return inverse_of_float32(centre, scale, size, turn.T)
    if mode == "udp":  # corner to corner pixel
        step, to_centre = scale / (size - 1), scale / 2
    elif mode == "plain":  # edge to edge, by the width alone; yet pixel u stands at u, not at u + 1/2
        step = np.repeat(scale[0] / size[0], 2)
        to_centre = step * size / 2
    else:  # edge to edge, pixel u stands at u + 1/2; the centre is the integer half of the size
        step = scale / size
        to_centre = scale // 2 + 0.5 - step / 2
    return np.column_stack([turn * step, centre - turn @ to_centre])


def inverse_of_float32(centre, scale, size, turn):
    """The map of "udp", by way of the map from picture to crop in float32, as transformers computes it.

    At the border one rounding decides between a pixel and black, so it must be the same one.
    """
    centre, scale, turn = np.float32(centre), np.float32(scale), np.float32(turn)
    step = (size - 1) / scale
    forward = np.column_stack([turn * step[:, None], step * (scale / 2 - turn @ centre)]).astype(np.float32)
    return np.linalg.inv(np.vstack([forward, [0, 0, 1]]))[:2]


def easy_crop(image, box, size):
    """The crop of easy_ViTPose: whole pixels, 10 more on each side, clipped to the picture, padded with black, resized.

    The centre is the integer half of the padded size, so that a decoder with (w - 1) in its map gives the numbers of
    easy_ViTPose, its half-pixel shifts included. Source: pad_image and VitInference.inference there.
    """
    x, y, w, h = box
    height, width = image.shape[:2]
    left, right = np.clip(np.rint((x, x + w)).astype(int) + (-EASY_MARGIN, EASY_MARGIN), 0, width).tolist()
    top, bottom = np.clip(np.rint((y, y + h)).astype(int) + (-EASY_MARGIN, EASY_MARGIN), 0, height).tolist()
    w, h, aspect = right - left, bottom - top, size[1] / size[0]
    padded_w, padded_h = (max(int(aspect * h), w), h) if w / h < aspect else (w, max(int(w / aspect), h))
    pad_x, pad_y = (padded_w - w) // 2, (padded_h - h) // 2
    scale = float(padded_w), float(padded_h)
    centre = float(left - pad_x + padded_w // 2), float(top - pad_y + padded_h // 2)
    margins = pad_x, pad_y, padded_w - w - pad_x, padded_h - h - pad_y
    pixels = resize(image[top:bottom, left:right], margins, size)
    return Crop(pixels, box, centre, scale, "easy")


def from_picture(xy, matrix):
    """Points of the picture -> points of the crop that has this matrix (2, 3). (..., 2) -> (..., 2) float64."""
    return (np.asarray(xy, np.float64) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def network_input(crop):
    """Crop -> (1, 3, H, W) float32: (colour / 255 - MEAN) / STD, the colour channels first."""
    return normalised(crop.pixels[None])


def levels(colours):
    """Colours (..., 3) or (..., 1), 0 to 255 -> (..., 3) float32, as ImageNet's have mean 0 and spread 1."""
    return (colours.astype(np.float32) / np.float32(255) - MEAN) / STD


LEVELS = levels(np.arange(256)[:, None])  # (256, 3): what each byte becomes


def normalised(pixels):
    """Crops (B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, as ``network_input`` gives one of them."""
    if pixels.dtype == np.uint8 and (kernels := loaded_kernels()):
        return kernels.normalised(pixels, LEVELS)
    return np.ascontiguousarray(levels(pixels).transpose(0, 3, 1, 2))


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
    if min(w, h) < TINY:
        raise BoxError(
            f"{name}: width and height must be at least {TINY:g} pixels, found {w:g}, {h:g}; check its units"
        )
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
