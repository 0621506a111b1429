"""The bilinear warp, in NumPy and compiled: against a loop, OpenCV and SciPy, on noise and on a photograph."""

import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from minivitpose.pose import read_image, warp_kernel
from minivitpose.pose import warp as warp_numpy
from minivitpose.pose.crop import crop, crop_matrix

WARPS = [warp_numpy.warp, warp_kernel.warp]
IDS = ["numpy", "numba"]
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8)
PHOTO = read_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
SMOOTH = np.rint(127 + 127 * np.sin(np.mgrid[:300, :200][0] / 9 + np.mgrid[:300, :200][1] / 13)).astype(np.uint8)
SMOOTH = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], axis=-1)
SIZE = (256, 192)


def lines(rows, columns):
    """The matrix for rows and columns at equal distances: (first, step) each."""
    return np.array([[columns[1], 0, columns[0]], [0, rows[1], rows[0]]], np.float64)


def boxes(picture, n, seed):
    """Boxes of all sizes, partly outside."""
    rng, (height, width) = np.random.default_rng(seed), picture.shape[:2]
    for _ in range(n):
        w, h = rng.uniform(0.05, 1.2, 2) * (width, height)
        yield rng.uniform(-0.9 * w, width - 0.1 * w), rng.uniform(-0.9 * h, height - 0.1 * h), w, h


def differences(got, expected):
    assert got.shape == expected.shape and got.dtype == expected.dtype == np.uint8
    return np.abs(got.astype(int) - expected)


@pytest.mark.parametrize("warp", WARPS, ids=IDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_that_names_no_places_is_refused(bad, warp):
    matrix = lines((0, 1), (0, 1))
    matrix[1, 2] = bad
    with pytest.raises(ValueError, match="matrix: expected finite numbers"):
        warp(NOISE, matrix, SIZE)


@pytest.mark.parametrize("warp", WARPS, ids=IDS)
def test_against_a_loop_over_all_pixels(warp):
    """Every picture pixel is a tent over its neighbourhood; a point's colour is the sum of all tents there."""
    image = NOISE[:7, :9]
    matrix = np.array([[0.8, 0.3, -2.2], [-0.4, 0.7, 1.9]])
    expected = np.zeros((12, 10, 3))
    for v in range(12):
        for u in range(10):
            x, y = matrix @ (u, v, 1)
            for p in range(7):
                for q in range(9):
                    expected[v, u] += max(0, 1 - abs(y - p)) * max(0, 1 - abs(x - q)) * image[p, q]
    got = warp(image, matrix, (12, 10))
    assert got.shape == (12, 10, 3) and got.dtype == np.uint8 and got.flags.c_contiguous
    assert np.abs(got - expected).max() <= 0.5 + 1e-9 and (expected == 0).any() and (expected > 100).any()


@pytest.mark.parametrize("warp", WARPS, ids=IDS)
def test_the_border_fades_or_ends_at_once(warp):
    white = np.full((50, 50, 3), 255, np.uint8)
    matrix = lines((-2, 0.5), (20.5, 1))
    assert warp(white, matrix, (6, 1))[:, 0, 0].tolist() == [0, 0, 0, 128, 255, 255]
    assert warp(white, matrix, (6, 1), hard=True)[:, 0, 0].tolist() == [0, 0, 0, 0, 255, 255]
    matrix = lines((20.5, 1), (48.75, 0.25))
    assert warp(white, matrix, (1, 6))[0, :, 0].tolist() == [255, 255, 191, 128, 64, 0]
    assert warp(white, matrix, (1, 6), hard=True)[0, :, 0].tolist() == [255, 255, 0, 0, 0, 0]
    assert warp(white, lines((1e7, 1), (-1e7, 1)), (2, 2)).max() == 0


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (3, 0, 40, 1), (0, 61, 0, 17)])
@pytest.mark.parametrize("shape", [(300, 170), (97, 255), (31, 20), (1, 1), (1, 40), (64, 1), (256, 192)])
def test_resizing_is_opencvs_to_the_byte(shape, margins):
    cv2 = pytest.importorskip("cv2")
    left, top, right, bottom = margins
    image = np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)))
    for size in ((256, 192), (64, 48), (100, 333)):
        expected = cv2.resize(padded, size[::-1], interpolation=cv2.INTER_LINEAR)
        got = warp_numpy.resize(image, margins, size)
        assert got.dtype == np.uint8 and np.array_equal(got, expected)


