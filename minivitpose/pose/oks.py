"""How alike two poses are: object keypoint similarity (OKS), and the removal of poses that are too alike.

Each keypoint scores exp(-d^2 / (2 area (2 sigma)^2)), d pixels apart: 1 where they coincide, less the further apart,
where far is told by the person's area and by sigma, the spread of annotators at this keypoint. OKS is their mean.
Source: cocodataset.org/#keypoints-eval; the removal as in ViTPose, mmpose/core/post_processing/nms.py.
"""

import numpy as np

TINY = np.spacing(1.0)  # added to areas, as pycocotools does: an area of 0 divides nothing by 0
NMS_THRESHOLD = 0.9  # of ViTPose's evaluation: poses of a higher OKS are the same person
LOW_SCORE = 0.2  # keypoints of at most this score do not count in a person's score


def oks(keypoints, truth, box, area, sigmas):
    """OKS of each pose with one annotated person, by pycocotools' rules.

    keypoints (D, K, 2) x, y in pixels; truth (K, 3) x, y, v; box (x, y, w, h) and area of the person; sigmas (K,)
    -> (D,) float64, 0 to 1. Only labelled keypoints, v > 0, count. A person without any is a place where nobody
    knows: the distance is then that to the box doubled, so that a pose inside it matches fully.
    """
    labelled = truth[:, 2] > 0
    if labelled.any():
        apart = keypoints - truth[:, :2]
    else:
        x, y, w, h = box
        low, high = np.array([x - w, y - h]), np.array([x + 2 * w, y + 2 * h])
        apart = np.maximum(0, low - keypoints) + np.maximum(0, keypoints - high)
        labelled = np.ones(len(truth), bool)
    return mean_similarity(apart.compress(labelled, axis=1), area, np.asarray(sigmas)[labelled])


def mean_similarity(apart, area, sigmas):
    """OKS of the differences apart (D, K, 2) for people of an area, () or (D, 1). -> (D,), 0 where K is 0."""
    squares = (np.asarray(apart, np.float64) ** 2).sum(axis=-1)
    exponents = squares / (2 * np.asarray(sigmas, np.float64)) ** 2 / (area + TINY) / 2
    return np.exp(-exponents).sum(axis=-1) / max(1, squares.shape[-1])


def oks_matrix(keypoints, truths, boxes, areas, sigmas):
    """OKS of D poses (D, K, 2) with G annotated people (G, K, 3), boxes (G, 4), areas (G,). -> (D, G) float64."""
    people = zip(truths, boxes, areas, strict=True)
    columns = [oks(keypoints, truth, box, area, sigmas) for truth, box, area in people]
    return np.stack(columns, axis=1) if columns else np.zeros((len(keypoints), 0))


def oks_nms(keypoints, scores, areas, sigmas, threshold=NMS_THRESHOLD):
    """Of poses that show the same person only the one with the highest score.

    keypoints (N, K, 2) in pixels, scores (N,), areas (N,) in pixels, sigmas (K,) -> indices to keep, highest score
    first; among equals the first. A pose goes if its OKS with a kept one is above the threshold; the area is the mean
    of both, and all keypoints count. Raises ValueError for NaN.
    """
    keypoints, scores, areas, sigmas = check_poses(keypoints, scores, areas, sigmas)
    rest = np.argsort(-scores, kind="stable")
    keep = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        keep.append(best)
        rest = rest[oks_with(keypoints, areas, sigmas, best, rest) <= threshold]
    return np.array(keep, np.intp)


def soft_oks_nms(keypoints, scores, areas, sigmas, threshold=NMS_THRESHOLD, most=20):
    """The order in which people are believed if a pose counts the less, the more it is like a better one.

    Arguments as for oks_nms -> at most `most` indices. Each time the highest score is taken, and the scores that are
    left are multiplied by exp(-OKS^2 / threshold). Nobody goes but by that limit.
    """
    keypoints, scores, areas, sigmas = check_poses(keypoints, scores, areas, sigmas)
    rest = np.argsort(-scores, kind="stable")
    keep = []
    while len(rest) and len(keep) < most:
        best, rest = rest[0], rest[1:]
        keep.append(best)
        scores[rest] *= np.exp(-(oks_with(keypoints, areas, sigmas, best, rest) ** 2) / threshold)
        rest = rest[np.argsort(-scores[rest], kind="stable")]
    return np.array(keep, np.intp)


def oks_with(keypoints, areas, sigmas, one, others):
    """OKS of one pose with others, by their indices; of each pair the mean area."""
    area = (areas[one] + areas[others])[:, None] / 2
    return mean_similarity(keypoints[others] - keypoints[one], area, sigmas)


def check_poses(keypoints, scores, areas, sigmas):
    """The four as float64 arrays of fitting shapes (scores a copy), or ValueError with one line."""
    keypoints, areas, sigmas = (np.asarray(x, np.float64) for x in (keypoints, areas, sigmas))
    scores = np.array(scores, np.float64)
    n = len(scores) if scores.ndim else -1
    expected = {"scores": (scores, (n,)), "areas": (areas, (n,)), "keypoints": (keypoints, (n, len(sigmas), 2))}
    for name, (array, shape) in expected.items():
        if array.shape != shape and not (n == 0 and array.size == 0):
            raise ValueError(f"{name}: expected the shape {shape} for {n} poses, found {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, found NaN or infinity; leave such poses out")
    if (areas < 0).any() or not (sigmas > 0).all():
        raise ValueError("expected areas of at least 0 and sigmas above 0, found others")
    return keypoints.reshape(n, len(sigmas), 2), scores, areas, sigmas


def rescore(keypoint_scores, box_scores):
    """The score of a person in ViTPose's evaluation: the mean of its keypoint scores above LOW_SCORE, times the box's.

    keypoint_scores (..., K), box_scores (...) -> (...) float64; 0 where no keypoint is above.
    """
    keypoint_scores = np.asarray(keypoint_scores, np.float64)
    counts = keypoint_scores > LOW_SCORE
    total = np.where(counts, keypoint_scores, 0).sum(axis=-1)
    return total / np.maximum(1, counts.sum(axis=-1)) * np.asarray(box_scores, np.float64)
