"""The CPU, its measured peak, and how much arithmetic a model is."""

import os
import platform
import sys
import time
from pathlib import Path

CALL_S = 0.03  # how long one measurement of the peak takes
FIRST = 10**6  # turns of its loop at first, before it is known how fast the CPU is


def describe_machine():
    """What the numbers depend on beside the code."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "load_average_at_start": [round(x, 2) for x in load] if load else None,
    }


def cpu_name():
    """As the system names it, or the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n") if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_seconds():
    """(of all programs since the start of the machine, of this one and its ended children); None where /proc is not.

    In a container /proc shows the whole machine, so there is no answer where this process may not use all its cores.
    """
    stat = Path("/proc/stat")
    if not stat.exists() or cores() < (os.cpu_count() or 1):
        return None
    user, nice, system, _idle, _waiting, *interrupts = map(int, stat.read_text().split("\n")[0].split()[1:9])
    everybody = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return everybody, sum(os.times()[:4])


def peak_memory():
    """The most memory that this process has held, in bytes; None where the system does not say.

    On Linux from /proc: getrusage's ru_maxrss survives exec there, so that a child starts with its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().split("\n") if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -------------------------------------------------------------------------------------------- the arithmetic of a model


def multiply_adds(config):
    """Multiply-adds a crop: name of the activation -> number, blocks together under ``backbone.blocks.*``.

    Counted as the network is written: every product of weights or activations, no norms, softmax, biases or upsampling.
    A transposed convolution counts its whole stamps, also what its padding cuts off.
    """
    C, N, depth = config.embed_dim, config.grid[0] * config.grid[1], config.depth
    inner = config.num_heads * config.head_dim
    block = {"attn.qkv": N * C * 3 * inner, "attn.scores": N * N * inner, "attn.z": N * N * inner}
    block |= {"attn.proj": N * inner * C, "mlp.fc1": N * C * config.mlp_dim, "mlp.fc2": N * C * config.mlp_dim}
    counts = {"backbone.patch_embed.proj": N * C * 3 * config.patch_size[0] * config.patch_size[1]}
    counts |= {f"backbone.blocks.*.{name}": depth * count for name, count in block.items()}
    return counts | {f"keypoint_head.{name}": count for name, count in head_multiply_adds(config)}


def head_multiply_adds(config):
    channels, cells = config.embed_dim, config.grid[0] * config.grid[1]
    for i, (filters, k) in enumerate(zip(config.deconv_filters, config.deconv_kernels, strict=True)):
        yield f"deconv_layers.{3 * i}", cells * channels * filters * k * k
        channels, cells = filters, 4 * cells
    cells = config.heatmap_size[0] * config.heatmap_size[1]
    for i, k in enumerate(config.extra_kernels):
        yield f"final_layer.{3 * i}", cells * channels * channels * k * k
    last = f"final_layer.{3 * len(config.extra_kernels)}" if config.extra_kernels else "final_layer"
    yield last, cells * channels * config.num_keypoints * config.final_kernel**2


def gflop(config):
    """Floating-point operations a crop, in 10^9: two for each multiply-add."""
    return 2e-9 * sum(multiply_adds(config).values())


# ------------------------------------------------------------------------------------------------------------- the peak


def fma_peak(threads):
    """The most float32 arithmetic that the CPU does on so many threads, GFLOP/s; None if it has no fused multiply-add.

    Measured by a loop that only multiplies and adds in registers, CALL_S long. Raises ImportError without Numba.
    """
    from minivitpose.bench import peak

    turns = FIRST
    peak.run(1, threads)  # compiles
    for _ in range(2):  # the first time wakes the CPU and shows how many turns are CALL_S
        start = time.perf_counter()
        flop = peak.run(turns, threads)
        seconds = time.perf_counter() - start
        turns = max(1, int(turns * CALL_S / seconds))
    return flop and flop / seconds / 1e9
