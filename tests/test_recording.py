"""Recorded activations as a file: what is written is read back; what is no recording is one clear line."""

import json

import numpy as np
import pytest

from minivitpose import compare, load_reference, save_reference
from minivitpose.recording import RecordingError, make_header
from test_compare import model_and_images, reference_of


@pytest.fixture(scope="module")
def reference():
    model, images = model_and_images()
    made = reference_of(model, images)
    made.header = make_header(model.config, seed=3, torch="2.13.0")
    return made


def test_a_whole_recording_is_read_back(tmp_path, reference):
    save_reference(reference, tmp_path / "whole.npz")
    back = load_reference(tmp_path / "whole.npz")
    assert list(back) == list(reference)
    assert np.array_equal(back["backbone.pos"], reference["backbone.pos"])
    assert back.facts == reference.facts
    assert np.array_equal(back.images, reference.images)
    for name, x in reference.values.items():
        assert np.array_equal(back.values[name], x)
        assert back.values[name].dtype == x.dtype
        for truth, expected in ((back.truth[name], reference.truth[name]), (back.alone[name], reference.alone[name])):
            assert truth.dtype == np.float64
            assert np.abs(truth - expected).max() <= 1e-13 * np.abs(expected).max()


def test_the_header_says_where_it_comes_from(tmp_path, reference):
    save_reference(reference, tmp_path / "whole.npz")
    header = load_reference(tmp_path / "whole.npz").header
    assert header["format"] == "minivitpose activations"
    assert header["version"] == 1
    assert header["seed"] == 3
    assert header["dtype"] == "float32"
    assert header["config"]["embed_dim"] == 48
    assert header["versions"].keys() == {"minivitpose", "numpy", "python", "torch"}


@pytest.mark.parametrize("sample", [None, 100])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_recording_serves_the_comparison(tmp_path, reference, sample, engine):
    save_reference(reference, tmp_path / "r.npz", sample)
    back = load_reference(tmp_path / "r.npz")
    model, _ = model_and_images(engine)
    report = compare(model.run_with_cache(back.images)[1], back)
    assert report.ok, str(report)
    assert all((row.whole if sample else row.alone) for row in report.rows)


def test_what_was_read_can_be_written_again_whole_or_as_a_sample(tmp_path, reference):
    save_reference(reference, tmp_path / "whole.npz")
    save_reference(reference, tmp_path / "direct.npz", 64)
    save_reference(load_reference(tmp_path / "whole.npz"), tmp_path / "later.npz", 64)
    save_reference(load_reference(tmp_path / "later.npz"), tmp_path / "again.npz")
    direct = load_reference(tmp_path / "direct.npz")
    for name in ("later", "again"):
        back = load_reference(tmp_path / f"{name}.npz")
        assert back.sample == direct.sample == 64 and back.facts == direct.facts
        assert all(np.array_equal(x, direct.values[place]) for place, x in back.values.items())
        assert all(np.allclose(x, direct.truth[place], rtol=0, atol=1e-9) for place, x in back.truth.items())
    with pytest.raises(RecordingError, match="it holds a sample of 64 of each activation"):
        save_reference(direct, tmp_path / "c.npz", 32)
    with pytest.raises(RecordingError, match="expected a Reference, as reference.record gives it, found dict"):
        save_reference({}, tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


def test_a_sample_is_small(tmp_path, reference):
    save_reference(reference, tmp_path / "whole.npz")
    save_reference(reference, tmp_path / "sample.npz", 50)
    back = load_reference(tmp_path / "sample.npz")
    assert back.sample == 50
    assert all(x.size <= 50 and x.ndim == 1 for x in back.values.values())
    assert (tmp_path / "sample.npz").stat().st_size < (tmp_path / "whole.npz").stat().st_size / 4


def test_a_failed_write_leaves_what_was_there(tmp_path, reference, monkeypatch):
    path = tmp_path / "r.npz"
    path.write_bytes(b"precious")

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_reference(reference, path)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["r.npz"]


def test_what_is_no_recording_is_one_clear_line(tmp_path, reference):
    path = tmp_path / "r.npz"
    save_reference(reference, path)
    arrays = dict(np.load(path))
    header = json.loads(bytes(arrays["__header__"]))

    def with_header(**changes):
        text = json.dumps({key: x for key, x in (header | changes).items() if x is not ...})
        return arrays | {"__header__": np.frombuffer(text.encode(), np.uint8)}

    name = "backbone.pos"
    cases = {
        "no header": ({key: x for key, x in arrays.items() if key != "__header__"}, "found no header"),
        "no json": (arrays | {"__header__": np.arange(9, dtype=np.uint8)}, "found no header"),
        "a list": (arrays | {"__header__": np.frombuffer(b"[1, 2]", np.uint8)}, "found no header"),
        "nested": (arrays | {"__header__": np.frombuffer(b"[" * 100_000, np.uint8)}, "found no header"),
        "another format": (with_header(format="x"), "found 'x'"),
        "a later version": (with_header(version=2), "found 2: record anew"),
        "no facts": (with_header(facts=...), "found no header"),
        "strange facts": (with_header(facts={name: {"colour": "red"}}), "found no header"),
        "no images": ({key: x for key, x in arrays.items() if key != "images"}, "found no header"),
        "a value missing": ({key: x for key, x in arrays.items() if key != f"value/{name}"}, "found nothing"),
        "a truth of another shape": (arrays | {f"truth/{name}": np.zeros(3, np.float32)}, r"found float32 \(3,\)"),
        "integers": (arrays | {f"value/{name}": np.zeros((1, 12, 48), int)}, "found int64"),
    }
    for content, message in cases.values():
        np.savez(path, **content)
        with pytest.raises(RecordingError, match=message) as error:
            load_reference(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_files_that_cannot_be_read_are_one_clear_line(tmp_path, reference):
    path = tmp_path / "r.npz"
    save_reference(reference, path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(RecordingError) as error:
            load_reference(path)
        assert "\n" not in str(error.value)
    with pytest.raises(RecordingError):
        load_reference(tmp_path / "absent.npz")
