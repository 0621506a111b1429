"""`minivitpose predict`: keypoints of the people in pictures, as JSON and drawn."""

from pathlib import Path

from minivitpose.cli.inputs import DRAWN, chosen_categories, find_pictures, make_jobs, shown
from minivitpose.cli.options import (
    UsageError,
    add_box,
    add_engine,
    add_weights,
    check_apart,
    load_model,
    make_folder,
    number,
    positive,
    say,
)
from minivitpose.cli.predict_many import BROKEN, run_many
from minivitpose.cli.results import FORMATS, about, coco, draw, easy, make_entry, named_single, skeleton_of, write

EXAMPLE = """minivitpose predict photo.jpg --weights vitpose-b-coco.pth --box 120 40 200 420 --out results
minivitpose predict photos 'more/*.jpg' --weights hf:usyd-community/vitpose-base --boxes detections.json --flip"""
PIPELINES = ("udp", "plain", "mmpose", "hf", "easy")  # those of pose.pipelines, here without importing it
NOTES = """
One picture writes NAME-keypoints.json and the drawn NAME-keypoints.jpg (.png for a PNG), and prints the keypoints.
Several write keypoints.json for all, and keypoints.jsonl, a line a picture as it is done: after an interrupt the same
command goes on from there; another model, other options or changed pictures begin anew. Exit code 0; 1 if a picture of
several was broken: those are listed in keypoints-broken.json, and the others are done; 2 for bad use.
Points are x, y in pixels. Only --format easy has easy_ViTPose's order, y, x, score, and a NAME_result.json a picture.
"""


def add(command):
    text = "find the keypoints in pictures: JSON and drawn pictures"
    p = command("predict", run, text, EXAMPLE)
    p.description = f"{text}\n{NOTES}"
    text = "picture files, folders (the pictures in them, not in folders inside) and quoted patterns such as 'a/*.jpg'"
    p.add_argument("inputs", nargs="+", metavar="INPUT", help=text)
    add_weights(p)
    add_box(p, "again for each person", action="append")
    text = "what the numbers of --box are: xywh (default), or xyxy, two corners"
    p.add_argument("--box-format", choices=("xywh", "xyxy"), default="xywh", help=text)
    text = "the people's boxes: COCO annotations or detections, by the pictures' names or the numbers in them"
    p.add_argument("--boxes", metavar="FILE", help=text)
    text = "leave out boxes of --boxes with a lower score (default: 0)"
    p.add_argument("--min-score", type=number, metavar="S", help=text)
    text = "of --boxes: only boxes of this COCO category (default: that called person, if there are others)"
    p.add_argument("--category", type=int, action="append", metavar="N", help=text)
    p.add_argument("--flip", action="store_true", help="the mean with the mirrored picture: better, twice the time")
    text = f"{', '.join(PIPELINES)}: crop and decode as that program does (default: what the model was made for)"
    p.add_argument("--pipeline", choices=PIPELINES, metavar="P", help=text)
    p.add_argument("--batch", type=positive, default=8, metavar="N", help="people in a pass (default: 8)")
    text = "named (default), coco (a list of COCO results) or easy (as easy_ViTPose)"
    p.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=text)
    text = "draw keypoints from this score (default: 0.3); what is written has them all"
    p.add_argument("--threshold", type=number, default=0.3, metavar="T", help=text)
    p.add_argument("--no-draw", action="store_true", help="write the numbers alone")
    p.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where to write (default: this folder)")
    add_engine(p)
    p.add_argument("--precision", choices=("bf16",), help="halves the time of --engine fast where the CPU has bf16")


def run(options):
    """Keypoints of the people in one picture, or in many."""
    from minivitpose.pose.estimate import PoseError, make_plan

    paths = find_pictures(options.inputs)
    single = paths == [Path(text) for text in options.inputs] and len(paths) == 1
    check_usage(options, paths, single)
    jobs = read_jobs(options, paths)
    check_apart(written(options, jobs, single), options.boxes, options.weights)
    picture = prepare_job(jobs[0], options) if single else None  # a bad picture or box shows before the weights load
    try:
        model = load_model(options, precision=options.precision)
    except ValueError as error:  # CheckpointError and ConfigError among them; the others are of engine and precision
        raise UsageError(str(error)) from None
    try:
        plan = make_plan(model, options.pipeline, options.flip, options.batch)
        make_folder(options.out)
        say_dataset(options, model.config)
        return run_single(options, plan, jobs[0], picture) if single else run_many(options, plan, jobs)
    except PoseError as error:
        raise UsageError(str(error)) from None


