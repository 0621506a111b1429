"""`minivitpose bench`: this package's engines and others in turn."""

import argparse
import json
from pathlib import Path

from minivitpose.cli.options import UsageError, check_figure, check_file, positive, say
from minivitpose.files import write_text

EXAMPLE = "minivitpose bench --variant s --batch 1 8 --peers torch,openvino --json s.json --chart s.png"


def add(command):
    text = "time this package's engines and others: a process each, in turn, results compared"
    p = command("bench", run, text, EXAMPLE)
    p.add_argument("--variant", type=str.lower, default="s", choices=("s", "b", "l", "h", "mini"), help="(default: s)")
    p.add_argument("--head", default="classic", choices=("classic", "simple"), help="(default: classic)")
    p.add_argument("--batch", type=positive, nargs="+", default=[1], metavar="N", help="crops a call (default: 1)")
    p.add_argument("--threads", type=positive, nargs="+", metavar="N", help="for all engines (default: every core)")
    add_names(p, "--engines", ("fast", "numba", "numpy"), "of this package (default: all)")
    peers = ("torch", "torch-compile", "onnxruntime", "openvino")
    add_names(p, "--peers", peers, "others, those that are installed (default: all but torch-compile)", but=peers[1:2])
    add_names(
        p,
        "--precision",
        ("float32", "bf16"),
        "what to compute in; only fast and openvino have bf16 (default: float32)",
        but=("bf16",),
    )
    p.add_argument(
        "--seconds", type=float, default=3, metavar="S", help="of calls, for each engine and case (default: 3)"
    )
    p.add_argument("--json", type=Path, metavar="F.json", help="write all numbers, every call's too")
    p.add_argument("--chart", type=Path, metavar="F.png", help="draw them as bars")
    p.add_argument("--cold", action="store_true", help="also from the start of a process to its first heatmaps")


def add_names(p, option, names, text, but=()):
    """An option that takes some of these names, with spaces or commas between; default: all of them, ``but`` some."""

    def listed(words):
        found = [word for word in words.split(",") if word]
        if unknown := [word for word in found if word not in names]:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(names)}; found {unknown[0]!r}")
        return found

    default = [[name for name in names if name not in but]]
    p.add_argument(option, type=listed, nargs="*", default=default, metavar="NAME", help=f"{', '.join(names)}: {text}")


def run(options):
    """Engines in turn. Exit code 1 if one computes something else."""
    from minivitpose.bench import Plan, bench
    from minivitpose.bench.machine import cores
    from minivitpose.bench.report import report

    threads, engines = options.threads or [cores()], engines_to_time(options)
    if max(threads) > cores():
        raise UsageError(f"--threads {max(threads)}: this process may use {cores()} cores, more threads only wait")
    if not 0 < options.seconds < 3600:
        raise UsageError(f"--seconds {options.seconds}: expected more than 0 and less than an hour")
    if options.json:
        check_file(options.json)
    if options.chart:
        check_figure(options.chart)
    unique = [tuple(dict.fromkeys(names)) for names in (options.batch, threads, engines)]
    result = bench(Plan(options.variant, options.head, *unique, options.seconds, options.cold), say)
    print(report(result))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
        print(f"\nwritten: {options.json}")
    if options.chart:
        from minivitpose.bench.chart import bench_chart
        from minivitpose.plot import save

        save(bench_chart(result), options.chart)
        print(f"written: {options.chart}")
    return 1 if wrong(result) else 0


def engines_to_time(options):
    """The names that the three options together mean."""
    from minivitpose.bench.engines import BF16

    engines, peers, precision = (sum(lists, []) for lists in (options.engines, options.peers, options.precision))
    names = engines + peers
    chosen = names if "float32" in precision else []
    chosen += [f"{name}-bf16" for name in names if "bf16" in precision and f"{name}-bf16" in BF16]
    if not chosen:
        raise UsageError("nothing to time: name one with --engines or --peers; only fast and openvino have bf16")
    return chosen


def wrong(result):
    """Whether an engine was left out for its answer."""
    return any("WRONG" in why for case in result["cases"] for why in case["left_out"].values())
