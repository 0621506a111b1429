"""What a worker runs: one function an engine, from the files in the job's folder to a callable.

Every engine takes the images as a NumPy array and gives the heatmaps as one, and is set up as its own documentation
advises for low latency on a CPU. The functions import what they need when they are called: a worker holds one engine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minivitpose.config import from_dict

PACKAGE = ("fast", "fast-bf16", "numba", "numpy")
PEERS = ("torch", "torch-compile", "onnxruntime", "openvino")
BF16 = ("fast-bf16", "openvino-bf16")
WEIGHTS, GRAPH, IMAGES = "weights.safetensors", "model.onnx", "images.npy"


@dataclass(frozen=True)
class Job:
    """What a worker is to run: the engine, the folder with the files, Config as a dict, crops a call, threads."""

    engine: str
    folder: str
    config: dict
    batch: int
    threads: int

    def file(self, name):
        return str(Path(self.folder) / name)


@dataclass
class Engine:
    """Loaded and ready: run(images) -> heatmaps; versions of what runs; this package's model, if it is one."""

    run: Callable
    versions: dict = field(default_factory=dict)
    model: Any = None


def load_engine(job):
    """The Engine of a job. Raises what the engine raises, ImportError where it is not installed."""
    return ENGINES[job.engine](job)


def package(job):
    """This package."""
    from minivitpose import __version__, load

    config = from_dict(job.config)
    names = ("num_heads", "image_size", "dataset", "qk_scale", "ratio")
    engine, _, precision = job.engine.partition("-")
    model = load(job.file(WEIGHTS), engine, precision or None, **{name: getattr(config, name) for name in names})
    versions = {"minivitpose": __version__, "numpy": np.__version__}
    if model.engine != "numpy":
        import numba

        versions["numba"] = numba.__version__
    return Engine(model, versions, model)


def torch_eager(job):
    """PyTorch as everybody runs it: the twin in inference mode."""
    module, torch = torch_twin(job)

    def run(images):
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return Engine(run, {"torch": torch.__version__})


def torch_compiled(job):
    """PyTorch with torch.compile, the weights frozen into the compiled code."""
    module, torch = torch_twin(job)
    compiled = torch.compile(module, options={"freezing": True})

    def run(images):
        with torch.no_grad():  # freezing does not work in inference mode
            return compiled(torch.from_numpy(images)).numpy()

    return Engine(run, {"torch": torch.__version__})


def torch_twin(job):
    from safetensors.torch import load_file

    from minivitpose import reference

    torch = reference.torch
    torch.set_num_threads(job.threads)
    with torch.device("meta"):  # no memory and no random values for weights that the file replaces
        module = reference.ViTPose(from_dict(job.config))
    module.load_state_dict(load_file(job.file(WEIGHTS)), assign=True)
    return module, torch


def onnx_runtime(job):
    """ONNX Runtime on the CPU with all its optimisations, for exactly this batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_free_dimension_override_by_name("batch", job.batch)
    session = onnxruntime.InferenceSession(job.file(GRAPH), options, providers=["CPUExecutionProvider"])
    return Engine(lambda images: session.run(None, {"images": images})[0], {"onnxruntime": onnxruntime.__version__})


def openvino(job, precision="f32"):
    """OpenVINO for low latency, for exactly this batch. Without the hint it takes bfloat16 where the CPU has it."""
    import openvino

    core = openvino.Core()
    network = core.read_model(job.file(GRAPH))
    network.reshape([job.batch, 3, *job.config["image_size"]])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    options["INFERENCE_NUM_THREADS"] = job.threads
    request = core.compile_model(network, "CPU", options).create_infer_request()

    def run(images):
        return request.infer([images], share_inputs=True, share_outputs=True)[0]

    return Engine(run, {"openvino": openvino.__version__.split("-")[0]})


def openvino_bf16(job):
    """The same, computing in bfloat16."""
    return openvino(job, "bf16")


def nothing(job):
    """No engine: the worker that measures the CPU's peak."""
    return Engine(lambda images: images)


ENGINES = dict.fromkeys(PACKAGE, package) | {
    "torch": torch_eager,
    "torch-compile": torch_compiled,
    "onnxruntime": onnx_runtime,
    "openvino": openvino,
    "openvino-bf16": openvino_bf16,
    "peak": nothing,
}
