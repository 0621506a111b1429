"""Files that appear whole or not at all, and folders in which one process works at a time."""

import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def replacing(path, lasting=False):
    """``with replacing(path) as file:`` a binary file to write, which takes the place of ``path`` at the end.

    An interrupt, an error or a full disk leaves what was there before, and nothing else. An OSError names ``path``.
    lasting: it is on the disk before it takes the place, so that a power cut leaves the old file or the new one.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the name that the caller knows
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):  # an interrupt may come when the file has just got its name
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename = str(path)
        raise


class BusyError(RuntimeError):
    """Another process works in this folder."""


@contextmanager
def alone_in(folder):
    """``with alone_in(folder):`` no other process that asks works there meanwhile; BusyError if one already does.

    The lock is the system's and ends with the process, however that ends; it leaves no file. Where there is none, on
    Windows and some network drives, nothing is checked.
    """
    handle = locked(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def locked(folder):
    """An open handle that has the folder's lock, None where there are no locks. Raises BusyError."""
    if fcntl is None:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if handle is not None:
            os.close(handle)
        if isinstance(error, BlockingIOError):
            text = f"another minivitpose is writing into {folder}: wait for its end, or give another folder"
            raise BusyError(text) from None
        return None
    return handle


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path, text):
    """The whole text as UTF-8 under its name, or what was there before."""
    with replacing(path) as file:
        file.write(text.encode())
