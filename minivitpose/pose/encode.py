"""From keypoints to target heatmaps: a Gaussian around each, the inverse of decoding, as ViTPose was trained.

"udp" centres it on the point itself, between the cells. "plain" centres it on the nearest cell, which loses up to half
a cell; official code trained so for all sets but COCO and MPII.
"""

import numpy as np

from minivitpose.pose.crop import check_mode

MODES = ("udp", "plain")
FAR = 1e9  # cells; beyond it lies nothing, and whole numbers have room for it


def encode(keypoints, weights, size=(256, 192), heatmap_size=(64, 48), sigma=2.0, mode="udp"):
    """Keypoints of a crop -> the heatmaps that a network should give for it.

    keypoints (K, 2) x, y in crop pixels; weights (K,), 0 for a joint that is not known; size of the crop and
    heatmap_size (height, width); sigma in cells -> targets (K, Hm, Wm) float32, 1 at the point; weights (K,) float32.

    The Gaussian stands in a square of 3 sigma around the nearest cell, 0 outside it. A joint whose square lies wholly
    off the map gets weight 0; a map is drawn where the weight is above 0.5. Raises ValueError for wrong shapes and for
    a keypoint that is not finite though it has a weight. Source: TopDownGenerateTarget (MSRA, UDP) in ViTPose.
    """
    check_mode(mode, MODES)
    keypoints, weights = checked(keypoints, weights)
    size, shape = np.array(size[::-1], np.float64), np.array(heatmap_size[::-1])
    stride = (size - 1) / np.maximum(shape - 1, 1) if mode == "udp" else size / shape
    points = np.clip(np.where(weights[:, None] > 0, keypoints, 0) / stride, -FAR, FAR)
    cells = np.trunc(points + 0.5)  # the nearest; left of the map official code rounds towards it
    radius = int(3 * sigma)
    off = (cells - radius >= shape) | (cells + radius + 1 < 0)
    weights = np.where(off.any(axis=1), 0, weights).astype(np.float32)
    middle = points if mode == "udp" else cells
    across, down = (bell(n, cells[:, i], middle[:, i], radius, sigma) for i, n in enumerate(shape))
    down *= (weights > 0.5)[:, None]
    maps = np.empty((len(points), *heatmap_size), np.float32)
    return np.multiply(down[:, :, None], across[:, None, :], out=maps, casting="same_kind"), weights


def bell(n, cells, middle, radius, sigma):
    """K Gaussians along a line of n cells, each cut off further than ``radius`` from its cell. (K,), (K,) -> (K, n)."""
    line = np.arange(n)
    values = np.exp(-((line - middle[:, None]) ** 2) / (2 * sigma**2))
    return np.where(np.abs(line - cells[:, None]) <= radius, values, 0)


def checked(keypoints, weights):
    """Both as float64, keypoints (K, 2) and weights (K,), or ValueError."""
    keypoints, weights = np.asarray(keypoints, np.float64), np.asarray(weights, np.float64)
    if keypoints.ndim != 2 or keypoints.shape[1] != 2 or weights.shape != keypoints.shape[:1]:
        raise ValueError(f"expected keypoints (K, 2) and weights (K,), found {keypoints.shape} and {weights.shape}")
    bad = np.flatnonzero(~np.isfinite(keypoints).all(axis=1) & (weights > 0) | ~np.isfinite(weights))
    if len(bad):
        raise ValueError(f"keypoint {bad[0]} or its weight is NaN or infinite; give an unknown joint the weight 0")
    return keypoints, weights
