"""`minivitpose train`: from scratch in the mannequin world, or on from any checkpoint with a COCO file."""

import argparse
import time
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from minivitpose.cli.options import UsageError, check_file, make_folder, say
from minivitpose.files import alone_in, write_text

EXAMPLE = "minivitpose train --config docs/mini.toml --out runs/mini --minutes 170"
SETTINGS, CURVE = "settings.toml", "curve.png"  # in the folder, beside what training.loop writes
SHOWN = ("loss", "accuracy", "validation_accuracy")
CHANGES = ("weights", "annotations", "images", "validation", "validation_images", "keypoints", "dataset")
CHANGES += ("steps", "batch", "rate", "precision", "seed")


def add(command):
    p = command("train", run, "train a model; stopped at any moment it goes on where it was", EXAMPLE)
    p.add_argument("--config", metavar="TOML", help="settings, in parts if wanted; what is given below changes them")
    p.add_argument("--out", type=folder, required=True, metavar="DIR", help="checkpoint, log, curve and weights")
    p.add_argument("--weights", metavar="W", help="start from this checkpoint (default: new weights)")
    p.add_argument("--annotations", metavar="JSON", help="a COCO file with keypoints (default: the mannequin world)")
    p.add_argument("--images", metavar="DIR", help="the folder of its pictures")
    p.add_argument("--validation", metavar="JSON", help="a COCO file of people who are only looked at, for the log")
    p.add_argument("--validation-images", metavar="DIR", help="the folder of their pictures (default: --images)")
    p.add_argument("--dataset", metavar="D", help="the keypoint set (default: the usual one for so many keypoints)")
    p.add_argument("--keypoints", type=int, metavar="K", help="another number of keypoints: a new last layer")
    p.add_argument("--frozen", nargs="+", metavar="NAME", help="parameters that stay, or what holds them: backbone")
    p.add_argument("--steps", type=int, metavar="N", help="batches to learn from")
    p.add_argument("--batch", type=int, metavar="N", help="crops a step")
    p.add_argument("--rate", type=float, metavar="R", help="the learning rate at its highest")
    p.add_argument("--precision", choices=("float32", "bf16"), help="of products: float32 (default), or bf16, faster")
    p.add_argument("--seed", type=int, metavar="N", help="another seed, other draws (default: 0)")
    p.add_argument("--minutes", type=minutes, metavar="M", help="stop after so long; the same command goes on")
    p.add_argument("--engine", choices=("fast", "numpy"), default="fast", help="fast (default) or numpy, the textbook")


def folder(text):
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, found nothing")
    return Path(text)


def minutes(text):
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def run(options):
    """Exit code 0 when all steps are done or the minutes are over, 1 when the loss is no number any more."""
    from minivitpose.training.settings import read_settings

    changes = {name: getattr(options, name) for name in CHANGES}
    parts = read_settings(options.config, **changes, frozen=options.frozen and tuple(options.frozen))
    for settings in parts:
        check(settings)
    make_folder(options.out)
    check_folder_of(options, parts)
    with alone_in(options.out):
        return run_alone(options, parts)


def check(settings):
    """Raises UsageError for settings that do not go together."""
    if bool(settings.annotations) != bool(settings.images):
        raise UsageError("--annotations and --images go together: the people, and the folder of the pictures")
    if settings.validation_images and not settings.validation:
        raise UsageError("--validation-images goes with --validation: the people on these pictures")
    if settings.validation and not settings.annotations:
        raise UsageError("--validation goes with --annotations; the mannequin world has held-out scenes of its own")


def check_folder_of(options, parts):
    """Raises UsageError where the training would write over something that it reads or that it did not make."""
    from minivitpose.training.loop import CHECKPOINT, TABLE, WEIGHTS

    results = [options.out / name for name in (CHECKPOINT, TABLE, WEIGHTS, CURVE)]
    settings = options.out / SETTINGS
    read = {options.config, *(name for part in parts for name in (part.weights, part.annotations, part.validation))}
    for path in results:
        check_file(path, *read)
    if settings.exists():
        if settings_in(options.out) != parts and not results[0].exists():
            raise UsageError(f"{settings} has other settings and would be lost: give another --out")
    elif there := [path for path in results if path.exists()]:
        raise UsageError(f"{there[0]} is of no training that can go on here, and would be lost: give another --out")


