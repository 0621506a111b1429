"""The course's figures: small multiples, maps over the crop, numbers in a grid, lines, bars, errors.

Each function returns a Figure that a notebook shows as it is, readable in print and for the colour-blind.
``save_figures(folder)`` writes all that were drawn as SVG.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from minivitpose.draw import draw_poses
from minivitpose.plot import GREY, INK, heatmap_extent, mark, overlay, patch_extent, patch_grid, save

DPI = 100
WIDTH = 900  # pixels: the width of a notebook's page
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))  # lines differ without colour, too
VALUES, SIGNED = "viridis", "PuOr"  # maps: of anything, and of what is centred on 0

drawn = []  # (name, Figure) of this process, for save_figures


class Picture(Figure):
    """A figure that a notebook shows without pyplot, as a small PNG of 256 colours."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi, facecolor="white")
        pixels = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2)
        small = io.BytesIO()
        pixels.save(small, "png", optimize=True)
        return small.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": self._repr_png_(), "text/plain": "a figure"}


def canvas(width=WIDTH, height=300, name="figure"):
    """An empty Picture of so many pixels, for a drawing of your own; it counts among those that are saved."""
    figure = Picture(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    drawn.append((name, figure))
    return figure


def save_figures(folder, kind="svg"):
    """Write every figure that was drawn in this process, in order -> the paths. kind: svg, pdf, png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:02}-{name}.{kind}" for i, (name, _) in enumerate(drawn, 1)]
    for path, (_, figure) in zip(paths, drawn, strict=True):
        save(figure, path)
    return paths


def bare(axes, title=""):
    """No frame, no ticks; a title."""
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, color=INK)


def plain(axes, x="", y="", title="", log=False):
    """Axes of a curve: names, a light grid, no box. log: the y axis is logarithmic."""
    axes.set_xlabel(x, fontsize=9, color=GREY)
    axes.set_ylabel(y, fontsize=9, color=GREY)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    axes.tick_params(labelsize=8, colors=GREY)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if log:
        axes.set_yscale("log")


def grid(count, columns, height, width=WIDTH, name="figure", title=""):
    """A Picture with ``count`` axes in rows of ``columns``, each row ``height`` pixels high -> figure, [axes]."""
    rows = -(-count // columns)
    figure = canvas(width, rows * height + 34 * bool(title), name)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for empty in axes[count:]:
        empty.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure, axes[:count]


def tiles(pictures, titles=None, columns=6, height=150, colours=VALUES, limits=None, title="", name="tiles"):
    """Small pictures side by side. pictures: each (H, W, 3) uint8 or 0 to 1, or (H, W) numbers.

    limits: (low, high) of the colours, the same for all; each has its own if None. "signed" centres each on 0, "signed
    rows" gives all of a row one such scale.
    """
    figure, axes = grid(len(pictures), columns, height, name=name, title=title)
    pictures = [np.asarray(picture) for picture in pictures]
    for i, (ax, picture, text) in enumerate(zip(axes, pictures, titles or [""] * len(pictures), strict=True)):
        low, high = limits if isinstance(limits, tuple) else (None, None)
        if limits in ("signed", "signed rows"):
            first = i // columns * columns
            alike = [picture] if limits == "signed" else pictures[first : first + columns]
            high = max(float(np.abs(other).max()) for other in alike) or 1.0
            low, colours = -high, SIGNED
        ax.imshow(picture, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        bare(ax, text)
    return figure


def over_crop(crop, maps, titles=None, token=None, columns=6, height=210, title="", name="over-crop"):
    """Maps laid over the crop, each in colours of its own scale, whose ends stand in its title.

    maps: each (N,) or (Hp, Wp), a number a patch, or (Hm, Wm), a heatmap. token: the patch to mark, or one a map.
    """
    figure, axes = grid(len(maps), columns, height, name=name, title=title)
    tokens = [token] * len(maps) if token is None or np.isscalar(token) else token
    narrow, (rows, columns) = WIDTH / columns < 130, patch_grid(crop)
    for ax, values, text, marked in zip(axes, maps, titles or [""] * len(maps), tokens, strict=True):
        values = np.asarray(values)
        values = values.reshape(rows, columns) if values.size == rows * columns else values
        extent = patch_extent(crop) if values.shape == (rows, columns) else heatmap_extent(crop, values.shape)
        overlay(ax, crop, values, extent)
        if marked is not None:
            mark(ax, crop, int(marked), 1.2)
        ax.set_anchor("C")
        bare(ax, f"{text}\n{ends(values)}" if text else "")
        ax.title.set_fontsize(8 if narrow else 9)
    return figure


def ends(values):
    """The lowest and the highest value in few characters; what is below 1 % of the span reads 0."""
    low, high = float(np.min(values)), float(np.max(values))
    span = max(abs(low), abs(high))
    return " to ".join("0" if abs(v) < 0.01 * span else f"{v:.0f}" if abs(v) >= 10 else f"{v:.2g}" for v in (low, high))


def numbers(matrix, rows=None, columns=None, title="", digits=2, colours=VALUES, width=None, name="numbers", top=None):
    """A small matrix with its values written into the cells: (m, n) of at most about 12 x 16 numbers. top: the value
    from which on the colour stays the same, where one cell would leave all others dark.
    """
    matrix = np.atleast_2d(matrix)
    m, n = matrix.shape
    figure = canvas(width or min(WIDTH, 120 + 62 * n), 60 + 34 * m, name)
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap=colours, aspect="auto", vmax=top)
    for i in range(m):
        for j in range(n):
            r, g, b, _ = image.cmap(image.norm(matrix[i, j]))
            ink = "black" if 0.299 * r + 0.587 * g + 0.114 * b > 0.5 else "white"
            axes.text(j, i, f"{matrix[i, j]:.{digits}f}", ha="center", va="center", fontsize=8.5, color=ink)
    axes.set_xticks(range(n), columns if columns is not None else range(n), fontsize=8, color=GREY)
    axes.set_yticks(range(m), rows if rows is not None else range(m), fontsize=8, color=GREY)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    return figure


def lines(
    x, curves, labels=("", ""), title="", log=False, height=300, width=640, marker="", name="lines", ordered=False
):
    """Curves over the same x: {name: y}. labels: what x and y are, with units. ordered: the curves are steps of one
    thing, as blocks are, and their colours run from dark to light.
    """
    figure = canvas(width, height, name)
    axes = figure.subplots()
    shades = colormaps[VALUES](np.linspace(0, 0.9, len(curves)))
    for i, (text, y) in enumerate(curves.items()):
        colour, dashes = (shades[i], "-") if ordered else (COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)])
        axes.plot(x, y, color=colour, linestyle=dashes, label=text, linewidth=1.6, marker=marker, markersize=3.5)
    plain(axes, *labels, title, log)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8.5)
    return figure


def bars(values, unit="", title="", log=False, width=640, name="bars"):
    """A bar for each name, its number written behind it: {name: value}."""
    figure = canvas(width, 70 + 28 * len(values), name)
    axes = figure.subplots()
    axes.barh(range(len(values)), list(values.values()), height=0.62, color=COLOURS[0])
    plain(axes, unit, "", title)
    if log:
        axes.set_xscale("log")
    axes.set_yticks(range(len(values)), list(values), fontsize=9, color=INK)
    for y, value in enumerate(values.values()):
        axes.annotate(f"{value:.3g}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.grid(visible=False)
    return figure


def histograms(samples, labels=("value", "share"), title="", bins=60, height=260, width=640, name="histograms"):
    """Outlines of histograms on common bins: {name: array}."""
    figure = canvas(width, height, name)
    axes = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate([np.ravel(x) for x in samples.values()]), bins)
    for i, (text, x) in enumerate(samples.items()):
        shares = np.histogram(np.ravel(x), edges)[0] / np.size(x)
        axes.stairs(shares, edges, label=text, color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)])
    plain(axes, *labels, title)
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def errors(ours, expected, title="", names=("yours", "expected", "difference"), name="errors", aspect="auto"):
    """Two maps and their difference, which has colours of its own. ours, expected (m, n). aspect: "equal" for maps of
    square cells.
    """
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    off = ours - expected
    figure, axes = grid(3, 3, 260, name=name, title=title)
    low, high, most = min(ours.min(), expected.min()), max(ours.max(), expected.max()), np.abs(off).max() or 1.0
    for ax, x, text in zip(axes, (ours, expected, off), names, strict=True):
        scale = (VALUES, low, high) if x is not off else (SIGNED, -most, most)
        shown = ax.imshow(x, cmap=scale[0], vmin=scale[1], vmax=scale[2], aspect=aspect, interpolation="nearest")
        bare(ax, text)
        figure.colorbar(shown, ax=ax, shrink=0.8).ax.tick_params(labelsize=7)
    return figure


def people(image, poses, skeleton, width=620, name="people"):
    """A picture with everybody's pose: left blue with round joints, right orange with square ones."""
    height = round(width * image.shape[0] / image.shape[1])
    figure = canvas(width, height, name)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(draw_poses(image, poses, skeleton))
    axes.set_axis_off()
    return figure
