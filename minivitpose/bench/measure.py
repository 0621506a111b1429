"""The course of a benchmark: files, workers, turns, checks, numbers."""

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import numpy as np

from minivitpose.bench.engines import BF16, GRAPH, IMAGES, PACKAGE, WEIGHTS, Job
from minivitpose.bench.machine import cores, describe_machine, gflop, multiply_adds, processor_seconds
from minivitpose.bench.worker import Worker, WorkerError
from minivitpose.config import as_dict, variant_config
from minivitpose.trace import activation_shapes

TURN_S = 0.3  # how long an engine works before the next one does
PAUSE_S = 0.1  # until the threads of the one before have stopped spinning: ONNX Runtime's do for 35 ms
LEAST_ROUNDS = 3
FREE = 0.15  # cores that other programs may use beyond those that are free before a case counts as disturbed
TOLERANCE = {"float32": 1e-4, "bf16": 0.05}  # the largest difference from the NumPy engine, relative to the maximum
SEED = 0


class BenchError(ValueError):
    """Nothing could be measured, or a wish that makes no sense; one line."""


@dataclass(frozen=True)
class Plan:
    """What to measure: a variant with random weights, every engine for every number of threads and every batch.

    engines: names from PACKAGE, PEERS and BF16. seconds: of measured calls, for each engine and case.
    """

    variant: str = "s"
    head: str = "classic"
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    engines: tuple[str, ...] = ("fast", "numba", "numpy")
    seconds: float = 3.0
    cold: bool = False


def bench(plan, say=print):
    """Carries the plan out; say(text) is told of the progress. Returns all numbers as one dict, ready for JSON.

    The dict: date, machine, model, settings, versions, cases (for each number of threads and each batch: peak_gflops,
    cores_of_others, disturbed, base, engines by name, left_out by name with the reason), cold (by engine).
    Raises BenchError.
    """
    config = variant_config(plan.variant, head=plan.head)
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": describe_machine()}
    result["model"] = {
        "config": as_dict(config),
        "gflop_per_crop": gflop(config),
        "weights": f"random weights of seed {SEED}",
    }
    result["settings"] = {"seconds": plan.seconds, "turn_s": TURN_S, "pause_s": PAUSE_S, "tolerance": TOLERANCE}
    result["versions"] = {}
    with TemporaryDirectory(prefix="minivitpose-bench-", ignore_cleanup_errors=True) as folder:
        left_out = prepare(plan, config, folder, say)
        cases = [(threads, batch) for threads in plan.threads for batch in plan.batches]
        jobs = {case: Job("", folder, as_dict(config), case[1], case[0]) for case in cases}
        result["cases"] = [measure(plan, config, jobs[case], left_out, result["versions"], say) for case in cases]
        measured = result["cases"][-1]["engines"]
        result["cold"] = cold_starts(measured, jobs[cases[-1]], say) if plan.cold else {}
    if not any(case["engines"] for case in result["cases"]):
        reasons = "; ".join(f"{name}: {why}" for name, why in result["cases"][0]["left_out"].items())
        raise BenchError(f"nothing could be measured: {reasons}")
    return result


# ---------------------------------------------------------------------------------------------------------------- files


def prepare(plan, config, folder, say):
    """Writes what the workers read: weights, graph, images, heatmaps. Returns engines left out: name -> why."""
    from safetensors.numpy import save_file

    from minivitpose import load
    from minivitpose.config import parameter_shapes
    from minivitpose.parameters import random_state_dict

    say(f"{config.describe()}: random weights, and the NumPy engine's heatmaps to compare with ...")
    state = random_state_dict(parameter_shapes(config), SEED)
    state = {name: np.asarray(x, np.float32 if x.dtype.kind == "f" else x.dtype) for name, x in state.items()}
    save_file(state, Path(folder) / WEIGHTS)
    model = load(state, "numpy", num_heads=config.num_heads)
    rng = np.random.default_rng(SEED)
    images = rng.standard_normal((max(plan.batches), 3, *config.image_size), dtype=np.float32)
    np.save(Path(folder) / IMAGES, images)
    np.save(Path(folder) / "expected.npy", np.concatenate([model(image[None]) for image in images]))
    readers = [name for name in plan.engines if name.startswith(("onnxruntime", "openvino"))]
    try:
        if readers:
            from minivitpose.onnx_export import save_onnx

            save_onnx(model, Path(folder) / GRAPH)
    except ImportError as error:
        return dict.fromkeys(readers, str(error))
    return {}


