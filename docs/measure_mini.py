"""How well a model finds the joints of mannequins that it has never seen: COCO's numbers, and its worst cases drawn.

    python docs/measure_mini.py                                 # the bundled model, 1000 scenes of each world
    python docs/measure_mini.py --weights runs/a/weights.npz --scenes 100 --failures failures.jpg

Boxes are the true ones. "unseen" has backgrounds, cameras and clothes that training never shows.
"""

import argparse
import time

import numpy as np
from PIL import Image

from minivitpose import estimate_each, load, synthetic
from minivitpose.draw import draw_poses
from minivitpose.pose import COCO, crop
from minivitpose.pose.coco_json import as_coco, coco_result
from minivitpose.pose.evaluate import evaluate
from minivitpose.pose.oks import oks
from minivitpose.synthetic.dataset import annotation, coco_file

SHOWN, FEWEST = 8, 5  # worst cases of each world, among people with so many labelled joints


def run(model, world, scenes, seed):
    """[(scene, poses)] of the held-out scenes, drawn one by one."""
    people = []

    def pictures():
        for i in range(scenes):
            scene = synthetic.scene(seed, split="test", world=world, index=i)
            people.append(scene)
            yield scene.image

    def boxes():  # asked for after each picture
        for i in range(scenes):
            yield [person.box for person in people[i].people]

    for i, poses in enumerate(estimate_each(model, pictures(), boxes(), batch=16)):
        yield people[i], poses


def measure(model, world, scenes, seed):
    """The ten numbers, and [(OKS, what the person does, crop with the pose drawn)] of everybody."""
    entries, results, cases = [], [], []
    for i, (scene, poses) in enumerate(run(model, world, scenes, seed), 1):
        height, width = scene.image.shape[:2]
        people = [annotation(person, i) for person in scene.people]
        entries.append(({"id": i, "file_name": str(i), "height": height, "width": width}, people))
        results += [coco_result(i, pose.keypoints, pose.scores, pose.score) for pose in poses]
        for person, pose in zip(scene.people, poses, strict=True):
            alike = oks(pose.keypoints[None], person.keypoints, person.box, person.area, COCO.sigmas)[0]
            enough = (person.keypoints[:, 2] > 0).sum() >= FEWEST
            cases.append((alike, person.pose, (scene.image, pose) if enough and alike < 0.6 else None))
    return evaluate(as_coco(coco_file(entries)), as_coco(results), COCO.sigmas), cases


def sheet(cases):
    """The worst cases side by side."""
    worst = sorted((case for case in cases if case[2]), key=lambda case: case[0])[:SHOWN]
    return [crop(draw_poses(image, [pose], COCO), pose.box).pixels for _, _, (image, pose) in worst]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", default="mini")
    p.add_argument("--scenes", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--failures", metavar="JPG", help="write the worst cases of both worlds as a picture")
    options = p.parse_args()
    model, rows = load(options.weights), []
    print(f"{model}\n{options.scenes} scenes of each world, true boxes, no flip test")
    for world in ("seen", "unseen"):
        start = time.perf_counter()
        numbers, cases = measure(model, world, options.scenes, options.seed)
        print(f"\n{world}: {len(cases)} people, {time.perf_counter() - start:.0f} s")
        print("  " + "  ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
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
