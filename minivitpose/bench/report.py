"""The numbers of a benchmark as text, at most 100 columns wide. Losses are printed like wins."""

from textwrap import wrap

from minivitpose.bench.engines import BF16

WIDTH = 100
LEVEL = 0.02  # medians that are no further apart are called level


def report(result):
    """All of what ``bench`` found, as one text."""
    parts = [head(result)]
    parts += [case_text(case, result["model"]["gflop_per_crop"]) for case in result["cases"]]
    parts += [layers_text(result["cases"][0]), cold_text(result["cold"])]
    return "\n\n".join(part for part in parts if part)


def head(result):
    machine, config = result["machine"], result["model"]["config"]
    load = machine["load_average_at_start"]
    lines = [
        f"ViTPose-{config['variant']}, {config['head']} head, {config['num_keypoints']} keypoints, "
        f"{result['model']['gflop_per_crop']:.2f} GFLOP a crop, {result['model']['weights']}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {result['date']}"
        + (f", load average {load[0]}" if load else ""),
        ", ".join(f"{name} {version}" for name, version in {"Python": machine["python"], **result["versions"]}.items()),
    ]
    return "\n".join(line for text in lines for line in wrap(text, WIDTH))


# --------------------------------------------------------------------------------------------------------------- a case


def case_text(case, gflop):
    """The table of one number of threads and one batch, and who wins."""
    title = f"batch {case['batch']}, {counted(case['threads'], 'thread')}; "
    if case["peak_gflops"]:
        least = 1000 * gflop / case["peak_gflops"]
        title += f"the CPU's measured peak: {case['peak_gflops']:.0f} GFLOP/s, a crop in {least:.2f} ms"
    else:
        title += "the CPU's peak is not known"
    lines = [title]
    if case["disturbed"]:
        text = (
            f"DISTURBED: other programs used {case['cores_of_others']:.1f} cores meanwhile. Engines whose threads wait "
        )
        lines += wrap(text + "for each other lose most by that: neither times nor ratios hold. Measure again.", WIDTH)
    if case["engines"]:
        columns = ["median", "lowest", "quartiles", "a crop", f"/ {case['base']}", "GFLOP/s", "peak", "load s", "MB"]
        lines += ["", row("ms", columns, "error")]
        ordered = sorted(case["engines"].items(), key=lambda item: item[1]["median_ms"])
        lines += [engine_row(name, engine) for name, engine in ordered] + [""]
        lines += verdicts(case)
    lines += [f"left out: {name}: {why}" for name, why in case["left_out"].items()]
    return "\n".join(lines)


def row(name, cells, last):
    widths = (8, 8, 16, 8, 8, 8, 6, 7, 6)
    return f"{name:<14}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)) + f"{last:>9}"


def engine_row(name, engine):
    q1, q3 = engine["quartiles_ms"]
    share, memory = engine["share_of_peak"], engine["memory_bytes"]
    cells = [ms(engine["median_ms"]), ms(engine["minimum_ms"]), f"{ms(q1)} - {ms(q3)}", ms(engine["ms_per_crop"])]
    cells += [f"{engine['ratio']:.2f}", f"{engine['gflops']:.4g}", f"{share:.0%}" if share else "-"]
    cells += [f"{engine['load_s']:.2f}", f"{memory / 1e6:.0f}" if memory else "-"]
    return row(name, cells, f"{engine['error']:.1e}")


def ms(x):
    """Four digits, as many of them behind the point as there is room for."""
    return f"{x:.3f}" if x < 10 else f"{x:.2f}" if x < 100 else f"{x:.1f}" if x < 1000 else f"{x:.0f}"


def verdicts(case):
    """In words, by the medians, a line an engine; and a line where an engine is not what its name says.

    What computes in bfloat16 is compared with this package's bfloat16, if that was measured.
    """
    base, engines = case["base"], case["engines"]
    lines = [
        f"{name} ran the engine {engine['runs']!r}: its own does not have this model"
        for name, engine in engines.items()
        if engine["runs"] != name
    ]
    for name, engine in sorted(engines.items(), key=lambda item: item[1]["ratio"]):
        other = "fast-bf16" if name in BF16 and name != "fast-bf16" and "fast-bf16" in engines else base
        if name != base:
            lines.append(verdict(other, name, engine["ratio"] / engines[other]["ratio"]))
    return lines


def verdict(base, name, ratio):
    """ratio: the time of name / the time of base."""
    if abs(ratio - 1) <= LEVEL:
        return f"{base} and {name} are level ({ratio:.2f})"
    if ratio > 1:
        return f"{base} is {ratio:.2f} times as fast as {name}"
    return f"{base} LOSES to {name}, which is {1 / ratio:.2f} times as fast"


def counted(n, word):
    return f"{n} {word}{'s' * (n != 1)}"


# --------------------------------------------------------------------------------------------------- layers, cold start


def layers_text(case):
    """Milliseconds a layer of this package's engines; layers that take no time in any of them are summed."""
    shown = {name: engine for name, engine in case["engines"].items() if name not in BF16}
    engines = {name: engine["layers"] for name, engine in shown.items() if engine["layers"]}
    if not engines:
        return ""
    totals = {name: sum(layer["ms"] for layer in layers.values()) for name, layers in engines.items()}
    names = list(max(engines.values(), key=len))  # the fast engine fuses layers and keeps fewer activations

    def matters(name):
        return any(layers[name]["ms"] > 0.005 * totals[engine] for engine, layers in engines.items() if name in layers)

    where = f"batch {case['batch']}, {counted(case['threads'], 'thread')}"
    lines = [f"Milliseconds since the activation above, {where}; the quickest run that keeps them", ""]
    lines.append(f"{'':<30}" + "".join(f"{engine:>10} GFLOP/s" for engine in engines))
    lines += [layer_row(name, [layers.get(name) for layers in engines.values()]) for name in names if matters(name)]
    rest = [sum(x["ms"] for name, x in layers.items() if not matters(name)) for layers in engines.values()]
    lines.append(layer_row("all others", [{"ms": x, "gflop": 0} for x in rest]))
    lines.append(layer_row("sum", [{"ms": total, "gflop": 0} for total in totals.values()]))
    calls = [case["engines"][engine]["median_ms"] for engine in engines]
    lines.append(layer_row("a call that keeps nothing", [{"ms": call, "gflop": 0} for call in calls]))
    return "\n".join(lines)


def layer_row(name, layers):
    text = f"{name:<30}"
    for layer in layers:
        time = ms(layer["ms"]) if layer else ""
        speed = f"{1000 * layer['gflop'] / layer['ms']:.4g}" if layer and layer["gflop"] and layer["ms"] else ""
        text += f"{time:>10}{speed:>8}"
    return text.rstrip()


def cold_text(cold):
    if not cold:
        return ""
    lines = ["Seconds from the start of a process to the first heatmaps, one start each", ""]
    lines.append(f"{'':<14}{'empty cache':>13}{'warm cache':>13}   (the cache of compiled code)")
    lines += [f"{name:<14}{x['empty_cache_s']:>13.2f}{x['warm_cache_s']:>13.2f}" for name, x in cold.items()]
    return "\n".join(lines)
