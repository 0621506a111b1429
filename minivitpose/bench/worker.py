"""One engine in a process of its own: ``serve`` is the inside, ``Worker`` the outside.

They speak one line of JSON a message over the process's pipes. The worker loads, runs once and says ready; then it
obeys {"do": "turn", ...} and its like until the parent hangs up. A worker that cannot go on says {"failed": "why"} or
dies; either way the parent gets a WorkerError of one line, and never waits longer than PATIENCE.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import numpy as np

from minivitpose.bench.engines import IMAGES, Job, load_engine
from minivitpose.bench.machine import fma_peak, peak_memory

PATIENCE = 600  # seconds for one answer; compiling everything for the first time takes minutes on a slow machine
GRACE = 5  # seconds that a worker has to end after the parent has hung up
THREADS = ("NUMBA", "OMP", "OPENBLAS", "MKL", "VECLIB")
SOURCE = Path(__file__).parents[2]  # where this package lies: the worker measures this one, not another


# --------------------------------------------------------------------------------------------------------------- inside


def serve(text):
    """The life of a worker. text: its Job as JSON. Returns the exit code."""
    channel = os.fdopen(os.dup(1), "w")  # the pipe to the parent; what libraries print goes to standard error
    os.dup2(2, 1)
    try:
        for answer in answers(Job(**json.loads(text)), sys.stdin):
            print(json.dumps(answer), file=channel, flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        return 1
    except Exception as error:
        print(json.dumps({"failed": one_line(error)}), file=channel, flush=True)
        return 1
    return 0


def answers(job, orders):
    """What the worker says: that it is ready, then one answer an order. orders: lines of JSON."""
    start = perf_counter()
    engine = load_engine(job)
    loaded = perf_counter()
    images = np.load(job.file(IMAGES))[: job.batch]
    engine.run(images)
    runs = ran(engine.model) if engine.model else job.engine
    yield {"load_s": loaded - start, "first_s": perf_counter() - loaded, "versions": engine.versions, "runs": runs}
    for line in orders:
        order = json.loads(line)
        yield ORDERS[order.pop("do")](job, engine, images, **order)


def ran(model):
    """What this package's model runs on: where the fast engine cannot, the model takes another."""
    return f"{model.engine}-bf16" if model.precision == "bf16" else model.engine


def turn(job, engine, images, seconds, skip):
    """Milliseconds of every call for this many seconds, one call at least. skip: calls before that do not count."""
    for _ in range(skip):
        engine.run(images)
    times, end = [], perf_counter() + seconds
    while not times or perf_counter() < end:
        start = perf_counter()
        engine.run(images)
        times.append(1000 * (perf_counter() - start))
    return {"ms": times}


def layers(job, engine, images, seconds, least=3):
    """Milliseconds between activations in the quickest of the runs of so many seconds: name -> ms.

    The fast engine keeps only some activations: the time of one is that of all since the one before.
    """
    look = fused_times if engine.model.engine == "fast" else layer_times
    runs, end = [], perf_counter() + seconds
    while len(runs) < least or perf_counter() < end:
        runs.append(look(engine.model, images))
    return {"ms": min(runs, key=lambda run: sum(run.values()))}


def layer_times(model, images):
    return model.run_with_cache(images)[1].milliseconds


def fused_times(model, images):
    """The same for the fast engine, whose tap sees the activations of one crop after the other."""
    times, last = {}, perf_counter()

    def tap(name, x):
        nonlocal last
        times[name] = times.get(name, 0) + 1000 * (perf_counter() - last)
        last = perf_counter()

    model.fused(images, tap)
    return times


def heatmaps(job, engine, images):
    """Writes the heatmaps to a file, for the parent to compare."""
    path = job.file(f"{job.engine}.npy")
    np.save(path, engine.run(images))
    return {"file": path}


def memory(job, engine, images):
    return {"bytes": peak_memory()}


def peak(job, engine, images):
    return {"gflops": fma_peak(job.threads)}


ORDERS = {f.__name__: f for f in (turn, layers, heatmaps, memory, peak)}


def one_line(error):
    """An exception as the user is told it, with what to install where that is what is missing."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:300]} ..."
    if isinstance(error, ModuleNotFoundError) and "pip install" not in text:
        return f"{text}: pip install 'minivitpose[bench]'"
    return text if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"


# -------------------------------------------------------------------------------------------------------------- outside


class WorkerError(Exception):
    """A worker could not start, failed, died or did not answer; the message is one line."""


class Worker:
    """A worker process. Attributes: job; ready (what it said when it was); start_s (from the process to heatmaps)."""

    def __init__(self, job, environment=None):
        """Starts the process and waits until it is ready. environment: variables beside those for the threads."""
        self.job = job
        self.log = Path(job.file(f"{job.engine}.log"))
        start = perf_counter()
        with open(self.log, "wb") as log:
            command = [sys.executable, "-P", "-m", "minivitpose.bench", "worker", json.dumps(asdict(job))]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(command, env=environ(job.threads) | (environment or {}), text=True, **pipes)
        self.lines = queue.SimpleQueue()
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()
        try:
            self.ready = self.answer()
        except BaseException:
            self.close()
            raise
        self.start_s = perf_counter() - start

    def listen(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def ask(self, do, **order):
        """Gives an order and returns the answer. Raises WorkerError."""
        with suppress(OSError):  # it is dead, and the answer says of what
            print(json.dumps({"do": do, **order}), file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        try:
            line = self.lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise WorkerError(f"no answer within {PATIENCE} s") from None
        if not line:
            raise WorkerError(f"the process died, exit code {self.process.wait()}{self.last_words()}")
        message = json.loads(line)
        if "failed" in message:
            raise WorkerError(message["failed"])
        return message

    def last_words(self):
        words = self.log.read_text(errors="replace").split("\n")
        words = [line.strip() for line in words if line.strip()]
        return f": {words[-1][:200]}" if words else ""

    def close(self):
        """Ends the process, by force if it does not hear."""
        with suppress(OSError):  # it died with an order unread
            self.process.stdin.close()
        try:
            self.process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.listener.join()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def environ(threads):
    """The environment of a worker with this many threads."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(SOURCE)]))  # SOURCE may be site-packages
    return os.environ | {f"{name}_NUM_THREADS": str(threads) for name in THREADS} | {"PYTHONPATH": path}
