"""minivitpose: ViTPose from scratch in NumPy and Numba, every layer readable, every activation checked.

import minivitpose as mvp

model = mvp.load("mini")                                        # or a path to a .pth, .safetensors or .npz
poses = mvp.estimate(model, "photo.jpg", [(120, 40, 200, 420)])  # keypoints x, y in pixels of the picture, by box
image = read_image("photo.jpg")                                 # this, crop and network_input are of minivitpose.pose
images = network_input(crop(image, (120, 40, 200, 420)))        # (1, 3, 256, 192), normalised
heatmaps, cache = model.run_with_cache(images)                  # (1, 17, 64, 48), and every activation by name
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
