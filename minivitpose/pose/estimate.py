"""From pictures and boxes to poses: crop each person, run the network on a batch of them, map the peaks back.

    poses = estimate(model, "photo.jpg", [(120, 40, 200, 420)])
    for poses in estimate_each(model, paths, boxes): ...        # any number of pictures, one at a time in memory

People of several pictures share a batch, so that the network is never idle for a picture with one person.
"""

import math
import os
from collections import deque
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from PIL import Image

from minivitpose.pose.boxes import check_boxes
from minivitpose.pose.crop import BoxError, crop, network_input
from minivitpose.pose.decode import decode
from minivitpose.pose.flip import flip_test
from minivitpose.pose.image import ImageError, as_image, read_image, to_rgb
from minivitpose.pose.pipelines import PIPELINES
from minivitpose.pose.skeletons import skeleton_for

END = object()  # of an iterator
BATCH = 8  # people in a pass: the fast engine gains nothing by more, and so many pictures wait at most


class PoseError(ValueError):
    """A model and options that make no pose: one line with what is wrong, what was expected and the likely fix."""


@dataclass(frozen=True, eq=False)
class Pose:
    """One person: keypoints (K, 2) float32, x and y in pixels of the picture; scores (K,), the heatmaps' maxima; box
    (x, y, w, h); score, that of the person: the mean of the scores, times the box's own score if a detector gave one.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    box: tuple
    score: float | None = None

    def __post_init__(self):
        if self.score is None:
            object.__setattr__(self, "score", float(np.mean(self.scores)))

    def to_json(self):
        """A dict of lists of plain numbers, ready for json.dump: the shortest that read back as the same float."""
        keypoints = [[float(str(x)), float(str(y))] for x, y in self.keypoints]
        scores = [float(str(score)) for score in self.scores]
        return {"keypoints": keypoints, "scores": scores, "box": list(self.box), "score": round(self.score, 6)}


def estimate(model, image, boxes=None, **options):
    """The pose of the person in each box of a picture, or of each of a list of pictures.

    model: ``model(float32 (B, 3, H, W)) -> (B, K, Hm, Wm)`` with ``model.config.image_size`` == (H, W). image: a path,
    (h, w, 3) uint8 RGB, or a Pillow image (its pixels as they lie; a path is also turned upright as its EXIF tag says);
    or a list of these. boxes: four numbers in pixels for each person, None for one person who fills the picture; for a
    list of pictures a list with such a list, or None, for each -> list of Pose in the order of the boxes; for a list
    of pictures a list of such lists. Options: see estimate_each; box_scores has the shape of boxes.
    Raises ImageError, BoxError, and PoseError for NaN heatmaps and for options that the model cannot have.
    """
    if isinstance(image, list | tuple):
        return list(estimate_each(model, image, boxes, **options))
    scores = options.pop("box_scores", None)
    scores = None if scores is None else [scores]
    (poses,) = estimate_each(model, [image], None if boxes is None else [boxes], box_scores=scores, **options)
    return poses


def estimate_each(model, images, boxes=None, *, box_format="xywh", box_scores=None, progress=False, **options):
    """The same for any number of pictures: yields each picture's list of Pose, in order, as soon as it is complete.

    images: an iterable of what ``estimate`` takes, such as a generator of paths, read one at a time; boxes: an iterable
    of as many lists of boxes or None; box_format: "xywh" (left, top, width, height) or "xyxy" (two corners);
    box_scores: an iterable of as many lists of numbers, a detector's score for each box; progress: a bar on standard
    error. options as for ``make_plan``: pipeline, flip, batch.
    """
    plan = make_plan(model, **options)
    if isinstance(images, str | os.PathLike | np.ndarray) or hasattr(images, "getbands"):
        raise ImageError("expected an iterable of pictures, found one: use estimate, or give [picture]")
    pictures = (prepare(*row, box_format) for row in together(images, boxes, box_scores))
    results = (poses for _, poses in estimate_pictures(plan, pictures))
    if not progress:
        return results
    from tqdm import tqdm

    total = len(images) if hasattr(images, "__len__") else None
    return tqdm(results, total=total, unit="picture")


def together(images, boxes, box_scores):
    """Rows of (image, boxes, box_scores), None for what was not given. BoxError if one ends before the others."""
    given = {"images": images, "boxes": boxes, "box_scores": box_scores}
    columns = {name: iter(rows) for name, rows in given.items() if rows is not None}
    for i in count():
        row = {name: next(rows, END) for name, rows in columns.items()}
        ended = [name for name, value in row.items() if value is END]
        if len(ended) == len(row):
            return
        if ended:
            raise BoxError(f"{ended[0]}: found {i}, but more {next(name for name in row if name not in ended)}")
        yield row["images"], row.get("boxes"), row.get("box_scores")


# ----------------------------------------------------------------------------------------------- what the pieces are


@dataclass(frozen=True)
class Plan:
    """How a model is run: what is done before and behind it (a Pipeline), flip_index for the flip test or None."""

    model: object
    pipeline: object
    flip_index: tuple | None
    batch: int


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture (H, W, 3) and its people: boxes (x, y, w, h), each with a detector's score or 1; name for messages."""

    image: np.ndarray
    boxes: list
    box_scores: list
    name: str = "the picture"
    poses: list = field(default_factory=list)  # found so far

    @property
    def complete(self):
        return len(self.poses) == len(self.boxes)


