"""AP and AR against pycocotools, against numbers written down, and in small worlds made by hand."""

import contextlib
import copy
import io

import numpy as np
import pytest

from coco_worlds import world
from minivitpose.pose.coco_json import CocoError, as_coco
from minivitpose.pose.estimate import Pose
from minivitpose.pose.evaluate import NUMBERS, THRESHOLDS, evaluate, match, picture_results
from minivitpose.pose.oks import oks_matrix
from minivitpose.pose.skeletons import COCO

SIGMAS = np.array(COCO.sigmas)


def ten_numbers(content, results, sigmas=SIGMAS, **options):
    numbers = evaluate(as_coco(content), as_coco(results), sigmas, **options)
    assert list(numbers) == list(NUMBERS)
    return np.array(list(numbers.values()))


def pycocotools_numbers(content, results, sigmas=SIGMAS, image_ids=None):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        judge = cocoeval.COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        judge.params.kpt_oks_sigmas = np.asarray(sigmas)
        judge.params.imgIds = judge.params.imgIds if image_ids is None else image_ids
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_the_ten_numbers_are_those_of_pycocotools(start):
    seen = []
    for seed in range(start, start + 20):
        content, results = world(seed, categories=1 + (seed % 5 == 0))
        if results:
            numbers = ten_numbers(content, results)
            np.testing.assert_allclose(numbers, pycocotools_numbers(content, results), rtol=0, atol=1e-9, err_msg=seed)
            seen.append(numbers)
    assert ((np.array(seen) > 0) & (np.array(seen) < 1)).mean() > 0.3  # the worlds are neither hopeless nor perfect


@pytest.mark.parametrize("num_keypoints", [1, 14, 16, 133])
def test_other_numbers_of_keypoints_give_the_numbers_of_pycocotools(num_keypoints):
    for seed in range(300, 312):
        content, results = world(seed, num_keypoints)
        sigmas = np.random.default_rng(seed).uniform(0.01, 0.15, num_keypoints)
        if results:
            numbers = ten_numbers(content, results, sigmas)
            np.testing.assert_allclose(numbers, pycocotools_numbers(content, results, sigmas), rtol=0, atol=1e-9)


def test_pictures_may_be_named_by_an_array():
    content, perfect = simple_world()
    truth, found = as_coco(content), as_coco([perfect])
    ids = np.array(list(truth.images))
    assert evaluate(truth, found, SIGMAS, image_ids=ids) == evaluate(truth, found, SIGMAS)


def test_some_of_the_pictures_give_the_numbers_of_pycocotools():
    content, results = world(9)
    ids = sorted(image["id"] for image in content["images"])[::2]
    numbers = ten_numbers(content, results, image_ids=ids)
    np.testing.assert_allclose(numbers, pycocotools_numbers(content, results, image_ids=ids), rtol=0, atol=1e-9)
    assert not np.allclose(numbers, ten_numbers(content, results), atol=1e-6)


def test_oks_are_the_bits_of_pycocotools():
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    compared = 0
    for seed in range(400, 420):
        content, results = world(seed)
        truth, found = as_coco(content), as_coco(results)
        with contextlib.redirect_stdout(io.StringIO()):
            judge = coco.COCO()
            judge.dataset = copy.deepcopy(content)
            judge.createIndex()
            judge = cocoeval.COCOeval(judge, judge.loadRes(copy.deepcopy(results)), "keypoints")
            judge._prepare()
        for image in truth.images:
            expected = judge.computeOks(image, 1)
            people, poses = np.flatnonzero(truth.image_ids == image), np.flatnonzero(found.image_ids == image)
            poses = poses[np.argsort(-found.scores[poses], kind="stable")][:20]
            people = truth.keypoints[people], truth.boxes[people], truth.areas[people]
            values = oks_matrix(found.keypoints[poses, :, :2], *people, judge.params.kpt_oks_sigmas)
            assert len(expected) == 0 or (values == expected).all()
            compared += values.size
    assert compared > 500


def test_without_areas_053_of_the_box_is_taken():
    content, results = world(9)
    boxed = copy.deepcopy(content)
    for entry in boxed["annotations"]:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3] * 0.53
    numbers = ten_numbers(content, results, use_area=False)
    np.testing.assert_allclose(numbers, pycocotools_numbers(boxed, results), rtol=0, atol=1e-9)
    assert not np.allclose(numbers, ten_numbers(content, results), atol=1e-3)
    for entry in boxed["annotations"]:
        del entry["area"]
    assert (ten_numbers(boxed, results) == numbers).all()


