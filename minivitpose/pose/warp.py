"""Pixels of a picture at the places that an affine map names: the bilinear warp, in NumPy.

``warp_kernel.py`` is its twin, the same numbers in the same order as a compiled loop, and gives the same bytes. Neither
copies the picture nor makes anything of its size: only the pixels that the crop asks for are read.
"""

import numpy as np


def warp(image, matrix, size, hard=False, limits=None):
    """The picture at the points ``matrix @ (u, v, 1)``, each the mean of its four neighbours weighted by nearness.

    image (H, W, 3) uint8; matrix (2, 3): crop pixel u, v -> picture pixel x, y; size (height, width) of the crop ->
    (height, width, 3) uint8, halves rounded up. Beyond the border lies black. The last pixel fades into it over one
    pixel, as in cv2.warpAffine with a constant border of 0; with ``hard`` every point beyond the last pixel's centre is
    black at once, as in scipy.ndimage.affine_transform(order=1). limits (left, top, right, bottom): points beyond them
    are moved onto them first, as cv2.resize does at the picture's border.
    """
    height, width = image.shape[:2]
    x, y = points(matrix, size)
    if limits is not None:
        left, top, right, bottom = limits
        x, y = np.clip(x, left, right), np.clip(y, top, bottom)
    above, over = np.floor(y), np.floor(x)
    down, along = y - above, x - over
    pixels = np.zeros((*size, 3))
    for i, weight_i in ((above, 1 - down), (above + 1, down)):
        for j, weight_j in ((over, 1 - along), (over + 1, along)):
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            taken = image[np.where(inside, i, 0).astype(np.intp), np.where(inside, j, 0).astype(np.intp)]
            pixels += taken * np.where(inside, weight_i, 0)[..., None] * weight_j[..., None]
    if hard:
        pixels[(x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)] = 0
    return np.floor(pixels + 0.5).astype(np.uint8)


def points(matrix, size):
    """Where each crop pixel lies in the picture. matrix (2, 3), size (height, width) -> x, y, (height, width) each."""
    v, u = np.arange(size[0], dtype=np.float64)[:, None], np.arange(size[1], dtype=np.float64)
    return (row[2] + row[1] * v + row[0] * u for row in np.asarray(matrix, np.float64))
