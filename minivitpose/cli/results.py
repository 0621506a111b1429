"""The forms in which `predict` writes keypoints: the project's own with names, COCO's results, and easy_ViTPose's.

Each takes entries: dicts with the picture's path, the name of its drawn picture and its poses as ``Pose.to_json`` makes
them, as the journal holds them, and the picture's number in COCO's form, image_id, and categories, one a pose or None.
"""

import numpy as np

from minivitpose.cli.inputs import DRAWN
from minivitpose.cli.journal import encode
from minivitpose.files import replacing

FORMATS = ("named", "coco", "easy")


def make_entry(job, poses, drawn):
    """What is kept of one picture. drawn: the file name of the drawn picture, or None."""
    people = [pose.to_json() for pose in poses]
    return {"image": str(job.path), "drawn": drawn, "poses": people}


def named_single(entry, about):
    """One picture, its people with named keypoints, for a reader without any table. -> pieces of bytes"""
    return [encode({"image": entry["image"], **about, "poses": entry["poses"]}, indent=1), b"\n"]


def named_many(entries, about):
    """Many pictures, one on each line. -> pieces of bytes"""
    yield encode(about, indent=1)[:-2] + b',\n "pictures": ['
    for i, entry in enumerate(entries):
        yield b",\n  " if i else b"\n  "
        yield encode({name: entry[name] for name in ("image", "drawn", "poses")})
    yield b"\n ]\n}\n"


def coco(entries, given_ids):
    """A list of COCO results, one a person. given_ids: the numbers are those of a COCO file; else the file's name
    stands beside the number. -> pieces of bytes
    """
    from minivitpose.pose.coco_json import coco_result

    before = b"[\n"
    for entry in entries:
        categories = entry["categories"] or [1] * len(entry["poses"])
        for pose, category in zip(entry["poses"], categories, strict=True):
            keypoints = np.array(pose["keypoints"])
            result = coco_result(entry["image_id"], keypoints, pose["scores"], pose["score"], category)
            yield before + encode(result if given_ids else result | {"file_name": entry["image"]})
            before = b",\n"
    yield b"\n]\n" if before == b",\n" else b"[]\n"


def easy(entry, about):
    """One picture as easy_ViTPose's --save-json writes it: one frame, people by number, points (y, x, score).

    Source: the README and inference.py of JunkyByte/easy_ViTPose. -> pieces of bytes
    """
    people = {
        str(i): [[y, x, score] for (x, y), score in zip(pose["keypoints"], pose["scores"], strict=True)]
        for i, pose in enumerate(entry["poses"])
    }
    names = {str(i): name for i, name in enumerate(about["keypoint_names"])}
    return [encode({"keypoints": [people], "skeleton": names}), b"\n"]


# ------------------------------------------------------------------------------------------------------- on disk


def about(options, plan):
    """What the numbers mean, for the head of a result."""
    skeleton = skeleton_of(plan.model.config)
    return {
        "weights": str(options.weights),
        "dataset": plan.model.config.dataset,
        "pipeline": plan.pipeline.name,
        "keypoint_names": list(skeleton.keypoints),
        "links": [list(link) for link in skeleton.links],
    }


def skeleton_of(config):
    from minivitpose.pose.skeletons import skeleton_for

    return skeleton_for(config.num_keypoints, config.dataset)


def draw(options, config, job, picture, poses):
    """Write the drawn picture. -> its file name, or None"""
    if options.no_draw:
        return None
    from minivitpose.draw import draw_poses, save_picture

    name = drawn_name(job)
    save_picture(draw_poses(picture.image, poses, skeleton_of(config), options.threshold), options.out / name)
    return name


def drawn_name(job):
    return job.name + DRAWN + (".png" if job.path.suffix.lower() == ".png" else ".jpg")


def write(path, pieces):
    """Pieces of bytes as one file, whole or not at all."""
    with replacing(path) as file:
        file.writelines(pieces)
