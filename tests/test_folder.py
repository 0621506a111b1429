"""Folders as transformers saves them: one file or shards, and the config.json beside them; wrong ones in one line."""

import json
import shutil

import numpy as np
import pytest

import minivitpose as mvp
import public_files as pf
from minivitpose import CheckpointError, read_state_dict
from minivitpose.checkpoint import read_checkpoint
from minivitpose.checkpoint.fit import make_plan
from minivitpose.config import parameter_shapes, variant_config
from minivitpose.pose.skeletons import SKELETONS

STATE = pf.as_hf(pf.official())


def same(found, expected):
    assert sorted(found) == sorted(expected)
    assert all(np.array_equal(found[name], x) for name, x in expected.items())


def refused(source, *words, read=mvp.load, **options):
    with pytest.raises(CheckpointError) as error:
        read(source, **options)
    message = str(error.value)
    assert message.isprintable() and len(message) <= 1000, message
    for word in words:
        assert word in message, message


def test_a_folder_its_file_and_its_index_give_the_same(tmp_path):
    expected = mvp.load(STATE, "numpy", num_heads=3).state_dict()
    whole, shards = pf.folder(tmp_path / "whole", STATE), pf.folder(tmp_path / "shards", STATE, shards=3)
    for source in (whole, f"{whole}/", whole / "model.safetensors", shards, shards / "model.safetensors.index.json"):
        model = mvp.load(source, "numpy")  # the number of heads stands in config.json
        same(model.state_dict(), expected)
        assert model.config.num_heads == 3
        same(read_state_dict(source), STATE)


def test_a_checkpoint_says_what_was_read(tmp_path):
    found = read_checkpoint(pf.folder(tmp_path, STATE, shards=3))
    assert found.format == "safetensors in 3 shards"
    assert found.path == str(tmp_path / "model.safetensors.index.json")
    assert list(found.state_dict) == [name for i in range(3) for name in list(STATE)[i::3]]
    assert all("format: pt" in text for text in found.ignored.values()) and len(found.ignored) == 3


def test_one_file_goes_before_shards_and_a_pytorch_file_is_read_too(tmp_path):
    pf.folder(tmp_path, STATE, shards=2)
    pf.folder(tmp_path, STATE)
    assert read_checkpoint(tmp_path).format == "safetensors"
    other = tmp_path / "other"
    other.mkdir()
    (other / "pytorch_model.bin").write_bytes(pf.safetensors(STATE))  # what it is shows in its first bytes
    same(read_state_dict(other), STATE)


# ---------------------------------------------------------------------------------------------------------- config.json


def test_the_config_supplies_what_the_weights_do_not_show(tmp_path):
    config = pf.BACKBONE | {"num_attention_heads": 4, "layer_norm_eps": 1e-5, "image_size": [48, 64], "patch_size": 16}
    source = pf.folder(tmp_path, STATE, config=config)
    found = mvp.load(source, "numpy").config
    assert (found.num_heads, found.eps, found.image_size, found.pipeline) == (4, 1e-5, (48, 64), "hf")
    found = mvp.load(source, "numpy", num_heads=6, eps=1e-3, image_size=(64, 48)).config
    assert (found.num_heads, found.eps, found.image_size) == (6, 1e-3, (64, 48))


def test_the_labels_of_a_config_say_which_keypoints_they_are(tmp_path):
    for dataset, expected in (("ap10k", "ap10k"), ("apt36k", "ap10k"), ("coco", "coco")):
        (tmp_path / dataset).mkdir()
        labels = {str(i): name for i, name in enumerate(SKELETONS[dataset].keypoints)}
        source = pf.folder(tmp_path / dataset, STATE, config={"hidden_size": 24, "image_size": [64, 48]})
        config = json.loads((source / "config.json").read_text()) | {"id2label": labels}
        (source / "config.json").write_text(json.dumps(config))
        assert mvp.load(source, "numpy").config.dataset == expected
        assert mvp.load(source, "numpy", dataset="humanart").config.dataset == "humanart"


def test_what_a_config_leaves_out_has_the_defaults_of_transformers(tmp_path):
    source = pf.folder(tmp_path, STATE, config={"hidden_size": 24, "image_size": [64, 48]})
    found = mvp.load(source, "numpy").config
    assert (found.num_heads, found.eps) == (12, 1e-12)


