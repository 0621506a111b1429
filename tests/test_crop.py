"""Crops: geometry against the formulas of ViTPose, pixels against pictures whose warp is known exactly."""

import numpy as np
import pytest

from minivitpose.pose import warp_kernel
from minivitpose.pose.crop import (
    LEVELS,
    MEAN,
    STD,
    BoxError,
    Crop,
    centre_and_scale,
    check_box,
    crop,
    crop_matrix,
    network_input,
    normalised,
    whole_picture,
)
from minivitpose.pose.image import ImageError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (300, 200, 3), dtype=np.uint8)


def one_line(box, image=NOISE):
    with pytest.raises(BoxError) as caught:
        check_box(box, image)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_centre_and_scale_keep_the_shape_and_enlarge():
    tall = crop(NOISE, (10, 20, 30, 80))
    assert tall.centre == (25, 60) and tall.scale == (75, 100)  # 80 high needs 60 wide; times 1.25
    wide = crop(NOISE, (10, 20, 90, 40))
    assert wide.centre == (55, 40) and wide.scale == (112.5, 150)
    assert tall.box == (10.0, 20.0, 30.0, 80.0) and all(type(v) is float for v in tall.box)
    assert tall.pixels.shape == (256, 192, 3) and tall.pixels.dtype == np.uint8


def test_udp_map_sends_corner_pixels_to_the_corners_of_the_rectangle():
    c = crop(NOISE, (10, 20, 30, 80))
    assert np.allclose(c.to_picture((0, 0)), (25 - 37.5, 60 - 50), atol=1e-12)
    assert np.allclose(c.to_picture((191, 255)), (25 + 37.5, 60 + 50), atol=1e-12)
    assert np.allclose(c.to_picture((95.5, 127.5)), c.centre, atol=1e-12)


def test_round_trip():
    for _ in range(20):
        box = (*RNG.uniform(-50, 150, 2), *RNG.uniform(60, 400, 2))
        c = crop(NOISE, box)
        x, y, w, h = box
        corners = np.array([(x, y), (x + w, y + h)])
        assert np.abs(c.to_picture(c.from_picture(corners)) - corners).max() < 1e-9
        points = RNG.uniform(0, 255, (3, 17, 2))
        assert np.abs(c.from_picture(c.to_picture(points)) - points).max() < 1e-9


def test_identity_box_returns_the_pixels():
    """A square crop of 64 whose rectangle is 63 wide falls on the picture's own pixels."""
    side = 63 / 1.25
    c = crop(NOISE, (40 + 31.5 - side / 2, 70 + 31.5 - side / 2, side, side), size=(64, 64))
    assert np.array_equal(c.pixels, NOISE[70:134, 40:104])


def test_linear_ramp_is_exact():
    """On a linear ramp bilinear interpolation has no error but the rounding to whole numbers."""
    yy, xx = np.mgrid[:120, :120]
    ramp = np.stack([xx * 2, yy * 2, xx + yy], axis=-1).astype(np.uint8)
    c = crop(ramp, (30, 30, 45, 60))
    v, u = np.mgrid[:256, :192]
    x, y = np.moveaxis(c.to_picture(np.stack([u, v], axis=-1)), -1, 0)
    assert np.abs(c.pixels - np.stack([2 * x, 2 * y, x + y], axis=-1)).max() <= 0.5 + 1e-4


def test_one_pixel_picture_and_huge_box():
    dot = np.full((1, 1, 3), 200, np.uint8)
    assert crop(dot, (0, 0, 1, 1)).pixels.max() == 200
    assert crop(NOISE, (-5e6, -5e6, 9e6, 9e6)).pixels.shape == (256, 192, 3)


def test_input_stays_untouched_and_may_be_a_view():
    before = NOISE.copy()
    a = crop(NOISE[::-1], (10, 20, 100, 100)).pixels
    b = crop(np.ascontiguousarray(NOISE[::-1]), (10, 20, 100, 100)).pixels
    assert np.array_equal(a, b) and np.array_equal(NOISE, before)


