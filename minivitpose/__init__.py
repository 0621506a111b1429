"""minivitpose: ViTPose from scratch in NumPy and Numba, every layer readable, every activation checked.

import minivitpose as mvp

model = mvp.load("mini")                           # or a path to a .pth, .safetensors or .npz
heatmaps = model(images)                           # (B, 3, 256, 192) normalised -> (B, K, 64, 48)
heatmaps, cache = model.run_with_cache(images)     # every activation by name
print(mvp.compare(cache, mvp.load_reference("recorded.npz")))
poses = mvp.estimate(model, image, boxes)          # keypoints in pixels of the picture
"""

__version__ = "0.1.0"

from minivitpose.checkpoint import CheckpointError, read_state_dict
from minivitpose.compare import compare
from minivitpose.model import ViTPose, load
from minivitpose.pose import estimate, estimate_each
from minivitpose.recording import load_reference, save_reference

__all__ = [
    "CheckpointError",
    "ViTPose",
    "compare",
    "estimate",
    "estimate_each",
    "load",
    "load_reference",
    "read_state_dict",
    "save_reference",
]


def __getattr__(name):
    """What only who uses it needs: ``reference`` imports PyTorch, ``kernels`` Numba, ``teach`` matplotlib."""
    if name in ("reference", "kernels", "teach"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
