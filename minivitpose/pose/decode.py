"""From heatmaps to keypoints: where each map is highest, refined between the cells, and where that lies in the picture.

The programs that run ViTPose refine in two ways. Official code for sets other than COCO and MPII goes a quarter of a
cell towards the higher neighbour ("plain"). All others fit a Gaussian: they blur the map, take the logarithm, which
makes a Gaussian a parabola, and go to its top by one Newton step (Zhang et al. 2020, DARK; Huang et al. 2020, UDP).
They differ in the blur alone (BLURS).
"""

from functools import lru_cache

import numpy as np

from minivitpose.pose.crop import check_mode

MODES = ("udp", "mmpose", "hf", "easy", "plain", "argmax")
RADIUS = 5  # cells; the blur has 11 taps
LOW, HIGH = 0.001, 50  # the blurred maps are clipped to this before the logarithm
EPSILON = np.finfo(np.float32).eps  # added to the Hessian's diagonal, so that a flat map has an inverse: no step


def reflect(i, n):
    """Index beyond the border -> the index it stands for: ... 2 1 0 1 2 ..., the border pixel once (cv2's default)."""
    i = i % max(2 * n - 2, 1)
    return min(i, 2 * n - 2 - i) if n > 1 else 0


def repeat(i, n):
    """... 1 0 0 1 ..., the border pixel twice (SciPy's "reflect")."""
    i = i % (2 * n)
    return min(i, 2 * n - 1 - i)


def nothing(i, n):
    """Beyond the border is 0."""
    return i if 0 <= i < n else None


# sigma in cells, what stands beyond the border. cv2.GaussianBlur makes a sigma of 2 out of 11 taps.
BLURS = {"udp": (2.0, reflect), "easy": (2.0, reflect), "mmpose": (2.0, nothing), "hf": (0.8, repeat)}


def decode(heatmaps, centre, scale, mode="udp"):
    """Heatmaps -> keypoints in the picture, as each family of programs decodes them.

    heatmaps (K, Hm, Wm) or (B, K, Hm, Wm); centre (x, y) and scale (width, height) of the crop in picture pixels, (2,)
    or (B, 2) -> keypoints (..., K, 2) float32, x and y in picture pixels; scores (..., K), the highest values, in the
    heatmaps' dtype.

    Modes: "udp" (official COCO and MPII), "easy" (the same), "mmpose" (1.x), "hf" (transformers), "plain" (the other
    official datasets), "argmax" (the cell, not refined, by the map of "udp"). Where a family's own step is not finite
    or as long as the map, and where no value of a map is above 0, the result is the highest cell, not refined: no NaN
    ever comes out. Raises ValueError for NaN in the heatmaps, with the keypoint's number, and for wrong shapes.
    """
    check_mode(mode, MODES)
    cells, scores = decode_argmax(heatmaps)
    heatmaps = np.asarray(heatmaps)
    centre, scale = each_crop("centre", centre, heatmaps), each_crop("scale", scale, heatmaps)
    cells = refine(heatmaps, cells, scores, mode)
    return cells_to_picture(cells, heatmaps.shape[-2:], centre, scale, mode).astype(np.float32), scores


def refine(heatmaps, cells, scores, mode):
    """The highest cells, moved between the cells as the mode does it. (..., K, 2) -> (..., K, 2) float64."""
    shape, (height, width) = cells.shape, heatmaps.shape[-2:]
    maps, cells = heatmaps.reshape(-1, height, width), cells.astype(np.float64).reshape(-1, 2)
    if mode == "argmax" or not maps.size:
        return cells.reshape(shape)
    with np.errstate(all="ignore"):  # what is not finite is not used
        steps = quarter_step(maps, cells) if mode == "plain" else newton_step(log_patches(maps, cells, scores, mode))
    good = (np.abs(steps) < (width, height)).all(axis=-1) & (scores.reshape(-1) > 0)  # no NaN is < n
    return np.where(good[:, None], cells + steps, cells).reshape(shape)


def quarter_step(maps, cells):
    """A quarter of a cell towards the higher neighbour, each way by itself; none in the two cells next to the border.

    Source: keypoints_from_heatmaps in ViTPose, post_process="default" without UDP. maps (M, Hm, Wm), cells (M, 2) of
    whole numbers -> (M, 2). Strictly: column 1 is left alone, column Wm - 2 is not.
    """
    M, height, width = maps.shape
    x, y = cells.astype(int).T
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    m, x, y = np.arange(M)[inner], x[inner], y[inner]
    steps = np.zeros(cells.shape)
    steps[inner, 0] = 0.25 * np.sign(maps[m, y, x + 1] - maps[m, y, x - 1])
    steps[inner, 1] = 0.25 * np.sign(maps[m, y + 1, x] - maps[m, y - 1, x])
    return steps


def log_patches(maps, cells, scores, mode):
    """The logarithm of the blurred map at the highest cell and its eight neighbours: (M, 3, 3) float64.

    maps (M, Hm, Wm), cells (M, 2). A blur along a line is a product with a matrix; of its rows only three are needed,
    and of the map only the rows that these reach. Beyond the border the border's value is repeated.
    """
    M, height, width = maps.shape
    down, along = blur_matrix(height, *BLURS[mode]), blur_matrix(width, *BLURS[mode])
    near, x, y = np.arange(-1, 2), *cells[..., None].astype(int).transpose(1, 0, 2)
    rows, columns = np.clip(y + near, 0, height - 1), np.clip(x + near, 0, width - 1)
    reach = min(height, 2 * RADIUS + 3)
    band = np.clip(y - RADIUS - 1, 0, height - reach) + np.arange(reach)
    taken = maps[np.arange(M)[:, None], band].astype(np.float64)
    patches = down[rows[..., None], band[:, None]] @ taken @ along[columns].transpose(0, 2, 1)
    if mode == "mmpose":
        keep_maximum(patches, maps, scores.reshape(-1), down, along)
    return np.log(np.clip(patches, LOW, HIGH))


