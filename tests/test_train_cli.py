"""`minivitpose train` as a user meets it: files, words, stopping and going on, clear errors."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import minivitpose as mvp
from minivitpose.cli import main
from minivitpose.files import alone_in
from minivitpose.training import data, fast, loop
from minivitpose.training.curve import training_curve
from models import small_config, state_dict_for

TINY = """
embed_dim = 24
depth = 1
num_heads = 3
deconv_filters = [8, 8]
steps = 6
batch = 2
warm_up = 2
validate_every = 3
validate_on = 2
"""
WIDE = TINY.replace("embed_dim = 24", "embed_dim = 48").replace("[8, 8]", "[16, 16]")  # whole vectors, so compiled


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def train(*arguments, out="run"):
    return main(["train", "--config", "tiny.toml", "--out", out, "--engine", "numpy", *arguments])


def test_from_scratch_to_a_model_that_loads(config, capsys):
    assert train() == 0
    out, err = capsys.readouterr()
    assert "written: run/weights.npz, step 6 of 6" in out and "12.0/12.0" in err.replace("/12 ", "/12.0 ")
    names = {path.name for path in (config / "run").iterdir()}
    assert names == {"checkpoint.npz", "curve.png", "log.csv", "settings.toml", "weights.npz"}
    rows = list(csv.DictReader((config / "run" / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["3", "6"] and all(float(row["validation_loss"]) > 0 for row in rows)
    model = mvp.load(config / "run" / "weights.npz", "numpy", num_heads=3)
    assert model.config.depth == 1 and model.config.deconv_filters == (8, 8)
    assert train() == 0  # nothing is left to do
    assert "step 6 of 6" in capsys.readouterr().out


def test_the_settings_that_were_used_are_written_and_can_be_used_again(config, capsys):
    assert train("--rate", "0.002", "--seed", "3") == 0
    assert "rate = 0.002\n" in (config / "run" / "settings.toml").read_text()
    command = ["train", "--config", "run/settings.toml", "--out", "again", "--engine", "numpy"]
    assert main(command) == 0
    a, b = (dict(np.load(config / name / "weights.npz")) for name in ("run", "again"))
    assert all(np.array_equal(x, b[name]) for name, x in a.items())


SLOWLY = """
import sys, time
from minivitpose.cli import main
from minivitpose.training import loop
loop.SAVE_SECONDS, save = 0, loop.Training.save
loop.Training.save = lambda self: (save(self), time.sleep(0.5))  # so that it is killed between two steps
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("engine", ["numpy", "fast"])
def test_killed_in_the_middle_it_ends_bitwise_where_it_would_have(engine, config):
    (config / "tiny.toml").write_text(WIDE + 'optimiser = "muon"\naverage = 0.9\n')
    assert train("--engine", engine, out="whole") == 0
    command = [sys.executable, "-c", SLOWLY, "train", "--config", "tiny.toml", "--out", "killed", "--engine", engine]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (config / "killed" / "checkpoint.npz").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = json.loads(bytes(np.load(config / "killed" / "checkpoint.npz")["__state__"]))
    assert 0 < state["step"] < 6
    assert train("--engine", engine, out="killed") == 0
    for name in ("weights.npz", "log.csv"):
        a, b = ((config / folder / name).read_bytes() for folder in ("whole", "killed"))
        assert a == b if name == "log.csv" else len(a) == len(b)
    a, b = (dict(np.load(config / folder / "weights.npz")) for folder in ("whole", "killed"))
    assert all(np.array_equal(x, b[name]) for name, x in a.items())


