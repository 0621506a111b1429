"""A model in a folder, as transformers saves it: one safetensors file, or several (shards) and an index of them.

The index is JSON: {"metadata": {...}, "weight_map": {"name of a tensor": "model-00001-of-00002.safetensors", ...}}.
Source: https://huggingface.co/docs/transformers/main/big_models
"""

import os

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError, quoted
from minivitpose.checkpoint.json_text import parse_object
from minivitpose.checkpoint.mapped import map_file
from minivitpose.checkpoint.safetensors import read_safetensors

MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")  # the first that is there
MAX_INDEX = 4 << 20  # bytes; the index of ViTPose+-H would have 100 kB
MAX_SHARDS = 1000


def model_file(folder: str) -> str:
    """The file with the weights in a folder. Raises CheckpointError if there is none."""
    for name in MODEL_FILES:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    raise CheckpointError(
        "this is a directory without a model",
        expected=" or ".join(MODEL_FILES),
        found=", ".join(quoted(name, 40) for name in listed(folder)) or "nothing",
        fix="give the checkpoint itself",
    )


def listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:5]
    except OSError as error:
        raise CheckpointError(f"the folder cannot be read: {error.strerror}", fix="check its permissions") from None


def is_index(data: memoryview) -> bool:
    """Whether a file is the index of a model in shards: JSON with a weight_map, and no safetensors file."""
    start = bytes(data[:4096]).lstrip()
    return start[:1] == b"{" and 0 not in bytes(data[:8]) and b'"weight_map"' in bytes(data[:MAX_INDEX])


def read_shards(path: str, data: memoryview) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Returns (state dict, what was ignored, name of the format) of the index `data` at `path` and its shards.

    Raises CheckpointError where the index and the shards do not hold exactly the same tensors, each once.
    """
    places = check_index(data)
    arrays: dict[str, np.ndarray] = {}
    ignored: dict[str, str] = {}
    shards = list(dict.fromkeys(places.values()))
    for shard in shards:
        try:
            found, others, _ = read_safetensors(map_file(os.path.join(os.path.dirname(path), shard)))
            check_shard(found, {name for name, place in places.items() if place == shard}, places)
        except CheckpointError as error:
            raise error.in_file(shard) from None
        arrays |= found
        ignored |= {f"{shard} {name}": what for name, what in others.items()}
    return {name: arrays[name] for name in places}, ignored, f"safetensors in {len(shards)} shards"


def check_index(data: memoryview) -> dict[str, str]:
    """Name of a tensor -> name of its shard, a safetensors file beside the index."""
    if len(data) > MAX_INDEX:
        raise CheckpointError("the index is absurdly long", expected=f"at most {MAX_INDEX} bytes", found=f"{len(data)}")
    places = parse_object(data, "the index", deepest=4).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError("weight_map in the index is not a table", expected="name of a tensor -> name of a file")
    for name, shard in places.items():
        plain = isinstance(shard, str) and shard.isprintable() and not set(shard) & set('/\\:"')
        if not plain or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"the index places tensor {quoted(name)} in {quoted(shard)}",
                expected="the name of a .safetensors file beside the index",
            )
    if len(set(places.values())) > MAX_SHARDS:
        raise CheckpointError("the index names absurdly many files", expected=f"at most {MAX_SHARDS}")
    return places


def check_shard(found: dict, expected: set, places: dict) -> None:
    """Raises CheckpointError unless the shard holds what the index says."""
    for name in found:
        if name not in expected:
            where = f"in {quoted(places[name])}" if name in places else "nowhere"
            raise CheckpointError(f"the shard holds tensor {quoted(name)}", expected=f"it {where}, as the index says")
    if missing := sorted(expected - set(found)):
        raise CheckpointError(
            f"the shard lacks {len(missing)} of its tensors", found=f"no {quoted(missing[0])}", fix="download it again"
        )
