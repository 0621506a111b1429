"""How well a model finds the joints of mannequins that it has never seen: COCO's numbers, and its worst cases drawn.

    python docs/measure_mini.py                                 # the bundled model, 1000 scenes of each world
    python docs/measure_mini.py --weights runs/a/weights.npz --scenes 100 --failures failures.jpg
    python docs/measure_mini.py --scenes 300 --off 0.2          # boxes that a detector might give

Boxes are the true ones, unless told otherwise. "unseen" has backgrounds, cameras and clothes that training never shows.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from tqdm import tqdm

from minivitpose import estimate, load, synthetic
from minivitpose.draw import draw_poses
from minivitpose.pose import COCO, crop
from minivitpose.pose.coco_json import as_coco, coco_result
from minivitpose.pose.evaluate import evaluate
from minivitpose.pose.oks import oks
from minivitpose.synthetic.dataset import annotation, coco_file

SHOWN, FEWEST = 8, 5  # worst cases of each world, among people with so many labelled joints
AHEAD = 32  # scenes that are drawn before their people are looked for


def held_out(world, scenes, seed):
    """The scenes, drawn on all cores, some ahead of what is asked for."""
    with ThreadPoolExecutor(os.cpu_count()) as crew:
        for first in range(0, scenes, AHEAD):
            numbers = range(first, min(first + AHEAD, scenes))
            yield from crew.map(lambda i: synthetic.scene(seed, split="test", world=world, index=i), numbers)


def boxes_off(scene, i, off):
    """The people's boxes, larger or smaller by a share of at most ``off``, and moved by at most half of it each way."""
    boxes, rng = np.array([person.box for person in scene.people]), np.random.default_rng(i)
    shift, share = rng.uniform(-off / 2, off / 2, (len(boxes), 2)), 1 + rng.uniform(-off, off, (len(boxes), 1))
    size = boxes[:, 2:]
    return np.column_stack([boxes[:, :2] + size * (shift + (1 - share) / 2), size * share]).tolist()


def measure(model, world, scenes, seed, off):
    """COCO's ten numbers without the flip test and with it, and what there is to say of everybody, without it:
    [(OKS, what the person does, the scene and the pose if it is a bad one)].
    """
    entries, cases, results = [], [], {False: [], True: []}
    bar = tqdm(held_out(world, scenes, seed), world, scenes, unit="scene")
    for i, scene in enumerate(bar, 1):
        height, width = scene.image.shape[:2]
        people = [annotation(person, i) for person in scene.people]
        entries.append(({"id": i, "file_name": str(i), "height": height, "width": width}, people))
        boxes = boxes_off(scene, i, off)
        for flip, found in results.items():
            poses = estimate(model, scene.image, boxes, flip=flip)
            found += [coco_result(i, pose.keypoints, pose.scores, pose.score) for pose in poses]
            if not flip:
                cases += [case(scene, *pair) for pair in zip(scene.people, poses, strict=True)]
    truth = as_coco(coco_file(entries))
    return [evaluate(truth, as_coco(found), COCO.sigmas) for found in results.values()], cases


def case(scene, person, pose):
    alike = oks(pose.keypoints[None], person.keypoints, person.box, person.area, COCO.sigmas)[0]
    enough = (person.keypoints[:, 2] > 0).sum() >= FEWEST
    return alike, person.pose, (scene.image, pose) if enough and alike < 0.6 else None


def sheet(cases):
    """The worst cases side by side."""
    worst = sorted((case for case in cases if case[2]), key=lambda case: case[0])[:SHOWN]
    return [crop(draw_poses(image, [pose], COCO), pose.box).pixels for _, _, (image, pose) in worst]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", default="mini")
    p.add_argument("--scenes", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--off", type=float, default=0.0, help="how far the boxes are off at most, as a share of their size")
    p.add_argument("--failures", metavar="JPG", help="write the worst cases of both worlds as a picture")
    options = p.parse_args()
    if not 0 <= options.off < 1:
        p.error(f"--off: expected a share from 0 to below 1, found {options.off}")
    model, rows = load(options.weights), []
    boxes = f"boxes off by {options.off}" if options.off else "true boxes"
    print(f"{model}\n{options.scenes} scenes of each world, {boxes}")
    for world in ("seen", "unseen"):
        both, cases = measure(model, world, options.scenes, options.seed, options.off)
        print(f"\n{world}: {len(cases)} people")
        for how, numbers in zip(("plain", "flip test"), both, strict=True):
            print(f"  {how:9}  " + "  ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
        kinds = sorted({kind for _, kind, _ in cases})
        means = [(kind, np.mean([alike for alike, k, _ in cases if k == kind])) for kind in kinds]
        print("  mean OKS: " + ", ".join(f"{kind} {value:.2f}" for kind, value in means))
        rows.append(sheet(cases))
    if options.failures:
        size = min(map(len, rows))
        Image.fromarray(np.concatenate([np.concatenate(row[:size], 1) for row in rows])).save(
            options.failures, quality=80
        )
        print(f"\nwritten: {options.failures}")


if __name__ == "__main__":
    main()
