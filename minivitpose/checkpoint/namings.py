"""Three namings of the same parameters, and the way between them.

"official" is ViTPose's own, which easy_ViTPose and this package share; "mmpose" is that of mmpose 1.x; "hf" that of
Hugging Face transformers. Everything but two things is a new name: hf keeps queries, keys and values apart, and mmpose
1.x has no slot for the class token, whose value is already part of its positions.
Sources: the state dicts of ViTAE-Transformer/ViTPose, open-mmlab/mmpose 1.3 and huggingface/transformers 5.
"""

import re
from functools import lru_cache

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError, quoted

RULES = {  # (beginning of the name in the file, the same in the official naming); * is a number
    "mmpose": (
        ("backbone.pos_embed", "backbone.pos_embed"),
        ("backbone.patch_embed.projection", "backbone.patch_embed.proj"),
        ("backbone.layers.*.ln1", "backbone.blocks.*.norm1"),
        ("backbone.layers.*.attn.qkv", "backbone.blocks.*.attn.qkv"),
        ("backbone.layers.*.attn.proj", "backbone.blocks.*.attn.proj"),
        ("backbone.layers.*.ln2", "backbone.blocks.*.norm2"),
        ("backbone.layers.*.ffn.layers.0.0", "backbone.blocks.*.mlp.fc1"),
        ("backbone.layers.*.ffn.layers.1", "backbone.blocks.*.mlp.fc2"),
        ("backbone.ln1", "backbone.last_norm"),
        ("head", "keypoint_head"),
    ),
    "hf": (
        ("backbone.embeddings.position_embeddings", "backbone.pos_embed"),
        ("backbone.embeddings.patch_embeddings.projection", "backbone.patch_embed.proj"),
        ("backbone.encoder.layer.*.layernorm_before", "backbone.blocks.*.norm1"),
        ("backbone.encoder.layer.*.attention.attention.query", "backbone.blocks.*.attn.q"),
        ("backbone.encoder.layer.*.attention.attention.key", "backbone.blocks.*.attn.k"),
        ("backbone.encoder.layer.*.attention.attention.value", "backbone.blocks.*.attn.v"),
        ("backbone.encoder.layer.*.attention.output.dense", "backbone.blocks.*.attn.proj"),
        ("backbone.encoder.layer.*.layernorm_after", "backbone.blocks.*.norm2"),
        ("backbone.encoder.layer.*.mlp", "backbone.blocks.*.mlp"),
        ("backbone.layernorm", "backbone.last_norm"),
        ("head.deconv1", "keypoint_head.deconv_layers.0"),
        ("head.batchnorm1", "keypoint_head.deconv_layers.1"),
        ("head.deconv2", "keypoint_head.deconv_layers.3"),
        ("head.batchnorm2", "keypoint_head.deconv_layers.4"),
        ("head.conv", "keypoint_head.final_layer"),
    ),
}
BLOCKS = {"official": "backbone.blocks.", "mmpose": "backbone.layers.", "hf": "backbone.encoder.layer."}
DESCRIBED = {
    "official": "official (ViTPose and easy_ViTPose)",
    "mmpose": "mmpose 1.x",
    "hf": "Hugging Face transformers",
}
EPS = {"hf": 1e-12}  # of layer_norm, where it is another than Config's
POSITIONS = "backbone.pos_embed"
OFFICIAL_NAME = re.compile(r"\b(?:backbone|keypoint_head)(?:\.\w+)+")


def naming_of(names):
    """ "official", "mmpose" or "hf", by the names of the blocks. Raises CheckpointError for a mixture of namings.

    Names that are of no naming at all count as official: what is missing then is said by who looks for it.
    """
    found = {}
    for name in names:
        for naming, start in BLOCKS.items():
            if name.startswith(start):
                found.setdefault(naming, name)
    if len(found) > 1:
        examples = " and ".join(f"{quoted(name)} ({DESCRIBED[naming]})" for naming, name in found.items())
        raise CheckpointError(
            f"the names mix namings: {examples}", expected="one naming throughout", fix="save the model again"
        )
    return next(iter(found), "official")


