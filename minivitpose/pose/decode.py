"""From heatmaps to keypoints: where each map is highest, and where that lies in the crop."""

import numpy as np


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
    return np.asarray(xy, np.float64) * ((W - 1) / (width - 1), (H - 1) / (height - 1))
