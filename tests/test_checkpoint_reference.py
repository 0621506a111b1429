"""Files that torch.save wrote: what the reader makes of them equals what torch.load makes of them."""

import io
import pickle
import re
import warnings

import numpy as np
import pytest

from minivitpose.checkpoint import CheckpointError, read_checkpoint, read_state_dict

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.reference

FLOATS, INTEGERS = ["float64", "float32", "float16", "bfloat16"], ["int64", "int32", "int16", "int8"]
DTYPES = [*FLOATS, *INTEGERS, "uint64", "uint32", "uint16", "uint8", "bool"]
formats = pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])


def save(path, thing, zip_format=True, **options):
    torch.save(thing, path, _use_new_zipfile_serialization=zip_format, **options)
    return path


def as_array(tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def assert_equals_torch(path, state_dict=None):
    """The arrays equal, to the bit, what torch.load gives."""
    expected = torch.load(path, weights_only=False) if state_dict is None else state_dict
    found = read_state_dict(path)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        array = as_array(tensor)
        assert found[key].dtype == array.dtype and found[key].shape == array.shape
        assert found[key].flags.c_contiguous and found[key].flags.aligned and not found[key].flags.writeable
        assert found[key].tobytes() == array.tobytes()
    return found


def noise(shape, dtype, seed=0):
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, 8), dtype=np.uint8)
    if dtype is torch.bool:
        return torch.from_numpy(raw[..., :1] % 2 == 0)[..., 0].contiguous()
    return torch.from_numpy(raw).view(dtype)[..., 0].contiguous()


@formats
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype(tmp_path, zip_format, protocol):
    tensors = {name: noise((3, 4), getattr(torch, name), seed) for seed, name in enumerate(DTYPES)}
    tensors |= {f"{name}_scalar": noise((), getattr(torch, name)) for name in DTYPES}
    tensors |= {f"{name}_empty": torch.empty((2, 0, 3), dtype=getattr(torch, name)) for name in DTYPES}
    path = save(tmp_path / "x", tensors, zip_format, pickle_protocol=protocol)
    assert_equals_torch(path, tensors)
    if not zip_format:  # torch.load fails on the legacy files with uint16, 32 or 64 that torch.save writes
        tensors = {key: tensor for key, tensor in tensors.items() if not re.match("uint(16|32|64)", key)}
        save(path, tensors, zip_format, pickle_protocol=protocol)
    assert_equals_torch(path)


@formats
def test_views(tmp_path, zip_format):
    base = torch.arange(60.0).reshape(3, 4, 5)
    bfloat = torch.randn(4, 6, generator=torch.manual_seed(0)).to(torch.bfloat16)
    tensors = {
        "base": base, "tied": base, "transposed": base.permute(2, 0, 1), "part": base[1:, ::2, 1:4],
        "row": base[2], "number": base[1, 2, 3], "expanded": base[0, 0].expand(4, 5), "none": base[:0],
        "bfloat": bfloat.T, "bfloat_part": bfloat[1:3, 2:5], "flag": torch.tensor([True, False, True])[::2],
        "diagonal": base[:, :3, :3].diagonal(dim1=1, dim2=2), "unfolded": torch.arange(9).unfold(0, 4, 2),
    }  # fmt: skip
    found = assert_equals_torch(save(tmp_path / "x", tensors, zip_format))
    assert found["base"] is found["tied"]


@formats
def test_parameters_and_attributes(tmp_path, zip_format):
    plain, marked = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    marked.note = "hello"
    tensor = torch.arange(4.0)
    tensor.note = {"a": 1}
    grad = torch.ones(3, requires_grad=True)
    assert_equals_torch(save(tmp_path / "x", {"p": plain, "m": marked, "t": tensor, "g": grad}, zip_format))


def small_model():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)]
    return torch.nn.Sequential(*layers)


