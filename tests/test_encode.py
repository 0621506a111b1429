"""Target heatmaps: against the rule written as loops, and there and back through the decoder."""

import math

import numpy as np
import pytest

from minivitpose.pose.decode import decode
from minivitpose.pose.encode import encode

RNG = np.random.default_rng(0)


def slow(point, weight, mode, sigma=2, size=(256, 192), shape=(64, 48)):
    """One target cell by cell: the nearest cell, the square around it, the Gaussian in it."""
    (H, W), (h, w) = size, shape
    stride = ((W - 1) / (w - 1), (H - 1) / (h - 1)) if mode == "udp" else (W / w, H / h)
    exact = [p / s for p, s in zip(point, stride, strict=True)]
    near = [int(e + 0.5) for e in exact]  # int() cuts off towards 0, as official code does
    reach = 3 * sigma
    target = np.zeros(shape, np.float32)
    for m, n in zip(near, (w, h), strict=True):
        if m - reach >= n or m + reach + 1 < 0:
            return target, 0.0
    x0, y0 = exact if mode == "udp" else near
    for y in range(max(0, near[1] - reach), min(h, near[1] + reach + 1)):
        for x in range(max(0, near[0] - reach), min(w, near[0] + reach + 1)):
            if weight > 0.5:
                target[y, x] = math.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    return target, weight


@pytest.mark.parametrize("mode", ["udp", "plain"])
@pytest.mark.parametrize("sigma", [2, 3])
def test_against_the_rule_cell_by_cell(mode, sigma):
    """In the crop, at its border, beyond it, and so far beyond that the weight goes."""
    points = RNG.uniform((-60, -60), (250, 320), (300, 2))
    points[:6] = (0, 0), (191, 255), (-3.9, -2.1), (-26, 100), (-30.1, 100), (214, 284)
    weights = RNG.choice([0, 0.3, 0.8, 1], 300)
    targets, out = encode(points, weights, sigma=sigma, mode=mode)
    assert targets.shape == (300, 64, 48) and targets.dtype == np.float32
    assert out.shape == (300,) and out.dtype == np.float32
    expected = [slow(p, w, mode, sigma) for p, w in zip(points, weights, strict=True)]
    assert np.array_equal(out, np.float32([w for _, w in expected]))
    assert np.abs(targets - [t for t, _ in expected]).max() < 2e-7
    assert 0 < (out == 0).sum() - (weights == 0).sum() < 200


def test_the_peak_by_hand():
    targets, weights = encode([(95.5, 127.5), (40, 80)], [1, 1])
    x = 95.5 * 47 / 191  # 23.5 cells: between two
    assert math.isclose(targets[0, 31, 23], math.exp(-((x - 23) ** 2 + 0.25) / 8), rel_tol=1e-6)
    plain, _ = encode([(40, 80), (42, 80), (41.9, 80)], [1, 1, 1], mode="plain")
    assert [np.unravel_index(t.argmax(), t.shape) for t in plain] == [(20, 10), (20, 11), (20, 10)]
    assert plain[0, 20, 10] == 1 and plain[0, 20, 16] > 0 and plain[0, 20, 17] == 0


@pytest.mark.parametrize(("decoder", "error"), [("udp", 1e-4), ("mmpose", 1e-4), ("hf", 1e-4), ("argmax", 0.5001)])
def test_udp_there_and_back(decoder, error):
    """More than a blur's reach from the border a point comes back within a ten-thousandth of a cell."""
    points = RNG.uniform((27, 27), (164, 228), (500, 2))
    targets, _ = encode(points, np.ones(500))
    back, scores = decode(targets, (95.5, 127.5), (191, 255), decoder)
    assert np.abs((back - points) / (191 / 47, 255 / 63)).max() < error and scores.min() > 0.9


def test_udp_there_and_back_near_the_border():
    """The blur mirrors the map there, which moves the top of the parabola: by a cell and a half, but not by two."""
    points = RNG.uniform((0, 0), (191, 255), (2000, 2))
    targets, _ = encode(points, np.ones(2000))
    off = np.abs((decode(targets, (95.5, 127.5), (191, 255))[0] - points) / (191 / 47, 255 / 63))
    assert 1 < off.max() < 2


def test_plain_there_and_back_loses_what_the_rounding_took():
    """The target is the same on both sides, so no quarter step is taken: half a cell is lost at most, and is lost."""
    points = RNG.uniform((30, 30), (160, 220), (500, 2))
    targets, _ = encode(points, np.ones(500), mode="plain")
    back, _ = decode(targets, (96, 128), (192, 256), "plain")
    off = np.abs(back - points) / 4
    assert 0.45 < off.max() <= 0.5 + 1e-5


def test_other_sizes():
    targets, weights = encode([(10, 20.0)], [1], size=(64, 48), heatmap_size=(16, 12))
    assert targets.shape == (1, 16, 12) and weights.tolist() == [1]
    assert np.unravel_index(targets[0].argmax(), (16, 12)) == (round(20 * 15 / 63), round(10 * 11 / 47))
    nobody, weights = encode(np.zeros((0, 2)), [])
    assert nobody.shape == (0, 64, 48) and weights.shape == (0,)
    dot, _ = encode([(0, 0)], [1], heatmap_size=(1, 1))
    assert dot.tolist() == [[[1]]]


def test_an_unknown_joint_may_have_any_coordinates():
    targets, weights = encode([(np.nan, np.inf), (1e300, -1e300), (50, 60)], [0, 1, 1])
    assert weights.tolist() == [0, 0, 1] and targets[:2].max() == 0 and targets[2].max() > 0.9


@pytest.mark.parametrize(
    ("keypoints", "weights", "says"),
    [
        ([(1, 2), (np.nan, 3)], [1, 1], "keypoint 1 or its weight is NaN"),
        ([(1, 2)], [np.nan], "keypoint 0 or its weight is NaN"),
        ([(1, 2, 3)], [1], r"found \(1, 3\) and \(1,\)"),
        ([(1, 2)], [[1]], r"found \(1, 2\) and \(1, 1\)"),
        ([(1, 2)], [1, 1], r"found \(1, 2\) and \(2,\)"),
    ],
)
def test_bad_arguments(keypoints, weights, says):
    with pytest.raises(ValueError, match=says) as caught:
        encode(keypoints, weights)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="expected one of udp, plain, found 'hf'"):
        encode([(1, 2)], [1], mode="hf")
