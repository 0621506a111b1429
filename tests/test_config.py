"""The table of variants and the config read off a state dict. Counts: exact, from the shapes of the public files."""

import pytest

from minivitpose.config import (
    VARIANTS,
    Config,
    ConfigError,
    as_dict,
    from_dict,
    parameter_shapes,
    read_config,
    variant_config,
)
from minivitpose.parameters import is_learnt
from minivitpose.trace import activation_shapes
from models import small_config


def size(shape):
    n = 1
    for side in shape:
        n *= side
    return n


PARAMETERS = {  # variant, head: parameters, tensors
    ("mini", "classic"): (1_119_089, 115),
    ("mini", "simple"): (1_001_969, 103),
    ("S", "classic"): (24_290_577, 163),
    ("S", "simple"): (21_722_513, 151),
    ("B", "classic"): (89_994_513, 163),
    ("B", "simple"): (85_912_337, 151),
    ("L", "classic"): (308_544_785, 307),
    ("L", "simple"): (303_453_201, 295),
    ("H", "classic"): (637_208_849, 403),
    ("H", "simple"): (631_107_857, 391),
}
BACKBONES = {"S": 21_663_744, "B": 85_794_816, "L": 303_296_512, "H": 630_912_000}


def test_every_variant_and_head_is_counted():
    assert {variant for variant, _ in PARAMETERS} == set(VARIANTS)


@pytest.mark.parametrize(("variant", "head"), PARAMETERS)
def test_exact_parameter_counts(variant, head):
    shapes = parameter_shapes(variant_config(variant, head=head))
    learnt = sum(size(shape) for name, shape in shapes.items() if is_learnt(name))
    assert (learnt, len(shapes)) == PARAMETERS[variant, head]


@pytest.mark.parametrize("variant", BACKBONES)
def test_exact_backbone_counts(variant):
    shapes = parameter_shapes(variant_config(variant))
    assert sum(size(shape) for name, shape in shapes.items() if name.startswith("backbone.")) == BACKBONES[variant]


def test_one_more_keypoint_costs_257_parameters():
    counts = [sum(map(size, parameter_shapes(variant_config("B", num_keypoints=k)).values())) for k in (17, 18)]
    assert counts[1] - counts[0] == 257


