"""From heatmaps to keypoints: by their highest cell, and between the cells against the formulas written out."""

import numpy as np
import pytest

from minivitpose.pose.decode import BLURS, MODES, blur_matrix, cells_to_crop, decode, decode_argmax


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


# -------------------------------------------------------------------------------------------- between the cells


def bells(xy, height=64, width=48, sigma=2.0, top=1.0):
    """A Gaussian around each point (..., 2) x, y in cells -> (..., height, width) float32."""
    xy = np.asarray(xy, np.float64)[..., None, None]
    y, x = np.mgrid[:height, :width]
    return (top * np.exp(-((x - xy[..., 0, :, :]) ** 2 + (y - xy[..., 1, :, :]) ** 2) / (2 * sigma**2))).astype("f4")


def in_cells(heatmaps, mode):
    """Decoded with a crop for which picture pixels are cells."""
    height, width = heatmaps.shape[-2:]
    span = np.array((width, height), float) if mode == "plain" else np.array((width - 1.0, height - 1.0))
    return decode(heatmaps, span / 2, span, mode)


def blurred(heatmap, sigma, border):
    """The definition: every cell the weighted sum of its 121 neighbours, the map continued by NumPy's own rules."""
    padded = np.pad(heatmap.astype(float), 5, mode=border)
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * sigma**2))
    taps = np.outer(taps, taps) / taps.sum() ** 2
    height, width = heatmap.shape
    return np.array([[(padded[i : i + 11, j : j + 11] * taps).sum() for j in range(width)] for i in range(height)])


def newton(heatmap, mode):
    """One keypoint by the formulas, with a matrix inverse; (x, y) in cells."""
    sigma, border = {"udp": (2, "reflect"), "hf": (0.8, "symmetric"), "mmpose": (2, "constant")}[mode]
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    smooth = blurred(heatmap, sigma, border)
    if mode == "mmpose":
        smooth *= heatmap.max() / smooth.max()
    L = np.pad(np.log(np.clip(smooth, 0.001, 50)), 1, mode="edge")[y : y + 3, x : x + 3]
    xx, yy = L[1, 2] - 2 * L[1, 1] + L[1, 0], L[2, 1] - 2 * L[1, 1] + L[0, 1]
    xy = (L[2, 2] - L[1, 2] - L[2, 1] + 2 * L[1, 1] - L[1, 0] - L[0, 1] + L[0, 0]) / 2
    gradient = (L[1, 2] - L[1, 0]) / 2, (L[2, 1] - L[0, 1]) / 2
    return (x, y) - np.linalg.inv(np.array([[xx, xy], [xy, yy]]) + np.eye(2) * 2.0**-23) @ gradient


@pytest.mark.parametrize("mode", ["udp", "mmpose", "hf"])
def test_the_newton_step_of_every_blur_everywhere_on_the_map(mode):
    """Peaks inside, on every border and in every corner, a second one beside, and noise that is clipped at 0.001."""
    rng = np.random.default_rng(2)
    xy = rng.uniform((-1, -1), (24, 18), (40, 2))
    xy[:4] = (0, 0), (23, 17), (0, 17), (11.4, 0)
    heatmaps = bells(xy, 18, 24) + bells(rng.uniform((0, 0), (23, 17), (40, 2)), 18, 24, top=0.4)
    heatmaps += 0.02 * rng.standard_normal(heatmaps.shape).astype(np.float32)
    expected = np.array([newton(h, mode) for h in heatmaps])
    kept = (np.abs(expected) < 60).all(axis=1) & (heatmaps.max(axis=(1, 2)) > 0.1)
    cells = decode_argmax(heatmaps)[0]
    kept &= (np.abs(expected - cells) < (24, 18)).all(axis=1)  # a longer step is not taken: a test of its own
    got, scores = in_cells(heatmaps, mode)
    assert got.shape == (40, 2) and got.dtype == np.float32 and kept.sum() >= 35
    assert np.abs(got - expected)[kept].max() < 1e-4 and np.array_equal(scores, heatmaps.max(axis=(1, 2)))
    assert np.abs(expected - cells)[kept].max() > 0.5  # it moves


@pytest.mark.parametrize("mode", ["udp", "mmpose", "hf"])
@pytest.mark.parametrize("top", [0.0015, 0.003, 0.01, 55, 90])
def test_the_clip_at_a_thousandth_and_at_fifty(mode, top):
    """Faint and huge peaks: part of the nine values is clipped, in "mmpose" after the maximum was restored."""
    heatmaps = bells(np.random.default_rng(10).uniform((2, 2), (21, 15), (40, 2)), 18, 24, sigma=1.1, top=top)
    expected = np.array([newton(h, mode) for h in heatmaps])
    cells = decode_argmax(heatmaps)[0]
    kept = (np.abs(expected - cells) < (23, 17)).all(axis=1)
    got = in_cells(heatmaps, mode)[0]
    assert kept.sum() >= 30 and np.abs(got - expected)[kept].max() < 1e-3


