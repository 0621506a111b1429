"""Reading pictures: every kind becomes upright RGB, and what is no picture gets one clear line."""

import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from minivitpose.pose.image import ImageError, as_image, read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def saved(folder, picture, name="a.png", **options):
    path = folder / name
    picture.save(path, **options)
    return path


def refusal(path):
    """The one line with which read_image refuses."""
    with pytest.raises(ImageError) as caught:
        read_image(path)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("cannot read ")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


def same(path, expected, tolerance=0):
    read = read_image(path)
    assert read.dtype == np.uint8 and read.shape == expected.shape and read.flags.c_contiguous
    assert np.abs(read.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm"])
def test_lossless_files_come_back_to_the_digit(tmp_path, name):
    same(saved(tmp_path, Image.fromarray(RGB), name), RGB)
    same(str(saved(tmp_path, Image.fromarray(RGB), name)), RGB)


def test_lossy_files_come_back_nearly(tmp_path):
    smooth = np.zeros((32, 48, 3), np.uint8) + np.arange(32, dtype=np.uint8)[:, None, None] * 7
    same(saved(tmp_path, Image.fromarray(smooth), "a.jpg", quality=98), smooth, tolerance=3)
    same(saved(tmp_path, Image.fromarray(smooth), "a.webp", quality=98), smooth, tolerance=6)


def test_grey_and_one_bit(tmp_path):
    same(saved(tmp_path, Image.fromarray(GREY)), np.stack([GREY] * 3, axis=-1))
    bits = Image.fromarray(((GREY > 99) * 255).astype(np.uint8)).convert("1", dither=Image.Dither.NONE)
    same(saved(tmp_path, bits), np.stack([(GREY > 99) * 255] * 3, axis=-1))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 129, 257], [10000, 32768, 65000, 65535]], np.uint16)
    expected = np.rint(values / 257)
    assert expected.max() == 255 and len(np.unique(expected)) == 6
    same(saved(tmp_path, Image.fromarray(values), name), np.stack([expected] * 3, axis=-1))


def test_wider_grey_is_refused(tmp_path):
    assert "wider than 16 bits" in refusal(saved(tmp_path, Image.fromarray(np.array([[70000]], np.int32)), "a.tif"))
    assert "mode F" in refusal(saved(tmp_path, Image.fromarray(np.array([[0.5]], np.float32)), "a.tif"))


def test_palette(tmp_path):
    picture = Image.fromarray(RGB).quantize(8)
    same(saved(tmp_path, picture), np.asarray(picture.convert("RGB")))
    same(saved(tmp_path, picture, "a.gif"), np.asarray(picture.convert("RGB")))


def test_transparent_pixels_lie_on_white(tmp_path):
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    expected = np.array([[[200, 100, 0], [255, 255, 255], [244, 224, 204]]])
    same(saved(tmp_path, Image.fromarray(rgba)), expected, tolerance=1)
    la = np.array([[[80, 255], [80, 0]]], np.uint8)
    same(saved(tmp_path, Image.fromarray(la)), np.array([[[80] * 3, [255] * 3]]))


def test_a_transparent_palette_entry_lies_on_white(tmp_path):
    picture = Image.frombytes("P", (2, 1), bytes([0, 1]))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    same(saved(tmp_path, picture, transparency=1), np.array([[[10, 20, 30], [255] * 3]]))
    same(saved(tmp_path, picture, transparency=bytes([255, 0])), np.array([[[10, 20, 30], [255] * 3]]))


def test_cmyk(tmp_path):
    inks = bytes([0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 255])
    expected = np.array([[[255] * 3, [0, 255, 255], [0] * 3]])
    same(saved(tmp_path, Image.frombytes("CMYK", (3, 1), inks), "a.tif"), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, name):
    """Stored as EXIF says, a picture with four grey quarters, wider than high, is read upright."""
    upright = np.kron([[0, 80], [160, 240]], np.ones((16, 32))).astype(np.uint8)
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright),  # to be turned clockwise
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif, **lossless)
    same(path, np.stack([upright] * 3, axis=-1), tolerance=3)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (50, 200)]
    for name in ("a.gif", "a.png", "a.tif"):
        same(saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:]), np.full((4, 4, 3), 50))


