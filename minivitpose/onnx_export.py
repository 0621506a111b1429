"""The network as an ONNX graph, written from the arrays and the Config alone, for ONNX Runtime, OpenVINO and others.

``graph_of`` is ``forward`` of model.py once more, one ONNX operator instead of each layer. Every value in the graph has
the name of the activation that it is, so that a viewer such as Netron shows what the table in trace.py describes.
Operators: https://onnx.ai/onnx/operators, opset 20 (the first one with Gelu).
"""

import os
import tempfile
from pathlib import Path

import numpy as np

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise ImportError("writing ONNX needs the package onnx: pip install 'minivitpose[bench]'") from error

from minivitpose.layers import DECONV_PADDING

OPSET, IR_VERSION = 20, 9
LARGEST_FILE = 2_000_000_000  # bytes: a protobuf message ends at 2 GiB, larger weights go to a file of their own


class Graph:
    """An ONNX graph being written: its nodes in order and its constant tensors."""

    def __init__(self):
        self.nodes, self.tensors = [], []

    def constant(self, name, x):
        """An array in the graph, floating point as float32; returns its name."""
        dtype = np.float32 if np.asarray(x).dtype.kind == "f" else np.int64
        self.tensors.append(numpy_helper.from_array(np.asarray(x, dtype, order="C"), name))
        return name

    def add(self, kind, name, *inputs, **attributes):
        """A node of this kind with one output, which gets the name; returns it."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def reshape(self, name, x, *shape):
        """0 in the shape keeps that dimension as it is: the batch."""
        return self.add("Reshape", name, x, self.constant(f"{name}.shape", np.array(shape)))


def to_onnx(model, batch=None):
    """The model as an onnx.ModelProto: "images" (batch, 3, H, W) float32 -> "heatmaps" (batch, K, Hm, Wm) float32.

    batch: a number, or None for any. H and W are those of config.image_size. A float64 model is rounded to float32.
    """
    config, batch = model.config, "batch" if batch is None else batch
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *config.image_size])
    shape = [batch, config.num_keypoints, *config.heatmap_size]
    heatmaps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, shape)
    g = graph_of(model.params, config)
    graph = helper.make_graph(g.nodes, f"ViTPose-{config.variant}", [images], [heatmaps], g.tensors)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="minivitpose")


def save_onnx(model, path, batch=None):
    """Write the model to path; returns the files written. Weights of more than 2 GB (H) go to path + ".data" beside it.

    Each file appears under its name when it is whole. Raises OSError where the folder cannot be written.
    """
    path, proto = Path(path), to_onnx(model, batch)
    large = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > LARGEST_FILE
    external = {"save_as_external_data": True, "location": f"{path.name}.data"} if large else {}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnx-") as folder:
        onnx.save_model(proto, Path(folder) / path.name, **external)
        written = sorted(Path(folder).iterdir(), reverse=True)  # the data first, then the graph that names it
        return [os.replace(file, path.parent / file.name) or path.parent / file.name for file in written]


# ------------------------------------------------------------------------------------ the layers, in order of execution


def graph_of(params, config):
    """The whole network: "images" -> "heatmaps"."""
    g, backbone = Graph(), params["backbone"]
    C, (Hp, Wp) = config.embed_dim, config.grid
    x = patch_embed(g, "images", backbone["patch_embed"]["proj"], config)
    pos_embed = backbone["pos_embed"]
    table = g.constant("backbone.pos_embed", pos_embed[:, 1:] + pos_embed[:, :1])  # see add_positions in layers.py
    x = g.add("Add", "backbone.pos", x, table)
    for i, p in backbone["blocks"].items():
        x = block(g, f"backbone.blocks.{i}", x, p, config)
    x = layer_norm(g, "backbone.last_norm", x, backbone["last_norm"], config.eps)
    x = g.add("Transpose", "backbone.columns", x, perm=[0, 2, 1])
    x = g.reshape("backbone", x, 0, C, Hp, Wp)
    keypoint_head(g, x, **params["keypoint_head"])
    g.nodes[-1].output[0] = "heatmaps"
    return g


def patch_embed(g, images, p, config):
    """(B, 3, H, W) -> (B, N, C)."""
    name, padding = "backbone.patch_embed.proj", config.padding
    x = convolution(g, "Conv", name, images, p, strides=[config.stride] * 2, pads=[padding] * 4)
    x = g.reshape("backbone.patch_embed.rows", x, 0, config.embed_dim, config.grid[0] * config.grid[1])
    return g.add("Transpose", "backbone.patch_embed", x, perm=[0, 2, 1])


def block(g, name, x, p, config):
    y = layer_norm(g, f"{name}.norm1", x, p["norm1"], config.eps)
    y = attention(g, f"{name}.attn", y, p["attn"], config)
    x = g.add("Add", f"{name}.resid_mid", x, y)
    y = layer_norm(g, f"{name}.norm2", x, p["norm2"], config.eps)
    y = linear(g, f"{name}.mlp.fc1", y, p["mlp"]["fc1"])
    y = g.add("Gelu", f"{name}.mlp.act", y, approximate="none")
    y = linear(g, f"{name}.mlp.fc2", y, p["mlp"]["fc2"])
    return g.add("Add", name, x, y)


def layer_norm(g, name, x, p, eps):
    weights = [g.constant(f"{name}.{key}", p[key]) for key in ("weight", "bias")]
    return g.add("LayerNormalization", name, x, *weights, axis=-1, epsilon=eps)


def linear(g, name, x, p):
    """x W^T + b, with W stored as MatMul reads it: (Cin, Cout)."""
    bias = "bias" in p
    y = g.add("MatMul", f"{name}.product" if bias else name, x, g.constant(f"{name}.weight.T", p["weight"].T))
    return g.add("Add", name, y, g.constant(f"{name}.bias", p["bias"])) if bias else y


def attention(g, name, x, p, config):
    """softmax((q scale) k^T) v, a head apart, then mixed: the form that the runtimes know and fuse."""
    h, d, N = config.num_heads, config.head_dim, config.grid[0] * config.grid[1]
    scale = d**-0.5 if config.qk_scale is None else config.qk_scale
    x = linear(g, f"{name}.qkv", x, p["qkv"])
    x = g.reshape(f"{name}.qkv.heads", x, 0, N, 3, h, d)
    x = g.add("Transpose", f"{name}.qkv.apart", x, perm=[2, 0, 3, 1, 4])
    q, k, v = (
        g.add("Gather", f"{name}.{c}", x, g.constant(f"{name}.{c}.index", i), axis=0) for i, c in enumerate("qkv")
    )
    q = g.add("Mul", f"{name}.q.scaled", q, g.constant(f"{name}.q.scale", np.float32(scale)))
    k = g.add("Transpose", f"{name}.k.T", k, perm=[0, 1, 3, 2])
    scores = g.add("MatMul", f"{name}.scores", q, k)
    pattern = g.add("Softmax", f"{name}.pattern", scores, axis=-1)
    z = g.add("MatMul", f"{name}.z.heads", pattern, v)
    z = g.add("Transpose", f"{name}.z.rows", z, perm=[0, 2, 1, 3])
    z = g.reshape(f"{name}.z", z, 0, N, h * d)
    return linear(g, name, z, p["proj"])


def keypoint_head(g, x, final_layer, deconv_layers=None):
    name = "keypoint_head"
    if deconv_layers:
        x = sequential(g, f"{name}.deconv_layers", x, deconv_layers, deconv)
    else:
        x = g.add("Relu", f"{name}.relu", x)
        scales = g.constant(f"{name}.scales", np.array([1.0, 1.0, 4.0, 4.0]))
        options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        x = g.add("Resize", f"{name}.upsample", x, "", scales, **options)
    if "weight" in final_layer:
        return same_conv(g, f"{name}.final_layer", x, final_layer)
    return sequential(g, f"{name}.final_layer", x, final_layer, same_conv)


def sequential(g, name, x, layers, convolve):
    """Convolutions with batch norm and relu behind, under their numbers in the checkpoint: {"0", "1", "3", ...}."""
    for i, p in layers.items():
        if "running_mean" in p:
            keys = ("weight", "bias", "running_mean", "running_var")
            weights = [g.constant(f"{name}.{i}.{key}", p[key]) for key in keys]
            x = g.add("BatchNormalization", f"{name}.{i}", x, *weights, epsilon=1e-5)
            x = g.add("Relu", f"{name}.{int(i) + 1}", x)
        else:
            x = convolve(g, f"{name}.{i}", x, p)
    return x


def deconv(g, name, x, p):
    padding, more = DECONV_PADDING[p["weight"].shape[2]]
    return convolution(g, "ConvTranspose", name, x, p, strides=[2, 2], pads=[padding] * 4, output_padding=[more, more])


def same_conv(g, name, x, p):
    return convolution(g, "Conv", name, x, p, pads=[(p["weight"].shape[2] - 1) // 2] * 4)


def convolution(g, kind, name, x, p, **attributes):
    weights = [g.constant(f"{name}.{key}", p[key]) for key in ("weight", "bias") if key in p]
    return g.add(kind, name, x, *weights, kernel_shape=p["weight"].shape[2:], **attributes)
