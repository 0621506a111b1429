"""COCO's JSON files: what is read, which people are looked at, and one clear line for everything malformed."""

import copy
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coco_worlds import world
from minivitpose.pose.coco_json import PARTS, CocoError, as_coco, boxes_by_image, coco_result, read_coco

SIX = "annotation 1 (id 6): "


def good():
    """Two pictures; a person, one without keypoints, a crowd, one partly outside."""
    points = [1.5, 2, 2] * 3

    def person(number, image, box, **more):
        entry = {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": 50.0, "iscrowd": 0}
        return entry | {"keypoints": points, "num_keypoints": 3} | more

    people = [
        person(5, 2, [10, 20, 30, 40]),
        person(6, 2, [1, 2, 3, 4], num_keypoints=0, keypoints=[0] * 9),
        person(7, 1, [1, 2, 3, 4], iscrowd=1),
        person(8, 1, [-5, 60, 200, 70]),
        person(9, 2, [1, 2, 0, 4]),
        person(10, 2, [1, 2, 3, 4], area=0),
    ]
    images = [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 90}, {"id": 2, "file_name": "b.jpg"}]
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}


def detections():
    boxes = [(4, 0.9), (2, 0.5), (4, 0.3)]
    return [{"image_id": i, "category_id": 1, "bbox": [1, 2, 3, i], "score": s} for i, s in boxes]


def results():
    points = [1.0, 2.0, 0.5, 4.0, 8.0, 0.25]
    return [{"image_id": 1, "category_id": 1, "keypoints": points, "score": 0.5}, {"image_id": 2} | dict(score=1)]


