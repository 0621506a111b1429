"""PyTorch's file format since version 1.6: a zip of one pickle (data.pkl) and one record for each storage.

    archive/data.pkl        what was saved, with tensors described as parts of storages
    archive/data/0          the numbers of storage "0", as they lay in memory, from a multiple of 64 bytes on
    archive/byteorder       "little" or "big" (absent in older files: little)
    archive/version         "3"

The records are not compressed, so a storage in the file is already the array: it only has to be mapped.
Source: torch/serialization.py and caffe2/serialize/inline_container.h.
"""

import re

import numpy as np

from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted
from minivitpose.checkpoint.state_dict import select_weights
from minivitpose.checkpoint.torch_arrays import build_arrays
from minivitpose.checkpoint.torch_objects import MAX_PICKLE, Storage, unpickle_torch
from minivitpose.checkpoint.zip_archive import ZipArchive


def read_torch_zip(archive: ZipArchive) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Returns (state dict, what was ignored, name of the format). Raises CheckpointError."""
    folder = find_folder(archive)
    checked = archive.has_checksums  # set_crc32_options(False) writes zeros for all of them
    pickle_name = folder + "data.pkl"
    if archive.records[pickle_name].size > MAX_PICKLE:
        raise CheckpointError(f"data.pkl is larger than {MAX_PICKLE} bytes", fix="save only the state_dict")
    saved, _, _ = unpickle_torch(archive.read(pickle_name, checked))
    weights, ignored = select_weights(saved)

    def read_storage(storage: Storage) -> memoryview:
        return read_record(archive, f"{folder}data/{storage.key}", storage.root_bytes)

    arrays = build_arrays(weights, read_storage, is_big_endian(archive, folder), len(archive.data))
    return arrays, ignored, "PyTorch zip file" if checked else "PyTorch zip file saved without checksums"


def is_torch_zip(archive: ZipArchive) -> bool:
    return any(re.fullmatch(r"([^/]+/)?data\.pkl", name) for name in archive.records)


def is_torchscript(archive: ZipArchive) -> bool:
    return any(re.match(r"([^/]+/)?(constants\.pkl$|code/)", name) for name in archive.records)


def find_folder(archive: ZipArchive) -> str:
    """The folder in which everything lies, with its slash: torch.save names it after the file."""
    names = [name for name in archive.records if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(names) != 1:
        raise CheckpointError(f"the zip has {len(names)} records data.pkl", expected="exactly one", fix=DAMAGED)
    return names[0].removesuffix("data.pkl")


def read_record(archive: ZipArchive, name: str, size: int) -> memoryview:
    """The record of a storage, which must hold at least `size` bytes."""
    if name not in archive.records:
        if size == 0:
            return memoryview(b"")
        raise CheckpointError(f"the zip lacks the record {quoted(name)}", fix=DAMAGED)
    if archive.records[name].size < size:
        raise CheckpointError(
            f"record {quoted(name)} is too small for its storage",
            expected=f"{size} bytes",
            found=f"{archive.records[name].size}",
            fix=DAMAGED,
        )
    return archive.read(name, archive.has_checksums)


def is_big_endian(archive: ZipArchive, folder: str) -> bool:
    name = folder + "byteorder"
    if name not in archive.records:
        return False
    order = bytes(archive.read(name, archive.has_checksums)[:16])
    if order not in (b"little", b"big"):
        raise CheckpointError("the record 'byteorder' is damaged", expected="little or big", found=quoted(str(order)))
    return order == b"big"
