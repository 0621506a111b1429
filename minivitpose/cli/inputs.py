"""What `predict` works on: files, folders and patterns to pictures, and a file with boxes to the people in each."""

import glob
import os
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from minivitpose.cli.options import UsageError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".jp2", ".ppm", ".pgm")
DRAWN = "-keypoints"  # behind the name of a picture that predict drew


@dataclass(frozen=True)
class Job:
    """One picture: its path, the boxes of its people (None for one who fills it), a detector's scores for them (or
    None), the name that its results get, its number in COCO's form, and the COCO category of each box (or None).
    """

    path: Path
    boxes: list | None
    box_scores: list | None
    name: str
    image_id: int
    categories: list | None = None


def find_pictures(inputs):
    """Files, folders (the pictures in them, not in folders inside) and patterns -> paths, each once, in order.

    What predict itself drew beside its input, X-keypoints.* beside X.*, is left out of a list of several. Raises
    UsageError for a folder without pictures and a pattern without files; a file that is not there stays in the list.
    """
    found = {os.path.abspath(path): path for text in inputs for path in pictures_of(text)}
    stems = {os.path.splitext(name)[0] for name in found}

    def drawn(name):
        stem = os.path.splitext(name)[0]
        return stem.endswith(DRAWN) and stem.removesuffix(DRAWN) in stems

    return [path for name, path in found.items() if not drawn(name)]


def pictures_of(text):
    """One INPUT -> list of paths."""
    path = Path(text)
    if not text:
        raise UsageError("INPUT: expected a picture, a folder or a pattern, found nothing")
    if path.is_dir():
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_file() and is_picture(entry.name))
        if not names:
            raise UsageError(
                f"{shown(text)}: no picture in this folder ({', '.join(ENDINGS[:3])}, ...); name its files"
            )
        return [path / name for name in names]
    if path.exists() or not glob.has_magic(text):
        return [path]
    files = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if os.path.isfile(name)]
    if not files:
        raise UsageError(f"{shown(text)}: no file has such a name")
    return files


def is_picture(name):
    """By its ending; hidden files are none, such as the ._x.jpg that a Mac leaves on foreign disks."""
    return not name.startswith(".") and name.lower().endswith(ENDINGS)


def shown(path):
    """A path as it can be printed anywhere: bytes that are not UTF-8 and line ends as \\x.. and \\n."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else ascii(text)[1:-1]


# ------------------------------------------------------------------------------------------------------------- people


def make_jobs(paths, boxes, coco, minimum_score, out, categories=()):
    """A Job for each path. boxes: the same for all, or None; coco: a CocoFile to look the people up in, or None;
    categories: the boxes to take from it.
    """
    names = unique_names(paths, out)
    ids = image_ids(paths, coco)
    if coco is None:
        return [Job(path, boxes, None, name, i) for path, name, i in zip(paths, names, ids, strict=True)]
    from minivitpose.pose.coco_json import boxes_by_image

    people = {}
    for category in categories:
        for image, found in boxes_by_image(coco, minimum_score, categories=[category]).items():
            people.setdefault(image, []).extend((*person, category) for person in found)
    jobs = []
    for path, name, i in zip(paths, names, ids, strict=True):
        rows = [list(row) for row in zip(*people.get(i, []), strict=True)] or [[], [], []]
        jobs.append(Job(path, *rows[:2], name, i, rows[2]))
    return jobs


def chosen_categories(coco, wanted):
    """The categories whose boxes are people -> ids, and a word on those that are not taken, or None.

    wanted: ids, or None: that which is called person, where there are others, else all. Raises UsageError.
    """
    there = sorted(set(coco.category_ids.tolist()))
    if wanted:
        if missing := sorted(set(wanted) - set(there)):
            raise UsageError(f"--category {missing[0]}: {coco.path} has boxes of {', '.join(map(str, there))}")
        return sorted(set(wanted)), None
    names = coco.categories or {}
    person = [i for i in there if names.get(i) == "person"]
    if len(there) < 2 or len(person) == len(there):
        return there, None
    listed = ", ".join(f"{i} ({names[i]})" if names.get(i) else str(i) for i in there)
    if person:
        return person, f"{coco.path} has boxes of the categories {listed}: people alone are taken (--category)"
    return there, f"{coco.path} has boxes of the categories {listed}: all are taken, --category N takes one"


def image_ids(paths, coco):
    """A number for each picture: that of the file with boxes, -1 if it is not in there; without such a file the digits
    of its name, as in 000000000139.jpg, or 1, 2, ... if not all have some of their own. Raises UsageError if none fits.
    """
    digits = [int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else -1 for path in paths]
    if coco is None:
        return digits if -1 not in digits and len(set(digits)) == len(digits) else list(range(1, len(paths) + 1))
    if coco.images is None:
        known, ids = set(coco.image_ids.tolist()), digits
        example = f"image_id {next(iter(known), 'none')}"
    else:
        known, by_name = coco.images, names_to_ids(coco.images)
        ids = [find_id(path, by_name, number) for path, number in zip(paths, digits, strict=True)]
        example = next(iter(coco.images.values()), None) or "no picture"
    ids = [i if i in known else -1 for i in ids]
    if set(ids) == {-1}:
        first = shown(paths[0])
        raise UsageError(
            f"{coco.path}: it has none of these pictures: there {shown(example)}, here {first}; check both"
        )
    return ids


def names_to_ids(images):
    """id -> file name as in the file -> base name -> list of (parts of the whole name, id)."""
    by_name = {}
    for i, name in images.items():
        if name:
            parts = Path(name.replace("\\", "/")).parts
            by_name.setdefault(parts[-1], []).append((parts, i))
    return by_name


def find_id(path, by_name, number):
    """The id of the entry with this base name, of several the one that shares most folders; else the name's digits."""
    rows = by_name.get(path.name, [])
    if not rows:
        return number
    here = path.absolute().parts[::-1]

    def shared(row):
        pairs = zip(row[0][::-1], here, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), len(row[0]))

    return max(rows, key=shared)[1]


# -------------------------------------------------------------------------------------------------------------- names


def unique_names(paths, out):
    """A name for the results of each picture, without ending: its own, X; of a second X in another folder FOLDER-X, and
    X-2, X-3 where that is taken too. No result in the folder ``out`` gets the path of an input. -> list of str
    """
    taken, names = set(), []
    inputs = {os.path.abspath(path) for path in paths}
    for path in paths:
        tries = chain([path.stem, f"{path.absolute().parent.name}-{path.stem}"], (f"{path.stem}-{n}" for n in count(2)))
        for name in tries:
            results = (os.path.abspath(out / f"{name}{DRAWN}{ending}") for ending in (".jpg", ".png"))
            if name.casefold() not in taken and not inputs.intersection(results):
                break
        taken.add(name.casefold())
        names.append(name)
    return names
