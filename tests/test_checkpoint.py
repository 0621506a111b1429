"""Reading checkpoint files: correct ones to the last bit, and every wrong one refused in one clear line."""

import io
import json
import os
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

import torch_files as tf
from minivitpose.checkpoint import Checkpoint, CheckpointError, read_checkpoint, read_state_dict
from minivitpose.checkpoint.pickle_instructions import instructions
from minivitpose.checkpoint.unpickle import Global, Placeholder, unpickle
from torch_files import Call, Name, Raw, Record, TorchFile

RNG = np.random.default_rng(0)
ARRAYS = {
    "blocks.0.weight": RNG.standard_normal((3, 4, 2)).astype(np.float32),
    "blocks.0.bias": RNG.standard_normal(5),
    "half": RNG.standard_normal((2, 3)).astype(np.float16),
    "int64": RNG.integers(-(2**62), 2**62, (3,)),
    "int32": RNG.integers(-(2**31), 2**31, (2, 2), dtype=np.int32),
    "int16": RNG.integers(-(2**15), 2**15, (4,), dtype=np.int16),
    "int8": RNG.integers(-128, 128, (7,), dtype=np.int8),
    "uint8": RNG.integers(0, 256, (3, 3), dtype=np.uint8),
    "bool": np.array([True, False, True]),
    "scalar": np.array(7, np.int64),
    "empty": np.empty((0, 3), np.float32),
    "ones": np.ones((1, 1, 1), np.float32),
}
SMALL = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array([1, 2], np.int64)}
DAMAGED = "download or save"