def test_a_map_of_one_cell_has_it_in_the_middle():
    for mode in set(MODES) - {"plain"}:
        assert decode(np.ones((1, 1, 1)), (7, 9), (30, 40), mode)[0].tolist() == [[7, 9]]
    line = np.float32([[[0, 0, 1]]])
    assert decode(line, (7, 9), (30, 40), "argmax")[0].tolist() == [[22, 9]]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (2, 2), (3, 4), (5, 12), (13, 6)])
@pytest.mark.parametrize("mode", ["udp", "mmpose", "hf"])
def test_small_maps(mode, height, width):
    rng = np.random.default_rng(3)
    heatmaps = rng.uniform(0.2, 0.4, (20, height, width)).astype(np.float32)
    expected = np.array([newton(h, mode) for h in heatmaps])
    steps = expected - decode_argmax(heatmaps)[0]
    kept = (np.abs(steps) < (width, height)).all(axis=1)
    got = in_cells(heatmaps, mode)[0]
    assert np.isfinite(got).all() and kept.any()
    assert np.abs(got - expected)[kept].max() < 1e-4 * max(1, np.abs(steps[kept]).max())


def test_easy_decodes_as_udp():
    heatmaps = bells(np.random.default_rng(4).uniform(3, 44, (2, 5, 2)))
    assert np.array_equal(decode(heatmaps, (9, 8), (30, 40), "easy")[0], decode(heatmaps, (9, 8), (30, 40), "udp")[0])


def test_a_gaussian_is_found_between_the_cells():
    xy = np.random.default_rng(5).uniform((6, 6), (41, 57), (100, 2))
    for mode, error in (("udp", 2e-3), ("mmpose", 2e-3), ("hf", 1e-4)):
        assert np.abs(in_cells(bells(xy), mode)[0] - xy).max() < error


def test_quarter_steps_by_hand():
    """Towards the higher neighbour, each way by itself; none at equals, nor in columns and rows 0, 1 and the last."""
    heatmap = np.zeros((6, 6))
    heatmap[2, 3], heatmap[2, 2], heatmap[2, 4], heatmap[1, 3] = 1, 0.2, 0.5, 0.3
    assert in_cells(heatmap[None], "plain")[0].tolist() == [[3.25, 1.75]]
    heatmap[2, 2] = 0.5
    assert in_cells(heatmap[None], "plain")[0].tolist() == [[3.0, 1.75]]
    for y, x in ((1, 3), (5, 3), (3, 1), (3, 5), (0, 0)):
        edge = np.arange(36.0).reshape(6, 6) / 99
        edge[y, x] = 1
        assert in_cells(edge[None], "plain")[0].tolist() == [[x, y]]
    last = np.arange(36.0).reshape(6, 6) / 99
    last[4, 4] = 1  # the last but one is refined, though the second is not
    assert in_cells(last[None], "plain")[0].tolist() == [[4.25, 4.25]]


def test_the_way_to_the_picture():
    """The left upper cell is the rectangle's corner; the right lower one the other corner, but not in "plain"."""
    heatmaps = np.zeros((2, 64, 48), np.float32)
    heatmaps[0, 0, 0] = heatmaps[1, 63, 47] = 1
    centre, scale = (100, 200), (75, 100)
    assert np.allclose(decode(heatmaps, centre, scale, "argmax")[0], [(62.5, 150), (137.5, 250)])
    plain = [(62.5, 150), (62.5 + 75 * 47 / 48, 150 + 100 * 63 / 64)]
    assert np.allclose(decode(heatmaps, centre, scale, "plain")[0], plain)


def test_published_examples():
    """From mmpose's own tests: one peak at (31, 31) of 64 x 64 cells; a batch of 32 maps by UDP."""
    heatmaps = np.zeros((1, 1, 64, 64), np.float32)
    heatmaps[0, 0, 31, 31] = 1
    assert np.allclose(decode(heatmaps, (127, 127), (64, 64), "plain")[0], [[[126, 126]]])
    batch = np.broadcast_to(heatmaps, (32, 17, 64, 64))
    keypoints, scores = decode(batch, np.full((32, 2), 127), np.full((32, 2), 6400), "udp")
    assert keypoints.shape == (32, 17, 2) and scores.shape == (32, 17)
    assert np.abs(keypoints - 76).max() < 0.5


def test_every_person_has_a_crop_of_its_own():
    heatmaps = bells(np.random.default_rng(6).uniform(4, 43, (3, 5, 2)))
    centre, scale = np.array([(10, 20), (300, 40), (5, 600)]), np.array([(30, 40), (60, 80), (90, 120)])
    for mode in MODES:
        keypoints, scores = decode(heatmaps, centre, scale, mode)
        assert keypoints.shape == (3, 5, 2) and keypoints.dtype == np.float32 and scores.dtype == np.float32
        for i in range(3):
            one, score = decode(heatmaps[i], centre[i], scale[i], mode)
            assert np.array_equal(one, keypoints[i]) and np.array_equal(score, scores[i])


