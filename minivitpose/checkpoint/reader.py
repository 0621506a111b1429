"""Any checkpoint file to arrays: what the file is, is read off its first bytes, never off its name."""

import os
from dataclasses import dataclass, field

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError, quoted
from minivitpose.checkpoint.folder import is_index, model_file, read_shards
from minivitpose.checkpoint.mapped import map_file
from minivitpose.checkpoint.npz import read_npz
from minivitpose.checkpoint.safetensors import read_safetensors
from minivitpose.checkpoint.torch_legacy import read_torch_legacy
from minivitpose.checkpoint.torch_zip import is_torch_zip, is_torchscript, read_torch_zip
from minivitpose.checkpoint.zip_archive import ZipArchive

PREFIX = "module."  # what DistributedDataParallel puts in front of every name


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    state_dict: name -> array, in the file's order. Arrays are C-contiguous, in native byte order and read-only
        (they may be views of the file): copy one to write to it. bfloat16 has become float32, exactly; every other
        type is the file's: float16/32/64, signed and unsigned integers of 8 to 64 bits, bool.
    format: "PyTorch zip file", "PyTorch zip file saved without checksums", "PyTorch legacy file", "safetensors",
        "npz" or "safetensors in N shards"; of a mapping "mapping".
    ignored: name -> what it is, for everything else in the file (settings, optimizer, epoch, ...).
    path: the file that was read, of a folder the one in it; None for a mapping.
    """

    state_dict: dict[str, np.ndarray]
    format: str
    ignored: dict[str, str] = field(default_factory=dict)
    path: str | None = None


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights in a file, name -> array: `read_checkpoint(path).state_dict`."""
    return read_checkpoint(path).state_dict


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Reads a PyTorch file (zip or legacy), a safetensors file or an npz. Needs no PyTorch and runs nothing.

    path: the file; a folder as transformers saves it, with model.safetensors in it; or the index of a model in shards.

    Weights may be wrapped in "state_dict", "model_state_dict", "model" or "module"; the prefix "module." is
    dropped if every name has it. Names are otherwise those of the file.
    The file is memory-mapped where its layout allows: it may be deleted or replaced while the arrays live, but must
    not be overwritten in place (write a new file and os.replace it). Checksums, where the format has them, are
    verified for everything that is read.
    Raises CheckpointError, in one line with the file's name, for a file that is anything else, damaged or hostile.
    Source: the pages named in torch_zip.py, torch_legacy.py, safetensors.py, npz.py and folder.py.
    """
    path = os.fsdecode(path)
    try:
        if os.path.isdir(path):
            path = model_file(path)
        data = map_file(path)
        state_dict, ignored, file_format = read_shards(path, data) if is_index(data) else read(data)
        return Checkpoint(clean_names(state_dict), file_format, ignored, path)
    except CheckpointError as error:
        raise error.in_file(path) from None


def read(data: memoryview) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Finds out what the file is and hands it to its reader."""
    start = bytes(data[:16])
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return read_zip(ZipArchive(data))
    if start[8:9] == b"{":
        return read_safetensors(data)
    if start[:1] == b"\x80":
        return read_torch_legacy(data)
    raise CheckpointError(
        f"this is no checkpoint: {likely_cause(data)}",
        expected="a PyTorch file, safetensors or npz",
        found=f"a file of {len(data)} bytes that begins with {start!r}",
    )


def read_zip(archive: ZipArchive) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    if is_torchscript(archive):
        raise CheckpointError(
            "this is TorchScript, a compiled model, not its weights",
            fix="open it with torch.jit.load and save model.state_dict() with torch.save",
        )
    if is_torch_zip(archive):
        return read_torch_zip(archive)
    if any(name.endswith(".npy") for name in archive.records):
        return read_npz(archive)
    raise CheckpointError(
        "this zip is no checkpoint",
        expected="data.pkl (PyTorch) or .npy records (npz)",
        found=", ".join(quoted(name, 40) for name in list(archive.records)[:5]) or "nothing in it",
    )


def clean_names(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops the prefix `module.` if all names have it. Raises CheckpointError for names that cannot be printed."""
    if all(name.startswith(PREFIX) for name in state_dict):
        state_dict = {name.removeprefix(PREFIX): array for name, array in state_dict.items()}
    for name in state_dict:
        if not name or not name.isprintable():
            raise CheckpointError(f"a tensor has the name {quoted(name)}", expected="a name that can be printed")
    return state_dict


BEGINNINGS = {
    b"version https://git-lfs": "it is a git-lfs pointer, a note where the file is; fetch it with `git lfs pull`",
    b"\x89HDF": "it is HDF5 (Keras); convert it with its own framework",
    b"\x93NUMPY": "it is a single array (.npy); save a dict of arrays with numpy.savez",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"BZh": "it is compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "it is compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; unpack it first",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it first",
    b"Rar!": "it is a rar archive; unpack it first",
    b"GGUF": "it is GGUF, a format of language models",
    b"\x89PNG": "it is a picture",
    b"\xff\xd8\xff": "it is a picture",
    b"%PDF": "it is a PDF",
}


def likely_cause(data: memoryview) -> str:
    """What a file that is none of the formats probably is, and how to come by the right one."""
    start = bytes(data[:512])
    for beginning, cause in BEGINNINGS.items():
        if start.startswith(beginning):
            return cause
    if start[257:262] == b"ustar":
        return "it is a tar, PyTorch's oldest format; load it with an old PyTorch and save the state_dict again"
    if start[0] == 8 and start[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42"):
        return "it looks like ONNX, which holds a graph; use the PyTorch file it was exported from"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "it is a web page, perhaps an error or a login page; download the file itself"
    if text.startswith(b"{"):
        return "it is JSON, perhaps the index of a model in several files or an error message"
    if not any(start):
        return "it begins with zeros only; the download did not finish"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "it looks like text"
    return "its beginning is not known"
