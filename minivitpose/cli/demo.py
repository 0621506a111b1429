"""`minivitpose demo`: the bundled model on a mannequin scene, checked and drawn."""

import time
from pathlib import Path

import numpy as np

from minivitpose.cli.options import add_engine, check_figure, say
from minivitpose.cli.record import checked_against

EXAMPLE = "minivitpose demo --out demo.png"
NOTE = "Trained on drawn mannequins alone. For people in photographs take a public checkpoint: docs/checkpoints.md."


def add(command):
    text = "run the bundled model on a drawn scene, check every activation, draw what happens inside"
    p = command("demo", run, text, EXAMPLE)
    p.add_argument("--out", type=Path, default=Path("demo.png"), help="the picture to write (default: %(default)s)")
    add_engine(p)


def run(options):
    """The bundled model on a scene with several people: the table of activations, and a picture."""
    from minivitpose import estimate, load
    from minivitpose.plot import demo_figure, save
    from minivitpose.pose import network_input, skeleton_for
    from minivitpose.teach.example import PERSON, recorded, scene_and_crop, token_at

    check_figure(options.out)
    model = load("mini", engine=options.engine)
    reference = recorded()
    say(f"{model}\nFirst run (compiles what is not in the cache yet) ...")
    start = time.perf_counter()
    scene, person = scene_and_crop(model.config.image_size)
    images = network_input(person)
    model(images)
    say(f"... {time.perf_counter() - start:.1f} s")
    heatmaps, cache = model.run_with_cache(images)
    checked = cache
    if not np.array_equal(images, reference.images):
        say("This machine draws the scene with other roundings: the check runs on the recorded pixels.")
        checked = model.run_with_cache(reference.images)[1]
    good = checked_against(reference, model, checked)

    block, skeleton = model.config.depth - 1, skeleton_for(model.config.num_keypoints)
    pattern = cache[f"backbone.blocks.{block}.attn.pattern"][0]
    poses = estimate(model, scene.image, [one.box for one in scene.people])
    token = token_at(person.from_picture(poses[PERSON].keypoints[0]), model.config)  # on the nose
    save(demo_figure(scene.image, person, pattern, heatmaps[0], poses, skeleton, token, block, NOTE), options.out)
    print(f"{NOTE}\nThe picture: {options.out}")
    return 0 if good else 1
