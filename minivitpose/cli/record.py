"""`minivitpose record` and `minivitpose compare`: the PyTorch twin's activations, and a model checked against them."""

import time
from pathlib import Path

import numpy as np

from minivitpose.cli.options import UsageError, add_box, add_engine, add_weights, check_file, load_model, say

EXAMPLE = "minivitpose record --weights vitpose-b-coco.pth --image photo.jpg --out recorded.npz"
EXAMPLE_COMPARE = "minivitpose compare --weights vitpose-b-coco.pth --reference recorded.npz --engine numpy"


def add(command):
    text = "run the PyTorch twin and write all its activations to an npz (needs PyTorch)"
    p = command("record", record, text, EXAMPLE)
    add_weights(p, required=False)
    p.add_argument("--variant", help="instead of --weights: mini, S, B, L or H with random values in every tensor")
    p.add_argument("--image", help="a picture to run on (default: seeded noise)")
    add_box(p, "goes with --image")
    p.add_argument("--seed", type=int, default=0, help="of --variant's weights and of the noise (default: 0)")
    p.add_argument("--sample", type=int, metavar="N", help="keep about N values of each activation, and sums over all")
    p.add_argument("--save-weights", type=Path, metavar="PTH", help="also write the weights as a PyTorch file")
    p.add_argument("--half", action="store_true", help="with --variant: round the weights to float16 and save them so")
    p.add_argument("--out", type=Path, required=True, metavar="NPZ", help="the file to write")

    text = "check every activation against a recording; exit code 1 at the first divergence"
    p = command("compare", compare, text, EXAMPLE_COMPARE)
    add_weights(p)
    p.add_argument("--reference", required=True, metavar="NPZ", help="a file that 'minivitpose record' wrote")
    add_engine(p)


def record(options):
    """Activations of the PyTorch twin, with how exact PyTorch itself is."""
    from minivitpose import save_reference
    from minivitpose.config import variant_config
    from minivitpose.recording import make_header

    try:
        import torch

        from minivitpose import reference
    except ImportError:
        raise UsageError("record needs PyTorch: pip install 'minivitpose[reference]'") from None
    if (options.weights is None) == (options.variant is None):
        raise UsageError("record needs --weights W or --variant V, one of the two")
    if options.half and options.variant is None:
        raise UsageError("--half goes with --variant: the weights of a file stay as they are")
    if options.sample is not None and options.sample < 1:
        raise UsageError(f"--sample must be 1 or more, not {options.sample}")
    if options.box and not options.image:
        raise UsageError("--box goes with --image")
    for path in filter(None, (options.out, options.save_weights)):
        check_file(path, options.weights, options.image)
    if options.save_weights and options.save_weights.absolute() == options.out.absolute():
        raise UsageError(f"--out and --save-weights: expected two files, found {options.out} for both")
    if options.weights is not None:
        module = reference.twin(load_model(options, "numpy"))
    else:
        module = reference.randomise(reference.ViTPose(variant_config(options.variant)), options.seed)
        if options.half:
            module = module.half().float()
    images = images_for(options, module.config)
    say(f"{module.config.describe()}: running PyTorch in float32 and in float64 ...")
    result = reference.record(module, images)
    result.header = make_header(module.config, options.seed, torch=torch.__version__)
    save_reference(result, options.out, options.sample)
    print(f"written: {options.out}, {len(result)} activations")
    if options.save_weights:
        reference.save_weights(module.half() if options.half else module, options.save_weights)
        print(f"written: {options.save_weights}")
    return 0


def images_for(options, config):
    """The network's input from the picture, or noise."""
    from minivitpose.pose import crop, network_input, read_image, whole_picture

    if options.image:
        image = read_image(options.image)
        return network_input(crop(image, options.box or whole_picture(image), config.image_size))
    return np.random.default_rng(options.seed).standard_normal((1, 3, *config.image_size), dtype=np.float32)


def compare(options):
    """The table of activations up to the first divergence."""
    from minivitpose import load_reference

    reference = load_reference(options.reference)
    model = load_model(options, dtype=reference.images.dtype.name)
    same_model(model, reference)
    say(f"{model}: running ...")
    return 0 if checked_against(reference, model, model.run_with_cache(reference.images)[1]) else 1


def checked_against(reference, model, cache):
    """Print the comparison of a run layer by layer and, in short, of the fast engine. -> whether all is well."""
    from minivitpose.compare import compare

    report = compare(cache, reference)
    print(report)
    if not (report.ok and model.fused):
        return report.ok
    report = compare(model.run_fused(reference.images)[1], reference)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        model(reference.images)
        times.append(1000 * (time.perf_counter() - start) / len(reference.images))
    print("\nThe same by the fast engine, which fuses layers:", *report.verdict(), sep="\n")
    print(f"It takes {np.median(times):.1f} ms a crop (median of {len(times)} calls).\n")
    return report.ok


def same_model(model, reference):
    """A recording of a model of another shape is a mix-up of files, not a divergence."""
    from minivitpose.config import as_dict, from_dict

    try:
        recorded = from_dict(reference.header["config"])
    except (KeyError, TypeError, AttributeError, ValueError):
        return  # a header without a config still has its activations
    others = ("dataset", "pipeline", "eps")  # around the network, or a number that a comparison shows
    shape = {name: x for name, x in as_dict(model.config).items() if name not in others}
    if shape != {name: x for name, x in as_dict(recorded).items() if name not in others}:
        raise UsageError(
            f"the reference was recorded from {recorded.describe()}; these weights are {model.config.describe()}"
        )
