"""`minivitpose inspect`: what a checkpoint holds, and what of it would be loaded."""

from minivitpose.cli.options import WEIGHTS, add_model

EXAMPLE = "minivitpose inspect vitpose-b-coco.pth"


def add(command):
    p = command("inspect", run, "what a checkpoint holds, and what of it would be loaded", EXAMPLE)
    p.add_argument("weights", metavar="W", help=WEIGHTS)
    add_model(p)


def run(options):
    """What is in a checkpoint: the model it makes, every tensor, what is ignored. Exit code 1 if it makes none."""
    from minivitpose.checkpoint import CheckpointError, read_source
    from minivitpose.checkpoint.fit import check_finite, make_plan

    checkpoint = read_source(options.weights)
    plan, fault = None, None
    try:
        plan = make_plan(checkpoint, options.heads, None, options.dataset, options.expert)
        check_finite(checkpoint.state_dict)
    except CheckpointError as error:
        fault = error

    rows = [("file", f"{checkpoint.path}: {checkpoint.format}, {len(checkpoint.state_dict)} tensors")]
    rows += what_it_is(checkpoint, plan) if plan and not fault else []
    print("\n".join(f"{title:<12}{text}" for title, text in rows), end="\n\n")
    list_tensors(checkpoint, plan)
    if fault:
        print(f"\nThis would not load: {fault}")
        return 1
    return 0


def what_it_is(checkpoint, plan):
    """(title, text) of each line about the model."""
    from minivitpose.checkpoint.fit import take_out
    from minivitpose.checkpoint.namings import DESCRIBED
    from minivitpose.config import DATASETS
    from minivitpose.parameters import is_learnt

    config, loaded = plan.config, take_out(checkpoint.state_dict, plan)
    datasets = (plan.choice.dataset,) if plan.choice.dataset else DATASETS.get(config.num_keypoints, ("unknown",))
    if plan.parts.several:
        datasets = (config.dataset,)
    count = config.grid[0] * config.grid[1]
    slot = f"{count} and one for the class token" if plan.slot else f"{count}, the class token's already added"
    yield "naming", DESCRIBED[plan.naming]
    yield "variant", f"{config.variant}: {config.describe()}"
    yield "head", config.head
    yield "dataset", f"{config.num_keypoints} keypoints: {' or '.join(map(str, datasets))}"
    yield from parts_of(plan)
    yield "positions", slot
    yield "parameters", f"{sum(x.size for name, x in loaded.items() if is_learnt(name)):,}"
    yield "images", f"{config.image_size[0]} x {config.image_size[1]} (height x width), as in {config.pipeline!r}"
    yield "layer norm", f"eps {config.eps:g}"


def parts_of(plan):
    """What more than one plain model is in the file."""
    from minivitpose.checkpoint.experts import EXPERTS

    parts, choice = plan.parts, plan.choice
    if parts.joined:
        yield "experts", f"{parts.experts}, leftovers: fc2 is already joined with one"
    elif parts.experts:
        names = [*EXPERTS[: parts.experts], *("unknown" for _ in range(len(EXPERTS), parts.experts))]
        named = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        yield "experts", f"{parts.experts} of {parts.rows} channels: {named}; this is number {choice.expert}"
    if parts.heads:
        named = dict(zip(range(len(EXPERTS) - 1), EXPERTS[1:], strict=True))
        heads = [f"{j} {named.get(j, 'unknown')} ({count} keypoints)" for j, count in parts.heads.items()]
        yield (
            "heads",
            f"keypoint_head ({parts.own} keypoints), associate heads {', '.join(heads)}; this is {choice.head}",
        )


def list_tensors(checkpoint, plan):
    """A line for each tensor, and for each thing that is none."""
    from minivitpose.checkpoint.fit import IGNORED

    width = max(map(len, checkpoint.state_dict), default=0)
    for name, x in checkpoint.state_dict.items():
        span = f"{float(x.min()):.4g} .. {float(x.max()):.4g}" if x.size else "empty"
        state = "  ignored" if plan and name in plan.leftovers else ""
        if name in IGNORED:
            state = "  ignored: a leftover of the pretraining"
        print(f"{name:<{width}}  {'x'.join(map(str, x.shape)) or 'scalar':<14}  {x.dtype!s:<8}  {span}{state}")
    for name, what in checkpoint.ignored.items():
        print(f"ignored: {name}: {what}")