def write(tmp_path, content: bytes, name="file.bin"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def read(tmp_path, content: bytes) -> Checkpoint:
    return read_checkpoint(write(tmp_path, content))


def refused(tmp_path, content: bytes, *words: str) -> str:
    """Reads a wrong file: the error must be one printable line that names the file and says each of `words`."""
    path = write(tmp_path, content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) <= 1000
    assert message.startswith(f"{path}: ")
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    return message


def assert_same(found: dict, expected: dict):
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert isinstance(found[key], np.ndarray)
        assert found[key].shape == array.shape
        assert found[key].dtype == array.dtype and found[key].dtype.isnative
        assert found[key].flags.c_contiguous and found[key].flags.aligned and not found[key].flags.writeable
        assert found[key].tobytes() == array.tobytes()


def torch_file(container="zip", arrays=SMALL, **options) -> bytes:
    file = TorchFile(legacy_ids=container == "legacy")
    return getattr(file, container)(tf.state_dict(file, arrays), **options)


def safetensors_file(header: dict | bytes, body: bytes = b"", size: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + body


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def npz_file(compressed=False, **arrays) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy_file(header: str, body: bytes = b"", version=1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + body


def npz_of(npy: bytes) -> bytes:
    return tf.zip_file([Record("x.npy", npy)])


both = pytest.mark.parametrize("container", ["zip", "legacy"])


# ---- PyTorch files ---------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("options", [{}, {"protocol": 3}, {"protocol": 4}, {"protocol": 5}, {"python2": True}], ids=str)
def test_every_dtype_and_shape(tmp_path, container, options):
    checkpoint = read(tmp_path, torch_file(container, ARRAYS, **options))
    assert_same(checkpoint.state_dict, ARRAYS)
    assert checkpoint.format == {"zip": "PyTorch zip file", "legacy": "PyTorch legacy file"}[container]
    assert checkpoint.ignored == {}


@both
def test_bfloat16_becomes_float32_exactly(tmp_path, container):
    values = np.array([[1.5, -2.0, 3.3895314e38], [np.inf, -0.0, 9.1835e-41]], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    file = TorchFile(legacy_ids=container == "legacy")
    saved = {"w": file.tensor(upper, "BFloat16Storage"), "one": file.tensor(upper[0, 0], "BFloat16Storage")}
    expected = (upper.astype(np.uint32) << 16).view(np.float32)
    found = read(tmp_path, getattr(file, container)(saved)).state_dict
    assert_same(found, {"w": expected, "one": expected[0, 0].reshape(())})
    assert found["w"][0, 0] == 1.5 and found["w"][1, 0] == np.inf


@both
def test_views_of_one_storage(tmp_path, container):
    numbers = np.arange(12, dtype=np.float32)
    file = TorchFile(legacy_ids=container == "legacy")
    storage = file.storage(numbers)
    saved = {
        "whole": file.view(storage, (3, 4)),
        "tied": file.view(storage, (3, 4)),
        "part": file.view(storage, (2, 2), offset=5),
        "transposed": file.view(storage, (4, 3), (1, 4)),
        "column": file.view(storage, (3,), (4,), offset=3),
        "expanded": file.view(storage, (2, 3), (0, 1), offset=9),
        "overlapping": file.view(storage, (5, 3), (2, 1)),
        "one_row": file.view(storage, (1, 4), (2**40, 1), offset=4),
        "flat_middle": file.view(storage, (4, 1, 3), (1, 2**61, 4)),
        "last": file.view(storage, (), (), offset=11),
    }
    grid = numbers.reshape(3, 4)
    found = read(tmp_path, getattr(file, container)(saved)).state_dict
    expected = {
        "whole": grid,
        "tied": grid,
        "part": numbers[5:9].reshape(2, 2),
        "transposed": grid.T.copy(),
        "column": grid[:, 3].copy(),
        "expanded": np.array([[9, 10, 11]] * 2, np.float32),
        "overlapping": np.array([[2 * i, 2 * i + 1, 2 * i + 2] for i in range(5)], np.float32),
        "one_row": grid[1:2],
        "flat_middle": grid.T.copy().reshape(4, 1, 3),
        "last": np.array(11, np.float32),
    }
    assert_same(found, expected)
    assert found["whole"] is found["tied"]
    if container == "zip":  # aligned, so what is contiguous is a view of the file
        assert np.shares_memory(found["whole"], found["part"]) and np.shares_memory(found["whole"], found["one_row"])


@both
def test_every_way_to_rebuild_a_tensor(tmp_path, container):
    file = TorchFile(legacy_ids=container == "legacy")
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = file.tensor(numbers)
    words = np.array([1, 65535], np.uint16)
    raw = file.storage(words.tobytes(), "UntypedStorage", module="torch.storage")
    hooks, class_of = Call(tf.ORDERED_DICT), Name("torch.nn.parameter", "Parameter")
    saved = {
        "v1": file.view(file.storage(numbers), (2, 3), rebuild=tf.REBUILD_V1),
        "v2": tensor,
        "v2_metadata": file.view(file.storage(numbers), (2, 3), more=({},)),
        "v3": file.view(raw, (2,), rebuild=tf.REBUILD_V3, more=(Name("torch", "uint16"),)),
        "parameter": Call(tf.PARAMETER, (tensor, True, hooks)),
        "with_state": Call(Name("torch._utils", "_rebuild_parameter_with_state"), (tensor, True, hooks, {"a": 1})),
        "from_type": Call(
            Name("torch._tensor", "_rebuild_from_type_v2"), (tf.REBUILD_V2, class_of, tensor.arguments, {"a": 1})
        ),
        "cuda": file.view(file.storage(numbers, module="torch.cuda"), (2, 3)),
    }
    expected = dict.fromkeys(saved, numbers) | {"v3": words}
    assert_same(read(tmp_path, getattr(file, container)(saved)).state_dict, expected)


def test_legacy_view_of_a_storage(tmp_path):
    file = TorchFile(legacy_ids=True)
    numbers = np.arange(10, dtype=np.float64)
    root = file.storage(numbers, key="77", view=("78", 2, 5))
    found = read(tmp_path, file.legacy({"w": file.view(root, (2, 2), (1, 2), offset=1)})).state_dict
    assert_same(found, {"w": np.array([[3.0, 5.0], [4.0, 6.0]])})


@pytest.mark.parametrize("code", ["f8", "f4", "f2", "i8", "i4", "i2"])
def test_big_endian_zip(tmp_path, code):
    file = TorchFile()
    numbers = np.arange(6, dtype=code).reshape(2, 3)
    storage = file.storage(numbers.astype(f">{code}"))
    saved = {
        "w": file.view(storage, (2, 3)),
        "t": file.view(storage, (3, 2), (1, 3)),
        "b": file.tensor(np.array([True])),
    }
    found = read(tmp_path, file.zip(saved, byteorder="big")).state_dict
    assert_same(found, {"w": numbers, "t": numbers.T.copy(), "b": np.array([True])})


def test_big_endian_bfloat16_and_v3(tmp_path):
    file = TorchFile()
    storage = file.storage(np.array([0x3F80, 0x4040], ">u2"), "BFloat16Storage")
    raw = file.storage(np.array([1, 2**31], ">u4").tobytes(), "UntypedStorage")
    v3 = file.view(raw, (2,), rebuild=tf.REBUILD_V3, more=(Name("torch", "uint32"),))
    found = read(tmp_path, file.zip({"w": file.view(storage, (2,)), "v3": v3}, byteorder="big")).state_dict
    assert_same(found, {"w": np.array([1, 3], np.float32), "v3": np.array([1, 2**31], np.uint32)})


def test_legacy_elements_are_little_endian_on_every_machine(tmp_path):
    """PyTorch swaps them when a big-endian machine writes (see torch_legacy.py), so the flag changes nothing."""
    assert_same(read(tmp_path, torch_file("legacy", ARRAYS, little_endian=False)).state_dict, ARRAYS)


def test_no_byteorder_record_is_little_endian(tmp_path):
    assert_same(read(tmp_path, torch_file(byteorder=None)).state_dict, SMALL)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module"])
@both
def test_wrappers(tmp_path, container, wrapper):
    file = TorchFile(legacy_ids=container == "legacy")
    saved = {"epoch": 210, "meta": {"CLASSES": "person", "time": "now"}, wrapper: tf.state_dict(file, SMALL)}
    saved |= {"optimizer": {"state": {0: {"exp_avg": file.tensor(np.ones(3))}}, "param_groups": [1]}, "lr": 0.5}
    checkpoint = read(tmp_path, getattr(file, container)(saved))
    assert_same(checkpoint.state_dict, SMALL)
    assert checkpoint.ignored == {
        "epoch": "int 210",
        "meta": "a dict of 2: CLASSES, time",
        "optimizer": "a dict of 2: state, param_groups",
        "lr": "float 0.5",
    }


def test_wrapper_in_a_wrapper(tmp_path):
    file = TorchFile()
    checkpoint = read(tmp_path, file.zip({"a": 1, "model": {"state_dict": tf.state_dict(file, SMALL), "b": None}}))
    assert_same(checkpoint.state_dict, SMALL)
    assert checkpoint.ignored == {"a": "int 1", "b": "None"}


def test_a_parameter_may_be_called_like_a_wrapper(tmp_path):
    assert_same(read(tmp_path, torch_file(arrays={"model": np.ones(2)})).state_dict, {"model": np.ones(2)})


def test_prefix_module_is_dropped_only_if_all_have_it(tmp_path):
    wrapped = {f"module.{key}": array for key, array in SMALL.items()}
    assert list(read(tmp_path, torch_file(arrays=wrapped)).state_dict) == ["weight", "bias"]
    some = wrapped | {"other": np.ones(1)}
    assert list(read(tmp_path, torch_file(arrays=some)).state_dict) == ["module.weight", "module.bias", "other"]
    assert list(read(tmp_path, npz_file(**wrapped)).state_dict) == ["weight", "bias"]


def test_plain_values_beside_the_weights_are_ignored(tmp_path):
    file = TorchFile()
    saved = tf.state_dict(file, SMALL | {"_extra_state": None, "version": 2, "name": "x\ny", "sizes": [1, 2]})
    checkpoint = read(tmp_path, file.zip(saved))
    assert_same(checkpoint.state_dict, SMALL)
    ignored = {"_extra_state": "None", "version": "int 2", "name": "text 'x\\\\ny'", "sizes": "a list of 2"}
    assert checkpoint.ignored == ignored


@both
def test_extras_of_mmengine_do_not_disturb(tmp_path, container):
    """numpy scalars and arrays, HistoryBuffer, a set, a defaultdict, a device, as mmcv and mmengine save them."""
    file = TorchFile(legacy_ids=container == "legacy")
    encode, core = Name("_codecs", "encode"), "numpy.core.multiarray"
    dtype = Call(Name("numpy", "dtype"), ("f8", False, True), state=(3, "<", None, None, None, -1, -1, 0))
    empty = (Name("numpy", "ndarray"), (0,), Call(encode, ("b", "latin1")))
    history = (1, (2,), dtype, False, Call(encode, ("\x00" * 16, "latin1")))
    message_hub = {
        "loss": Call(Name("numpy", "scalar"), (dtype, Call(encode, ("12345678", "latin1")))),
        "log": Raw(b"cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81}X\x04\x00\x00\x00_maxK\x05sb"),
        "history": Call(Name(core, "_reconstruct"), empty, state=history),
        "device": Call(Name("torch", "device"), ("cuda", 0)),
        "runs": Call(Name("collections", "defaultdict"), (Name("builtins", "list"),), items={1: 2}),
        "kinds": Call(Name("__builtin__", "set"), ([1, 2],)),
        "config": Call(Name("mmcv.utils.config", "ConfigDict"), (), items={"a": 1}, state={"b": 2}),
        "deque": Raw(b"ccollections\ndeque\n)RK\x01aK\x02a"),
        "modern_set": Raw(b"\x8f(K\x01K\x02\x90"),
        "frozen": Raw(b"(K\x01\x91"),
        "keywords": Raw(b"ca\nB\n)}\x92"),
        "bytes": b"\x00\xff",
    }
    saved = {"meta": {"message_hub": message_hub}, "state_dict": tf.state_dict(file, SMALL), "hub": message_hub["log"]}
    checkpoint = read(tmp_path, getattr(file, container)(saved))
    assert_same(checkpoint.state_dict, SMALL)
    hub = "an object of mmengine.logging.history_buffer.HistoryBuffer"
    assert checkpoint.ignored == {"meta": "a dict of 1: message_hub", "hub": hub}


def test_python2_ordered_dict_of_pairs(tmp_path):
    file = TorchFile()
    pairs = [[key, file.tensor(array)] for key, array in SMALL.items()]
    assert_same(read(tmp_path, file.zip(Call(tf.ORDERED_DICT, (pairs,)), python2=True)).state_dict, SMALL)


def test_bytes_after_a_legacy_file_are_reported(tmp_path):
    checkpoint = read(tmp_path, torch_file("legacy") + b"12345")
    assert_same(checkpoint.state_dict, SMALL)
    assert checkpoint.ignored == {"(end of the file)": "5 bytes after the last storage"}


@pytest.mark.parametrize(
    "options", [{"zip64": True}, {"align": 1}, {"comment": b"PK\5\6 hello"}, {"folder": "a b"}], ids=str
)
def test_unusual_but_correct_zips(tmp_path, options):
    assert_same(read(tmp_path, torch_file(arrays=ARRAYS, **options)).state_dict, ARRAYS)


def test_zip_packed_again_with_compression(tmp_path):
    file = TorchFile()
    pickle = tf.pickled(tf.state_dict(file, SMALL))
    records = [
        Record("data.pkl", pickle, 8),
        Record("data/0", file.storages["0"], 8),
        Record("data/1", file.storages["1"]),
    ]
    assert_same(read(tmp_path, tf.zip_file(records)).state_dict, SMALL)


def test_zip_without_checksums_is_told_apart(tmp_path):
    """torch.serialization.set_crc32_options(False) writes zero as the checksum of every record."""
    checkpoint = read(tmp_path, torch_file(arrays=ARRAYS, checksums=False))
    assert_same(checkpoint.state_dict, ARRAYS)
    assert checkpoint.format == "PyTorch zip file saved without checksums"


def test_one_zero_checksum_is_an_error(tmp_path):
    file = TorchFile()
    pickle = tf.pickled(tf.state_dict(file, SMALL))
    records = [Record("a/data.pkl", pickle), Record("a/data/0", file.storages["0"], crc=0)]
    records.append(Record("a/data/1", file.storages["1"]))
    refused(tmp_path, tf.zip_file(records), "'a/data/0'", "CRC-32 00000000")


def test_aligned_storages_are_mapped_not_copied(tmp_path):
    size = 40 << 20
    file = TorchFile()
    content = file.zip({"w": file.tensor(np.ones(size, np.uint8)), "t": file.view(file.storage(np.ones(4)), (2, 2))})
    path = write(tmp_path, content)
    del content, file
    tracemalloc.start()
    found = read_state_dict(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 < found["w"].nbytes
    path.unlink()
    assert found["w"].sum() == size and found["t"].sum() == 4


def test_the_map_goes_with_the_last_array(tmp_path):
    path = write(tmp_path, torch_file())
    before = len(os.listdir("/proc/self/fd"))
    found = read_state_dict(path)
    del found
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_name_of_the_file_does_not_matter(tmp_path):
    path = write(tmp_path, npz_file(**SMALL), "model.pth")
    assert_same(read_state_dict(path), SMALL)
    assert_same(read_state_dict(str(path)), SMALL)


# ---- safetensors -----------------------------------------------------------------------------------------------


def test_safetensors(tmp_path):
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL"}
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for key, array in ARRAYS.items():
        code = names.get(array.dtype.name, array.dtype.name.upper().replace("UINT", "U").replace("INT", "I"))
        header[key] = entry(code, array.shape, (len(body), len(body) + array.nbytes))
        body += array.tobytes()
    checkpoint = read(tmp_path, safetensors_file(header, body))
    assert_same(checkpoint.state_dict, ARRAYS)
    assert checkpoint.format == "safetensors" and checkpoint.ignored == {"__metadata__": "format: pt"}


def test_safetensors_bfloat16(tmp_path):
    body = np.array([0x3F80, 0xC040], "<u2").tobytes()
    found = read(tmp_path, safetensors_file({"w": entry("BF16", (2, 1), (0, 4))}, body)).state_dict
    assert_same(found, {"w": np.array([[1], [-3]], np.float32)})


def test_safetensors_of_the_safetensors_package(tmp_path):
    save = pytest.importorskip("safetensors.numpy").save
    checkpoint = read(tmp_path, save(ARRAYS, {"format": "np"}))
    assert_same({key: checkpoint.state_dict[key] for key in ARRAYS}, ARRAYS)


def test_a_header_length_that_looks_like_a_pickle(tmp_path):
    """0x0280 bytes of header: the file begins with the bytes of PROTO 2."""
    raw = json.dumps({"w": entry()}).encode().ljust(0x0280)
    assert_same(read(tmp_path, safetensors_file(raw, bytes(8))).state_dict, {"w": np.zeros(2, np.float32)})


DEEP = b'{"a":' + b"[" * 40_000 + b"]" * 40_000 + b"}"
SAFETENSORS = {
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "overlap"),
    "gap": ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "gap"),
    "tail": ({"a": entry()}, 9, "1 bytes at the end"),
    "outside": ({"a": entry(offsets=(0, 8))}, 4, "outside the file"),
    "far": ({"a": entry(shape=(2**58,), offsets=(0, 2**60))}, 8, "outside the file"),
    "backwards": ({"a": entry(offsets=(8, 0))}, 8, "outside the file"),
    "negative": ({"a": entry(offsets=(-8, 0))}, 8, "outside the file"),
    "real": ({"a": entry(offsets=(0, 8.0))}, 8, "outside the file"),
    "text_offset": ({"a": entry(offsets=("0", "8"))}, 8, "outside the file"),
    "three_offsets": ({"a": entry(offsets=(0, 8, 8))}, 8, "impossible shape or place"),
    "size": ({"a": entry(shape=(3,))}, 8, "expected 12 bytes"),
    "negative_shape": ({"a": entry(shape=(-2,))}, 8, "impossible length"),
    "real_shape": ({"a": entry(shape=(2.0,))}, 8, "impossible length"),
    "bool_shape": ({"a": entry(shape=(True, 2))}, 8, "impossible length"),
    "huge_shape": ({"a": entry(shape=(0, 2**60, 2**60), offsets=(0, 0))}, 0, "absurd shape"),
    "long_number": ({"a": entry(shape=(10**400,))}, 8, "impossible length"),
    "longer_number": (b'{"a":' + b"9" * 5000 + b"}", 0, "not valid JSON"),
    "many_dimensions": ({"a": entry(shape=(1,) * 40, offsets=(0, 4))}, 4, "40 dimensions"),
    "complex": ({"a": entry("C64", (1,))}, 8, "C64"),
    "float8": ({"a": entry("F8_E4M3", (8,))}, 8, "F8_E4M3"),
    "no_dtype": ({"a": entry(7)}, 8, "7"),
    "missing": ({"a": {"dtype": "F32", "shape": [2]}}, 8, "dtype, shape and data_offsets"),
    "not_an_object": ({"a": 3}, 0, "dtype, shape and data_offsets"),
    "twice": (b'{"a":{}, "b":1, "a":{}}', 0, "'a' twice"),
    "nan": (b'{"a":NaN}', 0, "NaN"),
    "no_json": (b'{"a":', 0, "not valid JSON"),
    "no_utf8": (b'{"\xff":1}', 0, "not valid JSON"),
    "deep": (DEEP, 0, "nested too deeply"),
    "brackets": (b"{" + b",".join(b'"%d":[]' % i for i in range(60_000)) + b"}", 0, "absurdly long"),
    "open_text": (b'{"a' + b'\\"' * 1_000_000, 0, "not valid JSON"),
    "numbers": (b'{"a":[' + b"1," * 1_000_000 + b"1]}", 0, "dtype, shape"),
    "names": (b"{" + b",".join(b'"%x":1' % i for i in range(200_000)) + b"}", 0, "dtype, shape"),
    "late_twin": (b"{" + b",".join(b'"%x":1' % i for i in range(200_000)) + b',"30d3f":1}', 0, "'30d3f' twice"),
    "long_header": (b"{" + b" " * (3 << 20) + b"}", 0, "impossible length"),
    "empty": ({}, 0, "no tensors"),
    "only_metadata": ({"__metadata__": {"a": "b"}}, 0, "no tensors"),
    "metadata": ({"__metadata__": {"a": 1}, "w": entry()}, 8, "__metadata__"),
    "escape": ({"a\x1b[31m": entry()}, 8, "a name that can be printed"),
    "surrogate": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "can be printed"),
    "no_name": ({"": entry()}, 8, "can be printed"),
}


@pytest.mark.parametrize("header, size, words", SAFETENSORS.values(), ids=SAFETENSORS)
def test_wrong_safetensors(tmp_path, header, size, words):
    content = safetensors_file(header, bytes(size))
    tracemalloc.start()
    refused(tmp_path, content, words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 100 << 20, 90])
def test_safetensors_with_a_huge_header_length(tmp_path, size):
    refused(tmp_path, safetensors_file({"a": entry()}, size=size), "impossible length", str(size))


# ---- npz -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(tmp_path, compressed):
    wide = ARRAYS | {"u16": np.array([1, 65535], np.uint16), "u32": np.array([2**31], np.uint32)}
    wide |= {"u64": np.array([2**63], np.uint64), "a/b": np.ones(2)}
    checkpoint = read(tmp_path, npz_file(compressed, **wide))
    assert_same(checkpoint.state_dict, wide)
    assert checkpoint.format == "npz" and checkpoint.ignored == {}


def test_npz_fortran_order_and_big_endian(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    flags = array > 2
    content = npz_file(
        f=np.asfortranarray(array), g=np.asfortranarray(flags), b=array.astype(">f4"), s=np.array(5, ">i8")
    )
    assert_same(read(tmp_path, content).state_dict, {"f": array, "g": flags, "b": array, "s": np.array(5)})


def test_npz_text_is_ignored(tmp_path):
    checkpoint = read(tmp_path, npz_file(__header__=np.array('{"a": 1}'), raw=np.array(b"xyz"), **SMALL))
    assert_same(checkpoint.state_dict, SMALL)
    assert checkpoint.ignored == {"__header__": "text '{\"a\": 1}'", "raw": "text 'xyz'"}


def test_npz_with_another_record(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    checkpoint = read(tmp_path, tf.zip_file([Record("x.npy", buffer.getvalue()), Record("notes.txt", b"hi")]))
    assert_same(checkpoint.state_dict, {"x": np.ones(2)})
    assert checkpoint.ignored == {"notes.txt": "no .npy file"}


def test_npy_versions(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }\n"
    for version in (1, 2, 3):
        found = read(tmp_path, npz_of(npy_file(header, bytes(8), version))).state_dict
        assert_same(found, {"x": np.zeros(2, np.float32)})


def npy_header(descr="'<f4'", shape="(2,)", order="False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


NPY = {
    "objects": (npy_header("'|O'"), "pickled Python objects"),
    "complex": (npy_header("'<c8'", "(1,)"), "'<c8'"),
    "longdouble": (npy_header("'<f16'", "(1,)"), "'<f16'"),
    "dates": (npy_header("'<M8[s]'", "(1,)"), "<M8[s]"),
    "void": (npy_header("'|V2'", "(4,)"), "'|V2'"),
    "fields": (npy_header("[('a', '<f4')]"), "[("),
    "code": (npy_header("__import__('os')"), "damaged header"),
    "shape": (npy_header(shape="(3,)"), "expected 12 bytes"),
    "negative": (npy_header(shape="(-2,)"), "damaged header"),
    "huge": (npy_header(shape="(4611686018427387904,)"), "impossible length"),
    "huge_empty": (npy_header(shape=f"(0, {2**60}, {2**60})"), "absurd shape"),
    "long_number": (npy_header(shape="(" + "9" * 5000 + ",)"), "impossible shape"),
    "many": (npy_header(shape="(" + "1," * 40 + ")"), "40 dimensions"),
    "dots": (npy_header(shape="(1 1,)"), "impossible shape"),
    "nested": ("(" * 5000, "damaged header"),
    "long": (" " * 20_000, "header of 20000 bytes"),
}


@pytest.mark.parametrize("header, words", NPY.values(), ids=NPY)
def test_wrong_npy(tmp_path, header, words):
    refused(tmp_path, npz_of(npy_file(header, bytes(8))), "'x'", words)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00\x02\x00{}abcdef", b"x" * 100])
def test_what_is_no_npy_at_all(tmp_path, content):
    refused(tmp_path, npz_of(content), "does not begin like an .npy file")


def test_npz_object_array_of_numpy(tmp_path):
    refused(tmp_path, npz_file(x=np.array([{}, 1], object)), "pickled Python objects, which are never opened")


# ---- zips that are wrong ---------------------------------------------------------------------------------------


def weights_zip(*more: Record, **options) -> bytes:
    file = TorchFile()
    pickle = tf.pickled(tf.state_dict(file, SMALL))
    records = [Record("a/data.pkl", pickle), *(Record(f"a/data/{key}", raw) for key, raw in file.storages.items())]
    return tf.zip_file([*records, *more], **options)


WRONG_ZIPS = {
    "twice": (weights_zip(Record("a/data/0", bytes(24))), "two records named 'a/data/0'"),
    "overlap": (weights_zip(Record("a/data.pkl", b"x", header=0, local_name=b"a/data.pkl")), "two records"),
    "overlap_2": (weights_zip(Record("b", b"x", header=1)), "header of 'b'"),
    "parent": (weights_zip(Record("../../etc/passwd", b"x")), "'../../etc/passwd'", "a plain name"),
    "absolute": (weights_zip(Record("/etc/passwd", b"x")), "'/etc/passwd'"),
    "backslash": (weights_zip(Record("a\\..\\b", b"x")), "a plain name"),
    "no_utf8": (weights_zip(Record(b"\xff\xfe", b"x")), "not UTF-8"),
    "no_name": (weights_zip(Record(b"", b"x")), "a plain name"),
    "other_name": (weights_zip(Record("b", b"x", local_name=b"c")), "another name in its own header"),
    "encrypted": (weights_zip(Record("b", b"x", flags=1)), "encrypted"),
    "method": (weights_zip(Record("b", b"x", method=12, packed=b"x")), "unusual"),
    "two_sizes": (weights_zip(Record("b", b"x", size=2)), "two sizes"),
    "beyond": (weights_zip(Record("b", b"x", header=2**31)), "not where it should be"),
    "stream": (weights_zip(Record("a/byteorder", b"little", method=8, packed=b"\xff" * 9)), "cannot be decompressed"),
    "too_short": (weights_zip(Record("a/byteorder", b"little", method=8, size=9)), "expected 9 bytes, found 6"),
    "too_long": (weights_zip(Record("a/byteorder", b"little", method=8, size=3)), "found 4 or more"),
    "fewer": (weights_zip(count=2), "another length"),
    "more": (weights_zip(count=4), "not where it should be"),
    "absurdly_many": (weights_zip(count=60_000), "60000 records"),
    "byteorder": (weights_zip(Record("a/byteorder", b"middle")), "byteorder"),
    "two_pickles": (weights_zip(Record("b/data.pkl", b"x")), "2 records data.pkl"),
    "other": (tf.zip_file([Record("word/document.xml", b"x")]), "'word/document.xml'"),
    "nothing": (tf.zip_file([]), "nothing in it"),
    "torchscript": (weights_zip(Record("a/code/__torch__.py", b"x")), "TorchScript", "save model.state_dict()"),
    "torchscript_2": (weights_zip(Record("a/constants.pkl", b"x")), "TorchScript"),
    "no_end": (weights_zip()[:-30], "directory at the end is missing"),
    "after_end": (weights_zip() + b"x", "directory at the end is missing"),
}  # fmt: skip


@pytest.mark.parametrize("content, words", [(c, w) for c, *w in WRONG_ZIPS.values()], ids=WRONG_ZIPS)
def test_wrong_zips(tmp_path, content, words):
    refused(tmp_path, content, *words)


def test_overlapping_records(tmp_path):
    """The second record's header lies inside the first one's content, which is how small zip bombs are made."""
    inner = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"b" + b"x"
    content = tf.zip_file([Record("a", inner), Record("b", b"x", header=64)])
    refused(tmp_path, content, "'b' of the zip overlaps another")


def test_record_in_the_directory(tmp_path):
    content = tf.zip_file([Record("a", b"x", packed=b"x", size=1)])
    directory = content.index(b"PK\1\2")
    longer = content[: directory + 20] + struct.pack("<II", 60, 60) + content[directory + 28 :]
    refused(tmp_path, longer, "reaches into the directory")


@pytest.mark.parametrize("place", ["pickle", "storage"])
def test_damaged_bytes_do_not_load(tmp_path, place):
    content = bytearray(torch_file())
    position = content.index(b"weight") if place == "pickle" else content.index(SMALL["weight"].tobytes()) + 9
    content[position] ^= 1
    refused(tmp_path, bytes(content), "is damaged", "CRC-32", "download or save the file again")


def test_damaged_npz_does_not_load(tmp_path):
    content = bytearray(npz_file(**SMALL))
    content[content.index(SMALL["weight"].tobytes()) + 9] ^= 1
    refused(tmp_path, bytes(content), "'weight.npy' is damaged")


@pytest.mark.parametrize("name", ["x.npy", "a/data.pkl", "a/data/0"])
def test_zip_bombs(tmp_path, name):
    """A record that expands a thousandfold, honestly declared and not."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(300)) + squeeze.flush()
    for size, words in [(300 << 20, "zip bomb"), (2**32 - 2, "zip bomb"), (2**50, "zip bomb"), (100, "100 bytes")]:
        other = "x.npy" if name == "x.npy" else "a/data.pkl"
        more = [Record(other, b"?")] if name != other else []
        content = tf.zip_file([*more, Record(name, b"", 8, crc=1, size=size, packed=packed)])
        if name == "a/data/0" and size == 100:
            continue  # never read, since the pickle is none
        tracemalloc.start()
        refused(tmp_path, content, words)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 << 20


# ---- pickles that are wrong ------------------------------------------------------------------------------------


def with_pickle(container: str, code: bytes, protocol=b"\x80\x02") -> bytes:
    file = TorchFile(legacy_ids=container == "legacy")
    file.storage(np.arange(4, dtype=np.float32))
    return getattr(file, container)(None, pickle=protocol + code)


SYSTEM = b"cposix\nsystem\n" + tf.pickled(("touch /tmp/minivitpose_was_here",))[2:-1] + b"R."


@both
@pytest.mark.parametrize(
    "asked", ["os.system", "posix.system", "subprocess.Popen", "builtins.eval", "__builtin__.exec"]
)
def test_a_pickle_that_calls_the_system(tmp_path, container, asked):
    canary = tmp_path / "canary"
    module, name = asked.rsplit(".", 1)
    for protocol in (2, 4):
        call = Call(Name(module, name), (f"touch {canary}",))
        for saved in (call, {"state_dict": {"w": call}}, {"meta": call}):
            file = TorchFile(legacy_ids=container == "legacy")
            refused(tmp_path, getattr(file, container)(saved, protocol=protocol), f"'{asked}'", "nothing was run")
    assert not canary.exists()


def test_a_plain_pickle_that_calls_the_system(tmp_path):
    refused(tmp_path, b"\x80\x02" + SYSTEM, "'posix.system'", "nothing was run")
    refused(tmp_path, b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", "'os.system'")
    assert not os.path.exists("/tmp/minivitpose_was_here")


@both
def test_unknown_names_are_never_imported(tmp_path, container, monkeypatch):
    imported, original = [], __import__

    def spy(name, *rest):
        imported.append(name)
        return original(name, *rest)

    monkeypatch.setattr("builtins.__import__", spy)
    file = TorchFile(legacy_ids=container == "legacy")
    saved = {"w": file.tensor(np.ones(2)), "x": Call(Name("antigravity", "fly"), ("now",))}
    content = getattr(file, container)(saved)
    path = write(tmp_path, content)
    try:
        read_checkpoint(path)
        message = ""
    except CheckpointError as error:
        message = str(error)
    monkeypatch.undo()
    assert "'x' among the weights" in message and "antigravity.fly" in message
    assert "antigravity" not in imported


UNKNOWN = {
    "numpy": Call(Name("numpy._core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b")),
    "sparse": Call(Name("torch._utils", "_rebuild_sparse_tensor"), (1, 2)),
    "quantised": Call(Name("torch._utils", "_rebuild_qtensor"), (1, 2)),
    "meta": Call(Name("torch._utils", "_rebuild_meta_tensor_no_storage"), (1, 2)),
    "class": Name("my.module", "Class"),
    "instance": Raw(b"cmy.module\nClass\n)\x81}b"),
    "subclass": Call(Name("torch._tensor", "_rebuild_from_type_v2"), (tf.REBUILD_V2, Name("my", "Tensor"), (), {})),
}


@both
@pytest.mark.parametrize("thing", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_objects_among_the_weights(tmp_path, container, thing):
    file = TorchFile(legacy_ids=container == "legacy")
    saved = {"state_dict": tf.state_dict(file, SMALL | {"odd": thing})}
    name = getattr(thing, "function", thing)
    word = "my.Tensor" if "from_type" in str(name) else "my.module.Class" if isinstance(thing, Raw) else name.name
    refused(tmp_path, getattr(file, container)(saved), "'odd' among the weights", word, "save only")
    file = TorchFile(legacy_ids=container == "legacy")
    saved = {"state_dict": tf.state_dict(file, SMALL), "beside": {"odd": thing}}
    assert list(read(tmp_path, getattr(file, container)(saved)).state_dict) == ["weight", "bias"]


@both
@pytest.mark.parametrize(
    "storage_class, dtype, width",
    [("ComplexFloatStorage", "complex64", 8), ("QInt8Storage", "qint8 (quantised)", 1), ("UntypedStorage", "bytes", 1)],
)
def test_refused_types_are_named(tmp_path, container, storage_class, dtype, width):
    for place in ("beside", "among"):
        file = TorchFile(legacy_ids=container == "legacy")
        odd = file.view(file.storage(bytes(2 * width), storage_class, count=2), (2,))
        model = tf.state_dict(file, SMALL | ({"odd": odd} if place == "among" else {}))
        content = getattr(file, container)({"model": model, "other": odd})
        if place == "among":
            refused(tmp_path, content, "'odd'", dtype, "convert it to float32")
        else:
            checkpoint = read(tmp_path, content)
            assert_same(checkpoint.state_dict, SMALL)
            assert checkpoint.ignored == {"other": f"a tensor of {dtype}, 2"}


def test_float8_and_complex_of_v3_are_named(tmp_path):
    for name in ("float8_e4m3fn", "complex32", "nonsense"):
        file = TorchFile()
        raw = file.storage(bytes(8), "UntypedStorage")
        odd = file.view(raw, (2,), rebuild=tf.REBUILD_V3, more=(Name("torch", name),))
        refused(tmp_path, file.zip({"odd": odd}), "'odd'", name)


def test_pending_negation_is_refused(tmp_path):
    file = TorchFile()
    odd = file.view(file.storage(np.ones(2)), (2,), more=({"neg": True},))
    refused(tmp_path, file.zip({"odd": odd}), "'odd'", "negation")


TENSORS = {  # shape, strides, offset of a view of a storage of 4 elements
    "outside": ((5,), (1,), 0, "outside its storage", "at most element 3", "found element 4"),
    "offset": ((1,), (1,), 4, "outside its storage"),
    "stride": ((2,), (4,), 0, "outside its storage"),
    "negative_offset": ((1,), (1,), -1, "impossible offset or strides"),
    "negative_stride": ((2,), (-1,), 1, "impossible offset or strides"),
    "negative_size": ((-2,), (1,), 0, "impossible length"),
    "huge_stride": ((2,), (2**63,), 0, "impossible offset or strides"),
    "huge_offset": ((1,), (1,), 2**70, "impossible offset or strides"),
    "huge_size": ((2**64,), (0,), 0, "impossible length"),
    "product": ((2**40, 2**40), (0, 0), 0, "absurd shape"),
    "empty_product": ((0, 2**40, 2**40), (0, 0, 0), 0, "absurd shape"),
    "expanded": ((2**40,), (0,), 0, "the tensors would become", ".contiguous()"),
    "expanded_2": ((3000, 3000), (0, 0), 0, "the tensors would become"),
    "real": ((2.0,), (1,), 0, "impossible length"),
    "boolean": ((True,), (1,), 0, "impossible length"),
    "boolean_offset": ((1,), (1,), True, "impossible offset or strides"),
    "fewer_strides": ((2, 2), (1,), 0, "impossible offset or strides"),
    "dimensions": ((1,) * 33, (1,) * 33, 0, "33 dimensions"),
    "text": (("2",), (1,), 0, "impossible length"),
}


@both
@pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS)
def test_tensors_that_cannot_be(tmp_path, container, case):
    shape, stride, offset, *words = case
    file = TorchFile(legacy_ids=container == "legacy")
    storage = file.storage(np.ones(4, np.float32))
    saved = {"good": file.view(storage, (4,)), "bad": file.view(storage, shape, stride, offset)}
    tracemalloc.start()
    refused(tmp_path, getattr(file, container)(saved), "'bad'", *words)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def test_many_copies_of_one_storage_are_refused(tmp_path):
    """Each is honest alone: 200 transposed views of a storage of 1 MB would be 200 MB."""
    file = TorchFile()
    storage = file.storage(np.zeros(1 << 18, np.float32))
    views = {f"w{i}": file.view(storage, (511, 512 - i), (1, 512)) for i in range(200)}
    refused(tmp_path, file.zip(views), "the tensors would become", "from a file of this size")


@both
@pytest.mark.parametrize("count", [2**60, 2**63, 2**200, -1, 5])
def test_storages_that_claim_too_much(tmp_path, container, count):
    file = TorchFile(legacy_ids=container == "legacy")
    storage = file.storage(np.ones(4, np.float32), count=count)
    counts = {"0": 4}
    saved = {"w": file.view(storage, (4,))}
    content = file.zip(saved) if container == "zip" else file.legacy(saved, counts=counts)
    words = "never does" if not 0 <= count < 2**62 else "too small" if container == "zip" else "cut off or damaged"
    refused(tmp_path, content, words)


@both
@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "", "a\0b", "x" * 100])
def test_storage_names_that_are_paths(tmp_path, container, key):
    file = TorchFile(legacy_ids=container == "legacy")
    storage = file.storage(np.ones(4, np.float32))
    storage.identifier = (*storage.identifier[:2], key, *storage.identifier[3:])
    message = refused(tmp_path, getattr(file, container)({"w": file.view(storage, (4,))}), "a number, no path")
    assert "\0" not in message


def test_missing_storage(tmp_path):
    file = TorchFile()
    saved = {"w": file.tensor(np.ones(4))}
    del file.storages["0"]
    refused(tmp_path, file.zip(saved), "lacks the record 'archive/data/0'")


def test_legacy_lists_of_storages(tmp_path):
    file = TorchFile(legacy_ids=True)
    saved = tf.state_dict(file, SMALL)
    for keys, words in [
        (["0"], "lacks the storage '1'"), (["0", "0"], "damaged at '0'"), (["0", "2"], "damaged at '2'"),
        ([["0"]], "damaged at a list"), ({"0": 1}, "expected a list, found a dict of 1"), ([], "lacks the storage"),
    ]:  # fmt: skip
        refused(tmp_path, file.legacy(saved, keys=keys), words)
    for count in (7, -1, 2**62):
        refused(
            tmp_path, file.legacy(saved, counts={"0": count}), "storage '0' is cut off or damaged", f"found {count}"
        )


def test_legacy_header(tmp_path):
    good = torch_file("legacy")
    refused(tmp_path, good.replace(b"M\xe9\x03.", b"M\xea\x03.", 1), "expected 1001, found 1002")
    rest = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    refused(tmp_path, rest + b"\x80\x02]." + good[20:], "third pickle")
    refused(tmp_path, rest + b"\x80\x02" + b"]0" * 5000 + b"}.", "middle of an instruction")


P = b"\x80\x02"
ID = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
V2 = b"ctorch._utils\n_rebuild_tensor_v2\n"
WRONG_PICKLES = {
    "no_protocol": (b"}.", "does not begin with its protocol"),
    "protocol_1": (b"\x80\x01}.", "found 1"),
    "protocol_9": (b"\x80\x09}.", "found 9"),
    "text_opcode": (P + b"S'a'\n.", "unknown instruction 0x53 at byte 2"),
    "inst": (P + b"(iposix\nsystem\n.", "unknown instruction 0x69"),
    "extension": (P + b"\x82\x01.", "unknown instruction 0x82"),
    "buffer": (P + b"\x97.", "unknown instruction 0x97"),
    "no_stop": (P + b"}", "middle of an instruction"),
    "only_protocol": (P, "middle of an instruction"),
    "nothing": (b"", "middle of an instruction"),
    "stop_on_nothing": (P + b".", "STOP at byte 2"),
    "two_left": (P + b"}}.", "STOP at byte 4"),
    "mark_left": (P + b"}(}.", "STOP at byte 5"),
    "empty_append": (P + b"]a.", "APPEND at byte 3"),
    "append_to_text": (P + b"X\x01\x00\x00\x00aNa.", "APPEND"),
    "appends_without_mark": (P + b"]e.", "APPENDS at byte 3"),
    "odd_items": (P + b"}(Nu.", "SETITEMS at byte 5"),
    "items_of_a_list": (P + b"](NNu.", "SETITEMS"),
    "tuple3_of_two": (P + b"NN\x87.", "TUPLE3"),
    "below_the_mark": (P + b"N(\x85.", "TUPLE1"),
    "no_memo": (P + b"h\x05.", "BINGET at byte 2"),
    "put_nothing": (P + b"q\x00.", "BINPUT at byte 2"),
    "dup_nothing": (P + b"2.", "DUP"),
    "pop_nothing": (P + b"0.", "POP"),
    "call_text": (P + b"X\x01\x00\x00\x00a)R.", "REDUCE"),
    "call_without_tuple": (P + b"ca\nb\nNR.", "REDUCE"),
    "global_of_numbers": (P + b"K\x01K\x02\x93.", "STACK_GLOBAL"),
    "endless_name": (P + b"c" + b"a" * 10_000, "name without an end"),
    "no_utf8": (P + b"X\x01\x00\x00\x00\xff.", "not UTF-8"),
    "surrogate": (P + b"X\x03\x00\x00\x00\xed\xa0\x80.", "not UTF-8"),
    "no_utf8_name": (P + b"c\xff\nb\n.", "not UTF-8"),
    "long_text": (P + b"X\xff\xff\xff\xffabc.", "middle of an instruction"),
    "longest_text": (P + b"\x8d" + b"\xff" * 8 + b"abc.", "middle of an instruction"),
    "longest_bytes": (P + b"\x8e" + b"\xff" * 8 + b"abc.", "middle of an instruction"),
    "long_integer": (P + b"\x8b\xff\xff\xff\x7f" + b"1" * 99, "integer of 2147483647 bytes"),
    "integer": (P + b"\x8a\xffabc.", "middle of an instruction"),
    "identifier": (P + b"K\x01Q.", "describes a storage"),
    "empty_identifier": (P + b")Q.", "describes a storage"),
    "short_identifier": (P + b"X\x07\x00\x00\x00storage\x85Q.", "describes a storage"),
    "identifier_without_class": (P + ID.replace(b"ctorch\nFloatStorage\n", b"N") + b".", "describes a storage"),
    "two_sizes": (P + ID + b"0" + ID.replace(b"K\x04", b"K\x05") + b".", "describes storage '0'"),
    "tensor_of_nothing": (P + V2 + b")R.", "describes a tensor"),
    "tensor_of_text": (P + V2 + b"(NNNNtR.", "describes a tensor"),
    "tensor_of_lists": (P + V2 + b"(" + ID + b"K\x00]]tR.", "describes a tensor"),
    "parameter": (P + b"ctorch._utils\n_rebuild_parameter\n)R.", "describes a parameter"),
    "from_type": (P + b"ctorch._tensor\n_rebuild_from_type_v2\n)R.", "describes a tensor"),
    "v3": (P + b"ctorch._utils\n_rebuild_tensor_v3\n(" + ID + b"K\x00))NNNtR.", "describes a tensor"),
    "ordered_dict": (P + b"ccollections\nOrderedDict\nK\x01\x85R.", "describes an OrderedDict"),
    "ordered_dict_2": (P + b"ccollections\nOrderedDict\n]K\x01a\x85R.", "describes an OrderedDict"),
    "view": (P + ID.replace(b"K\x04t", b"K\x04Nt").replace(b"Nt", b"K\x01t") + b".", "view of a storage"),
    "view_outside": (P + ID.replace(b"K\x04t", b"K\x04NK\x02K\x03\x87t") + b".", "reaches outside it"),
}


@both
@pytest.mark.parametrize("code, words", WRONG_PICKLES.values(), ids=WRONG_PICKLES)
def test_wrong_pickles(tmp_path, container, code, words):
    words = re.sub(r" at byte \d+", "", words) if container == "legacy" else words
    content = with_pickle(container, code, b"")
    if container == "legacy" and words == "middle of an instruction":
        content = content[: content.index(code, 100) + len(code)] if code else content[:100]
    refused(tmp_path, content, words)


@both
def test_objects_that_are_no_weights(tmp_path, container):
    text = b"X\x02\x00\x00\x00hi"
    for code, words in [
        (b"].", "found a list of 0"), (text + b".", "found text 'hi'"), (b"K\x05.", "found int 5"),
        (b"N.", "found None"),
        (b"}.", "a dict without tensors"), (b"}" + text + b"K\x05s.", "found a dict of 1: hi"),
        (b"}X\x0a\x00\x00\x00state_dict}s.", "a dict without tensors"), (b"cmy\nClass\n.", "the name my.Class"),
        (b"cmy\nClass\n)\x81.", "an object of my.Class"), (b")\x88\x86.", "a tuple of 2"), (ID + b".", "no weights"),
    ]:  # fmt: skip
        refused(tmp_path, with_pickle(container, code), words)
    tensor = V2 + b"(" + ID + b"K\x00K\x04\x85K\x01\x85NNtR"
    refused(tmp_path, with_pickle(container, tensor + b"."), "found a tensor of float32, 4", "save the state_dict")
    refused(tmp_path, with_pickle(container, b"}K\x07" + tensor + b"s."), "the key 7 among the weights is not text")
    refused(tmp_path, with_pickle(container, b"})" + tensor + b"s."), "is not text")
    nested = b"}X\x03\x00\x00\x00net}" + text + tensor + b"ss."
    refused(tmp_path, with_pickle(container, nested), "the weights may be under 'net'")


@both
def test_a_whole_module(tmp_path, container):
    code = (
        b"cmy.models\nNet\n)\x81}(X\x08\x00\x00\x00_modulesccollections\nOrderedDict\n)RX\x08\x00\x00\x00training\x88ub"
    )
    if container == "legacy":
        named = b"(X\x06\x00\x00\x00modulecmy.models\nNet\nNNtQ"
        code = code.replace(b"cmy.models\nNet\n", named)
    words = "a whole module, an object of my.models.Net", "save module.state_dict() instead"
    refused(tmp_path, with_pickle(container, code + b"."), *words)
    refused(tmp_path, with_pickle(container, b"}X\x05\x00\x00\x00model" + code + b"s."), *words)


@both
def test_things_that_contain_themselves(tmp_path, container):
    itself = b"}q\x00X\x0a\x00\x00\x00state_dicth\x00s."
    refused(tmp_path, with_pickle(container, itself), "a dict without tensors")
    refused(tmp_path, with_pickle(container, b"]q\x00h\x00a."), "a list of 1")
    file = TorchFile(legacy_ids=container == "legacy")
    circle = Raw(b"]\x94h\x00ah\x00a") if container == "zip" else Raw(b"]rA\x00\x00\x00jA\x00\x00\x00a")
    saved = {"circle": circle, "w": file.tensor(np.ones(2))}
    checkpoint = read(tmp_path, getattr(file, container)(saved))
    assert checkpoint.ignored["circle"].startswith("a list of")


def repeat(code: bytes, times: int) -> bytes:
    return code * times


MANY = 199_000
BOMBS = {
    "deep_list": (repeat(b"]", MANY // 2) + repeat(b"a", MANY // 2 - 1) + b".", "a list of 1"),
    "deep_tuple": (b"N" + repeat(b"\x85", MANY) + b".", "a tuple of 1"),
    "marks": (repeat(b"(", MANY) + b".", "makes no sense"),
    "endless": (repeat(b"N0", 10_000_000) + b"N.", "more than 200000 instructions"),
    "dicts": (b"(" + repeat(b"}NNs", MANY // 4) + b"t.", "a tuple of"),
    "calls": (b"(" + repeat(b"ca\nb\n)R", MANY // 3) + b"t.", "a tuple of"),
    "memo": (b"(" + b"".join(b"]r" + struct.pack("<I", i * 9001) for i in range(MANY // 2)) + b"t.", "a tuple of"),
    "laughing_key": (b"}" + b"]q\x00" + repeat(repeat(b"h\x00", 8) + b"\x87\x87\x87\x87q\x00", 9_000) + b"Ns" + b".",
                     "is not text"),
    "text": (b"X" + struct.pack("<I", 30 << 20) + "\U0001f600".encode() + b"a" * ((30 << 20) - 4) + b".", "long text"),
    "texts": (b"(" + repeat(b"X\x08\x01\x00\x00\xf0\x9f\x98\x80" + b"a" * 260, 100_000) + b"t.", "a tuple of 100000"),
    "integers": (b"(" + repeat(b"\x8a\xff" + b"7" * 255, 100_000) + b"t.", "a tuple of 100000"),
    "pairs": (b"ccollections\nOrderedDict\nq\x00]q\x01(" + repeat(b"K\x01K\x02\x86", 50_000) + b"e0"
              + b"(" + repeat(b"h\x00h\x01\x85R", 20_000) + b"t.", "describes an OrderedDict"),
    "large": (b"X" + struct.pack("<I", 70 << 20) + bytes(70 << 20) + b".", ""),
}  # fmt: skip


@pytest.mark.parametrize("code, words", BOMBS.values(), ids=BOMBS)
def test_pickle_bombs(tmp_path, code, words):
    content = with_pickle("zip", code)
    path = write(tmp_path, content)
    del content
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words in str(caught.value) and str(caught.value).isprintable()
    assert peak < 100 << 20


def test_billion_laughs_as_a_value_and_as_a_key(tmp_path):
    """Ten references to ten references to ...: harmless as long as nobody walks through them or hashes them."""
    laugh = b"Nq\x07" + repeat(b"0(" + repeat(b"h\x07", 10) + b"tq\x07", 10_000)
    file = TorchFile()
    content = file.zip({"laugh": Raw(laugh), "w": file.tensor(np.ones(2))})
    assert read(tmp_path, content).ignored == {"laugh": "a tuple of 10"}
    refused(tmp_path, with_pickle("zip", b"}" + laugh + b"Ns."), "the key a tuple among the weights is not text")


def test_one_large_dict_named_again_and_again(tmp_path):
    """Looking through it each time would take hours."""
    entries = b"".join(b"X\x05\x00\x00\x00%05dN" % i for i in range(40_000))
    names = b"".join(b"X\x05\x00\x00\x00%05dh\x07" % i for i in range(40_000))
    large = b"}(" + entries + b"uq\x07"
    refused(tmp_path, with_pickle("zip", large + b"0}(" + names + b"u."), "a dict without tensors")
    file = TorchFile()
    weights = file.tensor(np.ones(2))
    checkpoint = read(tmp_path, file.zip({"w": weights, "first": Raw(large), "others": Raw(b"}(" + names + b"u")}))
    assert checkpoint.ignored["others"].startswith("a dict of 40000: 00000, 00001")
    metadata = V2 + b"q\x09(" + ID + b"K\x00K\x04\x85K\x01\x85NNh\x07tq\x08R" + b"0h\x09h\x08R" * 15_000
    refused(tmp_path, with_pickle("zip", large + b"0" + metadata + b"."), "found a tensor of float32, 4")


def test_a_class_that_is_no_name(tmp_path):
    """Printing a deeply nested list would exhaust Python's stack."""
    deep = b"]" * 20_000 + b"a" * 19_999
    code = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n" + deep + b"))tR"
    refused(tmp_path, with_pickle("zip", b"}X\x01\x00\x00\x00w" + code + b"s."), "'w' among the weights")
    for wrong in (deep, b"}" + deep + b"Ns", b"X\x07\x00\x00\x00storage" + deep + b"\x86Q"):
        refused(tmp_path, with_pickle("zip", wrong + b"."))
    for count in (deep, b"\x8a\xff" + b"7" * 255):
        refused(tmp_path, with_pickle("zip", ID.replace(b"K\x04", count) + b"."), "never does")
    shaped = V2 + b"(" + ID + b"K\x00" + deep + b"\x85K\x01\x85NNtR"
    refused(tmp_path, with_pickle("zip", b"}X\x01\x00\x00\x00w" + shaped + b"s."), "impossible length")


# ---- files that are something else -----------------------------------------------------------------------------

OTHER_FILES = {
    "html": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "web page", "download the file itself"),
    "html_2": (b"\n  <html lang='en'>", "web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "web page"),
    "git_lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 360038314\n", "git lfs pull"),
    "tar": (b"storages".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "tar, PyTorch's oldest format"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x062.13.0", "ONNX"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "npy": (npy_file(npy_header(), bytes(8)), "single array"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), "gzip"),
    "json": (b'{"error": "Repository not found"}', "JSON"),
    "index": (b'{"weight_map": {"a": "model-00001.safetensors"}}', "model-00001.safetensors: there is no such file"),
    "text": (b"Not found\n", "looks like text"),
    "zeros": (bytes(1000), "zeros only"),
    "noise": (b"\xa7\x13\x99\xfe" * 9, "not known"),
    "one_byte": (b"\x07", "not known"),
    "pickle": (b"\x80\x04]\x94.", "plain pickle", "found a list of 0"),
    "pickle_of_arrays": (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)R.", "plain pickle", "numpy.ndarray"),
    "half_a_pickle": (b"\x80\x02}", DAMAGED),
    "half_a_zip": (b"PK\x03\x04\x00\x00", "directory at the end is missing", DAMAGED),
}


@pytest.mark.parametrize("content, words", [(c, w) for c, *w in OTHER_FILES.values()], ids=OTHER_FILES)
def test_files_that_are_something_else(tmp_path, content, words):
    refused(tmp_path, content, *words)


def test_empty_file(tmp_path):
    refused(tmp_path, b"", "the file is empty", "did not finish")


def test_paths_that_cannot_be_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path, words in [
        (tmp_path, "directory"), (tmp_path / "missing.pth", "no such file"), (tmp_path / "pipe", "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"), ("a\0b", "cannot be opened"),
        (tmp_path / ("x" * 5000), "cannot be opened"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=words) as caught:
            read_checkpoint(path)
        assert str(caught.value).isprintable()
    path = write(tmp_path, torch_file())

    def no_permission(*_):
        raise PermissionError

    monkeypatch.setattr("builtins.open", no_permission)
    with pytest.raises(CheckpointError, match="no permission"):
        read_checkpoint(path)


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors", "npz", "compressed"])
def test_every_truncation(tmp_path, container):
    """A file cut off anywhere is refused, except where only what no tensor needs is missing."""
    arrays = {"weight": SMALL["weight"], "bias": SMALL["bias"]}
    header = {"weight": entry("F32", (2, 3), (0, 24)), "bias": entry("I64", (2,), (24, 40))}
    content = {
        "zip": lambda: torch_file("zip"),
        "legacy": lambda: torch_file("legacy"),
        "safetensors": lambda: safetensors_file(header, b"".join(a.tobytes() for a in arrays.values())),
        "npz": lambda: npz_file(**arrays),
        "compressed": lambda: npz_file(True, **arrays),
    }[container]()
    assert_same(read(tmp_path, content).state_dict, arrays)
    path = write(tmp_path, content)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert str(caught.value).isprintable()


# ---- the machine itself ----------------------------------------------------------------------------------------


def test_instructions_can_be_listed():
    code = memoryview(tf.pickled({"a": (1, 2.5)}))
    assert [(position, name, argument) for position, name, argument, _ in instructions(code)] == [
        (0, "PROTO", 2), (2, "EMPTY_DICT", {}), (3, "MARK", None), (4, "BINUNICODE", "a"), (10, "BININT1", 1),
        (12, "BINFLOAT", 2.5), (21, "TUPLE2", 2), (22, "SETITEMS", None), (23, "STOP", None),
    ]  # fmt: skip


def test_unpickle_reports_the_end():
    first, second = tf.pickled([1, "a", None, True]), tf.pickled({"b": -70_000})
    data = memoryview(first + second + b"rest")
    assert unpickle(data) == ([1, "a", None, True], len(first))
    assert unpickle(data, len(first)) == ({"b": -70_000}, len(first) + len(second))


@pytest.mark.parametrize("number", [0, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**40, -(2**100)])
def test_integers(number):
    assert unpickle(memoryview(tf.pickled(number)))[0] == number


def test_names_and_calls_stay_inert():
    found, _ = unpickle(memoryview(tf.pickled([Name("a.b", "C"), Call(Name("d", "e"), (1,), state={"f": 2})])))
    assert found[0] == Global("a.b", "C")
    assert isinstance(found[1], Placeholder)
    assert (found[1].origin, found[1].arguments, found[1].state) == ("d.e", (1,), {"f": 2})


def test_error_is_a_value_error_in_one_line():
    error = CheckpointError("a\nb\x1b", expected="c", found="d\te", fix="f")
    assert str(error) == "a\\nb\\x1b (expected c, found d\\te); f"
    assert isinstance(error, ValueError)
    assert len(str(CheckpointError("x" * 10_000))) <= 1000