def test_the_compiled_normalisation_has_the_bytes_of_the_other():
    pixels = np.random.default_rng(3).integers(0, 256, (2, 30, 20, 3), np.uint8)[:, :, ::-1]
    plain = np.ascontiguousarray(((pixels.astype(np.float32) / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2))
    found = warp_kernel.normalised(pixels, LEVELS)
    assert found.flags.c_contiguous and found.dtype == np.float32 and found.tobytes() == plain.tobytes()
    assert normalised(pixels).tobytes() == plain.tobytes()  # numba is loaded here


def test_network_input():
    c = crop(NOISE, (10, 20, 100, 100))
    x = network_input(c)
    assert x.shape == (1, 3, 256, 192) and x.dtype == np.float32 and x.flags.c_contiguous
    expected = (c.pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.abs(x[0].transpose(1, 2, 0) - expected).max() < 1e-6
    assert MEAN.dtype == STD.dtype == np.float32


@pytest.mark.parametrize("mode", ["udp", "plain", "hf", "easy"])
def test_the_map_and_its_inverse_agree_with_the_matrix(mode):
    c = crop(NOISE, (31.3, 22.8, 90.1, 140.7), mode=mode)
    assert c.mode == mode and c.matrix.shape == (2, 3) and c.matrix.dtype == np.float64
    points = RNG.uniform(0, 191, (5, 17, 2))
    x = c.to_picture(points)
    assert x.shape == points.shape and x.dtype == np.float64
    assert np.allclose(x[2, 3], c.matrix @ (*points[2, 3], 1), atol=1e-9)
    assert np.abs(c.from_picture(x) - points).max() < 1e-9


def test_plain_takes_the_width_and_counts_pixels_from_the_centre():
    c = crop(NOISE, (10, 20, 30, 80), mode="plain")
    assert c.centre == (25, 60) and c.scale == (75, 100)
    assert np.allclose(c.to_picture((96, 128)), (25, 60), atol=1e-12)
    assert np.allclose(c.to_picture((0, 0)), (25 - 37.5, 60 - 50), atol=1e-12)
    assert np.allclose(c.to_picture((192, 256)), (25 + 37.5, 60 + 50), atol=1e-12)
    stretched = crop_matrix((0, 0), (75, 300), (256, 192), "plain")
    assert stretched[0, 0] == stretched[1, 1] == 75 / 192


def test_hf_rounds_to_float32_and_stays_within_a_thousandth_of_a_pixel():
    box = (31.3, 22.8, 90.1, 140.7)
    centre, scale = centre_and_scale(box, (256, 192), "hf")
    assert centre == tuple(np.float32(centre).tolist()) and scale == tuple(np.float32(scale).tolist())
    exact = crop_matrix(*centre_and_scale(box, (256, 192)), (256, 192))
    got = crop_matrix(centre, scale, (256, 192), "hf")
    assert 0 < np.abs(got - exact).max() < 1e-4
    forward = np.linalg.inv(np.vstack([got, (0, 0, 1)]))  # from the picture to the crop: this one is in float32
    assert np.abs(forward - forward.astype(np.float32)).max() < 1e-11
    assert np.abs(np.linalg.inv(np.vstack([exact, (0, 0, 1)])) - forward).max() > 1e-9


def test_easy_cuts_whole_pixels_pads_and_stands_at_half_pixels():
    """Columns 20 to 101, rows 0 to 174: 81 wide, 174 high, so padded to 130 wide with 24 of black on the left."""
    c = crop(NOISE, (30.5, -4.2, 60.4, 168.3), mode="easy")
    assert c.scale == (130, 174) and c.centre == (20 - 24 + 65, 0 + 87)
    assert np.allclose(c.to_picture((-0.5, -0.5)), (20 - 24 - 0.5, -0.5), atol=1e-12)
    assert np.allclose(c.to_picture((191.5, 255.5)), (20 - 24 + 129.5, 173.5), atol=1e-12)
    assert c.pixels[:, :35].max() == 0 and c.pixels[:, 38].max() > 0  # 24 of 130 columns are 35.4 of 192
    wide = crop(NOISE, (20, 100, 111, 30), mode="easy")
    assert wide.scale == (131, 174) and wide.centre == (10 + 65, 90 - 62 + 87)  # odd: the centre is 65, not 65.5


def test_easy_at_its_own_size_is_the_picture():
    """A picture of 192 x 256 in its own box: nothing is padded, nothing is scaled."""
    picture = RNG.integers(0, 256, (256, 192, 3), dtype=np.uint8)
    assert np.array_equal(crop(picture, (3, 5, 183, 243), mode="easy").pixels, picture)


@pytest.mark.parametrize("mode", ["udp", "plain", "easy"])
def test_a_rotation_turns_about_the_centre(mode):
    args = (50, 60), (75, 100), (256, 192), mode
    straight, turned = crop_matrix(*args), crop_matrix(*args, rotation=30)
    middle = np.linalg.solve(straight[:, :2], (50, 60) - straight[:, 2])  # the crop's pixel at the centre
    assert np.allclose(turned @ (*middle, 1), (50, 60), atol=1e-9)
    down = turned @ (*(middle + (0, 40)), 1) - (50, 60)  # a point below the centre goes to the right: anticlockwise
    length = 40 * straight[1, 1]
    assert np.allclose(down, (length * np.sin(np.pi / 6), length * np.cos(np.pi / 6)), atol=1e-9)


def test_hf_turns_as_udp_does():
    args = (50, 60), (75, 100), (256, 192)
    assert np.allclose(crop_matrix(*args, "hf", 30), crop_matrix(*args, "udp", 30), atol=1e-4)


@pytest.mark.parametrize("size", [256, (0, 0), (1, 1), (256.0, 192.0), (256, 192, 3), None])
def test_a_size_that_is_none_is_named(size):
    with pytest.raises(ValueError, match="size: expected .height, width., whole numbers from 2, found"):
        crop(np.zeros((40, 30, 3), np.uint8), (0, 0, 30, 40), size)


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="expected one of udp, plain, hf, easy, found 'cv2'"):
        crop(NOISE, (0, 0, 9, 9), mode="cv2")


def test_whole_picture():
    assert whole_picture(NOISE) == (0.0, 0.0, 200.0, 300.0)
    assert crop(NOISE, whole_picture(NOISE)).centre == (100, 150)
    with pytest.raises(ImageError):
        whole_picture(NOISE[..., 0])


def test_crop_checks_its_image():
    with pytest.raises(ImageError, match="np.stack"):
        crop(NOISE[..., 0], (0, 0, 9, 9))
    with pytest.raises(BoxError, match="above 0"):
        crop(NOISE, (0, 0, 9, 0))
    assert isinstance(crop(NOISE, (0, 0, 9, 9)), Crop)


@pytest.mark.parametrize("box", [[1, 2, 3, 4], (1.5, 2, 3, 4), np.array([1, 2, 3, 4], np.int16), (-5, -5, 10, 10)])
def test_good_boxes(box):
    got = check_box(box, NOISE)
    assert got == tuple(map(float, box)) and all(type(v) is float for v in got)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((1, 2, 3), "found (3,)"),
        ((1, 2, 3, 4, 0.9), "leave out the score"),
        ([[1, 2, 3, 4]], "one box at a time"),
        ([], "found (0,)"),
        (7, "found ()"),
        ("1234", "four numbers"),
        (["a", "b", "c", "d"], "four numbers"),
        ({"x": 1}, "four numbers"),
        ([1, [2], 3, 4], "four numbers"),
        ([[1, [2]], 3, 4], "four numbers"),
        (None, "four numbers"),
        ((1, 2, 3, None), "four numbers"),
        ((1, 2, np.nan, 4), "NaN"),
        ((1, 2, 3, -np.inf), "infinite"),
        ((1, 2, 3, 1e300), "units"),
        ((np.iinfo(np.int64).min, 2, 3, 4), "units"),
        ((1, 2, 0, 4), "above 0"),
        ((1, 2, 3, -4), "above 0"),
        ((1, 2, 3, 1e-9), "at least 1e-06 pixels"),
        ((200, 0, 5, 5), "200 wide and 300 high"),
        ((0, 300, 5, 5), "200 wide and 300 high"),
        ((-5, 0, 5, 5), "200 wide and 300 high"),
        ((0, -9, 5, 5), "200 wide and 300 high"),
    ],
)
def test_bad_boxes(box, says):
    assert says in one_line(box)


def test_two_corners_are_suspected_only_when_they_could_be():
    assert "give (-50, 10, 50, 60)" in one_line((-50, 10, 0, 70))
    assert "corners" not in one_line((10, 20, -30, 50))


def test_the_box_is_shown_as_one_would_write_it():
    assert one_line(np.array([1.5, 2, 0, 4])).startswith("box (1.5, 2, 0, 4): ")
    assert one_line((np.float32(0.1), np.int64(2), 0, 4)).startswith("box (0.1, 2, 0, 4): ")
    assert one_line([1, "a", 0, 4]).startswith("box (1, a, 0, 4): ")


def test_a_long_box_stays_one_short_line():
    assert len(one_line(np.arange(1000))) < 200
    assert len(one_line(np.zeros((40, 40)))) < 200
