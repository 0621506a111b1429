"""`minivitpose convert`: a model as another kind of file."""

from pathlib import Path

from minivitpose.cli.options import WEIGHTS, UsageError, add_model, check_folder, load_model, positive

EXAMPLE = "minivitpose convert vitpose-b-coco.pth vitpose-b-coco.onnx"


def add(command):
    p = command("convert", run, "write a model as another kind of file: ONNX (needs the package onnx)", EXAMPLE)
    p.add_argument("weights", metavar="X", help=WEIGHTS)
    p.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write; its ending says the kind")
    p.add_argument("--batch", type=positive, metavar="N", help="images a call (default: any number)")
    add_model(p)


def run(options):
    """A checkpoint as an ONNX file."""
    if options.out.suffix != ".onnx":
        raise UsageError(f"{options.out}: expected a name that ends in .onnx, the one kind that this version writes")
    check_folder(options.out.parent)
    try:
        from minivitpose.onnx_export import save_onnx
    except ImportError as error:
        raise UsageError(error) from None
    model = load_model(options, "numpy")
    for path in save_onnx(model, options.out, options.batch):
        print(f"written: {path}")
    return 0