def test_without_a_config_the_heads_are_those_of_the_table():
    shapes = parameter_shapes(variant_config("S", deconv_filters=(8, 6)))
    state = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    found = mvp.load(pf.as_hf(state), "numpy").config
    assert found == variant_config("S", deconv_filters=(8, 6), eps=1e-12, pipeline="hf")


def test_the_config_matters_to_hugging_faces_naming_alone(tmp_path):
    source = pf.folder(tmp_path, pf.official())
    (source / "config.json").write_text("no JSON")
    assert mvp.load(source, "numpy", num_heads=3).config.eps == 1e-6
    same(read_state_dict(pf.folder(tmp_path, STATE, config=None)), STATE)  # nor to reading


BAD_CONFIGS = {
    "not JSON": ("{", "not valid JSON"),
    "not UTF-8": (b"\xff\xfe{}", "not valid JSON"),
    "a list": ("[]", "not a JSON object"),
    "empty": ("", "the file is empty"),
    "endless": ('{"a": NaN}', "has the number NaN"),
    "long number": ('{"backbone_config": {"num_attention_heads": ' + "9" * 5000 + "}}", "not valid JSON"),
    "deep": ('{"a": ' + "[" * 50_000, "nested too deeply"),
    "twice": ('{"a": 1, "a": 2}', "'a' twice"),
    "backbone": ('{"backbone_config": [1]}', "backbone_config is not a table"),
    "too long": (b" " * (2 << 20) + b"{}", "absurdly long"),
    "another model": ("{}", "hidden_size does not go with the weights beside it (expected 24, found 768)"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_one_clear_line(case, tmp_path):
    content, message = BAD_CONFIGS[case]
    source = pf.folder(tmp_path, STATE)
    (source / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(source, f"{tmp_path}/config.json: ", message)
    same(read_state_dict(source), STATE)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"num_attention_heads": 0},
            "num_attention_heads is impossible (expected a whole number from 1 to 65536, found 0)",
        ),
        ({"num_attention_heads": 5}, "must divide the channels (expected 24, found 5)"),
        ({"num_attention_heads": "3"}, "num_attention_heads is impossible"),
        ({"num_attention_heads": True}, "num_attention_heads is impossible"),
        ({"num_attention_heads": 1e30}, "num_attention_heads is impossible"),
        ({"num_attention_heads": None}, "num_attention_heads is impossible"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps is impossible"),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps is impossible"),
        ({"layer_norm_eps": 1e999}, "layer_norm_eps is impossible"),
        ({"image_size": [64]}, "image_size is impossible"),
        ({"image_size": [64, 10**20]}, "image_size is impossible"),
        ({"image_size": {"height": 64}}, "image_size is impossible"),
        ({"image_size": 64}, "image_size (64, 64) with stride 16 has 4 x 4 patches"),
        ({"patch_size": [16, 8]}, "patch_size does not go with the weights beside it (expected 16, found 8)"),
        ({"hidden_size": 25}, "hidden_size does not go with the weights"),
        ({"num_hidden_layers": 3}, "num_hidden_layers does not go with the weights beside it (expected 12, found 3)"),
        ({"hidden_act": "relu"}, "hidden_act is not supported (expected 'gelu', found 'relu')"),
        ({"num_channels": 1}, "num_channels is not supported"),
    ],
)
def test_a_wrong_entry_of_the_config_is_one_clear_line(entry, message, tmp_path):
    source = pf.folder(tmp_path, STATE)
    text = json.dumps({"backbone_config": pf.BACKBONE | entry}).replace("Infinity", "1e999")
    (source / "config.json").write_text(text)
    refused(source, message)


def test_random_damage_to_a_config_is_refused_or_harmless(tmp_path):
    source = pf.folder(tmp_path, STATE)
    path, rng = source / "config.json", np.random.default_rng(1)
    content, checkpoint, loaded = path.read_bytes(), read_checkpoint(source), 0
    for _ in range(500):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 34, 44, 45, 46, 48, 57, 101, 123, 125, 91, 255])
        path.write_bytes(damaged)
        try:
            config = make_plan(checkpoint).config
        except CheckpointError as error:
            assert str(error).isprintable()
            continue
        loaded += 1
        assert config.grid[0] * config.grid[1] == 12 and 24 % config.num_heads == 0
    assert 0 < loaded < 500


