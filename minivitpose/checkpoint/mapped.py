"""A file as a read-only block of memory, without reading it: the operating system brings pages in when touched."""

import mmap
import os
import stat

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError


def map_file(path: str | os.PathLike) -> memoryview:
    """The bytes of the file `path`, memory-mapped and read-only.

    The map lives as long as an array or view into it; the file may be deleted or replaced meanwhile
    (on Linux and macOS). Do not overwrite it in place: write a new file and `os.replace` it.
    Raises CheckpointError if there is no such file, it may not be read, or it is empty or a directory.
    """
    try:
        kind = os.stat(path)
    except FileNotFoundError:
        raise CheckpointError("there is no such file", fix="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise CheckpointError(f"the file cannot be opened: {reason(error)}", fix="check the path") from None
    if stat.S_ISDIR(kind.st_mode):
        raise CheckpointError("this is a directory", expected="a file", fix="give the checkpoint inside it")
    if not stat.S_ISREG(kind.st_mode):
        raise CheckpointError("this is a pipe or a device", expected="a file", fix="copy it into a file first")
    if kind.st_size == 0:
        raise CheckpointError("the file is empty", fix="the download or save did not finish: do it again")
    return map_regular_file(path)


def map_regular_file(path: str | os.PathLike) -> memoryview:
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except PermissionError:
        raise CheckpointError("no permission to read the file", fix="change its permissions (chmod +r)") from None
    except (OSError, ValueError) as error:  # ValueError: it was emptied since we looked
        raise CheckpointError(f"the file cannot be opened: {reason(error)}") from None


def let_go(array: np.ndarray) -> None:
    """Tells the system that the pages of the mapped file behind `array` may leave memory; reading brings them back."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
