"""`minivitpose demo`: the bundled model on a photograph, checked and drawn."""

import time
from importlib.resources import files
from pathlib import Path

import numpy as np

from minivitpose.cli.options import add_engine, check_folder, say
from minivitpose.cli.record import checked_against

EXAMPLE = "minivitpose demo --out demo.png"
HOPPER = (66, 50, 380, 500)  # the box of the person in the demo's photograph


def add(command):
    text = "run the bundled model on a photograph, check every activation, draw what happens inside"
    p = command("demo", run, text, EXAMPLE)
    p.add_argument("--out", type=Path, default=Path("demo.png"), help="the picture to write (default: %(default)s)")
    add_engine(p)


def run(options):
    """The bundled model on matplotlib's photograph of Grace Hopper: the table of activations, and a picture."""
    from matplotlib.cbook import get_sample_data

    from minivitpose import load, load_reference
    from minivitpose.plot import demo_figure, save
    from minivitpose.pose import crop, network_input, read_image, skeleton_for
    from minivitpose.pose.estimate import pose_in_crop

    check_folder(options.out.parent)
    note = "The weights are random (seeded, not trained): the arithmetic is right, the joints mean nothing yet."
    model = load("mini", engine=options.engine)
    reference = load_reference(files("minivitpose") / "data" / "mini-activations.npz")
    image = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    person = crop(image, HOPPER, model.config.image_size)
    images = network_input(person)

    say(f"{model}\nFirst run (compiles what is not in the cache yet) ...")
    start = time.perf_counter()
    model(images)
    say(f"... {time.perf_counter() - start:.1f} s")
    heatmaps, cache = model.run_with_cache(images)
    checked = cache
    if not np.array_equal(images, reference.images):
        say("The crop's pixels are not the recorded ones (another JPEG decoder?): the check runs on the recorded ones.")
        checked = model.run_with_cache(reference.images)[1]
    good = checked_against(reference, model, checked)

    block = model.config.depth - 1
    pattern = cache[f"backbone.blocks.{block}.attn.pattern"][0]
    token = 5 * model.config.grid[1] + 6  # on her face
    pose, skeleton = pose_in_crop(person, heatmaps[0]), skeleton_for(model.config.num_keypoints)
    save(demo_figure(image, person, pattern, heatmaps[0], pose, skeleton, token, block, note), options.out)
    print(f"{note}\nThe picture: {options.out}")
    return 0 if good else 1
