"""Whatever goes in, a defined result or one clear line comes out: boxes, pictures, heatmaps and keypoints at random."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minivitpose.pose import warp as warp_numpy
from minivitpose.pose import warp_kernel
from minivitpose.pose.crop import MODES as CROPS
from minivitpose.pose.crop import BoxError, crop, crop_matrix, network_input
from minivitpose.pose.decode import MODES, decode, decode_argmax
from minivitpose.pose.encode import encode
from minivitpose.pose.flip import flip_heatmaps
from minivitpose.pose.image import ImageError

usual = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

SIZE = (32, 24)
anything = st.one_of(
    st.floats(width=64),
    st.sampled_from([0.0, 5e-324, 1e-300, 1e-40, 1e-7, 1e-6, 1e7]),
    st.integers(-(10**20), 10**20),
    st.floats(-50, 50),
)
pixels = st.floats(-60, 120)


@st.composite
def pictures(draw):
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    return np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (*shape, 3), dtype=np.uint8)


@st.composite
def heatmaps(draw):
    """(K, Hm, Wm) float32, peaked, flat, negative or wild, infinities allowed, no NaN."""
    shape = draw(st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 20)))
    kind = draw(st.sampled_from(["wild", "uniform", "constant", "negative", "spike"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if kind == "wild":
        return draw(arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False)))
    if kind == "constant":
        return np.full(shape, draw(st.floats(-2, 2, width=32)), np.float32)
    maps = rng.uniform(0, 1, shape).astype(np.float32)
    if kind == "spike" and maps.size:
        maps *= 0.01
        maps[..., rng.integers(shape[1]), rng.integers(shape[2])] = 1
    return -maps if kind == "negative" else maps


@usual
@given(st.tuples(anything, anything, anything, anything), st.sampled_from(CROPS))
def test_any_four_numbers_are_a_crop_or_one_line(box, mode):
    image = np.full((40, 30, 3), 200, np.uint8)
    try:
        c = crop(image, box, SIZE, mode)
    except BoxError as error:
        assert "\n" not in str(error) and len(str(error)) < 250
    else:
        assert c.pixels.shape == (*SIZE, 3) and c.pixels.max() <= 200
        assert np.isfinite(c.matrix).all() and np.isfinite([*c.centre, *c.scale]).all() and min(c.scale) > 0


@usual
@given(pictures(), st.tuples(pixels, pixels, st.floats(0.01, 200), st.floats(0.01, 200)), st.sampled_from(CROPS))
def test_a_crop_of_any_picture(image, box, mode):
    """The map goes there and back, the input is finite, and both warps agree."""
    try:
        c = crop(image, box, SIZE, mode)
    except BoxError:
        return
    points = np.array([(0, 0), (23, 31), (11.5, 15.5)])
    span = 1 + max(c.scale)
    assert np.abs(c.from_picture(c.to_picture(points)) - points).max() < 1e-6
    assert (np.abs(c.to_picture(points) - c.centre) <= np.array(c.scale) / 2 + 1e-3 * span + 1).all()
    x = network_input(c)
    assert x.shape == (1, 3, *SIZE) and np.isfinite(x).all() and np.abs(x).max() < 3
    for warp in (warp_numpy.warp, warp_kernel.warp):
        if mode != "easy":
            assert np.array_equal(warp(image, c.matrix, SIZE, mode == "hf"), c.pixels)


@usual
@given(pictures(), st.floats(-720, 720), st.floats(1, 90), st.floats(-10, 70), st.floats(-10, 70))
def test_any_matrix_gives_the_same_bytes_in_both_warps(image, rotation, width, x, y):
    matrix = crop_matrix((x, y), (width, width * 4 / 3), SIZE, "udp", rotation)
    for hard in (False, True):
        assert np.array_equal(*(warp(image, matrix, SIZE, hard) for warp in (warp_numpy.warp, warp_kernel.warp)))


@pytest.mark.parametrize("mode", CROPS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_the_smallest_pictures(mode, shape):
    image = np.full((*shape, 3), 90, np.uint8)
    for box in ((0, 0, shape[1], shape[0]), (-1e6, -1e6, 2e6, 2e6), (0.4, 0.4, 1e-5, 1e-5)):
        c = crop(image, box, mode=mode)
        assert c.pixels.shape == (256, 192, 3) and set(np.unique(c.pixels)) <= set(range(91))
    filled = crop(image, (0, 0, shape[1], shape[0]), mode=mode).pixels
    assert filled.max() > 0 or mode == "hf"  # a line's neighbours are black, and no pixel of the crop need fall on it


@pytest.mark.parametrize("mode", CROPS)
def test_a_picture_of_20000_by_20000_pixels(mode):
    huge = np.broadcast_to(np.array([1, 2, 3], np.uint8), (20_000, 20_000, 3))
    for box in ((0, 0, 20_000, 20_000), (19_990, 19_990, 500, 500), (5, 5, 1, 1)):
        assert crop(huge, box, mode=mode).pixels.max() == 3


@pytest.mark.parametrize("mode", CROPS)
def test_grey_and_float_pictures_are_refused_by_every_mode(mode):
    for bad in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8), None):
        with pytest.raises(ImageError) as caught:
            crop(bad, (0, 0, 5, 5), mode=mode)
        assert "\n" not in str(caught.value)


@usual
@given(heatmaps(), st.sampled_from(MODES), st.floats(-1e4, 1e4), st.floats(0.1, 1e4))
def test_any_heatmap_decodes_to_numbers_near_its_crop(maps, mode, centre, scale):
    """Never NaN, never further off than the map is long, and the score is the highest value."""
    keypoints, scores = decode(maps, (centre, centre), (scale, scale), mode)
    assert keypoints.shape == (len(maps), 2) and keypoints.dtype == np.float32
    assert np.isfinite(keypoints).all() and np.array_equal(scores, maps.max(axis=(1, 2), initial=-np.inf))
    assert (np.abs(keypoints - centre) <= 2.6 * scale + 1e-3 * abs(centre) + 1e-3).all()
    rows = decode(maps[None], [(centre, centre)], [(scale, scale)], mode)
    assert np.array_equal(rows[0][0], keypoints) and np.array_equal(rows[1][0], scores)


@usual
@given(heatmaps(), st.sampled_from(MODES), st.integers(0, 10**6))
def test_one_nan_anywhere_is_named(maps, mode, place):
    if not maps.size:
        return
    maps = maps.copy()
    where = np.unravel_index(place % maps.size, maps.shape)
    maps[where] = np.nan
    with pytest.raises(ValueError, match=f"keypoint {where[0]}") as caught:
        decode(maps, (0, 0), (1, 1), mode)
    assert "\n" not in str(caught.value)


@usual
@given(st.integers(0, 47), st.integers(0, 63), st.sampled_from(MODES), st.floats(0.01, 40))
def test_a_peak_on_any_cell_stays_within_two_cells(x, y, mode, top):
    """Also on the borders and in the corners."""
    i, j = np.mgrid[:64, :48]
    heatmap = (top * np.exp(-((i - y) ** 2 + (j - x) ** 2) / 8)).astype(np.float32)[None]
    span = np.array((48.0, 64.0) if mode == "plain" else (47.0, 63.0))
    got, scores = decode(heatmap, span / 2, span, mode)
    assert np.abs(got - (x, y)).max() < 2 and np.isclose(scores[0], top, rtol=1e-6)
    assert decode_argmax(heatmap)[0].tolist() == [[x, y]]


@usual
@given(arrays(np.float64, (4, 2), elements=st.floats(-1e308, 1e308)), st.sampled_from(["udp", "plain"]))
def test_any_finite_keypoint_encodes(points, mode):
    targets, weights = encode(points, np.ones(4), mode=mode)
    assert targets.shape == (4, 64, 48) and np.isfinite(targets).all() and 0 <= targets.min() <= targets.max() <= 1
    far = (np.abs(points) > 1000).any(axis=1)
    assert not weights[far].any() and not targets[weights == 0].any()


@usual
@given(st.floats(24, 167), st.floats(24, 231))
def test_there_and_back_within_a_fiftieth_of_a_cell(x, y):
    """UDP, at least six cells from the border."""
    targets, weights = encode([(x, y)], [1])
    back, scores = decode(targets, (95.5, 127.5), (191, 255))
    assert np.abs((back[0] - (x, y)) / (191 / 47, 255 / 63)).max() < 0.02 and weights[0] == 1


@usual
@given(st.permutations(range(5)), st.booleans())
def test_turning_back_twice_is_the_identity_where_pairs_are_pairs(order, shift):
    pairs = [(order[0], order[1]), (order[2], order[3])]
    index = np.arange(5)
    for a, b in pairs:
        index[[a, b]] = b, a
    maps = np.random.default_rng(0).standard_normal((2, 5, 4, 3))
    once = flip_heatmaps(maps, index, shift)
    assert once.shape == maps.shape and np.array_equal(once[:, order[4], :, -1], maps[:, order[4], :, int(shift)])
    assert np.array_equal(flip_heatmaps(flip_heatmaps(maps, index), index), maps)
