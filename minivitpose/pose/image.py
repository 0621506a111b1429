"""From a file to an RGB array: any usual kind of picture, upright, 8 bits a colour; else one line that says why not."""

import os
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

# What is tried. No EPS or PostScript among them: those are programs, and Pillow would run them.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000", "ICO", "QOI")

# How files begin that are often given by mistake, and what they are. (start, is it a picture, what it is)
BEGINNINGS = (
    (b"\x89PNG", True, "a PNG file"),
    (b"\xff\xd8", True, "a JPEG file"),
    (b"GIF8", True, "a GIF file"),
    (b"II*\0", True, "a TIFF file"),
    (b"MM\0*", True, "a TIFF file"),
    (b"PK\x03\x04", False, "a zip archive, such as weights saved by PyTorch"),
    (b"\x80", False, "a Python pickle, such as old weights of PyTorch"),
    (b"\x93NUMPY", False, "a NumPy array"),
    (b"%PDF", False, "a PDF document"),
    (b"%!PS", False, "a PostScript program"),
    (b"<", False, "a web page or an SVG drawing"),
)

# EXIF orientation -> what turns the stored rows and columns upright. Source: EXIF 2.32, tag 0x0112.
ORIENTATION = 0x0112
UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


class ImageError(ValueError):
    """A picture that cannot be used: one line with what it is, what is wrong, what was expected and the likely fix."""


def read_image(path):
    """Read a picture file. path (str or os.PathLike) -> (H, W, 3) uint8 RGB.

    Grey, palette, CMYK and 1-bit pictures become RGB (CMYK by the plain formula, colour profiles are not applied).
    Transparent pixels are laid over white. 16-bit grey is scaled, v / 257. The EXIF orientation is applied. Of an
    animation the first frame is read. Raises ImageError, one line, for everything that is not such a picture.
    """
    if not isinstance(path, str | os.PathLike):
        raise ImageError(f"expected the path of a picture, found {type(path).__name__}")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata and large pictures
            return decode(file)
    except ImageError as error:
        problem = str(error)
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS / 1e6
        problem = f"it claims more than {limit:.0f} million pixels, too many to be safe; scale it down first"
    except FileNotFoundError:
        problem = f"no such file; check the path (relative paths start at {os.getcwd()!r})"
    except IsADirectoryError:
        problem = "it is a folder, expected a picture file; name one file in it"
    except PermissionError:
        problem = "no permission to read it; check its access rights (chmod u+r)"
    except Exception as error:  # Pillow's decoders raise a dozen kinds: OSError, SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        problem = f"it is broken or cut off ({reason}), expected a whole picture; copy or download it again"
    raise ImageError(f"cannot read {os.fspath(path)!r}: {problem}") from None


def decode(file):
    """The open file's first frame, upright, as (H, W, 3) uint8 RGB."""
    start = file.read(16)
    if not start:
        raise ImageError("the file is empty, expected a picture; copy or download it again")
    file.seek(0)
    Image.init()
    try:
        picture = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise ImageError(what_else(start)) from None
    picture.load()
    turn = UPRIGHT.get(orientation(picture), lambda a: a)  # after load(): a TIFF is turned by Pillow itself
    return np.ascontiguousarray(turn(to_rgb(picture)))


def what_else(start):
    """Why a file with these first bytes is no picture."""
    expected = "expected a picture such as JPEG or PNG"
    if start[4:8] == b"ftyp":
        return f"a phone's HEIC picture or a film, which Pillow cannot read, {expected}; export it as JPEG"
    for beginning, is_picture, name in BEGINNINGS:
        if start.startswith(beginning):
            if is_picture:
                return f"{name}, but broken or cut off near its start, expected a whole picture; copy it again"
            return f"not a picture but {name}, {expected}; check the path"
    return f"not a picture, or of a kind that is not read, {expected}; check the path"


def orientation(picture):
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except Exception:  # broken metadata: the pixels are still good
        return 1


def to_rgb(picture):
    """Pillow image of any mode -> (H, W, 3) uint8."""
    if picture.mode.startswith("I"):
        return grey_from_16_bit(np.asarray(picture))
    if picture.mode not in EIGHT_BIT_MODES:
        raise ImageError(f"its pixels are of Pillow's mode {picture.mode}, expected 8 or 16 bits; save it as 8-bit RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))


def grey_from_16_bit(values):
    """(H, W) integers 0 to 65535 -> (H, W, 3) uint8: 65535 / 255 = 257 steps become one."""
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("its grey values are wider than 16 bits, expected 0 to 65535; save it as 8-bit RGB")
    grey = ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    return np.stack([grey] * 3, axis=-1)


def as_image(array):
    """The same array if it is an RGB picture, (H, W, 3) uint8; else ImageError with one line that says what to do.

    The order of the colours cannot be checked: a picture from OpenCV is BGR and needs ``image[..., ::-1]`` first.
    """
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise ImageError(f"image: expected a NumPy array (H, W, 3) uint8 RGB, found {kind}; np.asarray may convert it")
    hint = shape_hint(array.shape) or dtype_hint(array)
    if hint:
        raise ImageError(f"image: expected (H, W, 3) uint8 RGB, found {array.shape} {array.dtype}; {hint}")
    return array


def shape_hint(shape):
    """What to do about a shape that is not (H, W, 3); None if it is."""
    if 0 in shape:
        return "it has no pixels, check how it was cut out"
    if len(shape) == 2:
        return "if it is grey, use np.stack([image] * 3, axis=-1)"
    if len(shape) == 4:
        return "give one image at a time, image[0]"
    if len(shape) != 3:
        return "check where it comes from"
    if shape[2] == 3:
        return None
    if shape[0] == 3:
        return "the colours come first, use image.transpose(1, 2, 0)"
    hints = {1: "it is grey, use image.repeat(3, axis=-1)", 4: "drop the fourth channel (alpha), image[..., :3]"}
    return hints.get(shape[2], "check where it comes from")


def dtype_hint(array):
    """What to do about a dtype that is not uint8; None if it is."""
    if array.dtype == np.uint8:
        return None
    if array.dtype.kind == "f":
        return "if it runs from 0 to 1, use (image * 255).round().astype(np.uint8)"
    if array.dtype == np.uint16:
        return "if it uses all 16 bits, use (image // 257).astype(np.uint8)"
    if array.dtype.kind in "iu":
        return "if it runs from 0 to 255, use image.astype(np.uint8)"
    return "its elements are no colour values, check where it comes from"
