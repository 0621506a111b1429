"""`minivitpose synthesize`: pictures of the mannequin world, as a data set in COCO's form."""

import sys
from pathlib import Path

from minivitpose.cli.options import UsageError, check_folder, positive

EXAMPLE = "minivitpose synthesize --out mannequins --images 500 --seed 1"
SMALLEST, LARGEST = 64, 4096  # pixels along a side


def add(command):
    p = command(
        "synthesize", run, "draw people whose joints are known: a COCO data set of the mannequin world", EXAMPLE
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets images/ and annotations.json")
    p.add_argument("--images", type=positive, default=100, metavar="N", help="how many pictures (default: 100)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other pictures (default: 0)")
    text = "seen: as in training (default); unseen: other backgrounds, cameras and clothes"
    p.add_argument("--world", choices=("seen", "unseen"), default="seen", help=text)
    text = "train, val (default) or test: no picture is in two of them, whatever the seeds"
    p.add_argument("--split", choices=("train", "val", "test"), default="val", help=text)
    text = "of the pictures in pixels (default: 640 480)"
    p.add_argument("--size", type=positive, nargs=2, default=(640, 480), metavar=("W", "H"), help=text)
    p.add_argument("--threads", type=positive, metavar="N", help="default: one a processor; the pictures are the same")


def run(options):
    """Write the data set; a second call goes on where the first was stopped."""
    from tqdm import tqdm

    from minivitpose.synthetic import SyntheticError
    from minivitpose.synthetic.dataset import ANNOTATIONS, write_dataset

    width, height = options.size
    if not all(SMALLEST <= side <= LARGEST for side in (width, height)):
        raise UsageError(f"--size: expected {SMALLEST} to {LARGEST} pixels a side, found {width} {height}")
    if options.seed < 0:
        raise UsageError(f"--seed: expected a whole number from 0, found {options.seed}")
    check_folder(options.out.absolute().parent)
    arguments = (options.seed, options.split, options.world, (height, width), options.threads)
    try:
        with tqdm(total=options.images, unit="picture", file=sys.stderr) as bar:
            for _ in write_dataset(options.out, options.images, *arguments):
                bar.update()
    except SyntheticError as error:
        raise UsageError(error) from None
    print(f"written: {options.out / ANNOTATIONS}")
    return 0
