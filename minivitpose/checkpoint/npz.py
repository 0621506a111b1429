"""npz: a zip of .npy files. An .npy file is a magic text, a header in Python's notation, then the numbers.

    b"\\x93NUMPY", version (2 bytes), length of the header, {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }

Read by hand since numpy.load raises many kinds of errors and trusts the sizes it finds.
Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import re

import numpy as np

from minivitpose.checkpoint.dtypes import ITEM_SIZE, STORED_AS, check_shape, elements, finished
from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, printable, quoted
from minivitpose.checkpoint.zip_archive import ZipArchive

MAX_HEADER = 10_000
HEADER = re.compile(
    r"\{\s*'descr':\s*(?P<descr>'[^']*'|\[.*\]),\s*'fortran_order':\s*(?P<fortran>True|False),"
    r"\s*'shape':\s*\((?P<shape>[0-9L, ]*)\),?\s*\}\s*",
    re.ASCII,
)
DTYPES = {code: name for name, code in STORED_AS.items() if name not in ("bfloat16", "bool")} | {"b1": "bool"}


def read_npz(archive: ZipArchive) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Returns (state dict, what was ignored, name of the format). Raises CheckpointError."""
    arrays: dict[str, np.ndarray] = {}
    ignored: dict[str, str] = {}
    for name in archive.records:
        key = name.removesuffix(".npy")
        if key == name:
            ignored[printable(name, 80)] = "no .npy file"
            continue
        array = read_npy(archive.read(name), key)
        if isinstance(array, str):
            ignored[printable(key, 80)] = array
        else:
            arrays[key] = array
    if not arrays:
        raise CheckpointError("the zip holds no arrays", expected="name.npy, as numpy.savez writes it")
    return arrays, ignored, "npz"


def read_npy(data: memoryview, key: str) -> np.ndarray | str:
    """The array in an .npy file, or a description of it if it is text."""
    descr, fortran, shape, start = read_header(data, key)
    order, kind = descr[:1], descr[1:]
    if kind[:1] in ("U", "S"):
        return describe_text(data[start:], descr)
    if kind not in DTYPES or order not in "<>|=":
        raise refused(key, descr)
    dtype = DTYPES[kind]
    count = check_shape(shape, key)
    if count * ITEM_SIZE[dtype] != len(data) - start:
        raise CheckpointError(
            f"array {quoted(key)} has the wrong size",
            expected=f"{count * ITEM_SIZE[dtype]} bytes for {dtype} {shape}",
            found=f"{len(data) - start}",
            fix=DAMAGED,
        )
    stored = elements(data[start:], dtype, big_endian=order == ">")
    return finished(stored.reshape(shape, order="F" if fortran else "C"), dtype)


def read_header(data: memoryview, key: str) -> tuple[str, bool, tuple, int]:
    """(code of the element type, whether columns come first, shape, where the numbers begin)."""
    width = {1: 2, 2: 4, 3: 4}.get(data[6]) if len(data) > 12 else None
    if bytes(data[:6]) != b"\x93NUMPY" or width is None:
        raise CheckpointError(f"array {quoted(key)} does not begin like an .npy file", fix=DAMAGED)
    size = int.from_bytes(data[8 : 8 + width], "little")
    start = 8 + width + size
    if size > MAX_HEADER or start > len(data):
        raise CheckpointError(f"array {quoted(key)} has a header of {size} bytes", fix=DAMAGED)
    text = str(data[8 + width : start], "latin-1")
    found = HEADER.fullmatch(text)
    if not found:
        raise CheckpointError(f"array {quoted(key)} has a damaged header", found=quoted(text, 100), fix=DAMAGED)
    lengths = [part.strip().removesuffix("L") for part in found["shape"].split(",") if part.strip()]
    if not all(re.fullmatch(r"[0-9]{1,19}", length) for length in lengths):
        raise CheckpointError(f"array {quoted(key)} has an impossible shape", found=quoted(found["shape"]), fix=DAMAGED)
    return found["descr"].strip("'"), found["fortran"] == "True", tuple(map(int, lengths)), start


def refused(key: str, descr: str) -> CheckpointError:
    if descr in ("|O", "O"):
        return CheckpointError(
            f"array {quoted(key)} holds pickled Python objects, which are never opened",
            expected="an array of numbers",
            fix="save it with a numeric dtype",
        )
    return CheckpointError(
        f"array {quoted(key)} has the element type {quoted(descr)}, which is not supported",
        expected="floating-point, integer or bool",
        fix="convert it to float32",
    )


def describe_text(raw: memoryview, descr: str) -> str:
    """Text beside the weights, such as a header: the beginning of it."""
    encoding = {"<U": "utf-32-le", ">U": "utf-32-be"}.get(descr[:2], "latin-1")
    return printable("text " + repr(str(raw[:400], encoding, "replace").rstrip("\0")), 120)
