"""`minivitpose predict`: what is read, what is written under which name, and what is left after an accident."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minivitpose as mvp
from minivitpose.cli import main, predict
from minivitpose.files import alone_in
from minivitpose.pose import read_image
from minivitpose.pose.pipelines import PIPELINES
from models import small_config, state_dict_for

SMALL = ["--heads", "3", "--engine", "numpy", "--batch", "1"]  # a BLAS may round a larger batch in another way
FAST = ["--heads", "3", "--engine", "fast", "--batch", "4"]  # which the package's own kernels never do


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", **state_dict_for(small_config()))
    return tmp_path


def picture(path, seed=0, size=(30, 40)):
    """A small picture of noise; its kind goes by the ending."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def run(*arguments, weights="w.npz", model=SMALL):
    return main(["predict", *map(str, arguments), "--weights", weights, *(model if weights == "w.npz" else [])])


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def results(folder):
    return json.loads((Path(folder) / "keypoints.json").read_text(encoding="utf-8"))


def error_of(capsys, *arguments):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("minivitpose: error: ") and err.count("\n") == 1, err
    return err


def coco_file(path, content):
    Path(path).write_text(json.dumps(content))
    return path


# ---------------------------------------------------------------------------------------------------------- one picture


def test_one_picture_is_as_the_library_has_it(here, capsys):
    picture("photo.png")
    assert run("photo.png", "--box", 3, 2, 20, 25, "--out", "r") == 0
    assert names("r") == ["photo-keypoints.json", "photo-keypoints.png"]
    result = json.loads(Path("r/photo-keypoints.json").read_text())
    model = mvp.load("w.npz", "numpy", num_heads=3)
    (pose,) = mvp.estimate(model, "photo.png", [(3, 2, 20, 25)])
    assert result["poses"] == [pose.to_json()] and result["image"] == "photo.png"
    assert result["pipeline"] == model.config.pipeline and len(result["keypoint_names"]) == 5
    assert read_image("r/photo-keypoints.png").shape == (30, 40, 3)
    out = capsys.readouterr().out
    assert f"x {pose.keypoints[4, 0]:8.2f}" in out and "written: r/photo-keypoints.json, r/photo-keypoints.png" in out


def test_the_options_reach_the_estimator(here):
    picture("photo.png")
    model = mvp.load("mini")

    def found(*more):
        assert run("photo.png", "--box", 3, 2, 20, 25, *more, "--no-draw", weights="mini") == 0
        return json.loads(Path("photo-keypoints.json").read_text())["poses"]

    plain, box = found(), [(3, 2, 20, 25)]
    assert plain == [mvp.estimate(model, "photo.png", box)[0].to_json()]
    assert found("--box-format", "xyxy") == [mvp.estimate(model, "photo.png", box, box_format="xyxy")[0].to_json()]
    assert found("--flip") == [mvp.estimate(model, "photo.png", box, flip=True)[0].to_json()]
    for name in PIPELINES:
        assert found("--pipeline", name) == [mvp.estimate(model, "photo.png", box, pipeline=name)[0].to_json()]
    assert found("--dataset", "ap10k") == [mvp.estimate(model, "photo.png", box, pipeline="plain")[0].to_json()]
    assert len(found("--box", 0, 0, 9, 9)) == 2 and not Path("photo-keypoints.png").exists()
    assert set(predict.PIPELINES) == set(PIPELINES)


def test_a_photograph_is_drawn_as_jpeg_and_the_threshold_hides_keypoints(here, capsys):
    picture("photo.jpg", size=(200, 150))
    drawn = []
    for threshold in (-100, 100):
        assert run("photo.jpg", "--threshold", threshold) == 0
        drawn.append(read_image("photo-keypoints.jpg"))
    assert (drawn[0] != drawn[1]).any()
    assert "5 keypoints with a score below 100 are not drawn" in capsys.readouterr().out


def test_what_17_keypoints_are_taken_for_is_said(here, capsys):
    picture("photo.png")
    run("photo.png", weights="mini")
    err = capsys.readouterr().err
    assert (
        "17 keypoints, taken as those of coco" in err and "ap10k" in err and "--dataset" in err and "ochuman" not in err
    )
    run("photo.png", "--dataset", "coco", weights="mini")
    run("photo.png")
    assert capsys.readouterr().err == ""


# -------------------------------------------------------------------------------------------------------- what is read


