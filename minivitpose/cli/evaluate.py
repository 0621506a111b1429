"""`minivitpose evaluate`: COCO's ten numbers of a model on annotated pictures, or of results that are there already."""

import json
import time
from pathlib import Path

from minivitpose.cli.options import UsageError, add_engine, add_weights, check_file, load_model, positive, say

EXAMPLE = """minivitpose evaluate --weights vitpose-b-coco.pth --images val2017 --annotations val2017.json
minivitpose evaluate --results results.json --annotations val2017.json"""
BOX_AREA = ("aic", "crowdpose")  # sets without areas: ViTPose evaluates them with use_area=False
SHOWN = 5  # broken pictures that are named one by one


def add(command):
    p = command("evaluate", run, "AP and AR on a COCO data set, of a model or of results in a file", EXAMPLE)
    add_weights(p, required=False)
    p.add_argument("--images", type=Path, metavar="DIR", help="the folder of the pictures that the annotations name")
    p.add_argument("--annotations", required=True, metavar="JSON", help="a COCO file with annotated keypoints")
    p.add_argument("--detections", metavar="JSON", help="a detector's boxes (default: the annotated boxes)")
    p.add_argument("--results", metavar="JSON", help="evaluate this list of COCO results; no model and no pictures")
    p.add_argument(
        "--flip", action="store_true", help="the mean with the mirrored picture, as published numbers have it"
    )
    p.add_argument("--batch", type=positive, metavar="N", help="people in a pass (default: 8)")
    p.add_argument(
        "--pipeline", metavar="P", help="udp, plain, mmpose, hf or easy (default: what the model was made for)"
    )
    p.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures of the annotations")
    p.add_argument("--no-nms", action="store_true", help="keep poses of one person that several boxes gave")
    p.add_argument("--out", type=Path, metavar="JSON", help="write the results in COCO's form")
    add_engine(p)


def run(options):
    """The table of the ten numbers. Exit code 1 if pictures are missing or broken."""
    check_usage(options)
    if options.results is not None:
        return evaluate_results(options)
    return evaluate_model(options)


def check_usage(options):
    if options.results is not None:
        of_model = ("weights", "images", "detections", "out", "flip", "no_nms", "pipeline", "heads", "expert", "batch")
        for name in of_model:
            if getattr(options, name):
                raise UsageError(f"--{name.replace('_', '-')} goes with a model; --results is evaluated as it is")
        return
    if options.weights is None:
        raise UsageError("evaluate needs --weights W and --images DIR, or --results JSON")
    if options.images is None:
        raise UsageError("evaluate needs --images DIR, the folder of the pictures that the annotations name")
    if not options.images.is_dir():
        raise UsageError(f"--images: the folder {options.images} does not exist")
    if options.out is not None:
        check_file(options.out, options.annotations, options.detections, options.weights)


def evaluate_results(options):
    """--results: nothing is estimated."""
    from minivitpose.config import dataset_name
    from minivitpose.pose.coco_json import read_coco

    whole = options.dataset is not None and dataset_name(options.dataset) == "coco_wholebody"
    truth, results = read_coco(options.annotations, whole), read_coco(options.results, whole)
    file = truth if results.keypoints is None else results
    num_keypoints = 17 if file.keypoints is None else file.keypoints.shape[1]
    ids = list(truth.images or ())[: options.limit]
    print(f"{options.results}: {len(results)} results\n{options.annotations}: {len(ids)} pictures")
    skeleton = skeleton_with_sigmas(num_keypoints, options.dataset)
    check_names(truth, skeleton)
    report(truth, results, skeleton, ids)
    return 0


def evaluate_model(options):
    """--weights: estimate everybody, then evaluate."""
    from minivitpose.files import write_text
    from minivitpose.pose.coco_json import WHOLE_BODY, as_coco, read_coco
    from minivitpose.pose.estimate import BATCH, make_plan
    from minivitpose.pose.evaluate import check_files

    model = load_model(options)
    num_keypoints = model.config.num_keypoints
    skeleton = skeleton_with_sigmas(num_keypoints, model.config.dataset)
    plan = make_plan(model, options.pipeline, options.flip, options.batch or BATCH)
    truth = read_coco(options.annotations, num_keypoints == WHOLE_BODY)
    check_files(truth, as_coco([]), num_keypoints)  # before the work, not after it
    check_names(truth, skeleton)
    ids = list(truth.images)[: options.limit]
    people = people_of(truth, read_coco(options.detections) if options.detections else truth, ids)
    boxes = f"boxes of {options.detections}" if options.detections else "annotated boxes"
    flip = ", flip test" if options.flip else ""
    say(f"{model.config.describe()}\n{len(ids)} pictures, {sum(map(len, people.values()))} {boxes}{flip}")

    start = time.perf_counter()
    results, broken, count = estimate_people(plan, truth, people, options.images, skeleton.sigmas, not options.no_nms)
    seconds = time.perf_counter() - start
    report(truth, as_coco(results, "the results", num_keypoints == WHOLE_BODY), skeleton, ids)
    print(f"\n{count} people in {seconds:.1f} s" + (f", {count / seconds:.1f} a second" if seconds else ""))
    if options.out:  # after the table: a full disk does not take it away
        write_text(options.out, json.dumps(results) + "\n")
        say(f"written: {options.out}, {len(results)} results")
    return complain_about(broken, len(ids))


