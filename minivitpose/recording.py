"""Recorded activations as a file: an npz with a header, whole or a sample, written at once or not at all.

``__header__`` is JSON (as bytes): format and version, where the numbers come from, and the facts of each activation.
``images`` went into the network. For each activation ``value/NAME`` is what PyTorch computed; ``truth/NAME`` and
``alone/NAME`` are the float64 truth less that value, in float32: the differences are so small that float64 is kept.
"""

import json
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minivitpose.checkpoint import CheckpointError, read_state_dict
from minivitpose.config import as_dict
from minivitpose.trace import Facts, Reference, sample_of

FORMAT, VERSION = "minivitpose activations", 1


class RecordingError(ValueError):
    """This file does not hold recorded activations that can be used; the message says why and what to do."""


def make_header(config, seed=None, **versions):
    """Where a recording comes from. versions: name -> version of what computed it, beside NumPy's and Python's."""
    from minivitpose import __version__

    versions = {"minivitpose": __version__, "numpy": np.__version__, "python": platform.python_version()} | versions
    return {"config": as_dict(config), "seed": seed, "versions": versions}


def save_reference(reference, path, sample=None):
    """Write a Reference to an npz file; with ``sample``, only about that many elements of each activation.

    The file appears under its name when it is whole: an interrupt or a full disk leaves what was there before.
    """
    arrays = {"images": reference.images}
    for name, x in reference.values.items():
        places = slice(None) if sample is None else sample_of(x.size, sample)
        arrays[f"value/{name}"] = x if sample is None else x.reshape(-1)[places]
        kinds = {"truth": reference.truth} if sample else {"truth": reference.truth, "alone": reference.alone}
        for kind, truths in kinds.items():
            if name in truths:
                rest = (truths[name] - x).astype(np.float32)
                arrays[f"{kind}/{name}"] = rest if sample is None else rest.reshape(-1)[places]
    header = {"format": FORMAT, "version": VERSION, "sample": sample, **reference.header}
    header["facts"] = {name: asdict(facts) for name, facts in reference.facts.items()}
    arrays["__header__"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    write_npz(Path(path), arrays, compress=sample is not None)


def write_npz(path, arrays, compress=False):
    """np.savez under another name first, then renamed."""
    handle, temporary = tempfile.mkstemp(suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            (np.savez_compressed if compress else np.savez)(file, **arrays)
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_reference(path):
    """The Reference in an npz file. Raises RecordingError, in one line, if the file does not hold a whole one."""
    try:
        arrays = read_state_dict(path)
    except CheckpointError as error:
        raise RecordingError(str(error)) from None
    header = read_header(path, arrays)
    reference = Reference({}, images=arrays["images"], sample=header["sample"], header=header)
    for name, facts in header.pop("facts").items():
        facts["shape"] = tuple(facts["shape"])
        reference.facts[name] = Facts(**facts)
        value = reference.values[name] = arrays[f"value/{name}"]
        for kind, truths in {"truth": reference.truth, "alone": reference.alone}.items():
            if f"{kind}/{name}" in arrays:
                truths[name] = value.astype(np.float64) + arrays[f"{kind}/{name}"]
    return reference


def read_header(path, arrays):
    """The header, checked against the arrays beside it."""
    hint = "expected a file written by 'minivitpose record'"
    try:
        header = json.loads(bytes(arrays["__header__"]))
        if header["format"] != FORMAT:
            raise RecordingError(f"{path}: {hint}, found the format {header['format']!r}")
        if header["version"] != VERSION:
            raise RecordingError(
                f"{path}: expected version {VERSION} of the format, found {header['version']}: record anew"
            )
        faults = [name for name, facts in header["facts"].items() if not fits(arrays, name, facts, header["sample"])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"{path}: {hint}, found arrays without a readable header") from None
    if faults or "images" not in arrays:
        raise RecordingError(f"{path}: {hint}, found {faults[0] if faults else 'images'} missing or of another shape")
    return header


def fits(arrays, name, facts, sample):
    """Whether the arrays of an activation are there and of the shape that the header says."""
    shape, size = tuple(facts["shape"]), int(np.prod(facts["shape"]))
    expected = shape if sample is None else (len(sample_of(size, sample)),)
    present = [arrays[f"{kind}/{name}"] for kind in ("value", "truth", "alone") if f"{kind}/{name}" in arrays]
    return f"value/{name}" in arrays and all(x.shape == expected and x.dtype.kind == "f" for x in present)