def test_folders_patterns_and_files(here):
    for i, name in enumerate(
        ("a/2.jpg", "a/1.PNG", "a/.hidden.png", "a/deep/3.png", "b/x.webp", "b/y.tiff", "c/z.gif")
    ):
        picture(name, i)
    Path("a/notes.txt").write_text("no picture")
    assert run("a", "b/*.w*p", "b/y.tiff", "./a/2.jpg", "a/2.jpg", "c/*", "--out", "r") == 0
    found = [entry["image"] for entry in results("r")["pictures"]]
    assert found == ["a/1.PNG", "a/2.jpg", "b/x.webp", "b/y.tiff", "c/z.gif"]
    drawn = ["1-keypoints.png", "2-keypoints.jpg", "x-keypoints.jpg", "y-keypoints.jpg", "z-keypoints.jpg"]
    assert names("r") == [*drawn[:2], "keypoints.json", "keypoints.jsonl", *drawn[2:]]
    model = mvp.load("w.npz", "numpy", num_heads=3)
    for entry in results("r")["pictures"]:
        assert entry["poses"] == [pose.to_json() for pose in mvp.estimate(model, entry["image"])]


def test_a_file_with_a_pattern_in_its_name_is_that_file(here):
    picture("a[1].png")
    picture("a1.png", 1)
    assert run("a[1].png") == 0
    assert "a[1]-keypoints.json" in names(".") and "a1-keypoints.json" not in names(".")


def test_a_pictures_kind_goes_by_its_content(here):
    picture("right.png").rename("wrong.jpg")
    assert run("wrong.jpg") == 0


ODD = ["ü ñ 写真.png", "a'b\"c.png", "line\nend.png", "-dash.png", b"latin-\xe9.png".decode("utf-8", "surrogateescape")]


def test_odd_names(here, capsys):
    for i, name in enumerate(ODD):
        picture(f"in/{name}", i)
    assert run("in", "--out", "r") == 0
    found = sorted(entry["image"] for entry in results("r")["pictures"])
    assert found == sorted(f"in/{name}" for name in ODD)
    assert "写真" in (Path("r/keypoints.json").read_text(encoding="utf-8"))
    assert {name.replace(".png", "-keypoints.png") for name in ODD} < set(names("r"))
    for name in ODD:
        assert run(f"./in/{name}", "--out", "single") == 0
    (Path("in") / ODD[4]).write_bytes(b"broken")
    assert run("in", "--out", "r") == 1
    out, err = capsys.readouterr()
    (out + err).encode("utf-8")
    assert "latin-" in err


# ----------------------------------------------------------------------------------------------------------- its names


def test_the_same_name_in_two_folders_and_twice_in_one(here):
    for i, name in enumerate(("a/x.png", "b/x.png", "c/b/x.png", "a/X.png", "a/x.jpg")):
        picture(name, i)
    assert run("a/x.png", "b/x.png", "c/b/x.png", "a/X.png", "a/x.jpg", "--out", "r") == 0
    drawn = [entry["drawn"] for entry in results("r")["pictures"]]
    assert len({name.casefold() for name in drawn}) == 5 and set(drawn) < set(names("r"))
    assert drawn[:3] == ["x-keypoints.png", "b-x-keypoints.png", "x-2-keypoints.png"]


def test_an_input_is_never_overwritten_and_what_was_drawn_is_not_read(here):
    for i, name in enumerate(("x.png", "y.png", "y-keypoints.png", "other/z-keypoints.png")):
        picture(name, i)
    before = {name: Path(name).read_bytes() for name in ("x.png", "y.png", "other/z-keypoints.png")}
    assert run("x.png", "other/z-keypoints.png", "--out", "other") == 0
    assert run("z.png", "other/z-keypoints.png", "--out", "other") == 1  # z.png is not there; its drawing would be that
    for _ in range(2):
        assert run("*.png", "--out", ".") == 0
        assert [entry["image"] for entry in results(".")["pictures"]] == ["x.png", "y.png"]
    assert {name: Path(name).read_bytes() for name in before} == before


def test_a_result_never_lands_on_an_input(here):
    """z.png would be drawn as z-keypoints.png, which is an input too: another folder's, so not one of predict's own."""
    picture("in/z.png", 1)
    kept = picture("out/z-keypoints.png", 2).read_bytes()
    assert run("in/z.png", "out/z-keypoints.png", "--out", "out") == 0
    assert Path("out/z-keypoints.png").read_bytes() == kept
    assert [entry["drawn"] for entry in results("out")["pictures"]] == [
        "in-z-keypoints.png",
        "z-keypoints-keypoints.png",
    ]


