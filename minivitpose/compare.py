"""The comparison of activations with a reference, in the order of execution, up to the first divergence."""

from dataclasses import dataclass
from html import escape
from itertools import zip_longest

import numpy as np

from minivitpose.checkpoint.sources import without_torch
from minivitpose.trace import Reference, largest, root_mean_square, sample_of, signed_sum

# The table of tolerances; docs/numerics.md says why and what was measured. In float32 the error against the float64
# truth may be FACTOR times PyTorch's own float32 error (root mean square over the activation), and the largest error,
# which is the luck of one element, PEAK times as much again. Alone (fed the reference's input) it is the rounding of
# one layer, which hangs on the order in which this machine's BLAS sums. Where the truth is not known, and in float64,
# the largest error is bounded relative to the largest value.
FACTOR = {"alone": 2.0, "chain": 1.5}
PEAK = 3
RELATIVE = {("float64", "alone"): 1e-12, ("float64", "chain"): 1e-11}
RELATIVE |= {("float32", "alone"): 2e-6, ("float32", "chain"): 2e-5}
SIGMAS = 6  # a signed sum over a whole array: this many standard deviations of errors as large as FACTOR allows


@dataclass(frozen=True)
class Check:
    """One comparison: the largest error, where it is, both values there, what was allowed; the mean error likewise."""

    error: float
    tolerance: float
    relative: float  # error / largest absolute value of the truth
    at: tuple[int, ...] = ()
    ours: float = float("nan")
    expected: float = float("nan")
    rms: float = 0.0
    rms_tolerance: float = float("inf")
    rms_reference: float | None = None  # the same of the reference's own values, where the truth is known

    @property
    def ok(self):
        return self.error <= self.tolerance and self.rms <= self.rms_tolerance

    @property
    def percent(self):
        """Of the tolerance used, by the largest or by the mean error, whichever used more."""
        return max(percent_of(self.error, self.tolerance), percent_of(self.rms, self.rms_tolerance))


def percent_of(error, tolerance):
    if error == 0:
        return 0.0
    return 100 * error / tolerance if tolerance else float("inf")


@dataclass(frozen=True)
class Row:
    """One activation: its checks, or the reason why there is nothing to check."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    milliseconds: float | None = None
    chain: Check | None = None  # from the image on
    alone: Check | None = None  # fed the reference's input
    whole: Check | None = None  # the signed sum over the whole array, where the reference holds a sample
    fault: str = ""

    @property
    def checks(self):
        return [check for check in (self.alone, self.chain, self.whole) if check]

    @property
    def ok(self):
        return not self.fault and all(check.ok for check in self.checks)

    @property
    def worst(self):
        """The check that used most of its tolerance."""
        return max(self.checks, key=lambda check: check.percent)


def compare(cache, reference):
    """Walk through the activations in the order of execution and stop at the first that diverges from the reference.

    cache: what ``run_with_cache`` gave, or any mapping of names to arrays or tensors. reference: a Reference
    (``load_reference``, ``reference.record``) or such a mapping. Each activation is checked in the chain (as it is in
    the cache) and, if cache and reference are whole, alone: computed anew from the reference's input. -> Report.
    Raises ValueError if there is nothing to compare: no mapping, no name in common, or other images.
    """
    if isinstance(cache, tuple):
        raise ValueError("cache: expected a mapping, found a tuple: run_with_cache gives heatmaps and the cache")
    for what, given in (("cache", cache), ("reference", reference)):
        if not hasattr(given, "items"):
            raise ValueError(f"{what}: expected a mapping, found {given!r:.80}; load_reference(path) reads a recording")
    if not isinstance(reference, Reference):
        values = {name: np.asarray(without_torch(x)) for name, x in reference.items()}
        reference = Reference(values).gather_facts()
    elif not reference.facts:
        reference = reference.gather_facts()
    fused = getattr(cache, "fused", False)
    names = [name for name in reference if name in cache or not fused]
    if not any(name in cache for name in names):
        raise ValueError(
            f"nothing to compare: the reference has {list(reference)[:2]}..., the cache has {list(cache)[:2]}..."
        )
    images = getattr(cache, "images", None)
    if images is not None and reference.images is not None and not same_images(images, reference.images):
        raise ValueError("nothing to compare: cache and reference were computed from different images")
    alone = run_alone(cache, reference)
    rows = []
    for name in names:
        rows.append(compare_one(name, cache, reference, alone))
        if not rows[-1].ok:
            break
    unchecked = [name for name in cache if name not in reference]
    return Report(rows, len(names), unchecked, len(reference) - len(names), reference.header)


def same_images(a, b):
    return a.shape == b.shape and np.array_equal(a.astype(np.float32), b.astype(np.float32))


def run_alone(cache, reference):
    """Every activation from the reference's inputs, or nothing where those are not whole."""
    model = getattr(cache, "model", None)
    if model is None or cache.fused or reference.sample is not None or any(name not in reference for name in cache):
        return {}
    if any(reference[name].shape != x.shape for name, x in cache.items()):
        return {}
    inputs = {name: x.astype(model.dtype) for name, x in reference.values.items() if name in cache}
    return model.run_with_cache(cache.images, replace=inputs)[1]