@pytest.mark.parametrize("warp", WARPS, ids=IDS)
def test_a_quarter_turn_only_moves_pixels(warp):
    square = NOISE[:65, :65]
    matrix = crop_matrix((32, 32), (64, 64), (65, 65), rotation=90)
    assert np.array_equal(warp(square, matrix, (65, 65)), np.rot90(square, -1))  # the rectangle turns anticlockwise


@pytest.mark.parametrize("rotation", [0, 17, -120])
@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[::-1, ::-1], lambda a: a[::2, 3:-5], lambda a: a[..., ::-1]])
def test_both_give_the_same_bytes(rotation, view):
    image = view(NOISE)
    for x, y, w, h in boxes(image, 4, seed=1):
        matrix = crop_matrix((x + w / 2, y + h / 2), (w, h), (40, 31), "udp", rotation)
        for hard in (False, True):
            a, b = (warp(image, matrix, (40, 31), hard) for warp in WARPS)
            assert np.array_equal(a, b)


@pytest.mark.parametrize("warp", WARPS, ids=IDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1)])
def test_thin_pictures(warp, shape):
    image = np.full((*shape, 3), 200, np.uint8)
    matrix = lines((0, (shape[0] - 1) / 4), (0, (shape[1] - 1) / 4))
    for hard in (False, True):
        assert (warp(image, matrix, (5, 5), hard) == 200).all()


@pytest.mark.parametrize("warp", WARPS, ids=IDS)
def test_a_huge_picture_is_not_copied(warp):
    """20,000 x 20,000 pixels, 1.2 GB if they were there."""
    huge = np.broadcast_to(np.array([10, 20, 30], np.uint8), (20_000, 20_000, 3))
    matrix = crop_matrix((10_000, 10_000), (15_000, 20_000), SIZE)
    warp(huge, matrix, (2, 2))  # the compiler's memory is not counted
    tracemalloc.start()
    got = warp(huge, matrix, SIZE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (got[1:-1, 1:-1] == (10, 20, 30)).all() and peak < 20e6


def test_a_read_only_picture_and_many_threads():
    image = NOISE.copy()
    image.flags.writeable = False
    matrix = crop_matrix((40, 30), (50, 60), SIZE)
    with ThreadPoolExecutor(8) as pool:
        crops = list(pool.map(lambda _: warp_kernel.warp(image, matrix, SIZE), range(32)))
    assert all(np.array_equal(c, warp_numpy.warp(NOISE, matrix, SIZE)) for c in crops)
    assert not image.flags.writeable and NOISE.flags.writeable


def test_crop_takes_the_compiled_loops_where_numba_is_loaded_and_never_loads_it():
    code = (
        "import sys, zlib, numpy as np; from minivitpose.pose.crop import crop, loaded_kernels, network_input as x\n"
        "image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)\n"
        "cut = lambda: [zlib.crc32(x(crop(image, (9, 8, 40, 50), mode=m))) for m in ('udp', 'hf', 'easy')]\n"
        "first = cut(); assert 'numba' not in sys.modules and loaded_kernels() is None\n"
        "import numba; assert loaded_kernels().__name__ == 'minivitpose.pose.warp_kernel' and cut() == first"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


# ---------------------------------------------------------------------------------- OpenCV and SciPy as oracles


@pytest.mark.parametrize("picture", [PHOTO, SMOOTH], ids=["photo", "smooth"])
@pytest.mark.parametrize("rotation", [0, 25])
def test_within_one_grey_level_of_opencv(picture, rotation):
    cv2 = pytest.importorskip("cv2")
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    exact = int(cv2.__version__.split(".")[0]) >= 5  # before, positions are rounded to 1/32 pixel
    for x, y, w, h in boxes(picture, 30, seed=2):
        for mode in ("udp", "plain"):
            matrix = crop_matrix((x + w / 2, y + h / 2), (w, h), SIZE, mode, rotation)
            off = differences(
                warp_kernel.warp(picture, matrix, SIZE), cv2.warpAffine(picture, matrix, SIZE[::-1], flags=flags)
            )
            assert off.max() <= (1 if exact else 8) and (off > 1).mean() < (1e-9 if exact else 0.1)


def opencv4_warp(image, matrix, size):
    """cv2.warpAffine of OpenCV 4, in whole numbers: positions in 1/32 pixel, weights in 1/32768, half rounded up."""
    v, u = np.arange(size[0])[:, None], np.arange(size[1])
    (a, b, c), (d, e, f) = matrix * 1024
    x = (np.rint(b * v + c).astype(int) + 16 + np.rint(a * u).astype(int)) >> 5
    y = (np.rint(e * v + f).astype(int) + 16 + np.rint(d * u).astype(int)) >> 5
    total = np.full((*size, 3), 1 << 14)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0))).astype(int)  # all beyond the border is black
    for down in (0, 1):
        for across in (0, 1):
            i = np.clip((y >> 5) + down, -1, image.shape[0]) + 1
            j = np.clip((x >> 5) + across, -1, image.shape[1]) + 1
            weight_y, weight_x = (y & 31 if down else 32 - (y & 31)), (x & 31 if across else 32 - (x & 31))
            total += padded[i, j] * (weight_y * weight_x * 32)[..., None]
    return (total >> 15).astype(np.uint8)