def test_the_mean_over_97_worlds_is_written_down():
    """The numbers of pycocotools 2.0.11, for where it is not installed."""
    worlds = [world(seed, categories=1 + (seed % 5 == 0)) for seed in range(100)]
    numbers = [ten_numbers(*each) for each in worlds if each[1]]
    assert len(numbers) == 97
    ap = [0.135120970229, 0.216437772642, 0.132901670117, 0.061293482041, -0.126188029985]
    ar = [0.351229594390, 0.449653467111, 0.356928099863, 0.177016445754, 0.063018811086]
    np.testing.assert_allclose(np.mean(numbers, axis=0), ap + ar, rtol=0, atol=1e-9)


def simple_world(**changes):
    """One picture, one person of 40 x 50 with two labelled keypoints. -> (content, a perfect result)."""
    points = [10.0, 20.0, 2.0, 30.0, 40.0, 1.0] + [0.0] * 45
    entry = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [5, 15, 40, 50], "area": 1500.0, "num_keypoints": 2}
    entry |= {"keypoints": points, "iscrowd": 0} | changes
    content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [entry]}
    content["categories"] = [{"id": 1, "name": "person"}]
    return content, {"image_id": 7, "category_id": 1, "keypoints": list(points), "score": 0.5}


def test_a_perfect_result_scores_one_in_its_range_of_areas():
    content, perfect = simple_world()
    expected = {name: -1.0 if name in ("APl", "ARl") else 1.0 for name in NUMBERS}
    assert evaluate(as_coco(content), as_coco([perfect]), SIGMAS) == pytest.approx(expected)


def test_the_annotation_number_0_can_be_found():
    """pycocotools takes the id 0 for nobody; here it is a person as any other."""
    content, perfect = simple_world(id=0)
    assert evaluate(as_coco(content), as_coco([perfect]), SIGMAS)["AP"] == pytest.approx(1)


def test_no_results_score_zero_and_no_people_minus_one():
    content, perfect = simple_world()
    assert set(ten_numbers(content, [])) == {0.0, -1.0}
    assert set(ten_numbers(content | {"annotations": []}, [perfect])) == {-1.0}
    assert set(ten_numbers({"images": [], "annotations": []}, [])) == {-1.0}


@pytest.mark.parametrize("changes", [{"iscrowd": 1}, {"num_keypoints": 0}])
def test_who_need_not_be_found_harms_nobody(changes):
    """Two poses on the place: on a crowd both are ignored, of one person without keypoints only the first."""
    content, perfect = simple_world()
    other = simple_world(id=2, keypoints=[500.0, 300.0, 2.0] * 17, **changes)[0]["annotations"][0]
    content["annotations"].append(other)
    there = dict(perfect, keypoints=other["keypoints"], score=0.9)
    assert evaluate(as_coco(content), as_coco([there, perfect]), SIGMAS)["AP50"] == pytest.approx(1)
    crowd = "iscrowd" in changes
    twice = evaluate(as_coco(content), as_coco([there, there, perfect]), SIGMAS)["AP50"]
    assert twice == pytest.approx(1 if crowd else 0.5)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t, r: (r, r), "expected annotations, found a plain list"),
        (lambda t, r: (t, t), "expected a list of results, found a file of annotations"),
        (lambda t, r: (t, [r[0] | {"image_id": 8}]), "entry 0: image_id 8 is not in"),
        (lambda t, r: (t, [r[0] | {"category_id": 4}]), "entry 0: category_id 4 is not in"),
        (lambda t, r: (t, [r[0] | {"keypoints": [1, 2, 3]}]), "1 keypoints a person, expected 17; check --dataset"),
        (lambda t, r: (t, [{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 1}]), "keypoints is missing, expected 17"),
    ],
)
def test_files_that_do_not_go_together_are_named_in_one_line(change, words):
    content, perfect = simple_world()
    with pytest.raises(CocoError, match=words) as caught:
        evaluate(*map(as_coco, change(content, [perfect])), SIGMAS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"image_ids": ["7"]}, "image_ids: .* has no picture '7'"),
        ({"sigmas": None}, "sigmas: expected one number above 0 for each keypoint"),
        ({"sigmas": [0.0] * 17}, "sigmas: expected one number above 0 for each keypoint"),
        ({"sigmas": [np.nan] * 17}, "sigmas: expected one number above 0 for each keypoint"),
        ({"truth": "truth.json"}, "expected what read_coco gives, found str"),
    ],
)
def test_arguments_that_give_no_numbers_are_named(options, words):
    content, perfect = simple_world()
    given = {"truth": as_coco(content), "results": as_coco([perfect]), "sigmas": SIGMAS} | options
    with pytest.raises(CocoError, match=words):
        evaluate(**given)


