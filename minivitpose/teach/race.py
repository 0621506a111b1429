"""How long functions take, in turn in this process: for a look while learning. ``minivitpose bench`` measures."""

from dataclasses import dataclass
from html import escape
from time import perf_counter

SECONDS = 0.4  # each contestant runs for about so long
MOST = 200  # rounds


@dataclass(frozen=True)
class Race:
    """seconds: name -> the fastest of its calls; a table with bars in a notebook, text elsewhere."""

    seconds: dict

    def times(self, slow, fast):
        """How many times as long ``slow`` took."""
        return self.seconds[slow] / self.seconds[fast]

    def rows(self):
        """(name, time as text, times the fastest as text, share of the longest), in the order given."""
        fastest, longest = min(self.seconds.values()), max(self.seconds.values())
        for name, s in self.seconds.items():
            yield name, duration(s), f"{s / fastest:.3g} x", s / longest

    def __str__(self):
        wide = max(map(len, self.seconds))
        return "\n".join(f"{name.ljust(wide)}  {time:>9}  {times:>8}" for name, time, times, _ in self.rows())

    def _repr_html_(self):
        body = ""
        for name, time, times, share in self.rows():
            bar = f'<div style="background:#0072B2;height:0.8em;width:{max(1, 240 * share):.0f}px"></div>'
            cells = f'<td style="text-align:left">{escape(name)}</td><td>{time}</td><td>{times}</td>'
            body += f'<tr>{cells}<td style="text-align:left">{bar}</td></tr>'
        head = '<tr><th style="text-align:left">what</th><th>one call</th><th>of the fastest</th><th></th></tr>'
        return f"<table>{head}{body}</table>"


def duration(seconds):
    """With a fitting unit."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def race(contestants, *arguments, seconds=SECONDS):
    """Call each function with the same arguments, in turn, and keep the fastest call of each -> Race.

    contestants: {name: function}. The first round does not count: Numba compiles in it. The fastest call is the one
    that other work on this machine disturbed least.
    """
    best, spent = {}, 0.0
    for function in contestants.values():
        function(*arguments)
    for _ in range(MOST):
        for name, function in contestants.items():
            start = perf_counter()
            function(*arguments)
            took = perf_counter() - start
            best[name] = min(took, best.get(name, took))
            spent += took
        if spent > seconds * len(contestants):
            break
    return Race(best)
