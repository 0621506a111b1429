"""Element types: what a file calls them, how wide they are, and the NumPy arrays they become.

Every type keeps its width and value, except bfloat16, which NumPy does not have: it is the upper half of a
float32, so it becomes float32, exactly.
"""

import math

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError, quoted

MAX_DIMENSIONS = 32  # what every NumPy and PyTorch can hold
MAX_BYTES = 2**62  # nobody has more; keeps every product of sizes within int64

STORED_AS = {  # name -> NumPy code of the bytes in the file
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "bool": "u1",
    "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1",
    "uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1",
}  # fmt: skip
ITEM_SIZE = {name: int(code[1]) for name, code in STORED_AS.items()}
REFUSED_ITEM_SIZE = {  # known by name and width, but no weights of a network for this package
    "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "qint8 (quantised)": 1, "quint8 (quantised)": 1, "qint32 (quantised)": 4,
    "quint4x2 (quantised)": 1, "quint2x4 (quantised)": 1, "bytes": 1,
}  # fmt: skip


def check_dtype(dtype: str, key: str) -> None:
    """Raises CheckpointError, naming the type, where the tensor `key` is of a type that cannot be weights here."""
    if dtype not in STORED_AS:
        raise CheckpointError(
            f"tensor {quoted(key)} is of type {dtype}, which is not supported",
            expected="floating-point, integer or bool weights",
            fix="convert it to float32 in PyTorch and save again",
        )


def check_shape(shape: tuple, key: str) -> int:
    """The number of elements of an array of `shape`. Raises CheckpointError where no array can have it."""
    if len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"tensor {quoted(key)} has {len(shape)} dimensions", expected=f"at most {MAX_DIMENSIONS}")
    for length in shape:
        if type(length) is not int or not 0 <= length < MAX_BYTES:
            raise CheckpointError(f"tensor {quoted(key)} has an impossible length in its shape", found=quoted(length))
    if math.prod(length for length in shape if length) >= MAX_BYTES // 8:  # as NumPy counts, empty or not
        raise CheckpointError(
            f"tensor {quoted(key)} has the absurd shape {shape}", expected="a shape that fits in memory"
        )
    return math.prod(shape)


def elements(raw: memoryview, dtype: str, big_endian: bool = False) -> np.ndarray:
    """Bytes (count * item size) -> (count,) elements as they are stored: nothing is copied or converted."""
    stored = np.dtype((">" if big_endian else "<") + STORED_AS[dtype])
    return np.frombuffer(raw, stored) if len(raw) else np.empty(0, stored)


def finished(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored elements in any layout -> the same shape, C-contiguous, aligned, native byte order, read-only.

    A copy is made only where the stored bytes do not have these properties already.
    """
    if dtype == "bfloat16":
        array = (stored.astype(np.uint32, order="C") << 16).view(np.float32)
    elif dtype == "bool":
        array = np.not_equal(stored, 0, order="C")
    else:
        array = np.require(stored, stored.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"])
    array = np.asarray(array)  # NumPy's operators return scalars for 0-dim arrays
    array.flags.writeable = False
    return array
