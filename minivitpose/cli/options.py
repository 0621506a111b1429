"""What several commands share: options, the model they name, words on the way, files written whole or not at all."""

import argparse
import math
import os
import sys

WEIGHTS = "a .pth, .safetensors or .npz file, a Hugging Face folder, hf:OWNER/NAME, or 'mini'"


class UsageError(ValueError):
    """Options that do not go together, or something that is not installed: one line with what to do."""


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def number(text):
    """A float that is a number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}")
    return value


def add_weights(p, required=True):
    p.add_argument("--weights", required=required, metavar="W", help=WEIGHTS)
    add_model(p)


def add_model(p):
    """What the weights cannot show, or which part of them is meant."""
    text = "number of attention heads, for a model that is not S, B, L, H or mini"
    p.add_argument("--heads", type=int, metavar="N", help=text)
    p.add_argument("--dataset", metavar="D", help="the keypoint set: coco, ap10k, ...; of a ViTPose+ file that part")
    p.add_argument("--expert", metavar="E", help="of a ViTPose+ file: this expert, with the file's first head")


def load_model(options, engine=None, **more):
    """The model that the options of add_weights name."""
    from minivitpose import load

    more |= {"num_heads": options.heads, "dataset": options.dataset}
    if options.expert is not None:
        more["expert"] = options.expert
    return load(options.weights, engine or options.engine, **more)


def add_box(p, more, **options):
    text = f"left, top, width and height of the person in pixels; {more} (default: the whole picture)"
    p.add_argument("--box", type=float, nargs=4, metavar=("X", "Y", "W", "H"), help=text, **options)


def add_engine(p):
    text = "fast (default), numba, compiled layer by layer, or numpy, the textbook: the same up to rounding"
    p.add_argument("--engine", choices=("fast", "numba", "numpy"), default="fast", help=text)


def say(text):
    """Progress, on standard error so that results can be piped."""
    print(text, file=sys.stderr, flush=True)


def check_folder(folder):
    """Say it before the work rather than after it."""
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist: make it first")


def check_file(path, *read):
    """The same of a file that is to be written: it has a folder, is none, and is not one of those that are read."""
    check_folder(path.parent)
    if path.is_dir():
        raise UsageError(f"{path}: expected the name of a file, found a folder")
    check_apart([path], *read)


def check_apart(written, *read):
    """What is read stays as it is. read: paths or None."""
    for path in written:
        for other in filter(None, read):
            if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
                raise UsageError(f"{path} is a file that is read: give another name for what is written")


def make_folder(path):
    """The folder for results, made if it is not there."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: expected a folder, found a file of that name")
    path.mkdir(parents=True, exist_ok=True)


def check_figure(path):
    """``check_file`` for a figure, whose ending must be known, too."""
    from minivitpose.plot import KINDS

    check_file(path)
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"{path}: expected an ending of {', '.join(KINDS)}, found {path.suffix!r}")