def test_another_scale_of_the_simple_head_is_refused(tmp_path):
    source = pf.folder(tmp_path, STATE)
    (source / "config.json").write_text(json.dumps({"backbone_config": pf.BACKBONE, "scale_factor": 8}))
    refused(source, "scale_factor is not supported (expected 4, found 8)")


# --------------------------------------------------------------------------------------------------------------- shards


def test_folders_without_a_model_are_one_clear_line(tmp_path):
    refused(tmp_path, "a directory without a model", "found nothing", read=read_checkpoint)
    (tmp_path / "vitpose-b.pth").write_bytes(b"x")
    refused(tmp_path, "expected model.safetensors or", "found 'vitpose-b.pth'", "give the checkpoint itself")


def spoil_missing(folder, places):
    (folder / places["head.conv.bias"]).unlink()


def spoil_damaged(folder, places):
    (folder / places["head.conv.bias"]).write_bytes(b"x" * 100)


def spoil_twice(folder, places):
    shard = folder / places["head.conv.bias"]
    other = next(name for name, place in places.items() if place != shard.name)
    own = {name: x for name, x in STATE.items() if places[name] == shard.name}
    shard.write_bytes(pf.safetensors(own | {other: STATE[other]}))


def spoil_unknown(folder, places):
    del places["head.conv.bias"]


def spoil_absent(folder, places):
    places["head.more"] = places["head.conv.bias"]


SHARDS = {
    "missing": (spoil_missing, "model-00001-of-00002.safetensors: there is no such file"),
    "damaged": (spoil_damaged, "model-00001-of-00002.safetensors: the header has an impossible length"),
    "twice": (spoil_twice, "the shard holds tensor", "expected it in 'model-00002-of-00002.safetensors'"),
    "unknown to the index": (spoil_unknown, "the shard holds tensor 'head.conv.bias' (expected it nowhere"),
    "absent": (spoil_absent, "the shard lacks 1 of its tensors (found no 'head.more'"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_an_index_and_shards_that_disagree_are_one_clear_line(case, tmp_path):
    spoil, *words = SHARDS[case]
    folder = pf.folder(tmp_path, STATE, shards=2)
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    spoil(folder, places)
    pf.write_index(folder, places)
    refused(folder, "model.safetensors.index.json: ", *words)


@pytest.mark.parametrize(
    "place",
    ["../model.safetensors", "/etc/x.safetensors", "a\\x.safetensors", "x.pth", "..", "", "a\nx.safetensors", 7, None],
)
def test_a_shard_must_lie_beside_the_index(place, tmp_path):
    folder = pf.folder(tmp_path / "inner", STATE, shards=2)
    shutil.copy(folder / "model-00001-of-00002.safetensors", tmp_path / "model.safetensors")
    pf.write_index(folder, {"head.conv.bias": place})
    refused(folder, "the index places tensor 'head.conv.bias' in", "beside the index")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"weight_map": []}', "weight_map in the index is not a table"),
        ('{"weight_map": {}}', "weight_map in the index is not a table"),
        ('{"weight_map": {"a": "b.safetensors"}', "the index is not valid JSON"),
        ('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "the index has the key 'a' twice"),
        ('{"weight_map": {"a": [[[[]]]]}}', "the index is nested too deeply"),
        ('{"abcd":{"weight_map": {}}}', "weight_map in the index is not a table"),
        ('{"weight_map": 1}' + " " * (5 << 20), "the index is absurdly long"),
        (
            '{"weight_map": {' + ", ".join(f'"{i}": "{i}.safetensors"' for i in range(1001)) + "}}",
            "absurdly many files",
        ),
    ],
)
def test_a_bad_index_is_one_clear_line(content, message, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    refused(path, message, read=read_checkpoint)


def test_random_damage_to_an_index_is_refused_or_harmless(tmp_path):
    folder = pf.folder(tmp_path, STATE, shards=2)
    path = folder / "model.safetensors.index.json"
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 34, 44, 123, 125, 91, 255, 49])
        path.write_bytes(damaged)
        try:
            same(read_state_dict(folder), STATE)
        except CheckpointError as error:
            assert str(error).isprintable()
