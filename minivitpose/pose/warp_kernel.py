"""The bilinear warp and the normalisation as compiled loops: for speed, with the bytes of ``warp.warp`` and ``crop``.

One thread a crop, and without Python's lock: several crops may be cut at once from several threads.
"""

import math

import numpy as np
from numba import njit

from minivitpose.kernels.jit import options
from minivitpose.pose.warp import check_matrix


@njit(**options | {"parallel": False, "nogil": True})
def warp_each(image, matrix, hard, pixels):
    """Every crop pixel: its place in the picture, the four pixels around it, their mean by nearness, rounded."""
    height, width, _ = image.shape
    for v in range(pixels.shape[0]):
        for u in range(pixels.shape[1]):
            x = matrix[0, 2] + matrix[0, 1] * v + matrix[0, 0] * u
            y = matrix[1, 2] + matrix[1, 1] * v + matrix[1, 0] * u
            if 0 <= x < width - 1 and 0 <= y < height - 1:  # nearly all: all four are there
                i, j = int(y), int(x)
                mix(image, i, i + 1, j, j + 1, 1 - (y - i), y - i, 1 - (x - j), x - j, pixels, v, u)
            elif x <= -1 or y <= -1 or x >= width or y >= height or (hard and beyond(x, y, width, height)):
                pixels[v, u] = 0
            else:  # a neighbour beyond the border has weight 0
                above, over = math.floor(y), math.floor(x)
                i, ii = max(above, 0), min(above + 1, height - 1)
                upper, lower = (1 - (y - above) if above >= 0 else 0.0), (y - above if above + 1 < height else 0.0)
                j, jj = max(over, 0), min(over + 1, width - 1)
                near, far = (1 - (x - over) if over >= 0 else 0.0), (x - over if over + 1 < width else 0.0)
                mix(image, i, ii, j, jj, upper, lower, near, far, pixels, v, u)


@njit
def beyond(x, y, width, height):
    """Whether a place lies beyond the centres of the last pixels."""
    return x < 0 or y < 0 or x > width - 1 or y > height - 1


@njit
def mix(image, i, ii, j, jj, upper, lower, near, far, pixels, v, u):
    i, ii, j, jj = np.uintp(i), np.uintp(ii), np.uintp(j), np.uintp(jj)  # not negative: Numba need not look
    for c in range(3):
        mean = image[i, j, c] * upper * near + image[i, jj, c] * upper * far
        mean = mean + image[ii, j, c] * lower * near + image[ii, jj, c] * lower * far
        pixels[v, u, c] = int(mean + 0.5)


def warp(image, matrix, size, hard=False):
    """As ``warp.warp``: image (H, W, 3) uint8, matrix (2, 3), size (height, width) -> (height, width, 3) uint8."""
    check_matrix(matrix)
    image = image.view()
    image.flags.writeable = False  # one compilation for pictures that may be written to and for those that may not
    pixels = np.empty((*size, 3), np.uint8)
    warp_each(image, np.ascontiguousarray(matrix, np.float64), bool(hard), pixels)
    return pixels


@njit(**options | {"parallel": False, "nogil": True})
def look_up(pixels, levels, x):
    """x[b, c, v, u] = levels[pixels[b, v, u, c], c]."""
    for b in range(len(pixels)):
        for v in range(pixels.shape[1]):
            for c in range(3):
                for u in range(pixels.shape[2]):
                    x[b, c, v, u] = levels[pixels[b, v, u, c], c]


def normalised(pixels, levels):
    """As ``crop.normalised``: (B, H, W, 3) uint8, levels (256, 3) float32 -> (B, 3, H, W) float32."""
    pixels = np.ascontiguousarray(pixels).view()
    pixels.flags.writeable = False
    x = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
    look_up(pixels, levels, x)
    return x