# ---------------------------------------------------------------------------------------------------------------- boxes

ANNOTATIONS = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 30, "width": 40},
        {"id": 3, "file_name": "sub/b.png"},
        {"id": 4, "file_name": "other/b.png"},
        {"id": 9, "file_name": "absent.png"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 20, 25], "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [5, 2, 20, 25], "area": 400, "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": [9, 2, 20, 25], "area": 400, "iscrowd": 0},
        {"id": 4, "image_id": 4, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0},
    ],
}


def test_people_from_annotations_by_file_name(here, capsys):
    for i, name in enumerate(("in/a.png", "in/sub/b.png", "in/c.png")):
        picture(name, i)
    coco_file("people.json", ANNOTATIONS)
    assert run("in/a.png", "in/sub/b.png", "in/c.png", "--boxes", "people.json", "--out", "r") == 0
    boxes = {entry["image"]: [pose["box"] for pose in entry["poses"]] for entry in results("r")["pictures"]}
    assert boxes == {"in/a.png": [[1, 2, 20, 25], [9, 2, 20, 25]], "in/sub/b.png": [[5, 2, 20, 25]], "in/c.png": []}
    assert "1 of 3 pictures have no box in people.json" in capsys.readouterr().err
    assert run("in/a.png", "in/sub/b.png", "--boxes", "people.json", "--out", "r", "--format", "coco") == 0
    found = results("r")
    assert [(r["image_id"], len(r["keypoints"])) for r in found] == [(7, 15), (7, 15), (3, 15)]
    assert all(set(r) == {"image_id", "category_id", "keypoints", "score"} for r in found)


def test_people_from_detections_by_the_number_in_the_name(here):
    for i, name in enumerate(("in/000000000012.png", "in/000000000007.png")):
        picture(name, i)
    rows = [(7, 0.9, [1, 2, 20, 25]), (12, 0.2, [5, 2, 20, 25]), (12, 0.8, [9, 2, 20, 25]), (99, 1, [0, 0, 5, 5])]
    found = [{"image_id": i, "category_id": 1, "bbox": box, "score": score} for i, score, box in rows]
    coco_file("found.json", found)
    assert run("in", "--boxes", "found.json", "--out", "r") == 0
    assert [len(entry["poses"]) for entry in results("r")["pictures"]] == [1, 2]
    pose = results("r")["pictures"][0]["poses"][0]
    assert pose["score"] == pytest.approx(0.9 * np.mean(pose["scores"]), abs=1e-6)
    assert run("in", "--boxes", "found.json", "--min-score", 0.5, "--out", "r") == 0
    assert [pose["box"][0] for e in results("r")["pictures"] for pose in e["poses"]] == [1, 9]
    assert run("in/000000000012.png", "--boxes", "found.json", "--out", "r", "--format", "coco") == 0
    single = json.loads(Path("r/000000000012-keypoints.json").read_text())
    assert [r["image_id"] for r in single] == [12, 12]


