"""From a picture and boxes to poses: crop each person, run the network on all of them at once, map the peaks back."""

import os
from dataclasses import dataclass

import numpy as np

from minivitpose.pose.crop import BoxError, check_box, crop, network_input, short, whole_picture
from minivitpose.pose.decode import cells_to_crop, decode_argmax
from minivitpose.pose.image import as_image, read_image


@dataclass(frozen=True, eq=False)
class Pose:
    """One person: keypoints (K, 2) float32, x and y in pixels of the picture; scores (K,); box (x, y, w, h)."""

    keypoints: np.ndarray
    scores: np.ndarray
    box: tuple

    def to_json(self):
        """A dict of lists of plain Python numbers, ready for json.dump."""
        return {"keypoints": self.keypoints.tolist(), "scores": self.scores.tolist(), "box": list(self.box)}


def estimate(model, image, boxes=None):
    """The pose of the person in each box.

    model: ``model(float32 (B, 3, H, W)) -> (B, K, Hm, Wm)`` with ``model.config.image_size`` == (H, W); image
    (h, w, 3) uint8 RGB or a path; boxes: (x, y, w, h) in pixels for each person, None for one person who fills the
    picture -> list of Pose in the order of the boxes. Raises ImageError, BoxError, and ValueError for NaN heatmaps.
    """
    image = read_image(image) if isinstance(image, str | os.PathLike) else as_image(image)
    crops = [crop(image, box, model.config.image_size) for box in check_boxes(boxes, image)]
    if not crops:
        return []
    heatmaps = model(np.concatenate([network_input(c) for c in crops]))
    return [pose_in_crop(c, h) for c, h in zip(crops, heatmaps, strict=True)]


def pose_in_crop(crop, heatmaps):
    """Crop and its heatmaps (K, Hm, Wm) -> Pose, in pixels of the picture."""
    cells, scores = decode_argmax(heatmaps)
    xy = crop.to_picture(cells_to_crop(cells, heatmaps.shape[-2:], crop.pixels.shape[:2]))
    return Pose(xy.astype(np.float32), scores, crop.box)


def check_boxes(boxes, image):
    """A list of boxes (x, y, w, h), each checked; None is the whole picture. Raises BoxError that tells which one."""
    if boxes is None:
        return [whole_picture(image)]
    try:
        boxes = list(boxes)
    except TypeError:
        raise BoxError(f"boxes: expected a list of (x, y, w, h), found {short(boxes)}") from None
    if len(boxes) == 4 and all(np.ndim(value) == 0 for value in boxes):
        raise BoxError(f"boxes: expected a list of boxes, found four numbers; for one box give [{short(tuple(boxes))}]")
    return [check_box(box, image, f"box {i}") for i, box in enumerate(boxes)]
