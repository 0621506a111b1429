"""From heatmaps to keypoints, by their highest cell."""

import numpy as np
import pytest

from minivitpose.pose.decode import cells_to_crop, decode_argmax


def test_planted_peaks_are_found():
    rng = np.random.default_rng(0)
    heatmaps = rng.uniform(0, 0.5, (2, 17, 64, 48)).astype(np.float32)
    xy = np.stack([rng.integers(0, 48, (2, 17)), rng.integers(0, 64, (2, 17))], axis=-1)
    peaks = rng.uniform(0.6, 1, (2, 17)).astype(np.float32)
    for b in range(2):
        for k in range(17):
            heatmaps[b, k, xy[b, k, 1], xy[b, k, 0]] = peaks[b, k]
    keypoints, scores = decode_argmax(heatmaps)
    assert keypoints.shape == (2, 17, 2) and keypoints.dtype == np.float32
    assert scores.shape == (2, 17) and scores.dtype == np.float32
    assert np.array_equal(keypoints, xy) and np.array_equal(scores, peaks)
    one, score = decode_argmax(heatmaps[1])
    assert np.array_equal(one, keypoints[1]) and np.array_equal(score, scores[1])


def test_among_equals_the_first_in_reading_order():
    heatmap = np.zeros((1, 4, 5))
    heatmap[0, 1, 3] = heatmap[0, 2, 0] = heatmap[0, 1, 4] = 1
    keypoints, scores = decode_argmax(heatmap)
    assert keypoints.tolist() == [[3, 1]] and scores.tolist() == [1] and scores.dtype == np.float64
    assert decode_argmax(np.full((1, 4, 5), -2.0))[0].tolist() == [[0, 0]]


def test_a_map_in_any_memory_order():
    heatmaps = np.random.default_rng(1).normal(size=(3, 8, 6))
    turned = heatmaps.transpose(0, 2, 1).copy().transpose(0, 2, 1)
    assert np.array_equal(decode_argmax(turned)[0], decode_argmax(heatmaps)[0])


def test_nan_is_refused_wherever_it_stands():
    for y, x in ((0, 0), (2, 3), (7, 5)):
        heatmaps = np.ones((2, 3, 8, 6), np.float32)
        heatmaps[1, 2, y, x] = np.nan
        with pytest.raises(ValueError, match="keypoint 2 of image 1") as caught:
            decode_argmax(heatmaps)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="NaN in 1 of 3 maps, first in that of keypoint 2;"):
            decode_argmax(heatmaps[1])


@pytest.mark.parametrize("shape", [(64, 48), (17, 0, 48), (17, 64, 0), ()])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r"expected \(K, Hm, Wm\)"):
        decode_argmax(np.zeros(shape))


def test_corner_cells_are_corner_pixels():
    sizes = (64, 48), (256, 192)
    assert np.array_equal(cells_to_crop([(0, 0), (47, 63)], *sizes), [(0, 0), (191, 255)])
    middle = cells_to_crop(np.float32([(23.5, 31.5)]), *sizes)
    assert middle.dtype == np.float64 and np.allclose(middle, [(95.5, 127.5)], atol=1e-12)
