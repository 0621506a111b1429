"""The course of a training as a picture: loss and accuracy over the steps."""

from minivitpose.plot import GREY, INK, new_figure

TRAINED, HELD_OUT = "#0072B2", "#D55E00"  # Okabe and Ito: blue and vermilion differ for every eye


def training_curve(lines, title="", ends=()):
    """A Figure of the lines of a log, dicts with the names in loop.LOG; save it with plot.save.

    ends: the steps at which parts of the training end; a dotted line stands where the next one begins.
    """
    figure = new_figure(1000, 420, dpi=100)
    left, right = figure.subplots(1, 2)
    show(left, lines, "loss", "validation_loss", "loss (mean squared error of the heatmaps)")
    left.set_yscale("log")
    left.legend(frameon=False)  # here, since a short training has no accuracy yet
    show(right, lines, "accuracy", "validation_accuracy", "share of joints within 1/20 of the crop")
    right.set_ylim(0, 1)
    for end in ends:
        if end < lines[-1]["step"]:
            for axes in (left, right):
                axes.axvline(end, color=GREY, linestyle=":", linewidth=1)
    figure.suptitle(title, fontsize=11, color=INK)
    figure.tight_layout()
    return figure


def show(axes, lines, trained, held_out, label):
    """Both curves of one quantity; held-out points are rarer, so they are marked."""
    for name, colour, marker, text in ((trained, TRAINED, "", "training"), (held_out, HELD_OUT, "o", "held out")):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, linewidth=1, label=text)
    axes.set_xlabel("step")
    axes.set_title(label, fontsize=10, color=GREY)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
