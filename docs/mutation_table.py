"""The known mistakes as a table, with the margins on both sides of the tolerance: docs/mistakes.md is what this prints.

python docs/mutation_table.py > docs/mistakes.md            # about 20 seconds
"""

import sys
from pathlib import Path

import numpy as np

from minivitpose.teach.check import trials
from minivitpose.teach.mistakes import mistakes_of
from minivitpose.teach.steps import STEPS, TOLERANCE

INTRODUCTION = """# The mistakes that `teach.check` knows

`teach.check("layer_norm", yours)` runs your function on small random arrays, on edge cases and on the bundled model's
own numbers, in float64 and in float32. If the numbers are not right, it replays the mistakes below and names the one
that gives yours in all cases. This page is what `python docs/mutation_table.py` prints.

The tolerance is {float64:.0e} of the largest number expected in float64, {float32:.0e} in float32 (1e-05 in both for
`decode_udp`, which divides small differences of logarithms). Right functions use at most {most:.0%} of it. In float32
the mistake that is hardest to see is {least:.0f} times the tolerance off, in the case that shows it best: {hardest}.

There are {count} mistakes in {steps} steps.
"""
MARGINS = """
## How close right functions come

The largest error in units of the tolerance, over all cases and both dtypes: of the package's own function, its compiled
twin, the same in float64 cast back, and others that sum in another order (`tests/teach_variants.py`).

| step | right functions | largest error |
|---|---|---|
"""
TABLE = """
## The mistakes

The error is that in the case that shows the mistake best, in units of the tolerance.

| step | cause | what the learner is told | best seen by | error in float64 | in float32 |
|---|---|---|---|---|---|
"""
INVISIBLE = "not seen"


def main():
    rights = {name: right_functions(step) for name, step in STEPS.items()}
    rows = [row for step in STEPS.values() for row in mistake_rows(step)]
    least, hardest = min((list(row["errors"].values())[-1], f"{row['cause']}, `{row['step']}`") for row in rows)
    facts = {dtype.__name__: part for dtype, part in TOLERANCE.items()}
    facts |= {"most": max(share for _, share in rights.values()), "least": least, "hardest": hardest}
    print(INTRODUCTION.format(**facts, count=len(rows), steps=len({row["step"] for row in rows})), end="")
    print(MARGINS, end="")
    for name, (count, share) in rights.items():
        print(f"| {name} | {count} | {share:.3f} |")
    print(TABLE, end="")
    for row in rows:
        errors = " | ".join(row["words"].get(dtype, "") for dtype in TOLERANCE)
        print(f"| {row['step']} | {row['cause']} | {row['told']} | {row['case']} | {errors} |")


def right_functions(step):
    """How many there are, and the largest error of them all."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from teach_variants import variants

    shares = [max(t.worst.share for t in trials(step, function)) for _, function in variants(step)]
    return len(shares), max(shares)


def mistake_rows(step):
    """For each mistake of a step what the table says; errors: dtype -> number, words: dtype -> text."""
    for mistake in mistakes_of(step.name):
        results = trials(step, mistake.function)
        telling = {dtype: max((t for t in results if t.dtype == dtype), key=error) for dtype in step.dtypes}
        yield {
            "step": step.name,
            "cause": mistake.cause,
            "told": f"{mistake.happens}. {mistake.instead}".replace("|", "\\|"),
            "case": telling[step.dtypes[-1]].case.title,
            "errors": {dtype: error(t) for dtype, t in telling.items()},
            "words": {dtype: words(t) for dtype, t in telling.items()},
        }


def error(t):
    """In units of the tolerance; where the form is wrong it is infinite, where nothing came out it tells nothing."""
    if t.worst:
        return t.worst.share
    return np.inf if t.outcome.arrays else 0.0


def words(t):
    if t.ok:
        return INVISIBLE
    if t.fault:
        return t.fault.cause
    return f"{error(t):.1e}" if np.isfinite(error(t)) else "NaN"


if __name__ == "__main__":
    main()
