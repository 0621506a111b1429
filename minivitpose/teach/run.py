"""One call of a learner's function, whatever it does: arrays by name come out, or the reason why there are none."""

import inspect
import linecache
import warnings
from dataclasses import dataclass, field
from traceback import format_exception_only

import numpy as np

from minivitpose.teach.cases import numbers


@dataclass(frozen=True)
class Fault:
    """What is wrong with a call other than the numbers: a stable slug and the text for the learner."""

    cause: str
    text: str
    final: bool = False  # it will be so in every case


@dataclass(frozen=True)
class Outcome:
    """arrays: name -> array, "" if there is only one. fault: None, or what is wrong before the numbers count."""

    arrays: dict = field(default_factory=dict)
    fault: Fault | None = None


NOT_WRITTEN = Fault("not written yet", "Nothing comes back yet: the function must end with return.", final=True)
NOTHING = None, NotImplemented, Ellipsis


def run(step, function, case, dtype):
    """Call the function with the case's arguments -> Outcome. Only KeyboardInterrupt passes through."""
    arguments = case.arguments(dtype)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            bound = bind(step, function, arguments)
            if isinstance(bound, Fault):
                return Outcome(fault=bound)
            outcome = read(step, function(*bound.args, **bound.kwargs))
            fault = outcome.fault or changed(arguments, numbers(case, dtype))
    except KeyboardInterrupt:
        raise
    except NotImplementedError:
        return Outcome(fault=NOT_WRITTEN)
    except BaseException as error:  # even SystemExit: nothing that a learner writes ends the notebook
        return Outcome(fault=raised(error, function))
    return Outcome(outcome.arrays, fault)


def bind(step, function, arguments):
    """The arguments by their names where the function has these names, else in order -> BoundArguments or a Fault."""
    signature = signature_of(function, step)
    try:
        return signature.bind(**arguments)
    except TypeError:
        pass
    try:
        return signature.bind(*(arguments[name] for name in step.arguments))
    except TypeError as error:
        text = f"It is called as {step.signature}, which does not fit your function's {signature}: {error}."
        return Fault("wrong number of arguments", text, final=True)


def signature_of(function, step):
    """The function's own signature; the step's where Python cannot tell."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        kind = inspect.Parameter.POSITIONAL_ONLY
        return inspect.Signature([inspect.Parameter(name, kind) for name in step.arguments])


def raised(error, function):
    """The error's type, message and the line of the learner's code where it came up."""
    where, frames = "", error.__traceback__
    path = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
    while frames:
        if frames.tb_frame.f_code.co_filename == path:
            code = linecache.getline(path, frames.tb_lineno).strip()
            where = f"\nIt came up in line {frames.tb_lineno} of your code" + (f": {code}" if code else ".")
        frames = frames.tb_next
    text = format_exception_only(error)[-1].strip()  # even of an error that cannot be printed
    return Fault("raises an error", f"your function raises {text}{where}")


# ---------------------------------------------------------------------------------------------------- what came back


def read(step, result):
    """What a function returned, by the names of the step's outputs -> Outcome."""
    if any(result is nothing for nothing in NOTHING):
        return Outcome(fault=NOT_WRITTEN)
    if len(step.outputs) < 2:
        name = "".join(step.outputs)
        if isinstance(result, dict):
            return Outcome(fault=Fault("wrong type", f"expected {name or 'one array'}, found a dict."))
        return flat({name: result}, step)
    parts = list(result) if isinstance(result, tuple | list) or is_stack(step, result) else None
    if parts is None or len(parts) != len(step.outputs):
        found = kind_of(result) if parts is None else f"{len(parts)} values"
        text = f"expected {len(step.outputs)} values, {', '.join(step.outputs)}; found {found}."
        return Outcome(fault=Fault("wrong type", text))
    return flat(dict(zip(step.outputs, parts, strict=True)), step)


def is_stack(step, result):
    """Three results in one array, as layers.split_heads gives q, k and v."""
    return isinstance(result, np.ndarray) and result.ndim > 1 and len(result) == len(step.outputs) == 3


def flat(values, step):
    """Nested dicts -> Outcome, one array a name: {"gradients": {"qkv": {"bias": b}}} -> {"qkv.bias": b}; no None."""
    arrays = {}
    for name, value in values.items():
        if isinstance(value, dict):
            inner = flat({str(key): x for key, x in value.items() if key not in step.ignored and x is not None}, step)
            if inner.fault:
                return inner
            prefix = "" if name in step.outputs else f"{name}."
            arrays |= {prefix + key: x for key, x in inner.arrays.items()}
        elif fault := not_an_array(name, value, name in step.free):
            return Outcome(fault=fault)
        else:
            arrays[name] = np.asarray(value)
    return Outcome(arrays)


def not_an_array(name, value, free):
    """The Fault of what is no array of numbers, or None. ``free``: a plain number will do."""
    subject = f"{name}: " if name else ""
    if any(value is nothing for nothing in NOTHING):
        return Fault("not written yet", f"{subject}{value} came back in its place: it is not written yet.")
    number = isinstance(value, np.generic) or (free and isinstance(value, int | float))
    if not number and not isinstance(value, np.ndarray):
        hint = {"list": ": np.array(...) makes one", "Tensor": ": its .detach().numpy() gives one"}
        more = hint.get(type(value).__name__, "")
        return Fault("wrong type", f"{subject}expected a NumPy array, found {kind_of(value)}{more}.")
    dtype = np.asarray(value).dtype
    if dtype.kind not in "fiu":
        return Fault("wrong dtype", f"{subject}expected an array of numbers, found dtype {dtype}.")
    return None


def kind_of(value):
    """A type in words: "a list", "a torch Tensor", "one array of shape (2, 3)"."""
    if isinstance(value, np.ndarray):
        return f"one array of shape {value.shape}"
    package = type(value).__module__.split(".")[0]
    return f"a {'' if package == 'builtins' else package + ' '}{type(value).__name__}"


def changed(arguments, before):
    """The Fault of a function that wrote into its arguments, or None."""
    flat_now, flat_before = dict(leaves(arguments)), dict(leaves(before))
    for name in flat_before:
        if name not in flat_now or not same_value(flat_now[name], flat_before[name]):
            text = f"your function writes into its argument {name}, which others still need."
            return Fault("changes its input", text)
    return None


def leaves(x, name=""):
    """(name, value) of all that stands in nested dicts."""
    if not isinstance(x, dict):
        yield name, x
        return
    for key, value in x.items():
        yield from leaves(value, f"{name}.{key}" if name else str(key))


def same_value(a, b):
    return a is b or np.array_equal(a, b)
