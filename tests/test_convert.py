"""`minivitpose convert` and `inspect` for files of weights: what is written loads again, and nothing is ever lost."""

import json
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest

import minivitpose as mvp
import public_files as pf
from minivitpose import read_state_dict
from minivitpose.checkpoint.hf_config import hf_config
from minivitpose.cli import main
from minivitpose.config import ConfigError, variant_config
from models import images_for, small_config
from test_cli import error_of, here  # noqa: F401  (a fixture)

HEADS = ["--heads", "3"]
STANDARD = {"deconv_filters": (256, 256), "depth": 11}  # what transformers can be configured to be


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, x in expected.items():
        assert found[name].dtype == x.dtype, name
        assert np.array_equal(found[name], x), name


def save(path, state):
    Path(path).write_bytes(pf.safetensors(state))
    return str(path)


def without_final(state):
    return {name: x for name, x in state.items() if name != "associate_keypoint_heads.4.final_layer.weight"}


def convert(*arguments):
    assert main(["convert", *map(str, arguments)]) == 0


@pytest.fixture
def plain(here):  # noqa: F811
    return save("vitpose.safetensors", pf.official())


@pytest.fixture
def plus(here):  # noqa: F811
    return save("vitpose+.safetensors", pf.plus())


# ----------------------------------------------------------------------------------------------------------- one plain


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("target", pf.NAMINGS)
@pytest.mark.parametrize("source", pf.NAMINGS)
def test_every_naming_becomes_every_other(source, target, suffix, here, capsys):  # noqa: F811
    state = pf.official(head="simple")
    if source == "mmpose" or target == "mmpose":  # the sum is the same, the slot is gone
        table = state["backbone.pos_embed"]
        state["backbone.pos_embed"] = np.concatenate([0 * table[:, :1], table[:, 1:] + table[:, :1]], axis=1)
    path = save("in.safetensors", pf.NAMINGS[source](state))
    convert(path, f"out.{suffix}", "--naming", target, *HEADS)
    same(read_state_dict(f"out.{suffix}"), pf.NAMINGS[target](state))
    assert f"written: out.{suffix}" in capsys.readouterr().out


def test_official_is_the_default_and_easys_the_same(plain):
    for arguments in ([], ["--naming", "easy"], ["--naming", "official"]):
        convert(plain, "out.npz", *HEADS, *arguments)
        same(read_state_dict("out.npz"), pf.official())


def test_the_converted_model_computes_the_same(plain):
    convert(plain, "out.safetensors", "--naming", "mmpose", *HEADS)
    model, other = (mvp.load(path, num_heads=3) for path in (plain, "out.safetensors"))
    images = images_for(model)
    assert model.engine == "fast"
    assert np.array_equal(model(images), other(images))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes_are_kept(dtype, here):  # noqa: F811
    state = {name: x.astype(dtype) if x.dtype.kind == "f" else x for name, x in pf.official(depth=1).items()}
    path = save("in.safetensors", state)
    for naming in ("official", "hf", "mmpose"):
        convert(path, "out.safetensors", "--naming", naming, *HEADS)
        found = read_state_dict("out.safetensors")
        assert {x.dtype.name for x in found.values()} == {dtype, "int64"}
    convert(path, "out.safetensors", "--naming", "hf", *HEADS)
    same(read_state_dict("out.safetensors"), pf.as_hf(state))