def check_usage(options, paths, single):
    if options.box and not single:
        raise UsageError(f"--box is for one picture, found {len(paths)}: give their people in a file with --boxes")
    if options.box and options.boxes:
        raise UsageError("--box and --boxes: give one of the two")
    if options.boxes is None and options.min_score is not None:
        raise UsageError("--min-score goes with --boxes: only a detector's boxes have scores")
    if options.boxes is None and options.category is not None:
        raise UsageError("--category goes with --boxes: only a COCO file's boxes have categories")
    if options.box is None and options.box_format != "xywh":
        raise UsageError("--box-format goes with --box: a COCO file always has x, y, width, height")


def written(options, jobs, single):
    """The files of numbers that there will be; drawn pictures have names that no input has."""
    if options.format == "easy":
        names = [f"{job.name}_result.json" for job in jobs]
    else:
        names = [f"{jobs[0].name}{DRAWN}.json" if single else "keypoints.json"]
    return [options.out / name for name in (names if single else [*names, "keypoints.jsonl", BROKEN])]


def read_jobs(options, paths):
    """The pictures and their people."""
    if options.boxes is None:
        return make_jobs(paths, options.box, None, 0, options.out)
    from minivitpose.pose.coco_json import CocoError, read_coco

    try:
        coco = read_coco(options.boxes)
        categories, word = chosen_categories(coco, options.category)
        jobs = make_jobs(paths, None, coco, options.min_score or 0, options.out, categories)
    except CocoError as error:
        raise UsageError(str(error)) from None
    if word:
        say(word)
    if without := sum(not job.boxes for job in jobs):
        say(f"{without} of {len(jobs)} pictures have no box in {options.boxes}")
    return jobs


def prepare_job(job, options):
    from minivitpose.pose.estimate import prepare

    return prepare(job.path, job.boxes, job.box_scores, options.box_format)


def say_dataset(options, config):
    """The weights do not show whether 17 keypoints are those of a person or of an animal."""
    from minivitpose.config import DATASETS
    from minivitpose.pose.skeletons import SKELETONS

    sets = DATASETS.get(config.num_keypoints, ())
    taken = SKELETONS.get(config.dataset)
    others = [name for name in sets if taken and SKELETONS[name].keypoints != taken.keypoints]
    if options.dataset is None and others:
        meant = f"{config.num_keypoints} keypoints, taken as those of {config.dataset}"
        say(f"{meant}; if they are those of {', '.join(others)}: --dataset NAME")


# --------------------------------------------------------------------------------------------------------- one picture


def run_single(options, plan, job, picture):
    """One picture: its JSON and drawing written, its keypoints printed."""
    from minivitpose.pose.estimate import estimate_pictures

    ((_, poses),) = estimate_pictures(plan, [picture])
    drawn = draw(options, plan.model.config, job, picture, poses)
    entry = make_entry(job, poses, drawn) | {"image_id": job.image_id, "categories": job.categories}
    path = options.out / f"{job.name}{DRAWN}.json"
    if options.format == "named":
        write(path, named_single(entry, about(options, plan)))
    elif options.format == "coco":
        write(path, coco([entry], options.boxes is not None))
    else:
        path = options.out / f"{job.name}_result.json"
        write(path, easy(entry, about(options, plan)))
    print_poses(skeleton_of(plan.model.config), poses)
    hidden = sum(int((pose.scores < options.threshold).sum()) for pose in poses)
    if drawn and hidden:
        print(f"{hidden} keypoints with a score below {options.threshold:g} are not drawn (--threshold)")
    print(f"written: {', '.join(shown(p) for p in (path, drawn and options.out / drawn) if p)}")
    return 0


def print_poses(skeleton, poses):
    for i, pose in enumerate(poses):
        print(f"person {i}, mean score {pose.scores.mean():.3f}")
        for name, (x, y), score in zip(skeleton.keypoints, pose.keypoints, pose.scores, strict=True):
            print(f"  {name:<16} x {x:8.2f}  y {y:8.2f}  score {score:6.3f}")
