"""Every kind of file in the table of docs/checkpoints.md, built small: it loads as said there and computes the same."""

from pathlib import Path

import numpy as np
import pytest

import minivitpose as mvp
import public_files as pf
import torch_files as tf
from minivitpose.checkpoint import read_source
from minivitpose.checkpoint.fit import make_plan
from minivitpose.checkpoint.namings import in_naming
from minivitpose.config import dataset_name, keypoints_of, parameter_shapes, variant_config
from models import images_for

LEFTOVER = {"backbone.cls_token": np.zeros((1, 1, 24), np.float32)}
META = {"mmpose_version": "0.24.0", "epoch": 210, "config": "model = dict()", "hook_msgs": {}}


def torch_zip(state):
    file = tf.TorchFile()
    return file.zip(tf.state_dict(file, state))


def with_meta(state):
    file = tf.TorchFile()
    return file.zip({"meta": META, "state_dict": tf.state_dict(file, state)})


def legacy_with_meta(state):
    file = tf.TorchFile(legacy_ids=True)
    return file.legacy({"meta": META, "state_dict": tf.state_dict(file, state)})


def plain(**changes):
    return pf.official(depth=2, **changes)


def seventeen_rows():
    """A head of AIC, MPII or CrowdPose as some files have it, with rows that nothing uses."""
    return plain(num_keypoints=17)


def cut(state, keypoints):
    last = "keypoint_head.final_layer."
    return state | {last + name: state[last + name][:keypoints] for name in ("weight", "bias")}


def multi():
    return pf.official() | pf.associate_heads(("aic", "mpii")) | LEFTOVER


def own_head(state, j):
    own = {n: x for n, x in state.items() if not n.startswith(("keypoint_head", "associate")) and n not in LEFTOVER}
    start = f"associate_keypoint_heads.{j}."
    return own | {n.replace(start, "keypoint_head."): x for n, x in state.items() if n.startswith(start)}


