"""A checkpoint of any public family and a photograph: one command, and there is a drawn skeleton."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

from minivitpose import estimate, load
from minivitpose.cli import main
from minivitpose.draw import draw_poses
from minivitpose.pose import COCO, read_image
from public_files import as_hf, as_mmpose, folder, official
from torch_files import TorchFile, state_dict

PHOTO = get_sample_data("grace_hopper.jpg", asfileobj=False)
BOX = (66, 50, 380, 500)


def official_pth(path):
    """As ViTPose's authors publish it: a zip, the state dict beside meta."""
    file = TorchFile()
    path.write_bytes(file.zip({"meta": {"epoch": 210}, "state_dict": state_dict(file, official())}))
    return path


def easy_pth(path):
    """As easy_ViTPose publishes it: a zip with the bare state dict."""
    file = TorchFile()
    path.write_bytes(file.zip(state_dict(file, official())))
    return path


def mmpose_pth(path):
    """As mmpose 1.x publishes it: the old format without a zip, names of its own."""
    file = TorchFile(legacy_ids=True)
    saved = {"meta": {}, "state_dict": state_dict(file, as_mmpose(official()))}
    path.write_bytes(file.legacy(saved))
    return path


def hf_folder(path):
    """As transformers saves it: a folder of config.json and model.safetensors."""
    return folder(path.with_suffix(""), as_hf(official()))


FAMILIES = {"official": official_pth, "easy": easy_pth, "mmpose": mmpose_pth, "hf": hf_folder}
PIPELINE = {"official": "udp", "easy": "udp", "mmpose": "mmpose", "hf": "hf"}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_command_draws_the_skeleton(family, tmp_path, capsys):
    weights = FAMILIES[family](tmp_path / "weights.pth")
    heads = [] if family == "hf" else ["--heads", "3"]  # a model this small is in no table; config.json tells it
    command = ["predict", PHOTO, "--weights", weights, "--box", *BOX, "--threshold", -9, "--out", tmp_path / "out"]
    assert main([*map(str, command), *heads]) == 0
    result = json.loads((tmp_path / "out/grace_hopper-keypoints.json").read_text())
    drawn = read_image(tmp_path / "out/grace_hopper-keypoints.jpg").astype(int)
    assert result["dataset"] == "coco" and result["keypoint_names"] == list(COCO.keypoints)
    assert result["pipeline"] == PIPELINE[family]

    model = load(weights, "numpy", num_heads=3)
    poses = estimate(model, PHOTO, [BOX])
    found = np.array(result["poses"][0]["keypoints"])
    assert np.allclose(result["poses"][0]["scores"], poses[0].scores, rtol=1e-3)
    assert np.median(np.abs(found - poses[0].keypoints)) < 0.05
    expected = draw_poses(read_image(PHOTO), poses, COCO).astype(int)
    photo = read_image(PHOTO).astype(int)
    assert np.abs(drawn - expected).mean() < 3 < np.abs(drawn - photo).mean()
    assert "written: " in capsys.readouterr().out


def test_the_families_are_one_network(tmp_path):
    """The same numbers under four names; the class token's slot, that mmpose adds to the positions, alone rounds."""
    models = [load(make(tmp_path / f"{name}.pth"), "numpy", num_heads=3) for name, make in FAMILIES.items()]
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 48)).astype(np.float32)
    first, *others = (model(images) for model in models)
    assert all(np.allclose(first, x, rtol=1e-4, atol=1e-5 * np.abs(first).max()) for x in others)
    assert Path(tmp_path / "hf").is_dir()
