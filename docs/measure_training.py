"""How long a training step takes, forwards and backwards, beside PyTorch eager on this machine.

    python docs/measure_training.py mini 16 S 16            # variant, batch, variant, batch, ...
    python docs/measure_training.py --bf16 mini 16 S 16     # products in bfloat16: here, and by PyTorch's autocast

Each engine runs in processes of its own, in turn, so that neither meets the other's threads and both meet the same
neighbours. Printed: the fastest and the median step of each over all rounds, and ours as a part of PyTorch's.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

THREADS, ROUNDS, STEPS = 2, 4, 5
SIZE, HEATMAP, KEYPOINTS = (256, 192), (64, 48), 17


def batch_of(n):
    rng = np.random.default_rng(0)
    shapes = (n, 3, *SIZE), (n, KEYPOINTS, *HEATMAP)
    images, targets = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return images, targets, np.ones((n, KEYPOINTS), np.float32)


def ours(variant, batch, precision):
    import numba

    from minivitpose import load
    from minivitpose.config import parameter_shapes, variant_config
    from minivitpose.parameters import random_state_dict
    from minivitpose.training import loss_and_gradients

    numba.set_num_threads(THREADS)
    model = load(random_state_dict(parameter_shapes(variant_config(variant))), "numba")
    arrays = batch_of(batch)
    return lambda: loss_and_gradients(model, *arrays, precision=precision)


def pytorch(variant, batch, precision):
    import torch

    from minivitpose import reference
    from minivitpose.config import variant_config

    torch.set_num_threads(THREADS)
    module = reference.randomise(reference.ViTPose(variant_config(variant))).train()
    images, targets, weight = map(torch.from_numpy, batch_of(batch))

    def step():
        module.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            heatmaps = module(images)
        (((heatmaps.float() - targets) * weight[:, :, None, None]) ** 2).mean().backward()

    return step


def child(engine, variant, batch, precision):
    """Prints the seconds of STEPS steps after two that warm up, and the most memory that the process held, in GB."""
    step = {"ours": ours, "pytorch": pytorch}[engine](variant, int(batch), precision)
    step(), step()
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))


def measure(variant, batch, precision):
    seconds, memory = {"ours": [], "pytorch": []}, {}
    for _ in range(ROUNDS):
        for engine in seconds:
            command = [sys.executable, __file__, "--child", engine, variant, batch, precision]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            seconds[engine] += found[0]
            memory[engine] = found[1]
    fastest = {engine: min(times) for engine, times in seconds.items()}
    median = {engine: float(np.median(times)) for engine, times in seconds.items()}
    for engine in seconds:
        times = f"fastest {fastest[engine]:.3f} s, median {median[engine]:.3f} s"
        print(f"{variant}, batch {batch}, {precision}, {engine:8}: {times}, {memory[engine]:.2f} GB")
    ratios = (of["ours"] / of["pytorch"] for of in (fastest, median))
    print("ours / PyTorch: fastest {:.2f}, median {:.2f}".format(*ratios), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        arguments = [word for word in sys.argv[1:] if word != "--bf16"] or ["mini", "16", "S", "16"]
        for variant, batch in zip(arguments[::2], arguments[1::2], strict=True):
            measure(variant, batch, "bf16" if "--bf16" in sys.argv else "float32")