# --------------------------------------------------------------------------------------------------------------- a case


def measure(plan, config, job, left_out, versions, say):
    """One number of threads, one batch: all engines in turn. Fills versions in. Returns the case's numbers."""
    left_out, engines, before, start_s = dict(left_out), {}, processor_seconds(), time.perf_counter()
    say(f"batch {job.batch}, {job.threads} thread{'s' * (job.threads > 1)}: starting")
    with ExitStack() as stack:
        workers = start(plan.engines, job, left_out, stack, say)
        peak = start(["peak"], job, left_out, stack, say).get("peak") if workers else None
        times, highest = take_turns(workers, peak, plan.seconds, left_out, say)
        for name, worker in workers.items():
            if name not in left_out:
                with leaving_out(name, left_out, say):
                    engines[name] = finish(worker, times[name])
                    versions |= worker.ready["versions"]
    others = cores_of_others(before, processor_seconds(), time.perf_counter() - start_s)
    base = base_of(engines)
    for name, engine in engines.items():
        peak_of_kind = None if name in BF16 else highest  # the measured peak is that of float32
        engine |= summary(engine["times_ms"], job.batch, gflop(config), peak_of_kind)
        engine["ratio"] = engine["median_ms"] / median(engines[base]["times_ms"])
        engine["layers"] = layer_table(engine.pop("layer_ms"), config, job.batch)
    case = {"batch": job.batch, "threads": job.threads, "peak_gflops": highest, "base": base}
    case |= {"cores_of_others": others, "disturbed": is_disturbed(others, job.threads, cores())}
    return case | {"engines": engines, "left_out": left_out}


def start(names, job, left_out, stack, say):
    """Starts and checks a worker for each name, one after the other. Returns name -> Worker of those that are right."""
    workers = {}
    for name in names:
        if name in left_out:
            say(f"  {name}: left out: {left_out[name]}")
            continue
        with leaving_out(name, left_out, say):
            worker = stack.enter_context(Worker(replace(job, engine=name)))
            if name != "peak":
                check(worker)
            workers[name] = worker
            say(f"  {name}: ready after {worker.start_s:.1f} s")
    return workers


@contextmanager
def leaving_out(name, left_out, say):
    """A worker that fails in here is left out from then on, with the reason; the others go on."""
    try:
        yield
    except WorkerError as error:
        left_out[name] = str(error)
        say(f"  {name}: left out: {error}")


def check(worker):
    """The largest difference of a worker's heatmaps from the NumPy engine's, relative to the maximum.

    Raises WrongAnswer if it is more than the tolerance, or not a number.
    """
    actual = np.load(worker.ask("heatmaps")["file"])
    expected = np.load(worker.job.file("expected.npy"))[: worker.job.batch]
    if actual.shape != expected.shape:
        raise WrongAnswer(f"WRONG heatmaps: shape {actual.shape} instead of {expected.shape}")
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    limit = TOLERANCE["bf16" if worker.job.engine in BF16 else "float32"]
    if not error <= limit:
        raise WrongAnswer(f"WRONG heatmaps: off by {error:.2g} of the maximum, allowed {limit:.0e}")
    return error


class WrongAnswer(WorkerError):
    """The engine computes something else: its time means nothing."""


def take_turns(workers, peak, seconds, left_out, say):
    """Measures all in turn. Returns (name -> milliseconds of all calls, the CPU's highest measured GFLOP/s or None).

    peak: the Worker that measures the CPU, or None. A worker that fails on the way is left out.
    """
    rounds = max(LEAST_ROUNDS, round(seconds / TURN_S)) if workers else 0
    call_ms, times, peaks = {}, {name: [] for name in workers}, []
    for name, worker in workers.items():  # to be warm, and to see how long a call is
        with leaving_out(name, left_out, say):
            call_ms[name] = median(one_turn(worker, skip=0))
    for i in range(rounds):
        say(f"  round {i + 1} of {rounds}")
        for name, worker in workers.items():
            if name not in left_out and is_due(i, rounds, call_ms[name]):
                with leaving_out(name, left_out, say):  # the others had the cache: the first call brings it back
                    times[name] += one_turn(worker, skip=int(call_ms[name] < 1000 * TURN_S))
        if peak and "peak" not in left_out:
            time.sleep(PAUSE_S)
            with leaving_out("peak", left_out, say):
                peaks.append(peak.ask("peak")["gflops"])
    return times, max(filter(None, peaks), default=None)


