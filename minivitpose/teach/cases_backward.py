"""The cases of the backward steps: the layers' with a gradient of what comes out, and what only training has."""

import numpy as np

from minivitpose import layers
from minivitpose.teach.cases import REAL
from minivitpose.teach.cases_forward import CASES as FORWARD
from minivitpose.teach.cases_forward import MAP


def with_grad(step, layer=None, first=("x",)):
    """The cases of a step with a random ``grad``, of the shape of what comes out, after the arguments ``first``."""
    layer = getattr(layers, layer or step)

    def build(arguments, r):
        grad = r(*np.shape(layer(**arguments)))
        return {name: arguments[name] for name in first} | {"grad": grad} | arguments

    return {name: lambda r, draw=draw: build(draw(r), r) for name, draw in FORWARD[step].items()}


def maps(B, K, height, width):
    """Heatmaps, targets and weights of keypoints, one of them 0: nobody marked it."""

    def build(r):
        weight = r.random.uniform(0.3, 1.7, (B, K))
        weight[0, 0] = 0
        return dict(heatmaps=r(B, K, height, width), targets=r(B, K, height, width), target_weight=weight)

    return build


LOSS = {"two images": maps(2, 3, 4, 5), "one image": maps(1, 4, 3, 3), "three images": maps(3, 2, 6, 4)}

CASES = {
    "positions_backward": with_grad("positions", "add_positions"),
    "scaled_dot_product_attention_backward": with_grad("scaled_dot_product_attention", first="qkv"),
    "batch_norm_training": {
        "two images": lambda r: dict(x=r(2, 3, 4, 5) + 1, **r.batch_norm(3), eps=1e-5, momentum=0.1),
        "one image, as many channels as columns": lambda r: dict(
            x=r(1, 4, 3, 4), **r.batch_norm(4), eps=1e-5, momentum=0.1
        ),
        "nearly constant, where eps counts": lambda r: dict(
            x=3e-3 * r(2, 2, 3, 3), **r.batch_norm(2), eps=1e-5, momentum=0.3
        ),
        "another eps": lambda r: dict(x=r(3, 2, 1, 3), **r.batch_norm(2), eps=0.5, momentum=0.5),
        REAL: lambda r: dict(
            x=r.real(f"{MAP}.deconv_layers.0")[:, :, 8:16, 8:16],
            **r.params(f"{MAP}.deconv_layers.1"),
            eps=1e-5,
            momentum=0.1,
        ),
    },
    "heatmap_loss": LOSS,
    "heatmap_loss_backward": LOSS,
}
for step in ("linear", "layer_norm", "softmax", "attention", "gelu", "mlp", "block", "conv2d", "conv_transpose2d"):
    CASES[f"{step}_backward"] = with_grad(step)
CASES["relu_backward"] = with_grad("relu")


def training_backward(draw):
    def build(r):
        arguments = draw(r)
        del arguments["momentum"]
        return {"x": arguments["x"], "grad": r(*arguments["x"].shape)} | arguments

    return build


CASES["batch_norm_training_backward"] = {
    name: training_backward(draw) for name, draw in CASES["batch_norm_training"].items()
}
