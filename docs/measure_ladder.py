"""The figures of performance.md: one matrix product from a Python loop to the CPU's peak, and where a pass's time goes.

python docs/measure_ladder.py                              # every table, about a minute
python docs/measure_ladder.py --chart docs/roofline.png    # and the picture
python docs/measure_ladder.py --load                       # two threads beside busy processes (ten seconds)

Every time is the smallest of many short runs, taken in turn with the others: a machine that is shared slows some runs
down and speeds none up.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded

import argparse
import ctypes
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba import njit, prange

import minivitpose as mvp
from minivitpose.bench.machine import describe_machine, fma_peak, multiply_adds
from minivitpose.config import parameter_shapes, variant_config
from minivitpose.kernels.amx import AMX
from minivitpose.kernels.crew import SKIP, Crew, new_counters
from minivitpose.kernels.fused.forward import classic
from minivitpose.kernels.gemm import BLOCK, CHUNK, STORE, SUMS, pack, product
from minivitpose.kernels.linear import rows_times_rows
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, VECTORS, tile_product
from minivitpose.kernels.simd import HALF, LANES, aligned, from_half, load, splat, store, sum_lanes, to_half
from minivitpose.kernels.vecmath import exp, gelu
from minivitpose.parameters import random_state_dict
from minivitpose.plot import GREY, INK, new_figure, save

TOKENS, DEPTH = 192, 12  # rows of every product; blocks, each with a weight of its own
SHAPES = {"fc1": (3072, 768), "fc2": (768, 3072)}  # N, K of ViTPose-B's two largest products: y (M, N) = x (M, K) W^T

# ---------------------------------------------------------------------------------------------------------- the ladder
# x (M, K), weight (N, K) as PyTorch stores it, turned (K, N) its transpose, panels as gemm.py packs it -> y (M, N)


@njit(error_model="numpy")
def triple_loop(x, weight, y):
    for m in range(len(x)):
        for n in range(len(weight)):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[m, k] * weight[n, k]
            y[m, n] = total


@njit(error_model="numpy", fastmath={"contract"})
def rows_of_turned(x, turned, y):
    """The loops as i-k-j: a whole row of y at once, so that the inner loop has no chain."""
    for m in range(len(x)):
        row = y[m]
        row[:] = 0
        for k in range(len(turned)):
            a, b = x[m, k], turned[k]
            for n in range(len(row)):
                row[n] += a * b[n]


@njit(error_model="numpy", fastmath={"contract"})
def blocks(x, turned, y, depth, width):
    """The same for a block of the weight at a time: all rows of x meet it while it lies in the first-level cache."""
    y[:] = 0
    for n0 in range(0, y.shape[1], width):
        for k0 in range(0, len(turned), depth):
            for m in range(len(x)):
                row = y[m, n0 : n0 + width]
                for k in range(k0, k0 + depth):
                    a, b = x[m, k], turned[k, n0 : n0 + width]
                    for n in range(width):
                        row[n] += a * b[n]


@njit(error_model="numpy", fastmath={"contract"})
def four_rows(x, turned, y, depth, width):
    """Four rows of the block at once: y is read and written once for four multiply-adds."""
    y[:] = 0
    for n0 in range(0, y.shape[1], width):
        n1 = n0 + width
        for k0 in range(0, len(turned), depth):
            for m in range(len(x)):
                row = y[m, n0:n1]
                for k in range(k0, k0 + depth, 4):
                    a0, a1, a2, a3 = x[m, k], x[m, k + 1], x[m, k + 2], x[m, k + 3]
                    b0, b1, b2, b3 = turned[k, n0:n1], turned[k + 1, n0:n1], turned[k + 2, n0:n1], turned[k + 3, n0:n1]
                    for n in range(width):
                        row[n] = row[n] + a0 * b0[n] + a1 * b1[n] + a2 * b2[n] + a3 * b3[n]


# kernels/linear.py's loops, on one thread and compiled here, so that the compiled text can be looked at.
dot_products = njit(error_model="numpy", fastmath={"reassoc"})(rows_times_rows.py_func)


@njit
def tiles(x, turned, y):
    """ROWS x COLUMNS sums in registers over the whole of k; the weight as it lies."""
    for j in range(0, y.shape[1], COLUMNS):
        for i in range(0, len(x), ROWS):
            tile_product(y, i, j, x, i, 0, turned, 0, j, len(turned), 0, False)


@njit
def tiles_of_panels(x, panels, y):
    """The same, but the tile's COLUMNS columns of the weight lie one after the other."""
    K = x.shape[1]
    for p in range(y.shape[1] // COLUMNS):
        for i in range(0, len(x), ROWS):
            tile_product(y, i, p * COLUMNS, x, i, 0, panels, p * K, 0, K, p * K, False)


@njit
def tiles_of_blocks(x, panels, y):
    """The same, BLOCK of k at a time, each summed apart: 32 KiB of a panel serve all rows of x."""
    K = x.shape[1]
    for p in range(y.shape[1] // COLUMNS):
        for k in range(0, K, BLOCK):
            for i in range(0, len(x), ROWS):
                tile_product(y, i, p * COLUMNS, x, i, k, panels, p * K + k, 0, BLOCK, p * K + k, k > 0)


@njit(nogil=True)
def gemm(counters, t, threads, x, layers, bias, y, sums):
    """The package's: that, and the next block fetched meanwhile. One step a weight, as in a whole pass."""
    for step in range(len(layers)):
        product(counters, step, threads, x, layers[step], bias, y, y, STORE, sums[t])


class Problem:
    """One product, with DEPTH weights that take turns: like a pass, which meets each weight once and finds it cold."""

    def __init__(self, N, K):
        rng = np.random.default_rng(0)
        self.x, self.y = on_a_line(rng.standard_normal((TOKENS, K))), aligned(TOKENS, N)
        self.weights = [on_a_line(rng.standard_normal((N, K)) / np.sqrt(K)) for _ in range(DEPTH)]
        self.turned = [on_a_line(w.T) for w in self.weights]
        self.panels = on_a_line(np.stack([pack(w) for w in self.weights]))
        self.bias, self.sums = aligned(1, N), aligned(2, CHUNK, SUMS)
        self.truth = self.x.astype(np.float64) @ self.weights[0].T.astype(np.float64)
        self.gflop, self.crews, self.steps = 2e-9 * TOKENS * N * K, {}, new_counters(DEPTH)

    def gemm(self, threads, layers, x=None):
        """x (or another one) times all of ``layers``, one after the other."""
        crew = self.crews.setdefault(threads, Crew(threads))
        self.steps[:] = 0
        crew.go(gemm, self.steps, self.x if x is None else x, layers, self.bias, self.y, self.sums)

    def error(self):
        """Of y, once it is x times the first weight."""
        return relative_rms(self.y, self.truth)

    def rungs(self):
        """name -> (what runs on weight i, how many products that is, rounds)."""
        x, y, w, turned, panels = self.x, self.y, self.weights, self.turned, self.panels
        few = 2 * 16 / (len(y) * y.shape[1])  # of the Python loop: 2 rows of x, 16 of the weight
        return {
            "three loops, Python": (lambda i: triple_loop.py_func(x[:2], w[i][:16], y), few, 2),
            "three loops, Numba": (lambda i: triple_loop(x, w[i], y), 1, 2),
            "i-k-j": (lambda i: rows_of_turned(x, turned[i], y), 1, 10),
            "in blocks": (lambda i: blocks(x, turned[i], y, 8, 768), 1, 10),
            "four rows at once": (lambda i: four_rows(x, turned[i], y, 8, 768), 1, 20),
            "dot products": (lambda i: dot_products(x, w[i], self.bias[0], y), 1, 30),
            "NumPy": (lambda i: np.matmul(x, w[i].T, out=y), 1, 30),
            "register tile": (lambda i: tiles(x, turned[i], y), 1, 30),
            "packed panels": (lambda i: tiles_of_panels(x, panels[i], y), 1, 30),
            "k in blocks": (lambda i: tiles_of_blocks(x, panels[i], y), 1, 30),
            "prefetch: gemm.py": (lambda i: self.gemm(1, panels), DEPTH, 10),
            "two threads": (lambda i: self.gemm(2, panels), DEPTH, 10),
        }


def relative_rms(x, truth):
    """The rms of the difference, relative to the rms of the truth."""
    return float(np.sqrt(((x - truth) ** 2).mean() / (truth**2).mean()))


def on_a_line(x, dtype=np.float32, shift=0):
    """A copy that begins on a cache line, or ``shift`` elements after one."""
    flat = aligned(x.size + shift, dtype=dtype)[shift:]
    flat[:] = np.asarray(x, dtype).ravel()
    return flat.reshape(x.shape)


def in_turn(runs, rounds=None):
    """name -> f(i) to name -> least seconds; A B C A B C ..., ``rounds[name]`` or 10 times. The first runs compile."""
    rounds = rounds or {}
    best = dict.fromkeys(runs, np.inf)
    for f in runs.values():
        f(0)
    for r in range(max(rounds.get(name, 10) for name in runs)):
        for name, f in runs.items():
            if r < rounds.get(name, 10):
                start = time.perf_counter()
                f(r % DEPTH)
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak(threads=1):
    """GFLOP/s of multiply-adds on registers alone."""
    best = max(fma_peak(threads) for _ in range(5 * threads))
    time.sleep(0.1 * (threads - 1))  # until OpenMP's threads have stopped spinning
    return best


def ladder():
    """name of the rung -> shape -> (GFLOP/s, part of the peak, error), and threads -> the peak, GFLOP/s."""
    peaks, rates = {t: peak(t) for t in (1, 2)}, {}
    for shape, size in SHAPES.items():
        problem = Problem(*size)
        rungs = problem.rungs()
        rounds = {name: rounds for name, (_, _, rounds) in rungs.items()}
        seconds = in_turn({name: f for name, (f, _, _) in rungs.items()}, rounds)
        for name, (f, products, _) in rungs.items():
            f(0)
            if products == DEPTH:  # all the weights, one after the other: now the first once more
                problem.gemm(1, problem.panels[:1])
            error = problem.error() if products >= 1 else None
            rates.setdefault(name, {})[shape] = problem.gflop * products / seconds[name], error
        if LANES == 16:
            wide = child("numpy", size, OPENBLAS_CORETYPE="SkylakeX")
            rates.setdefault("NumPy, SkylakeX kernels", {})[shape] = wide["gflops"], wide["error"]
    peaks = {t: max(best, peak(t)) for t, best in peaks.items()}
    threads = {"two threads": 2}
    return {
        name: {shape: (rate, rate / peaks[threads.get(name, 1)], error) for shape, (rate, error) in row.items()}
        for name, row in rates.items()
    }, peaks


def show_ladder(rungs, peaks):
    print(f"\npeak, registers only: {peaks[1]:.0f} GFLOP/s on one thread, {peaks[2]:.0f} on two")
    print("\n| rung | K = 768: GFLOP/s | of the peak | error | K = 3072: GFLOP/s | of the peak | error |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rungs.items():
        cells = []
        for rate, part, error in row.values():
            cells += [number(rate), f"{100 * part:.2g} %", f"{error:.1e}" if error else "as Numba's"]
        print(f"| {name} | {' | '.join(cells)} |")
    whole = 2e-9 * TOKENS * np.prod(SHAPES["fc1"]) / rungs["three loops, Python"]["fc1"][0]
    print(f"\nPython: 2 x 16 of the 192 x 3072 numbers were measured; all of them would take {whole:.0f} s.")
    print(f"NumPy's OpenBLAS chose its kernels for {openblas_core()}.")


def number(x):
    return f"{x:.0f}" if x >= 10 else f"{x:.2g}"


# ----------------------------------------------------------------------------------------------------------- assembler


def show_assembler():
    """What the compiled text of each inner loop holds: the stretch between two labels with most multiplications."""
    print("\n| inner loop of | register | multiply-adds | loads | stores | loads for a multiply-add |")
    print("|---|---|---|---|---|---|")
    for f in (triple_loop, rows_of_turned, blocks, four_rows, dot_products, tiles, tiles_of_panels, tiles_of_blocks):
        text = max(f.inspect_asm().values(), key=len)
        for register, kind in {"zmm": "ps", "ymm": "ps", "xmm": "ss"}.items():
            work = rf"\tv(?:fmadd\d+|mul){kind}\t.*%{register}"
            inner = max(re.split(r"\n\.L\w+:", text), key=lambda part: len(re.findall(work, part)))
            if count := len(re.findall(work, inner)):
                break
        stores = len(re.findall(rf"\tvmov\S+\t%{register}\d+, \S*\(", inner))
        loads = len(re.findall(rf"\tv\w+\t\S*\(.*%{register}", inner))
        print(f"| {f.__name__} | {register} | {count} | {loads} | {stores} | {loads / count:.2f} |")


def openblas_core():
    """For which CPU NumPy's OpenBLAS chose its kernels."""
    for path in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        name = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
        name.restype = ctypes.c_char_p
        return name().decode()
    return "an unknown CPU"


# -------------------------------------------------------------------------------------------------------------- memory


@njit(nogil=True)
def read(x, times):
    """Adds up every row of x (rows, 8 LANES), so often; eight sums, so that no addition waits for another."""
    a = b = c = d = e = f = g = h = splat(np.float32(0))
    for _ in range(times):
        for i in range(len(x)):
            a = a + load(x, i, 0)
            b = b + load(x, i, LANES)
            c = c + load(x, i, 2 * LANES)
            d = d + load(x, i, 3 * LANES)
            e = e + load(x, i, 4 * LANES)
            f = f + load(x, i, 5 * LANES)
            g = g + load(x, i, 6 * LANES)
            h = h + load(x, i, 7 * LANES)
    return sum_lanes(a + b + c + d + (e + f + g + h))


def memory():
    """Where an array lies -> GB/s that one thread reads; "memory, two threads" likewise."""
    result = {}
    for name, kib in {"first-level cache": 24, "second": 512, "third": 8 << 10, "memory": 384 << 10}.items():
        x = aligned(kib * 256 // (8 * LANES), 8 * LANES)
        x += 1  # so that every page is there
        times = max(1, (64 << 10) // kib)
        result[name] = x.nbytes * times / in_turn({"": lambda i, x=x, times=times: read(x, times)})[""] / 1e9
    with ThreadPoolExecutor(1) as other:

        def both(i):
            half = other.submit(read, x[: len(x) // 2], 1)
            read(x[len(x) // 2 :], 1)
            half.result()

        result["memory, two threads"] = x.nbytes / in_turn({"": both})[""] / 1e9
    return result


# ---------------------------------------------------------------------------------------------------------- whole pass

STEPS = ["patches in rows", "patch embedding"]
BLOCK_STEPS = ["norms", "qkv", "keys turned", "attention", "proj", "norms", "fc1, gelu", "fc2"]
HEAD_STEPS = ["norms", "deconv 1", "deconv 2", "final layer", "maps"]
WORK = {  # of a part: names in bench.machine.multiply_adds
    "patch embedding": ["backbone.patch_embed.proj"],
    "qkv": ["backbone.blocks.*.attn.qkv"],
    "attention": ["backbone.blocks.*.attn.scores", "backbone.blocks.*.attn.z"],
    "proj": ["backbone.blocks.*.attn.proj"],
    "fc1, gelu": ["backbone.blocks.*.mlp.fc1"],
    "fc2": ["backbone.blocks.*.mlp.fc2"],
    "deconv 1": ["keypoint_head.deconv_layers.0"],
    "deconv 2": ["keypoint_head.deconv_layers.3"],
    "final layer": ["keypoint_head.final_layer"],
}


class Pass:
    """A network of random weights, its time on one thread, and the time of each part."""

    def __init__(self, variant, precision=None, rounds=12):
        self.config = variant_config(variant)
        state = random_state_dict(parameter_shapes(self.config))
        engine = mvp.load(state, precision=precision).fused
        self.image = np.random.default_rng(1).standard_normal((1, 3, 256, 192), dtype=np.float32)
        self.run = lambda i: engine(self.image)
        self.time_parts(engine, rounds)

    def time_parts(self, engine, rounds):
        """Every step alone: the counters of the others stand at SKIP, so they are passed over."""
        heatmaps, space = engine(self.image), engine.workspace(1, (256, 192), 1)
        buffers = space.buffers._replace(images=self.image)
        names = STEPS + BLOCK_STEPS * self.config.depth + HEAD_STEPS
        assert len(names) == len(space.counters)
        best, empty, total, peaks = np.full(len(names), np.inf), np.inf, np.inf, []

        def step(i):
            space.counters[:] = SKIP
            if i is not None:
                space.counters[i] = 0
            start = time.perf_counter()
            space.crew.go(classic, space.counters, engine.weights, space.sizes, buffers, heatmaps)
            return time.perf_counter() - start

        for _ in range(rounds):
            start = time.perf_counter()
            self.run(0)
            total = min(total, time.perf_counter() - start)
            empty = min(empty, *(step(None) for _ in range(5)))
            best = np.minimum(best, [step(i) for i in range(len(names))])
            peaks.append(fma_peak(1))
        self.total, self.peak, self.parts = total, max(peaks), {}
        for name, seconds in zip(names, best - empty, strict=True):
            self.parts[name] = self.parts.get(name, 0) + seconds
        counts = multiply_adds(self.config)
        self.gflop = {part: 2e-9 * sum(counts[n] for n in names) for part, names in WORK.items()}

    def show(self, bandwidth):
        c, gflop = self.config, sum(self.gflop.values())
        weights = 4e-9 * sum(np.prod(s) for s in parameter_shapes(c).values())
        ideal, total = 1e3 * gflop / self.peak, 1e3 * self.total
        print(f"\nViTPose-{c.variant}, one thread: {total:.1f} ms, {ideal / total:.0%} of {self.peak:.0f} GFLOP/s")
        print(f"{gflop:.1f} GFLOP take {ideal:.1f} ms at the peak", end="; ")
        print(f"{1e3 * weights:.0f} MB of weights {1e3 * weights / bandwidth['memory']:.1f} ms from memory", end=", ")
        print(f"{1e3 * weights / bandwidth['memory, two threads']:.1f} ms for two threads")
        print("\n| part | measured ms | at the peak ms | GFLOP/s | of the peak | flop a byte |")
        print("|---|---|---|---|---|---|")
        for part, seconds in sorted(self.parts.items(), key=lambda item: -item[1]):
            ms, work = f"{1e3 * seconds:.2f}", self.gflop.get(part)
            if work:
                rate = work / seconds
                ms += f" | {1e3 * work / self.peak:.2f} | {rate:.0f} | {rate / self.peak:.0%}"
                ms += f" | {self.intensity(part):.0f}"
            print(f"| {part} | {ms} |" if work else f"| {part} | {ms} | | | | |")
        print(f"| together | {1e3 * sum(self.parts.values()):.2f} | {ideal:.2f} | | | |")

    def intensity(self, part):
        """Operations for each byte that must move at least: weights and input read once, output written once."""
        C, N, depth = self.config.embed_dim, TOKENS, self.config.depth
        numbers = {
            "patch embedding": N * 768 + 768 * C + N * C,
            "qkv": depth * (N * C + 3 * C * C + 3 * N * C),
            "attention": depth * (3 * N * C + N * C),
            "proj": depth * (N * C + C * C + 2 * N * C),
            "fc1, gelu": depth * (N * C + 4 * C * C + 4 * N * C),
            "fc2": depth * (4 * N * C + 4 * C * C + 2 * N * C),
            "deconv 1": N * C + 16 * C * 256 + 4 * N * 256,
            "deconv 2": 4 * N * 256 + 16 * 256 * 256 + 16 * N * 256,
            "final layer": 16 * N * 256 + 17 * 256 + 16 * N * 17,
        }
        return 1e9 * self.gflop[part] / (4 * numbers[part])


# ------------------------------------------------------------------------------------------------ layout, half, vectors


def show_layout():
    """What the layout of the arrays does to a product, and bfloat16."""
    problem = Problem(*SHAPES["fc1"])
    x, y, turned, panels = problem.x, problem.y, problem.turned, problem.panels
    K, N = turned[0].shape
    shifted, padded = on_a_line(panels, shift=4), [aligned(K, N + LANES) for _ in range(DEPTH)]
    for wide, narrow in zip(padded, turned, strict=True):
        wide[:, :N] = narrow
    runs = {
        "i-k-j": lambda i: rows_of_turned(x, turned[i], y),
        "i-k-j, the weight a slice of wider rows": lambda i: rows_of_turned(x, padded[i][:, :N], y),
        "four rows at once, blocks of 32 x 256": lambda i: four_rows(x, turned[i], y, 32, 256),
        "four rows at once, blocks of 32 x 256, rows of N + 16": lambda i: four_rows(x, padded[i], y, 32, 256),
        "register tile": lambda i: tiles(x, turned[i], y),
        "register tile, rows of N + 16": lambda i: tiles(x, padded[i], y),
        "gemm.py": lambda i: problem.gemm(1, panels),
        "gemm.py, panels 16 bytes off a cache line": lambda i: problem.gemm(1, shifted),
    }
    if HALF:
        halves = on_a_line(np.stack([pack(w, half=True) for w in problem.weights]), np.uint32)
        x_half = on_a_line(to_half(x), np.uint16)
        runs["gemm.py, bfloat16"] = lambda i: problem.gemm(1, halves, x_half)
    print("\n| layout (K = 768, one thread) | GFLOP/s |\n|---|---|")
    for name, seconds in in_turn(runs).items():
        weights = DEPTH if name.startswith("gemm.py") else 1
        print(f"| {name} | {number(problem.gflop * weights / seconds)} |")
    if HALF:
        problem.gemm(1, halves[:1], x_half)
        rounded = from_half(x_half).astype(np.float64) @ from_half(to_half(problem.weights[0])).T.astype(np.float64)
        print(f"bfloat16: error {problem.error():.1e}, of the sums alone {relative_rms(y, rounded):.1e}")


@njit(error_model="numpy")
def exp_of(x):
    for j in range(0, x.shape[1], LANES):
        store(x, 0, j, exp(load(x, 0, j)))


@njit(error_model="numpy")
def gelu_of(x):
    for j in range(0, x.shape[1], LANES):
        store(x, 0, j, gelu(load(x, 0, j)))


def show_vectors():
    """exp and GELU of numbers in the first-level cache, and how many a pass of B needs."""
    x, numbers = aligned(1, 4096), {"exp": DEPTH * 12 * TOKENS**2, "gelu": DEPTH * TOKENS * 3072}
    seconds = in_turn({"exp": lambda i: exp_of(x), "gelu": lambda i: gelu_of(x)}, dict.fromkeys(numbers, 1000))
    print()
    for name, count in numbers.items():
        ns = 1e9 * seconds[name] / x.size
        print(f"{name}: {ns:.2f} ns a number; {count / 1e6:.1f} million in a pass of B: {ns * count / 1e6:.1f} ms")


def show_half(small, full):
    """The parts of a pass of S, and the whole pass of B, in bfloat16 beside float32."""
    half = Pass("S", "bf16")
    print(f"\n{'on the matrix unit' if AMX else 'on vectors'}\n| part | float32 ms | bfloat16 ms |\n|---|---|---|")
    for part, seconds in sorted(small.parts.items(), key=lambda item: -item[1]):
        print(f"| {part} | {1e3 * seconds:.2f} | {1e3 * half.parts[part]:.2f} |")
    print(f"| the whole pass | {1e3 * small.total:.1f} | {1e3 * half.total:.1f} |")
    half = Pass("B", "bf16")
    seconds = in_turn({"float32": full.run, "bfloat16": half.run})
    error = relative_rms(half.run(0), full.run(0))
    times = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in seconds.items())
    ratio = seconds["bfloat16"] / seconds["float32"]
    print(f"\nViTPose-B, one thread: {times}, ratio {ratio:.2f}; the heatmaps differ by {error:.1e} (rms)")


# ------------------------------------------------------------------------------------------------------ other processes


def child(job, arguments=(), **environment):
    """What a function of CHILDREN returns in a process of its own, with these variables in its environment."""
    command = [sys.executable, __file__, "--child", job, *map(str, arguments)]
    process = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout)


def numpy_alone(N, K):
    """GFLOP/s and error of NumPy's product, with the kernels that OPENBLAS_CORETYPE asks for."""
    problem = Problem(int(N), int(K))
    seconds = in_turn({"": problem.rungs()["NumPy"][0]}, {"": 30})[""]
    problem.rungs()["NumPy"][0](0)
    return {"gflops": problem.gflop / seconds, "error": problem.error()}


@njit(parallel=True)
def gemm_in_prange(x, layers, y):
    """Products as gemm does them, but each a parallel region: panels are dealt out, and every thread is waited for."""
    for layer in range(len(layers)):
        panels, K = layers[layer], x.shape[1]
        for p in prange(y.shape[1] // COLUMNS):
            for k in range(0, K, BLOCK):
                for i in range(0, len(x), ROWS):
                    tile_product(y, i, p * COLUMNS, x, i, k, panels, p * K + k, 0, BLOCK, p * K + k, k > 0)


def beside_others():
    """Median ms of 96 small products (192 x 384 times 384 x 384), beside BUSY processes that never rest."""
    rng, numbers = np.random.default_rng(0), 384
    x, y = on_a_line(rng.standard_normal((TOKENS, numbers))), aligned(TOKENS, numbers)
    layers = on_a_line(np.stack([pack(rng.standard_normal((numbers, numbers))) for _ in range(96)]))
    bias, sums, counters = aligned(1, numbers), aligned(2, CHUNK, SUMS), new_counters(len(layers))

    def with_crew(crew):
        counters[:] = 0
        crew.go(gemm, counters, x, layers, bias, y, sums)

    one, two = Crew(1), Crew(2)
    numba.set_num_threads(2)
    runs = {
        "one thread": lambda: with_crew(one),
        "crew of two": lambda: with_crew(two),
        "parallel=True, two": lambda: gemm_in_prange(x, layers, y),
    }
    times = {}
    for busy in BUSY:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            for name, f in 2 * list(runs.items()):
                f()
                end = time.perf_counter() + 0.5
                while time.perf_counter() < end:
                    start = time.perf_counter()
                    f()
                    times.setdefault(f"{name}, {busy}", []).append(1e3 * (time.perf_counter() - start))
                time.sleep(0.1)
        finally:
            for other in others:
                other.kill()
                other.wait()
    return {name: float(np.median(ms)) for name, ms in times.items()}


def show_load():
    print("| 96 small products, median ms, beside busy processes: | 0 | 1 |\n|---|---|---|")
    for environment in ({}, {"OMP_WAIT_POLICY": "passive"}):
        times = child("load", **environment)
        for name in ("one thread", "crew of two", "parallel=True, two"):
            if not environment or name.startswith("parallel"):
                name_and_policy = f"{name}, {' '.join(map('='.join, environment.items()))}" if environment else name
                cells = " | ".join(f"{times[f'{name}, {busy}']:.0f}" for busy in BUSY)
                print(f"| {name_and_policy} | {cells} |")


BUSY = 0, 1
CHILDREN = {"numpy": numpy_alone, "load": beside_others}

# --------------------------------------------------------------------------------------------------------------- chart

LEFT = 29  # flop a byte: where most of their names end
LADDER, PART = "#D55E00", "#0072B2"  # Okabe and Ito: apart for every kind of colour vision, and round against square
X, Y = (2, 500), (2.5, 480)  # flop a byte, GFLOP/s
COLUMN, FIRST, NEXT = 150, 172, 0.77  # where the names of the rungs stand: flop a byte, GFLOP/s, the ratio of two
NAMES = {  # parts with one name -> where it stands
    ("fc1, gelu", "fc2", "qkv"): (LEFT, 172),
    ("proj",): (LEFT, 132),
    ("patch embedding",): (LEFT, 102),
    ("attention",): (LEFT, 79),
    ("final layer",): (8, 42),
    ("deconv 1",): (105, 350),
    ("deconv 2",): (230, 350),
}


def roofline(network, rungs, bandwidth, peaks):
    """Operations a second over operations a byte: what memory and multipliers allow, and what was measured."""
    figure = new_figure(1260, 840, 126)
    axes = figure.add_axes((0.065, 0.085, 0.92, 0.79))
    axes.set(xscale="log", yscale="log", xlim=X, ylim=Y)
    ridge = peaks[1] / bandwidth["memory"]
    axes.plot([X[0], ridge, X[1]], [X[0] * bandwidth["memory"], peaks[1], peaks[1]], color=INK, lw=2)
    write(axes, (ridge * 1.3, peaks[1] * 1.18), f"what the multipliers allow: {peaks[1]:.0f} GFLOP/s", INK)
    write(axes, (ridge * 0.55, peaks[1] * 0.37), f"what memory allows:\n{bandwidth['memory']:.0f} GB/s", INK)
    axes.fill_between(
        [X[0], ridge, X[1]], [X[0] * bandwidth["memory"], peaks[1], peaks[1]], Y[1], color="#F1F2F4", lw=0
    )

    for names, place in NAMES.items():
        points = [(network.intensity(name), network.gflop[name] / network.parts[name]) for name in names]
        align = "right" if place[0] == LEFT else "center"
        text = f"{', '.join(names)}  {number(max(rate for _, rate in points))}"
        point(axes, points, place, text, PART, "s", align)
    x, height = network.intensity("fc1, gelu"), FIRST / NEXT
    for name, row in sorted(rungs.items(), key=lambda item: -item[1]["fc1"][0]):
        rate = row["fc1"][0]
        if name == "two threads":
            continue
        height = min(height * NEXT, rate)
        if rate > Y[0]:
            point(axes, [(x, rate)], (COLUMN, height), f"{name}  {number(rate)}", LADDER, "o", "left")
        else:
            arrow = {"arrowstyle": "->", "color": LADDER, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (x, Y[0]), (0.85 * x, 1.45 * Y[0]), arrowprops=arrow)
            write(axes, (0.8 * x, 1.45 * Y[0]), f"far below: {name}  {number(rate)}", LADDER, "right")

    axes.set_xlabel("floating-point operations for each byte that must move at least", size=9.5, color=INK)
    axes.set_ylabel("GFLOP/s", size=9.5, color=INK)
    axes.set_xticks([2, 5, 10, 20, 50, 100, 200, 500], map(str, [2, 5, 10, 20, 50, 100, 200, 500]))
    axes.set_yticks([3, 10, 30, 100, 300], ["3", "10", "30", "100", "300"])
    axes.minorticks_off()
    axes.tick_params(colors=GREY, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    title = "The weights come fast enough: only the multipliers limit ViTPose-B"
    figure.text(0.02, 0.945, title, size=14, weight="bold", color=INK)
    below = "One crop, one thread, logarithmic axes. Blue squares: the parts of a pass. Orange dots: the product of fc1"
    figure.text(0.02, 0.905, f"{below}, rung by rung.", size=9, color=GREY)
    return figure


def write(axes, place, text, color, align="left"):
    axes.text(*place, text, ha=align, va="center", size=9, color=color, zorder=5)


def point(axes, points, place, text, color, marker, align):
    """Points with one name, and a thin line from the first to it."""
    axes.plot([points[0][0], place[0]], [points[0][1], place[1]], color=color, lw=0.6, alpha=0.7, zorder=3)
    for x, y in points:
        axes.plot(x, y, marker=marker, ms=6.5, color=color, mec="white", mew=0.8, ls="", zorder=4)
    shift = {"left": (4, 0), "right": (-4, 0), "center": (0, 7 if place[1] > points[0][1] else -7)}[align]
    axes.annotate(text, place, shift, textcoords="offset points", ha=align, va="center", size=9, color=color)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chart", metavar="FILE", help="also draw the roofline")
    parser.add_argument("--load", action="store_true", help="only the crew beside busy processes")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    numba.set_num_threads(1)
    if options.child:
        job, *arguments = options.child
        print(json.dumps(CHILDREN[job](*arguments)))
    elif options.load:
        show_load()
    else:
        show_all(options.chart)


def show_all(chart):
    machine = describe_machine()
    versions = f"NumPy {np.__version__}, Numba {numba.__version__}, llvmlite {llvmlite.__version__}"
    print(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {versions}")
    print(f"registers of {LANES} floats; the tile is {ROWS} rows of {VECTORS} registers")
    rungs, peaks = ladder()
    show_ladder(rungs, peaks)
    show_assembler()
    bandwidth = memory()
    print("\n| one thread reads from | GB/s |\n|---|---|")
    for name, rate in bandwidth.items():
        print(f"| {name} | {rate:.0f} |")
    show_layout()
    show_vectors()
    small, base = Pass("S"), Pass("B")
    small.show(bandwidth)
    base.show(bandwidth)
    if HALF:
        show_half(small, base)
    if chart:
        save(roofline(base, rungs, bandwidth, peaks), chart)


if __name__ == "__main__":
    main()
