"""OKS by hand; the removal of poses that are too alike against slow loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivitpose.pose.oks import oks, oks_matrix, oks_nms, rescore, soft_oks_nms
from minivitpose.pose.skeletons import COCO

SIGMAS = np.array(COCO.sigmas)


def test_a_pose_inside_the_doubled_box_of_a_person_without_keypoints_matches_fully():
    box, area = (100.0, 100.0, 50.0, 40.0), 2000.0
    truth, sigmas = np.zeros((2, 3)), np.array([0.05, 0.1])
    inside = [[[50.0, 60.0], [200.0, 180.0]]]
    assert oks(np.array(inside), truth, box, area, sigmas) == [1.0]
    beside = np.array([[[40.0, 60.0], [200.0, 190.0]]])  # each 10 pixels outside
    expected = np.mean([math.exp(-100 / (2 * area * (2 * s) ** 2)) for s in sigmas])
    np.testing.assert_allclose(oks(beside, truth, box, area, sigmas), [expected], rtol=1e-12)


def toy():
    """Two poses on one place and one far off."""
    keypoints = np.array([10.0, 10.0, 100.0])[:, None, None] * np.ones((3, 17, 2))
    return keypoints, np.array([0.9, 0.4, 0.7]), np.full(3, 100.0), SIGMAS


def test_nms_of_the_toy():
    assert oks_nms(*toy()).tolist() == [0, 2]
    assert soft_oks_nms(*toy()).tolist() == [0, 2, 1]
    assert soft_oks_nms(*toy(), most=2).tolist() == [0, 2]


def slow_oks(a, b, area, sigmas):
    total = 0.0
    for (x, y), (u, v), s in zip(a, b, sigmas, strict=True):
        total += math.exp(-((x - u) ** 2 + (y - v) ** 2) / ((2 * s) ** 2 * 2 * (area + 2.0**-52)))
    return total / len(sigmas)


def slow_nms(keypoints, scores, areas, sigmas, threshold):
    """Walk from the highest score down; keep who is not too like anybody kept."""
    keep = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        alike = [slow_oks(keypoints[i], keypoints[j], (areas[i] + areas[j]) / 2, sigmas) for j in keep]
        if all(value <= threshold for value in alike):
            keep.append(i)
    return keep


def slow_soft_nms(keypoints, scores, areas, sigmas, threshold, most):
    """Take the highest score, lower the others, begin again."""
    left, keep = {i: float(s) for i, s in enumerate(scores)}, []
    while left and len(keep) < most:
        best = max(left, key=left.get)
        del left[best]
        keep.append(best)
        for i in left:
            alike = slow_oks(keypoints[i], keypoints[best], (areas[i] + areas[best]) / 2, sigmas)
            left[i] *= math.exp(-alike * alike / threshold)
    return keep


def poses(seed, n, num_keypoints):
    """n poses in clusters, so that some are alike."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 100, (3, num_keypoints, 2))[rng.integers(0, 3, n)]
    keypoints = places + rng.normal(0, 1, (n, num_keypoints, 2)) * rng.choice([0, 0.5, 2, 10], (n, 1, 1))
    scores = np.where(rng.random(n) < 0.3, 0.5, rng.random(n))
    return keypoints, scores, rng.uniform(300, 3000, n), rng.uniform(0.03, 0.1, num_keypoints)


@pytest.mark.parametrize("num_keypoints", [1, 5, 17])
@pytest.mark.parametrize("seed", range(8))
def test_nms_is_the_slow_loop(seed, num_keypoints):
    threshold = (0.3, 0.6, 0.9)[seed % 3]
    given = poses(seed, 30, num_keypoints)
    before = [x.copy() for x in given]
    keep, order = oks_nms(*given, threshold), soft_oks_nms(*given, threshold, most=12)
    assert all((x == y).all() for x, y in zip(given, before, strict=True))
    assert keep.dtype == order.dtype == np.intp
    assert keep.tolist() == slow_nms(*given, threshold)
    assert order.tolist() == slow_soft_nms(*given, threshold, 12)
    assert len(keep) < 30


