"""config.json and preprocessor_config.json, which transformers keeps beside the weights: read, and written.

A file holds only what differs from the defaults. Source: huggingface/transformers, VitPoseBackboneConfig and
VitPoseConfig; the defaults here are theirs.
"""

import os

from minivitpose.checkpoint.errors import CheckpointError, quoted
from minivitpose.checkpoint.json_text import parse_object
from minivitpose.checkpoint.mapped import map_file
from minivitpose.config import ConfigError
from minivitpose.pose.skeletons import SKELETONS

FILE = "config.json"
MAX_SIZE = 1 << 20
LARGEST = 1 << 16  # heads, pixels: no network has more
SAME = {"hidden_act": "gelu", "num_channels": 3, "scale_factor": 4}  # what this network has built in


def read_options(path, shapes):
    """What the config.json beside the file ``path`` says and the weights do not show: num_heads, eps, image_size, and
    the dataset where the keypoints' labels are exactly those of one.

    shapes: official name -> shape. An empty dict without such a file. Raises CheckpointError, in one line with the
    file's name, where it is no such config, or not that of these weights.
    """
    config = os.path.join(os.path.dirname(path), FILE) if path else None
    if not config or not os.path.exists(config):
        return {}
    try:
        data = map_file(config)
        if len(data) > MAX_SIZE:
            raise CheckpointError("absurdly long", expected=f"at most {MAX_SIZE} bytes", found=str(len(data)))
        return check_options(parse_object(data, "the config", deepest=20), shapes)
    except CheckpointError as error:
        raise error.in_file(config) from None


def check_options(entries, shapes):
    """The options out of the whole config, checked one by one and against the weights."""
    backbone = entries.get("backbone_config") or {}
    if not isinstance(backbone, dict):
        raise CheckpointError("backbone_config is not a table", found=quoted(backbone))
    for name, expected in SAME.items():
        found = backbone.get(name, entries.get(name, expected))
        if found != expected:
            raise CheckpointError(f"{name} is not supported", expected=repr(expected), found=quoted(found))
    channels, *_, patch = shapes.get("backbone.patch_embed.proj.weight") or (None,) * 2
    heads = whole_number(backbone, "num_attention_heads", 12)
    if channels is not None:
        agrees(backbone, "hidden_size", whole_number(backbone, "hidden_size", 768), channels)
        agrees(backbone, "patch_size", size(backbone, "patch_size", 16)[1], patch)
        blocks = [int(name.split(".")[2]) for name in shapes if name.startswith("backbone.blocks.")]
        agrees(
            backbone, "num_hidden_layers", whole_number(backbone, "num_hidden_layers", 12), 1 + max(blocks, default=0)
        )
        if channels % heads:
            raise CheckpointError(
                "num_attention_heads must divide the channels", expected=str(channels), found=f"{heads}"
            )
    read = {"num_heads": heads, "eps": epsilon(backbone), "image_size": size(backbone, "image_size", [256, 192])}
    return read | labelled(entries.get("id2label"))


def labelled(labels):
    """{"dataset": ...} where the labels of the keypoints are those of a set in the table, else nothing."""
    if not isinstance(labels, dict):
        return {}
    names = tuple(labels.get(str(i)) for i in range(len(labels)))
    found = [name for name, skeleton in SKELETONS.items() if skeleton.keypoints == names]
    return {"dataset": found[0]} if found else {}


def agrees(entries, name, found, expected):
    if found != expected:
        raise CheckpointError(
            f"{name} does not go with the weights beside it",
            expected=str(expected),
            found=str(found),
            fix="take weights and config.json of the same model",
        )


def whole_number(entries, name, default):
    value = entries.get(name, default)
    if type(value) is not int or not 1 <= value <= LARGEST:
        raise CheckpointError(
            f"{name} is impossible", expected=f"a whole number from 1 to {LARGEST}", found=quoted(value)
        )
    return value


def size(entries, name, default):
    """(height, width) from a pair or a single number."""
    value = entries.get(name, default)
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= LARGEST for side in pair):
        raise CheckpointError(
            f"{name} is impossible", expected="[height, width] in pixels", found=", ".join(map(quoted, pair[:3]))
        )
    return tuple(pair)


def epsilon(entries):
    value = entries.get("layer_norm_eps", 1e-12)
    if type(value) not in (int, float) or not 0 <= value <= 0.1:
        raise CheckpointError("layer_norm_eps is impossible", expected="a number from 0 to 0.1", found=quoted(value))
    return float(value)


# -------------------------------------------------------------------------------------------------------------- writing


def hf_config(config, experts=0, rows=0, labels=(), links=()):
    """The content of config.json for a model of this Config: VitPoseForPoseEstimation loads it.

    experts, rows: of a ViTPose+, the number of experts and the channels that each gives. labels, links: names of the
    keypoints, and pairs of them to draw. Raises ConfigError for a network that transformers does not have.
    """
    check_standard(config)
    last = config.depth
    backbone = {
        "model_type": "vitpose_backbone",
        "image_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": config.mlp_dim // config.embed_dim,
        "num_experts": experts or 1,
        "part_features": rows,
        "layer_norm_eps": config.eps,
        "qkv_bias": config.qkv_bias,
        "out_indices": [last],
        "out_features": [f"stage{last}"],
        "stage_names": ["stem", *(f"stage{i}" for i in range(1, last + 1))],
    }
    labels = labels or [f"keypoint {i}" for i in range(config.num_keypoints)]
    return {
        "architectures": ["VitPoseForPoseEstimation"],
        "model_type": "vitpose",
        "backbone_config": backbone,
        "use_simple_decoder": config.head == "simple",
        "scale_factor": 4,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "edges": [list(link) for link in links],
    }


def check_standard(config):
    """Raises ConfigError for what VitPoseForPoseEstimation cannot be configured to be."""
    simple = config.head == "simple"
    rules = {
        "two deconvolutions of 256 channels and kernels of 4": simple
        or (config.deconv_filters == (256, 256) and config.deconv_kernels == (4, 4)),
        "a last kernel of 3 (simple head) or 1 (classic)": config.final_kernel == (3 if simple else 1),
        "no further convolutions in the head": not config.extra_kernels,
        "heads of embed_dim / num_heads channels": config.head_dim * config.num_heads == config.embed_dim,
        "an MLP of a whole multiple of embed_dim": config.mlp_dim % config.embed_dim == 0,
        "the usual scale of queries": config.qk_scale is None,
        "patches side by side": config.ratio == 1,
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise ConfigError(
            f"transformers has no such ViTPose: its own have {broken[0]}; write a single file instead of a folder"
        )


def hf_preprocessor(config):
    """The content of preprocessor_config.json: how VitPoseImageProcessor makes a crop for the network."""
    return {
        "image_processor_type": "VitPoseImageProcessor",
        "do_affine_transform": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "normalize_factor": 200.0,
        "rescale_factor": 1 / 255,
        "size": {"height": config.image_size[0], "width": config.image_size[1]},
    }