def keep_maximum(patches, maps, highest, down, along):
    """Scale each patch, in place, as if its blurred map were scaled to the old maximum, ``highest`` (M,).

    A factor drops out of a Newton step in the logarithm, unless it decides what is clipped. It is at least 1, for no
    blur raises a maximum; so a map is blurred whole only where its patch goes below LOW or its maximum above HIGH.
    """
    need = (patches.min(axis=(1, 2)) < LOW) | (highest > HIGH)
    dtype = np.result_type(maps, np.float32)
    some = maps[need].astype(dtype, copy=False)
    blurred = down.astype(dtype) @ some @ along.T.astype(dtype)
    patches[need] *= (highest[need] / blurred.max(axis=(1, 2)))[:, None, None]


@lru_cache(maxsize=64)
def blur_matrix(n, sigma, border):
    """The (n, n) matrix that blurs a line of n values by a Gaussian of 2 RADIUS + 1 taps that sum to 1."""
    taps = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    matrix = np.zeros((n, n))
    for i in range(n):
        for k, tap in enumerate(taps, -RADIUS):
            j = border(i + k, n)
            if j is not None:
                matrix[i, j] += tap
    matrix.flags.writeable = False  # everybody shares it
    return matrix


def newton_step(L):
    """From the middle of each patch to the top of the parabola through its values. (M, 3, 3) -> (M, 2) x, y in cells.

    Source: post_dark_udp in ViTPose. There is no check that the parabola has a top.
    """
    up, left, middle, right, down = L[:, 0, 1], L[:, 1, 0], L[:, 1, 1], L[:, 1, 2], L[:, 2, 1]
    gx, gy = (right - left) / 2, (down - up) / 2
    xx, yy = right - 2 * middle + left + EPSILON, down - 2 * middle + up + EPSILON
    xy = (L[:, 2, 2] - right - down + 2 * middle - left - up + L[:, 0, 0]) / 2
    return -np.stack([yy * gx - xy * gy, xx * gy - xy * gx], axis=-1) / (xx * yy - xy * xy)[:, None]


def cells_to_picture(cells, heatmap_size, centre, scale, mode):
    """Heatmap cells -> picture pixels: (Wm - 1) cells span the crop's width, in mode "plain" Wm of them.

    cells (..., K, 2); heatmap_size (height, width); centre, scale (..., 2) -> (..., K, 2) float64. A map of one cell
    has it in the middle.
    """
    size = np.array(heatmap_size[::-1], np.float64)
    share = cells / size if mode == "plain" else np.where(size > 1, cells / np.maximum(size - 1, 1), 0.5)
    return (share - 0.5) * scale[..., None, :] + centre[..., None, :]


def each_crop(name, values, heatmaps):
    """centre or scale as float64, checked: (2,), or (B, 2) for (B, K, Hm, Wm) heatmaps."""
    values = np.asarray(values, np.float64)
    shapes = {(2,), (*heatmaps.shape[:-3], 2)}
    if values.shape not in shapes:
        expected = " or ".join(map(str, sorted(shapes, key=len)))
        raise ValueError(f"{name}: expected {expected} for heatmaps {heatmaps.shape}, found {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: a number is NaN or infinite; expected pixels of the picture, check the boxes")
    return values


def decode_argmax(heatmaps):
    """The highest cell of each heatmap; among equals the first in reading order.

    heatmaps (..., K, Hm, Wm), usually (K, Hm, Wm) or (B, K, Hm, Wm) -> keypoints (..., K, 2) float32, x and y in cells;
    scores (..., K), the values there, in the heatmaps' dtype. Raises ValueError for fewer axes, empty maps and NaN.
    """
    heatmaps = np.asarray(heatmaps)
    if heatmaps.ndim < 3 or 0 in heatmaps.shape[-2:]:
        raise ValueError(f"heatmaps: expected (K, Hm, Wm) or (B, K, Hm, Wm), found {heatmaps.shape}")
    *rest, height, width = heatmaps.shape
    flat = heatmaps.reshape(*rest, height * width)
    cell = flat.argmax(axis=-1)
    scores = np.take_along_axis(flat, cell[..., None], axis=-1)[..., 0]
    check_not_nan(scores)  # argmax stops at a NaN, so one NaN in a map shows here
    return np.stack([cell % width, cell // width], axis=-1).astype(np.float32), scores


def check_not_nan(scores):
    """ValueError that names the first keypoint whose heatmap has a NaN."""
    bad = np.argwhere(np.isnan(scores))
    if len(bad):
        where = f"keypoint {bad[0][-1]}" + (f" of image {bad[0][0]}" if scores.ndim > 1 else "")
        raise ValueError(
            f"heatmaps: NaN in {len(bad)} of {scores.size} maps, first in that of {where}; "
            "check the input and the weights with `minivitpose compare`"
        )


def cells_to_crop(xy, heatmap_size, crop_size):
    """Heatmap cells -> crop pixels, corner cells on corner pixels (UDP): u = x (W - 1) / (Wm - 1).

    xy (..., 2) x, y in cells; sizes (height, width), as (64, 48) and (256, 192) -> (..., 2) float64.
    """
    (height, width), (H, W) = heatmap_size, crop_size
    return np.asarray(xy, np.float64) * ((W - 1) / max(width - 1, 1), (H - 1) / max(height - 1, 1))
