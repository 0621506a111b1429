"""A checkpoint in another naming, whole or one plain model of it, in its own dtype."""

from minivitpose.checkpoint import namings
from minivitpose.checkpoint.errors import CheckpointError
from minivitpose.checkpoint.fit import IGNORED, check_finite, make_plan, take_out


def convert(checkpoint, naming, num_heads=None, options=None, dataset=None, expert=None):
    """(name -> array in this naming, Plan, names that were left out) of a Checkpoint.

    naming: a key of namings.DESCRIBED. With a dataset or expert, or for a file that holds one plain model, that model.
    Else a whole ViTPose+, with what the naming has a place for. Raises CheckpointError as fit does, and for experts in
    a naming without.
    """
    plan = make_plan(checkpoint, num_heads, options, dataset, expert)
    named = dataset is not None or expert is not None
    several = plan.parts.several and not plan.parts.joined and not named
    if naming == "mmpose" and plan.parts.open and several:
        raise CheckpointError(
            "mmpose 1.x has no experts: this ViTPose+ file does not fit into its naming",
            fix=f"take one model out with --dataset ({', '.join(plan.parts.datasets)}) or all with --split",
        )
    arrays = whole(checkpoint, plan) if several else take_out(checkpoint.state_dict, plan)
    check_finite(arrays)
    found, left_out = namings.from_official(arrays, naming)
    if not named:
        left_out += [name for name in plan.leftovers if namings.renamed(name, plan.naming) not in arrays]
    return found, plan, sorted(left_out)


def whole(checkpoint, plan):
    """Official name -> array of every expert and head in the file."""
    check_heads(checkpoint, plan)
    arrays = {name: x for name, x in checkpoint.state_dict.items() if name not in IGNORED}
    return namings.to_official(arrays, plan.naming, plan.slot)


def check_heads(checkpoint, plan):
    """Raises CheckpointError unless the model of each dataset whose head is in the file is a whole one."""
    for dataset in plan.parts.datasets if plan.parts.heads else ():
        make_plan(checkpoint, plan.config.num_heads, {"image_size": plan.config.image_size}, dataset)


def split(checkpoint, naming, num_heads=None, options=None):
    """(dataset, arrays, Plan) of one plain model for each dataset whose head is in the file, one after the other.

    Raises CheckpointError for a file that holds one plain model only.
    """
    plan = make_plan(checkpoint, num_heads, options)
    parts = plan.parts
    if not parts.several:
        raise CheckpointError(
            "there is nothing to split: the file holds one plain model, without experts or other heads",
            fix="leave --split out",
        )
    if parts.joined or not parts.heads:
        what = "experts are leftovers of an earlier split" if parts.joined else "experts share one head"
        fix = "take the whole file" if parts.joined else "take one model out with --expert"
        raise CheckpointError(f"this file cannot be split: its {what}", expected="a head for each dataset", fix=fix)
    check_heads(checkpoint, plan)
    for dataset in parts.datasets:
        arrays, plan, _ = convert(checkpoint, naming, num_heads, options, dataset)
        yield dataset, arrays, plan
