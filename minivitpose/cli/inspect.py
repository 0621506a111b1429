"""`minivitpose inspect`: what a checkpoint holds, and what of it would be loaded."""

from importlib.resources import files

from minivitpose.cli.options import WEIGHTS, add_model

EXAMPLE = "minivitpose inspect vitpose-b-coco.pth"


def add(command):
    p = command("inspect", run, "what a checkpoint holds, and what of it would be loaded", EXAMPLE)
    p.add_argument("weights", metavar="W", help=WEIGHTS)
    add_model(p)


def run(options):
    """What is in a checkpoint: the model it makes, every tensor, what is ignored. Exit code 1 if it makes none."""
    from minivitpose.checkpoint import CheckpointError, fit, read_checkpoint
    from minivitpose.checkpoint.fit import BUNDLED, IGNORED
    from minivitpose.config import DATASETS
    from minivitpose.parameters import flatten, is_learnt

    path = files("minivitpose") / "data" / BUNDLED[options.weights] if options.weights in BUNDLED else options.weights
    checkpoint = read_checkpoint(path)
    fault, loaded = None, {}
    try:
        params, config = fit(checkpoint.state_dict, options.heads)
        loaded = flatten(params)
    except CheckpointError as error:
        fault = error

    print(f"file        {path}: {checkpoint.format}, {len(checkpoint.state_dict)} tensors")
    if not fault:
        datasets = DATASETS.get(config.num_keypoints, ("unknown",))
        print(f"variant     {config.variant}: {config.describe()}")
        print(f"head        {config.head}")
        print(f"dataset     {config.num_keypoints} keypoints: {' or '.join(datasets)}")
        print(f"parameters  {sum(x.size for name, x in loaded.items() if is_learnt(name)):,}")
        print(f"images      {config.image_size[0]} x {config.image_size[1]} (height x width)")
    print()
    width = max(map(len, checkpoint.state_dict), default=0)
    for name, x in checkpoint.state_dict.items():
        span = f"{float(x.min()):.4g} .. {float(x.max()):.4g}" if x.size else "empty"
        state = "" if name in loaded or fault else "  ignored"
        if name in IGNORED:
            state = "  ignored: a leftover of the pretraining"
        print(f"{name:<{width}}  {'x'.join(map(str, x.shape)) or 'scalar':<14}  {x.dtype!s:<8}  {span}{state}")
    for name, what in checkpoint.ignored.items():
        print(f"ignored: {name}: {what}")
    if fault:
        print(f"\nThis would not load: {fault}")
        return 1
    return 0
