"""Pixels of a picture at the places that an affine map names: the bilinear warp, in NumPy.

``warp_kernel.py`` is its twin, the same numbers in the same order as a compiled loop, and gives the same bytes. Neither
copies the picture nor makes anything of its size: only the pixels that the crop asks for are read.
"""

import numpy as np


def warp(image, matrix, size, hard=False):
    """The picture at the points ``matrix @ (u, v, 1)``, each the mean of its four neighbours weighted by nearness.

    image (H, W, 3) uint8; matrix (2, 3): crop pixel u, v -> picture pixel x, y; size (height, width) of the crop ->
    (height, width, 3) uint8, halves rounded up. Beyond the border lies black. The last pixel fades into it over one
    pixel, as in cv2.warpAffine with a constant border of 0; with ``hard`` every point beyond the last pixel's centre is
    black at once, as in scipy.ndimage.affine_transform(order=1). Raises ValueError for a matrix that is not finite.
    """
    check_matrix(matrix)
    height, width = image.shape[:2]
    x, y = points(matrix, size)
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


def check_matrix(matrix):
    """Raises ValueError where it names no places: a compiled loop would read beyond the picture."""
    if not np.isfinite(matrix).all():
        raise ValueError(f"matrix: expected finite numbers, found {np.asarray(matrix).tolist()}")


def points(matrix, size):
    """Where each crop pixel lies in the picture. matrix (2, 3), size (height, width) -> x, y, (height, width) each."""
    v, u = np.arange(size[0], dtype=np.float64)[:, None], np.arange(size[1], dtype=np.float64)
    return (row[2] + row[1] * v + row[0] * u for row in np.asarray(matrix, np.float64))


def resize(image, margins, size):
    """The picture with black margins at another size, as cv2.resize(INTER_LINEAR) gives it, to the byte.

    image (H, W, 3) uint8; margins (left, top, right, bottom) in pixels; size (height, width) -> (*size, 3) uint8.
    Weights are whole 2048ths, and what is cut off after the rows are weighted makes some pixels one level darker than
    rounding would. Source: resize.cpp of OpenCV, the same in 4.11 and 5.0.
    """
    left, top, right, bottom = margins
    height, width = image.shape[0] + top + bottom, image.shape[1] + left + right
    (row, lower), (column, further) = neighbours(height, size[0]), neighbours(width, size[1], still=True)
    total = 2
    for i, down in ((row, 2048 - lower), (row + 1, lower)):
        i = i.clip(0, height - 1) - top
        line = 0
        for j, along in ((column, 2048 - further), (column + 1, further)):
            j = j.clip(0, width - 1) - left
            inside = ((i >= 0) & (i < image.shape[0]))[:, None] & (j >= 0) & (j < image.shape[1])
            taken = image[np.ix_(i.clip(0, image.shape[0] - 1), j.clip(0, image.shape[1] - 1))]
            line = line + np.where(inside[..., None], taken, 0).astype(np.int32) * along[:, None]
        total = total + ((line >> 4) * down[:, None, None] >> 16)
    return (total >> 2).astype(np.uint8)


def neighbours(n, m, still=False):
    """For n pixels resized to m: (m,) the pixel before each place, and (m,) the weight of the next one in 2048ths.

    still: no weight beyond the last pixels; OpenCV treats columns so, and clips the rows instead.
    """
    place = ((np.arange(m) + 0.5) * (n / m) - 0.5).astype(np.float32)
    before = np.floor(place)
    share = place - before
    if still:
        share[(before < 0) | (before >= n - 1)] = 0
        before = before.clip(0, n - 1)
    return before.astype(np.int64), np.rint(share * np.float32(2048)).astype(np.int32)
