"""``check``: is the learner's function right, and if not, which known mistake gives its numbers?"""

from dataclasses import dataclass

from minivitpose.teach.cases import Case
from minivitpose.teach.measure import Error, alike, errors, expected, form_fault
from minivitpose.teach.mistakes import mistakes_of, replay
from minivitpose.teach.run import Fault, Outcome, run
from minivitpose.teach.steps import find
from minivitpose.teach.verdict import Verdict
from minivitpose.teach.words import failure, final_failure, no_function, praise

SAME = 4  # a function is known if it differs from a mistake by no more than so many tolerances: both round


@dataclass(frozen=True)
class Trial:
    """One case in one dtype: what came out, what is wrong with its form, and how far off its numbers are."""

    case: Case
    dtype: type
    outcome: Outcome
    fault: Fault | None
    worst: Error | None  # of the outputs, the one that is furthest off; None where the form is wrong

    @property
    def ok(self):
        return self.fault is None and self.worst.share <= 1


def check(step, function):
    """Try a function on many cases and say what is wrong with it -> Verdict, which is true if nothing is.

    step: a name in ``steps()``, which tells the signature, too. function: yours. Arguments are passed by their names if
    your function has the same names, else in order. Raises ValueError for an unknown step and nothing else: what your
    function raises is part of the verdict. Only KeyboardInterrupt passes through.
    """
    step = find(step)
    if not callable(function):
        return Verdict(step.name, False, no_function(step), "not a function")
    return verdict(step, trials(step, function))


def trials(step, function):
    """The function on every case of the step, in each dtype -> list of Trial; one if all will be the same."""
    results = []
    for case in step.cases:
        for dtype in step.dtypes:
            results.append(trial(step, function, case, dtype))
            fault = results[-1].fault
            if fault and fault.final:
                return results
    return results


def trial(step, function, case, dtype):
    """One call, and what is to be said of it."""
    outcome = run(step, function, case, dtype)
    if not outcome.arrays:
        return Trial(case, dtype, outcome, outcome.fault, None)
    truth = expected(step, case, dtype)
    if fault := outcome.fault or form_fault(step, outcome.arrays, truth, dtype):
        return Trial(case, dtype, outcome, fault, None)
    return Trial(case, dtype, outcome, None, max(errors(step, outcome.arrays, truth, dtype), key=lambda e: e.share))


def verdict(step, results):
    """The Verdict on all trials of a function."""
    bad = [t for t in results if not t.ok]
    share = max((t.worst.share for t in results if t.worst), default=0.0)
    if not bad:
        return Verdict(step.name, True, praise(step, results, share), share=share)
    first = bad[0]
    if first.fault and first.fault.final:
        return Verdict(step.name, False, final_failure(step, first.fault), first.fault.cause)
    mistake, wholly = recognise(step, results, bad)
    cause = mistake.cause if mistake else first.fault and first.fault.cause
    message = failure(step, first, mistake, wholly)
    return Verdict(step.name, False, message, cause, first.case.title, share, first.worst)


def recognise(step, results, bad):
    """The known mistake that gives the learner's numbers: (Mistake, True) in all cases, (Mistake, False) in the first.

    (None, False) if there is none. Cases in which nothing came out, of either, tell nothing. What was done to the
    arguments, no numbers tell.
    """
    known = mistakes_of(step.name)
    told = [t for t in bad if t.outcome.arrays and not t.outcome.fault]
    if not told or bad[0].outcome.arrays and bad[0].outcome.fault:
        return None, False
    for mistake in known:
        if all(agrees(step, mistake, t) for t in results) and any(agrees(step, mistake, t) is True for t in told):
            return mistake, True
    near = [mistake for mistake in known if agrees(step, mistake, told[0]) is True]
    return (near[0], False) if len(near) == 1 else (None, False)


def agrees(step, mistake, t):
    """Does the mistake give this trial's numbers? "unknown", which counts as yes, where neither gives any."""
    theirs, ours = replay(step, mistake, t.case, t.dtype), t.outcome.arrays
    if not theirs or not ours:
        return "unknown" if not theirs and not ours else False
    return alike(step, ours, theirs, SAME * step.allowed(t.dtype))
