"""The ONNX graph: valid, and in ONNX Runtime the same heatmaps; ``minivitpose convert``."""

import sys

import numpy as np
import pytest

import minivitpose as mvp
from models import images_for, small_model
from test_cli import error_of, here  # noqa: F401 (a fixture)
from test_model import KINDS


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx")


@pytest.fixture
def to_onnx(onnx):
    from minivitpose.onnx_export import to_onnx

    return to_onnx


def run(source, images):
    """The heatmaps of ONNX Runtime; source: a path or the bytes of a graph."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(source, providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["images"]
    (heatmaps,) = session.run(["heatmaps"], {"images": images})
    assert heatmaps.dtype == np.float32
    return heatmaps


def assert_close(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind, batch, onnx, to_onnx):
    model = small_model("numpy", "float32", **KINDS[kind])
    proto = to_onnx(model, batch)
    onnx.checker.check_model(proto, full_check=True)
    size = proto.graph.input[0].type.tensor_type.shape.dim[0]
    assert (size.dim_param, size.dim_value) == (("batch", 0) if batch is None else ("", batch))
    for count in [batch] if batch else [1, 3]:
        images = images_for(model, count)
        assert_close(run(proto.SerializeToString(), images), model(images))


def test_every_tensor_is_in_the_graph(onnx, to_onnx):
    """No weight is lost or stored twice: as many numbers as the model has parameters, and a few for shapes."""
    model = small_model("numpy", "float32", extra_kernels=(3,))
    weights = {name: x for name, x in model.state_dict().items() if not name.endswith("tracked")}
    floats = [x for x in to_onnx(model).graph.initializer if x.data_type == onnx.TensorProto.FLOAT and x.dims]
    class_token = model.config.embed_dim  # its positions are added to the others'
    assert sum(np.prod(x.dims) for x in floats) == sum(x.size for x in weights.values()) - class_token


def test_values_have_the_names_of_the_activations(to_onnx):
    model = small_model("numpy", "float32")
    cache = model.run_with_cache(images_for(model))[1]
    outputs = {name for node in to_onnx(model).graph.node for name in node.output}
    other_names = {"attn.proj", "mlp", "keypoint_head.final_layer"}  # those of attn, mlp.fc2 and heatmaps
    missing = {name.split(".", 3)[-1] if ".blocks." in name else name for name in cache.keys() - outputs}
    assert missing == other_names


def test_a_float64_model_is_rounded(to_onnx):
    model = small_model("numpy", "float64")
    images = images_for(model)
    assert_close(run(to_onnx(model).SerializeToString(), images.astype(np.float32)), model(images))


def test_a_whole_vitpose_s(onnx, tmp_path):
    from minivitpose.config import variant_config
    from minivitpose.onnx_export import save_onnx
    from models import state_dict_for

    model = mvp.load(state_dict_for(variant_config("S")), "numpy")
    assert save_onnx(model, tmp_path / "s.onnx") == [tmp_path / "s.onnx"]
    images = images_for(model)
    assert_close(run(tmp_path / "s.onnx", images), model(images))


def test_large_weights_go_to_a_file_of_their_own(onnx, tmp_path, monkeypatch):
    """As ViTPose-H's must, whose 2.5 GB no protobuf message can hold."""
    from minivitpose import onnx_export

    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 1000)
    model = small_model("numpy", "float32")
    images, path = images_for(model), tmp_path / "small.onnx"
    for _ in range(2):  # the second time over the first
        assert onnx_export.save_onnx(model, str(path)) == [tmp_path / "small.onnx.data", path]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["small.onnx", "small.onnx.data"]
        onnx.checker.check_model(str(path))
        assert_close(run(path, images), model(images))
    assert path.stat().st_size < (tmp_path / "small.onnx.data").stat().st_size


def test_a_failed_write_leaves_what_was_there(onnx, tmp_path, monkeypatch):
    from minivitpose.onnx_export import save_onnx

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    path = tmp_path / "small.onnx"
    path.write_text("before")
    monkeypatch.setattr(onnx, "save_model", full)
    with pytest.raises(OSError, match="No space"):
        save_onnx(small_model("numpy", "float32"), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


# ------------------------------------------------------------------------------------------------------------- convert


def test_convert(here, onnx, capsys):  # noqa: F811
    from minivitpose.cli import main

    assert main(["convert", "mini", "mini.onnx", "--batch", "2"]) == 0
    assert capsys.readouterr().out == "written: mini.onnx\n"
    model = mvp.load("mini", "numpy")
    images = images_for(model, 2)
    assert_close(run("mini.onnx", images), model(images))


def test_convert_bad_use_is_one_line(here, capsys):  # noqa: F811
    assert "ends in .onnx" in error_of(capsys, "convert", "mini", "mini.tflite")
    assert "nowhere" in error_of(capsys, "convert", "mini", "nowhere/mini.onnx")


def test_convert_says_what_it_cannot_read(here, onnx, capsys):  # noqa: F811
    assert "absent.pth" in error_of(capsys, "convert", "absent.pth", "mini.onnx")


def test_without_onnx_convert_says_what_to_install(here, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "minivitpose.onnx_export", raising=False)
    assert "pip install 'minivitpose[bench]'" in error_of(capsys, "convert", "mini", "mini.onnx")
