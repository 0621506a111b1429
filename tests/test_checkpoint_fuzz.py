"""10 000 damaged files: each gives the correct arrays or a CheckpointError, and nothing else.

What "correct" means depends on what protects a byte:

* zip and npz: every byte that matters is under a checksum, or is checked in another way. A file that loads gives the
  original arrays, to the bit.
* legacy and safetensors have no checksum. Where a byte of a number was changed and nothing else, exactly the numbers
  that hold changed bytes may differ. Where the structure was changed, the file may say something else than before,
  but what it says must be sane.
* pickle: data.pkl of a zip is changed and its checksum repaired, so that the machine that reads pickles meets every
  kind of nonsense. What loads must be sane.

Sane: a dict of printable names to read-only arrays of supported types, not larger than the file can honestly hold.
`python tests/test_checkpoint_fuzz.py SEED COUNT` runs more.
"""

import io
import sys

import numpy as np
import pytest

import torch_files as tf
from minivitpose.checkpoint import CheckpointError, read_checkpoint
from minivitpose.checkpoint.dtypes import STORED_AS
from minivitpose.checkpoint.torch_arrays import HONEST_GROWTH, SMALL
from torch_files import Call, Name, Record, TorchFile

RNG = np.random.default_rng(1)
ARRAYS = {
    "w": RNG.standard_normal((3, 4)).astype(np.float32),
    "b": RNG.standard_normal(5),
    "h": RNG.standard_normal((2, 2)).astype(np.float16),
    "n": np.array(12345, np.int64),
    "f": RNG.integers(0, 2, 17).astype(bool),
    "u": RNG.integers(0, 256, 11, dtype=np.uint8),
}
EXTREMES = [
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


# ---- the files -------------------------------------------------------------------------------------------------


def saved_in(file: TorchFile) -> dict:
    """Weights of many kinds, with a wrapper and some company."""
    weights = tf.state_dict(file, ARRAYS)
    storage = file.storage(np.arange(12, dtype=np.int32))
    weights.items["t"] = file.view(storage, (4, 3), (1, 4))
    weights.items["p"] = Call(tf.PARAMETER, (file.view(storage, (3,), offset=2), True, Call(tf.ORDERED_DICT)))
    half = file.view(file.storage(np.arange(4, dtype=np.uint16), "BFloat16Storage"), (2, 2))
    weights.items["bf"] = half
    meta = {
        "epoch": 3,
        "names": ["a", ("b", None)],
        "lr": 0.5,
        "log": Call(Name("numpy", "scalar"), ("f8", "12345678")),
    }
    return {"meta": meta, "state_dict": weights, "optimizer": {"state": {0: half}}}


def zip_content(protocol=2, byteorder="little") -> bytes:
    file = TorchFile()
    return file.zip(saved_in(file), protocol=protocol, byteorder=byteorder)


def legacy_content(protocol=2) -> bytes:
    file = TorchFile(legacy_ids=True)
    return file.legacy(saved_in(file), protocol=protocol)


def safetensors_content() -> bytes:
    return pytest.importorskip("safetensors.numpy").save(ARRAYS, {"format": "np"})


def npz_content(save=np.savez) -> bytes:
    buffer = io.BytesIO()
    save(buffer, __header__=np.array("text"), **ARRAYS)
    return buffer.getvalue()


def pickle_and_rest(protocol: int) -> tuple[bytes, list[Record]]:
    file = TorchFile()
    pickle = tf.pickled(saved_in(file), protocol)
    return pickle, [Record(f"a/data/{key}", raw) for key, raw in file.storages.items()]


# ---- the damage ------------------------------------------------------------------------------------------------


def flip(content, rng):
    place = rng.integers(len(content))
    content[place] ^= 1 << rng.integers(8)


def set_byte(content, rng):
    content[rng.integers(len(content))] = rng.choice([0, 1, 0x28, 0x2E, 0x7F, 0x80, 0xFF, rng.integers(256)])


def set_integer(content, rng):
    width = int(rng.choice([2, 4, 8]))
    place = rng.integers(max(1, len(content) - width))
    number = EXTREMES[rng.integers(len(EXTREMES))] % 256**width
    content[place : place + width] = number.to_bytes(width, rng.choice(["little", "big"]))[: len(content) - place]


def swap(content, rng):
    size = int(rng.integers(1, 40))
    first, second = (int(p) for p in rng.integers(max(1, len(content) - size), size=2))
    piece = bytes(content[first : first + size])
    content[second : second + len(piece)] = piece


def remove(content, rng):
    place = rng.integers(len(content))
    del content[place : place + int(rng.integers(1, 64))]


def duplicate(content, rng):
    place, size = int(rng.integers(len(content))), int(rng.integers(1, 64))
    content[place:place] = content[place : place + size] * int(rng.choice([1, 2, 50]))


def insert(content, rng):
    place = int(rng.integers(len(content)))
    content[place:place] = rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8).tobytes()


def truncate(content, rng):
    del content[int(rng.integers(len(content))) :]


OPCODES = (
    b"()]}.KMJXUGcRQbtusae\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96NhjqrTBC012"
)


def set_opcode(content, rng):
    content[rng.integers(len(content))] = OPCODES[rng.integers(len(OPCODES))]


