"""What ``check`` answers: right, or not yet and why."""

from dataclasses import dataclass, field
from html import escape

from minivitpose.teach.measure import Error
from minivitpose.teach.picture import error_picture

# The colours are safe for the colour-blind and show on white and on black; sign and word say the same.
LOOKS = {"right": ("#0072B2", "✓"), "not yet": ("#D55E00", "✗"), "not written yet": ("#808080", "…")}


@dataclass(frozen=True)
class Verdict:
    """True if the function is right. ``print`` it, or let a notebook show it.

    step: the name of the step. ok. message: what a learner needs to know. cause: a short name of the mistake, None if
    it is right or not recognised. case: the case that failed first, None if none did. share: the largest error of all
    cases in units of what is allowed, where the numbers could be compared. error: where and how far the first bad case
    is off, None if its form is wrong.
    """

    step: str
    ok: bool
    message: str
    cause: str | None = None
    case: str | None = None
    share: float = 0.0
    error: Error | None = field(default=None, repr=False)

    def __bool__(self):
        return self.ok

    def __str__(self):
        return self.message

    __repr__ = __str__

    def _repr_html_(self):
        word, _, rest = self.message.removeprefix(f"{self.step}: ").partition(".")
        colour, sign = LOOKS[word]
        lines = "".join(
            f'<div style="margin:0.3em 0">{escape(line)}</div>' for line in rest.split("\n") if line.strip()
        )
        title = f'<strong><span style="color:{colour}">{sign} {word}</span> <code>{escape(self.step)}</code></strong>'
        picture = error_picture(self.error) if self.error else ""
        box = f"border-left:4px solid {colour};padding:0.2em 0.8em;margin:0.4em 0"
        return f'<div style="{box}">{title}{lines}{picture}</div>'
