"""The mannequin world as a data set in COCO's form: a folder of pictures and one file of annotations.

Source of the format: cocodataset.org/#format-data.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from PIL import Image

from minivitpose.files import replacing, write_text
from minivitpose.pose.skeletons import COCO
from minivitpose.synthetic.render import draw
from minivitpose.synthetic.scenes import SIZE, SyntheticError, everybody, generator, lay_out

VERSION = 1  # of the scenes; whoever changes what a seed gives raises it
SETTINGS, ANNOTATIONS, IMAGES = "settings.json", "annotations.json", "images"
QUALITY = 92  # of the JPEG files


def write_dataset(folder, count, seed=0, split="val", world="seen", size=SIZE, threads=None):
    """Write ``count`` pictures and their annotations; a generator that yields the number of pictures that are done.

    folder (Path): made if it is not there. What an interrupted run left is kept, and the same call goes on from there;
    with other settings, or among pictures that it did not draw, it is refused. Raises SyntheticError, OSError.
    """
    generator(seed, split, world, 0)  # complains now rather than later
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    keep_settings(folder, {"scenes": VERSION, "seed": seed, "split": split, "world": world, "size": list(size)})
    entries = [None] * count
    crew = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        jobs = {crew.submit(write_picture, folder, seed, split, world, size, i): i for i in range(count)}
        for done, job in enumerate(as_completed(jobs), 1):
            entries[jobs[job]] = job.result()
            yield done
    finally:
        crew.shutdown(cancel_futures=True)
    write_text(folder / ANNOTATIONS, json.dumps(coco_file(entries)))


def keep_settings(folder, settings):
    """Write down what the pictures are made of, or compare with what is there."""
    path = folder / SETTINGS
    if not path.exists():
        there = [*(folder / IMAGES).iterdir(), *folder.glob(ANNOTATIONS)]
        if there:
            raise SyntheticError(f"{there[0]} was not made here, as there is no {SETTINGS}; take another folder")
        write_text(path, json.dumps(settings))
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != settings:
        raise SyntheticError(f"{folder} holds pictures of {found}, expected {settings}; take another folder")


def write_picture(folder, seed, split, world, size, i):
    """Picture number i, unless it is there already -> its entry and those of its people."""
    view, actors = lay_out(generator(seed, split, world, i), world, size, 6)
    name = f"{i:06d}.jpg"
    path = folder / IMAGES / name
    if not path.exists():
        with replacing(path) as file:
            Image.fromarray(draw(view, size)).save(file, "JPEG", quality=QUALITY)
    people = [annotation(p, i + 1) for p in everybody(view, actors)]
    return {"id": i + 1, "file_name": name, "height": size[0], "width": size[1]}, people


def annotation(person, image_id):
    """A person in COCO's form, without an id. A keypoint outside the picture is 0, 0, 0."""
    points = np.where(person.keypoints[:, 2:] > 0, person.keypoints, 0)
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": list(person.box),
        "area": person.area,
        "iscrowd": 0,
        "keypoints": [round(v, 2) for v in points.ravel().tolist()],
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }


def coco_file(entries):
    """All entries -> the content of the annotation file."""
    people = [p for _, people in entries for p in people]
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO.keypoints)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in COCO.links]  # COCO counts from 1
    return {
        "info": {"description": "mannequins drawn by minivitpose"},
        "images": [image for image, _ in entries],
        "annotations": [{"id": i, **p} for i, p in enumerate(people, 1)],
        "categories": [category],
    }
