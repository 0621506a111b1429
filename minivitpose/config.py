"""What a ViTPose is made of: the table of variants, and the config read off a checkpoint's own tensors.

Nothing here trusts a file's name. All that the state dict shows is read off it; the number of heads does not show (a
projection to 768 channels looks the same for 6 and for 12 heads) and comes from the table or from the caller.
"""

from dataclasses import dataclass, fields
from math import isfinite, isqrt
from numbers import Integral, Real

from minivitpose.layers import DECONV_PADDING

VARIANTS = {  # name: embed_dim, depth, num_heads. Source: the configs of ViTPose; mini is this package's own
    "mini": (96, 8, 3),
    "S": (384, 12, 12),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
}
DATASETS = {  # keypoints: the public datasets with that many
    14: ("aic", "crowdpose"),
    15: ("jhmdb",),
    16: ("mpii",),
    17: ("coco", "ap10k", "apt36k", "ochuman", "humanart", "posetrack18"),
    20: ("animalpose",),
    21: ("interhand2d", "coco_wholebody_hand"),
    25: ("coco_25",),
    26: ("halpe26",),
    68: ("coco_wholebody_face",),
    133: ("coco_wholebody",),
    136: ("halpe",),
}
ALIASES = {
    "wholebody": "coco_wholebody",
    "coco25": "coco_25",
    "interhand": "interhand2d",
    "hand": "coco_wholebody_hand",
    "face": "coco_wholebody_face",
    "halpe136": "halpe",
    "posetrack": "posetrack18",
}
UDP = ("coco", "mpii", "humanart", None)  # trained with unbiased targets, as far as their configs say


class ConfigError(ValueError):
    """These tensors or options do not make a ViTPose; the message says what was expected and what was found."""


def dataset_name(name):
    """A dataset's name as the tables have it, from any usual spelling. Raises ConfigError with the known ones."""
    known = [dataset for datasets in DATASETS.values() for dataset in datasets]
    spelled = str(name).lower().replace("-", "_")
    found = ALIASES.get(spelled, spelled)
    if found not in known:
        found = next((dataset for dataset in known if dataset.replace("_", "") == spelled.replace("_", "")), None)
    if found is None:
        raise ConfigError(f"unknown dataset {name!r}: expected one of {', '.join(sorted(known))}")
    return found


def keypoints_of(dataset):
    """How many keypoints a dataset of the table has."""
    return next(count for count, datasets in DATASETS.items() if dataset in datasets)


COUNTS = ("embed_dim", "depth", "num_heads", "num_keypoints", "head_dim", "mlp_dim", "ratio", "final_kernel")
OPTIONAL = ("head_dim", "mlp_dim", "final_kernel")  # None goes by the others


def is_count(x):
    """A whole number from 1, of Python or NumPy."""
    return isinstance(x, Integral) and not isinstance(x, bool) and x > 0


def is_real(x):
    """A finite number, of Python or NumPy."""
    return isinstance(x, Real) and not isinstance(x, bool) and isfinite(x)