def compare_one(name, cache, reference, alone):
    facts = reference.facts[name]
    if name not in cache:
        return Row(name, facts.shape, facts.dtype, fault="missing: the reference has it, the cache does not")
    ours = np.asarray(without_torch(cache[name]))
    row = {"milliseconds": getattr(cache, "milliseconds", {}).get(name), "shape": ours.shape, "dtype": str(ours.dtype)}
    if ours.shape != tuple(facts.shape):
        return Row(name, **row, fault=f"shape {ours.shape}, expected {tuple(facts.shape)}")
    if (str(ours.dtype), "chain") not in RELATIVE:
        return Row(name, **row, fault=f"dtype {ours.dtype}, expected float32 or float64")
    values = reference[name]
    row["chain"] = check(ours, reference.truth.get(name), values, facts, "chain", reference.sample)
    if name in alone:
        row["alone"] = check(alone[name], reference.alone.get(name), values, facts, "alone")
    if reference.sample and facts.signed_sum is not None:
        row["whole"] = check_sum(ours, facts)
    return Row(name, **row)


def check(ours, truth, values, facts, kind, sample=None):
    """ours against the truth, or against the reference's values where the truth is not known. kind: alone or chain."""
    shape, places = ours.shape, None
    if sample is not None:
        places = sample_of(ours.size, sample)
        ours = ours.reshape(-1)[places]
    if not ours.size:
        return Check(0.0, 0.0, 0.0)
    off = np.atleast_1d(np.abs(ours.astype(np.float64) - (values if truth is None else truth)))
    off[np.isnan(off)] = np.inf
    worst = int(off.argmax())
    at = np.unravel_index(worst if places is None else places[worst], shape)
    error = float(off.flat[worst])
    relative = error / facts.scale if facts.scale else error
    found = {"at": tuple(map(int, at)), "ours": float(ours.flat[worst]), "expected": float(values.flat[worst])}
    if truth is None or ours.dtype != np.float32:
        return Check(error, RELATIVE[str(ours.dtype), kind] * facts.scale, relative, **found)
    peak, rms = (facts.error, facts.rms) if kind == "chain" else (facts.error_alone, facts.rms_alone)
    luck, own = 1, rms
    if sample is not None:  # the tolerance is of the whole array, with room for luck; the ratio is of these elements
        luck, own = 1 + 3 / np.sqrt(telling(values - truth)), root_mean_square(values - truth)
    found |= {"rms": root_mean_square(off), "rms_tolerance": luck * FACTOR[kind] * rms, "rms_reference": own}
    return Check(error, PEAK * FACTOR[kind] * peak, relative, **found)


def telling(errors):
    """How many elements the mean square of these errors rests on: n if all are alike, 1 if one is by far the largest.

    The mean square of a sample varies by about the share 1 / sqrt(telling), however large the sample is. Attention
    patterns have a few large elements, and errors to go with them. Source: Kish's effective sample size.
    """
    squares = np.square(errors / largest(errors)) if errors.any() else np.ones(errors.size)
    return squares.sum() ** 2 / np.square(squares).sum()


def check_sum(ours, facts):
    """The signed sum over the whole array against the truth's."""
    total, spread = signed_sum(ours), np.sqrt(ours.size)
    if ours.dtype == np.float64:
        tolerance = RELATIVE["float64", "chain"] * facts.scale * spread
    else:
        tolerance = SIGMAS * FACTOR["chain"] * facts.rms * spread
    error = abs(total - facts.signed_sum)
    error = float("inf") if np.isnan(error) else error
    return Check(error, tolerance, error / (facts.scale * spread or 1), (), total, facts.signed_sum)


