"""What PyTorch puts into a pickle: tensors described as (storage, offset, size, stride), never their numbers.

The numbers lie outside, in storages, because several tensors may share one: a transposed view, tied weights.
`unpickle_torch` returns these descriptions; `torch_arrays` turns those of the weights into arrays.
Source: torch/_utils.py (the _rebuild functions) and torch/serialization.py (persistent ids).
"""

import re
from dataclasses import dataclass, replace

from minivitpose.checkpoint.dtypes import ITEM_SIZE, MAX_BYTES, REFUSED_ITEM_SIZE
from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted
from minivitpose.checkpoint.pickle_instructions import MAX_INSTRUCTIONS
from minivitpose.checkpoint.unpickle import Global, Placeholder, safe_key, unpickle

MAX_PICKLE = 32 << 20  # bytes; ViTPose-H has 60 kB

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
    metadata = arguments[6] if len(arguments) > 6 and isinstance(arguments[6], dict) else {}
    if metadata.get("neg") or metadata.get("conj"):
        return Placeholder("a tensor with a pending negation or conjugation")
    return Tensor(storage, offset, shape, stride, storage.dtype)


def rebuild_tensor_v3(arguments: tuple) -> object:
    """(storage of bytes, offset, size, stride, requires_grad, hooks, dtype[, metadata]) -> Tensor"""
    if len(arguments) < 7 or not isinstance(arguments[6], Global) or arguments[6].module != "torch":
        raise malformed("a tensor")
    tensor = rebuild_tensor(arguments[:6] + arguments[7:8])
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
    function, tensor_class, inner = arguments[:3]
    if str(function) in TENSORS and tensor_class in TENSOR_CLASSES:
        return TENSORS[str(function)](inner)
    return Placeholder(f"{tensor_class} made by {function}" if isinstance(tensor_class, Global) else str(function))


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
TENSOR_CLASSES = [Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter")]
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


def unpickle_torch(data: memoryview, start: int = 0, limit: int = MAX_PICKLE) -> tuple[object, int, dict[str, Storage]]:
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
