"""COCO's JSON files: pictures with annotated people, and plain lists of detections or of results.

A file is read whole and checked once; what comes out are arrays with one row an entry, so that nobody behind has to
ask again whether a number is a number. Source of the format: cocodataset.org/#format-data and #format-results.
"""

import json
import os
from dataclasses import dataclass

import numpy as np

from minivitpose.pose.coco_fields import CocoError, check_list, integers, named, numbers, shown, texts

AREA_OF_BOX = 0.53  # a person covers about so much of the box; for sets without areas (AIC, CrowdPose), as xtcocotools
PARTS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}  # COCO-WholeBody
WHOLE_BODY = sum(PARTS.values())


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A checked file of n entries: annotations of people, detections (boxes) or results (keypoints).

    images: id -> file name, sizes: id -> (height, width) or None, categories: id -> name; all three None for a plain
    list. ids, image_ids, category_ids (n,) int64. scores (n,), 1 for annotations. boxes (n, 4) x, y, w, h, or None for
    results without boxes. areas (n,) in pixels: annotated, else AREA_OF_BOX w h; of a list w h of the box, without
    boxes that around the keypoints. crowd (n,) bool: a region with many people. keypoints (n, K, 3) x, y and v, where
    v > 0 says that the point is labelled (of results: its score), or None. num_keypoints (n,) labelled points. float64.
    keypoint_names: of the first category that has a list, or None.
    """

    path: str
    images: dict | None
    sizes: dict | None
    categories: dict | None
    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    areas: np.ndarray
    crowd: np.ndarray
    keypoints: np.ndarray | None
    num_keypoints: np.ndarray
    keypoint_names: tuple | None = None

    def __len__(self):
        return len(self.ids)


def read_coco(path, wholebody=False):
    """Read an annotation file, or a list of detections or results. path -> CocoFile.

    wholebody: join the five keypoint fields of COCO-WholeBody to 133 points. Raises CocoError, one line that names the
    entry, what was expected and what was found.
    """
    return as_coco(parse(path), os.fspath(path), wholebody)


def as_coco(content, name="COCO content", wholebody=False):
    """The same from what json.load returned: a dict of images and annotations, or a list. -> CocoFile."""
    try:
        if isinstance(content, dict):
            return annotations(content, name, wholebody)
        if isinstance(content, list):
            return plain_list(content, name, wholebody)
        raise CocoError(f"expected a COCO annotation file or a list of results, found {shown(content)}")
    except CocoError as error:
        raise CocoError(f"{name}: {error}") from None


def parse(path):
    """What the JSON file holds, or CocoError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        problem = "no such file; check the path"
    except IsADirectoryError:
        problem = "it is a folder, expected a JSON file"
    except json.JSONDecodeError as error:
        problem = f"not JSON or cut off: {error}"
    except UnicodeDecodeError:
        problem = "not JSON: expected UTF-8 text, found other bytes; unpack it if it is compressed"
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        problem = f"not COCO's JSON: {error}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    raise CocoError(f"{path}: {problem}")


def annotations(content, path, wholebody):
    """The dict of an annotation file -> CocoFile."""
    missing = [key for key in ("images", "annotations") if key not in content]
    if missing:
        found = shown(list(content))[1:-1] or "nothing"
        raise CocoError(f"expected the keys images and annotations, found {found}; {missing[0]} is missing")
    pictures = check_list(content["images"], "image")
    entries = check_list(content["annotations"], "annotation")
    picture_ids = integers(pictures, "image", "id", unique=True).tolist()
    images = dict(zip(picture_ids, texts(pictures, "image", "file_name"), strict=True))
    categories, names = read_categories(content, entries)

    ids = integers(entries, "annotation", "id", unique=True)
    image_ids = integers(entries, "annotation", "image_id", known=images, where="images")
    category_ids = integers(entries, "annotation", "category_id", known=categories, where="categories")
    boxes = read_boxes(entries, "annotation")
    keypoints = read_keypoints(entries, "annotation", wholebody, len(names) if names else None)
    counted = np.zeros(len(entries), np.int64) if keypoints is None else (keypoints[..., 2] > 0).sum(axis=1)
    if not wholebody and any("num_keypoints" in entry for entry in entries):
        given = numbers(entries, "annotation", "num_keypoints", (), missing=-1, minimum=0)
        counted = np.where(given < 0, counted, given).astype(np.int64)
    areas = numbers(entries, "annotation", "area", (), missing=-1, minimum=0)
    areas = np.where(areas < 0, AREA_OF_BOX * boxes[:, 2] * boxes[:, 3], areas)
    crowd = numbers(entries, "annotation", "iscrowd", (), missing=0) != 0
    scores = np.ones(len(entries))
    sizes = read_sizes(pictures, images)
    rest = scores, boxes, areas, crowd, keypoints, counted, names and tuple(map(str, names))
    return CocoFile(path, images, sizes, categories, ids, image_ids, category_ids, *rest)