def test_one_keypoint_no_person_and_other_dtypes():
    heatmaps = bells([[(20.3, 30.6)]])
    for mode in MODES:
        expected = decode(heatmaps, (0, 0), (47, 63), mode)[0]
        assert expected.shape == (1, 1, 2)
        nobody, scores = decode(heatmaps[:0], np.zeros((0, 2)), np.zeros((0, 2)), mode)
        assert nobody.shape == (0, 1, 2) and scores.shape == (0, 1) and nobody.dtype == np.float32
        for dtype in (np.float64, np.float16):
            got, scores = decode(heatmaps.astype(dtype), (0, 0), (47, 63), mode)
            assert got.dtype == np.float32 and scores.dtype == dtype and np.abs(got - expected).max() < 0.02
        before = heatmaps.copy()
        decode(np.broadcast_to(heatmaps, (2, 3, 64, 48)), (0, 0), (47, 63), mode)
        assert np.array_equal(heatmaps, before)


@pytest.mark.parametrize("mode", MODES)
def test_where_there_is_no_peak_the_highest_cell_stands(mode):
    """All values at most 0, infinite ones, a constant: the cell itself, and its own value as the score."""
    rng = np.random.default_rng(7)
    maps = np.zeros((5, 64, 48), np.float32)
    maps[0] = -rng.uniform(1, 2, (64, 48))
    maps[0, 40, 30] = -0.5
    maps[2, 20, 10] = np.inf
    maps[3] = 0.3
    maps[4] = 1e-5 * bells((17, 8))  # everything below the clip: flat
    keypoints, scores = in_cells(maps, mode)
    assert np.allclose(keypoints[:3], [(30, 40), (0, 0), (10, 20)], atol=1e-5)
    flat = -0.5 if mode == "mmpose" else 0  # zeros beyond the border make a slope there
    assert np.allclose(keypoints[3], flat, atol=1e-5) and np.allclose(keypoints[4], (17, 8))
    assert np.array_equal(scores, maps.max(axis=(1, 2)))


def test_minus_infinity_marks_cells_that_do_not_count():
    masked = bells([(20.3, 30.6)])
    masked[0, :, 40:] = -np.inf
    for mode in MODES:
        assert np.abs(in_cells(masked, mode)[0] - (20.3, 30.6)).max() < 0.71


def test_a_step_as_long_as_the_map_is_not_taken():
    """A saddle that is nearly a ridge: the formula's step is longer than the map and means nothing."""
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(300):
        heatmap = rng.uniform(0, 0.004, (12, 9)).astype(np.float32)
        step = newton(heatmap, "hf") - decode_argmax(heatmap[None])[0][0]
        got = in_cells(heatmap[None], "hf")[0][0]
        if (np.abs(step) < (8.9, 11.9)).all():
            continue
        if (np.abs(step) > (9.1, 12.1)).any():
            found += 1
            assert np.allclose(got, decode_argmax(heatmap[None])[0][0], atol=1e-5)
    assert found >= 3


def test_huge_values():
    heatmaps = bells([(20.3, 30.6)], top=3e38)
    for mode in MODES:
        keypoints, scores = in_cells(heatmaps, mode)
        assert np.isfinite(keypoints).all() and np.abs(keypoints - (20, 31)).max() < 2 and scores[0] > 2.9e38


def test_bad_arguments_of_decode():
    heatmaps = np.ones((2, 3, 8, 6), np.float32)
    with pytest.raises(ValueError, match="expected one of udp, mmpose, hf, easy, plain, argmax, found 'dark'"):
        decode(heatmaps, (0, 0), (1, 1), "dark")
    with pytest.raises(ValueError, match=r"centre: expected \(2,\) or \(2, 2\) for heatmaps .* found \(3, 2\)"):
        decode(heatmaps, np.zeros((3, 2)), (1, 1))
    with pytest.raises(ValueError, match=r"scale: expected \(2,\) for heatmaps \(3, 8, 6\), found \(2, 2\)"):
        decode(heatmaps[0], (0, 0), np.ones((2, 2)))
    with pytest.raises(ValueError, match="scale: a number is NaN or infinite"):
        decode(heatmaps, (0, 0), (1, np.nan))
    heatmaps[1, 2, 4, 4] = np.nan
    with pytest.raises(ValueError, match="keypoint 2 of image 1"):
        decode(heatmaps, (0, 0), (1, 1))


def test_the_blur_against_opencv_and_scipy():
    cv2, ndimage = pytest.importorskip("cv2"), pytest.importorskip("scipy.ndimage")
    heatmap = np.random.default_rng(9).uniform(0, 1, (18, 14)).astype(np.float32)
    matrices = {mode: [blur_matrix(n, *BLURS[mode]) for n in heatmap.shape] for mode in ("udp", "mmpose", "hf")}
    ours = {mode: down @ heatmap @ along.T for mode, (down, along) in matrices.items()}
    assert np.abs(ours["udp"] - cv2.GaussianBlur(heatmap, (11, 11), 0)).max() < 1e-6
    padded = cv2.GaussianBlur(np.pad(heatmap, 5), (11, 11), 0)[5:-5, 5:-5]
    assert np.abs(ours["mmpose"] - padded).max() < 1e-6
    assert np.abs(ours["hf"] - ndimage.gaussian_filter(heatmap, 0.8, radius=5)).max() < 1e-6