def test_boxes_of_other_categories_than_people(here, capsys):
    picture("in/x.png"), picture("in/y.png", 1)
    rows = [
        {"id": i, "image_id": 1, "category_id": i, "bbox": [i, 2, 20, 25], "area": 400, "iscrowd": 0} for i in (1, 3)
    ]
    content = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": rows}
    named = content | {"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "person"}]}
    coco_file("named.json", named), coco_file("plain.json", [row | {"score": 1.0} for row in rows])
    Path("in/x.png").rename("in/1.png")
    coco_file("named.json", named | {"images": [{"id": 1, "file_name": "1.png"}]})
    cases = [
        (["named.json"], [3], "has boxes of the categories 1 (cat), 3 (person): people alone are taken (--category)"),
        (["named.json", "--category", "1"], [1], ""),
        (["plain.json"], [1, 3], "has boxes of the categories 1, 3: all are taken, --category N takes one"),
        (["plain.json", "--category", "3", "--category", "1"], [1, 3], ""),
    ]
    for i, (arguments, expected, said) in enumerate(cases):
        for source in ("in/1.png", "in"):
            capsys.readouterr()
            out = f"r{i}-{source == 'in'}"
            assert run(source, "--boxes", *arguments, "--out", out, "--format", "coco") == 0
            assert said in capsys.readouterr().err
            name = "keypoints.json" if source == "in" else "1-keypoints.json"
            found = json.loads(Path(out, name).read_text())
            assert [row["category_id"] for row in found] == expected
    assert "--category 7: plain.json has boxes of 1, 3" in error_of(
        capsys, "in/1.png", "--boxes", "plain.json", "--category", 7
    )
    assert "--category goes with --boxes" in error_of(capsys, "in/1.png", "--category", 1)


def test_boxes_that_belong_to_no_picture_are_bad_use(here, capsys):
    picture("in/x.png"), picture("in/y.png", 1)
    coco_file("people.json", ANNOTATIONS)
    assert "none of these pictures: there a.png, here in/x.png" in error_of(capsys, "in", "--boxes", "people.json")
    assert "absent.json" in error_of(capsys, "in", "--boxes", "absent.json")
    coco_file("bad.json", {"images": []})
    assert "annotations" in error_of(capsys, "in", "--boxes", "bad.json")


def test_a_bad_box_in_the_file_is_a_broken_picture(here, capsys):
    picture("in/a.png"), picture("in/sub/b.png", 1)
    rows = json.loads(json.dumps(ANNOTATIONS))
    rows["annotations"][1]["bbox"] = [500, 2, 20, 25]
    coco_file("people.json", rows)
    assert run("in/a.png", "in/sub/b.png", "--boxes", "people.json", "--out", "r") == 1
    assert "wholly outside" in json.loads(Path("r/keypoints-broken.json").read_text())[0]["reason"]
    assert [entry["image"] for entry in results("r")["pictures"]] == ["in/a.png"]


# ---------------------------------------------------------------------------------------------------------------- forms


def test_coco_results_without_a_coco_file_say_which_picture_they_mean(here):
    picture("in/x.png"), picture("in/y.png", 1)
    assert run("in", "--out", "r", "--format", "coco") == 0
    assert [(r["image_id"], r["file_name"]) for r in results("r")] == [(1, "in/x.png"), (2, "in/y.png")]
    assert run("in", "--out", "r") == 0
    for entry, result in zip(
        results("r")["pictures"], json.loads(Path("r/keypoints.json").read_text())["pictures"], strict=True
    ):
        assert entry == result


@pytest.mark.parametrize("many", [False, True])
def test_easys_form_has_y_before_x(here, many):
    picture("in/x.png"), picture("in/y.png", 1)
    assert run("in" if many else "in/x.png", "--out", "r", "--format", "easy", "--no-draw") == 0
    found = json.loads(Path("r/x_result.json").read_text())
    poses = mvp.estimate(mvp.load("w.npz", "numpy", num_heads=3), "in/x.png")
    expected = np.concatenate([poses[0].keypoints[:, ::-1], poses[0].scores[:, None]], axis=1)
    assert set(found) == {"keypoints", "skeleton"} and len(found["keypoints"]) == 1
    assert list(found["keypoints"][0]) == ["0"] and np.array_equal(np.float32(found["keypoints"][0]["0"]), expected)
    assert found["skeleton"] == {str(i): f"keypoint {i}" for i in range(5)}
    assert Path("r/y_result.json").exists() == many


@pytest.mark.parametrize("count", [1, 14, 15, 16, 17, 20, 21, 25, 26, 52, 68, 133, 136])
def test_every_number_of_keypoints_in_every_form(here, count):
    picture("in/x.png", size=(90, 70)), picture("in/y.png", 1)
    np.savez("w.npz", **state_dict_for(small_config(num_keypoints=count)))
    assert run("in", "--out", "r", "--threshold", -99) == 0
    entry = results("r")["pictures"][0]
    assert len(entry["poses"][0]["keypoints"]) == len(results("r")["keypoint_names"]) == count
    if count > 1:  # the one may lie outside the picture
        assert (read_image(Path("r") / entry["drawn"]) != read_image("in/x.png")).any()
    assert run("in", "--out", "r", "--threshold", -99, "--format", "easy") == 0
    assert len(json.loads(Path("r/y_result.json").read_text())["skeleton"]) == count
    assert run("in", "--out", "r", "--threshold", -99, "--format", "coco") == 0
    result = results("r")[0]
    assert sum(len(x) for name, x in result.items() if name.endswith(("keypoints", "kpts"))) == 3 * count


def test_a_folder_of_one_picture_is_a_folder(here):
    picture("in/x.png")
    assert run("in", "--out", "r", "--no-draw") == 0
    assert names("r") == ["keypoints.json", "keypoints.jsonl"]


# ------------------------------------------------------------------------------------------------------------ accidents


def many(count, folder="in"):
    for i in range(count):
        picture(f"{folder}/{i:03}.png", i)


def whole(folder):
    """Every file that counts: all but the journal, by name."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != "keypoints.jsonl"}


def test_broken_pictures_stop_nothing(here, capsys):
    many(5)
    good = Path("in/001.png").read_bytes()
    Path("in/001.png").write_bytes(good[:300])
    Path("in/003.png").write_bytes(b"hello")
    assert run("in", "in/absent.png", "--out", "r") == 1
    out, err = capsys.readouterr()
    assert "3 pictures, 3 people" in out and "3 of 6 pictures could not be used" in err
    broken = json.loads(Path("r/keypoints-broken.json").read_text())
    assert [row["image"] for row in broken] == ["in/001.png", "in/003.png", "in/absent.png"]
    assert "cut off" in broken[0]["reason"] and "no such file" in broken[2]["reason"]
    assert [entry["image"] for entry in results("r")["pictures"]] == ["in/000.png", "in/002.png", "in/004.png"]

    Path("in/001.png").write_bytes(good)
    Path("in/003.png").unlink()
    assert run("in", "--out", "r") == 0
    out, err = capsys.readouterr()
    assert "3 of 4 pictures are done already" in err and not Path("r/keypoints-broken.json").exists()
    assert run("in", "--out", "fresh") == 0
    assert whole("r") == whole("fresh")


def seen(monkeypatch):
    """The pictures that are read, as a list that grows."""
    module = import_module("minivitpose.pose.estimate")  # minivitpose.pose.estimate itself is the function
    read, right = [], module.read_image
    monkeypatch.setattr(module, "read_image", lambda path: read.append(Path(path).name) or right(path))
    return read


def test_a_second_run_does_only_what_is_new(here, capsys, monkeypatch):
    many(4)
    assert run("in", "--out", "r") == 0
    first = whole("r")
    read = seen(monkeypatch)
    assert run("in", "--out", "r") == 0 and read == [] and whole("r") == first
    picture("in/002.png", 99)
    assert run("in", "--out", "r") == 0 and read == ["002.png"] and whole("r") != first
    Path("r/001-keypoints.png").unlink()
    assert run("in", "--out", "r") == 0 and read == ["002.png", "001.png"]
    picture("in/0000.png", 50)
    assert run("in", "--out", "r") == 0 and read[2:] == ["0000.png"]
    assert "4 of 5 pictures are done already" in capsys.readouterr().err
    assert run("in", "--out", "r", "--format", "coco") == 0 and read[3:] == [] and len(results("r")) == 5
    assert run("in", "--out", "fresh", "--format", "coco") == 0 and whole("r") == whole("fresh")


@pytest.mark.parametrize(
    "change", [["--pipeline", "hf"], ["--threshold", "0.1"], ["--engine", "numba"], ["--heads", "4"], ["--no-draw"]]
)
def test_other_options_begin_anew(here, change, capsys, monkeypatch):
    many(3)
    assert run("in", "--out", "r") == 0
    read = seen(monkeypatch)
    command = ["predict", "in", "--weights", "w.npz", *SMALL, "--out", "r", *change]
    assert main(command) == 0 and len(read) == 3
    assert "another model or other options" in capsys.readouterr().err
    assert main(command) == 0 and len(read) == 3


def test_two_at_once_into_one_folder_are_refused(here, capsys):
    many(3)
    assert run("in", "--out", "r") == 0
    first = whole("r")
    picture("in/000.png", 99)
    with alone_in("r"):
        assert run("in", "--out", "r") == 2
    assert "another minivitpose is writing into r: wait for its end" in capsys.readouterr().err
    assert whole("r") == first and run("in", "--out", "r") == 0 and whole("r") != first


def test_other_weights_begin_anew(here, monkeypatch):
    many(3)
    assert run("in", "--out", "r") == 0
    read = seen(monkeypatch)
    np.savez("w.npz", **state_dict_for(small_config(), seed=1))
    assert run("in", "--out", "r") == 0 and len(read) == 3
    assert run("in", "--out", "fresh") == 0 and whole("r") == whole("fresh")


@pytest.mark.parametrize("left", [-1, -40, 0.5, "garbage", "blank"])
def test_a_journal_that_was_cut_is_repaired(here, left, monkeypatch):
    many(6)
    assert run("in", "--out", "r") == 0
    first, journal = whole("r"), Path("r/keypoints.jsonl")
    content = journal.read_bytes()
    cut = {"garbage": content + b'{"key": \xff\n', "blank": b"\0" * len(content)}.get(left)
    if cut is None:
        cut = content[: left if left < 0 else int(left * len(content))]
    journal.write_bytes(cut)
    Path("r/keypoints.json").unlink()
    read = seen(monkeypatch)
    assert run("in", "--out", "r") == 0
    assert whole("r") == first and journal.read_bytes()[: len(content)] == content
    assert len(read) == {-1: 1, -40: 1, 0.5: 4, "garbage": 0, "blank": 6}[left]


def test_what_is_behind_a_repaired_line_is_gone(here, monkeypatch):
    many(2)
    assert run("in", "--out", "r") == 0
    with open("r/keypoints.jsonl", "ab") as file:
        file.write(b'{"key": ' + b"x" * 9000 + b"\n" + b'{"key": "in/000.png"}\n')
    many(4)  # the first two are written anew
    read = seen(monkeypatch)
    assert run("in", "--out", "r") == 0 and len(read) == 4
    assert run("in", "--out", "r") == 0 and len(read) == 4
    assert b"xx" not in Path("r/keypoints.jsonl").read_bytes()


def started(*arguments, **more):
    """The command in a process of its own, and the path of its journal."""
    command = [sys.executable, "-m", "minivitpose", "predict", *arguments, "--weights", "w.npz", *FAST]
    options = {"preexec_fn": heed_interrupts} | more
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def heed_interrupts():
    """Tests that run in the background of a shell inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_lines(process, journal, count):
    """Until the journal has so many lines."""
    for _ in range(4000):
        if journal.exists() and journal.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("the journal does not grow")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(here, how, capsys):
    many(160)
    assert run("in", "--out", "whole", model=FAST) == 0
    capsys.readouterr()
    for lines in (10, 40):  # stopped twice
        process = started("in", "--out", "r")
        wait_for_lines(process, Path("r/keypoints.jsonl"), lines)
        process.send_signal(how)
        out, err = process.communicate()
        assert process.returncode == (130 if how == signal.SIGINT else -how), err
        assert "Traceback" not in err and not Path("r/keypoints.json").exists()
        if how == signal.SIGINT:
            assert "the same command goes on from there" in err
    assert run("in", "--out", "r", model=FAST) == 0
    done = int(capsys.readouterr().err.split(": ")[1].split()[0])
    assert 39 <= done < 160
    parts = [path.unlink() for path in Path("r").glob(".*.part")]  # SIGKILL leaves what it was writing, no more
    assert len(parts) <= 2 and whole("r") == whole("whole")


def limited(size):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_full_disk_is_one_line_and_nothing_finished_is_lost(here, capsys):
    """No file may grow beyond a few lines: the journal fails in the middle of one, as on a full disk."""
    many(30)
    process = started("in", "--out", "r", "--no-draw", preexec_fn=limited(4000))
    out, err = process.communicate()
    assert process.returncode == 2 and out == "", err
    last = err.strip().split("\n")[-1]
    assert "Traceback" not in err and "error: " in last and "are safe in r/keypoints.jsonl" in last
    safe = int(last.split("; ")[1].split()[0])
    assert safe > 3
    assert run("in", "--out", "r", "--no-draw", model=FAST) == 0
    assert f"{safe} of 30 pictures are done already" in capsys.readouterr().err
    assert run("in", "--out", "fresh", "--no-draw", model=FAST) == 0
    assert whole("r") == whole("fresh")


def test_a_picture_that_cannot_be_drawn_is_one_line(here, capsys):
    many(2)
    Path("r/001-keypoints.png").mkdir(parents=True)
    Path("r/001-keypoints.png/x").touch()
    assert run("in", "--out", "r") == 2
    assert "1 of 2 pictures are safe" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- bad use


def test_bad_use_is_one_line(here, capsys):
    picture("x.png"), picture("y.png", 1), picture("in/z.png", 2)
    Path("empty").mkdir()
    assert "--boxes" in error_of(capsys, "x.png", "y.png", "--box", 0, 0, 9, 9)
    assert "--box is for one picture" in error_of(capsys, "in", "--box", 0, 0, 9, 9)
    assert "one of the two" in error_of(capsys, "x.png", "--box", 0, 0, 9, 9, "--boxes", "b.json")
    assert "--min-score goes with" in error_of(capsys, "x.png", "--min-score", 0.5)
    assert "--box-format goes with" in error_of(capsys, "x.png", "--box-format", "xyxy")
    assert "empty: no picture" in error_of(capsys, "empty")
    assert "no*.jpg: no file" in error_of(capsys, "no*.jpg")
    assert "absent.png" in error_of(capsys, "absent.png")
    assert "no mirror pairs" in error_of(capsys, "x.png", "--flip")
    assert "box 0" in error_of(capsys, "x.png", "--box", 9, 9, 5, 5, "--box-format", "xyxy")
    assert names(".") == ["empty", "in", "w.npz", "x.png", "y.png"]


def test_a_run_whose_pictures_were_all_broken_can_be_repeated(here):
    Path("in").mkdir()
    for name in ("in/x.png", "in/y.png"):
        Path(name).write_bytes(b"no picture")
    assert run("in", "--out", "r") == 1 and results("r")["pictures"] == []
    picture("in/x.png"), picture("in/y.png", 1)
    assert run("in", "--out", "r") == 0 and len(results("r")["pictures"]) == 2


def test_nothing_that_is_read_or_is_anothers_is_written_over(here, capsys):
    picture("in/x.png"), picture("in/y.png", 1)
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 25], "area": 400, "iscrowd": 0}
    boxes = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [person]}
    for name in ("r/x-keypoints.json", "r/keypoints.json", "r/x_result.json"):
        Path("r").mkdir(exist_ok=True)
        coco_file(name, boxes)
    Path("own").mkdir()
    Path("own/keypoints.jsonl").write_text('{"my": "own data"}\n')
    Path("old").mkdir()
    Path("old/keypoints.json").write_text("mine")
    before = {path: path.read_bytes() for folder in ("r", "own", "old") for path in Path(folder).iterdir()}
    read = "is a file that is read: give another name"
    for arguments, message in (
        (("in/x.png", "--boxes", "r/x-keypoints.json", "--out", "r"), read),
        (("in", "--boxes", "r/keypoints.json", "--out", "r"), read),
        (("in/x.png", "--boxes", "r/x_result.json", "--out", "r", "--format", "easy"), read),
        (("in", "--boxes", "r/x_result.json", "--out", "r", "--format", "easy"), read),
        (("in", "--out", "own"), "own/keypoints.jsonl was not written by minivitpose predict: take another folder"),
        (("in", "--out", "old"), "old/keypoints.json has no keypoints.jsonl beside it, so it may be another's"),
        (("in", "--out", "w.npz"), "w.npz: expected a folder, found a file of that name"),
        (("",), "INPUT: expected a picture, a folder or a pattern, found nothing"),
    ):
        assert run(*arguments) == 2 and message in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in before} == before


