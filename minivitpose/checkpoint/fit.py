"""From the arrays of a file to the parameters of a network: strictly, or not at all."""

from dataclasses import dataclass, replace

import numpy as np

from minivitpose.checkpoint import experts, namings
from minivitpose.checkpoint.errors import CheckpointError, printable
from minivitpose.checkpoint.hf_config import read_options
from minivitpose.config import Config, ConfigError, image_size_for, parameter_shapes, read_config
from minivitpose.parameters import cast, nest

IGNORED = ("backbone.cls_token",)  # a leftover of the pretraining that some public files carry


@dataclass(frozen=True)
class Plan:
    """What a file holds, and the one model that is taken out of it.

    naming: a key of namings.RULES. slot: whether the positions begin with one for the class token. parts, choice: see
    experts.py. config: of the model taken out. leftovers: names in the file that it does not need.
    """

    naming: str
    slot: bool
    parts: experts.Parts
    choice: experts.Choice
    config: Config
    leftovers: tuple


def fit(checkpoint, num_heads=None, options=None, dtype="float32", dataset=None, expert=None):
    """(nested parameters, Config) of a Checkpoint: all checked first, nothing loaded half.

    options: fields of Config that the weights cannot show. Raises CheckpointError as ``make_plan`` does, and with a
    line for every parameter that holds NaN or infinite values.
    """
    plan = make_plan(checkpoint, num_heads, options, dataset, expert)
    arrays = {name: cast(x, dtype) for name, x in checkpoint.state_dict.items() if name not in plan.leftovers}
    check_finite(arrays)
    return nest(take_out(arrays, plan)), plan.config


def make_plan(checkpoint, num_heads=None, options=None, dataset=None, expert=None):
    """The Plan for a Checkpoint; looks at names, shapes and dtypes alone.

    Raises CheckpointError with a line for every missing, unexpected and mis-shaped parameter, by the file's names,
    expected and found. ``num_batches_tracked``, which nothing depends on, may be absent.
    """
    shapes = {name: x.shape for name, x in checkpoint.state_dict.items() if name not in IGNORED}
    naming = namings.naming_of(shapes)
    official = namings.official_shapes(shapes, naming)
    parts = experts.find_parts(official)
    choice = experts.choose(parts, dataset, expert)
    options = {name: x for name, x in ({"num_heads": num_heads} | (options or {})).items() if x is not None}
    named = {"dataset": choice.dataset} if choice.dataset else {}
    options = known_options(checkpoint, naming, official) | named | options
    slot = naming != "mmpose" or has_slot(official, options)
    official = namings.official_shapes(shapes, naming, slot)
    try:
        config = read_config(experts.own_shapes(official, choice), **options)
    except ConfigError as error:
        text = str(error).replace(f"{experts.OWN_HEAD}.", f"{choice.head}.")
        raise CheckpointError(namings.respelled(text, naming)) from None

    expected = experts.in_pieces(parameter_shapes(config), parts, choice)
    expected = namings.in_naming(expected, naming, slot)
    expected = {n: shape for n, shape in expected.items() if n in shapes or not n.endswith("num_batches_tracked")}
    leftovers = [name for name in shapes if name not in expected and is_leftover(name, naming, parts, choice)]
    faults = list(misfits({n: checkpoint.state_dict[n] for n in shapes if n not in leftovers}, expected))
    raise_if(faults, f"do not fit {config.describe()}")
    if choice.keypoints is not None:
        config = replace(config, num_keypoints=choice.keypoints)
    leftovers += [name for name in IGNORED if name in checkpoint.state_dict]
    return Plan(naming, slot, parts, choice, config, tuple(leftovers))


def known_options(checkpoint, naming, official):
    """What the naming and a config.json beside the file say: the head count, eps, the image size, the pipeline."""
    pipeline = {"pipeline": naming} if naming != "official" else {}
    eps = {"eps": namings.EPS[naming]} if naming in namings.EPS else {}
    return pipeline | eps | (read_options(checkpoint.path, official) if naming == "hf" else {})


def has_slot(shapes, options):
    """Whether positions begin with one for the class token: natively trained mmpose 1.x models have none."""
    positions, patch = shapes.get(namings.POSITIONS, ()), shapes.get("backbone.patch_embed.proj.weight", ())
    if len(positions) != 3 or len(patch) != 4:
        return False
    rows = positions[1]
    if image_size := options.get("image_size"):
        stride = max(1, patch[2] // options.get("ratio", 1))
        return rows == 1 + (image_size[0] // stride) * (image_size[1] // stride)
    for square in (False, True):  # 4:3, as all public models are, before square
        for slot in (0, 1):
            if fits(rows - slot, square):
                return bool(slot)
    return False


def fits(positions, square):
    """Whether so many patches make an image of 4:3, or a square one."""
    try:
        height, width = image_size_for(positions, 1)
    except ConfigError:
        return False
    return (height == width) == square


def is_leftover(name, naming, parts, choice):
    """Whether a parameter that the model does not need is one that public files carry along."""
    official = namings.renamed(name, naming) or ""
    if experts.EXPERT.fullmatch(official):
        return parts.joined
    head = bool(experts.HEAD.match(official)) or official.startswith(f"{experts.OWN_HEAD}.")
    return head and not official.startswith(f"{choice.head}.")


def misfits(arrays, expected):
    """A line for each parameter that is missing, unexpected, mis-shaped or no floating point."""
    yield from (f"missing {name}: expected {shape}" for name, shape in expected.items() if name not in arrays)
    for name, x in arrays.items():
        if name not in expected:
            yield f"unexpected {name}: found {x.shape}"
        elif x.shape != expected[name]:
            yield f"mis-shaped {name}: expected {expected[name]}, found {x.shape}"
        elif not name.endswith("num_batches_tracked") and x.dtype.kind != "f":
            yield f"mistyped {name}: expected floating point, found {x.dtype}"


def take_out(state_dict, plan):
    """Official name -> array of the planned model, in the order of execution, in the file's dtype."""
    arrays = {name: x for name, x in state_dict.items() if name not in plan.leftovers}
    arrays = namings.to_official(arrays, plan.naming, plan.slot)
    arrays = experts.plain(arrays, plan.parts, plan.choice)
    return {name: arrays[name] for name in parameter_shapes(plan.config) if name in arrays}


def check_finite(arrays):
    """Raises MismatchError for arrays with values that are not finite."""
    faults = [f"{name}: {fault}" for name, x in arrays.items() if (fault := not_finite(x))]
    raise_if(faults, "hold NaN or infinite values")


class MismatchError(CheckpointError):
    """Parameters that do not fit the network: the message has one line for each, ``faults`` is the list of them."""

    def __init__(self, headline, faults):
        self.faults = [printable(fault, limit=200) for fault in faults]
        ValueError.__init__(self, "\n  ".join([headline, *self.faults]))


def raise_if(faults, what):
    if faults:
        raise MismatchError(f"{len(faults)} of the parameters {what}:", sorted(faults))


def not_finite(x):
    """What is wrong with the values of x, or an empty string. Minimum and maximum show it without a temporary array."""
    if x.dtype.kind != "f" or not x.size or (np.isfinite(x.min()) and np.isfinite(x.max())):
        return ""
    finite = np.isfinite(x)
    first = tuple(map(int, np.unravel_index(np.argmin(finite), x.shape)))
    return f"{x.size - finite.sum()} of {x.size} values, the first at {first}: {x[first]}"