def make_plan(model, pipeline=None, flip=False, batch=BATCH):
    """A Plan. pipeline: a name in PIPELINES, None for the model's own (``config.pipeline``, else "udp"); flip: run the
    mirrored crop too and take the mean; batch: so many people at a time. Raises PoseError.
    """
    config = model.config
    name = pipeline or getattr(config, "pipeline", None) or "udp"
    if not isinstance(name, str) or name not in PIPELINES:
        raise PoseError(f"pipeline: expected one of {', '.join(PIPELINES)}, found {name!r}")
    if not isinstance(batch, int | np.integer) or isinstance(batch, bool) or batch < 1:
        raise PoseError(f"batch: expected a whole number of people at a time, from 1, found {batch!r}")
    return Plan(model, PIPELINES[name], mirror(config) if flip else None, batch)


def mirror(config):
    """The flip index of the model's keypoint set, or PoseError where its mirror pairs are not known."""
    skeleton = skeleton_for(config.num_keypoints, getattr(config, "dataset", None))
    if not skeleton.flip_pairs:
        raise PoseError(
            f"flip: the set {skeleton.name!r} has no mirror pairs, and the flip test needs them; leave it out, or name "
            "the right set when loading (dataset=, --dataset)"
        )
    return skeleton.flip_index


def prepare(image, boxes=None, box_scores=None, box_format="xywh"):
    """A Picture with its boxes checked. Arguments as for ``estimate``. Raises ImageError, BoxError."""
    name = f"picture {os.fspath(image)!r}" if isinstance(image, str | os.PathLike) else "the picture"
    pixels = as_pixels(image)
    boxes = check_boxes(boxes, pixels, box_format)
    scores = [1.0] * len(boxes) if box_scores is None else check_scores(box_scores)
    if len(scores) != len(boxes):
        raise BoxError(f"box_scores: expected one for each of {len(boxes)} boxes, found {len(scores)}")
    return Picture(pixels, boxes, scores, name)


def check_scores(box_scores):
    """A list of floats, or BoxError."""
    try:
        scores = [float(score) for score in box_scores]
    except (TypeError, ValueError):
        raise BoxError(f"box_scores: expected a list of numbers, found {box_scores!r:.60}") from None
    if bad := [i for i, score in enumerate(scores) if not math.isfinite(score)]:
        raise BoxError(f"box_scores: expected numbers, found {scores[bad[0]]} at place {bad[0]}")
    return scores


def as_pixels(image):
    """A path, an array or a Pillow image -> (H, W, 3) uint8 RGB. Raises ImageError."""
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except (ImageError, OSError) as error:  # Pillow reads the file only now
            raise ImageError(f"image: {error}") from None
    return as_image(image)


# ------------------------------------------------------------------------------------------------ through the network


def estimate_pictures(plan, pictures):
    """Pictures (an iterable) through the network: yields (Picture, list of Pose), in order. Raises PoseError.

    At most plan.batch crops and plan.batch + 1 pictures are in memory at a time.
    """
    waiting, crowd = deque(), []  # pictures whose people are not all through; people who wait for the network
    for picture in pictures:
        waiting.append(picture)
        for box in picture.boxes:
            crowd.append((picture, crop(picture.image, box, plan.model.config.image_size, plan.pipeline.crop)))
            if len(crowd) == plan.batch:
                run(plan, crowd)
                yield from completed(waiting)
        if len(waiting) > plan.batch and crowd:  # pictures without people behind one with few
            run(plan, crowd)
        yield from completed(waiting)
    run(plan, crowd)
    yield from completed(waiting)


def completed(waiting):
    """Take from the front of the queue the pictures whose poses are all there."""
    while waiting and waiting[0].complete:
        picture = waiting.popleft()
        yield picture, picture.poses


def run(plan, crowd):
    """The waiting people through the network, their poses into their pictures' lists; nobody waits any more."""
    if not crowd:
        return
    crops = [person for _, person in crowd]
    heatmaps = heatmaps_of(plan, crops)
    check_heatmaps(plan, heatmaps, crowd)
    places = (np.array([getattr(person, name) for person in crops]) for name in ("centre", "scale"))
    keypoints, scores = decode(heatmaps, *places, plan.pipeline.decode)
    for (picture, person), xy, maxima in zip(crowd, keypoints, scores, strict=True):
        score = float(maxima.mean()) * picture.box_scores[len(picture.poses)]
        picture.poses.append(Pose(xy, maxima, person.box, score))
    crowd.clear()


def heatmaps_of(plan, crops):
    """B crops through the network, and through the mirror if the plan has one -> (B, K, Hm, Wm)."""
    images = np.concatenate([network_input(person) for person in crops])
    images = images.astype(getattr(plan.model, "dtype", images.dtype), copy=False)
    if plan.flip_index is None:
        return plan.model(images)
    return flip_test(plan.model, images, plan.flip_index, plan.pipeline.shift)


def check_heatmaps(plan, heatmaps, crowd):
    """PoseError that names the first person and keypoint whose heatmap has a NaN or an infinity."""
    bad = np.argwhere(~np.isfinite(heatmaps).all(axis=(2, 3)))
    if not len(bad):
        return
    i, k = bad[0]
    picture, config = crowd[i][0], plan.model.config
    person = len(picture.poses) + sum(other is picture for other, _ in crowd[:i])
    name = skeleton_for(heatmaps.shape[1], getattr(config, "dataset", None)).keypoints[k]
    raise PoseError(
        f"person {person} of {picture.name}: the heatmap of keypoint {k} ({name}) has a NaN or infinity; check the "
        "weights with `minivitpose inspect` and `minivitpose compare`"
    )