def one_turn(worker, skip):
    """Milliseconds of the calls of one turn, while all others sleep."""
    time.sleep(PAUSE_S)
    return worker.ask("turn", seconds=TURN_S, skip=skip)["ms"]


def is_due(i, rounds, call_ms):
    """Whether an engine takes its turn in round i: one whose call is longer than a turn takes fewer, spread evenly."""
    every = min(ceil(call_ms / 1000 / TURN_S), rounds // LEAST_ROUNDS)
    return i % max(1, every) == 0


def finish(worker, times):
    """What else there is to know of an engine, after its times: the answer is still right, memory, layers."""
    found = {"runs": worker.ready["runs"], "error": check(worker), "times_ms": [round(ms, 4) for ms in times]}
    found |= {name: worker.ready[name] for name in ("load_s", "first_s")}
    found["memory_bytes"] = worker.ask("memory")["bytes"]
    in_package = worker.job.engine in PACKAGE
    return found | {"layer_ms": worker.ask("layers", seconds=3 * TURN_S)["ms"] if in_package else {}}


# -------------------------------------------------------------------------------------------------------------- numbers


def summary(times, batch, gflop_per_crop, peak):
    """Times in ms to the numbers that are printed. peak: GFLOP/s or None."""
    middle = median(times)
    q1, _, q3 = quantiles(times, n=4, method="inclusive") if len(times) > 1 else [middle] * 3
    gflops = 1000 * gflop_per_crop * batch / middle
    return {
        "calls": len(times),
        "median_ms": middle,
        "minimum_ms": min(times),
        "quartiles_ms": [q1, q3],
        "ms_per_crop": middle / batch,
        "gflops": gflops,
        "share_of_peak": gflops / peak if peak else None,
    }


def cores_of_others(before, after, seconds):
    """How many cores other programs used in between, on average; None if unknown. before, after: processor_seconds."""
    if before is None:
        return None
    everybody, own = (y - x for x, y in zip(before, after, strict=True))
    return round(max(0, everybody - own) / seconds, 2)


def is_disturbed(others, threads, available):
    """Whether other programs took cores that the engines wanted. Those whose threads wait for each other lose most.

    On two cores with a busy one, PyTorch took 20 times its time and the fast engine twice.
    """
    return bool(others) and others + threads > available + FREE


def base_of(engines):
    """What the others are compared with: fast, or the first there is."""
    return "fast" if "fast" in engines else next(iter(engines), None)


def layer_table(milliseconds, config, batch):
    """Time and arithmetic from one kept activation to the next, blocks together: name -> {ms, gflop}."""
    total, counts, table, count = {}, multiply_adds(config), {}, 0
    for name, ms in milliseconds.items():
        name = without_number(name)
        total[name] = total.get(name, 0) + ms
    for name in dict.fromkeys(map(without_number, activation_shapes(config))):
        count += counts.get(name, 0)
        if name in total:
            table[name] = {"ms": total[name], "gflop": 2e-9 * batch * count}
            count = 0
    return table


def without_number(name):
    """backbone.blocks.7.mlp.fc1 -> backbone.blocks.*.mlp.fc1"""
    parts = name.split(".")
    return ".".join([*parts[:2], "*", *parts[3:]]) if parts[:2] == ["backbone", "blocks"] else name


# ----------------------------------------------------------------------------------------------------------- cold start


def cold_starts(names, job, say):
    """Seconds from the start of a process to the first heatmaps: name -> {empty_cache_s, warm_cache_s}.

    The caches are those of compiled code (Numba's, and torch.compile's); files are in the system's memory already.
    """
    found, left_out = {}, {}
    for name in names:
        say(f"cold start: {name}")
        with TemporaryDirectory(prefix="minivitpose-cache-", ignore_cleanup_errors=True) as folder:
            caches = {"NUMBA_CACHE_DIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
            with leaving_out(name, left_out, say):
                found[name] = {f"{state}_cache_s": cold_start(name, job, caches) for state in ("empty", "warm")}
    return found


def cold_start(name, job, caches):
    with Worker(replace(job, engine=name), caches) as worker:
        return worker.start_s