def plain_list(entries, path, wholebody):
    """A list of detections (boxes) or results (keypoints) -> CocoFile. Without category_id the category is 1."""
    check_list(entries, "entry")
    image_ids = integers(entries, "entry", "image_id")
    category_ids = integers(entries, "entry", "category_id", missing=1)
    scores = numbers(entries, "entry", "score", ())
    keypoints = read_keypoints(entries, "entry", wholebody)
    # pycocotools looks at the first result to see whether there are boxes, so we do
    boxes = read_boxes(entries, "entry") if keypoints is None or "bbox" in entries[0] else None
    if boxes is not None:
        areas = boxes[:, 2] * boxes[:, 3]
    else:
        areas = np.prod(keypoints[..., :2].max(axis=1) - keypoints[..., :2].min(axis=1), axis=-1)
    n = len(entries)
    counted = np.zeros(n, np.int64) if keypoints is None else (keypoints[..., 2] > 0).sum(axis=1)
    rest = scores, boxes, areas, np.zeros(n, bool), keypoints, counted
    return CocoFile(path, None, None, None, np.arange(1, n + 1), image_ids, category_ids, *rest)


def read_categories(content, entries):
    """categories: id -> name, and the keypoints' names if given; without a list, the ids that the annotations have."""
    if "categories" not in content:
        return dict.fromkeys(integers(entries, "annotation", "category_id").tolist(), ""), None
    categories = check_list(content["categories"], "category")
    ids = integers(categories, "category", "id", unique=True).tolist()
    names = next((c["keypoints"] for c in categories if isinstance(c.get("keypoints"), list)), None)
    return {i: str(c.get("name", "")) for i, c in zip(ids, categories, strict=True)}, names


def read_boxes(entries, what):
    """(n, 4) float64 x, y, w, h; sizes may be 0, as some annotations are, but not below."""
    boxes = numbers(entries, what, "bbox", (4,))
    bad = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))
    if len(bad):
        w, h = boxes[bad[0], 2:]
        name = named(entries, what, bad[0])
        raise CocoError(f"{name}: bbox is x, y, width, height; found the negative size {w:g} x {h:g}")
    return boxes


def read_keypoints(entries, what, wholebody, count=None):
    """(n, K, 3) float64 of x, y, v, or None where the file has none. All entries have them or none has."""
    if not any("keypoints" in entry for entry in entries):
        return None
    if wholebody:
        parts = [numbers(entries, what, field, (3 * size,)) for field, size in PARTS.items()]
        return np.concatenate(parts, axis=1).reshape(len(entries), WHOLE_BODY, 3)
    first = entries[0].get("keypoints")
    length = 3 * count if count else len(first) if isinstance(first, list) else 0
    if length == 0 or length % 3:
        raise CocoError(f"{what} 0: keypoints: expected a list of x, y, v for each keypoint, found {shown(first)}")
    return numbers(entries, what, "keypoints", (length,)).reshape(len(entries), length // 3, 3)


def read_sizes(pictures, images):
    """id -> (height, width), or None where the file does not tell."""
    height, width = (
        numbers(pictures, "image", side, (), missing=0, minimum=0).tolist() for side in ("height", "width")
    )
    return {i: (h, w) if h and w else None for i, h, w in zip(images, height, width, strict=True)}


def boxes_by_image(coco, minimum_score=0.0, clip=False, categories=None):
    """The people to look at: {image_id: [(box (x, y, w, h), score), ...]}, all in the order of the file.

    Left out: entries with a score below minimum_score, of other categories than these, of no size; of annotations also
    crowds, areas of 0 and people without a labelled keypoint, as ViTPose's evaluation does. clip: cut annotated boxes
    to the picture as ViTPose's data set does; a list of detections is used as it is, there too. Raises CocoError.
    """
    if coco.boxes is None:
        raise CocoError(f"{coco.path}: its entries have no bbox, expected boxes of people")
    boxes = clipped(coco) if clip and coco.images is not None else coco.boxes
    wanted = (coco.scores >= minimum_score) & (boxes[:, 2:] > 0).all(axis=1)
    if categories is not None:
        wanted &= np.isin(coco.category_ids, list(categories))
    if coco.images is not None:
        wanted &= ~coco.crowd & (coco.areas > 0)
        if coco.keypoints is not None:
            wanted &= coco.num_keypoints > 0
    people = {}
    for i in np.flatnonzero(wanted):
        person = (tuple(boxes[i].tolist()), float(coco.scores[i]))
        people.setdefault(int(coco.image_ids[i]), []).append(person)
    return people


def clipped(coco):
    """Annotated boxes cut to their picture, (n, 4); pixels are points here, so a box of width w ends at x + w - 1.

    A box wholly outside gets size 0. Pictures of unknown size cut nothing on their right and lower side.
    """
    sizes = [coco.sizes[i] or (np.inf, np.inf) for i in coco.image_ids.tolist()]
    last = np.array(sizes, np.float64).reshape(-1, 2)[:, ::-1] - 1
    start = np.maximum(coco.boxes[:, :2], 0)
    end = np.minimum(last, start + np.maximum(coco.boxes[:, 2:] - 1, 0))
    return np.concatenate([start, np.maximum(end - start, 0)], axis=1)


def coco_result(image_id, keypoints, scores, score, category_id=1):
    """One entry of COCO's result form, ready for json.dump.

    keypoints (K, 2) x, y in pixels, scores (K,) of each, score of the person. 133 keypoints are split into the five
    fields of COCO-WholeBody.
    """
    flat = np.concatenate([keypoints, np.reshape(scores, (-1, 1))], axis=1)
    entry = {"image_id": int(image_id), "category_id": int(category_id)}
    if len(flat) == WHOLE_BODY:
        ends = np.cumsum(list(PARTS.values()))[:-1]
        entry |= {field: part.ravel().tolist() for field, part in zip(PARTS, np.split(flat, ends), strict=True)}
    else:
        entry["keypoints"] = flat.ravel().tolist()
    return entry | {"score": float(score)}
