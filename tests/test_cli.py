"""The command line as a user meets it: what is printed, what is written, exit codes, one-line errors."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minivitpose as mvp
from minivitpose import save_reference
from minivitpose.cli import COMMANDS, main, parser
from minivitpose.recording import make_header
from models import small_config, state_dict_for
from test_compare import reference_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photo(here):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return "photo.png"


@pytest.fixture
def weights(here):
    np.savez("small.npz", **state_dict_for(small_config()))
    return "small.npz"


def error_of(capsys, *arguments):
    """The one line that a bad use gives."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().split("\n")
    assert len(lines) == 1, err
    assert lines[0].startswith("minivitpose: error: ")
    return lines[0]


def test_demo(here, capsys):
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert "All 147 activations agree" in out
    assert "All 61 activations agree" in out.split("by the fast engine")[1]
    assert "mannequins alone" in out
    assert re.search(r"backbone.blocks.7.attn.pattern +1x3x192x192 +float32 +\d", out)
    assert "% of tol." in out
    with Image.open("demo.png") as picture:
        assert picture.size[0] == 1600
    assert "ViTPose-mini" in err


def test_demo_fails_where_the_fast_engine_is_wrong(here, capsys, monkeypatch):
    from minivitpose import engine

    monkeypatch.setattr(engine, "folded_positions", lambda engine, grid: engine.pos_embed[0, 1:])
    assert main(["demo"]) == 1
    out = capsys.readouterr().out
    assert "All 147 activations agree" in out
    assert "FIRST DIVERGENCE at backbone.pos" in out


@pytest.mark.parametrize("engine", ["numpy", "numba", "fast"])
def test_demo_in_each_engine(here, engine, capsys):
    assert main(["demo", "--engine", engine, "--out", f"{engine}.png"]) == 0
    assert "activations agree" in capsys.readouterr().out


def test_demo_fails_where_the_model_is_wrong(here, capsys, monkeypatch):
    from minivitpose import kernels

    right = kernels.gelu
    monkeypatch.setattr(kernels, "gelu", lambda x: right(x) * np.float32(1.0001))
    assert main(["demo"]) == 1
    assert "FIRST DIVERGENCE at backbone.blocks.0.mlp.act" in capsys.readouterr().out


def test_predict(photo, capsys):
    assert main(["predict", photo, "--weights", "mini", "--box", "10", "5", "30", "50", "--out", "results/a"]) == 0
    out = capsys.readouterr().out
    result = json.loads(Path("results/a/photo-keypoints.json").read_text())
    assert result["image"] == photo
    assert result["keypoint_names"][:2] == ["nose", "left_eye"]
    (pose,) = result["poses"]
    assert pose["box"] == [10, 5, 30, 50]
    assert np.shape(pose["keypoints"]) == (17, 2)
    assert np.shape(pose["scores"]) == (17,)
    with Image.open("results/a/photo-keypoints.png") as picture:
        assert picture.size == (90, 60)
    expected = mvp.estimate(mvp.load("mini"), photo, [(10, 5, 30, 50)])[0]
    assert np.allclose(pose["keypoints"], expected.keypoints)
    assert f"x {expected.keypoints[0, 0]:8.2f}" in out


def test_predict_many_people_and_the_whole_picture(photo, weights, capsys):
    boxes = ["--box", "0", "0", "30", "50", "--box", "40", "5", "30", "50"]
    assert main(["predict", photo, "--weights", "mini", *boxes]) == 0
    assert len(json.loads(Path("photo-keypoints.json").read_text())["poses"]) == 2
    assert main(["predict", photo, "--weights", "mini", "--engine", "numpy"]) == 0
    assert json.loads(Path("photo-keypoints.json").read_text())["poses"][0]["box"] == [0, 0, 90, 60]


