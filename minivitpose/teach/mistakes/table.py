"""The table that the files beside this one fill: one small function a mistake."""

from dataclasses import dataclass
from functools import lru_cache

from minivitpose.teach.run import run

TABLE = {}  # step -> [Mistake, ...]


@dataclass(frozen=True, eq=False)
class Mistake:
    """A wrong function of a step.

    cause: a short name that stays. happens: goes on after "this is what comes out when". instead: what to change.
    """

    step: str
    cause: str
    happens: str
    instead: str
    function: callable


def mistake(steps, cause, happens, instead):
    """Put the function below into the table, for one step or for several, "a b"."""

    def enter(function):
        for step in steps.split():
            TABLE.setdefault(step, []).append(Mistake(step, cause, happens, instead, function))
        return function

    return enter


@lru_cache(maxsize=2048)
def replay(step, mistake, case, dtype):
    """What the mistake makes of a case: name -> array, empty where it raises."""
    return run(step, mistake.function, case, dtype).arrays