# ----------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Report:
    """Rows up to the first divergence. ``str(report)`` for a terminal, a table in a notebook."""

    rows: list[Row]
    total: int  # activations of the reference
    unchecked: list[str]  # activations of the cache that the reference does not have
    hidden: int  # activations of the reference that the fast engine keeps in registers
    header: dict

    @property
    def ok(self):
        return all(row.ok for row in self.rows)

    @property
    def first_divergence(self):
        """The first bad row, or None."""
        return None if self.ok else self.rows[-1]

    @property
    def last_good(self):
        """The last row before the first divergence (the last of all if there is none), or None."""
        good = self.rows if self.ok else self.rows[:-1]
        return good[-1] if good else None

    @property
    def rms_ratio(self):
        """The largest root-mean-square error against the truth, in the chain, as a multiple of the reference's own."""
        checks = [row.chain for row in self.rows if row.chain and row.chain.rms_reference]
        return max((check.rms / check.rms_reference for check in checks), default=None)

    def cells(self):
        """(heading, rows of text): the columns that this comparison has."""
        timed = any(row.milliseconds is not None for row in self.rows)
        alone = any(row.alone for row in self.rows)
        whole = any(row.whole for row in self.rows)
        heading = ["activation", "shape", "dtype"] + ["ms"] * timed + ["alone: error", "% of tol."] * alone
        heading += ["chain: error", "relative", "% of tol."] + ["whole sum: % of tol."] * whole
        heading += ["worst at", "ours", "reference"]
        return heading, [self._cells(row, timed, alone, whole) for row in self.rows]

    def _cells(self, row, timed, alone, whole):
        cells = [row.name, "x".join(map(str, row.shape)), row.dtype]
        cells += [f"{row.milliseconds:.2f}" if row.milliseconds is not None else ""] * timed
        if row.fault:
            return [*cells, *[""] * (2 * alone), row.fault]
        if alone:
            cells += [f"{row.alone.error:.1e}", percent(row.alone)] if row.alone else ["", ""]
        cells += [f"{row.chain.error:.1e}", f"{row.chain.relative:.1e}", percent(row.chain)]
        cells += [percent(row.whole) if row.whole else ""] * whole
        shown = row.chain if row.chain.percent >= (row.alone.percent if row.alone else 0) else row.alone
        return [*cells, ",".join(map(str, shown.at)), f"{shown.ours:.7g}", f"{shown.expected:.7g}"]

    def verdict(self):
        """The outcome in words, a line for each thing to know."""
        compared, bad = len(self.rows), self.first_divergence
        if bad:
            good = f"the last good one is {self.last_good.name}" if self.last_good else "it is the first of all"
            lines = [f"FIRST DIVERGENCE at {bad.name} ({compared} of {self.total}); {good}."]
            lines += [bad.fault or explain(bad)]
        else:
            worst = max(self.rows, key=lambda row: row.worst.percent)
            agree = f"All {compared} activations agree; the closest call is {worst.name}"
            agree = agree if compared > 1 else f"{worst.name} agrees"
            lines = [f"{agree}, {percent(worst.worst)} % of the tolerance is used."]
            if ratio := self.rms_ratio:
                lines.append(f"The error against the float64 truth is at most {ratio:.2f} times PyTorch's own (rms).")
        if self.hidden:
            lines.append(f"The fast engine keeps the other {self.hidden} in registers.")
        if self.unchecked:
            lines.append(f"Not checked, as the reference does not have them: {', '.join(self.unchecked)}.")
        return lines

    def __str__(self):
        heading, rows = self.cells()
        widths = [max(map(len, column)) for column in zip_longest(heading, *rows, fillvalue="")]
        lines = []
        for row in [heading, *rows]:
            left = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)]
            right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=False)]
            lines.append("  ".join(left + right).rstrip())
        return "\n".join([*lines, "", *self.verdict()])

    def _repr_html_(self):
        heading, rows = self.cells()
        head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
        body = ""
        for row, cells in zip(self.rows, rows, strict=True):
            style = "" if row.ok else ' style="background:#f6d5d5;color:#000"'
            body += f"<tr{style}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        verdict = "<br>".join(escape(line) for line in self.verdict())
        return f"<p>{verdict}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def percent(check):
    """Of the tolerance used, as text."""
    return f"{check.percent:.0f}" if check.percent < 1e6 else f"{check.percent:.0e}"


def explain(row):
    """What is wrong with a bad row, in words: which check failed, by how much, and what that tells."""
    lines = []
    for name, result in (("alone", row.alone), ("in the chain", row.chain), ("summed up whole", row.whole)):
        if result and not result.ok:
            where = f" at {result.at}: {result.ours:.9g}, reference {result.expected:.9g}" if result.at else ""
            lines.append(f"{name}: largest error {result.error:.3g}, tolerance {result.tolerance:.3g}{where}")
            if result.rms > result.rms_tolerance:
                lines.append(f"{name}: mean error (rms) {result.rms:.3g}, tolerance {result.rms_tolerance:.3g}")
    if row.alone and row.alone.ok:
        lines.append("fed the reference's input this layer is right: the error comes in before it")
    return "; ".join(lines) + "."
