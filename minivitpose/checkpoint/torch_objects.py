"""What PyTorch puts into a pickle: tensors described as (storage, offset, size, stride), never their numbers.

The numbers lie outside, in storages, because several tensors may share one: a transposed view, tied weights.
`unpickle_torch` returns these descriptions; `build_arrays` turns those of the weights into arrays.
Source: torch/_utils.py (the _rebuild functions) and torch/serialization.py (persistent ids).
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from minivitpose.checkpoint.dtypes import (
    ITEM_SIZE,
    MAX_BYTES,
    REFUSED_ITEM_SIZE,
    check_dtype,
    check_shape,
    elements,
    finished,
)
from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted
from minivitpose.checkpoint.pickle_instructions import MAX_INSTRUCTIONS
from minivitpose.checkpoint.unpickle import Global, Placeholder, safe_key, unpickle

MAX_PICKLE = 64 << 20  # bytes; ViTPose-H has 60 kB
SMALL = 16 << 20  # bytes of arrays that any file may expand to (views of small storages)
HONEST_GROWTH = 8  # beyond that, all arrays together may be so many times as large as the file

STORAGES = {  # class of storage -> element type
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "bytes",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8 (quantised)", "QUInt8Storage": "quint8 (quantised)", "QInt32Storage": "qint32 (quantised)",
    "QUInt4x2Storage": "quint4x2 (quantised)", "QUInt2x4Storage": "quint2x4 (quantised)",
}  # fmt: skip
WIDTH = ITEM_SIZE | REFUSED_ITEM_SIZE


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of `count` elements that lies elsewhere in the file, or the part of it from element `first` on."""

    key: str
    dtype: str
    count: int
    first: int = 0
    root_count: int = 0  # elements of the whole row

    @property
    def root_bytes(self) -> int:
        return self.root_count * WIDTH[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Element (i, j, ...) is number offset + i * stride[0] + j * stride[1] + ... of the storage."""

    storage: Storage
    offset: int
    shape: tuple
    stride: tuple
    dtype: str


# ---- what the pickle may build ---------------------------------------------------------------------------------


def malformed(what: str) -> CheckpointError:
    return CheckpointError(f"the file describes {what} in a way torch.save never does", fix=DAMAGED)


def is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < MAX_BYTES


def storage_from_id(identifier: object) -> object:
    """('storage', class, key, device, elements[, view]) -> Storage; ('module', class, ...) -> the class's name."""
    kind, *rest = identifier if isinstance(identifier, tuple) and identifier else (None,)
    if kind == "module" and rest and isinstance(rest[0], Global):
        return rest[0]
    if kind != "storage" or len(rest) not in (4, 5) or not isinstance(rest[0], Global):
        raise malformed("a storage")
    storage_class, key, _, count = rest[:4]
    if not isinstance(key, str) or not re.fullmatch(r"\w{1,64}", key, re.ASCII):
        raise CheckpointError(f"a storage has the name {quoted(key)}", expected="a number, no path", fix=DAMAGED)
    if not is_count(count):
        raise malformed(f"a storage of {quoted(count)} elements")
    dtype = STORAGES.get(storage_class.name)
    if dtype is None:
        return Placeholder(str(storage_class))
    view = rest[4] if len(rest) == 5 else None
    return Storage(key, dtype, count, 0, count) if view is None else view_of(Storage(key, dtype, count), view)


def view_of(root: Storage, view: object) -> Storage:
    """Old files have views of storages: (name of the view, first element, number of elements)."""
    if not (isinstance(view, tuple) and len(view) == 3 and is_count(view[1]) and is_count(view[2])):
        raise malformed("a view of a storage")
    _, first, count = view
    if first + count > root.count:
        raise CheckpointError(
            "a view of a storage reaches outside it", expected=f"at most {root.count}", found=f"{first + count}"
        )
    return Storage(root.key, root.dtype, count, first, root.count)


def rebuild_tensor(arguments: tuple) -> object:
    """(storage, offset, size, stride[, requires_grad, hooks[, metadata]]) -> Tensor"""
    if len(arguments) < 4:
        raise malformed("a tensor")
    storage, offset, shape, stride = arguments[:4]
    if isinstance(storage, Placeholder):
        return storage
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise malformed("a tensor")
    if len(arguments) > 6 and isinstance(arguments[6], dict) and any(v is True for v in arguments[6].values()):
        return Placeholder("a tensor with a pending negation or conjugation")
    return Tensor(storage, offset, shape, stride, storage.dtype)


def rebuild_tensor_v3(arguments: tuple) -> object:
    """(storage of bytes, offset, size, stride, requires_grad, hooks, dtype[, metadata]) -> Tensor"""
    if len(arguments) < 7 or not isinstance(arguments[6], Global) or arguments[6].module != "torch":
        raise malformed("a tensor")
    tensor = rebuild_tensor(arguments[:6])
    return replace(tensor, dtype=arguments[6].name) if isinstance(tensor, Tensor) else tensor


def rebuild_parameter(arguments: tuple) -> object:
    """(tensor, requires_grad, hooks[, state]) -> the tensor"""
    if not arguments or not isinstance(arguments[0], Tensor | Placeholder):
        raise malformed("a parameter")
    return arguments[0]


def rebuild_from_type(arguments: tuple) -> object:
    """(function, class, arguments, state): a tensor that somebody gave attributes."""
    if len(arguments) < 3 or not isinstance(arguments[0], Global) or not isinstance(arguments[2], tuple):
        raise malformed("a tensor")
    function, tensor_class = str(arguments[0]), str(arguments[1])
    if function not in TENSORS or tensor_class not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        return Placeholder(f"torch._tensor._rebuild_from_type_v2 of {tensor_class[:80]}")
    return TENSORS[function](arguments[2])


def size(arguments: tuple) -> object:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else Placeholder("torch.Size")


TENSORS = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
    "torch.nn.parameter.Parameter": rebuild_parameter,
}
BUILDERS = TENSORS | {
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
    "torch.Size": size,
    "collections.defaultdict": lambda arguments: {},
}