def test_inspect(weights, capsys):
    assert main(["inspect", "mini"]) == 0
    out = capsys.readouterr().out
    assert "PyTorch zip file, 115 tensors" in out
    assert "parameters  1,119,089" in out
    assert "head        classic" in out
    assert re.search(r"backbone.blocks.7.mlp.fc2.weight +96x384 +float16 +-?[\d.]+ \.\. [\d.]+", out)
    assert main(["inspect", weights, "--heads", "3"]) == 0
    out = capsys.readouterr().out
    assert "5 keypoints: unknown" in out
    assert re.search(r"num_batches_tracked +scalar +int64", out)


def test_inspect_shows_what_would_not_load(here, capsys):
    state = state_dict_for(small_config())
    del state["backbone.pos_embed"]
    np.savez("broken.npz", **state)
    assert main(["inspect", "broken.npz"]) == 1
    out = capsys.readouterr().out
    assert "This would not load: not a whole ViTPose: missing backbone.pos_embed" in out
    assert "keypoint_head.final_layer.bias" in out


def test_inspect_says_what_is_ignored(here, capsys):
    state = state_dict_for(small_config()) | {"backbone.cls_token": np.ones((1, 1, 24), np.float32)}
    np.savez("more.npz", **state)
    assert main(["inspect", "more.npz", "--heads", "3"]) == 0
    assert re.search(r"backbone.cls_token .* ignored: a leftover of the pretraining", capsys.readouterr().out)


def recording(name="recorded.npz"):
    model = mvp.load(state_dict_for(small_config()), "numpy", num_heads=3)
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 48), dtype=np.float32)
    reference = reference_of(model, images)
    reference.header = make_header(model.config)
    save_reference(reference, name)
    return model


def test_compare(weights, capsys):
    recording()
    for engine in ("numpy", "numba"):
        command = ["compare", "--weights", weights, "--heads", "3", "--reference", "recorded.npz", "--engine", engine]
        assert main(command) == 0
        assert "All 45 activations agree" in capsys.readouterr().out


def test_compare_exits_with_1_at_a_divergence(weights, capsys):
    recording()
    state = state_dict_for(small_config())
    state["backbone.blocks.1.norm2.weight"][3] *= 1.01
    np.savez("other.npz", **state)
    assert main(["compare", "--weights", "other.npz", "--heads", "3", "--reference", "recorded.npz"]) == 1
    out = capsys.readouterr().out
    assert "FIRST DIVERGENCE at backbone.blocks.1.norm2" in out
    assert "the last good one is backbone.blocks.1.resid_mid" in out
    assert "backbone.blocks.1.mlp.fc1 " not in out


# ------------------------------------------------------------------------------------------------------------- bad use


def test_bad_weights_are_one_line(photo, capsys):
    assert "absent.pth" in error_of(capsys, "predict", photo, "--weights", "absent.pth")
    assert "photo.png" in error_of(capsys, "predict", photo, "--weights", photo)
    assert "photo.png" in error_of(capsys, "inspect", photo)
    np.savez("other.npz", x=np.zeros(3))
    assert "missing backbone.patch_embed.proj.weight" in error_of(capsys, "predict", photo, "--weights", "other.npz")


def test_heads_that_nobody_knows_are_one_line(photo, weights, capsys):
    assert "--heads" in error_of(capsys, "predict", photo, "--weights", weights)


def test_bad_pictures_are_one_line(here, capsys):
    (here / "empty.jpg").write_bytes(b"")
    (here / "text.jpg").write_text("hello")
    for name in ("absent.jpg", "empty.jpg", "text.jpg"):
        assert name in error_of(capsys, "predict", name, "--weights", "mini")


@pytest.mark.parametrize(
    "box", ["0 0 0 50", "0 0 -5 50", "500 500 10 10", "nan 0 10 10", "inf 0 10 10", "0 0 1e300 10"]
)
def test_bad_boxes_are_one_line(box, photo, capsys):
    assert "box" in error_of(capsys, "predict", photo, "--weights", "mini", "--box", *box.split())


def test_bad_recordings_are_one_line(weights, capsys):
    assert "absent.npz" in error_of(capsys, "compare", "--weights", "mini", "--reference", "absent.npz")
    message = error_of(capsys, "compare", "--weights", "mini", "--reference", weights)
    assert "expected a file written by 'minivitpose record'" in message