# Who finds whom, by hand


def found_by(alike, aside=None, crowd=None):
    """Of each pose: the number of thresholds at which it found somebody, and at which it is ignored."""
    alike = np.array(alike, np.float64)
    aside = np.zeros(alike.shape[1], bool) if aside is None else np.array(aside, bool)
    crowd = np.zeros(alike.shape[1], bool) if crowd is None else np.array(crowd, bool)
    found, ignored = match(alike, aside[None], crowd)
    assert found.shape == ignored.shape == (1, len(THRESHOLDS), len(alike)) and found.dtype == bool
    return found[0].sum(axis=0).tolist(), ignored[0].sum(axis=0).tolist()


def test_the_most_alike_is_taken_and_of_equals_the_last():
    assert found_by([[0.9, 0.6], [0.9, 0.0]]) == ([9, 0], [0, 0])
    assert found_by([[0.9, 0.6], [0.0, 0.6]]) == ([9, 3], [0, 0])
    assert found_by([[0.9, 0.9], [0.9, 0.0]]) == ([9, 9], [0, 0])
    assert found_by([[0.9, 0.9], [0.0, 0.9]]) == ([9, 0], [0, 0])


def test_who_counts_is_taken_before_who_does_not_though_less_alike():
    assert found_by([[1.0, 0.6]], aside=[True, False]) == ([10], [7])  # below 0.65 the second, ignored from there on
    assert found_by([[1.0, 0.6]] * 2, aside=[True, False]) == ([10, 3], [7, 3])
    assert found_by([[1.0, 0.6]] * 2, aside=[True, False], crowd=[True, False]) == ([10, 10], [7, 10])


def test_an_oks_at_the_threshold_is_a_match():
    assert found_by([[0.5]]) == ([1], [0])
    assert found_by([[np.nextafter(0.5, 0)]]) == ([0], [0])
    assert found_by([[THRESHOLDS[-1]]]) == ([10], [0])
    assert found_by(np.zeros((2, 0))) == ([0, 0], [0, 0])


# From poses to results


def pose_at(x, score=0.5, box=(0.0, 0, 30, 40)):
    keypoints = np.zeros((17, 2), np.float32)
    keypoints[:, 0] = x
    return Pose(keypoints, np.full(17, score, np.float32), box)


def test_the_area_of_a_pose_in_the_nms_is_that_of_its_crop():
    """A box of 30 x 40 has a crop of 37.5 x 50; so OKS reaches 0.9 for poses 1.88 apart, by the box's area 1.5."""
    area = 37.5 * 50
    limit = next(x for x in np.arange(0, 9, 0.01) if np.exp(-(x**2) / (2 * area * (2 * SIGMAS) ** 2)).mean() <= 0.9)
    for apart, kept in ((limit - 0.03, 1), (limit + 0.03, 2)):
        results = picture_results(5, [pose_at(0), pose_at(apart, 0.9)], [1, 1], [1, 1], SIGMAS, (256, 192))
        assert len(results) == kept and results[0]["score"] == pytest.approx(0.9)
    assert len(picture_results(5, [pose_at(0), pose_at(0)], [1, 1], [1, 1], SIGMAS, nms=False)) == 2


def test_each_category_has_its_own_poses():
    poses = [pose_at(0), pose_at(0, 0.4), pose_at(0, 0.6)]
    results = picture_results(5, poses, [1, 1, 0.5], [2, 1, 2], SIGMAS)
    assert [(r["image_id"], r["category_id"], r["score"]) for r in results] == [
        (5, 1, pytest.approx(0.4)),
        (5, 2, pytest.approx(0.5)),
    ]
    assert picture_results(5, [], [], [], SIGMAS) == []


def test_a_score_that_is_not_finite_is_one_line():
    with pytest.raises(CocoError, match="image 5: a pose has the score inf; check the weights"):
        picture_results(5, [pose_at(0, np.inf)], [1], [1], SIGMAS)
