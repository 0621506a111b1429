"""Small random files of every public kind, made by hand: nothing here uses the package's own renaming or joining."""

import json
import re

import numpy as np

from models import small_config, state_dict_for

PARTS = {"coco": 17, "aic": 14, "mpii": 16, "ap10k": 17, "apt36k": 17, "coco_wholebody": 133}
ROWS = 6  # of each expert, a quarter of the 24 channels


def official(**changes):
    """A state dict in the naming of ViTPose and easy_ViTPose: 12 blocks, a class-token slot that is not zero."""
    return state_dict_for(small_config(**({"depth": 12, "num_keypoints": 17} | changes)))


def without_counters(state):
    return {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}


def as_mmpose(state, slot=False):
    """The same in the naming of mmpose 1.x; its own models have the class token's slot added to the positions."""
    words = [("backbone.blocks.", "backbone.layers."), (".norm1.", ".ln1."), (".norm2.", ".ln2.")]
    words += [
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
        ("backbone.last_norm.", "backbone.ln1."),
    ]
    words += [(".patch_embed.proj.", ".patch_embed.projection."), ("keypoint_head.", "head.")]
    found = with_words(state, words)
    if not slot:
        table = found["backbone.pos_embed"]
        found["backbone.pos_embed"] = table[:, 1:] + table[:, :1]
    return found


def as_hf(state):
    """The same in the naming of Hugging Face transformers, with queries, keys and values apart."""
    words = [("backbone.pos_embed", "backbone.embeddings.position_embeddings")]
    words += [("backbone.patch_embed.proj.", "backbone.embeddings.patch_embeddings.projection.")]
    words += [("backbone.blocks.", "backbone.encoder.layer."), (".norm1.", ".layernorm_before.")]
    words += [(".norm2.", ".layernorm_after."), (".attn.proj.", ".attention.output.dense.")]
    words += [("backbone.last_norm.", "backbone.layernorm."), ("keypoint_head.final_layer.", "head.conv.")]
    words += [
        ("keypoint_head.deconv_layers.0.", "head.deconv1."),
        ("keypoint_head.deconv_layers.1.", "head.batchnorm1."),
    ]
    words += [
        ("keypoint_head.deconv_layers.3.", "head.deconv2."),
        ("keypoint_head.deconv_layers.4.", "head.batchnorm2."),
    ]
    found = {}
    for name, x in with_words(state, words).items():
        if ".attn.qkv." not in name:
            found[name] = x
            continue
        n = len(x) // 3
        for i, part in enumerate(("query", "key", "value")):
            found[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = x[i * n : (i + 1) * n].copy()
    return found


def with_words(state, words):
    found = {}
    for name, x in state.items():
        for old, new in words:
            name = name.replace(old, new)
        found[name] = x
    return found


NAMINGS = {"official": lambda state: state, "mmpose": as_mmpose, "hf": as_hf}


def plus(heads=PARTS, experts=6, keypoints=PARTS):
    """A ViTPose+ file: shared rows of fc2, six experts, keypoint_head of COCO and the other datasets' heads.

    heads: the datasets whose heads are in it. keypoints: rows of each head.
    """
    state = official()
    rng = np.random.default_rng(5)
    for name in [name for name in state if ".mlp.fc2." in name]:
        x = state[name]
        state[name] = x[: len(x) - ROWS]
        for e in range(experts):
            state[name.replace("fc2", f"experts.{e}")] = rng.standard_normal((ROWS, *x.shape[1:])).astype(np.float32)
    return state | associate_heads(heads, keypoints)


def associate_heads(heads, keypoints=PARTS):
    found = {}
    for j, dataset in enumerate(list(PARTS)[1:]):
        if dataset in heads:
            state = state_dict_for(small_config(depth=1, num_keypoints=keypoints[dataset]), seed=10 + j)
            own = {name: x for name, x in state.items() if name.startswith("keypoint_head.")}
            found |= {name.replace("keypoint_head", f"associate_keypoint_heads.{j}"): x for name, x in own.items()}
    return found


def split_by_hand(state, dataset, buggy=False):
    """What ViTPose's tools/model_split.py makes of a ViTPose+ file for one dataset.

    buggy: as the published version does, which leaves the experts in, and for COCO the other heads too.
    """
    index, found = list(PARTS).index(dataset), {}
    for name, x in state.items():
        if ".mlp.fc2." in name:
            x = np.concatenate([x, state[name.replace("fc2", f"experts.{index}")]])
        if ".mlp.experts." in name and not buggy:
            continue
        if name.startswith("associate_keypoint_heads.") and not (buggy and dataset == "coco"):
            continue
        found[name] = x
        if index and name.startswith("keypoint_head."):
            found[name] = state[name.replace("keypoint_head", f"associate_keypoint_heads.{index - 1}")]
    for name in ("weight", "bias"):
        found[f"keypoint_head.final_layer.{name}"] = found[f"keypoint_head.final_layer.{name}"][: PARTS[dataset]]
    return found


# ------------------------------------------------------------------------------------------------------------- as files

CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64"}


def safetensors(state):
    """The bytes of a safetensors file."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, x in state.items():
        place = [len(body), len(body) + x.nbytes]
        header[name] = {"dtype": CODES[x.dtype.name], "shape": list(x.shape), "data_offsets": place}
        body += x.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


BACKBONE = {"hidden_size": 24, "num_hidden_layers": 12, "num_attention_heads": 3, "image_size": [64, 48]}


def folder(path, state, shards=1, config=BACKBONE):
    """A folder as transformers saves it: config.json, and model.safetensors or shards with their index."""
    path.mkdir(exist_ok=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps({"model_type": "vitpose", "backbone_config": config}))
    if shards == 1:
        (path / "model.safetensors").write_bytes(safetensors(state))
        return path
    names, places = list(state), {}
    for i in range(shards):
        shard = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        own = names[i::shards]
        (path / shard).write_bytes(safetensors({name: state[name] for name in own}))
        places |= dict.fromkeys(own, shard)
    write_index(path, places)
    return path


def write_index(path, places):
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def blocks_in(state):
    """The numbers of the blocks, in any naming."""
    found = [re.search(r"\.(?:blocks|layers|layer)\.(\d+)\.", name) for name in state if name.startswith("backbone.")]
    return {int(match[1]) for match in found if match}
