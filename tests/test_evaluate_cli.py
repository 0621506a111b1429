"""`minivitpose evaluate` as a user meets it: the table, the file it writes, missing pictures, one-line errors."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import minivitpose as mvp
from minivitpose.cli import main
from minivitpose.pose.coco_json import PARTS, read_coco
from minivitpose.pose.crop import centre_and_scale
from minivitpose.pose.evaluate import NUMBERS, evaluate
from minivitpose.pose.oks import oks_nms, rescore
from minivitpose.pose.skeletons import SKELETONS, skeleton_for
from models import small_config, state_dict_for

BOXES = {3: [(5.0, 4, 40, 60), (40, 10, 45, 70)], 1: [(2, 3, 60, 80)], 8: [], 4: [(10, 5, 50, 70)]}


def save_model(path, num_keypoints):
    np.savez(path, **state_dict_for(small_config(num_keypoints=num_keypoints)))
    return mvp.load(path, num_heads=3)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a small model, four noisy pictures, and annotations that are what the model itself finds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in BOXES:
        Image.fromarray(rng.integers(0, 255, (100, 90, 3), np.uint8)).save(f"pictures/{i}.png")
    model = save_model("small.npz", 17)
    write("annotations.json", found_by(model))
    return tmp_path


def found_by(model, **options):
    """Annotations in which the poses that the model finds are the truth."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 90, "height": 100} for i in BOXES]
    people = []
    for i, boxes in BOXES.items():
        for box, pose in zip(boxes, mvp.estimate(model, f"pictures/{i}.png", boxes, **options), strict=True):
            # the annotated box is one wider and higher, since clipping takes a box of width w to end at x + w - 1
            entry = {"id": len(people) + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "area": box[2] * box[3]}
            entry["bbox"] = [box[0], box[1], box[2] + 1, box[3] + 1]
            points = np.c_[pose.keypoints.astype(float), np.full(len(pose.keypoints), 2.0)]
            people.append(entry | parts_of(points) | {"num_keypoints": len(points)})
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}


def parts_of(points):
    if len(points) != 133:
        return {"keypoints": points.ravel().tolist()}
    ends = np.cumsum(list(PARTS.values()))[:-1]
    return {name: part.ravel().tolist() for name, part in zip(PARTS, np.split(points, ends), strict=True)}