@dataclass(frozen=True)
class Config:
    """Every number that the network's shape depends on. Sizes are (height, width) in pixels."""

    embed_dim: int
    depth: int
    num_heads: int
    num_keypoints: int = 17
    head: str = "classic"  # or "simple"
    head_dim: int | None = None  # attn_head_dim; None is embed_dim / num_heads
    mlp_dim: int | None = None  # None is 4 embed_dim
    qkv_bias: bool = True
    qk_scale: float | None = None  # None is 1 / sqrt(head_dim)
    image_size: tuple[int, int] = (256, 192)
    patch_size: tuple[int, int] = (16, 16)
    ratio: int = 1  # patches overlap for ratio > 1
    deconv_filters: tuple[int, ...] = (256, 256)
    deconv_kernels: tuple[int, ...] = (4, 4)
    extra_kernels: tuple[int, ...] = ()  # convolutions with batch norm and relu before the last one
    extra_bias: bool = True
    final_kernel: int | None = None  # None is 1 for the classic head, 3 for the simple one
    eps: float = 1e-6  # of layer_norm
    dataset: str | None = None
    pipeline: str | None = None  # what surrounds the network, a name in pose.pipelines; None goes by the dataset

    def __post_init__(self):
        for name in COUNTS:
            if not is_count(getattr(self, name)) and not (name in OPTIONAL and getattr(self, name) is None):
                raise ConfigError(f"{name}: expected a whole number from 1, found {getattr(self, name)!r}")
        for name in ("image_size", "patch_size"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(is_count, pair)):
                raise ConfigError(f"{name}: expected (height, width), whole numbers from 1, found {pair!r}")
            object.__setattr__(self, name, tuple(map(int, pair)))
        if not is_real(self.eps) or self.eps < 0:
            raise ConfigError(f"eps: expected a number from 0, found {self.eps!r}")
        if self.qk_scale is not None and not is_real(self.qk_scale):
            raise ConfigError(f"qk_scale: expected a number, found {self.qk_scale!r}")
        simple = self.head == "simple"
        if self.head not in ("classic", "simple"):
            raise ConfigError(f"head must be 'classic' or 'simple', not {self.head!r}")
        defaults = {
            "head_dim": self.embed_dim // self.num_heads,
            "mlp_dim": 4 * self.embed_dim,
            "final_kernel": 3 if simple else 1,
            "dataset": DATASETS.get(self.num_keypoints, (None,))[0],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.pipeline is None:
            other = "easy" if self.dataset == "coco_25" else "plain"
            object.__setattr__(self, "pipeline", "udp" if self.dataset in UDP else other)
        object.__setattr__(self, "eps", float(self.eps))  # a NumPy float64 would make float32 activations float64
        if self.qk_scale is not None:
            object.__setattr__(self, "qk_scale", float(self.qk_scale))
        if simple:
            object.__setattr__(self, "deconv_filters", ())
            object.__setattr__(self, "deconv_kernels", ())

    @property
    def variant(self):
        """The name in the table of variants, or "custom"."""
        shape = (self.embed_dim, self.depth, self.num_heads)
        return next((name for name, row in VARIANTS.items() if row == shape), "custom")

    def describe(self):
        """The model in a few words."""
        return (
            f"ViTPose-{self.variant} ({self.embed_dim} channels, {self.depth} blocks, {self.num_heads} heads of "
            f"{self.head_dim}, {self.head} head, {self.num_keypoints} keypoints)"
        )

    @property
    def stride(self):
        """Pixels from one patch to the next."""
        return self.patch_size[0] // self.ratio

    @property
    def padding(self):
        """Zero pixels around the image for the patch embedding: 2 for ratio 1, as the checkpoints were trained."""
        return 4 + 2 * (self.ratio // 2 - 1)

    @property
    def grid(self):
        """(Hp, Wp): the patch grid that the checkpoint's positions are for."""
        return self.grid_of(self.image_size)

    def grid_of(self, size):
        """Patches down and across an image of this size (height, width)."""
        (height, width), (high, wide), around = size, self.patch_size, 2 * self.padding
        return (height + around - high) // self.stride + 1, (width + around - wide) // self.stride + 1

    @property
    def heatmap_size(self):
        """(Hm, Wm) for image_size."""
        return self.map_of(self.image_size)

    def map_of(self, size):
        """The height and width of the heatmaps of an image of this size (height, width)."""
        scale = 4 if self.head == "simple" else 2 ** len(self.deconv_kernels)
        return tuple(n * scale for n in self.grid_of(size))


def variant_config(variant, **options):
    """The config of "S", "B", "L", "H" or "mini", in any case; options: fields of Config. Raises ConfigError."""
    names = {name.lower(): name for name in VARIANTS}
    if variant.lower() not in names:
        raise ConfigError(f"unknown variant {variant!r}: expected one of {', '.join(VARIANTS)}")
    name = names[variant.lower()]
    if name == "mini":
        options = {"deconv_filters": (64, 32)} | options
    return Config(*VARIANTS[name], **options)


def parameter_shapes(config):
    """Every parameter of the network: name in the checkpoint -> shape, in the order of execution."""
    C, inner, hidden = config.embed_dim, config.num_heads * config.head_dim, config.mlp_dim
    Hp, Wp = config.grid
    norm = {"weight": (C,), "bias": (C,)}
    block = {
        "norm1": norm,
        "attn.qkv": {"weight": (3 * inner, C)} | ({"bias": (3 * inner,)} if config.qkv_bias else {}),
        "attn.proj": {"weight": (C, inner), "bias": (C,)},
        "norm2": norm,
        "mlp.fc1": {"weight": (hidden, C), "bias": (hidden,)},
        "mlp.fc2": {"weight": (C, hidden), "bias": (C,)},
    }
    modules = {
        "backbone": {"pos_embed": (1, 1 + Hp * Wp, C)},
        "backbone.patch_embed.proj": {"weight": (C, 3, *config.patch_size), "bias": (C,)},
        **{f"backbone.blocks.{i}.{name}": p for i in range(config.depth) for name, p in block.items()},
        "backbone.last_norm": norm,
        **{f"keypoint_head.{name}": p for name, p in head_shapes(config)},
    }
    return {f"{module}.{name}": shape for module, p in modules.items() for name, shape in p.items()}


def head_shapes(config):
    """(module, {parameter: shape}) of the head's layers, in order; layers without parameters keep their numbers."""

    def batch_norm(channels):
        statistics = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
        return statistics | {"num_batches_tracked": ()}

    channels = config.embed_dim
    for i, (filters, k) in enumerate(zip(config.deconv_filters, config.deconv_kernels, strict=True)):
        yield f"deconv_layers.{3 * i}", {"weight": (channels, filters, k, k)}
        yield f"deconv_layers.{3 * i + 1}", batch_norm(filters)
        channels = filters
    for i, k in enumerate(config.extra_kernels):
        bias = {"bias": (channels,)} if config.extra_bias else {}
        yield f"final_layer.{3 * i}", {"weight": (channels, channels, k, k)} | bias
        yield f"final_layer.{3 * i + 1}", batch_norm(channels)
    last = f"final_layer.{3 * len(config.extra_kernels)}" if config.extra_kernels else "final_layer"
    k = config.final_kernel
    yield last, {"weight": (config.num_keypoints, channels, k, k), "bias": (config.num_keypoints,)}


def read_config(shapes, num_heads=None, **options):
    """The config that these tensors show. shapes: name -> shape; options: fields of Config that they cannot show.

    Raises ConfigError where a tensor that carries a number is missing or absurd, where the number of heads is not in
    the table and not given, or where the image size does not follow from the positions and is not given.
    """
    read = {}
    needed = [
        "backbone.patch_embed.proj.weight",
        "backbone.pos_embed",
        "backbone.blocks.0.attn.qkv.weight",
        "backbone.blocks.0.mlp.fc1.weight",
    ]
    ranks = dict(zip(needed, (4, 3, 2, 2), strict=True))
    missing = [name for name in needed if name not in shapes]
    final = [name for name, shape in shapes.items() if is_final(name) and len(shape) == 4]
    if missing or not final:
        missing += [] if final else ["keypoint_head.final_layer.weight"]
        raise ConfigError(f"not a whole ViTPose: missing {', '.join(missing)}; {likely_naming(shapes)}")
    for name, rank in ranks.items():
        if len(shapes[name]) != rank or 0 in shapes[name]:
            raise ConfigError(f"{name}: expected {rank} dimensions, none of them 0, found shape {tuple(shapes[name])}")

    C, _, *patch = shapes["backbone.patch_embed.proj.weight"]
    depth = 1 + max(int(i) for i in (name.split(".")[2] for name in shapes if is_block(name)))
    if depth > len(shapes):
        raise ConfigError(f"expected blocks numbered from 0, found block {depth - 1} among {len(shapes)} parameters")
    num_heads = heads(C, depth, num_heads)
    read["head_dim"] = shapes["backbone.blocks.0.attn.qkv.weight"][0] // (3 * num_heads)
    read["mlp_dim"] = shapes["backbone.blocks.0.mlp.fc1.weight"][0]
    read["qkv_bias"] = "backbone.blocks.0.attn.qkv.bias" in shapes
    read["patch_size"] = tuple(patch)

    deconvs = in_order(name for name, shape in shapes.items() if is_deconv(name) and len(shape) == 4)
    read["head"] = "classic" if deconvs else "simple"
    read["deconv_filters"] = tuple(shapes[name][1] for name in deconvs)
    read["deconv_kernels"] = tuple(shapes[name][2] for name in deconvs)
    *extra, last = in_order(final)
    read["extra_kernels"] = tuple(shapes[name][2] for name in extra)
    read["extra_bias"] = not extra or extra[0].replace("weight", "bias") in shapes
    read["num_keypoints"], read["final_kernel"] = shapes[last][0], shapes[last][2]
    if bad := [k for k in read["deconv_kernels"] if k not in DECONV_PADDING]:
        raise ConfigError(f"keypoint_head.deconv_layers: expected kernels of size 4, 3 or 2, found {bad[0]}")
    if bad := [k for k in (*read["extra_kernels"], read["final_kernel"]) if k % 2 == 0]:
        raise ConfigError(f"keypoint_head.final_layer: expected odd kernels, found {bad[0]}")

    positions = shapes["backbone.pos_embed"][1] - 1
    ratio = options.get("ratio", 1)
    if not is_count(ratio):
        raise ConfigError(f"ratio: expected a whole number from 1, found {ratio!r}")
    if options.get("image_size") is None:
        options["image_size"] = image_size_for(positions, patch[0] // ratio)
    read |= {name: value for name, value in options.items() if value is not None}
    config = Config(C, depth, num_heads, **read)
    if config.grid[0] * config.grid[1] != positions:
        raise ConfigError(
            f"image_size {config.image_size} with stride {config.stride} has {config.grid[0]} x {config.grid[1]} "
            f"patches, but backbone.pos_embed has positions for {positions} (and one slot for the class token)"
        )
    return config


def heads(embed_dim, depth, num_heads=None):
    """The number of heads: as given, or from the table of variants."""
    known = {row[:2]: row[2] for row in VARIANTS.values()}
    if num_heads is None and (embed_dim, depth) not in known:
        raise ConfigError(
            f"a model with {embed_dim} channels and {depth} blocks is not in the table of variants, and a state dict "
            "does not show its number of heads: pass num_heads= (--heads on the command line)"
        )
    num_heads = known[embed_dim, depth] if num_heads is None else num_heads
    if not is_count(num_heads):
        raise ConfigError(f"num_heads: expected a whole number from 1, found {num_heads!r}")
    return num_heads


def image_size_for(positions, stride):
    """The (height, width) whose patches are that many: 4:3 as all public models have it, or a square."""
    k, side = isqrt(positions // 12), isqrt(positions)
    if k and 12 * k * k == positions:
        return 4 * k * stride, 3 * k * stride
    if side and side * side == positions:
        return side * stride, side * stride
    raise ConfigError(
        f"backbone.pos_embed has positions for {positions} patches, which is neither 4:3 nor square: pass image_size="
    )


def is_number(part):
    """Whether a part of a name is the number of a layer: nobody has a million."""
    return part.isascii() and part.isdecimal() and len(part) < 7


def is_block(name):
    parts = name.split(".")
    return parts[:2] == ["backbone", "blocks"] and len(parts) > 2 and is_number(parts[2])


def is_deconv(name):
    parts = name.split(".")
    return parts[:2] == ["keypoint_head", "deconv_layers"] and parts[3:] == ["weight"] and is_number(parts[2])


def is_final(name):
    parts = name.split(".")
    numbered = parts[2:3] and is_number(parts[2]) and parts[3:] == ["weight"]
    return parts[:2] == ["keypoint_head", "final_layer"] and (parts[2:] == ["weight"] or bool(numbered))


def in_order(names):
    """Layers by their numbers: 3 before 12, whatever the order in the file."""
    return sorted(names, key=lambda name: [int(part) for part in name.split(".") if is_number(part)])


def likely_naming(names):
    """What these names look like, for the message of an error."""
    if any(".layernorm_before." in name for name in names):
        return "the names are those of Hugging Face transformers"
    if any(".ffn.layers." in name for name in names):
        return "the names are those of mmpose 1.x"
    if any(name.startswith(("blocks.", "layers.", "encoder.layer.", "patch_embed.")) for name in names):
        return "the names are those of a backbone alone, without the keypoint head"
    return f"found {', '.join(list(names)[:3]) or 'no tensor at all'}{', ...' if len(names) > 3 else ''}"


def as_dict(config):
    """The config as plain numbers and lists, for JSON."""
    return {f.name: getattr(config, f.name) for f in fields(config)} | {"variant": config.variant}


def from_dict(values):
    """The config from what as_dict gave, lists turned back to tuples."""
    known = {f.name for f in fields(Config)}
    return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})