@lru_cache(maxsize=20_000)
def renamed(name, naming, back=False):
    """A name of this naming in the official one, or with ``back`` the other way; None where there is no rule for it."""
    if naming == "official":
        return name
    for pattern, target in patterns(naming, back):
        if found := pattern.match(name):
            number = found.groupdict().get("number") or ""
            return target.replace("*", number) + name[found.end() :]
    return None


@lru_cache
def patterns(naming, back):
    """(regular expression for the beginning of a name, what it becomes) for each rule."""
    rules = [rule[::-1] if back else rule for rule in RULES[naming]]
    number = "(?P<number>0|[1-9][0-9]{0,5})"
    return [(re.compile(re.escape(start).replace(r"\*", number) + r"(?=\.|$)"), target) for start, target in rules]


def respelled(text, naming):
    """A message with the file's names in place of the official ones."""

    def spelled(found):
        name = found[0].replace(".attn.qkv.", ".attn.q.") if naming == "hf" else found[0]
        return renamed(name, naming, back=True) or found[0]

    return OFFICIAL_NAME.sub(spelled, text)


# ------------------------------------------------------------------------------------------------------ to the official


def official_shapes(shapes, naming, slot=True):
    """Official name -> shape, of a file's name -> shape; lenient, for reading the config. Others are left out."""
    found = {}
    for name, shape in shapes.items():
        official = renamed(name, naming)
        if official is None or is_key_or_value(official, naming):
            continue
        if naming == "hf" and ".attn.q." in official and shape:
            official, shape = official.replace(".attn.q.", ".attn.qkv."), (3 * shape[0], *shape[1:])
        if official == POSITIONS and not slot and len(shape) == 3:
            shape = (shape[0], shape[1] + 1, shape[2])
        found[official] = shape
    return found


def is_key_or_value(official, naming):
    """Whether this is a part of qkv that goes with the queries."""
    return naming == "hf" and (".attn.k." in official or ".attn.v." in official)


def to_official(arrays, naming, slot=True):
    """Official name -> array, of a file's name -> array in which nothing is missing. Names without a rule are left out.

    Queries, keys and values are joined to one qkv; positions without a slot for the class token get a slot of zeros.
    """
    found = {}
    for name, x in arrays.items():
        official = renamed(name, naming)
        if official is None or is_key_or_value(official, naming):
            continue
        if naming == "hf" and ".attn.q." in official:
            three = [x, *(arrays[name.replace(".query.", f".{other}.")] for other in ("key", "value"))]
            official, x = official.replace(".attn.q.", ".attn.qkv."), np.concatenate(three)
        if official == POSITIONS and not slot:
            x = np.concatenate([np.zeros_like(x[:, :1]), x], axis=1)
        found[official] = x
    return found


# ---------------------------------------------------------------------------------------------------- from the official


def in_naming(shapes, naming, slot=True):
    """The file's name -> shape, of official name -> shape: what a file of this naming holds."""
    found = {}
    for name, shape in shapes.items():
        if name == POSITIONS and not slot:
            shape = (shape[0], shape[1] - 1, shape[2])
        if naming == "hf" and ".attn.qkv." in name:
            shape = (shape[0] // 3, *shape[1:])
        found |= dict.fromkeys(names_in(name, naming), shape)
    return found


def from_official(arrays, naming):
    """(the file's name -> array, official names that have no place in this naming) of official name -> array."""
    found, homeless = {}, []
    for name, x in arrays.items():
        names = names_in(name, naming)
        if name == POSITIONS and naming == "mmpose":
            x = without_slot(x)
        found |= zip(names, np.split(x, 3) if len(names) == 3 else [x], strict=True) if names else {}
        homeless += [] if names else [name]
    return found, homeless


def names_in(name, naming):
    """What an official name is in this naming: one name, three for hf's qkv, none where there is no rule."""
    official = [name]
    if naming == "hf" and ".attn.qkv." in name:
        official = [name.replace(".attn.qkv.", f".attn.{part}.") for part in "qkv"]
    return [new for old in official if (new := renamed(old, naming, back=True)) is not None]


def without_slot(pos_embed):
    """Positions with the class token's slot added to each, (1, 1 + N, C) -> (1, N, C); rounded once."""
    wide = np.promote_types(pos_embed.dtype, np.float32)
    return (pos_embed[:, 1:].astype(wide) + pos_embed[:, :1].astype(wide)).astype(pos_embed.dtype)