class OrderedDicts:
    """Builds every OrderedDict of one pickle: () -> {}, or ([[key, value], ...],), as Python 2 wrote it."""

    def __init__(self):
        self.pairs_left = MAX_INSTRUCTIONS  # one long list, named again and again, could make endless dicts

    def __call__(self, arguments: tuple) -> dict:
        pairs = arguments[0] if arguments else []
        if not isinstance(pairs, list):
            raise malformed("an OrderedDict")
        self.pairs_left -= len(pairs)
        if self.pairs_left < 0 or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            raise malformed("an OrderedDict")
        return {safe_key(key): value for key, value in pairs}


def unpickle_torch(
    data: memoryview, start: int = 0, limit: int = MAX_PICKLE
) -> tuple[object, int, dict[str, Storage]]:
    """Reads one pickle of at most `limit` bytes: (the object, where the pickle ends, the storages it mentions)."""
    storages: dict[str, Storage] = {}

    def look_up(identifier: object) -> object:
        storage = storage_from_id(identifier)
        if isinstance(storage, Storage):
            known = storages.setdefault(storage.key, storage)
            if known.root_bytes != storage.root_bytes:
                raise malformed(f"storage {quoted(storage.key)}")
        return storage

    builders = BUILDERS | {"collections.OrderedDict": OrderedDicts()}
    saved, end = unpickle(data[: start + limit], start, builders, look_up)
    return saved, end, storages


# ---- from descriptions to arrays -------------------------------------------------------------------------------


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
    width, count = ITEM_SIZE[tensor.dtype], math.prod(tensor.shape)
    if count == 0 or is_contiguous(tensor):
        used = raw[tensor.offset * width : (tensor.offset + count) * width] if count else raw[:0]
        return finished(elements(used, tensor.dtype, big_endian).reshape(tensor.shape), tensor.dtype)
    steps = [step * width if n > 1 else 0 for n, step in zip(tensor.shape, tensor.stride, strict=True)]
    stored = elements(raw[: len(raw) // width * width], tensor.dtype, big_endian)
    view = np.ndarray(tensor.shape, stored.dtype, stored, tensor.offset * width, steps)
    return finished(view, tensor.dtype)


def is_contiguous(tensor: Tensor) -> bool:
    expected = 1
    for n, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True
