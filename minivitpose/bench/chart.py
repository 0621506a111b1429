"""The numbers of a benchmark as bars: how long a crop takes, shorter is better."""

from minivitpose.bench.engines import PACKAGE
from minivitpose.plot import GREY, INK, new_figure

BASE, OURS, OTHERS, LIMIT = "#0072B2", "#8CBFE0", "#B8BCC2", "#D55E00"  # apart for every kind of colour vision
WIDTH, DPI = 1600, 150  # pixels of the figure, and of an inch
ROW, PANEL, TOP, BOTTOM = 52, 130, 140, 70  # pixels: a bar, a panel beside its bars, above and below all of them
LEFT, RIGHT = 250, 330  # for the names, and for the numbers of the longest bar
LONGEST = 6  # times the shortest bar: what is longer, the base apart, is cut off and says so


def bench_chart(result):
    """A panel for each number of threads and each batch, one bar an engine, the fastest on top -> Figure."""
    cases = [case for case in result["cases"] if case["engines"]]
    heights = [PANEL + ROW * len(case["engines"]) for case in cases]
    height = TOP + sum(heights) + BOTTOM
    figure = new_figure(WIDTH, height, DPI)
    config, machine = result["model"]["config"], result["machine"]
    title = f"ViTPose-{config['variant']}, {config['head']} head: milliseconds a crop, shorter is better"
    put(figure, 40, height - 62, title, size=15, weight="bold")
    put(figure, 40, height - 104, f"{machine['cpu']}, {machine['cores']} cores, {result['date'][:10]}", color=GREY)
    below = "Bars: the median; thin lines: where the middle half of the calls lies; in brackets: time / time of "
    put(figure, 40, 34, f"{below}{cases[0]['base']}. Blue: this package.", color=GREY, size=9)
    top = height - TOP
    for case, panel in zip(cases, heights, strict=True):
        bars = ROW * len(case["engines"])
        place = (LEFT / WIDTH, (top - 80 - bars) / height, (WIDTH - LEFT - RIGHT) / WIDTH, bars / height)
        show_case(figure.add_axes(place), case, result["model"]["gflop_per_crop"])
        top -= panel
    return figure


def put(figure, x, y, text, size=10, color=INK, **style):
    """A line of text at x, y in pixels from the lower left."""
    height = figure.get_figheight() * DPI
    figure.text(x / WIDTH, y / height, text, size=size, color=color, **style)


def show_case(axes, case, gflop):
    """One panel. gflop: of a crop."""
    engines = sorted(case["engines"].items(), key=lambda item: item[1]["median_ms"])
    times = [engine["ms_per_crop"] for _, engine in engines]
    end = 1.02 * min(times[-1], max(LONGEST * times[0], case["engines"][case["base"]]["ms_per_crop"]))
    for y, (name, engine) in enumerate(engines):
        colour = BASE if name == case["base"] else OURS if name in PACKAGE else OTHERS
        draw_bar(axes, y, engine, case["batch"], end, colour)
    if case["peak_gflops"]:
        show_limit(axes, 1000 * gflop / case["peak_gflops"])
    axes.set(xlim=(0, end), ylim=(len(engines) - 0.5, -0.5), xticks=[])
    axes.set_yticks(range(len(engines)), [name for name, _ in engines], size=11, color=INK)
    for label, (name, _) in zip(axes.get_yticklabels(), engines, strict=True):
        label.set_weight("bold" if name == case["base"] else "normal")
    axes.tick_params(length=0, pad=8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    threads = f"{case['threads']} thread{'s' * (case['threads'] > 1)}"
    threads += ", disturbed" * case["disturbed"]
    place = ((40 - LEFT) * 72 / DPI, 24)  # in points, from the axes' upper left
    title = f"batch {case['batch']}, {threads}"
    axes.annotate(title, (0, 1), place, "axes fraction", "offset points", size=11, annotation_clip=False)


def show_limit(axes, x):
    """Where a crop would end if the CPU did nothing but multiply and add at its measured peak."""
    axes.axvline(x, color=LIMIT, linewidth=1.4, linestyle=(0, (4, 2)), zorder=3)
    style = {"color": LIMIT, "size": 9, "ha": "center", "annotation_clip": False}
    axes.annotate(f"float32 at the CPU's peak: {x:.3g}", (x, -0.5), (0, 6), textcoords="offset points", **style)


def draw_bar(axes, y, engine, batch, end, colour):
    """A bar with its spread and its numbers; one that is too long ends in an open edge."""
    x = engine["ms_per_crop"]
    axes.barh(y, min(x, end), height=0.66, color=colour, zorder=2)
    q1, q3 = (q / batch for q in engine["quartiles_ms"])
    if x < end:
        axes.plot([q1, min(q3, end)], [y, y], color=INK, linewidth=1.2, zorder=4, solid_capstyle="butt")
    text = f"{x:.3g} ms  ({engine['ratio']:.2f})"
    if x > end:
        axes.plot([0.97 * end, 0.98 * end], [y + 0.4, y - 0.4], color="white", linewidth=4, zorder=4)
        text += "  cut off"
    style = {"va": "center", "size": 11, "color": INK, "annotation_clip": False, "zorder": 5}
    style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.annotate(text, (min(max(x, q3), end), y), (6, 0), textcoords="offset points", **style)
