"""Where the people are: lists of boxes, checked and brought to one form, (x, y, width, height) in pixels."""

import numpy as np

from minivitpose.pose.crop import BoxError, check_box, short, whole_picture

FORMATS = {"xywh": "left, top, width, height", "xyxy": "left, top, right, bottom"}


def check_boxes(boxes, image, box_format="xywh"):
    """A list of boxes (x, y, w, h), each checked; None is the whole picture.

    boxes: a list or (n, 4) array of four numbers each in pixels, as box_format says: "xywh" or "xyxy" (two corners).
    image (H, W, 3). Raises BoxError that tells which box, and that corners were given for "xywh" where that shows.
    """
    if box_format not in FORMATS:
        raise BoxError(f"box_format: expected one of {', '.join(FORMATS)}, found {box_format!r}")
    if boxes is None:
        return [whole_picture(image)]
    try:
        boxes = list(boxes)
    except TypeError:
        raise BoxError(f"boxes: expected a list of (x, y, w, h), found {short(boxes)}") from None
    if len(boxes) == 4 and all(np.ndim(value) == 0 for value in boxes):
        raise BoxError(f"boxes: expected a list of boxes, found four numbers; for one box give [{short(tuple(boxes))}]")
    if box_format == "xyxy":
        return [check_box(from_corners(box, i), image, f"box {i}") for i, box in enumerate(boxes)]
    boxes = [check_box(box, image, f"box {i}") for i, box in enumerate(boxes)]
    check_not_corners(boxes, image)
    return boxes


def from_corners(box, i):
    """(x1, y1, x2, y2) -> (x, y, w, h); what is no box at all is left to check_box."""
    try:
        x1, y1, x2, y2 = (float(value) for value in box)
    except (TypeError, ValueError):
        return box
    if x2 <= x1 or y2 <= y1:
        expected = "expected right > left and bottom > top for two corners (xyxy)"
        raise BoxError(f"box {i} {short(box)}: {expected}; if these are x, y, width, height, give box_format='xywh'")
    return x1, y1, x2 - x1, y2 - y1


def check_not_corners(boxes, image):
    """BoxError if these can only be corners: all would fit the picture as such, and one reaches far out of it as a box.

    Far is more than half of its width or height. Detectors cut their boxes at the picture's edge; people annotated
    beyond it by so much are too rare to let the likely mistake pass.
    """
    height, width = image.shape[:2]
    far = [i for i, (x, y, w, h) in enumerate(boxes) if x + w / 2 > width or y + h / 2 > height]
    if far and all(0 <= x < w <= width and 0 <= y < h <= height for x, y, w, h in boxes):
        raise BoxError(
            f"box {far[0]} {short(boxes[far[0]])}: as x, y, width, height most of it is outside the picture, which is "
            f"{width} wide and {height} high; as two corners it fits: give box_format='xyxy' (--box-format xyxy), or "
            "cut it at the edge"
        )
