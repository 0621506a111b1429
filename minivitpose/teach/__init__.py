"""For the course: checks that find a learner's mistake, the example that all notebooks look at, figures and timings."""

from minivitpose.teach.against import against_reference
from minivitpose.teach.check import check
from minivitpose.teach.example import Example, example
from minivitpose.teach.figures import canvas, save_figures
from minivitpose.teach.notebook import explore, say
from minivitpose.teach.race import Race, race
from minivitpose.teach.steps import steps
from minivitpose.teach.verdict import Verdict

__all__ = [
    "Example",
    "Race",
    "Verdict",
    "against_reference",
    "canvas",
    "check",
    "example",
    "explore",
    "race",
    "save_figures",
    "say",
    "steps",
]
