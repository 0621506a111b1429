"""ViTPose+: one plain model taken out exactly, and every request that cannot be met refused in one line."""

import numpy as np
import pytest

import minivitpose as mvp
import public_files as pf
from minivitpose import CheckpointError
from minivitpose.checkpoint import MismatchError, experts
from minivitpose.config import keypoints_of, parameter_shapes, variant_config
from minivitpose.parameters import is_learnt
from models import images_for

NAMES = list(pf.PARTS)


def load(state, **options):
    return mvp.load(state, "numpy", num_heads=3, **options)


def weights(state, **options):
    return load(state, **options).state_dict()


def same(found, expected):
    assert sorted(found) == sorted(expected)
    assert all(np.array_equal(found[name], x) for name, x in expected.items())


def refused(state, *words, **options):
    with pytest.raises(CheckpointError) as error:
        load(state, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_the_order_of_the_experts():
    assert list(experts.EXPERTS) == NAMES
    assert [keypoints_of(name) for name in NAMES] == list(pf.PARTS.values())


# ---------------------------------------------------------------------------------------------------- a whole ViTPose+


@pytest.mark.parametrize("dataset", NAMES)
def test_each_dataset_has_its_own_expert_and_head(dataset):
    state = pf.plus()
    model = load(state, dataset=dataset)
    same(model.state_dict(), pf.split_by_hand(state, dataset))
    assert (model.config.dataset, model.config.num_keypoints) == (dataset, pf.PARTS[dataset])
    assert model(images_for(model)).shape == (1, pf.PARTS[dataset], 16, 12)


def test_without_a_dataset_it_is_cocos():
    state = pf.plus()
    same(weights(state), pf.split_by_hand(state, "coco"))
    assert load(state).config.dataset == "coco"


def test_names_of_datasets_in_any_usual_spelling():
    state = pf.plus()
    for spelling in ("wholebody", "COCO-WholeBody", "coco_wholebody"):
        assert load(state, dataset=spelling).config.dataset == "coco_wholebody"


def test_the_part_is_as_large_as_the_tensors_say():
    state = pf.plus()
    for name in list(state):  # experts of 4 channels, fc2 of 20
        x = state[name]
        state[name] = x[:4] if ".experts." in name else np.concatenate([x, x[:2]]) if ".fc2." in name else x
    assert np.array_equal(
        weights(state)["backbone.blocks.3.mlp.fc2.weight"][20:], state["backbone.blocks.3.mlp.experts.0.weight"]
    )
    state["backbone.blocks.3.mlp.experts.0.bias"] = np.zeros(6, np.float32)
    with pytest.raises(
        MismatchError, match=r"mis-shaped backbone.blocks.3.mlp.experts.0.bias: expected \(4,\), found \(6,"
    ):
        load(state)


@pytest.mark.parametrize("expert", NAMES)
def test_an_expert_alone_goes_with_the_files_own_head(expert):
    state = pf.plus(heads=())
    by_hand = pf.split_by_hand(pf.plus(), expert)
    for key in (expert, NAMES.index(expert), str(NAMES.index(expert)), np.int64(NAMES.index(expert))):
        found = weights(state, expert=key)
        for name, x in found.items():
            assert np.array_equal(x, (state if name.startswith("keypoint_head") else by_hand)[name])


def test_hugging_faces_files_have_the_experts_and_one_head():
    state = pf.as_hf(pf.plus(heads=()))
    same(weights(state, expert="ap10k"), weights(pf.plus(), expert="ap10k"))
    same(weights(state, dataset="coco"), weights(state))
    refused(state, "no head for dataset 'ap10k'", "expected one of coco", "expert='ap10k'", dataset="ap10k")


def test_with_both_the_expert_and_the_head_are_chosen_apart():
    state = pf.plus()
    found = weights(state, expert="coco", dataset="ap10k")
    assert np.array_equal(found["keypoint_head.final_layer.bias"], state["associate_keypoint_heads.2.final_layer.bias"])
    fc2 = "backbone.blocks.11.mlp.fc2.weight"
    assert np.array_equal(found[fc2], weights(state)[fc2])
    one_head = load(pf.plus(heads=()), expert="ap10k", dataset="ap10k")  # trained on, with a head of its own
    assert one_head.config.dataset == "ap10k"


def test_what_the_file_does_not_have_is_refused():
    state = pf.plus()
    refused(state, "unknown dataset 'cats'", "expected one of aic, animalpose, ap10k", dataset="cats")
    refused(
        state, "no head for dataset 'crowdpose'", "coco, aic, mpii, ap10k, apt36k, coco_wholebody", dataset="crowdpose"
    )
    for expert in (6, -1, "6", "crowdpose", "cats", 1.5, True, "9" * 5000, None.__class__):
        refused(state, "unknown expert", "coco, aic, mpii", "from 0 to 5", expert=expert)
    few = pf.plus(experts=2)
    refused(few, "unknown expert 'ap10k'", "coco, aic or a number from 0 to 1", dataset="ap10k")
    refused(pf.official(), "expert 'coco' cannot be chosen: the file has none", expert="coco")


def test_every_expert_must_be_whole():
    state = pf.plus()
    del state["backbone.blocks.7.mlp.experts.4.bias"]
    state["backbone.blocks.8.mlp.experts.5.weight"] = np.zeros((6, 95), np.float32)
    state["associate_keypoint_heads.1.final_layer.bias"] = np.zeros(3, np.float32)  # of a head that is not asked for
    with pytest.raises(MismatchError) as error:
        load(state)
    assert error.value.faults == [
        "mis-shaped backbone.blocks.8.mlp.experts.5.weight: expected (6, 96), found (6, 95)",
        "missing backbone.blocks.7.mlp.experts.4.bias: expected (6,)",
    ]
    state = pf.plus()
    del state["associate_keypoint_heads.1.deconv_layers.0.weight"]
    state["associate_keypoint_heads.1.final_layer.extra"] = np.zeros(3, np.float32)
    load(state)
    with pytest.raises(CheckpointError, match="associate_keypoint_heads.1.final_layer.extra"):
        load(state, dataset="mpii")


def test_an_expert_of_no_block_is_unexpected():
    stray = {"backbone.blocks.12.mlp.experts.0.weight": np.zeros((6, 96), np.float32)}
    with pytest.raises(MismatchError, match=r"unexpected backbone.blocks.12.mlp.experts.0.weight: found \(6, 96\)"):
        load(pf.plus() | stray)


def test_absurd_numbers_of_experts_and_heads_are_refused():
    for name in ("backbone.blocks.0.mlp.experts.99999.weight", "associate_keypoint_heads.99999.final_layer.bias"):
        refused(pf.plus() | {name: np.zeros((6, 96), np.float32)}, "numbered wrongly", "found 99999")


# ----------------------------------------------------------------------------------------------- split files, and heads


@pytest.mark.parametrize("buggy", [False, True])
@pytest.mark.parametrize("dataset", NAMES)
def test_files_that_were_split_elsewhere(dataset, buggy):
    """Experts and heads that were left in are ignored: fc2 has all its rows."""
    state = pf.plus()
    split = pf.split_by_hand(state, dataset, buggy)
    assert any(".experts." in name for name in split) == buggy
    same(weights(split, dataset=dataset), weights(state, dataset=dataset))
    assert load(split).config.num_keypoints == pf.PARTS[dataset]


def test_a_joined_file_gives_nothing_but_what_it_was_joined_for():
    split = pf.split_by_hand(pf.plus(), "coco", buggy=True)
    for dataset in NAMES[1:]:
        refused(split, f"dataset {dataset!r} cannot be taken out", "already joined with coco's expert", dataset=dataset)
    refused(split, "expert 'aic' cannot be chosen: fc2 is already joined", expert="aic")
    same(weights(split, dataset="coco"), weights(split))


def test_a_plain_backbone_with_several_heads():
    """vitpose_base_coco_aic_mpii.pth: two associate heads, no experts."""
    state = (
        pf.official() | pf.associate_heads(("aic", "mpii")) | {"backbone.cls_token": np.zeros((1, 1, 24), np.float32)}
    )
    same(weights(state), pf.official())
    for j, dataset in enumerate(("aic", "mpii")):
        model = load(state, dataset=dataset)
        assert (model.config.dataset, model.config.num_keypoints) == (dataset, pf.PARTS[dataset])
        for name, x in model.state_dict().items():
            assert np.array_equal(x, state[name.replace("keypoint_head", f"associate_keypoint_heads.{j}")])
    refused(state, "no head for dataset 'ap10k'", "expected one of coco, aic, mpii", dataset="ap10k")
    refused(state, "the file has none", expert="aic")


# -------------------------------------------------------------------------------------------------- rows and keypoints


def test_more_rows_than_keypoints_are_cut_off_where_a_dataset_is_named():
    """The heads in ViTPose+ and the files trained on several sets may have 17 rows for 14 or 16 keypoints."""
    padded = pf.plus(keypoints=dict.fromkeys(NAMES, 133))
    for dataset in NAMES[1:]:
        model = load(padded, dataset=dataset)
        final = f"associate_keypoint_heads.{NAMES.index(dataset) - 1}.final_layer."
        for name in ("weight", "bias"):
            expected = padded[final + name][: pf.PARTS[dataset]]
            assert np.array_equal(model.state_dict()[f"keypoint_head.final_layer.{name}"], expected)
        assert model(images_for(model)).shape[1] == pf.PARTS[dataset]
    model = load(pf.official(), dataset="crowdpose")
    assert (model.config.num_keypoints, model.config.dataset, model.config.pipeline) == (14, "crowdpose", "plain")


def test_a_final_layer_behind_further_convolutions_is_cut_too():
    state = pf.official(depth=1, extra_kernels=(3,))
    found = weights(state, dataset="mpii")
    assert found["keypoint_head.final_layer.3.weight"].shape == (16, 6, 1, 1)
    assert np.array_equal(found["keypoint_head.final_layer.0.bias"], state["keypoint_head.final_layer.0.bias"])


def test_fewer_rows_than_keypoints_are_refused():
    refused(
        pf.official(),
        "dataset 'coco_25' does not go with keypoint_head (expected 25 keypoints, found 17)",
        dataset="coco_25",
    )
    short = pf.plus(keypoints=pf.PARTS | {"mpii": 14})
    refused(short, "'mpii' does not go with associate_keypoint_heads.1 (expected 16", dataset="mpii")


# --------------------------------------------------------------------------------------------------------------- counts

COUNTS = {  # variant: parameters and tensors with one head (Hugging Face), with six heads (official)
    "S": (33_143_697, 307, 46_306_646, 377),
    "B": (125_395_473, 307, 146_422_742, 377),
    "L": (434_404_625, 595, 460_674_774, 665),
    "H": (899_404_049, 787, 930_917_078, 857),
}


def pieces(variant):
    """Official name -> shape of a ViTPose+ with one head, and with six."""
    config = variant_config(variant)
    parts = experts.Parts(experts=6, rows=config.embed_dim // 4)
    one = experts.in_pieces(parameter_shapes(config), parts, experts.Choice(expert=0))
    six = dict(one)
    for j, dataset in enumerate(NAMES[1:]):
        head = experts.Choice(f"associate_keypoint_heads.{j}", 0)
        shapes = parameter_shapes(variant_config(variant, num_keypoints=pf.PARTS[dataset]))
        six |= experts.in_pieces(shapes, parts, head)
    return one, six


@pytest.mark.parametrize("variant", COUNTS)
def test_exact_parameter_counts_of_vitpose_plus(variant):
    found = []
    for shapes in pieces(variant):
        found += [sum(int(np.prod(shape)) for name, shape in shapes.items() if is_learnt(name)), len(shapes)]
    assert tuple(found) == COUNTS[variant]