def test_a_pose_exactly_at_the_threshold_stays():
    """All of two keypoints agree, or one of two does: OKS 1 and 0.5, exactly."""
    keypoints = np.array([[[0.0, 0], [0, 0]], [[0, 0], [1e6, 1e6]]])
    assert oks_nms(keypoints, [0.9, 0.8], [1.0, 1.0], [0.1, 0.1], 0.5).tolist() == [0, 1]
    assert oks_nms(keypoints, [0.9, 0.8], [1.0, 1.0], [0.1, 0.1], 0.49).tolist() == [0]


def test_rescoring():
    scores = [[0.2, 0.9, 0.5], [0.1, 0.2, 0.0], [1.0, 0.3, 0.2]]
    np.testing.assert_allclose(rescore(scores, [0.5, 1, 1]), [0.35, 0, 0.65], rtol=1e-12)
    assert rescore(np.float32([0.9, 0.1]), 1.0) == pytest.approx(0.9)


finite = st.floats(-1e6, 1e6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nms_keeps_each_place_and_does_not_depend_on_where_the_picture_begins(data):
    n, k = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 4))

    def draw(one, *shape):
        return np.array(data.draw(st.lists(one, min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)

    whole = st.integers(-50, 50).map(float)
    keypoints, scores = draw(whole, n, k, 2), draw(st.floats(0, 1), n)
    areas, sigmas = draw(st.sampled_from([0.0, 1.0, 500.0]), n), draw(st.floats(0.01, 1), k)
    keep = oks_nms(keypoints, scores, areas, sigmas)
    assert (oks_nms(keypoints + 64, scores, areas, sigmas) == keep).all()
    assert len(set(keep)) == len(keep) and (np.diff(scores[keep]) <= 0).all()
    assert keep.tolist() == slow_nms(keypoints, scores, areas, sigmas, 0.9)
    assert sorted(soft_oks_nms(keypoints, scores, areas, sigmas)) == list(range(n))


@pytest.mark.parametrize("nms", [oks_nms, soft_oks_nms])
@pytest.mark.parametrize(
    "place, value, words",
    [
        (0, np.nan, "keypoints: expected finite numbers, found NaN or infinity"),
        (1, np.inf, "scores: expected finite numbers"),
        (2, np.nan, "areas: expected finite numbers"),
        (2, -1.0, "expected areas of at least 0"),
        (3, 0.0, "sigmas above 0"),
        (3, np.nan, "sigmas above 0"),
    ],
)
def test_poses_that_cannot_be_compared_are_one_line(nms, place, value, words):
    given = [x.copy() for x in toy()]
    given[place].flat[1] = value
    with pytest.raises(ValueError, match=words) as caught:
        nms(*given)
    assert "\n" not in str(caught.value)


def test_nobody_and_wrong_shapes():
    assert oks_nms([], [], [], SIGMAS).tolist() == soft_oks_nms([], [], [], SIGMAS).tolist() == []
    with pytest.raises(ValueError, match=r"keypoints: expected the shape \(3, 17, 2\) for 3 poses, found \(3, 16, 2\)"):
        oks_nms(toy()[0][:, 1:], *toy()[1:])
    assert oks_matrix(np.zeros((2, 3, 2)), [], [], [], np.ones(3)).shape == (2, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(finite, finite, st.sampled_from([0, 1, 2])), min_size=1, max_size=5), st.floats(0, 1e6))
def test_oks_is_one_for_the_same_points_and_never_outside_0_to_1(points, area):
    truth = np.array(points)
    sigmas = np.full(len(truth), 0.05)
    box = (*truth[:, :2].min(axis=0), *np.ptp(truth[:, :2], axis=0))
    assert oks(truth[None, :, :2], truth, box, area, sigmas) == pytest.approx(1)
    moved = oks(truth[None, :, :2] + 3, truth, box, area, sigmas)
    assert moved.shape == (1,) and 0 <= moved[0] <= 1