def test_broken_metadata_leaves_the_pixels(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + bytes(range(40)))
    same(path, RGB)


def test_missing_folder_and_empty(tmp_path):
    line = refusal(tmp_path / "nobody.jpg")
    assert "no such file" in line and "nobody.jpg" in line
    assert "it is a folder" in refusal(tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert "file is empty" in refusal(tmp_path / "empty.jpg")
    assert "\\n" in refusal("two\nlines.jpg")
    assert "broken" not in refusal(tmp_path / "a" / "b.jpg")


def test_no_permission(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    assert "no permission" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.ppm", "a.tif"])
@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_cut_off_files(tmp_path, name, share):
    noise = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    data = path.read_bytes()
    path.write_bytes(data[: max(4, int(len(data) * share))])
    assert "broken or cut off" in refusal(path) or (share < 0.1 and "not a picture" in refusal(path))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tif"])
def test_damaged_bytes_never_end_in_anything_else(tmp_path, name):
    rng = np.random.default_rng(2)
    path = saved(tmp_path, Image.fromarray(RGB), name)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(150):
        data = whole.copy()
        data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(data.tobytes())
        try:
            read = read_image(path)
        except ImageError as error:
            assert "\n" not in str(error)
        else:
            assert read.dtype == np.uint8 and read.ndim == 3 and read.shape[2] == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"just some words\n", "not a picture"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (pickle.dumps({"weight": [1.0]}, protocol=2), "pickle"),
        (b"\x89PNG\r\n\x1a\n", "PNG file, but broken"),
        (bytes(64), "not a picture"),
    ],
)
def test_other_files(tmp_path, data, says):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert says in refusal(path)


def test_weights_are_no_picture(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert "PyTorch" in refusal(tmp_path / "a.pth")


def test_a_decompression_bomb(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(np.zeros((40, 50), np.uint8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # 2000 pixels are above it, where Pillow warns
    assert read_image(path).shape == (40, 50, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # above twice that it refuses
    assert "too many to be safe" in refusal(path)


def test_a_picture_of_20000_by_20000_pixels_is_refused_in_one_line(tmp_path):
    """Above Pillow's limit of 179 million. As an array, such a picture can be used: only what is in the box is read."""
    header = struct.pack(">II5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(60_001))), (b"IEND", b"")]
    with open(tmp_path / "a.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in chunks:
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    assert "it claims more than 179 million pixels" in refusal(tmp_path / "a.png")


def test_not_a_path():
    with pytest.raises(ImageError, match="expected the path of a picture, found int"):
        read_image(0)


def test_as_image_lets_rgb_pass_untouched():
    assert as_image(RGB) is RGB
    assert as_image(RGB[::-1, ::2]).shape == (6, 3, 3)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (GREY, "np.stack"),
        (RGB / np.float32(255), "255"),
        (RGB.transpose(2, 0, 1), "transpose"),
        (np.zeros((6, 5, 4), np.uint8), r"\[..., :3\]"),
        (np.zeros((6, 5, 1), np.uint8), "repeat"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (RGB[None], "one image at a time"),
        (RGB.astype(np.uint16), "16 bits"),
        (RGB.astype(int), "astype"),
        (RGB.astype(object), "no colour values"),
        (np.zeros((6, 5, 7), np.uint8), "check where"),
        (RGB.tolist(), "found list"),
        (None, "found NoneType"),
    ],
)
def test_as_image_says_what_to_do(array, says):
    with pytest.raises(ImageError, match=says) as caught:
        as_image(array)
    assert "\n" not in str(caught.value) and "(H, W, 3) uint8" in str(caught.value)


def test_the_hints_work():
    assert np.array_equal(as_image(np.stack([GREY] * 3, axis=-1))[..., 1], GREY)
    assert np.array_equal(as_image(RGB.transpose(2, 0, 1).transpose(1, 2, 0)), RGB)
    image = RGB / np.float32(255)
    assert np.array_equal(as_image((image * 255).round().astype(np.uint8)), RGB)


@pytest.mark.skipif(not hasattr(os, "mkfifo") or os.geteuid() == 0, reason="root may read everything")
def test_real_permissions(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB))
    path.chmod(0)
    assert "no permission" in refusal(path)
