"""Everything that a training depends on, in one TOML file: with it and the same data, the same weights come out."""

import json
import math
import sys
import tomllib
from dataclasses import asdict, dataclass, fields, replace

from minivitpose.config import VARIANTS, Config, variant_config

CHOICES = {
    "optimiser": ("adamw", "muon"),
    "schedule": ("cosine", "step", "linear", "constant"),
    "precision": ("float32", "bf16"),
}
SIZES = ("embed_dim", "depth", "num_heads")
SHARED = ("weights", "variant", *SIZES, "deconv_filters", "head", "dataset", "keypoints")
SHARED += ("seed",)  # what one part of a training cannot have of its own
ABOVE_0 = ("steps", "batch", "rate", "validate_every", "reuse", "matrix_rate", "layer_decay", "clip")
FROM_0 = ("keypoints", "seed", "warm_up", "validate_on", "rotation", "weight_decay", *SIZES)
SHARES = ("flip", "scale", "half_body", "colour", "average", "blend", "final", "stay", "beyond")
RANGES = (
    (ABOVE_0, "above 0", lambda x: x > 0),
    (FROM_0, "from 0", lambda x: x >= 0),
    (SHARES, "from 0 to 1", lambda x: 0 <= x <= 1),
    (("drop_path",), "from 0 and below 1", lambda x: 0 <= x < 1),
)


class SettingsError(ValueError):
    """A setting that does not exist or cannot be: which, what was expected, what was found."""