def test_the_file_is_an_ordinary_safetensors_file(plain):
    from safetensors.numpy import load_file

    convert(plain, "out.safetensors", "--naming", "hf", *HEADS)
    same(load_file("out.safetensors"), pf.as_hf(pf.official()))
    content = Path("out.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0 and header["__metadata__"] == {"format": "pt"}
    for name, x in read_state_dict("out.safetensors").items():
        assert header[name]["data_offsets"][0] % x.dtype.itemsize == 0
    assert stat.S_IMODE(os.stat("out.safetensors").st_mode) == stat.S_IMODE(os.stat(plain).st_mode)


def test_leftovers_are_left_out_and_said(here, capsys):  # noqa: F811
    state = pf.official() | {"backbone.cls_token": np.zeros((1, 1, 24), np.float32)}
    convert(save("in.safetensors", state), "out.safetensors", *HEADS)
    same(read_state_dict("out.safetensors"), pf.official())
    assert "left out: backbone.cls_token" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- ViTPose+


def test_a_whole_vitpose_plus_keeps_experts_and_heads(plus, capsys):
    convert(plus, "out.safetensors", *HEADS)
    same(read_state_dict("out.safetensors"), pf.plus())
    assert capsys.readouterr().err == ""
    convert(plus, "hf.safetensors", *HEADS, "--naming", "hf")
    same(read_state_dict("hf.safetensors"), pf.as_hf(pf.plus(heads=())))
    err = capsys.readouterr().err
    assert "left out: associate_keypoint_heads.0.deconv_layers.0.weight" in err
    convert("hf.safetensors", "back.npz", *HEADS)
    same(read_state_dict("back.npz"), pf.plus(heads=()))


def test_mmpose_has_no_place_for_experts(plus, capsys):
    error = error_of(capsys, "convert", plus, "out.safetensors", *HEADS, "--naming", "mmpose")
    assert "no experts" in error and "--dataset (coco, aic, mpii, ap10k" in error and "--split" in error
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize("naming", pf.NAMINGS)
def test_one_dataset_of_a_vitpose_plus(plus, naming, capsys):
    convert(plus, "out.safetensors", *HEADS, "--dataset", "wholebody", "--naming", naming)
    expected = pf.split_by_hand(pf.plus(), "coco_wholebody")
    same(read_state_dict("out.safetensors"), pf.NAMINGS[naming](expected))
    assert capsys.readouterr().err == ""


def test_one_expert_of_a_vitpose_plus(plus):
    convert(plus, "out.safetensors", *HEADS, "--expert", "3")
    found = read_state_dict("out.safetensors")
    fc2 = "backbone.blocks.10.mlp.fc2.weight"
    assert np.array_equal(found[fc2], pf.split_by_hand(pf.plus(), "ap10k")[fc2])
    assert not any(".experts." in name for name in found)


@pytest.mark.parametrize("naming", ["official", "mmpose"])
def test_split_writes_a_plain_file_for_each_dataset(plus, naming, capsys):
    convert(plus, "parts", *HEADS, "--split", "--naming", naming)
    assert sorted(os.listdir("parts")) == sorted(f"vitpose+-{dataset}.safetensors" for dataset in pf.PARTS)
    for dataset, keypoints in pf.PARTS.items():
        path = f"parts/vitpose+-{dataset}.safetensors"
        same(read_state_dict(path), pf.NAMINGS[naming](pf.split_by_hand(pf.plus(), dataset)))
        assert mvp.load(path, "numpy", num_heads=3).config.num_keypoints == keypoints
    assert capsys.readouterr().out.count("written: parts/") == 6


def test_a_plain_backbone_with_several_heads(here, capsys):  # noqa: F811
    state = pf.official() | pf.associate_heads(("aic", "mpii"))
    path = save("multi.safetensors", state | {"backbone.cls_token": np.zeros((1, 1, 24), np.float32)})
    convert(path, "out.safetensors", *HEADS)
    same(read_state_dict("out.safetensors"), state)
    assert "left out: backbone.cls_token\n" in capsys.readouterr().err
    convert(path, "parts", *HEADS, "--split")
    assert sorted(os.listdir("parts")) == [f"multi-{dataset}.safetensors" for dataset in ("aic", "coco", "mpii")]
    assert mvp.load("parts/multi-aic.safetensors", "numpy", num_heads=3).config.num_keypoints == 14
    capsys.readouterr()
    convert(path, "out.safetensors", *HEADS, "--naming", "mmpose")
    same(read_state_dict("out.safetensors"), pf.as_mmpose(pf.official()))
    assert "left out: associate_keypoint_heads" in capsys.readouterr().err


def test_what_cannot_be_split_is_one_line(plain, capsys):
    assert "nothing to split" in error_of(capsys, "convert", plain, "parts", *HEADS, "--split")
    path = save("hf.safetensors", pf.as_hf(pf.plus(heads=())))
    assert "its experts share one head" in error_of(capsys, "convert", path, "parts", *HEADS, "--split")
    path = save("joined.safetensors", pf.split_by_hand(pf.plus(), "coco", buggy=True))
    assert "leftovers of an earlier split" in error_of(capsys, "convert", path, "parts", *HEADS, "--split")
    state = pf.plus()
    del state["associate_keypoint_heads.4.final_layer.bias"]
    path = save("damaged.safetensors", state)
    assert "missing associate_keypoint_heads.4.final_layer.weight" in error_of(
        capsys, "convert", save("more.safetensors", without_final(state)), "parts", *HEADS, "--split"
    )
    assert main(["convert", path, "parts", *HEADS, "--split"]) == 2
    assert "missing associate_keypoint_heads.4.final_layer.bias" in capsys.readouterr().err
    assert main(["convert", path, "out.npz", *HEADS]) == 2
    assert not Path("parts").exists() and not Path("out.npz").exists()


def test_a_joined_file_becomes_a_plain_one(here, capsys):  # noqa: F811
    path = save("joined.safetensors", pf.split_by_hand(pf.plus(), "coco", buggy=True))
    convert(path, "out.safetensors", *HEADS)
    same(read_state_dict("out.safetensors"), pf.split_by_hand(pf.plus(), "coco"))
    assert "left out: associate_keypoint_heads.0" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- a folder for transformers


@pytest.mark.parametrize("out", ["model", "model/", "v1.5/"])
def test_a_folder_for_transformers(out, here):  # noqa: F811
    path = save("in.safetensors", pf.official(**STANDARD))
    convert(path, out, *HEADS, "--naming", "hf")
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    same(read_state_dict(out), pf.as_hf(pf.official(**STANDARD)))
    config = json.loads(Path(out, "config.json").read_text())
    assert config["backbone_config"]["layer_norm_eps"] == 1e-6
    assert config["id2label"]["16"] == "right_ankle" and len(config["edges"]) == 19
    model, other = mvp.load(out), mvp.load(path, num_heads=3)  # the heads stand in config.json
    images = images_for(model)
    assert np.array_equal(model(images), other(images))
    convert(out, "back.safetensors")
    same(read_state_dict("back.safetensors"), pf.official(**STANDARD))


UNUSUAL = [{"deconv_filters": (8, 6)}, {"final_kernel": 3}, {"extra_kernels": (1,)}, {"mlp_dim": 36}, {"head_dim": 10}]


@pytest.mark.parametrize("changes", UNUSUAL)
def test_a_network_that_transformers_does_not_have_is_one_line(changes, here, capsys):  # noqa: F811
    state = pf.official(**(STANDARD | {"depth": 1} | changes))
    path = save("in.safetensors", state)
    assert "transformers has no such ViTPose" in error_of(capsys, "convert", path, "out/", *HEADS, "--naming", "hf")
    assert not Path("out").exists()


def test_other_unusual_networks_have_no_config_for_transformers():
    hf_config(variant_config("B"))
    for changes in ({"qk_scale": 0.1}, {"ratio": 2}):
        with pytest.raises(ConfigError, match="transformers has no such"):
            hf_config(variant_config("B", **changes))
    with pytest.raises(ConfigError, match="256 channels"):
        hf_config(small_config())


# ----------------------------------------------------------------------------------------------------- nothing is lost


def test_the_file_that_is_read_is_never_written(plain, capsys):
    before = Path(plain).read_bytes()
    os.symlink(plain, "link.safetensors")
    for out in (plain, f"./{plain}", "link.safetensors"):
        assert "is a file that is read" in error_of(capsys, "convert", plain, out, *HEADS)
    folder = pf.folder(Path("model"), pf.as_hf(pf.official(**STANDARD)))
    assert "is a file that is read" in error_of(capsys, "convert", "model", "model", "--naming", "hf")
    assert Path(plain).read_bytes() == before
    same(read_state_dict(folder), pf.as_hf(pf.official(**STANDARD)))


@pytest.mark.parametrize("out", ["out.safetensors", "out.npz", "out/"])
def test_a_full_disk_leaves_what_was_there(out, here, capsys):  # noqa: F811
    state = pf.official(**STANDARD)
    path = save("in.safetensors", state)
    arguments = [*HEADS, "--naming", "hf"]
    convert(path, out, *arguments)
    before = {file: file.read_bytes() for file in sorted(Path().rglob("*")) if file.is_file()}
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writing more fails, as on a full disk
    try:
        error = error_of(capsys, "convert", path, out, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "out" in error and "File too large" in error
    assert {file: file.read_bytes() for file in sorted(Path().rglob("*")) if file.is_file()} == before


def test_an_interrupt_leaves_what_was_there(plain, monkeypatch, capsys):
    from minivitpose.checkpoint import write

    Path("out.safetensors").write_bytes(b"before")

    def interrupted(file, arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "write_safetensors", interrupted)
    assert main(["convert", plain, "out.safetensors", *HEADS]) == 130
    assert Path("out.safetensors").read_bytes() == b"before"
    assert sorted(os.listdir()) == ["out.safetensors", "vitpose.safetensors"]


def test_bad_use_is_one_line(plain, capsys):
    def error(*arguments):
        return error_of(capsys, "convert", plain, *arguments)

    assert "the folder missing does not exist" in error("missing/out.npz", *HEADS)
    assert "ends in .onnx, .safetensors, .npz" in error("out.pth", *HEADS)
    assert "ends in .onnx, .safetensors, .npz" in error("out", *HEADS)
    assert "expected a folder, found a file" in error(plain, "--split")
    assert "ONNX graph names its own tensors" in error("out.onnx", "--naming", "hf")
    assert "--batch goes with OUT.onnx" in error("out.npz", "--batch", "2")
    assert "leave --dataset and --expert out" in error("parts", "--split", "--dataset", "coco")
    assert "the file has none" in error("out.npz", "--expert", "0", *HEADS)
    assert "pass num_heads=" in error("out.npz")
    assert error("/proc/out.npz", *HEADS).startswith("minivitpose: error: /proc/out.npz: ")
    os.mkdir("closed.npz")
    assert "closed.npz" in error("closed.npz", *HEADS)


def test_weights_that_are_not_finite_are_not_converted(here, capsys):  # noqa: F811
    state = pf.official(depth=1)
    state["backbone.last_norm.bias"][3] = np.nan
    assert main(["convert", save("in.safetensors", state), "out.npz", *HEADS]) == 2
    assert "hold NaN" in capsys.readouterr().err
    assert not Path("out.npz").exists()


# -------------------------------------------------------------------------------------------------------------- inspect


def inspected(capsys, *arguments):
    assert main(["inspect", *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    return dict(
        line.split(maxsplit=1) for line in out.split("\n\n")[0].replace("layer norm", "layer-norm").splitlines()
    ), out


def test_inspect_says_what_a_file_is(plain, plus, capsys):
    facts, _ = inspected(capsys, plain, *HEADS)
    assert facts["naming"] == "official (ViTPose and easy_ViTPose)"
    assert facts["positions"] == "12 and one for the class token"
    assert facts["dataset"].startswith("17 keypoints: coco or ap10k or apt36k")
    facts, out = inspected(capsys, plus, *HEADS)
    assert facts["experts"].startswith(
        "6 of 6 channels: 0 coco, 1 aic, 2 mpii, 3 ap10k, 4 apt36k, 5 coco_wholebody; this is"
    )
    assert "associate heads 0 aic (14 keypoints), 1 mpii (16 keypoints), 2 ap10k" in facts["heads"]
    assert facts["dataset"] == "17 keypoints: coco"
    assert out.count("  ignored\n") == 5 * 14
    facts, _ = inspected(capsys, plus, *HEADS, "--dataset", "mpii")
    assert facts["experts"].endswith("this is number 2") and facts["heads"].endswith(
        "this is associate_keypoint_heads.1"
    )
    assert facts["dataset"] == "16 keypoints: mpii"
    count = sum(
        x.size for name, x in pf.split_by_hand(pf.plus(), "mpii").items() if not name.endswith(("var", "mean", "ked"))
    )
    assert facts["parameters"] == f"{count:,}"
    joined = save("joined.safetensors", pf.split_by_hand(pf.plus(), "coco", buggy=True))
    facts, _ = inspected(capsys, joined, *HEADS)
    assert facts["experts"] == "6, leftovers: fc2 is already joined with one"


def test_inspect_of_other_namings_and_folders(here, capsys):  # noqa: F811
    facts, _ = inspected(capsys, save("mmpose.safetensors", pf.as_mmpose(pf.official())), *HEADS)
    assert facts["naming"] == "mmpose 1.x"
    assert facts["positions"] == "12, the class token's already added"
    folder = pf.folder(Path("model"), pf.as_hf(pf.official()), shards=2)
    facts, _ = inspected(capsys, folder)
    assert facts["naming"] == "Hugging Face transformers" and facts["layer-norm"] == "eps 1e-12"
    assert "model.safetensors.index.json: safetensors in 2 shards, " in facts["file"]
    (folder / "config.json").write_text("{")
    assert main(["inspect", "model"]) == 1
    assert "This would not load: model/config.json: the config is not valid JSON" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- references


@pytest.mark.reference
@pytest.mark.parametrize("naming", pf.NAMINGS)
def test_written_files_are_read_by_safetensors_for_torch(naming, plain):
    load_file = pytest.importorskip("safetensors.torch").load_file
    convert(plain, "out.safetensors", *HEADS, "--naming", naming)
    found = {name: x.numpy() for name, x in load_file("out.safetensors").items()}
    same(found, pf.NAMINGS[naming](pf.official()))


@pytest.mark.reference
@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("kind", ["classic", "simple", "plus"])
def test_transformers_loads_the_folder_with_no_key_missing_or_unexpected(kind, counters, here):  # noqa: F811
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    state = pf.official(head="simple" if kind == "simple" else "classic", **STANDARD)
    state = state if counters else pf.without_counters(state)
    if kind == "plus":
        backbone = {name: x for name, x in pf.plus(heads=()).items() if name.startswith("backbone.")}
        state = backbone | {name: x for name, x in state.items() if name.startswith("keypoint_head.")}
    convert(save("in.safetensors", state), "model", *HEADS, "--naming", "hf")
    loaded = transformers.VitPoseForPoseEstimation.from_pretrained("model", output_loading_info=True)
    twin, info = loaded[0].eval(), loaded[1]
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert twin.config.id2label[0] == "nose"
    for expert in (0, 4) if kind == "plus" else (None,):
        model = mvp.load("model", "numpy", expert=expert)
        images = images_for(model)
        with torch.no_grad():
            index = None if expert is None else torch.tensor([expert])
            expected = twin(torch.from_numpy(images), dataset_index=index).heatmaps.numpy()
        assert np.abs(model(images) - expected).max() < 1e-5 * np.abs(expected).max()
