"""Makes the bundled model of a training's weights: data/mini.pth, in float16, and data/mini-activations.npz.

    python docs/bundle_mini.py runs/mini/weights.npz        # needs PyTorch, which writes the file and the activations

The activations are what PyTorch computes of the rounded weights for the person that `minivitpose demo` looks at.
"""

import sys
from pathlib import Path

import torch

import minivitpose as mvp
from minivitpose import reference
from minivitpose.pose import network_input
from minivitpose.recording import make_header
from minivitpose.teach.example import scene_and_crop

DATA = Path(mvp.__file__).parent / "data"
SAMPLE = 1024  # values of each activation that are kept


def main(weights):
    module = reference.twin(mvp.load(weights, "numpy")).half()
    reference.save_weights(module, DATA / "mini.pth")
    module = module.float()
    recorded = reference.record(module, network_input(scene_and_crop(module.config.image_size)[1]))
    recorded.header = make_header(module.config, torch=torch.__version__)
    mvp.save_reference(recorded, DATA / "mini-activations.npz", SAMPLE)
    for name in ("mini.pth", "mini-activations.npz"):
        print(f"written: {DATA / name}, {(DATA / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