@formats
def test_a_training_checkpoint(tmp_path, zip_format):
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    meta = {"epoch": 3, "seed": np.int64(7), "history": np.arange(3.0), "config": "model = dict(\n    type='x')"}
    whole = {"meta": meta, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    path = save(tmp_path / "x", whole, zip_format)
    assert_equals_torch(path, model.state_dict())
    assert list(read_checkpoint(path).ignored) == ["meta", "optimizer"]


@formats
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", None])
def test_prefix_and_wrappers(tmp_path, zip_format, wrapper):
    weights = small_model().state_dict()
    prefixed = {f"module.{key}": tensor for key, tensor in weights.items()}
    path = save(tmp_path / "x", {wrapper: prefixed, "epoch": 1} if wrapper else prefixed, zip_format)
    assert_equals_torch(path, weights)


@formats
def test_a_whole_module_is_refused(tmp_path, zip_format):
    path = tmp_path / "x"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(path, small_model(), zip_format)
    with pytest.raises(CheckpointError, match=r"whole module.*Sequential.*save module.state_dict\(\)"):
        read_checkpoint(path)


@formats
@pytest.mark.parametrize("dtype", ["complex64", "complex128", "float8_e4m3fn", "float8_e5m2"])
def test_refused_types(tmp_path, zip_format, dtype):
    tensor = torch.zeros(3, dtype=getattr(torch, dtype))
    with pytest.raises(CheckpointError, match=rf"'odd' is of type {dtype}"):
        read_checkpoint(save(tmp_path / "x", {"fine": torch.ones(2), "odd": tensor}, zip_format))


@formats
def test_other_kinds_of_tensors_are_refused(tmp_path, zip_format):
    kinds = {
        "_rebuild_sparse_tensor": torch.eye(3).to_sparse(),
        "negation": torch._neg_view(torch.ones(2)),
        "_rebuild_meta_tensor_no_storage": torch.ones(2, device="meta"),
        "_reconstruct": np.ones(2),
    }
    for words, thing in kinds.items():
        path = save(tmp_path / "x", {"fine": torch.ones(2), "odd": thing}, zip_format)
        with pytest.raises(CheckpointError, match=f"'odd' among the weights.*{words}"):
            read_checkpoint(path)


def test_torchscript_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(tmp_path / "x")


def test_without_checksums(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "x", small_model().state_dict())
    finally:
        torch.serialization.set_crc32_options(before)
    assert_equals_torch(path)
    assert read_checkpoint(path).format == "PyTorch zip file saved without checksums"


def test_saved_through_a_file_object(tmp_path):
    buffer = io.BytesIO()
    torch.save(small_model().state_dict(), buffer)
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert_equals_torch(tmp_path / "x")


def test_big_endian_zip(tmp_path):
    """A file of a big-endian machine, imitated: swapped elements and the record that says so."""
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.arange(5),
        "c": torch.tensor([1.5, -3], dtype=torch.bfloat16),
    }
    swapped = {key: tensor.clone() for key, tensor in tensors.items()}
    for tensor in swapped.values():
        tensor.untyped_storage().byteswap(tensor.dtype)

    class BigEndian:
        def __init__(self, writer):
            self.writer = writer

        def __getattr__(self, name):
            return getattr(self.writer, name)

        def write_record(self, name, content, size):
            changed = ("big", 3) if name == "byteorder" else (content, size)
            self.writer.write_record(name, *changed)

    with torch.serialization._open_zipfile_writer(str(tmp_path / "x")) as writer:
        torch.serialization._save(swapped, BigEndian(writer), pickle, 2, False)
    assert_equals_torch(tmp_path / "x", tensors)
    assert_equals_torch(tmp_path / "x")


def test_legacy_file_that_claims_a_big_endian_writer(tmp_path):
    """torch.load ignores the claim, since PyTorch always writes little-endian elements; so does the reader."""
    path = save(tmp_path / "x", {"a": torch.arange(6.0)}, zip_format=False)
    content = path.read_bytes()
    place = content.index(b"little_endian") + len("little_endian")
    start = content.index(b"\x88", place)
    assert start - place <= 3
    path.write_bytes(content[:start] + b"\x89" + content[start + 1 :])
    assert_equals_torch(path)
    assert read_state_dict(path)["a"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int64"])
def test_safetensors_of_torch(tmp_path, dtype):
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {"a": noise((3, 5), getattr(torch, dtype)), "b": noise((), getattr(torch, dtype), 1)}
    save_file(tensors, tmp_path / "x", {"format": "pt"})
    found = read_state_dict(tmp_path / "x")
    for key, tensor in tensors.items():
        assert found[key].shape == tuple(tensor.shape) and found[key].tobytes() == as_array(tensor).tobytes()