CONFIGS = {
    **{f"{variant} {head}": variant_config(variant, head=head) for variant, head in PARAMETERS},
    "133 keypoints": variant_config("B", num_keypoints=133),
    "kernels 3 and 2": small_config(deconv_kernels=(3, 2)),
    "three deconvs": small_config(deconv_filters=(8, 7, 6), deconv_kernels=(4, 4, 2)),
    "extra convolutions": small_config(extra_kernels=(3, 1)),
    "extra convolutions without bias": small_config(extra_kernels=(3,), extra_bias=False),
    "extra convolutions, simple": small_config(head="simple", extra_kernels=(1,)),
    "final kernel 3": small_config(final_kernel=3),
    "no qkv bias": small_config(qkv_bias=False),
    "attn_head_dim": small_config(head_dim=20),
    "mlp ratio 2": small_config(mlp_dim=48),
    "square": small_config(image_size=(64, 64)),
    "patch 8": small_config(patch_size=(8, 8)),
    "overlapping patches": small_config(ratio=2),
    "wide image": small_config(image_size=(32, 80)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_the_state_dict_shows_is_read_off_it(name):
    config = CONFIGS[name]
    options = {"ratio": config.ratio}
    if name == "wide image":
        options["image_size"] = config.image_size
    heads = None if config.variant in VARIANTS else config.num_heads
    assert read_config(parameter_shapes(config), heads, **options) == config


def test_order_of_the_file_does_not_matter():
    config = small_config(extra_kernels=(1, 1, 1, 3, 3))  # final_layer.15 is before final_layer.3 in a sorted file
    shapes = dict(sorted(parameter_shapes(config).items()))
    assert read_config(shapes, 3) == config


def test_config_survives_json():
    config = small_config(extra_kernels=(3,))
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in as_dict(config).items()}
    assert from_dict(values) == config


def test_derived_numbers():
    config = variant_config("b")
    assert (config.variant, config.head_dim, config.mlp_dim, config.dataset) == ("B", 64, 3072, "coco")
    assert (config.stride, config.grid, config.heatmap_size) == (16, (16, 12), (64, 48))
    assert variant_config("H").head_dim == 80
    assert small_config(ratio=2).grid == (8, 6)
    assert small_config(head="simple").heatmap_size == (16, 12)


def test_a_config_of_nothing_known_is_custom():
    assert small_config().variant == "custom"


def test_activation_table_in_the_order_of_execution():
    shapes = activation_shapes(variant_config("S"), batch=2)
    names = list(shapes)
    assert len(names) == 215
    assert names[:3] == ["backbone.patch_embed.proj", "backbone.pos", "backbone.blocks.0.norm1"]
    assert names[-1] == "keypoint_head.final_layer"
    assert shapes["backbone.blocks.11.attn.scores"] == (2, 12, 192, 192)
    assert shapes["keypoint_head.deconv_layers.5"] == (2, 256, 64, 48)
    assert shapes["keypoint_head.final_layer"] == (2, 17, 64, 48)


BROKEN = {
    "backbone.pos_embed": (None, "missing backbone.pos_embed"),
    "backbone.patch_embed.proj.weight": ((24, 768), "expected 4 dimensions"),
    "keypoint_head.final_layer.weight": (None, "missing keypoint_head.final_layer.weight"),
    "keypoint_head.deconv_layers.0.weight": ((24, 8, 5, 5), "kernels of size 4, 3 or 2, found 5"),
    "backbone.blocks.99.attn.qkv.weight": ((72, 24), "found block 99"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_carries_a_number_must_be_there(name):
    shape, message = BROKEN[name]
    shapes = {key: s for key, s in (parameter_shapes(small_config()) | {name: shape}).items() if s is not None}
    with pytest.raises(ConfigError, match=message):
        read_config(shapes, 3)


def test_heads_of_an_unknown_model_must_be_given():
    shapes = parameter_shapes(small_config())
    with pytest.raises(ConfigError, match="pass num_heads="):
        read_config(shapes)
    for wrong in (0, 3.0, "3"):
        with pytest.raises(ConfigError, match="num_heads: expected a whole number from 1"):
            read_config(shapes, wrong)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"eps": float("nan")}, "eps: expected a number from 0, found nan"),
        ({"eps": -1.0}, "eps: expected a number from 0, found -1.0"),
        ({"eps": "1e-6"}, "eps: expected a number from 0, found '1e-6'"),
        ({"qk_scale": float("inf")}, "qk_scale: expected a number, found inf"),
        ({"image_size": 256}, "image_size: expected .height, width., whole numbers from 1, found 256"),
        ({"image_size": (-256, -192)}, "image_size: expected .height, width., whole numbers from 1"),
        ({"ratio": 0}, "ratio: expected a whole number from 1, found 0"),
        ({"num_keypoints": 0}, "num_keypoints: expected a whole number from 1, found 0"),
    ],
)
def test_numbers_that_make_no_network_are_named(option, says):
    with pytest.raises(ConfigError, match=says):
        small_config(**option)


def test_image_size_must_follow_or_be_given():
    shapes = parameter_shapes(small_config(image_size=(32, 80)))  # 10 positions
    with pytest.raises(ConfigError, match="pass image_size="):
        read_config(shapes, 3)
    with pytest.raises(ConfigError, match="positions for 10"):
        read_config(shapes, 3, image_size=(64, 48))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["backbone.encoder.layer.0.layernorm_before.weight"], "Hugging Face"),
        (["backbone.layers.0.ffn.layers.1.weight"], "mmpose 1.x"),
        (["blocks.0.norm1.weight"], "backbone alone"),
        (["conv1.weight", "fc.bias"], "found conv1.weight, fc.bias"),
        ([], "no tensor at all"),
    ],
)
def test_other_namings_are_told_by_name(names, message):
    with pytest.raises(ConfigError, match=message):
        read_config(dict.fromkeys(names, (1,)))


def test_unknown_variant_and_head():
    with pytest.raises(ConfigError, match="expected one of mini, S, B, L, H"):
        variant_config("XL")
    with pytest.raises(ConfigError, match="'classic' or 'simple'"):
        Config(24, 2, 3, head="none")