def test_weights_of_another_model_are_told_from_a_divergence(weights, capsys):
    recording()
    message = error_of(capsys, "compare", "--weights", "mini", "--reference", "recorded.npz")
    assert "other.npz" not in message
    assert "recorded from ViTPose-custom" in message


def test_an_output_that_cannot_be_written_is_one_line(photo, capsys):
    Path("file").touch()
    assert "file" in error_of(capsys, "predict", photo, "--weights", "mini", "--out", "file")
    assert "nowhere" in error_of(capsys, "demo", "--out", "nowhere/demo.png")
    for name in ("demo.xyz", "demo"):
        assert f"{name}: expected an ending of .png, .jpg" in error_of(capsys, "demo", "--out", name)


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["predict"], ["demo", "--engine", "torch"], ["inspect"]])
def test_bad_use_is_exit_code_2_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: minivitpose" in capsys.readouterr().err


def examples():
    """The example of every command, as its module gives it."""
    found = {}

    def command(name, run, text, example):
        found[name] = example
        return argparse.ArgumentParser()

    for module in COMMANDS:
        module.add(command)
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for line in EXAMPLES[command].splitlines():
        assert f"example: {line}" in out
        parser().parse_args(shlex.split(line)[1:])  # the example is one that the command understands


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"minivitpose {mvp.__version__}\n"


def test_a_reader_that_stops_early_is_no_error(here):
    """`minivitpose inspect mini | head -1` must not end in a traceback."""
    command = f"{sys.executable} -m minivitpose inspect mini | head -1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stdout.startswith("file ")
    assert run.stderr == ""


def test_without_torch_record_says_what_to_install(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "minivitpose.reference", raising=False)
    monkeypatch.delitem(vars(mvp), "reference", raising=False)
    assert "pip install" in error_of(capsys, "record", "--variant", "mini", "--out", "r.npz")


@pytest.mark.reference
def test_record_and_compare(photo, capsys):
    pytest.importorskip("torch")
    assert main(["record", "--variant", "mini", "--image", photo, "--save-weights", "w.pth", "--out", "r.npz"]) == 0
    assert main(["record", "--weights", "w.pth", "--seed", "5", "--sample", "64", "--out", "s.npz"]) == 0
    for reference in ("r.npz", "s.npz"):
        assert main(["compare", "--weights", "w.pth", "--reference", reference]) == 0
        assert "All 147 activations agree" in capsys.readouterr().out
    assert main(["compare", "--weights", "mini", "--reference", "r.npz"]) == 1


@pytest.mark.reference
def test_record_bad_use_is_one_line(photo, capsys):
    pytest.importorskip("torch")
    assert "--variant" in error_of(capsys, "record", "--out", "r.npz")
    assert "expected one of" in error_of(capsys, "record", "--variant", "XL", "--out", "r.npz")
    assert "--half" in error_of(capsys, "record", "--weights", "mini", "--half", "--out", "r.npz")
    assert "--sample" in error_of(capsys, "record", "--variant", "mini", "--sample", "0", "--out", "r.npz")
    assert "nowhere" in error_of(capsys, "record", "--variant", "mini", "--out", "nowhere/r.npz")
    Path("w.npz").write_bytes(b"weights")
    for more in (["--out", "w.npz"], ["--out", "r.npz", "--save-weights", "w.npz"]):
        assert "w.npz is a file that is read" in error_of(capsys, "record", "--weights", "w.npz", *more)
    assert Path("w.npz").read_bytes() == b"weights"
    assert "found a folder" in error_of(capsys, "record", "--variant", "mini", "--out", ".")
    both = ["--out", "r.npz", "--save-weights", "./r.npz"]
    assert "expected two files" in error_of(capsys, "record", "--variant", "mini", *both)
    assert "--box" in error_of(capsys, "record", "--variant", "mini", "--box", "0", "0", "9", "9", "--out", "r.npz")
