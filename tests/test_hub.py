"""hf:OWNER/NAME against a hub on this machine: what is fetched, what is kept, and what is said when it goes wrong."""

import json
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import minivitpose as mvp
from hub_server import serve
from minivitpose.checkpoint import CheckpointError
from minivitpose.checkpoint.hf_config import hf_config
from minivitpose.checkpoint.hub import Reference, fetch, is_hub, parse
from minivitpose.checkpoint.namings import from_official
from minivitpose.cli import main
from models import images_for, small_model

constants = pytest.importorskip("huggingface_hub.constants")
utils = pytest.importorskip("huggingface_hub.utils")

SETTINGS = {"config.json": b'{"a": 1}', "preprocessor_config.json": b"{}"}
OTHERS = {"README.md": b"# a model", "onnx/model.onnx": b"onnx", "pytorch_model.bin": b"bin" * 100}
WHOLE = SETTINGS | OTHERS | {"model.safetensors": bytes(range(256)) * 400}
SHARDS = {"model-00001-of-00002.safetensors": b"first" * 50, "model-00002-of-00002.safetensors": b"second" * 50}
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
SHARDED = SETTINGS | SHARDS | {"model.safetensors.index.json": json.dumps(INDEX).encode(), "model.extra.bin": b"x"}
EASY = {"torch/coco/vitpose-s-coco.pth": b"small" * 9, "torch/coco/vitpose-b-coco.pth": b"base", "README.md": b"words"}
REPOSITORIES = {
    "owner/whole": {"main": WHOLE, "v1.0": {"model.safetensors": b"older"}, "refs/pr/3": {"model.safetensors": b"3"}},
    "owner/sharded": {"main": SHARDED},
    "owner/easy": {"main": EASY},
    "owner/bin": {"main": SETTINGS | {"pytorch_model.bin": b"bin"}},
    "owner/folders": {"main": {f"small/{name}": data for name, data in WHOLE.items()}},
    "owner/words": {"main": {"README.md": b"words"}},
    "owner/empty": {"main": {}},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of these repositories, and huggingface_hub set up to use it and an empty cache, without waiting."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serve({name: dict(revisions) for name, revisions in REPOSITORIES.items()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        getattr(utils, "reset_sessions", lambda: None)()
        yield server


@contextmanager
def refused(*words):
    """A CheckpointError in one line with these words."""
    with pytest.raises(CheckpointError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for word in words:
        assert word in message


def contents(path):
    """name -> bytes of every file below."""
    path = Path(path)
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


NEEDED = SETTINGS | {"model.safetensors": WHOLE["model.safetensors"]}


def test_of_a_repository_what_a_model_needs_is_fetched_once(hub):
    folder = fetch("hf:owner/whole")
    assert contents(folder) == NEEDED
    assert set(hub.downloads()) == set(NEEDED)
    assert fetch("hf:owner/whole") == folder
    assert hub.downloads() == []


def test_a_cached_repository_asks_the_hub_one_thing(hub):
    fetch("hf:owner/whole")
    hub.requests.clear()
    fetch("hf:owner/whole")
    assert [path for _, path in hub.requests] == ["/api/models/owner/whole/revision/main"]


def test_the_checksum_is_taken_of_what_was_fetched_and_not_again(hub, monkeypatch):
    folder = fetch("hf:owner/whole")
    monkeypatch.setattr("minivitpose.checkpoint.hub.digest", None)
    assert fetch("hf:owner/whole") == folder


def test_shards_come_by_their_index(hub):
    folder = fetch("hf:owner/sharded")
    assert contents(folder) == {name: data for name, data in SHARDED.items() if name != "model.extra.bin"}


@pytest.mark.parametrize("name", ["torch/coco/vitpose-s-coco.pth", "README.md"])
def test_a_file_in_a_repository(hub, name):
    path = fetch(f"hf:owner/easy/{name}")
    assert Path(path).name == Path(name).name
    assert Path(path).read_bytes() == EASY[name]
    assert set(hub.downloads()) == {name}


def test_a_file_of_shards_comes_with_its_shards_and_settings(hub):
    path = fetch("hf:owner/sharded/model.safetensors.index.json")
    assert Path(path).name == "model.safetensors.index.json"
    assert set(contents(Path(path).parent)) == set(SHARDED) - {"model.extra.bin"}


def test_a_folder_in_a_repository(hub):
    for name in ("hf:owner/folders/small", "hf:owner/folders/small/"):
        folder = fetch(name)
        assert Path(folder).name == "small"
        assert contents(folder) == NEEDED


def test_a_pytorch_file_is_taken_where_there_is_no_safetensors(hub):
    assert contents(fetch("hf:owner/bin")) == REPOSITORIES["owner/bin"]["main"]


def test_revisions_are_branches_tags_commits_and_pull_requests(hub):
    commit = hub.commit("owner/whole", "v1.0")
    assert contents(fetch("hf:owner/whole@v1.0")) == {"model.safetensors": b"older"}
    assert Path(fetch("hf:owner/whole@v1.0/model.safetensors")).read_bytes() == b"older"
    assert contents(fetch(f"hf:owner/whole@{commit}")) == {"model.safetensors": b"older"}
    assert contents(fetch("hf:owner/whole@refs/pr/3")) == {"model.safetensors": b"3"}


def test_a_new_commit_is_fetched_and_what_did_not_change_is_not(hub):
    old = fetch("hf:owner/whole")
    hub.repositories["owner/whole"]["main"] = WHOLE | {"model.safetensors": b"newer"}
    new = fetch("hf:owner/whole")
    assert new != old
    assert contents(new) == NEEDED | {"model.safetensors": b"newer"}


# ---------------------------------------------------------------------------------------------------- without a network


@contextmanager
def nobody_answers(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        yield


def stay_offline(monkeypatch):
    """As if HF_HUB_OFFLINE had been set from the start; before version 1 the answer is kept with the session."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    getattr(utils, "reset_sessions", lambda: None)()


@pytest.mark.parametrize(
    "name", ["whole", "sharded", "whole@v1.0", "folders/small", "easy/torch/coco/vitpose-s-coco.pth"]
)
def test_what_is_cached_serves_without_a_network(hub, monkeypatch, name):
    path = fetch(f"hf:owner/{name}")
    with nobody_answers(monkeypatch):
        assert fetch(f"hf:owner/{name}") == path
    hub.faults["status"] = 503
    assert fetch(f"hf:owner/{name}") == path
    stay_offline(monkeypatch)
    assert fetch(f"hf:owner/{name}") == path


def test_a_commit_is_used_from_the_cache_by_its_number(hub, monkeypatch):
    path = fetch("hf:owner/whole")
    with nobody_answers(monkeypatch):
        assert fetch(f"hf:owner/whole@{hub.commit('owner/whole')}") == path


def test_nothing_cached_and_no_network(hub, monkeypatch):
    with nobody_answers(monkeypatch), refused("hf:owner/whole: cannot fetch it from http://127.0.0.1:9 (", "by hand"):
        fetch("hf:owner/whole")


def test_nothing_cached_and_offline_by_choice(hub, monkeypatch):
    stay_offline(monkeypatch)
    with refused("hf:owner/whole: cannot fetch it", "HF_HUB_OFFLINE", "no whole copy is cached"):
        fetch("hf:owner/whole")
    assert not hub.requests


@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_half_of_a_copy_is_not_used_without_a_network(hub, monkeypatch, lost):
    folder = fetch("hf:owner/sharded")
    os.remove(Path(folder) / lost)
    with nobody_answers(monkeypatch), refused("no whole copy is cached"):
        fetch("hf:owner/sharded")
    assert lost in contents(fetch("hf:owner/sharded"))


def test_a_link_in_the_cache_that_points_nowhere_is_not_a_copy(hub, monkeypatch):
    path = Path(fetch("hf:owner/whole")) / "model.safetensors"
    os.remove(path.resolve())
    with nobody_answers(monkeypatch), refused("no whole copy is cached"):
        fetch("hf:owner/whole")
    fetch("hf:owner/whole")
    assert path.read_bytes() == WHOLE["model.safetensors"]


# ------------------------------------------------------------------------------------------------------ what goes wrong


ODD = ["", "x", "/", "owner/", "/name", "owner//name", "//huggingface.co/owner/name"]
ODD += [" owner/name", "owner/name ", "own er/name", "owner/na me", "owner/na\nme", "owner/name/a\nb"]
ODD += ["../name", "owner/..", "owner/name/../x", "owner/name/./x", "owner/name//x", "owner/name/a\\b"]
ODD += ["owner/name@", "owner/name@/x", "owner/name@..", "owner/name@a/../b", "owner/name@x y"]
ODD += ["owner/n--ame", "-owner/name", "owner/näme", "owner/name/a\x1b[31m", "o/n" * 1000, "o" * 2000]


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_a_name_that_cannot_be_meant_is_refused_before_anybody_is_asked(hub, name):
    with refused("names nothing on the hub", "expected hf:OWNER/NAME", "found 'hf:"):
        fetch(f"hf:{name}")
    assert not hub.requests


def test_names_are_read_as_they_are_written():
    cases = {
        "hf:usyd-community/vitpose-base-simple": Reference("usyd-community/vitpose-base-simple"),
        "hf:JunkyByte/easy_ViTPose/torch/coco/vitpose-s-coco.pth": Reference(
            "JunkyByte/easy_ViTPose", "main", "torch/coco/vitpose-s-coco.pth"
        ),
        "hf:a/b@v1.2/c d/e+f.pth": Reference("a/b", "v1.2", "c d/e+f.pth"),
        "hf:a/b@refs/pr/3": Reference("a/b", "refs/pr/3"),
        "hf:a/b@refs/pr/3/x.pth": Reference("a/b", "refs/pr/3", "x.pth"),
        "hf:nielsr/vitpose/vitpose+_base.pth": Reference("nielsr/vitpose", "main", "vitpose+_base.pth"),
    }
    for text, reference in cases.items():
        assert parse(text) == reference
        assert str(reference) == text
    assert is_hub("hf:a/b")
    assert not any(is_hub(source) for source in ("mini", "a/b.pth", Path("hf:a/b"), {}, None))


MISSING = {
    "hf:owner/nobody": ["has no such repository, or it is private", "hf auth login"],
    "hf:owner/whole@v9": ["there is no revision 'v9'"],
    "hf:owner/whole/nothing.pth": ["there is no 'nothing.pth' in owner/whole; it has", "as in hf:owner/whole/model"],
    "hf:owner/easy": ["there is no model.safetensors", "name one, as in hf:owner/easy/torch/coco/vitpose-b-coco.pth"],
    "hf:owner/easy/torch": ["there is no model.safetensors", "as in hf:owner/easy/torch/coco/vitpose-b-coco.pth"],
    "hf:owner/words": ["nor another file of weights; it has 'README.md'"],
    "hf:owner/empty": ["it has no files"],
}


@pytest.mark.parametrize("name", MISSING)
def test_what_the_hub_does_not_have_is_said_with_what_it_has(hub, name):
    with refused(name, *MISSING[name]):
        fetch(name)
    assert hub.downloads() == []


FAULTS = {
    "status 500": ({"status": 500}, ["answered 500"]),
    "status 429": ({"status": 429}, ["answered 429"]),
    "status 403": ({"status": 403}, ["answered 403"]),
    "a file's status 500": ({"file": 500}, ["owner/whole"]),
    "a file's status 404": ({"file": 404}, ["owner/whole"]),
    "gated": ({"gated": True}, ["is gated", "/owner/whole", "hf auth login"]),
    "a log-in page": ({"html": True}, ["cannot fetch it from http://127.0.0.1"]),
    "cut off for good": ({"cut": 99}, ["owner/whole"]),
    "damaged": ({"damaged": True}, ["model.safetensors came damaged"]),
    "no commit": ({"sha": "../../x"}, ["did not answer as the hub does"]),
    "commit is no text": ({"sha": 7}, ["did not answer as the hub does"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing_that_later_loads_as_whole(hub, monkeypatch, fault):
    faults, words = FAULTS[fault]
    hub.faults |= faults
    with refused("hf:owner/whole", *words):
        fetch("hf:owner/whole")
    with nobody_answers(monkeypatch), refused("no whole copy is cached"):
        fetch("hf:owner/whole")
    hub.faults.clear()
    assert contents(fetch("hf:owner/whole")) == NEEDED


def test_a_download_that_is_cut_off_goes_on_where_it_was(hub):
    """In the same call or, with versions of huggingface_hub before 1.1, in the next."""
    hub.faults["cut"] = 1
    with suppress(CheckpointError):
        fetch("hf:owner/whole")
    assert contents(fetch("hf:owner/whole")) == NEEDED
    assert hub.starts == [50 * 1024]  # half of the file


def test_a_commit_that_cannot_be_fetched_leaves_the_last_one_for_use_without_a_network(hub, monkeypatch):
    fetch("hf:owner/whole")
    hub.repositories["owner/whole"]["main"] = {"model.safetensors": b"newer", "config.json": b"newer too"}
    hub.faults["damaged"] = True
    with refused("came damaged"):
        fetch("hf:owner/whole")
    with nobody_answers(monkeypatch):
        assert contents(fetch("hf:owner/whole")) == NEEDED


DEEP = b"[" * 100_000
INDICES = {
    "no JSON": b"weights",
    "a list": b"[1, 2]",
    "no map": b"{}",
    "an empty map": b'{"weight_map": {}}',
    "a map of numbers": b'{"weight_map": {"a": 1}}',
    "a map of lists": b'{"weight_map": {"a": ["x"]}}',
    "no mapping": b'{"weight_map": "all"}',
    "deep": DEEP,
    "not UTF-8": b"\xff\xfe\xfa",
    "a file elsewhere": b'{"weight_map": {"a": "../config.json"}}',
    "a file of the system": b'{"weight_map": {"a": "/etc/passwd"}}',
    "a missing file": b'{"weight_map": {"a": "model-00009.safetensors"}}',
    "long": b'{"weight_map": {"a": "' + b"x" * 100_000 + b'"}}',
    "control characters": b'{"weight_map": {"a": "\\u001b[31m\\n"}}',
}


@pytest.mark.parametrize("case", INDICES)
def test_a_hostile_index_is_one_line(hub, case):
    hub.repositories["owner/sharded"]["main"] = SHARDED | {"model.safetensors.index.json": INDICES[case]}
    with refused("hf:owner/sharded: model.safetensors.index.json"):
        fetch("hf:owner/sharded")
    assert not any("shard" in name or "passwd" in name for name in hub.downloads())


def test_an_index_without_end_is_refused(hub, monkeypatch):
    monkeypatch.setattr("minivitpose.checkpoint.folder.MAX_INDEX", 50)
    with refused("index is absurdly long"):
        fetch("hf:owner/sharded")


def test_without_huggingface_hub_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused("needs the package huggingface_hub", "pip install 'minivitpose[hub]'", "by hand"):
        fetch("hf:owner/whole")


def test_a_cache_that_cannot_be_written_is_one_line(hub, tmp_path):
    (tmp_path / "file").write_text("")
    with refused("hf:owner/whole: cannot fetch it"):
        fetch("hf:owner/whole", cache_dir=str(tmp_path / "file" / "cache"))


# ------------------------------------------------------------------------------------------------------ loading a model


@pytest.fixture(scope="module")
def model():
    return small_model(dtype="float32", head="simple")


@pytest.fixture
def published(hub, model):
    """The same model on the hub in three ways: as transformers saves it, that in shards, and as a file of our own."""
    arrays = from_official(model.state_dict(), "hf")[0]
    config = hf_config(model.config)
    names = list(arrays)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    settings = {"config.json": json.dumps(config).encode()}
    sharded = {shard: save({name: arrays[name] for name in inside}) for shard, inside in shards.items()}
    sharded["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.repositories["me/whole"] = {"main": settings | {"model.safetensors": save(arrays)}}
    hub.repositories["me/sharded"] = {"main": settings | sharded}
    hub.repositories["me/file"] = {"main": {"a/small.safetensors": save(model.state_dict())}}
    return hub


@pytest.mark.parametrize(
    "name", ["whole", "sharded", "whole/model.safetensors", "sharded/model.safetensors.index.json"]
)
def test_a_model_on_the_hub_loads(published, model, name):
    loaded = mvp.load(f"hf:me/{name}", "numpy")
    assert loaded.config.num_heads == 3
    assert loaded.config.image_size == (64, 48)
    assert loaded.config.eps == model.config.eps
    images = images_for(loaded)
    assert np.array_equal(loaded(images), model(images))


def test_a_file_on_the_hub_loads_as_from_the_disk(published, model):
    loaded = mvp.load("hf:me/file/a/small.safetensors", "numpy", num_heads=3)
    assert np.array_equal(loaded(images_for(loaded)), model(images_for(loaded)))


def test_the_command_line_takes_names_on_the_hub(published, capsys):
    assert main(["inspect", "hf:me/whole"]) == 0
    assert "simple" in capsys.readouterr().out
    for name in ("hf:me/nobody", "hf:x", "hf:me/whole@v9", "hf:me/whole/nothing.pth"):
        assert main(["inspect", name]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("minivitpose: error: ")
        assert "\n" not in error


def changed(**entries):
    """config.json with these entries in place of its own; of the backbone, where they have a place there."""

    def change(files):
        config = json.loads(files["config.json"])
        for name, value in entries.items():
            (config["backbone_config"] if name in config["backbone_config"] else config)[name] = value
        return files | {"config.json": json.dumps(config).encode()}

    return change


def with_config(data):
    return lambda files: files | {"config.json": data}


HOSTILE = {
    "no JSON": with_config(b"\x00\x01"),
    "not UTF-8": with_config(b'{"a": "\xff"}'),
    "empty": with_config(b""),
    "a list": with_config(b"[]"),
    "cut off": with_config(b'{"backbone_config": {'),
    "deep": with_config(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "deep lists": with_config(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "long": with_config(b'{"a": "' + b"x" * 3_000_000 + b'"}'),
    "a key twice": with_config(b'{"backbone_config": {"num_attention_heads": 3, "num_attention_heads": 4}}'),
    "a number of a million digits": with_config(
        b'{"backbone_config": {"num_attention_heads": ' + b"9" * 900_000 + b"}}"
    ),
    "NaN": with_config(b'{"backbone_config": {"layer_norm_eps": NaN}}'),
    "control characters": with_config(b'{"backbone_config": {"num_attention_heads": "\\u001b[31m\\n\\u0000"}}'),
    "backbone is a list": changed(backbone_config=[1, 2]),
    "backbone is text": changed(backbone_config="vit"),
} | {
    f"{name} = {str(value)[:20]}": changed(**{name: value})
    for name, values in {
        "num_attention_heads": [0, -3, 7, 1e9, 2**70, 3.0, True, "3", None, [3], {"a": 3}, "x" * 10_000],
        "hidden_size": [48, 0, -24, "24", 10**30, [24]],
        "layer_norm_eps": [-1e-6, 2, "1e-6", 1e400, [1e-6], True],
        "image_size": [
            0,
            [64],
            [64, 48, 3],
            ["64", "48"],
            [-64, 48],
            [10**9, 10**9],
            10**30,
            "64",
            {},
            [[64], 48],
        ],
        "patch_size": [8, [16], "16", [16, 8], 0, [[16, 16]]],
        "hidden_act": ["relu", 7, ["gelu"]],
    }.items()
    for value in values
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_config_is_one_line(published, tmp_path, case):
    """The same from the hub and from a folder."""
    files = HOSTILE[case](published.repositories["me/whole"]["main"])
    published.repositories["me/whole"]["main"] = files
    with refused("config.json"):
        mvp.load("hf:me/whole", "numpy")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with refused("config.json"):
        mvp.load(tmp_path, "numpy")


def placed(*places):
    return json.dumps({"weight_map": {f"tensor {i}": place for i, place in enumerate(places)}}).encode()


OUTSIDE = ["../model-1.safetensors", "/etc/passwd", "/etc/passwd.safetensors", "..\\x.safetensors", "C:x.safetensors"]
OUTSIDE += [
    "a/model-1.safetensors",
    "./model-1.safetensors",
    "..",
    "",
    ".",
    "~/x.safetensors",
    "x\n.safetensors",
    "config.json",
]
OUTSIDE += [
    "\x1b[31m.safetensors",
    "\x00.safetensors",
    "model-3.safetensors",
    "x" * 5000 + ".safetensors",
    7,
    None,
    ["a"],
    {},
]
LISTS = {str(place)[:30]: placed(place) for place in OUTSIDE}
LISTS["another tensor"] = placed("model-1.safetensors")
LISTS["ten thousand files"] = placed(*(f"{i}.safetensors" for i in range(10_000)))


@pytest.mark.parametrize("case", [*INDICES, *LISTS])
def test_a_hostile_index_in_a_folder_is_one_line(published, tmp_path, case):
    files = published.repositories["me/sharded"]["main"]
    files |= {"model.safetensors.index.json": (INDICES | LISTS)[case]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for source in ("hf:me/sharded", tmp_path, tmp_path / "model.safetensors.index.json"):
        with refused("model"):
            mvp.load(source, "numpy")


def test_what_is_no_model_is_refused_as_from_the_disk(published):
    published.repositories["me/whole"]["main"]["model.safetensors"] = b"version https://git-lfs.github.com/spec/v1"
    with refused("model.safetensors", "git-lfs pointer"):
        mvp.load("hf:me/whole")