BAD = [["--min-score", "nan"], ["--threshold", "inf"], ["--batch", "0"], ["--pipeline", "best"], ["--format", "xml"]]


@pytest.mark.parametrize("arguments", [*BAD, ["--box", "1", "2"]])
def test_bad_values_are_named(here, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run("x.png", *arguments)
    assert stop.value.code == 2 and arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("many", [False, True])
def test_nan_heatmaps_are_one_line(here, many, capsys, monkeypatch):
    picture("in/x.png"), picture("in/y.png", 1)

    def spoilt(model, images):
        heatmaps = np.zeros((len(images), 5, 16, 12), np.float32)
        heatmaps[0, 3, 2, 2] = np.nan
        return heatmaps

    monkeypatch.setattr(mvp.ViTPose, "__call__", spoilt)
    assert "person 0 of picture 'in/x.png': the heatmap of keypoint 3" in error_of(capsys, "in" if many else "in/x.png")


def test_a_precision_that_the_engine_has_not_is_one_line(here, capsys):
    picture("x.png")
    assert "bf16" in error_of(capsys, "x.png", "--precision", "bf16")


def test_help_tells_of_the_order_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for words in ("y, x, score", "Exit code 0; 1 if a picture", "keypoints.jsonl", "not in folders inside"):
        assert words in out
    assert os.linesep
