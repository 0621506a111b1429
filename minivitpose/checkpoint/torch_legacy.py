"""PyTorch's file format before version 1.6, in which mmpose still publishes: five pickles, then the storages.

    pickle 1    a magic number
    pickle 2    1001, the version of the format
    pickle 3    a dict about the machine that wrote the file
    pickle 4    what was saved, with tensors described as parts of storages
    pickle 5    the list of the storages' names
    then, for each name: the number of elements (8 bytes, little-endian) and the elements, one after another

Nothing is aligned and there is no checksum. The elements are little-endian on every machine: big-endian ones swap
when they write (torch/csrc/serialization.cpp), so what pickle 3 says of the machine's byte order does not matter,
and torch.load does not look at it either.
"""

import numpy as np

from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted
from minivitpose.checkpoint.state_dict import describe, select_weights
from minivitpose.checkpoint.torch_arrays import build_arrays
from minivitpose.checkpoint.torch_objects import Storage, unpickle_torch

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
VERSION = 1001
MAX_SMALL_PICKLE = 1 << 10  # bytes of pickles 2 and 3
MAX_KEYS = 512 << 10  # bytes of the list of storages: some 15 000 names


def read_torch_legacy(data: memoryview) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Returns (state dict, what was ignored, name of the format). Raises CheckpointError."""
    magic, position, _ = unpickle_torch(data)
    if magic != MAGIC_NUMBER:
        raise not_from_torch(magic)
    version, position, _ = unpickle_torch(data, position, MAX_SMALL_PICKLE)
    if version != VERSION:
        raise CheckpointError("unknown version of PyTorch's old format", expected=str(VERSION), found=quoted(version))
    machine, position, _ = unpickle_torch(data, position, MAX_SMALL_PICKLE)
    if not isinstance(machine, dict):
        raise CheckpointError("the third pickle is damaged", expected="a dict", found=describe(machine), fix=DAMAGED)
    saved, position, storages = unpickle_torch(data, position)
    weights, ignored = select_weights(saved)
    keys, position, _ = unpickle_torch(data, position, MAX_KEYS)
    rows, end = find_storages(data, position, keys, storages)

    def read_storage(storage: Storage) -> memoryview:
        if storage.key not in rows:
            raise CheckpointError(f"the file lacks the storage {quoted(storage.key)}", fix=DAMAGED)
        return rows[storage.key]

    arrays = build_arrays(weights, read_storage, big_endian=False, file_size=len(data))
    if end < len(data):
        ignored["(end of the file)"] = f"{len(data) - end} bytes after the last storage"
    return arrays, ignored, "PyTorch legacy file"


def find_storages(
    data: memoryview, position: int, keys: object, storages: dict[str, Storage]
) -> tuple[dict[str, memoryview], int]:
    """Walks along the storages: (the bytes of each, where the last one ends)."""
    if not isinstance(keys, list):
        raise CheckpointError("the list of storages is damaged", expected="a list", found=describe(keys), fix=DAMAGED)
    rows: dict[str, memoryview] = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in rows:
            raise CheckpointError(f"the list of storages is damaged at {quoted(key)}", fix=DAMAGED)
        storage = storages[key]
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        position, start = position + 8 + storage.root_bytes, position + 8
        if count != storage.root_count or position > len(data):
            raise CheckpointError(
                f"storage {quoted(key)} is cut off or damaged",
                expected=f"{storage.root_count} elements in {storage.root_bytes} bytes",
                found=f"{count} elements in {max(0, len(data) - start)} bytes",
                fix="download or save the file again",
            )
        rows[key] = data[start:position]
    return rows, position


def not_from_torch(first: object) -> CheckpointError:
    """The first pickle is not the magic number: somebody used `pickle` instead of `torch.save`."""
    return CheckpointError(
        "this is a plain pickle, not a PyTorch file",
        expected="the magic number of torch.save",
        found=describe(first),
        fix="save the state_dict with torch.save, safetensors or numpy.savez",
    )