def skeleton_with_sigmas(num_keypoints, dataset):
    """The keypoint set that the numbers are of, or UsageError where OKS is not defined."""
    from minivitpose.pose.skeletons import skeleton_for

    skeleton = skeleton_for(num_keypoints, dataset)
    if not skeleton.sigmas:
        raise UsageError(
            f"OKS needs a sigma for each keypoint, and none are known for {skeleton.name}; name the set with --dataset"
        )
    return skeleton


def check_names(truth, skeleton):
    """Raises UsageError where the annotations name the keypoints of another set than the one that is meant."""
    from minivitpose.pose.skeletons import SKELETONS

    names = plain_names(truth.keypoint_names or ())
    meant = [name for name, known in SKELETONS.items() if plain_names(known.keypoints) == names]
    if meant and plain_names(skeleton.keypoints) != names:
        raise UsageError(
            f"{truth.path} names the keypoints of {meant[0]}, these are taken as those of {skeleton.name}: "
            f"--dataset {meant[0]}"
        )


def plain_names(names):
    """Names of keypoints as nearly everybody spells them: L_Eye, left_eye and "left eye" are the same."""
    spelled = (name.lower().replace(" ", "_") for name in names)
    return [{"l": "left", "r": "right"}[name[0]] + name[1:] if name[:2] in ("l_", "r_") else name for name in spelled]


def people_of(truth, source, ids):
    """{image_id: [(box, score, category), ...]} of these pictures, from annotations or detections."""
    from minivitpose.pose.coco_json import CocoError, boxes_by_image

    people = {}
    for category in sorted(truth.categories):
        for image, boxes in boxes_by_image(source, clip=True, categories=[category]).items():
            people.setdefault(image, []).extend((*person, category) for person in boxes)
    if len(source) and not any(image in truth.images for image in people):
        what = "in a picture of the annotations" if people else "of a category of the annotations and with a size"
        raise CocoError(f"{source.path}: no box is {what}; check that the files belong together")
    return {image: people[image] for image in ids if image in people}


def estimate_people(plan, truth, people, folder, sigmas, nms):
    """-> COCO results; [(file name, why)] of the pictures that could not be used; how many people were looked at."""
    from tqdm import tqdm

    from minivitpose.pose.crop import BoxError
    from minivitpose.pose.estimate import estimate_pictures, prepare
    from minivitpose.pose.evaluate import picture_results
    from minivitpose.pose.image import ImageError

    waiting, results, broken, count = [], [], [], 0

    def pictures():
        for image, persons in tqdm(people.items(), unit=" pictures", disable=None):
            boxes, scores, _ = zip(*persons, strict=True)
            try:
                picture = prepare(folder / truth.images[image], boxes, scores)
            except (ImageError, BoxError) as error:
                broken.append((truth.images[image], str(error)))
                continue
            waiting.append(image)
            yield picture

    size = plan.model.config.image_size
    for i, (picture, poses) in enumerate(estimate_pictures(plan, pictures())):
        count += len(poses)
        categories = [category for _, _, category in people[waiting[i]]]
        results += picture_results(waiting[i], poses, picture.box_scores, categories, sigmas, size, nms)
    return results, broken, count


def report(truth, results, skeleton, ids):
    """Print the ten numbers in pycocotools' order."""
    from minivitpose.pose.evaluate import AREAS, NUMBERS, THRESHOLDS, evaluate

    by_box = skeleton.name in BOX_AREA
    area = "0.53 of the box" if by_box else "as annotated"
    print(f"\nOKS with the sigmas of {skeleton.name}, area {area} (another set: --dataset)")
    numbers = evaluate(truth, results, skeleton.sigmas, not by_box, ids)
    print(f"\n{'':6} {'OKS':11} {'area':8} {'value':>6}")
    for name, value in numbers.items():
        _, area, at = NUMBERS[name]
        oks = f"{THRESHOLDS[0]:.2f}:{THRESHOLDS[-1]:.2f}" if isinstance(at, slice) else f"{THRESHOLDS[at]:.2f}"
        print(f"{name:6} {oks:11} {list(AREAS)[area]:8} {value:6.3f}")
    if min(numbers.values()) < 0:
        print("-1: nobody of this size is annotated")


def complain_about(broken, pictures):
    """Name pictures that could not be used. -> exit code."""
    if not broken:
        return 0
    print(f"\n{len(broken)} of {pictures} pictures could not be used; their people count as not found:")
    for name, why in broken[:SHOWN]:
        print(f"  {name}: {why}")
    if len(broken) > SHOWN:
        print(f"  and {len(broken) - SHOWN} more")
    return 1
