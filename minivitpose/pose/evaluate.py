"""COCO's ten numbers: how many people are found (recall), and how many of the found are people (precision).

Each pose looks for an annotated person; then poses are taken from the surest downwards, and precision and recall are
written down. AP is the mean precision over 101 recalls, AR the last recall; both are means over ten thresholds of OKS.
Every rule is as in pycocotools, ties too. Source: cocodataset.org/#keypoints-eval, pycocotools/cocoeval.py.
"""

from dataclasses import dataclass

import numpy as np

from minivitpose.pose.coco_fields import CocoError
from minivitpose.pose.coco_json import AREA_OF_BOX, CocoFile, coco_result
from minivitpose.pose.crop import centre_and_scale
from minivitpose.pose.oks import oks_matrix, oks_nms, rescore

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # an OKS from here on is a match
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0, 1e10), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # pixels, both ends included
MOST = 20  # poses a picture

# name: (is it of recall, place in AREAS, place in THRESHOLDS or all of them)
NUMBERS = {
    "AP": (False, 0, slice(None)),
    "AP50": (False, 0, 0),
    "AP75": (False, 0, 5),
    "APm": (False, 1, slice(None)),
    "APl": (False, 2, slice(None)),
    "AR": (True, 0, slice(None)),
    "AR50": (True, 0, 0),
    "AR75": (True, 0, 5),
    "ARm": (True, 1, slice(None)),
    "ARl": (True, 2, slice(None)),
}


@dataclass(frozen=True, eq=False)
class Matches:
    """Of one picture or of many, D poses beside G annotated people; A areas, T thresholds.

    scores (D,); found (A, T, D): the pose has a person; ignored (A, T, D): the pose counts neither way;
    people (A,): how many should be found.
    """

    scores: np.ndarray
    found: np.ndarray
    ignored: np.ndarray
    people: np.ndarray


def evaluate(truth, results, sigmas, use_area=True, image_ids=None):
    """The ten numbers, name -> float, -1 where nobody is annotated in the range of areas.

    truth: CocoFile of annotations; results: CocoFile of results with keypoints; sigmas (K,); use_area: False takes
    0.53 w h of the box for the area (AIC, CrowdPose); image_ids: only these pictures. Raises CocoError.
    """
    for file in (truth, results):
        if not isinstance(file, CocoFile):
            raise CocoError(f"expected what read_coco gives, found {type(file).__name__}")
    sigmas = np.asarray(() if sigmas is None else sigmas, np.float64)
    if sigmas.ndim != 1 or not (np.isfinite(sigmas) & (sigmas > 0)).all() or not sigmas.size:
        raise CocoError(f"sigmas: expected one number above 0 for each keypoint, found {sigmas.tolist()}")
    check_files(truth, results, len(sigmas))
    image_ids = set(truth.images if image_ids is None else image_ids)
    if strange := image_ids - set(truth.images):
        raise CocoError(f"image_ids: {truth.path} has no picture {next(iter(strange))!r}")
    image_ids = sorted(image_ids)
    places = grouped(truth), grouped(results)
    precisions, recalls = [], []
    for category in sorted(truth.categories):
        pairs = [tuple(place.get((image, category), []) for place in places) for image in image_ids]
        matches = [picture(truth, results, *pair, sigmas, use_area) for pair in pairs if any(map(len, pair))]
        if matches:
            precision, recall = curves(joined(matches))
            precisions.append(precision)
            recalls.append(recall)
    return {name: summary(recalls if of_recall else precisions, *at) for name, (of_recall, *at) in NUMBERS.items()}


def check_files(truth, results, num_keypoints):
    """CocoError if these do not go together."""
    if truth.images is None:
        raise CocoError(f"{truth.path}: expected annotations, found a plain list; give the data set's own file")
    if results.images is not None:
        raise CocoError(f"{results.path}: expected a list of results, found a file of annotations")
    for file, entry in ((truth, "annotation"), (results, "entry")):
        if file.keypoints is None and len(file):
            raise CocoError(f"{file.path}: {entry} 0: keypoints is missing, expected {num_keypoints} of them")
        if len(file) and file.keypoints.shape[1] != num_keypoints:
            found = file.keypoints.shape[1]
            raise CocoError(f"{file.path}: {found} keypoints a person, expected {num_keypoints}; check --dataset")
    for field, known in (("image_id", truth.images), ("category_id", truth.categories)):
        values = (results.image_ids if field == "image_id" else results.category_ids).tolist()
        for i, value in enumerate(values):
            if value not in known:
                raise CocoError(f"{results.path}: entry {i}: {field} {value} is not in {truth.path}; check the files")


def grouped(file):
    """(image_id, category_id) -> the entries' indices, in the file's order."""
    groups = {}
    for i, key in enumerate(zip(file.image_ids.tolist(), file.category_ids.tolist(), strict=True)):
        groups.setdefault(key, []).append(i)
    return groups


