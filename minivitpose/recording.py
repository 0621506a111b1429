"""Recorded activations as a file: an npz with a header, whole or a sample, written at once or not at all.

``__header__`` is JSON (as bytes): format and version, where the numbers come from, and the facts of each activation.
``images`` went into the network. For each activation ``value/NAME`` is what PyTorch computed; ``truth/NAME`` and
``alone/NAME`` are the float64 truth less that value, in float32: the differences are so small that float64 is kept.
"""

import json
import platform
from dataclasses import asdict

import numpy as np

from minivitpose.checkpoint import CheckpointError, read_state_dict
from minivitpose.config import as_dict
from minivitpose.files import replacing
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

    The file appears under its name when it is whole: an interrupt or a full disk leaves what was there before. Raises
    RecordingError for what is no Reference, and where one that is a sample itself is to be sampled in another way.
    """
    if not isinstance(reference, Reference):
        found = type(reference).__name__
        raise RecordingError(f"expected a Reference, as reference.record gives it, found {found}")
    if reference.images is None:
        raise RecordingError("it has no images, and without them nobody can compare with it: Reference(..., images=)")
    if sample is not None and sample < 1:
        raise RecordingError(f"sample: expected a number from 1, found {sample}")
    if reference.sample is not None and sample not in (None, reference.sample):
        raise RecordingError(f"it holds a sample of {reference.sample} of each activation, expected that or the whole")
    kept, sample = reference.sample, sample or reference.sample
    arrays = {"images": reference.images}
    for name, x in reference.values.items():
        places = sample_of(x.size, sample) if kept is None and sample else slice(None)
        arrays[f"value/{name}"] = x if sample is None else x.reshape(-1)[places]
        kinds = {"truth": reference.truth} if sample else {"truth": reference.truth, "alone": reference.alone}
        for kind, truths in kinds.items():
            if name in truths:
                rest = (truths[name] - x).astype(np.float32)
                arrays[f"{kind}/{name}"] = rest if sample is None else rest.reshape(-1)[places]
    own = {"format": FORMAT, "version": VERSION, "dtype": str(reference.images.dtype), "sample": sample}
    header = reference.header | own
    header["facts"] = {name: asdict(facts) for name, facts in reference.facts.items()}
    arrays["__header__"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with replacing(path) as file:
        (np.savez if sample is None else np.savez_compressed)(file, **arrays)


def load_reference(path):
    """The Reference in an npz file. Raises RecordingError, in one line, if the file does not hold a whole one."""
    try:
        arrays = read_state_dict(path)
    except CheckpointError as error:
        raise RecordingError(str(error)) from None
    try:
        header = json.loads(bytes(arrays["__header__"]))
        check_version(header)
        facts = {name: Facts(**values) for name, values in header.pop("facts").items()}
        reference = Reference({}, facts=facts, images=arrays["images"], sample=header["sample"], header=header)
        for name in facts:
            facts[name].shape = tuple(facts[name].shape)
            add_arrays(reference, name, arrays)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        fault = "found no header or one that does not go with the arrays"
        raise RecordingError(f"{path}: expected a file written by 'minivitpose record', {fault}") from None
    return reference


def check_version(header):
    if header["format"] != FORMAT:
        raise RecordingError(f"expected the format {FORMAT!r}, found {header['format']!r}")
    if header["version"] != VERSION:
        raise RecordingError(f"expected version {VERSION} of the format, found {header['version']}: record anew")


def add_arrays(reference, name, arrays):
    """The values of one activation and, where they are there, its truths; checked against the header."""
    shape = reference.facts[name].shape
    expected = shape if reference.sample is None else (len(sample_of(int(np.prod(shape)), reference.sample)),)
    for kind, target in (("value", reference.values), ("truth", reference.truth), ("alone", reference.alone)):
        x = arrays.get(f"{kind}/{name}")
        if x is None and kind != "value":
            continue
        if x is None or x.shape != expected or x.dtype.kind != "f":
            found = "nothing" if x is None else f"{x.dtype} {x.shape}"
            raise RecordingError(f"{kind} of {name}: expected floating point {expected}, found {found}")
        target[name] = x if kind == "value" else reference.values[name].astype(np.float64) + x