def test_opencv_4_differs_by_its_grid_of_a_32nd_of_a_pixel():
    """Half of 1/32 pixel, times the steepest step between neighbours, twice: that much and one level for rounding."""
    assert np.array_equal(opencv4_warp(NOISE, lines((3, 1), (5, 1)), (20, 30)), NOISE[3:23, 5:35])
    steepest = max(np.abs(np.diff(PHOTO.astype(int), axis=axis)).max() for axis in (0, 1))
    offs = []
    for x, y, w, h in boxes(PHOTO, 20, seed=3):
        matrix = crop_matrix((x + w / 2, y + h / 2), (w, h), SIZE)
        offs.append(differences(warp_kernel.warp(PHOTO, matrix, SIZE), opencv4_warp(PHOTO, matrix, SIZE)))
    offs = np.stack(offs)
    assert offs.max() <= 1 + 255 / 32 and steepest > 100
    assert (offs > 1).mean() < 0.005 and offs.mean() < 0.1


@pytest.mark.parametrize("picture", [PHOTO, SMOOTH, NOISE[:1], NOISE[:1, :1]], ids=["photo", "smooth", "line", "dot"])
def test_hard_borders_are_scipys_to_the_byte(picture):
    ndimage = pytest.importorskip("scipy.ndimage")
    for rotation in (0, 40):
        for x, y, w, h in boxes(picture, 12, seed=4):
            matrix = crop_matrix((x + w / 2, y + h / 2), (w, h), SIZE, "udp", rotation)
            swapped = matrix[::-1][:, [1, 0, 2]]  # SciPy counts rows first
            planes = [
                ndimage.affine_transform(p, swapped, output_shape=SIZE, order=1) for p in np.moveaxis(picture, -1, 0)
            ]
            assert np.array_equal(warp_kernel.warp(picture, matrix, SIZE, hard=True), np.stack(planes, axis=-1))


def test_hard_ends_exactly_at_the_last_pixel():
    """A crop whose corner pixels fall on the picture's: with whole numbers all of it is inside, a hair more is not."""
    matrix = lines((0, 1), (0, 1))
    assert np.array_equal(warp_kernel.warp(NOISE, matrix, (70, 90), hard=True), NOISE)
    matrix[0, 2] = -1e-12
    assert warp_kernel.warp(NOISE, matrix, (70, 90), hard=True)[:, 0].max() == 0
    assert crop(NOISE, (0, 0, 90, 70), mode="hf").pixels.shape == (256, 192, 3)
