"""Which part of what a PyTorch file holds are the weights, and what to call the rest."""

from itertools import islice

from minivitpose.checkpoint.errors import CheckpointError, printable, quoted
from minivitpose.checkpoint.pickle_instructions import Skipped
from minivitpose.checkpoint.torch_objects import Tensor
from minivitpose.checkpoint.unpickle import Global, Key, Placeholder

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # where training scripts put the weights
DEEPEST = 3  # a wrapper in a wrapper in a wrapper


def select_weights(saved: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What was saved -> (name -> Tensor of the weights, name -> description of everything else).

    Raises CheckpointError, with the likely reason, if there are no weights or anything among them is no tensor.
    """
    ignored: dict[str, str] = {}
    for _ in range(DEEPEST):
        wrapper = find_wrapper(saved)
        if wrapper is None:
            break
        ignored |= {name_of(key): describe(value) for key, value in saved.items() if key != wrapper}
        saved = saved[wrapper]
    if not isinstance(saved, dict):
        raise not_a_dict(saved)
    weights = {}
    for key, value in saved.items():
        if is_weight(key, value):
            weights[key] = value
        else:
            ignored[name_of(key)] = describe(value)
    if not weights:
        raise no_tensors(saved)
    return weights, ignored


def find_wrapper(saved: object) -> str | None:
    """The key under which the weights lie, if they are wrapped."""
    if isinstance(saved, dict):
        for key in WRAPPERS:
            if isinstance(saved.get(key), dict) or is_module(saved.get(key)):
                return key
    return None


def is_weight(key: object, value: object) -> bool:
    """True for a tensor, False for what may stand beside the weights. Raises CheckpointError for what may not."""
    if not isinstance(key, str):
        raise CheckpointError(f"the key {name_of(key)} among the weights is not text", expected="names of parameters")
    if isinstance(value, Placeholder | Global):
        raise CheckpointError(
            f"{quoted(key)} among the weights is no ordinary tensor",
            expected="a dense tensor of numbers",
            found=describe(value),
            fix="save only the model's state_dict, with plain tensors",
        )
    return isinstance(value, Tensor)


def is_module(thing: object) -> bool:
    state = thing.state if isinstance(thing, Placeholder) else None
    return isinstance(state, dict) and ("_modules" in state or "_parameters" in state)


def not_a_dict(saved: object) -> CheckpointError:
    if is_module(saved):
        return CheckpointError(
            f"the file holds a whole module, {describe(saved)}, not its weights",
            expected="a dict of tensors",
            fix="save module.state_dict() instead of the module",
        )
    return CheckpointError(
        "the file holds no weights", expected="a dict of tensors", found=describe(saved), fix="save the state_dict"
    )


def no_tensors(saved: dict) -> CheckpointError:
    """A dict, but none of its values is a tensor: perhaps one of them is the dict that was meant."""
    inner = next((key for key, value in saved.items() if isinstance(value, dict) and has_tensor(value)), None)
    fix = f"the weights may be under {quoted(inner)}: save that dict alone" if inner else "save the state_dict"
    return CheckpointError(
        "the file holds a dict without tensors", expected="name -> tensor", found=describe(saved), fix=fix
    )


def has_tensor(entries: dict) -> bool:
    return any(isinstance(value, Tensor) for value in islice(entries.values(), 100))


def name_of(key: object) -> str:
    return printable(key, 80) if isinstance(key, str) else quoted(key.original if isinstance(key, Key) else key)


def describe(thing: object) -> str:
    """A few words about anything a pickle can hold, in one line. It never looks deeper than one level."""
    if isinstance(thing, Tensor):
        shape = " x ".join(quoted(n, 20) for n in thing.shape[:8]) if isinstance(thing.shape, tuple) else "?"
        return f"a tensor of {printable(thing.dtype, 40)}, {shape or 'a single number'}"
    if isinstance(thing, Skipped):
        return "a very long text"
    if isinstance(thing, Placeholder):
        return f"an object of {printable(thing.origin, 120)}"
    if isinstance(thing, Global):
        return f"the name {printable(str(thing), 120)}"
    if isinstance(thing, str):
        return f"text {quoted(thing, 60)}"
    if isinstance(thing, dict):
        names = ", ".join(name_of(key) for key in islice(thing, 8))
        return printable(f"a dict of {len(thing)}" + (f": {names}" if names else ""), 160)
    if isinstance(thing, list | tuple):
        return f"a {type(thing).__name__} of {len(thing)}"
    return f"{type(thing).__name__} {quoted(thing)}" if isinstance(thing, int | float) else quoted(thing)