def written(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def complaint(content, **options):
    """The one line about content, without its name in front."""
    with pytest.raises(CocoError) as caught:
        as_coco(content, "file", **options)
    line = str(caught.value)
    assert line.startswith("file: ") and "\n" not in line and len(line) < 250
    return line[6:]


def test_an_annotation_file(tmp_path):
    path = written(tmp_path, good())
    coco = read_coco(path)
    assert coco.path == str(path) and len(coco) == 6
    assert coco.images == {1: "a.jpg", 2: "b.jpg"}
    assert coco.sizes == {1: (100, 90), 2: None}
    assert coco.categories == {1: "person"}
    expected = {"ids": [5, 6, 7, 8, 9, 10], "image_ids": [2, 2, 1, 1, 2, 2], "category_ids": [1] * 6}
    for name, values in expected.items():
        assert getattr(coco, name).dtype == np.int64
        assert getattr(coco, name).tolist() == values
    assert coco.scores.tolist() == [1.0] * 6
    assert coco.boxes.dtype == np.float64
    assert coco.boxes[3].tolist() == [-5, 60, 200, 70]
    assert coco.areas.tolist() == [50] * 5 + [0]
    assert coco.crowd.tolist() == [False, False, True, False, False, False]
    assert coco.keypoints.shape == (6, 3, 3) and coco.keypoints.dtype == np.float64
    assert coco.keypoints[0, 1].tolist() == [1.5, 2, 2]
    assert coco.num_keypoints.tolist() == [3, 0, 3, 3, 3, 3]


def test_what_an_annotation_file_may_lack():
    content = good()
    del content["categories"]
    for field in ("area", "iscrowd", "num_keypoints"):
        for entry in content["annotations"]:
            del entry[field]
    coco = as_coco(content)
    assert coco.categories == {1: ""}
    np.testing.assert_allclose(coco.areas[:2], [0.53 * 1200, 0.53 * 12])
    assert not coco.crowd.any()
    assert coco.num_keypoints.tolist() == [3, 0, 3, 3, 3, 3]  # counted
    for entry in content["annotations"]:
        del entry["keypoints"]
    assert as_coco(content).keypoints is None
    empty = as_coco({"images": [], "annotations": []})
    assert len(empty) == 0 and empty.boxes.shape == (0, 4) and boxes_by_image(empty, clip=True) == {}


def test_a_number_of_keypoints_in_the_file_is_believed():
    content = good()
    content["annotations"][0]["num_keypoints"] = 0  # as CrowdPose, which counts only visible ones
    del content["annotations"][3]["num_keypoints"]
    assert as_coco(content).num_keypoints.tolist() == [0, 0, 3, 3, 3, 3]


def test_lists_of_detections_and_of_results():
    coco = as_coco(detections())
    assert (coco.images, coco.sizes, coco.categories, coco.keypoints) == (None, None, None, None)
    assert coco.ids.tolist() == [1, 2, 3] and coco.scores.tolist() == [0.9, 0.5, 0.3]
    assert coco.areas.tolist() == [12, 6, 12]
    plain = [{k: v for k, v in entry.items() if k != "category_id"} for entry in detections()]
    assert as_coco(plain).category_ids.tolist() == [1, 1, 1]

    entries = results()[:1]
    coco = as_coco(entries)
    assert coco.boxes is None and coco.areas.tolist() == [18]  # 3 x 6 around the keypoints
    assert coco.keypoints[0].tolist() == [[1, 2, 0.5], [4, 8, 0.25]] and coco.num_keypoints.tolist() == [2]
    coco = as_coco([entries[0] | {"bbox": [0, 0, 5, 7]}])
    assert coco.areas.tolist() == [35] and coco.boxes.tolist() == [[0, 0, 5, 7]]
    assert len(as_coco([])) == 0 and boxes_by_image(as_coco([])) == {}


def test_the_people_to_look_at():
    coco = as_coco(good())
    assert boxes_by_image(coco) == {2: [((10, 20, 30, 40), 1.0)], 1: [((-5, 60, 200, 70), 1.0)]}
    # clipped as ViTPose's data set does: x from 0 to 89, y from 60 to min(60 + 69, 99)
    assert boxes_by_image(coco, clip=True) == {2: [((10, 20, 29, 39), 1.0)], 1: [((0, 60, 89, 39), 1.0)]}
    assert boxes_by_image(coco, categories=[2]) == {}
    box = boxes_by_image(coco)[2][0][0]
    assert all(type(x) is float for x in box)

    coco = as_coco(detections())
    four = [((1, 2, 3, 4), 0.9), ((1, 2, 3, 4), 0.3)]
    assert boxes_by_image(coco) == {4: four, 2: [((1, 2, 3, 2), 0.5)]}
    assert boxes_by_image(coco, 0.5) == {4: four[:1], 2: [((1, 2, 3, 2), 0.5)]}
    assert boxes_by_image(coco, clip=True) == boxes_by_image(coco)  # detections are used as they are
    with pytest.raises(CocoError, match="its entries have no bbox"):
        boxes_by_image(as_coco(results()[:1]))


def test_a_box_wholly_outside_its_picture_is_left_out_when_clipped():
    content = good()
    content["annotations"][3]["bbox"] = [95, 10, 20, 20]
    assert 1 in boxes_by_image(as_coco(content)) and 1 not in boxes_by_image(as_coco(content), clip=True)


def test_results_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    keypoints, scores = rng.random((17, 2), np.float32), rng.random(17, np.float32)
    entry = coco_result(np.int64(3), keypoints, scores, np.float32(0.5))
    assert list(entry) == ["image_id", "category_id", "keypoints", "score"]
    assert entry["image_id"] == 3 and entry["category_id"] == 1 and entry["score"] == 0.5
    coco = read_coco(written(tmp_path, [entry]))
    assert (coco.keypoints[0].astype(np.float32) == np.c_[keypoints, scores]).all()


def test_whole_bodies_are_split_and_joined(tmp_path):
    rng = np.random.default_rng(0)
    keypoints, scores = rng.random((133, 2)), rng.random(133)
    entry = coco_result(1, keypoints, scores, 0.5, category_id=2)
    assert {field: len(entry[field]) // 3 for field in PARTS} == PARTS
    assert entry["lefthand_kpts"][:3] == [*keypoints[91], scores[91]]
    assert (as_coco([entry], wholebody=True).keypoints[0] == np.c_[keypoints, scores]).all()
    assert as_coco([entry]).keypoints.shape == (1, 17, 3)

    content = good()
    for person in content["annotations"]:
        person |= {field: entry[field] for field in PARTS} | {"num_keypoints": 17}
    assert as_coco(content, wholebody=True).num_keypoints.tolist() == [133] * 6  # feet, face and hands count too
    assert as_coco(content).num_keypoints.tolist() == [17] * 6
    del content["annotations"][1]["face_kpts"]
    assert complaint(content, wholebody=True) == SIX + "face_kpts is missing"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not JSON or cut off: Expecting value: line 1 column 1 (char 0)"),
        ('{"images": [', "not JSON or cut off: Expecting value: line 1 column 13"),
        ("[" * 200_000, "not COCO's JSON: "),
        ("[1" + "0" * 10_000 + "]", "not COCO's JSON: "),
        ("3", "expected a COCO annotation file or a list of results, found 3"),
        ("null", "found None"),
        ('"images"', "found 'images'"),
        ("{}", "expected the keys images and annotations, found nothing; images is missing"),
        ('{"images": [], "info": {}}', "found 'images', 'info'; annotations is missing"),
        ('{"images": {}, "annotations": []}', "images: expected a list, found {}"),
        ('{"images": [], "annotations": 7}', "annotations: expected a list, found 7"),
        ("[7]", "entry 0: expected an object {...}, found 7"),
        ('[{"image_id": 1, "score": 1, "bbox": [NaN, 1, 1, 1]}]', "entry 0: bbox: expected 4 numbers"),
        ('[{"image_id": 1, "score": Infinity, "bbox": [0, 1, 1, 1]}]', "entry 0: score: expected a number"),
        ('[{"image_id": 1, "score": 1, "bbox": [0, 1, 1e999, 1]}]', "entry 0: bbox: expected 4 numbers"),
    ],
)
def test_files_that_are_no_coco_files_are_one_line(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(CocoError) as caught:
        read_coco(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and words in line and "\n" not in line


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    for path, words in [(tmp_path / "no.json", "no such file"), (tmp_path, "it is a folder, expected a JSON file")]:
        with pytest.raises(CocoError, match=words):
            read_coco(path)
    (tmp_path / "bytes").write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(CocoError, match="expected UTF-8 text, found other bytes; unpack it if it is compressed"):
        read_coco(tmp_path / "bytes")
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbf[]")  # a byte order mark is harmless
    assert len(read_coco(tmp_path / "mark")) == 0


def test_a_file_without_access_rights_is_one_line(tmp_path):
    path = written(tmp_path, [])
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(CocoError, match="cannot be read: Permission denied"):
        read_coco(path)


LOST = object()


@pytest.mark.parametrize(
    "where, field, value, expected",
    [
        ("images", "id", LOST, "image 1: id is missing"),
        ("images", "id", "2", "image 1: id: expected a whole number, found '2'; leave out the quotes"),
        ("images", "id", 2.0, "image 1: id: expected a whole number, found 2.0"),
        ("images", "id", True, "image 1: id: expected a whole number, found True"),
        ("images", "id", 2**70, f"image 1: id: expected a whole number, found {2**70}"),
        ("images", "id", 1, "image 1: id 1 was image 0's already, expected unique ids"),
        ("images", "file_name", LOST, "image 1 (id 2): file_name is missing"),
        ("images", "file_name", 4, "image 1 (id 2): file_name: expected a text, found 4"),
        ("images", "file_name", "", "image 1 (id 2): file_name: expected a text, found ''"),
        ("images", "width", -4, "image 1 (id 2): width: expected at least 0, found -4"),
        ("images", "height", "9", "image 1 (id 2): height: expected a number, found '9'"),
        ("annotations", "id", LOST, "annotation 1: id is missing"),
        ("annotations", "id", 5, "annotation 1: id 5 was annotation 0's already, expected unique ids"),
        ("annotations", "image_id", LOST, SIX + "image_id is missing"),
        ("annotations", "image_id", None, SIX + "image_id: expected a whole number, found None"),
        ("annotations", "image_id", 3, SIX + "image_id 3 is not known, expected one of images: 1, 2"),
        ("annotations", "category_id", LOST, SIX + "category_id is missing"),
        ("annotations", "category_id", 4, SIX + "category_id 4 is not known, expected one of categories: 1"),
        ("annotations", "bbox", LOST, SIX + "bbox is missing"),
        ("annotations", "bbox", [1, 2, 3], SIX + "bbox: expected 4 numbers but it has 3, found [1, 2, 3]"),
        ("annotations", "bbox", 7, SIX + "bbox: expected 4 numbers, found 7"),
        ("annotations", "bbox", [1, 2, 3, "4"], SIX + "bbox: expected 4 numbers, found [1, 2, 3, '4']"),
        ("annotations", "bbox", [1, 2, 3, None], SIX + "bbox: expected 4 numbers, found [1, 2, 3, None]"),
        ("annotations", "bbox", [1, 2, [3], 4], SIX + "bbox: expected 4 numbers, found [1, 2, [3], 4]"),
        ("annotations", "bbox", [1, 2, -3, 4], SIX + "bbox is x, y, width, height; found the negative size -3 x 4"),
        ("annotations", "area", -1, SIX + "area: expected at least 0, found -1"),
        ("annotations", "area", "50", SIX + "area: expected a number, found '50'"),
        ("annotations", "area", None, SIX + "area: expected a number, found None"),
        ("annotations", "iscrowd", "no", SIX + "iscrowd: expected a number, found 'no'"),
        ("annotations", "num_keypoints", -2, SIX + "num_keypoints: expected at least 0, found -2"),
        ("annotations", "keypoints", LOST, SIX + "keypoints is missing"),
        ("annotations", "keypoints", [1] * 8, SIX + "keypoints: expected 9 numbers but it has 8, found "),
        ("annotations", "keypoints", ["a"] * 9, SIX + "keypoints: expected 9 numbers, found ['a', "),
        ("annotations", "keypoints", {}, SIX + "keypoints: expected 9 numbers, found {}"),
        ("annotations", "keypoints", [[1, 2, 3]] * 3, SIX + "keypoints: expected 9 numbers, found "),
        (
            "annotations",
            "keypoints",
            [1, float("nan"), 2] * 3,
            SIX + "keypoints: expected 9 numbers, not NaN, infinite or ",
        ),
        ("annotations", "bbox", [1e13, 2, 3, 4], SIX + "bbox: expected 4 numbers, not NaN"),
    ],
)
def test_each_malformed_field_is_one_line_that_names_the_entry(where, field, value, expected):
    content = good()
    entry = content[where][1]
    if value is LOST:
        del entry[field]
    else:
        entry[field] = value
    assert complaint(content).startswith(expected)


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"image_id": "7"}, "entry 1: image_id: expected a whole number, found '7'; leave out the quotes"),
        ({"score": LOST}, "entry 1: score is missing"),
        ({"score": "0.5"}, "entry 1: score: expected a number, found '0.5'"),
        ({"bbox": LOST}, "entry 1: bbox is missing"),
        ({"category_id": None}, "entry 1: category_id: expected a whole number, found None"),
        ({"bbox": [1, 2, -1, 1]}, "entry 1: bbox is x, y, width, height; found the negative size -1 x 1"),
    ],
)
def test_each_malformed_detection_is_one_line(change, expected):
    content = detections()
    for field, value in change.items():
        if value is LOST:
            del content[1][field]
        else:
            content[1][field] = value
    assert complaint(content) == expected