EASY = {"aic": 14, "ap10k": 17, "apt36k": 17, "coco": 17, "coco_25": 25, "mpii": 16, "wholebody": 133}
# name: (content of the file, how it is stored, options of load, the same model as a plain official state dict)
KINDS = {
    **{
        f"easy_ViTPose {name}": (
            lambda k=k: plain(num_keypoints=k),
            torch_zip,
            {"dataset": name},
            lambda k=k: plain(num_keypoints=k),
        )
        for name, k in EASY.items()
    },
    "official, classic": (plain, with_meta, {}, plain),
    "official, simple": (lambda: plain(head="simple"), with_meta, {}, lambda: plain(head="simple")),
    "official, several sets, AIC": (seventeen_rows, with_meta, {"dataset": "aic"}, lambda: cut(seventeen_rows(), 14)),
    "official, several sets, MPII": (seventeen_rows, with_meta, {"dataset": "mpii"}, lambda: cut(seventeen_rows(), 16)),
    "official, several sets, CrowdPose": (
        seventeen_rows,
        with_meta,
        {"dataset": "crowdpose"},
        lambda: cut(seventeen_rows(), 14),
    ),
    "coco_aic_mpii": (multi, with_meta, {}, pf.official),
    "coco_aic_mpii, AIC": (multi, with_meta, {"dataset": "aic"}, lambda: own_head(multi(), 0)),
    "coco_aic_mpii, MPII": (multi, with_meta, {"dataset": "mpii"}, lambda: own_head(multi(), 1)),
    "ViTPose+": (pf.plus, with_meta, {}, lambda: pf.split_by_hand(pf.plus(), "coco")),
    "ViTPose+, AP-10K": (pf.plus, with_meta, {"dataset": "ap10k"}, lambda: pf.split_by_hand(pf.plus(), "ap10k")),
    "split, with leftovers": (
        lambda: pf.split_by_hand(pf.plus(), "apt36k", buggy=True),
        torch_zip,
        {"dataset": "apt36k"},
        lambda: pf.split_by_hand(pf.plus(), "apt36k"),
    ),
    "COCO's split, with leftovers": (
        lambda: pf.split_by_hand(pf.plus(), "coco", buggy=True),
        torch_zip,
        {},
        lambda: pf.split_by_hand(pf.plus(), "coco"),
    ),
    "mmpose 1.x, classic": (lambda: pf.as_mmpose(plain()), legacy_with_meta, {}, plain),
    "mmpose 1.x, simple": (
        lambda: pf.as_mmpose(plain(head="simple")),
        legacy_with_meta,
        {},
        lambda: plain(head="simple"),
    ),
    "mmpose 1.x, Human-Art": (lambda: pf.as_mmpose(plain()), legacy_with_meta, {"dataset": "humanart"}, plain),
    "mmpose 1.x, converted, 193 rows": (lambda: pf.as_mmpose(plain(), slot=True), legacy_with_meta, {}, plain),
    "Hugging Face, simple": (lambda: pf.as_hf(plain(head="simple")), pf.safetensors, {}, lambda: plain(head="simple")),
    "Hugging Face, classic": (lambda: pf.as_hf(plain()), pf.safetensors, {}, plain),
    "Hugging Face, 52 keypoints": (
        lambda: pf.as_hf(plain(num_keypoints=52)),
        pf.safetensors,
        {},
        lambda: plain(num_keypoints=52),
    ),
    "Hugging Face, plus": (
        lambda: pf.as_hf(pf.plus(heads=())),
        pf.safetensors,
        {},
        lambda: pf.split_by_hand(pf.plus(), "coco"),
    ),
    "Hugging Face, plus, AP-10K's expert": (
        lambda: pf.as_hf(pf.plus(heads=())),
        pf.safetensors,
        {"expert": "ap10k"},
        lambda: (
            pf.split_by_hand(pf.plus(), "ap10k")
            | {name: x for name, x in pf.official().items() if name.startswith("keypoint_head.")}
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_public_kind_of_file_loads_and_computes_the_same(kind, tmp_path):
    content, stored, options, same = KINDS[kind]
    path = tmp_path / "model.bin"  # the name says nothing
    path.write_bytes(stored(content()))
    hf = kind.startswith("Hugging Face")
    model = mvp.load(path, num_heads=3, **options)
    expected = mvp.load(same(), num_heads=3, eps=1e-12 if hf else None)
    images = images_for(model)
    assert model.engine == expected.engine == "fast"
    assert model.config.eps == (1e-12 if hf else 1e-6)
    assert model.config.pipeline == ("hf" if hf else "mmpose" if "mmpose" in kind else model.config.pipeline)
    assert np.array_equal(model(images), expected(images))
    if "dataset" in options:
        assert keypoints_of(model.config.dataset) == model.config.num_keypoints
        assert model.config.dataset == dataset_name(options["dataset"])


def test_the_plan_names_what_is_special():
    plan = make_plan(read_source(pf.plus()), 3)
    assert (plan.parts.experts, plan.parts.rows, plan.parts.heads) == (6, 6, {0: 14, 1: 16, 2: 17, 3: 17, 4: 133})


BYTES = {  # raw tensor bytes of the public models: float32, and 8 for each counter
    ("S", "classic", 17): 97_166_420,
    ("S", "simple", 17): 86_890_052,
    ("B", "classic", 17): 359_982_164,
    ("B", "simple", 17): 343_649_348,
    ("L", "classic", 17): 1_234_183_252,
    ("L", "simple", 17): 1_213_812_804,
    ("H", "classic", 17): 2_548_839_508,
    ("H", "simple", 17): 2_524_431_428,
    ("S", "classic", 14): 97_163_336,
    ("S", "classic", 16): 97_165_392,
    ("S", "classic", 25): 97_174_644,
    ("S", "classic", 133): 97_285_668,
    ("H", "classic", 133): 2_548_958_756,
}


@pytest.mark.parametrize(("variant", "head", "keypoints"), BYTES)
def test_the_tensors_have_as_many_bytes_as_those_of_the_public_files(variant, head, keypoints):
    shapes = parameter_shapes(variant_config(variant, head=head, num_keypoints=keypoints))
    for naming in ("official", "hf"):
        named = in_naming(shapes, naming)
        total = sum(8 if name.endswith("num_batches_tracked") else 4 * int(np.prod(s)) for name, s in named.items())
        assert total == BYTES[variant, head, keypoints]


def test_every_kind_stands_in_the_table_of_the_docs():
    text = (Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for words in ("easy_ViTPose", "coco_aic_mpii", "ViTPose+", "mmpose 1.x", "Human-Art", "synthpose", "vitpose-plus"):
        assert words in text
