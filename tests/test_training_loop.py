"""The training loop: the same end however often it is stopped, a log without gaps, and clear words when it breaks."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from minivitpose import load
from minivitpose.checkpoint import CheckpointError
from minivitpose.parameters import flatten, nest
from minivitpose.training import loop
from minivitpose.training.loop import EVERY, Ahead, DivergedError, Training, accuracy
from minivitpose.training.optimiser import Muon
from minivitpose.training.settings import Settings, SettingsError, as_toml, read_settings
from models import small_config, state_dict_for

SETTINGS = Settings(
    steps=45, batch=2, rate=2e-3, warm_up=5, validate_every=15, drop_path=0.2, average=0.9, layer_decay=0.9, seed=3
)


def source(step):
    """Two crops with a bright square each, and targets that follow it."""
    rng = np.random.default_rng((77, step))
    images = 0.1 * rng.standard_normal((2, 3, 64, 48)).astype(np.float32)
    targets = np.zeros((2, 5, 16, 12), np.float32)
    for image, target in zip(images, targets, strict=True):
        y, x = rng.integers(0, 4), rng.integers(0, 3)
        image[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] += 2
        target[:, 4 * y + 1, 4 * x + 2] = 1
    return images, targets, np.ones((2, 5), np.float32)


def training(folder, *parts, batches=source):
    def data(settings):
        return batches, [source(10**6)]

    config = small_config()
    return Training(folder, parts or (SETTINGS,), nest(state_dict_for(config)), config, data, engine="numpy")


def end_of(folder):
    return {name: (folder / name).read_bytes() for name in ("weights.npz", "log.csv")}, load(
        folder / "weights.npz", "numpy", num_heads=3, image_size=(64, 48)
    ).state_dict()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    lines = list(training(folder).run())
    assert [line["step"] for line in lines] == list(range(1, 46))
    return folder


def test_the_next_batch_is_made_ahead_and_none_behind_the_last():
    asked = []

    def numbered(step):
        asked.append(step)
        if step == 5:
            raise OSError("no picture")
        return f"batch {step}"

    ahead = Ahead(numbered, 8)
    assert [ahead(step) for step in (0, 1, 2)] == ["batch 0", "batch 1", "batch 2"]
    assert ahead(6) == "batch 6" and ahead(7) == "batch 7"  # another than was expected
    assert ahead(4) == "batch 4"
    with pytest.raises(OSError, match="no picture"):
        ahead(5)
    assert asked == [0, 1, 2, 3, 6, 7, 4, 5]
    assert ahead(4) == "batch 4" and ahead(7) == "batch 7"  # 5 breaks again, but nobody asks for it


def test_a_setting_that_a_checkpoint_does_not_know_stood_at_its_default(tmp_path, uninterrupted):
    path = tmp_path / "checkpoint.npz"
    arrays = dict(np.load(uninterrupted / "checkpoint.npz"))
    state = json.loads(bytes(arrays["__state__"]))
    del state["parts"][0]["validation"], state["parts"][0]["average"]
    np.savez(path, **arrays | {"__state__": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    with pytest.raises(CheckpointError, match="of a training with average = 0.0, not 0.9"):
        training(tmp_path)
    state["parts"][0]["average"] = 0.9
    np.savez(path, **arrays | {"__state__": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    assert training(tmp_path).step == 45


def test_it_learns(uninterrupted):
    rows = list(csv.DictReader((uninterrupted / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [15, 20, 30, 40, 45]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert [bool(row["validation_loss"]) for row in rows] == [True, False, True, False, True]
    assert [bool(row["accuracy"]) for row in rows] == [False, True, False, True, False]
    assert EVERY == 20


@pytest.mark.parametrize("stops", [(1,), (20, 21), (7, 15, 30, 44)])
def test_a_training_that_was_stopped_ends_bitwise_where_one_ends_that_was_not(stops, uninterrupted, tmp_path):
    done = 0
    for stop in stops:
        run = training(tmp_path)
        assert run.step == done
        for line in run.run():
            if line["step"] == stop:
                run.save()
                break
        next(run.run())  # a step that no checkpoint holds: as after kill -9
        done = stop
    list(training(tmp_path).run())
    files, weights = end_of(tmp_path)
    expected_files, expected = end_of(uninterrupted)
    assert files["log.csv"] == expected_files["log.csv"]
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(x, expected[name]) for name, x in weights.items())


PARTS = (
    replace(SETTINGS, steps=4),
    replace(SETTINGS, steps=3, seed=4, optimiser="muon", average=0, batch=1),
    replace(SETTINGS, steps=3, seed=5, rate=1e-3, frozen=("backbone",), blend=0.25),
)


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    run = training(folder, *PARTS)
    assert [line["step"] for line in run.run()] == list(range(1, 11))
    assert run.finished and run.done == 10
    return folder


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_training_of_parts_stopped_anywhere_ends_with_the_same_bits(stop, in_parts, tmp_path):
    run = training(tmp_path, *PARTS)
    for line in run.run():
        if line["step"] == stop:
            run.save()
            break
    run = training(tmp_path, *PARTS)
    assert run.done == stop and not run.finished
    assert [line["step"] for line in run.run()] == list(range(stop + 1, 11))
    assert end_of(tmp_path)[0] == end_of(in_parts)[0]


def test_a_part_begins_as_a_training_from_the_weights_of_the_one_before(in_parts, tmp_path):
    weights = {}
    for part in PARTS:
        config = small_config()
        params = nest(weights or state_dict_for(config))
        (tmp_path / str(part.seed)).mkdir()
        run = Training(tmp_path / str(part.seed), (part,), params, config, lambda _: (source, []), engine="numpy")
        list(run.run())
        weights = dict(np.load(tmp_path / str(part.seed) / "weights.npz"))
    whole = dict(np.load(in_parts / "weights.npz"))
    assert all(np.array_equal(x, weights[name]) for name, x in whole.items())
    rows = list(csv.DictReader((in_parts / "log.csv").read_text().splitlines()))
    assert [(int(row["step"]), float(row["rate"]) > 0, bool(row["validation_loss"])) for row in rows] == [
        (4, True, True),
        (7, True, True),
        (10, True, True),
    ]


def test_what_a_part_ends_with_is_blended_with_what_it_began_with(tmp_path):
    settings = replace(SETTINGS, steps=3)
    ends = {}
    for blend in (0, 0.25):
        (tmp_path / str(blend)).mkdir()
        run = training(tmp_path / str(blend), replace(settings, blend=blend))
        list(run.run())
        ends[blend] = dict(np.load(tmp_path / str(blend) / "weights.npz"))
    for name, x in state_dict_for(small_config()).items():
        expected = 0.25 * x + 0.75 * ends[0][name] if x.dtype.kind == "f" else ends[0][name]
        assert np.allclose(ends[0.25][name], expected, rtol=1e-6, atol=1e-7), name
        assert x.dtype == ends[0.25][name].dtype
    moved = [np.abs(ends[0.25][name] - x).max() for name, x in ends[0].items()]
    assert max(moved) > 1e-3


def test_parts_to_come_may_change_or_be_added_those_begun_may_not(in_parts, tmp_path):
    (tmp_path / "checkpoint.npz").write_bytes((in_parts / "checkpoint.npz").read_bytes())
    more = replace(SETTINGS, steps=2, seed=6)
    run = training(tmp_path, *PARTS, more)
    assert run.done == 10 and not run.finished
    assert [line["step"] for line in run.run()] == [11, 12]
    with pytest.raises(CheckpointError, match="is of a training with 4 parts begun, not 3"):
        training(tmp_path, *PARTS)
    with pytest.raises(CheckpointError, match="is of a training with rate = 0.001 in part 3, not 0.002"):
        training(tmp_path, *PARTS[:2], replace(PARTS[2], rate=2e-3), more)


def test_the_averaged_weights_are_the_ones_that_are_saved(uninterrupted):
    run = training(uninterrupted)
    _, weights = end_of(uninterrupted)
    assert run.step == 45
    assert all(np.array_equal(x, weights[name]) for name, x in run.average.items())
    assert any(not np.array_equal(x, weights[name]) for name, x in flatten(run.params).items())


def test_frozen_layers_keep_their_statistics(tmp_path):
    run = training(tmp_path, replace(SETTINGS, steps=2, frozen=("keypoint_head",)))
    before = {name: x.copy() for name, x in flatten(run.params).items()}
    list(run.run())
    for name, x in flatten(run.params).items():
        assert np.array_equal(x, before[name]) == name.startswith("keypoint_head"), name


def test_frozen_norms_are_by_their_running_statistics(tmp_path, monkeypatch):
    asked, real = [], loop.loss_and_gradients

    def spy(*arguments, **options):
        asked.append(options["batch_norm"])
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "loss_and_gradients", spy)
    for name, frozen in (("all", ("keypoint_head.deconv_layers",)), ("one", ("keypoint_head.deconv_layers.1",))):
        (tmp_path / name).mkdir()
        training(tmp_path / name, replace(SETTINGS, steps=2, frozen=frozen)).one_step()
    assert asked == ["running", "batch"]


def test_a_short_last_batch_counts_for_less(tmp_path):
    run = training(tmp_path)
    images, targets, weight = source(0)
    weight[0, :4] = 0
    run.validation = [(images, targets, weight), tuple(x[:1] for x in source(1))]
    together = [tuple(map(np.concatenate, zip(*run.validation, strict=True)))]
    apart = run.validate()
    run.validation = together
    assert apart == pytest.approx(run.validate(), rel=1e-5)


def test_minutes_stop_it(tmp_path):
    run = training(tmp_path)
    assert list(run.run(until=0)) == []
    assert (tmp_path / "checkpoint.npz").exists() and not (tmp_path / "weights.npz").exists()


def test_a_checkpoint_of_another_training_is_refused(uninterrupted, tmp_path):
    with pytest.raises(CheckpointError, match=r"is of a training with rate = 0.002, not 0.001"):
        training(uninterrupted, replace(SETTINGS, rate=1e-3))
    arrays = dict(np.load(uninterrupted / "checkpoint.npz"))
    for state in (None, {}, {"parts": []}, {"parts": [3]}):
        np.savez(
            tmp_path / "checkpoint.npz", **arrays | {"__state__": np.frombuffer(json.dumps(state).encode(), np.uint8)}
        )
        with pytest.raises(CheckpointError, match="is no checkpoint of this training"):
            training(tmp_path)
    np.savez(tmp_path / "checkpoint.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="is no checkpoint of this training"):
        training(tmp_path)


def test_a_loss_that_is_no_number_stops_it_and_is_located(tmp_path):
    run = training(tmp_path, replace(SETTINGS, rate=1e30, warm_up=0, clip=1e30))
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match=r"at step \d+; the first place .* backbone"):
        list(run.run())


def test_accuracy_counts_joints_near_their_target():
    targets = np.zeros((1, 3, 40, 40), np.float32)
    targets[0, :, 20, 20] = 1
    heatmaps = np.zeros_like(targets)
    for k, x in enumerate((21, 23, 20)):
        heatmaps[0, k, 20, x] = 1
    assert accuracy(heatmaps, targets, np.array([[1.0, 1, 1]])) == pytest.approx(2 / 3)
    assert accuracy(heatmaps, targets, np.array([[1.0, 1, 0]])) == 0.5
    assert np.isnan(accuracy(heatmaps, targets, np.zeros((1, 3))))


def test_settings_as_a_file(tmp_path):
    path = tmp_path / "a.toml"
    settings = replace(SETTINGS, frozen=("backbone.patch_embed",), weights='a "b" \\ c\n\t\x7f\x01 ü 😀')
    path.write_text(as_toml((settings,)))
    assert read_settings(path) == (settings,) and "parts" not in path.read_text()
    assert read_settings(path, steps=7, rate=None) == (replace(settings, steps=7),)


def test_parts_as_a_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("batch = 8\nrotation = 10\nseed = 5\n[[parts]]\nsteps = 3\n[[parts]]\nsteps = 4\nrotation = 0\n")
    parts = read_settings(path)
    assert parts == (
        Settings(batch=8, rotation=10.0, seed=5, steps=3),
        Settings(batch=8, rotation=0.0, seed=6, steps=4),
    )
    path.write_text(as_toml(parts))
    assert read_settings(path) == parts
    assert path.read_text().endswith(
        "\n[[parts]]\nrotation = 10.0\nsteps = 3\n\n[[parts]]\nrotation = 0.0\nsteps = 4\n"
    )
    assert [(part.steps, part.seed, part.rotation) for part in read_settings(path, steps=2, seed=0)] == [
        (2, 0, 10.0),
        (2, 1, 0.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps = 3", "unknown setting 'stepps'; known are weights, variant"),
        ("steps = 'many'", "steps: expected int, found 'many'"),
        ("steps = 0", "steps: expected a number above 0, found 0"),
        ("flip = 1.5", "flip: expected a number from 0 to 1, found 1.5"),
        ("variant = 'X'", "variant: expected one of mini, S, B, L, H, found 'X'"),
        ("schedule = 'wave'", "schedule: expected 'cosine'"),
        ("steps = true", "steps: expected int, found True"),
        ("rate = nan", "rate: expected a number, found nan"),
        ("reuse = inf", "reuse: expected a number, found inf"),
        ("rate = 1" + 400 * "0", "rate: expected a number"),
        ("clip = -1", "clip: expected a number above 0, found -1"),
        ("rotation = -10", "rotation: expected a number from 0, found -10"),
        ("weight_decay = -5", "weight_decay: expected a number from 0, found -5"),
        ("layer_decay = 0", "layer_decay: expected a number above 0, found 0"),
        ("embed_dim = -24", "embed_dim: expected a number from 0, found -24"),
        ("depth = -1", "depth: expected a number from 0, found -1"),
        ("frozen = [1]", r"frozen: expected names, found \[1\]"),
        ("deconv_filters = [8]", r"deconv_filters: expected two whole numbers above 0, or none, found \[8\]"),
        ("deconv_filters = ['a', 8]", "deconv_filters: expected two whole numbers above 0, or none"),
        ("steps =", "expected a TOML file with settings"),
        ("a = " + 100_000 * "[", "expected a TOML file with settings"),
        ("parts = 3", r"a.toml: parts: expected tables that begin with \[\[parts\]\], found 3"),
        ("parts = []", r"a.toml: parts: expected tables that begin with \[\[parts\]\], found \[\]"),
        ("[parts]", r"a.toml: parts: expected tables that begin with \[\[parts\]\], found {}"),
        ("[[parts]]\n[[parts]]\nstepps = 3", "a.toml, part 2: unknown setting 'stepps'; known are weights"),
        ("[[parts]]\n[[parts]]\nflip = 2", "part 2: flip: expected a number from 0 to 1, found 2"),
        ("[[parts]]\nseed = 2", r"a.toml, part 1: seed is for the whole training, expected above the first \[\[parts"),
        ("[[parts]]\n[[parts]]\nweights = 'mini'", "a.toml, part 2: weights is for the whole training"),
    ],
)
def test_bad_settings_are_one_line(text, message, tmp_path):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(SettingsError, match=message) as error:
        read_settings(tmp_path / "a.toml")
    assert "\n" not in str(error.value)


def test_muon_stopped_and_taken_up_ends_with_the_same_bits(tmp_path):
    settings = replace(SETTINGS, optimiser="muon", matrix_rate=3, steps=6, warm_up=1)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = training(tmp_path / "whole", settings)
    assert isinstance(whole.optimiser, Muon) and whole.optimiser.matrix_rate == 3
    list(whole.run())
    first = training(tmp_path / "parts", settings)
    for _ in range(3):
        first.one_step()
    first.save()
    second = training(tmp_path / "parts", settings)
    assert second.step == 3
    list(second.run())
    assert end_of(tmp_path / "parts")[0] == end_of(tmp_path / "whole")[0]
    with pytest.raises(SettingsError, match="optimiser: expected 'adamw' or 'muon', found 'sgd'"):
        replace(SETTINGS, optimiser="sgd")