def test_parts_are_one_training(config, capsys):
    (config / "tiny.toml").write_text(TINY + "[[parts]]\nsteps = 3\n[[parts]]\nsteps = 2\nbatch = 1\nrotation = 0\n")
    assert train() == 0
    out, err = capsys.readouterr()
    assert "written: run/weights.npz, step 5 of 5" in out and "8.00/8.00" in err
    rows = list(csv.DictReader((config / "run" / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["3", "5"]
    assert main(["train", "--config", "run/settings.toml", "--out", "again", "--engine", "numpy"]) == 0
    a, b = (dict(np.load(config / name / "weights.npz")) for name in ("run", "again"))
    assert all(np.array_equal(x, b[name]) for name, x in a.items())
    (config / "tiny.toml").write_text((config / "tiny.toml").read_text() + "[[parts]]\nsteps = 1\n")
    capsys.readouterr()
    assert train("--rate", "0.001") == 2 and "rate = 0.0005 in part 1, not 0.001" in capsys.readouterr().err
    assert train() == 0
    out, err = capsys.readouterr()
    assert "going on from step 5 of 6" in err and "written: run/weights.npz, step 6 of 6" in out


def test_all_parts_look_at_the_same_held_out_scenes(config, monkeypatch):
    seeds = []
    monkeypatch.setattr(data, "held_out", lambda skeleton, settings, config: seeds.append(settings.seed) or [])
    (config / "tiny.toml").write_text(TINY + "seed = 3\n[[parts]]\nsteps = 1\n[[parts]]\nsteps = 1\n")
    assert train() == 0 and seeds == [3, 3]


def test_the_curve_shows_where_a_part_begins():
    figure = training_curve([{"step": step, "loss": 1 / step} for step in (2, 4, 6)], ends=(4, 6))
    for axes in figure.axes:
        assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == ":"] == [[4, 4]]


def test_two_at_once_in_one_folder_are_refused(config, capsys):
    (config / "run").mkdir()
    with alone_in("run"):
        assert train() == 2
    assert "another minivitpose is writing into run: wait for its end" in capsys.readouterr().err
    assert not list((config / "run").iterdir()) and train() == 0


def test_minutes(config, capsys):
    assert train("--minutes", "0.0001") == 0
    assert "not all steps are done: the same command goes on" in capsys.readouterr().out
    assert train() == 0
    assert "going on from step" in capsys.readouterr().err


def test_fine_tuning_with_frozen_layers(config):
    start = mvp.load("mini", "numpy")
    (config / "tiny.toml").write_text("steps = 1\nbatch = 1\nvalidate_on = 1\n")
    assert train("--weights", "mini", "--frozen", "backbone") == 0
    tuned = mvp.load(config / "run" / "weights.npz", "numpy").state_dict()
    before = start.state_dict()
    for name, x in before.items():
        same = np.array_equal(x, tuned[name])
        assert same == name.startswith("backbone"), name


def write_five(folder, people=1, **category):
    """five.json: people with 5 keypoints, all in one picture."""
    picture = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    Image.fromarray(picture).save(folder / "a.png")
    points = [30, 40, 2, 50, 40, 2, 40, 60, 2, 35, 90, 1, 0, 0, 0]
    person = {"image_id": 1, "category_id": 1, "area": 5e3, "iscrowd": 0, "keypoints": points, "num_keypoints": 4}
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 120, "width": 90}]}
    content |= {"annotations": [person | {"id": i, "bbox": [i % 20, 10, 70, 100]} for i in range(people)]}
    (folder / "five.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "person"} | category]}))


def test_keypoints_of_ones_own_change_places_by_their_names(config, monkeypatch, capsys):
    found = []
    monkeypatch.setattr(data, "flipped", lambda pixels, keypoints, index: found.append(index) or (pixels, keypoints))
    (config / "tiny.toml").write_text("steps = 1\nbatch = 4\nflip = 1\n")
    five = ["--weights", "mini", "--keypoints", "5", "--annotations", "five.json", "--images", "."]
    names = ["left_eye", "right_eye", "nose", "left_ear", "tail"]
    said = "no keypoint of five.json is named left or right: none change places in mirrored crops"
    for category, index, told in (({"keypoints": names}, (1, 0, 2, 3, 4), False), ({}, (0, 1, 2, 3, 4), True)):
        write_five(config, **category)
        assert train(*five, out=f"run{told}") == 0
        assert set(found) == {index} and (said in capsys.readouterr().err) == told
        found.clear()


def test_people_who_are_only_looked_at_are_the_same_in_all_parts(config, monkeypatch):
    looked_at = []
    monkeypatch.setattr(loop.Training, "validate", lambda self: looked_at.append(self.validation[0][0]) or {})
    write_five(config, people=40)
    (config / "tiny.toml").write_text("batch = 2\nvalidate_on = 2\n[[parts]]\nsteps = 1\n[[parts]]\nsteps = 1\n")
    more = ["--annotations", "five.json", "--images", ".", "--validation", "five.json"]
    assert train("--weights", "mini", "--keypoints", "5", *more) == 0
    assert np.array_equal(*looked_at)


def test_a_dataset_with_as_many_keypoints_is_taken_over_with_the_layers(config, monkeypatch):
    write_five(config)
    content = json.loads((config / "five.json").read_text())
    content["annotations"][0]["keypoints"] = [20, 20, 2] * 17
    (config / "a.json").write_text(json.dumps(content))
    (config / "tiny.toml").write_text("steps = 1\nbatch = 1\n")
    seen = []
    monkeypatch.setattr(loop.Training, "run", lambda self, until: seen.append(self.config) or iter(()))
    for i, more in enumerate(([], ["--keypoints", "17"])):
        people = ["--annotations", "a.json", "--images", "."]
        assert train("--weights", "mini", "--dataset", "ap10k", *people, *more, out=f"run{i}") == 0
        assert (seen[i].dataset, seen[i].pipeline) == ("ap10k", "plain")


def test_another_number_of_keypoints_makes_a_new_last_layer_and_keeps_the_rest(config):
    """A COCO file with 5 keypoints, and a model that had 17."""
    write_five(config)
    (config / "tiny.toml").write_text("steps = 2\nbatch = 2\n")
    assert train("--weights", "mini", "--keypoints", "5", "--annotations", "five.json", "--images", ".") == 0
    model = mvp.load(config / "run" / "weights.npz", "numpy")
    assert model.config.num_keypoints == 5 and model.config.embed_dim == 96
    rows = list(csv.DictReader((config / "run" / "log.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) > 0 and rows[-1]["validation_loss"] == ""
    people = ["--weights", "mini", "--keypoints", "5", "--annotations", "five.json", "--images", "."]
    assert train(*people, "--validation", "five.json", out="watched") == 0
    rows = list(csv.DictReader((config / "watched" / "log.csv").read_text().splitlines()))
    assert float(rows[-1]["validation_loss"]) > 0 and 0 <= float(rows[-1]["validation_accuracy"]) <= 1


@pytest.mark.parametrize("naming", [None, "aic"])
def test_a_checkpoint_of_another_dataset_needs_no_word_about_it(naming, config):
    """AIC has 14 keypoints; nothing but the checkpoint says so."""
    np.savez("aic.npz", **state_dict_for(small_config(num_keypoints=14, image_size=(256, 192))))
    (config / "tiny.toml").write_text("steps = 1\nbatch = 1\nnum_heads = 3\n")
    people = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "person"}]}
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "keypoints": [20, 20, 2] * 14}
    (config / "aic.json").write_text(json.dumps(people | {"annotations": [person | {"area": 900, "iscrowd": 0}]}))
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("a.png")
    more = ["--dataset", naming] if naming else []
    assert train("--weights", "aic.npz", "--annotations", "aic.json", "--images", ".", *more) == 0
    assert mvp.load(config / "run" / "weights.npz", "numpy", num_heads=3).config.dataset == "aic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "seed: expected a number from 0, found -1"),
        (["--annotations", "a.json"], "--annotations and --images go together"),
        (["--validation-images", "."], "--validation-images goes with --validation"),
        (["--validation", "a.json"], "--validation goes with --annotations"),
        (["--steps", "0"], "steps: expected a number above 0, found 0"),
        (["--weights", "absent.pth"], "absent.pth"),
        (["--dataset", "mpii"], "dataset 'mpii' has 16 keypoints"),
        (["--annotations", "absent.json", "--images", "."], "absent.json: no such file"),
        (["--config", "absent.toml"], "absent.toml: expected a TOML file"),
        (["--keypoints", "-1"], "keypoints: expected"),
        (["--keypoints", "5"], "the mannequin world has COCO's 17 keypoints, the model has those of 5 keypoints: give"),
        (
            ["--dataset", "mpii", "--keypoints", "16"],
            "the mannequin world has COCO's 17 keypoints, the model has those of",
        ),
        (
            ["--dataset", "ap10k"],
            "the mannequin world has COCO's 17 keypoints, the model has those of ap10k: give --ann",
        ),
        (["--annotations", "tiny.toml", "--images", "nope"], "nope: expected the folder of the pictures of tiny.toml"),
        (["--rate", "nan"], "rate: expected a number, found nan"),
        (
            ["--frozen", "backbon"],
            "frozen: no parameter is, or is in, 'backbon'; expected names such as backbone.pos_em",
        ),
        (["--frozen", "backbone", "keypoint_head"], "frozen: backbone, keypoint_head is all there is; nothing is left"),
    ],
)
def test_bad_use_is_one_line(arguments, message, config, capsys):
    assert train(*arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("minivitpose: error: ") and message in lines[0]


def test_other_settings_than_those_of_the_checkpoint_are_refused(config, capsys):
    assert train() == 0
    capsys.readouterr()
    assert train("--rate", "0.01") == 2
    assert "is of a training with rate = 0.0005, not 0.01" in capsys.readouterr().err
    assert "rate = 0.0005" in (config / "run" / "settings.toml").read_text()


def test_a_diverged_training_says_where_and_exits_with_1(config, capsys):
    with np.errstate(all="ignore"):
        assert train("--rate", "1e30") == 1
    err = capsys.readouterr().err
    assert "the first place that is not finite" in err and "begin anew in another folder, with a smaller rate" in err


def state_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_nothing_that_is_read_or_is_anothers_is_written_over(config, capsys):
    assert train(out="first") == 0
    (config / "wb").mkdir()
    (config / "wb" / "weights.npz").write_bytes((config / "first" / "weights.npz").read_bytes())
    (config / "logs").mkdir()
    (config / "logs" / "log.csv").write_text("mine")
    (config / "set").mkdir()
    (config / "set" / "settings.toml").write_text("# another training\n" + TINY + "rate = 1.0\n")
    (config / "odd" / "log.csv").mkdir(parents=True)
    cases = [
        (("--weights", "wb/weights.npz"), "wb", "wb/weights.npz is a file that is read"),
        ((), "wb", "wb/weights.npz is of no training that can go on here, and would be lost: give another --out"),
        ((), "logs", "logs/log.csv is of no training that can go on here"),
        ((), "set", "set/settings.toml has other settings and would be lost: give another --out"),
        ((), "odd", "odd/log.csv: expected the name of a file, found a folder"),
        ((), "tiny.toml", "tiny.toml: expected a folder, found a file of that name"),
    ]
    for arguments, out, message in cases:
        before = state_of(config / out) if (config / out).is_dir() else (config / out).read_bytes()
        capsys.readouterr()
        assert train(*arguments, out=out) == 2 and message in capsys.readouterr().err
        assert before == (state_of(config / out) if (config / out).is_dir() else (config / out).read_bytes())
    with pytest.raises(SystemExit):
        train(out="")
    assert "--out: expected a folder, found nothing" in capsys.readouterr().err


def test_settings_that_are_read_from_the_folder_keep_their_notes(config):
    (config / "run").mkdir()
    (config / "run" / "settings.toml").write_text("# my notes\n" + TINY)
    assert main(["train", "--config", "run/settings.toml", "--out", "run", "--engine", "numpy"]) == 0
    assert (config / "run" / "settings.toml").read_text() == "# my notes\n" + TINY


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then it ends"])
def test_a_checkpoint_that_cannot_be_read_says_how_to_go_on(content, config, capsys):
    assert train() == 0
    (config / "run" / "checkpoint.npz").write_bytes(content)
    capsys.readouterr()
    assert train() == 2
    err = capsys.readouterr().err
    assert "run/checkpoint.npz, which the training would go on from, is cut off, damaged or something else" in err
    assert "begin anew in another folder, with --weights the last weights.npz" in err and err.count("\n") == 1


def test_bfloat16_is_a_setting_and_a_stopped_training_keeps_to_it(config, monkeypatch, capsys):
    monkeypatch.setattr(fast, "HALF", True)
    (config / "tiny.toml").write_text(WIDE)
    assert train("--engine", "fast", out="exact") == 0
    assert train("--engine", "fast", "--precision", "bf16", out="half") == 0
    assert 'precision = "bf16"\n' in (config / "half" / "settings.toml").read_text()
    exact, half = (dict(np.load(config / name / "weights.npz")) for name in ("exact", "half"))
    off = [np.abs(exact[name] - half[name]).max() for name in exact]
    assert 0 < max(off) < 1e-2
    capsys.readouterr()
    assert train("--engine", "fast", out="half") == 2
    assert "precision = 'bf16', not 'float32'" in capsys.readouterr().err


def test_bfloat16_where_the_cpu_has_none_is_one_line(config, monkeypatch, capsys):
    monkeypatch.setattr(fast, "HALF", False)
    (config / "tiny.toml").write_text(WIDE)
    assert train("--engine", "fast", "--precision", "bf16") == 2
    assert "needs a CPU with bfloat16 products (AVX512_BF16): train in float32" in capsys.readouterr().err