def test_results_of_other_lengths_and_without_keypoints():
    assert complaint(results()) == "entry 1: keypoints is missing"
    first = results()[:1]
    assert complaint(first + [first[0] | {"keypoints": [1, 2, 3]}]).startswith(
        "entry 1: keypoints: expected 6 numbers but it has 3"
    )
    for wrong in ([1, 2], [], 5):
        found = complaint([first[0] | {"keypoints": wrong}])
        assert found == f"entry 0: keypoints: expected a list of x, y, v for each keypoint, found {wrong!r}"
    content = good()
    content["categories"][0]["keypoints"] = ["nose", "tail"]
    assert complaint(content).startswith("annotation 0 (id 5): keypoints: expected 6 numbers but it has 9")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_anything_anywhere_is_read_or_is_one_line(data):
    content, entries = world(data.draw(st.integers(0, 5)), num_keypoints=2)
    content = copy.deepcopy(data.draw(st.sampled_from([content, entries, detections(), good()])))
    place = content
    for _ in range(data.draw(st.integers(0, 4))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
            place[key] = data.draw(json_values)
            break
        place = place[key]
    try:
        coco = as_coco(content)
    except CocoError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    n = len(coco)
    assert all(len(x) == n for x in (coco.image_ids, coco.category_ids, coco.scores, coco.areas, coco.crowd))
    arrays = [x for x in (coco.boxes, coco.keypoints, coco.areas, coco.scores) if x is not None]
    assert all(x.dtype == np.float64 and np.isfinite(x).all() for x in arrays)
    assert (coco.areas >= 0).all()