def picture(truth, results, people, poses, sigmas, use_area):
    """Match the poses of one picture with its people, both given by their indices. -> Matches."""
    poses = np.array(poses, np.intp)
    poses = poses[np.argsort(-results.scores[poses], kind="stable")][:MOST]
    boxes, crowd = truth.boxes[people], truth.crowd[people]
    areas = truth.areas[people] if use_area else AREA_OF_BOX * boxes[:, 2] * boxes[:, 3]
    nobody = crowd | (truth.num_keypoints[people] == 0)  # may be found, need not be
    aside = nobody | outside(areas)
    if len(poses) and len(people):
        alike = oks_matrix(results.keypoints[poses, :, :2], truth.keypoints[people], boxes, areas, sigmas)
    else:
        alike = np.zeros((len(poses), len(people)))
    found, ignored = match(alike, aside, crowd)
    # a pose that found nobody is wrong only among poses of its own size
    ignored |= ~found & outside(results.areas[poses])[:, None]
    return Matches(results.scores[poses], found, ignored, (~aside).sum(axis=1))


def outside(areas):
    """(n,) -> (A, n) bool: not within each of AREAS."""
    low, high = np.array(list(AREAS.values()))[..., None].swapaxes(0, 1)
    return (areas < low) | (areas > high)


def match(alike, aside, crowd):
    """Who finds whom, at every threshold and in every range of areas at once.

    alike (D, G): OKS, the surest pose first; aside (A, G): need not be found; crowd (G,): may be found many times.
    -> found, ignored (A, T, D) bool. Each pose in turn takes the free person it is most like, if the OKS reaches the
    threshold: of those who count if any does, else of those aside, which makes the pose ignored. Among equals the last.
    """
    shape = len(aside), len(THRESHOLDS)
    found, ignored = np.zeros((2, *shape, len(alike)), bool)
    if alike.size == 0:
        return found, ignored
    alike, aside, crowd = alike[:, ::-1], aside[:, None, ::-1], crowd[::-1]  # argmax takes the first of equals
    reach = alike[:, None] >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    taken = np.zeros((*shape, len(crowd)), bool)
    for d in range(len(alike)):
        free = reach[d] & ~(taken & ~crowd)
        counting = free & ~aside
        free = np.where(counting.any(axis=-1, keepdims=True), counting, free)
        chosen = (np.where(free, alike[d], -1).argmax(axis=-1)[..., None] == np.arange(len(crowd))) & free
        taken |= chosen
        found[..., d] = chosen.any(axis=-1)
        ignored[..., d] = (chosen & aside).any(axis=-1)
    return found, ignored


def joined(matches):
    """The Matches of many pictures as one, the surest pose first; among equals the earlier picture's."""
    scores = np.concatenate([m.scores for m in matches])
    order = np.argsort(-scores, kind="stable")
    found, ignored = (np.concatenate([getattr(m, x) for m in matches], axis=-1) for x in ("found", "ignored"))
    return Matches(scores[order], found[..., order], ignored[..., order], sum(m.people for m in matches))


def curves(matches):
    """Precision at each of RECALLS (A, T, 101) and the last recall (A, T); -1 where nobody should be found."""
    right = np.cumsum(matches.found & ~matches.ignored, axis=-1)
    wrong = np.cumsum(~matches.found & ~matches.ignored, axis=-1)
    shape = right.shape[:2]
    precision, recall = -np.ones((*shape, len(RECALLS))), -np.ones(shape)
    for area, people in enumerate(matches.people):
        for t in range(shape[1]) if people else ():
            recall[area, t] = right[area, t, -1] / people if len(matches.scores) else 0
            precision[area, t] = precision_at_recalls(right[area, t], wrong[area, t], people)
    return precision, recall


def precision_at_recalls(right, wrong, people):
    """Running counts (D,) -> (101,): the best precision from each recall on; 0 for a recall never reached."""
    precision = right / (right + wrong + np.spacing(1.0))
    best = np.maximum.accumulate(precision[::-1])[::-1]  # fewer poses would do: a dip is nobody's need
    at = np.searchsorted(right / people, RECALLS, side="left")
    return np.append(best, 0)[at]


def summary(curves, area, thresholds):
    """The mean over categories, thresholds and recalls of what there is; -1 if there is nothing."""
    values = np.concatenate([np.ravel(curve[area][thresholds]) for curve in curves]) if curves else np.zeros(0)
    values = values[values > -1]
    return float(values.mean()) if len(values) else -1.0


def picture_results(image_id, poses, box_scores, categories, sigmas, size=(256, 192), nms=True):
    """The poses of a picture as COCO results, after rescoring and OKS-NMS as in ViTPose's evaluation.

    poses: list of Pose, with a detector's score (1 for annotated boxes) and a category_id each; sigmas (K,); size
    (height, width) of the network's input, since the NMS takes the crop's rectangle for a person's area -> list of
    dicts, per category the best first. Raises CocoError for a score that is not finite.
    """
    results = []
    scores = rescore([pose.scores for pose in poses], box_scores) if poses else np.zeros(0)
    if not np.isfinite(scores).all():
        raise CocoError(f"image {image_id}: a pose has the score {scores[~np.isfinite(scores)][0]}; check the weights")
    areas = np.array([np.prod(centre_and_scale(pose.box, size)[1]) for pose in poses])
    for category in sorted(set(categories)):
        of = np.flatnonzero(np.array(categories) == category)
        if nms:
            of = of[oks_nms([poses[i].keypoints for i in of], scores[of], areas[of], sigmas)]
        results += [coco_result(image_id, poses[i].keypoints, poses[i].scores, scores[i], category) for i in of]
    return results
