"""`minivitpose convert`: a model as another kind of file, or under other names."""

import os
from pathlib import Path

from minivitpose.cli.options import WEIGHTS, UsageError, add_model, check_apart, check_folder, load_model, positive, say

EXAMPLE = """minivitpose convert vitpose-b-coco.pth vitpose-b-coco.onnx
minivitpose convert vitpose-b-coco.pth for-transformers/ --naming hf
minivitpose convert vitpose+_base.pth six-models/ --split"""
NAMINGS = ("official", "easy", "mmpose", "hf")
KINDS = (".onnx", ".safetensors", ".npz")


def add(command):
    p = command("convert", run, "write a model as another kind of file, under other names, or in its parts", EXAMPLE)
    p.add_argument("weights", metavar="IN", help=WEIGHTS)
    text = "OUT.safetensors, OUT.npz or OUT.onnx (needs the package onnx); a folder with --naming hf or --split"
    p.add_argument("out", metavar="OUT", help=text)
    text = "how the parameters are called: official (default; easy_ViTPose's are the same), mmpose (1.x) or hf"
    p.add_argument("--naming", choices=NAMINGS, help=text)
    p.add_argument("--split", action="store_true", help="one plain file for each dataset of a ViTPose+ file")
    p.add_argument("--batch", type=positive, metavar="N", help="of ONNX: images a call (default: any number)")
    add_model(p)


def run(options):
    """Exit code 0 when all is written."""
    options.folder = options.split or (options.naming == "hf" and is_folder(options.out))
    options.out = Path(options.out)
    check(options)
    if options.out.suffix == ".onnx":
        return write_onnx(options)
    from minivitpose.checkpoint import read_source

    checkpoint = read_source(options.weights)
    naming = {None: "official", "easy": "official"}.get(options.naming, options.naming)
    if options.split:
        return write_split(options, checkpoint, naming)
    return write_one(options, checkpoint, naming)


def check(options):
    """Raises UsageError for options that do not go together, before any work."""
    onnx = options.out.suffix == ".onnx"
    if onnx and (options.naming or options.split):
        raise UsageError("--naming and --split are for files of weights: the ONNX graph names its own tensors")
    if options.batch and not onnx:
        raise UsageError("--batch goes with OUT.onnx")
    if options.split and (options.dataset or options.expert is not None):
        raise UsageError("--split writes every dataset's model: leave --dataset and --expert out")
    if not options.folder and options.out.suffix not in KINDS:
        raise UsageError(
            f"{options.out}: expected a name that ends in {', '.join(KINDS)}, or --naming hf and a folder/"
        )
    if options.folder and options.out.exists() and not options.out.is_dir():
        raise UsageError(f"{options.out}: expected a folder, found a file of that name")
    check_folder(options.out.parent)


def is_folder(out):
    return os.path.isdir(out) or out.endswith(("/", os.sep)) or not Path(out).suffix


def write_onnx(options):
    try:
        from minivitpose.onnx_export import save_onnx
    except ImportError as error:
        raise UsageError(error) from None
    model = load_model(options, "numpy")
    for path in save_onnx(model, options.out, options.batch):
        print(f"written: {path}")
    return 0


def write_one(options, checkpoint, naming):
    """One file, or the folder that transformers takes."""
    from minivitpose.checkpoint.convert import convert
    from minivitpose.checkpoint.write import write_arrays, write_folder
    from minivitpose.pose.skeletons import skeleton_for

    check_apart([options.out / "model.safetensors" if options.folder else options.out], checkpoint.path)
    arrays, plan, left_out = convert(checkpoint, naming, options.heads, None, options.dataset, options.expert)
    if options.folder:
        skeleton = skeleton_for(plan.config.num_keypoints, plan.config.dataset)
        write_folder(options.out, arrays, plan, skeleton.keypoints, skeleton.links)
    else:
        write_arrays(options.out, arrays)
    if left_out:
        say(f"left out: {', '.join(left_out[:3])}{f' and {len(left_out) - 3} more' if len(left_out) > 3 else ''}")
    print(f"written: {options.out}, {len(arrays)} tensors of {plan.config.describe()}")
    return 0


def write_split(options, checkpoint, naming):
    """A folder with one plain model for each dataset."""
    from minivitpose.checkpoint.convert import split
    from minivitpose.checkpoint.write import write_arrays

    stem = Path(checkpoint.path).stem
    for dataset, arrays, plan in split(checkpoint, naming, options.heads):
        options.out.mkdir(exist_ok=True)
        path = options.out / f"{stem}-{dataset}.safetensors"
        check_apart([path], checkpoint.path)
        write_arrays(path, arrays)
        print(f"written: {path}, {len(arrays)} tensors of {plan.config.describe()}")
    return 0