def write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def run(capsys, *arguments, code=0):
    """The command's output -> {name: number}, all of it."""
    assert main(["evaluate", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    rows = re.findall(r"^(A[PR]\w*) +([\d.:]+) +(all|medium|large) +(-?[\d.]+)$", out, re.MULTILINE)
    assert [row[0] for row in rows] == list(NUMBERS)
    return {row[0]: float(row[3]) for row in rows}, out, err


def error_of(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    lines = err.strip().split("\n")
    assert lines[-1].startswith("minivitpose: error: ") and "Traceback" not in err
    return lines[-1]


MODEL = ("--weights", "small.npz", "--heads", "3", "--images", "pictures", "--annotations", "annotations.json")


def test_a_model_that_is_its_own_truth_is_perfect(here, capsys):
    numbers, out, err = run(capsys, *MODEL)
    assert numbers == {name: 1.0 if name not in ("APl", "ARl") else -1.0 for name in NUMBERS}
    assert "4 people in " in out and "-1: nobody of this size is annotated" in out
    assert "4 pictures, 4 annotated boxes" in err


def test_boxes_that_are_some_pixels_off_are_not_perfect(here, capsys):
    """So the test above sees where the boxes are."""
    content = read("annotations.json")
    for entry in content["annotations"]:
        entry["bbox"] = [entry["bbox"][0], entry["bbox"][1], entry["bbox"][2] + 4, entry["bbox"][3] + 4]
    write("annotations.json", content)
    assert run(capsys, *MODEL)[0]["AP"] < 0.9


def test_the_flip_test_is_used(here, capsys):
    assert run(capsys, *MODEL, "--flip")[0]["AP"] < 0.9
    write("annotations.json", found_by(mvp.load("small.npz", num_heads=3), flip=True))
    assert run(capsys, *MODEL, "--flip")[0]["AP"] == 1.0


def test_the_pipeline_is_used(here, capsys):
    write("annotations.json", found_by(mvp.load("small.npz", num_heads=3), pipeline="plain"))
    assert run(capsys, *MODEL, "--pipeline", "plain")[0]["AP"] == 1.0
    assert run(capsys, *MODEL)[0]["AP"] < 0.9


@pytest.fixture
def detections(here):
    """A box thrice, two where nobody is annotated, one in a picture that is not there, one of a dog."""
    rng = np.random.default_rng(1)
    rows = [(3, BOXES[3][0], 0.9), (8, (1, 1, 40, 60), 0.95), (3, BOXES[3][0], 0.8), (1, BOXES[1][0], 0.7)]
    rows += [(3, BOXES[3][0], 0.85), (99, (1, 2, 3, 4), 0.9), (4, BOXES[4][0], 0.3), (3, BOXES[3][1], 0.5)]
    rows += [(8, (*rng.uniform(0, 40, 2), 30, 50), 0.2)]
    content = [{"image_id": i, "category_id": 1, "bbox": list(box), "score": score} for i, box, score in rows]
    content.append({"image_id": 1, "category_id": 18, "bbox": [0, 0, 50, 50], "score": 0.99})  # a dog
    write("detections.json", content)
    return content


def expected_results(model, content, nms):
    """What the command should write, step by step: estimate, rescore, drop the too alike."""
    expected = []
    for image in BOXES:
        rows = [row for row in content if row["image_id"] == image and row["category_id"] == 1]
        poses = mvp.estimate(model, f"pictures/{image}.png", [row["bbox"] for row in rows])
        scores = np.array([rescore(p.scores, row["score"]) for p, row in zip(poses, rows, strict=True)])
        areas = [np.prod(centre_and_scale(p.box, model.config.image_size)[1]) for p in poses]
        sigmas = skeleton_for(17).sigmas
        keep = oks_nms([p.keypoints for p in poses], scores, areas, sigmas) if nms else range(len(poses))
        expected += [(image, float(scores[i]), poses[i]) for i in keep]
    return expected


@pytest.mark.parametrize("nms", [True, False])
def test_detections_are_rescored_thinned_and_written(here, detections, capsys, nms):
    options = ["--detections", "detections.json", "--out", "results.json", "--batch", "3"]
    numbers, _, err = run(capsys, *MODEL, *options, *([] if nms else ["--no-nms"]))
    assert "8 boxes of detections.json" in err and "written: results.json" in err
    written = read("results.json")
    expected = expected_results(mvp.load("small.npz", num_heads=3), detections, nms)
    assert len(written) == len(expected) == (6 if nms else 8)
    for entry, (image, score, pose) in zip(written, expected, strict=True):
        assert (entry["image_id"], entry["category_id"]) == (image, 1)
        assert entry["score"] == pytest.approx(score, rel=1e-5)
        points = np.reshape(entry["keypoints"], (17, 3))
        np.testing.assert_allclose(points[:, :2], pose.keypoints, atol=1e-2)
        np.testing.assert_allclose(points[:, 2], pose.scores, rtol=1e-4)
    assert 0 < numbers["AP"] < 1

    again, _, _ = run(capsys, "--results", "results.json", "--annotations", "annotations.json")
    assert again == numbers
    exact = evaluate(read_coco("annotations.json"), read_coco("results.json"), skeleton_for(17).sigmas)
    assert numbers == {name: round(value, 3) for name, value in exact.items()}


def test_whole_bodies_are_evaluated_as_a_whole(here, capsys):
    model = save_model("whole.npz", 133)
    content = found_by(model)
    write("annotations.json", content)
    arguments = ("--weights", "whole.npz", *MODEL[2:])
    assert run(capsys, *arguments, "--out", "results.json")[0]["AP"] == 1.0
    assert len(read("results.json")[0]["lefthand_kpts"]) == 63
    both = ("--results", "results.json", "--annotations", "annotations.json", "--dataset")
    assert run(capsys, *both, "wholebody")[0]["AP"] == 1.0
    assert run(capsys, *both, "coco")[0]["AP"] == 1.0  # the body alone
    for entry in content["annotations"]:
        entry["righthand_kpts"] = (np.reshape(entry["righthand_kpts"], (21, 3)) + [500, 0, 0]).ravel().tolist()
    write("annotations.json", content)
    assert run(capsys, *both, "wholebody")[0]["AP"] < 0.9


def test_sets_without_areas_are_evaluated_by_the_box(here, capsys):
    model = save_model("small14.npz", 14)
    content = found_by(model)
    for entry in content["annotations"]:
        entry["area"] = 0.5
        points = np.reshape(entry["keypoints"], (14, 3)) + [0.3, 0, 0]
        entry["keypoints"] = points.ravel().tolist()
    write("annotations.json", content)
    arguments = ("--weights", "small14.npz", *MODEL[2:], "--dataset")
    assert run(capsys, *arguments, "crowdpose")[0]["AP"] == 1.0
    assert run(capsys, *arguments, "aic")[0]["AP"] > 0.5


def test_annotations_that_name_the_keypoints_of_another_set_are_told(here, capsys):
    names = [name.replace("left_", "L_").replace("_", " ").title() for name in SKELETONS["crowdpose"].keypoints]
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 90, 90], "area": 8100, "iscrowd": 0}
    keypoints = [value for i in range(14) for value in (5 * i, 6 * i, 2)]
    category = {"id": 1, "name": "person", "keypoints": names}
    truth = {"images": [{"id": 1, "file_name": "1.png"}], "categories": [category]}
    write("crowd.json", truth | {"annotations": [person | {"keypoints": keypoints, "num_keypoints": 14}]})
    write("r.json", [{"image_id": 1, "category_id": 1, "keypoints": keypoints, "score": 1}])
    error = error_of(capsys, "--results", "r.json", "--annotations", "crowd.json")
    assert "crowd.json names the keypoints of crowdpose, these are taken as those of aic: --dataset crowdpose" in error
    out = run(capsys, "--results", "r.json", "--annotations", "crowd.json", "--dataset", "crowdpose")[1]
    assert "OKS with the sigmas of crowdpose, area 0.53 of the box" in out


def test_a_limit_takes_the_first_pictures(here, capsys):
    numbers, _, err = run(capsys, *MODEL, "--limit", "1", "--out", "results.json")
    assert "1 pictures, 2 annotated boxes" in err and numbers["AP"] == 1.0
    assert {entry["image_id"] for entry in read("results.json")} == {3}
    both = ("--results", "results.json", "--annotations", "annotations.json")
    assert run(capsys, *both)[0]["AR"] == 0.5
    assert run(capsys, *both, "--limit", "1")[0]["AR"] == 1.0


def test_missing_and_broken_pictures_are_named_and_counted(here, capsys):
    (here / "pictures" / "1.png").unlink()
    (here / "pictures" / "4.png").write_bytes(b"no picture")
    numbers, out, _ = run(capsys, *MODEL, code=1)
    assert "2 of 4 pictures could not be used; their people count as not found:" in out
    assert re.search(r"^  1.png: .*no such file", out, re.MULTILINE)
    assert re.search(r"^  4.png: .*not a picture", out, re.MULTILINE)
    assert "\n2 people in " in out
    assert numbers["AR"] == 0.5


def test_many_broken_pictures_are_not_all_named(here, capsys):
    images = [{"id": i, "file_name": f"no{i}.png"} for i in range(9)]
    one = read("annotations.json")["annotations"][0]
    people = [one | {"id": i, "image_id": i} for i in range(9)]
    write("annotations.json", {"images": images, "annotations": people, "categories": [{"id": 1}]})
    numbers, out, _ = run(capsys, *MODEL, code=1)
    assert "9 of 9 pictures" in out and "no4.png" in out and "no5.png" not in out and "and 4 more" in out
    assert numbers["AP"] == 0


def test_a_box_outside_its_picture_is_told_as_a_broken_picture(here, capsys):
    write("far.json", [{"image_id": 1, "bbox": [500, 0, 5, 5], "score": 1}])
    _, out, _ = run(capsys, *MODEL, "--detections", "far.json", code=1)
    assert "  1.png: box 0" in out and "outside" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "evaluate needs --weights W and --images DIR, or --results JSON"),
        (["--weights", "small.npz"], "evaluate needs --images DIR"),
        (["--weights", "small.npz", "--images", "nowhere"], "the folder nowhere does not exist"),
        (["--results", "r.json", "--weights", "mini"], "--weights goes with a model"),
        (["--results", "r.json", "--no-nms"], "--no-nms goes with a model"),
        (["--results", "r.json", "--out", "x.json"], "--out goes with a model"),
        (["--results", "r.json"], "r.json: no such file"),
        (["--results", "r.json", "--dataset", "cocos"], "unknown dataset 'cocos'"),
        ([*MODEL[:6], "--out", "nowhere/x.json"], "the folder nowhere does not exist"),
        ([*MODEL[:6], "--out", "pictures"], "pictures: expected the name of a file, found a folder"),
        ([*MODEL[:6], "--out", "annotations.json"], "annotations.json is a file that is read: give another name"),
        ([*MODEL[:6], "--detections", "d.json"], "d.json: no such file"),
        (
            [*MODEL[:6], "--detections", "annotations.json.", "--pipeline", "odd"],
            "pipeline: expected one of udp, plain",
        ),
        (
            ["--weights", "small25.npz", *MODEL[2:6]],
            "OKS needs a sigma for each keypoint, and none are known",
        ),
        (["--weights", "small16.npz", *MODEL[2:6]], "17 keypoints a person, expected 16; check --dataset"),
    ],
)
def test_bad_use_is_one_line(here, capsys, arguments, words):
    for number in (16, 25):
        if f"small{number}.npz" in arguments:
            save_model(f"small{number}.npz", number)
    assert words in error_of(capsys, "--annotations", "annotations.json", *arguments)


