"""Arrays to safetensors and npz files, and a folder for transformers; each file whole or not at all.

safetensors are written by hand, as they are read: the arrays go from the mapped file to the new one without a copy in
between. Source: https://github.com/huggingface/safetensors, section "Format".
"""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError
from minivitpose.checkpoint.hf_config import FILE, hf_config, hf_preprocessor
from minivitpose.checkpoint.safetensors import DTYPES
from minivitpose.files import replacing

CODES = {name: code for code, name in DTYPES.items()}


def write_arrays(path, arrays):
    """name -> array, as safetensors or npz by the path's ending. Raises CheckpointError for another, and OSError."""
    writers = {".safetensors": write_safetensors, ".npz": lambda file, arrays: np.savez(file, **arrays)}
    suffix = Path(path).suffix
    if suffix not in writers:
        raise CheckpointError(f"cannot write {path}", expected=f"a name that ends in {' or '.join(writers)}")
    with replacing(path) as file:
        writers[suffix](file, arrays)


def write_safetensors(file, arrays):
    """name -> array to an open binary file. Wide elements come first, so that all of them are aligned."""
    header, end = {}, 0
    wide_first = sorted(arrays.items(), key=lambda row: -row[1].dtype.itemsize)
    places = {}
    for name, x in wide_first:
        places[name] = [end, end + x.nbytes]
        end += x.nbytes
    for name, x in arrays.items():
        header[name] = {"dtype": CODES[x.dtype.name], "shape": list(x.shape), "data_offsets": places[name]}
    text = json.dumps({"__metadata__": {"format": "pt"}} | header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, x in wide_first:
        little = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
        if little.size:
            file.write(memoryview(little.reshape(-1).view(np.uint8)))


def with_counters(arrays):
    """Batch norms' counters, which transformers misses where a file leaves them out. Nothing depends on them."""
    norms = [name.rpartition(".")[0] for name in arrays if name.endswith(".running_mean")]
    return {f"{norm}.num_batches_tracked": np.array(0) for norm in norms} | arrays


def write_folder(folder, arrays, plan, labels=(), links=()):
    """A folder that transformers' VitPoseForPoseEstimation.from_pretrained loads; made where it does not exist.

    arrays, plan: what convert gave for the naming "hf". labels, links: names of the keypoints, and pairs to draw.
    Raises ConfigError for a network that transformers does not have, and OSError.
    """
    arrays = with_counters(arrays)
    parts = plan.parts if any(".mlp.experts." in name for name in arrays) else None
    config = hf_config(plan.config, parts.experts if parts else 0, parts.rows if parts else 0, labels, links)
    texts = {FILE: config, "preprocessor_config.json": hf_preprocessor(plan.config)}
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:  # all three are written before one of them gets its name
        for name, content in texts.items():
            file = stack.enter_context(replacing(folder / name))
            file.write(json.dumps(content, indent=2).encode() + b"\n")
            file.flush()
        file = stack.enter_context(replacing(folder / "model.safetensors"))
        write_safetensors(file, arrays)
        file.flush()
