"""What a learner reads: the verdict in words."""

import numpy as np

from minivitpose.teach.cases import REAL, numbers
from minivitpose.teach.relations import relation
from minivitpose.teach.run import leaves
from minivitpose.teach.steps import WHY

HINTS = {
    "float64 leaks in": "It gets in by a table, by np.zeros without a dtype, or by a NumPy number such as np.sqrt(2).",
    "wrong dtype": "dtype in is dtype out: .astype(x.dtype).",
    "changes its input": "x = x - m makes a new array; x -= m and x[...] = ... write into the old one.",
}


def praise(step, results, share):
    """Right: on how many cases, how close it was, and what to compare with."""
    dtypes = " and ".join(np.dtype(dtype).name for dtype in step.dtypes)
    cases = {t.case.title for t in results}
    own = ", the bundled model's own numbers among them" if REAL in cases else ""
    return (
        f"{step.name}: right. {len(cases)} cases in {dtypes}{own}; the largest error is {100 * share:.2g} % of what is "
        f"allowed. To compare: minivitpose.{step.solution}."
    )


def no_function(step):
    return f"{step.name}: not yet.\ncheck takes the function itself, not its result: check({step.name!r}, {step.name})"


def final_failure(step, fault):
    """What is so whatever the case: nothing is written, or the arguments do not fit."""
    head = "not written yet" if fault.cause == "not written yet" else "not yet"
    return f"{step.name}: {head}.\n{fault.text}\n{step.signature}: {step.summary}. {step.shapes}"


def failure(step, t, mistake, wholly):
    """The first bad trial; then the known mistake, or a hint; then the size of the error."""
    lines = [f"{step.name}: not yet.", f'Case "{t.case.title}", {np.dtype(t.dtype)}: {what(t)}']
    lines += explain(t, mistake, wholly) if mistake else hint(t)
    lines += size(step, t)
    return "\n".join([*lines, f"To read: {step.source}."] if mistake else lines)


def what(t):
    """What is wrong in one trial: its form, or the worst element."""
    if t.fault:
        return t.fault.text
    error = t.worst
    found, expected = digits(error.found[error.at], error.expected[error.at])
    text = f"expected {expected}{f' at {error.name}{list(error.at)}' if error.at else ''}, found {found}."
    count = int((~np.isfinite(error.found)).sum())
    return text + (f" {count} of {error.found.size} numbers are NaN or infinite." if count else "")


def digits(a, b):
    """Both numbers with as many digits as show that they differ, and one more."""
    n = next((n for n in range(4, 17) if f"{a:.{n}g}" != f"{b:.{n}g}"), 16)
    return f"{a:.{n + 1}g}", f"{b:.{n + 1}g}"


def explain(t, mistake, wholly):
    """The known mistake in words."""
    if wholly:
        this = "This" if t.outcome.arrays else "Where something comes out, it"
        return [f"{this} is what comes out when {mistake.happens}. {mistake.instead}"]
    return [
        f"In this case it is what comes out when {mistake.happens}. {mistake.instead}",
        "In other cases something else differs, too.",
    ]


def hint(t):
    """Where no mistake is known: what to do about the fault, what NaN comes from, or the simple relation that holds."""
    if t.fault:
        return [HINTS[t.fault.cause]] if t.fault.cause in HINTS else []
    found = t.worst.found
    if not np.isfinite(found).all():
        return ["NaN comes from 0 / 0 and inf - inf, infinity from exp of a large number and from 1 / 0."]
    for name, x in leaves(numbers(t.case, t.dtype)):
        if np.shape(x) == found.shape and found.size > 1 and np.array_equal(x, found):
            return [f"It is the argument {name}, unchanged."]
    text = relation(found, t.worst.expected)
    return [text] if text else []


def size(step, t):
    """How large the error is, what is allowed, and why that."""
    if t.worst is None or not np.isfinite(t.worst.largest):
        return []
    error, part = t.worst, f"{step.allowed(t.dtype):.0e}"
    why = WHY[t.dtype] if step.tolerance is None else "the roundings of the logarithm are allowed for"
    return [
        f"The largest error is {error.largest:.2g}, the root mean square {error.rms:.2g}. Allowed is "
        f"{error.allowed:.2g}, {part} of the largest number expected: {why}."
    ]