def test_files_that_are_not_what_they_should_be_are_one_line(here, capsys):
    write("list.json", [])
    assert "expected annotations, found a plain list" in error_of(capsys, *MODEL[:6], "--annotations", "list.json")
    content = read("annotations.json")
    del content["annotations"][2]["bbox"]
    write("broken.json", content)
    assert "annotation 2 (id 3): bbox is missing" in error_of(capsys, *MODEL[:6], "--annotations", "broken.json")
    for entry in content["annotations"]:
        del entry["keypoints"]
        entry["bbox"] = [1, 2, 3, 4]
    write("boxes.json", content)
    assert "keypoints is missing" in error_of(capsys, *MODEL[:6], "--annotations", "boxes.json")
    for found in ({"image_id": 55, "bbox": [1, 2, 3, 4], "score": 1}, {"image_id": 3, "category_id": 7, "score": 1}):
        write("d.json", [{"bbox": [1, 2, 3, 4]} | found])
        assert "d.json: no box is" in error_of(capsys, *MODEL, "--detections", "d.json")


def test_results_against_pycocotools(here, detections, capsys):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    numbers, _, _ = run(capsys, *MODEL, "--detections", "detections.json", "--out", "results.json")
    truth = coco.COCO("annotations.json")
    judge = cocoeval.COCOeval(truth, truth.loadRes("results.json"), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert list(numbers.values()) == [round(value, 3) for value in judge.stats]
