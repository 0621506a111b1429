"""PCK, PCKh, AUC and EPE by hand, against slow loops, and with broken numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivitpose.pose.pck import auc, distances, epe, pck, pckh


def toy_of_pck(third=(-1, 0), sizes=10.0):
    """Two people with five keypoints, the third not labelled; as in ViTPose's tests/test_evaluation."""
    keypoints, truth = np.zeros((2, 2, 5, 2))
    keypoints[0] = [[10, 0], [20, 20], [0, 0], [30, 30], [0, 10]]
    truth[0] = [[10, 0], [10, 10], third, [30, 30], [0, 10]]
    return keypoints, truth, np.array([[True, True, False, True, True]] * 2), np.full((2, 2), sizes)


def toy_of_auc():
    keypoints = np.array([[[10.0, 4], [10, 18], [0, 0], [40, 40], [20, 10]]])
    truth = np.array([[[10.0, 0], [10, 10], [0, -1], [30, 30], [0, 10]]])
    return keypoints, truth, np.array([[True, True, False, True, True]])


def test_pck_of_the_toy():
    each, mean = pck(*toy_of_pck(), threshold=0.5)
    np.testing.assert_array_equal(each, [1, 0.5, np.nan, 1, 1])
    assert mean == 0.875
    each, mean = pck(*toy_of_pck(sizes=0.0), threshold=0.5)
    assert np.isnan(each).all() and math.isnan(mean)
    keypoints, truth, labelled, sizes = toy_of_pck()
    each, mean = pck(keypoints, truth, labelled, [0.0, 10.0], 0.5)  # the first person has no size
    np.testing.assert_array_equal(each, [1, 1, np.nan, 1, 1])
    assert mean == 1


def test_auc_and_epe_of_the_toys():
    assert auc(*toy_of_auc(), [20.0], steps=4) == pytest.approx(0.375)
    assert epe(*toy_of_auc()) == pytest.approx(11.5355339)


def test_pck_at_the_threshold_is_wrong_and_pckh_is_right():
    keypoints, truth = np.zeros((2, 1, 16, 2))
    keypoints[0, :, 0] = 3.0
    labelled = np.ones((1, 16), bool)
    assert pck(keypoints, truth, labelled, [6.0], 0.5)[1] == 0
    assert pck(keypoints, truth, labelled, [6.0], 0.500001)[1] == 1
    heads = np.array([[50.0, 50, 6, 8]])  # diagonal 10, head size 6
    each, groups, mean = pckh(keypoints, truth, labelled, heads)
    assert each.tolist() == [1.0] * 16 and set(groups.values()) == {1.0} and mean == 1
    assert pckh(keypoints, truth, labelled, heads, 0.499999)[2] == 0


def test_pck_takes_sizes_for_x_and_y_apart():
    keypoints, truth = np.zeros((2, 1, 1, 2))
    keypoints[0, 0] = [3.0, 4.0]
    np.testing.assert_allclose(distances(keypoints, truth, [[True]], [[1.0, 2.0]]), [[math.sqrt(9 + 4)]])
    np.testing.assert_allclose(distances(keypoints, truth, [[True]], [2.0]), [[2.5]])


def slow_pckh(keypoints, truth, labelled, heads):
    right, count = [0] * 16, [0] * 16
    for i in range(len(keypoints)):
        size = 0.6 * math.sqrt(heads[i][2] ** 2 + heads[i][3] ** 2)
        for k in range(16):
            if labelled[i][k]:
                count[k] += 1
                right[k] += math.dist(keypoints[i][k], truth[i][k]) / size <= 0.5
    each = [100 * r / c for r, c in zip(right, count, strict=True)]
    used = [k for k in range(16) if k not in (6, 7)]
    mean = sum(each[k] * count[k] for k in used) / sum(count[k] for k in used)
    return each, mean


def test_pckh_is_the_slow_loop():
    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 200, (40, 16, 2))
    keypoints = truth + rng.normal(0, 1, truth.shape) * rng.uniform(1, 12, (1, 16, 1))
    labelled, heads = rng.random((40, 16)) < 0.8, rng.uniform(5, 30, (40, 4))
    each, groups, mean = pckh(keypoints, truth, labelled, heads)
    slow_each, slow_mean = slow_pckh(keypoints, truth, labelled, heads)
    np.testing.assert_allclose(100 * each, slow_each, rtol=1e-12)
    assert 100 * mean == pytest.approx(slow_mean, rel=1e-12)
    pairs = {"head": (9, 9), "shoulder": (13, 12), "elbow": (14, 11), "wrist": (15, 10)}
    pairs |= {"hip": (3, 2), "knee": (4, 1), "ankle": (5, 0)}
    assert groups == pytest.approx({name: (each[a] + each[b]) / 2 for name, (a, b) in pairs.items()})
    assert 0.2 < mean < 0.95
    labelled[:, 12] = False
    each, groups, _ = pckh(keypoints, truth, labelled, heads)
    assert groups["shoulder"] == each[13]  # of the side that is labelled
    with pytest.raises(ValueError, match="expected x, y, width, height, shape .40, 4., found .40, 2, 2.; MPII's own"):
        pckh(keypoints, truth, labelled, heads.reshape(40, 2, 2))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_pck_is_a_share_and_grows_with_the_threshold(n, k, seed):
    rng = np.random.default_rng(seed)
    truth, keypoints = rng.uniform(0, 9, (2, n, k, 2))
    labelled, sizes = rng.random((n, k)) < 0.6, rng.choice([0.0, 1.0, 5.0], n)
    values = [pck(keypoints, truth, labelled, sizes, t)[1] for t in (0, 0.5, 2, 100)]
    counts = labelled[sizes > 0].any()
    assert np.isnan(values).all() if not counts else (np.diff(values) >= 0).all() and values[-1] == 1
    assert math.isnan(auc(keypoints, truth, labelled, sizes)) != counts


@pytest.mark.parametrize(
    "place, value, words",
    [
        (0, np.nan, "a labelled keypoint is NaN or infinite"),
        (1, np.inf, "a labelled keypoint is NaN or infinite"),
        (3, np.nan, "sizes: expected finite numbers of at least 0"),
        (3, -1.0, "sizes: expected finite numbers of at least 0"),
    ],
)
def test_pck_of_broken_numbers_is_one_line(place, value, words):
    given = list(toy_of_pck())
    given[place].flat[0] = value
    with pytest.raises(ValueError, match=words):
        pck(*given)


def test_pck_does_not_look_at_what_is_not_labelled_and_tells_wrong_shapes():
    each, mean = pck(*toy_of_pck(third=(np.nan, np.inf)), threshold=0.5)
    assert mean == 0.875 and np.isnan(each[2])
    keypoints, truth, labelled, sizes = toy_of_pck()
    with pytest.raises(
        ValueError, match=r"expected keypoints and truth \(N, K, 2\), found \(2, 5, 2\) and \(2, 4, 2\)"
    ):
        pck(keypoints, truth[:, 1:], labelled, sizes)
    with pytest.raises(ValueError, match=r"expected labelled \(2, 5\)"):
        pck(keypoints, truth, labelled[0], sizes)
    with pytest.raises(ValueError, match="16 keypoints, found 5"):
        pckh(keypoints, truth, labelled, np.ones((2, 4)))
