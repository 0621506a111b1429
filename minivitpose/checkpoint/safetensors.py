"""safetensors: the length of a header (8 bytes), the header (JSON), then the numbers, tightly packed.

    {"__metadata__": {"format": "pt"}, "name": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}, ...}

Read by hand rather than with the `safetensors` package, which cannot give bfloat16 to NumPy, nor views of the
mapped file. There is no checksum, but every byte behind the header must belong to exactly one tensor.
Source: https://github.com/huggingface/safetensors, section "Format".
"""

import numpy as np

from minivitpose.checkpoint.dtypes import ITEM_SIZE, MAX_BYTES, check_dtype, check_shape, elements, finished
from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, printable, quoted
from minivitpose.checkpoint.json_text import parse_object

MAX_HEADER = 2 << 20  # bytes; the header of ViTPose-H has 80 kB

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip


def read_safetensors(data: memoryview) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Returns (state dict, what was ignored, name of the format). Raises CheckpointError."""
    header, start = read_header(data)
    metadata = header.pop("__metadata__", None)
    if not header:
        raise CheckpointError("the file holds no tensors")
    body, arrays, places = data[start:], {}, []
    for key, entry in header.items():
        dtype, shape, first, last = check_entry(key, entry, len(body))
        arrays[key] = finished(elements(body[first:last], dtype).reshape(shape), dtype)
        places.append((first, last))
    check_packing(places, len(body))
    return arrays, {"__metadata__": describe_metadata(metadata)} if metadata else {}, "safetensors"


def read_header(data: memoryview) -> tuple[dict, int]:
    """(the header, where the numbers begin)."""
    size = int.from_bytes(data[:8], "little")
    if size > min(MAX_HEADER, len(data) - 8):
        limit = min(MAX_HEADER, len(data) - 8)
        raise CheckpointError(
            "the header has an impossible length", expected=f"at most {limit} bytes", found=str(size), fix=DAMAGED
        )
    return parse_object(data[8 : 8 + size], "the header", deepest=3), 8 + size


def check_entry(key: str, entry: object, size: int) -> tuple[str, tuple, int, int]:
    """(element type, shape, first byte, byte after the last) of one tensor in a body of `size` bytes."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"tensor {quoted(key)} is described wrongly", expected="dtype, shape and data_offsets", fix=DAMAGED
        )
    code, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(code, code) if isinstance(code, str) else quoted(code)
    check_dtype(dtype, key)
    if not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2:
        raise CheckpointError(f"tensor {quoted(key)} has an impossible shape or place", fix=DAMAGED)
    count = check_shape(tuple(shape), key)
    first, last = place
    if not all(type(p) is int and 0 <= p < MAX_BYTES for p in place) or not first <= last <= size:
        raise CheckpointError(
            f"tensor {quoted(key)} lies outside the file",
            expected=f"bytes within 0..{size}",
            found=f"{quoted(first)}..{quoted(last)}",
            fix=DAMAGED,
        )
    if count * ITEM_SIZE[dtype] != last - first:
        raise CheckpointError(
            f"tensor {quoted(key)} has the wrong size",
            expected=f"{count * ITEM_SIZE[dtype]} bytes for {dtype} {tuple(shape)}",
            found=f"{last - first}",
            fix=DAMAGED,
        )
    return dtype, tuple(shape), first, last


def check_packing(places: list[tuple[int, int]], size: int) -> None:
    """Raises CheckpointError unless the tensors fill the body one after another, without overlap or gap."""
    end = 0
    for first, last in sorted(places):
        if first != end:
            problem = "overlap" if first < end else "leave a gap"
            raise CheckpointError(
                f"tensors {problem} in the file", expected=f"byte {end}", found=f"{first}", fix=DAMAGED
            )
        end = last
    if end != size:
        raise CheckpointError(f"{size - end} bytes at the end of the file belong to no tensor", fix=DAMAGED)


def describe_metadata(metadata: object) -> str:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ in the header is not a table of texts", fix=DAMAGED)
    return printable(", ".join(f"{key}: {value[:100]}" for key, value in list(metadata.items())[:20]), 200)
