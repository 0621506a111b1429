"""From PyTorch's descriptions of tensors to arrays: check every one, then map or copy."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from minivitpose.checkpoint.dtypes import ITEM_SIZE, check_dtype, check_shape, elements, finished
from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted
from minivitpose.checkpoint.torch_objects import WIDTH, Storage, Tensor, is_count

SMALL = 16 << 20  # bytes of arrays that any file may expand to (views of small storages)
HONEST_GROWTH = 8  # beyond that, all arrays together may be so many times as large as the file


def build_arrays(
    weights: Mapping[str, Tensor], read_storage: Callable[[Storage], memoryview], big_endian: bool, file_size: int
) -> dict[str, np.ndarray]:
    """Descriptions -> arrays. Names of the same part of the same storage get the same array.

    read_storage: gives the bytes of a whole row, at least `storage.root_bytes` of them.
    Everything is checked before the first array is made, so that no file can ask for more memory than is honest.
    """
    for key, tensor in weights.items():
        check_tensor(key, tensor)
    check_growth(weights, SMALL + HONEST_GROWTH * file_size)
    rows: dict[str, memoryview] = {}
    arrays: dict[Tensor, np.ndarray] = {}
    for tensor in weights.values():
        if tensor not in arrays:
            storage = tensor.storage
            if storage.key not in rows:
                rows[storage.key] = read_storage(storage)
            arrays[tensor] = build_array(tensor, part(rows[storage.key], storage), big_endian)
    return {key: arrays[tensor] for key, tensor in weights.items()}


def check_tensor(key: str, tensor: Tensor) -> None:
    """Raises CheckpointError unless every element of the tensor lies inside its storage."""
    check_dtype(tensor.dtype, key)
    count = check_shape(tensor.shape, key)
    if len(tensor.stride) != len(tensor.shape) or not all(map(is_count, (tensor.offset, *tensor.stride))):
        raise CheckpointError(f"tensor {quoted(key)} has an impossible offset or strides", fix=DAMAGED)
    available = tensor.storage.count * WIDTH[tensor.storage.dtype] // ITEM_SIZE[tensor.dtype]
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
    if count and last >= available:
        raise CheckpointError(
            f"tensor {quoted(key)} reaches outside its storage",
            expected=f"at most element {available - 1}",
            found=f"element {last}",
            fix=DAMAGED,
        )


def check_growth(weights: Mapping[str, Tensor], allowed: int) -> None:
    """Raises CheckpointError if a small file would become huge arrays (expanded views, many views of one storage)."""
    key_of = {tensor: key for key, tensor in weights.items()}
    sizes = {key: math.prod(tensor.shape) * ITEM_SIZE[tensor.dtype] for tensor, key in key_of.items()}
    if sum(sizes.values()) > allowed:
        largest = max(sizes, key=sizes.get)
        raise CheckpointError(
            f"the tensors would become {sum(sizes.values())} bytes, tensor {quoted(largest)} alone {sizes[largest]}",
            expected=f"at most {allowed} bytes from a file of this size",
            fix="if it holds expanded views, call .contiguous() on them before saving",
        )


def part(row: memoryview, storage: Storage) -> memoryview:
    width = WIDTH[storage.dtype]
    return row[storage.first * width : (storage.first + storage.count) * width]


def build_array(tensor: Tensor, raw: memoryview, big_endian: bool) -> np.ndarray:
    """One array of the tensor's shape, a view of `raw` (the bytes of its storage) if its layout allows that."""
    width = ITEM_SIZE[tensor.dtype]
    if 0 in tensor.shape:
        return finished(elements(raw[:0], tensor.dtype).reshape(tensor.shape), tensor.dtype)
    stored = elements(raw[: len(raw) // width * width], tensor.dtype, big_endian)
    steps = [step * width if n > 1 else 0 for n, step in zip(tensor.shape, tensor.stride, strict=True)]
    view = np.ndarray(tensor.shape, stored.dtype, stored, tensor.offset * width, steps)
    return finished(view, tensor.dtype)
