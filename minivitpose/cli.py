"""The command line: one function a command, each thin. Exit code 0 fine, 1 the check failed, 2 bad use."""

import argparse
import json
import os
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

from minivitpose import __version__

EXAMPLES = {
    "demo": "minivitpose demo --out demo.png",
    "predict": "minivitpose predict photo.jpg --weights vitpose-b-coco.pth --box 120 40 200 420 --out results",
    "inspect": "minivitpose inspect vitpose-b-coco.pth",
    "record": "minivitpose record --weights vitpose-b-coco.pth --image photo.jpg --out recorded.npz",
    "compare": "minivitpose compare --weights vitpose-b-coco.pth --reference recorded.npz --engine numpy",
    "convert": "minivitpose convert vitpose-b-coco.pth vitpose-b-coco.onnx",
    "bench": "minivitpose bench --variant s --batch 1 8 --peers torch,openvino --json s.json --chart s.png",
}

HOPPER = (66, 50, 380, 500)  # the box of the person in the demo's photograph


def main(arguments=None):
    """Run a command and return its exit code. Bad input is one line on standard error, never a traceback."""
    from minivitpose.bench import BenchError
    from minivitpose.checkpoint import CheckpointError
    from minivitpose.config import ConfigError
    from minivitpose.pose import BoxError, ImageError
    from minivitpose.recording import RecordingError

    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except (CheckpointError, ConfigError, ImageError, BoxError, RecordingError, BenchError, UsageError) as error:
        return complain(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has seen enough
        return 0
    except OSError as error:  # of the output: readers have errors of their own
        return complain(f"{error.filename or 'output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("minivitpose: interrupted; files that were finished are whole", file=sys.stderr)
        return 130


class UsageError(ValueError):
    """Options that do not go together, or something that is not installed: one line with what to do."""


def complain(error):
    print(f"minivitpose: error: {error}", file=sys.stderr)
    return 2


def parser():
    top = argparse.ArgumentParser(
        prog="minivitpose",
        description="ViTPose from scratch in NumPy and Numba: run it, look inside, check it against PyTorch.",
        epilog="example: minivitpose demo          more: minivitpose COMMAND --help",
    )
    top.add_argument("--version", action="version", version=f"minivitpose {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, run, text):
        whole_lines = argparse.RawDescriptionHelpFormatter  # an example broken in two cannot be copied
        example = f"example: {EXAMPLES[name]}"
        p = commands.add_parser(name, help=text, description=text, epilog=example, formatter_class=whole_lines)
        p.set_defaults(run=run)
        return p

    p = command("demo", demo, "run the bundled model on a photograph, check every activation, draw what happens inside")
    p.add_argument("--out", type=Path, default=Path("demo.png"), help="the picture to write (default: %(default)s)")
    add_engine(p)

    p = command("predict", predict, "find the keypoints in a picture: JSON and a drawn picture")
    p.add_argument("image", metavar="IMAGE", help="a picture file of any usual kind")
    add_weights(p)
    add_box(p, "again for each person", action="append")
    p.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where to write (default: this folder)")
    add_engine(p)

    p = command("inspect", inspect, "what a checkpoint holds, and what of it would be loaded")
    p.add_argument("weights", metavar="W", help="a .pth, .safetensors or .npz file, or 'mini'")
    add_heads(p)

    p = command("record", record, "run the PyTorch twin and write all its activations to an npz (needs PyTorch)")
    add_weights(p, required=False)
    p.add_argument("--variant", help="instead of --weights: mini, S, B, L or H with random values in every tensor")
    p.add_argument("--image", help="a picture to run on (default: seeded noise)")
    add_box(p, "goes with --image")
    p.add_argument("--seed", type=int, default=0, help="of --variant's weights and of the noise (default: 0)")
    p.add_argument("--sample", type=int, metavar="N", help="keep about N values of each activation, and sums over all")
    p.add_argument("--save-weights", type=Path, metavar="PTH", help="also write the weights as a PyTorch file")
    p.add_argument("--half", action="store_true", help="with --variant: round the weights to float16 and save them so")
    p.add_argument("--out", type=Path, required=True, metavar="NPZ", help="the file to write")

    p = command("compare", compare, "check every activation against a recording; exit code 1 at the first divergence")
    add_weights(p)
    p.add_argument("--reference", required=True, metavar="NPZ", help="a file that 'minivitpose record' wrote")
    add_engine(p)

    p = command("convert", convert, "write a model as another kind of file: ONNX (needs the package onnx)")
    p.add_argument("weights", metavar="X", help="a .pth, .safetensors or .npz file, or 'mini'")
    p.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write; its ending says the kind")
    p.add_argument("--batch", type=positive, metavar="N", help="images a call (default: any number)")
    add_heads(p)

    p = command("bench", bench, "time this package's engines and others: a process each, in turn, results compared")
    p.add_argument("--variant", type=str.lower, default="s", choices=("s", "b", "l", "h", "mini"))
    p.add_argument("--head", default="classic", choices=("classic", "simple"))
    p.add_argument("--batch", type=positive, nargs="+", default=[1], metavar="N", help="crops a call (default: 1)")
    p.add_argument("--threads", type=positive, nargs="+", metavar="N", help="for all engines (default: every core)")
    add_names(p, "--engines", ("fast", "numba", "numpy"), "of this package (default: all)")
    peers = ("torch", "torch-compile", "onnxruntime", "openvino")
    add_names(p, "--peers", peers, "others, those that are installed (default: all but torch-compile)", but=peers[1:2])
    add_names(
        p,
        "--precision",
        ("float32", "bf16"),
        "what to compute in; only fast and openvino have bf16 (default: float32)",
        but=("bf16",),
    )
    p.add_argument(
        "--seconds", type=float, default=3, metavar="S", help="of calls, for each engine and case (default: 3)"
    )
    p.add_argument("--json", type=Path, metavar="F.json", help="write all numbers, every call's too")
    p.add_argument("--chart", type=Path, metavar="F.png", help="draw them as bars")
    p.add_argument("--cold", action="store_true", help="also from the start of a process to its first heatmaps")
    return top


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def add_names(p, option, names, text, but=()):
    """An option that takes some of these names, with spaces or commas between; default: all of them, ``but`` some."""

    def listed(words):
        found = [word for word in words.split(",") if word]
        if unknown := [word for word in found if word not in names]:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(names)}; found {unknown[0]!r}")
        return found

    default = [[name for name in names if name not in but]]
    p.add_argument(option, type=listed, nargs="*", default=default, metavar="NAME", help=f"{', '.join(names)}: {text}")


def add_weights(p, required=True):
    p.add_argument("--weights", required=required, metavar="W", help="a .pth, .safetensors or .npz file, or 'mini'")
    add_heads(p)


def add_box(p, more, **options):
    text = f"left, top, width and height of the person in pixels; {more} (default: the whole picture)"
    p.add_argument("--box", type=float, nargs=4, metavar=("X", "Y", "W", "H"), help=text, **options)


def add_heads(p):
    text = "number of attention heads, for a model that is not S, B, L, H or mini"
    p.add_argument("--heads", type=int, metavar="N", help=text)


def add_engine(p):
    text = "fast (default), numba or numpy: one meaning, three speeds"
    p.add_argument("--engine", choices=("fast", "numba", "numpy"), default="fast", help=text)


def say(text):
    """Progress, on standard error so that results can be piped."""
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------- commands


def demo(options):
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


def predict(options):
    """Keypoints of the people in one picture, as JSON and drawn."""
    from minivitpose import estimate, load
    from minivitpose.plot import draw_poses, save
    from minivitpose.pose import read_image, skeleton_for

    image = read_image(options.image)
    model = load(options.weights, options.engine, num_heads=options.heads)
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


def inspect(options):
    """What is in a checkpoint: the model it makes, every tensor, what is ignored. Exit code 1 if it makes none."""
    from minivitpose.checkpoint import CheckpointError, fit, read_checkpoint
    from minivitpose.checkpoint.fit import BUNDLED, IGNORED
    from minivitpose.config import DATASETS
    from minivitpose.parameters import flatten, is_learnt

    path = files("minivitpose") / "data" / BUNDLED[options.weights] if options.weights in BUNDLED else options.weights
    checkpoint = read_checkpoint(path)
    fault, loaded = None, {}
    try:
        params, config = fit(checkpoint.state_dict, options.heads)
        loaded = flatten(params)
    except CheckpointError as error:
        fault = error

    print(f"file        {path}: {checkpoint.format}, {len(checkpoint.state_dict)} tensors")
    if not fault:
        datasets = DATASETS.get(config.num_keypoints, ("unknown",))
        print(f"variant     {config.variant}: {config.describe()}")
        print(f"head        {config.head}")
        print(f"dataset     {config.num_keypoints} keypoints: {' or '.join(datasets)}")
        print(f"parameters  {sum(x.size for name, x in loaded.items() if is_learnt(name)):,}")
        print(f"images      {config.image_size[0]} x {config.image_size[1]} (height x width)")
    print()
    width = max(map(len, checkpoint.state_dict), default=0)
    for name, x in checkpoint.state_dict.items():
        span = f"{float(x.min()):.4g} .. {float(x.max()):.4g}" if x.size else "empty"
        state = "" if name in loaded or fault else "  ignored"
        if name in IGNORED:
            state = "  ignored: a leftover of the pretraining"
        print(f"{name:<{width}}  {'x'.join(map(str, x.shape)) or 'scalar':<14}  {x.dtype!s:<8}  {span}{state}")
    for name, what in checkpoint.ignored.items():
        print(f"ignored: {name}: {what}")
    if fault:
        print(f"\nThis would not load: {fault}")
        return 1
    return 0


def record(options):
    """Activations of the PyTorch twin, with how exact PyTorch itself is."""
    from minivitpose import load, save_reference
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
        check_folder(path.parent)
    if options.weights is not None:
        module = reference.twin(load(options.weights, "numpy", num_heads=options.heads))
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
    from minivitpose import load, load_reference

    reference = load_reference(options.reference)
    model = load(options.weights, options.engine, num_heads=options.heads, dtype=reference.images.dtype.name)
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
    shape = {name: x for name, x in as_dict(model.config).items() if name != "dataset"}
    if shape != {name: x for name, x in as_dict(recorded).items() if name != "dataset"}:
        raise UsageError(
            f"the reference was recorded from {recorded.describe()}; these weights are {model.config.describe()}"
        )


def convert(options):
    """A checkpoint as an ONNX file."""
    from minivitpose import load

    if options.out.suffix != ".onnx":
        raise UsageError(f"{options.out}: expected a name that ends in .onnx, the one kind that this version writes")
    check_folder(options.out.parent)
    try:
        from minivitpose.onnx_export import save_onnx
    except ImportError as error:
        raise UsageError(error) from None
    model = load(options.weights, "numpy", num_heads=options.heads)
    for path in save_onnx(model, options.out, options.batch):
        print(f"written: {path}")
    return 0


def bench(options):
    """Engines in turn. Exit code 1 if one computes something else."""
    from minivitpose.bench import Plan
    from minivitpose.bench import bench as run
    from minivitpose.bench.machine import cores
    from minivitpose.bench.report import report

    threads, engines = options.threads or [cores()], engines_to_time(options)
    if max(threads) > cores():
        raise UsageError(f"--threads {max(threads)}: this process may use {cores()} cores, more threads only wait")
    if not 0 < options.seconds < 3600:
        raise UsageError(f"--seconds {options.seconds}: expected more than 0 and less than an hour")
    for path in filter(None, (options.json, options.chart)):
        check_folder(path.parent)
    unique = [tuple(dict.fromkeys(names)) for names in (options.batch, threads, engines)]
    result = run(Plan(options.variant, options.head, *unique, options.seconds, options.cold), say)
    print(report(result))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
        print(f"\nwritten: {options.json}")
    if options.chart:
        from minivitpose.bench.chart import bench_chart
        from minivitpose.plot import save

        save(bench_chart(result), options.chart)
        print(f"written: {options.chart}")
    return 1 if wrong(result) else 0


def engines_to_time(options):
    """The names that the three options together mean."""
    from minivitpose.bench.engines import BF16

    engines, peers, precision = (sum(lists, []) for lists in (options.engines, options.peers, options.precision))
    names = engines + peers
    chosen = names if "float32" in precision else []
    chosen += [f"{name}-bf16" for name in names if "bf16" in precision and f"{name}-bf16" in BF16]
    if not chosen:
        raise UsageError("nothing to time: name one with --engines or --peers; only fast and openvino have bf16")
    return chosen


def wrong(result):
    """Whether an engine was left out for its answer."""
    return any("WRONG" in why for case in result["cases"] for why in case["left_out"].values())


def check_folder(folder):
    """Say it before the work rather than after it."""
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist: make it first")


def write_text(path, text):
    """The whole text under its name, or what was there before."""
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
