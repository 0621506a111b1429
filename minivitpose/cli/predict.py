"""`minivitpose predict`: keypoints of the people in pictures, as JSON and drawn."""

import json
from pathlib import Path

from minivitpose.cli.options import add_box, add_engine, add_weights, load_model
from minivitpose.files import write_text

EXAMPLE = "minivitpose predict photo.jpg --weights vitpose-b-coco.pth --box 120 40 200 420 --out results"


def add(command):
    p = command("predict", run, "find the keypoints in a picture: JSON and a drawn picture", EXAMPLE)
    p.add_argument("image", metavar="IMAGE", help="a picture file of any usual kind")
    add_weights(p)
    add_box(p, "again for each person", action="append")
    p.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where to write (default: this folder)")
    add_engine(p)


def run(options):
    """Keypoints of the people in one picture, as JSON and drawn."""
    from minivitpose import estimate
    from minivitpose.plot import draw_poses, save
    from minivitpose.pose import read_image, skeleton_for

    image = read_image(options.image)
    model = load_model(options)
    poses = estimate(model, image, options.box)
    skeleton = skeleton_for(model.config.num_keypoints)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"{Path(options.image).stem}-keypoints"
    result = {"image": str(options.image), "weights": str(options.weights), "keypoint_names": list(skeleton.keypoints)}
    result["poses"] = [pose.to_json() for pose in poses]
    write_text(stem.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    save(draw_poses(image, poses, skeleton), stem.with_suffix(".png"))
    for i, pose in enumerate(poses):
        print(f"person {i}, mean score {pose.scores.mean():.3f}")
        for name, (x, y), score in zip(skeleton.keypoints, pose.keypoints, pose.scores, strict=True):
            print(f"  {name:<16} x {x:8.2f}  y {y:8.2f}  score {score:6.3f}")
    print(f"written: {stem.with_suffix('.json')}, {stem.with_suffix('.png')}")
    return 0