@dataclass(frozen=True)
class Settings:
    """A training, or a part of one. The defaults have the rate, decay, warm-up, clipping and augmentation of ViTPose-S;
    it was also trained with layer_decay 0.8, drop_path 0.1 and the schedule "step".

    weights: any checkpoint to start from, or empty for a new model of the sizes below it. keypoints: 0 keeps those of
    the checkpoint; another number makes a new last layer. frozen: names of parameters that stay, or of what holds them.
    annotations: a COCO file, and images the folder of its pictures; empty: the mannequin world, whose scenes never end,
    and each of which serves ``reuse`` times, cut in other ways. beyond: the share of its scenes whose cameras, places,
    clothes and poses are beyond the worlds "seen" and "unseen". validation: a COCO file of people who are not learnt
    from, and validation_images their folder, if it is another. rate: the learning rate at its highest; the optimiser
    "muon" takes ``matrix_rate`` times as much for hidden matrices; with the schedule "linear" it stays for the share
    ``stay`` of all steps. average: the share of the old that the averaged weights keep at each step; 0 for none. blend:
    the share of the weights that a part began with in those that it ends with. precision: "bf16" multiplies in
    bfloat16, on CPUs that can. flip, half_body: shares of crops; rotation: the standard deviation in degrees, at most
    twice that, of 6 crops in 10; scale: the standard deviation, as a share, and at most that; colour: a share, at most.
    """

    weights: str = ""
    variant: str = "mini"
    embed_dim: int = 0
    depth: int = 0
    num_heads: int = 0
    deconv_filters: tuple = ()
    head: str = "classic"
    dataset: str = ""
    keypoints: int = 0
    frozen: tuple = ()

    annotations: str = ""
    images: str = ""
    validation: str = ""
    validation_images: str = ""
    reuse: float = 4.0
    beyond: float = 0.0
    flip: float = 0.5
    rotation: float = 40.0
    scale: float = 0.5
    half_body: float = 0.3
    colour: float = 0.2

    steps: int = 20_000
    batch: int = 32
    optimiser: str = "adamw"
    rate: float = 5e-4
    matrix_rate: float = 1.0
    schedule: str = "cosine"
    stay: float = 0.75
    warm_up: int = 500
    final: float = 0.01
    weight_decay: float = 0.1
    layer_decay: float = 1.0
    clip: float = 1.0
    drop_path: float = 0.0
    average: float = 0.0
    blend: float = 0.0
    precision: str = "float32"
    seed: int = 0

    validate_every: int = 1000
    validate_on: int = 256

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        for names, expected, fits in RANGES:
            for name in names:
                if not fits(getattr(self, name)):
                    raise SettingsError(f"{name}: expected a number {expected}, found {getattr(self, name)}")
        filters = self.deconv_filters
        if filters and (len(filters) != 2 or not all(type(n) is int and n > 0 for n in filters)):
            raise SettingsError(f"deconv_filters: expected two whole numbers above 0, or none, found {list(filters)}")
        if not all(isinstance(name, str) and name for name in self.frozen):
            raise SettingsError(f"frozen: expected names, found {list(self.frozen)}")
        if self.variant.lower() not in [name.lower() for name in VARIANTS]:
            raise SettingsError(f"variant: expected one of {', '.join(VARIANTS)}, found {self.variant!r}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                expected = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
                raise SettingsError(f"{name}: expected {expected}, found {getattr(self, name)!r}")

    @property
    def config(self):
        """The Config of a new model."""
        sizes = {name: getattr(self, name) for name in (*SIZES, "deconv_filters")}
        more = {"head": self.head, "dataset": self.dataset or None, "num_keypoints": self.keypoints or 17}
        base = variant_config(self.variant, **more)
        if not any(sizes.values()):
            return base
        sizes = {name: value or getattr(base, name) for name, value in sizes.items()}
        return Config(**sizes, **more)


def checked(field, value):
    """The value as the field's type, or SettingsError."""
    wanted = field.type if isinstance(field.type, type) else {"tuple": tuple}.get(field.type, field.type)
    if wanted is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        value = math.inf if abs(value) > sys.float_info.max else float(value)
        if not math.isfinite(value):
            raise SettingsError(f"{field.name}: expected a number, found {value}")
        return value
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise SettingsError(f"{field.name}: expected {wanted.__name__}, found {value!r}")
    return value


def read_settings(path=None, **changes):
    """The Settings of each part of a training, a tuple, from a TOML file, with changes (None changes nothing).

    Most trainings have one part. A file with tables [[parts]] has one for each: what the table says, else what stands
    above all tables. Changes hold for every part. Each seed is one above the last, so that no part gets the scenes of
    another. Raises SettingsError, in one line.
    """
    found = {}
    if path is not None:
        try:
            with open(path, "rb") as file:
                found = tomllib.load(file)
        except OSError as error:
            raise SettingsError(f"{path}: expected a TOML file with settings: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SettingsError(f"{path}: expected a TOML file with settings: {error}") from None
    changes = {name: value for name, value in changes.items() if value is not None}
    tables = found.pop("parts", [{}])
    if not tables or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{path}: parts: expected tables that begin with [[parts]], found {tables!r}")
    check_names(found | changes, path)
    parts = []
    for number, table in enumerate(tables, 1):
        check_names(table, f"{path}, part {number}")
        if shared := [name for name in SHARED if name in table]:
            raise SettingsError(
                f"{path}, part {number}: {shared[0]} is for the whole training, expected above the first [[parts]]"
            )
        try:
            part = Settings(**found | table | changes)
        except SettingsError as error:
            raise SettingsError(f"part {number}: {error}" if len(tables) > 1 else str(error)) from None
        parts.append(replace(part, seed=part.seed + number - 1))
    return tuple(parts)


def check_names(found, where):
    known = [field.name for field in fields(Settings)]
    if unknown := [name for name in found if name not in known]:
        raise SettingsError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(known)}")


def as_toml(parts):
    """The settings of all parts as the text of a TOML file that read_settings gives them back from."""
    first, *others = [asdict(part) for part in parts]
    own = [name for name in first if name not in SHARED and any(part[name] != first[name] for part in others)]
    text = as_lines({name: value for name, value in first.items() if name not in own})
    tables = ["\n[[parts]]\n" + as_lines({name: part[name] for name in own}) for part in (first, *others)]
    return text + "".join(tables if others else [])


def as_lines(found):
    return "".join(f"{name} = {toml(value)}\n" for name, value in found.items())


def toml(value):
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