def settings_in(folder):
    """The parts that the folder's settings.toml tells of, or None."""
    from minivitpose.training.settings import SettingsError, read_settings

    try:
        return read_settings(folder / SETTINGS)
    except SettingsError:
        return None


def run_alone(options, parts):
    """``run``, with the folder for itself."""
    from minivitpose.plot import save
    from minivitpose.training.curve import training_curve
    from minivitpose.training.loop import DivergedError
    from minivitpose.training.settings import as_toml

    training = prepare(options, parts)
    if settings_in(options.out) != parts:
        write_text(options.out / SETTINGS, as_toml(parts))  # else it stays as it is, with its owner's notes
    ends = list(accumulate(part.steps for part in parts))
    if training.done:
        say(f"going on from step {training.done} of {ends[-1]}")
    until = options.minutes and time.monotonic() + 60 * options.minutes
    try:
        follow(training, until)
    except DivergedError as error:
        say(f"minivitpose: {error}")
        return 1
    finally:
        if training.lines:
            save(training_curve(training.lines, training.config.describe(), ends), options.out / CURVE)
    written = options.out / ("weights.npz" if training.finished else "checkpoint.npz")
    print(f"written: {written}, step {training.done} of {ends[-1]}")
    if not training.finished:
        print("not all steps are done: the same command goes on")
    return 0


def follow(training, until):
    """Run it, with a bar that shows the last known loss and accuracies."""
    from tqdm import tqdm

    shown, crops = {}, [part.steps * part.batch for part in training.parts]
    done = sum(crops[: training.part]) + training.step * training.settings.batch
    with tqdm(total=sum(crops), initial=done, unit="crop", unit_scale=True) as bar:
        for line in training.run(until):
            bar.update(training.settings.batch)
            shown |= {name: f"{line[name]:.3g}" for name in SHOWN if name in line}
            bar.set_postfix(shown, refresh=False)


def prepare(options, parts):
    """The Training: weights, data and the folder."""
    from minivitpose import load
    from minivitpose.pose.skeletons import COCO, skeleton_for
    from minivitpose.training.data import CocoCrops, Mannequins, held_out, held_out_people
    from minivitpose.training.loop import Training
    from minivitpose.training.start import fresh, with_keypoints

    settings = parts[0]  # in what is asked of them here all parts are alike
    if settings.weights:
        dataset = settings.dataset or None
        of_file = {"num_heads": settings.num_heads or None, "dataset": None if settings.keypoints else dataset}
        model = load(settings.weights, "numpy", **of_file)
        params, config = model.params, model.config
        if settings.keypoints and settings.keypoints != config.num_keypoints:
            params, config = with_keypoints(params, config, dataset, settings.keypoints, settings.seed)
        elif settings.keypoints and dataset:
            model = load(settings.weights, "numpy", **of_file | {"dataset": dataset})
            params, config = model.params, model.config
    else:
        config = settings.config
        params = fresh(config, settings.seed)
    skeleton = skeleton_for(config.num_keypoints, config.dataset)
    if skeleton.keypoints != COCO.keypoints and not all(part.annotations for part in parts):
        raise UsageError(
            f"the mannequin world has COCO's 17 keypoints, the model has those of {skeleton.name}: "
            "give --annotations and --images"
        )

    def data(settings):
        looked_at = replace(settings, seed=parts[0].seed)  # the same in all parts, so that losses compare
        if not settings.annotations:
            return Mannequins(skeleton, settings, config), list(held_out(skeleton, looked_at, config))
        source = CocoCrops(settings.annotations, settings.images, skeleton, settings, config, say)
        if settings.flip and not source.skeleton.flip_pairs:
            say(f"no keypoint of {settings.annotations} is named left or right: none change places in mirrored crops")
        given = settings.validation, settings.validation_images or settings.images
        people = held_out_people(*given, skeleton, looked_at, config, say) if settings.validation else []
        return source, list(people)

    return Training(options.out, parts, params, config, data, options.engine)
