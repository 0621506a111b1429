"""Percentage of correct keypoints (PCK) and its kin: how often a keypoint lies near enough, keypoint by keypoint.

Near is told by a size of each person: a side of the box for PCK, of the head for MPII's PCKh. Everything is a fraction
from 0 to 1, NaN where nothing was labelled. Sources: Yang and Ramanan 2013; Andriluka et al. 2014; the small figures
follow ViTPose, mmpose/core/evaluation/top_down_eval.py and topdown_mpii_dataset.py.
"""

import numpy as np

HEAD_SHARE = 0.6  # of the diagonal of MPII's head box: what PCKh calls the size of the head
NOT_IN_MEAN = (6, 7)  # pelvis and thorax of MPII: everybody gets them right
GROUPS = {  # MPII's keypoints as the tables of papers have them
    "head": (9,),
    "shoulder": (12, 13),
    "elbow": (11, 14),
    "wrist": (10, 15),
    "hip": (2, 3),
    "knee": (1, 4),
    "ankle": (0, 5),
}


def distances(keypoints, truth, labelled, sizes):
    """Distances in sizes. keypoints, truth (N, K, 2), labelled (N, K) bool, sizes (N,), or (N, 2) for x and y apart.

    -> (N, K) float64, NaN where the keypoint is not labelled or the person's size is 0. Raises ValueError.
    """
    keypoints, truth, sizes = (np.asarray(x, np.float64) for x in (keypoints, truth, sizes))
    labelled = np.asarray(labelled).astype(bool)
    if keypoints.ndim != 3 or keypoints.shape[2] != 2 or truth.shape != keypoints.shape:
        raise ValueError(f"expected keypoints and truth (N, K, 2), found {keypoints.shape} and {truth.shape}")
    n, k = keypoints.shape[:2]
    if labelled.shape != (n, k) or sizes.shape not in ((n,), (n, 2)):
        raise ValueError(f"expected labelled ({n}, {k}), sizes ({n},); found {labelled.shape}, {sizes.shape}")
    if not np.isfinite(keypoints[labelled]).all() or not np.isfinite(truth[labelled]).all():
        raise ValueError("a labelled keypoint is NaN or infinite; leave such people out")
    if not (np.isfinite(sizes) & (sizes >= 0)).all():
        raise ValueError("sizes: expected finite numbers of at least 0, found others")
    sizes = sizes[:, None] if sizes.ndim == 2 else sizes[:, None, None]
    counts = labelled & (sizes > 0).all(axis=-1)
    apart = np.where(counts[..., None], keypoints - truth, 0) / np.where(sizes > 0, sizes, 1)
    return np.where(counts, np.linalg.norm(apart, axis=-1), np.nan)


def pck(keypoints, truth, labelled, sizes, threshold=0.05):
    """The share of labelled keypoints nearer than threshold sizes. Arguments as for distances.

    -> (K,) float64, NaN for keypoints nobody has; and their mean, a float, each keypoint counting alike.
    """
    each = share(distances(keypoints, truth, labelled, sizes), np.less, threshold)
    return each, mean(each)


def auc(keypoints, truth, labelled, sizes, steps=20):
    """The area under PCK's curve for thresholds from 0 to 1: the mean over 0, 1 / steps, ... below 1. -> float."""
    apart = distances(keypoints, truth, labelled, sizes)
    return mean([mean(share(apart, np.less, i / steps)) for i in range(steps)])


def epe(keypoints, truth, labelled):
    """The end-point error: the mean distance of all labelled keypoints in pixels. -> float."""
    return mean(distances(keypoints, truth, labelled, np.ones(len(keypoints))))


def pckh(keypoints, truth, labelled, head_boxes, threshold=0.5):
    """PCKh of MPII. keypoints, truth (N, 16, 2) in pixels, labelled (N, 16), head_boxes (N, 4) x, y, w, h.

    -> (each keypoint (16,), {group: float}, mean float). A keypoint at the threshold is right here. In a group left
    and right count alike; in the mean each labelled keypoint of each person does, without those of NOT_IN_MEAN.
    """
    head_boxes = np.asarray(head_boxes, np.float64)
    if head_boxes.shape != (len(keypoints), 4):
        raise ValueError(
            f"head_boxes: expected x, y, width, height, shape ({len(keypoints)}, 4), found {head_boxes.shape}; MPII's "
            "own have two corners, whose difference is width and height"
        )
    sizes = HEAD_SHARE * np.hypot(head_boxes[:, 2], head_boxes[:, 3])
    apart = distances(keypoints, truth, labelled, sizes)
    if apart.shape[1] != 16:
        raise ValueError(f"PCKh is of MPII's 16 keypoints, found {apart.shape[1]}")
    each = share(apart, np.less_equal, threshold)
    groups = {name: mean(each[list(group)]) for name, group in GROUPS.items()}
    counted = np.delete(apart, NOT_IN_MEAN, axis=1).reshape(-1, 1)
    return each, groups, mean(share(counted, np.less_equal, threshold))


def share(apart, compare, threshold):
    """Distances (N, K) -> (K,): the share of those that are there that compare with the threshold; NaN for none."""
    count = np.isfinite(apart).sum(axis=0)
    near = compare(apart, threshold).sum(axis=0)  # False for NaN
    return np.where(count, near / np.maximum(1, count), np.nan)


def mean(values):
    """The mean of what is not NaN, or NaN."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