SAME_LENGTH = [flip, flip, set_byte, set_integer, swap, set_opcode]
DAMAGES = [*SAME_LENGTH, remove, duplicate, insert, truncate]


def damaged(content: bytes, rng, damages=DAMAGES) -> bytes:
    result = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 10])):
        if result:
            damages[rng.integers(len(damages))](result, rng)
    return bytes(result)


# ---- what must hold --------------------------------------------------------------------------------------------


def load(path, content: bytes) -> dict | None:
    """The arrays, or None for a CheckpointError. Any other error goes through."""
    path.write_bytes(content)
    try:
        found = read_checkpoint(path)
    except CheckpointError as error:
        assert str(error).isprintable() and str(error).startswith(str(path)) and len(str(error)) <= 1000
        return None
    assert all(isinstance(k, str) and isinstance(v, str) and v.isprintable() for k, v in found.ignored.items())
    assert_sane(found.state_dict, len(content))
    return found.state_dict


def assert_sane(arrays: dict, file_size: int):
    assert isinstance(arrays, dict) and arrays
    for key, array in arrays.items():
        assert isinstance(key, str) and key and key.isprintable()
        assert type(array) is np.ndarray and array.dtype.name in STORED_AS and array.dtype.isnative
        assert array.flags.c_contiguous and array.flags.aligned and not array.flags.writeable
        if array.dtype == bool:
            assert set(np.unique(array.view(np.uint8))) <= {0, 1}
    unique = {id(array): array.nbytes for array in arrays.values()}
    assert sum(unique.values()) <= 2 * (SMALL + HONEST_GROWTH * file_size)  # twice: bfloat16 doubles


def same(found: dict, expected: dict) -> bool:
    def key(arrays):
        return [(name, a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()]

    return key(found) == key(expected)


def check_protected(path, content, rng, original):
    """Under checksums: the original or an error."""
    found = load(path, damaged(content, rng))
    assert found is None or same(found, original)
    return found is not None


def check_unprotected(path, content, rng, original):
    """Without checksums: where the length is the same and only numbers changed, only these may differ."""
    changed = damaged(content, rng, SAME_LENGTH if rng.random() < 0.6 else DAMAGES)
    found = load(path, changed)
    if len(changed) == len(content):
        marks = np.frombuffer(changed, np.uint8) != np.frombuffer(content, np.uint8)
        places = {name: content.find(array.tobytes()) for name, array in ARRAYS.items()}
        covered = np.zeros(len(content), bool)
        for name, place in places.items():
            assert content.count(ARRAYS[name].tobytes()) == 1
            covered[place : place + ARRAYS[name].nbytes] = True
        if not (marks & ~covered).any():
            assert found is not None and list(found) == list(original)
            for name, place in places.items():
                assert_differs_only_where(found[name], original[name], marks[place : place + ARRAYS[name].nbytes])
    return found is not None


def assert_differs_only_where(found, original, marks):
    """marks: for each byte of the array, whether it was changed."""
    assert found.dtype == original.dtype and found.shape == original.shape
    touched = marks.reshape(original.size, original.itemsize).any(axis=1)
    differs = found.reshape(-1).view(f"V{found.itemsize}") != original.reshape(-1).view(f"V{found.itemsize}")
    assert not (differs & ~touched).any()
    assert found.dtype == bool or (differs == touched).all()


def check_pickle(path, content, rng, original):
    """data.pkl is damaged, then the zip is written around it with the checksum that fits."""
    pickle, rest = content
    changed = damaged(pickle, rng)
    found = load(path, tf.zip_file([Record("a/data.pkl", changed), *rest]))
    assert changed != pickle or same(found, original)
    return found is not None


TARGETS = {
    "zip": (check_protected, zip_content),
    "zip_protocol4": (check_protected, lambda: zip_content(protocol=4)),
    "zip_big_endian": (check_protected, lambda: zip_content(byteorder="big")),
    "npz": (check_protected, npz_content),
    "npz_compressed": (check_protected, lambda: npz_content(np.savez_compressed)),
    "legacy": (check_unprotected, legacy_content),
    "legacy_protocol5": (check_unprotected, lambda: legacy_content(protocol=5)),
    "safetensors": (check_unprotected, safetensors_content),
    "pickle": (check_pickle, lambda: pickle_and_rest(2)),
    "pickle_protocol4": (check_pickle, lambda: pickle_and_rest(4)),
}


def fuzz(path, target: str, seed: int, count: int) -> int:
    """Returns how many of `count` damaged files still loaded."""
    check, make = TARGETS[target]
    content = make()
    whole = content if isinstance(content, bytes) else tf.zip_file([Record("a/data.pkl", content[0]), *content[1]])
    original = load(path, whole)
    assert original is not None
    original = {key: array.copy() for key, array in original.items()}
    return sum(check(path, content, np.random.default_rng([seed, i]), original) for i in range(count))


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files(tmp_path, target):
    loaded = fuzz(tmp_path / "x", target, seed=0, count=1000)
    assert 0 < loaded < 900  # some damage is harmless or undetectable, most is not: else the test tests nothing


if __name__ == "__main__":
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in TARGETS:
            print(
                name, fuzz(pathlib.Path(folder) / "x", name, int(sys.argv[1]), int(sys.argv[2])), "loaded", flush=True
            )
