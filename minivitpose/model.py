"""The network in one page: patch embedding, positions, blocks, last norm, head. Put it beside the paper's figure 2.

Source: Xu, Zhang, Zhang, Tao: ViTPose, simple vision transformer baselines for human pose estimation, NeurIPS 2022.
"""

import numpy as np

from minivitpose import layers
from minivitpose.checkpoint import fit, not_finite, read_source
from minivitpose.config import parameter_shapes
from minivitpose.layers import below, keep
from minivitpose.parameters import cast, flatten, is_learnt, nest
from minivitpose.trace import Cache


def forward(images, p, config, ops=layers, tap=keep):
    """Images in, heatmaps out: (B, 3, H, W) -> (B, K, Hm, Wm).

    p: parameters nested by the checkpoint's names. ops: the module that holds the layers (layers or kernels).
    tap(name, array): sees every activation in the order of execution and returns the array to go on with.
    """
    backbone, head = p["backbone"], p["keypoint_head"]

    x = tap("backbone.patch_embed.proj", ops.patch_embed(images, **backbone["patch_embed"]["proj"], ratio=config.ratio))
    grid = x.shape[2:]  # Hp, Wp
    x = tap("backbone.pos", ops.add_positions(ops.to_tokens(x), positions(backbone["pos_embed"], config, grid)))

    for i, block in backbone["blocks"].items():
        name = f"backbone.blocks.{i}"
        x = tap(name, ops.block(x, block, config.num_heads, config.qk_scale, config.eps, below(tap, name)))
    x = tap("backbone.last_norm", ops.layer_norm(x, **backbone["last_norm"], eps=config.eps))

    x = tap("backbone", ops.to_map(x, grid))
    return tap("keypoint_head.final_layer", ops.keypoint_head(x, **head, tap=below(tap, "keypoint_head")))


def positions(pos_embed, config, grid):
    """The positions for this patch grid: the checkpoint's own, or interpolated for another image size."""
    return pos_embed if grid == config.grid else layers.resize_positions(pos_embed, config.grid, grid)


class ViTPose:
    """A network with its weights: ``heatmaps = model(images)``.

    Attributes: config (Config), params (nested dict of arrays, the checkpoint's names), dtype (float32 or float64),
    engine ("fast", "numba" or "numpy"), precision ("float32", "float64" or "bf16"), ops (the module with the layers
    that ``run_with_cache`` goes through, and all but the fast engine). Params are for reading: the fast engine has
    packed copies. Whoever wants other weights loads another state dict.
    """

    def __init__(self, params, config, engine="fast", precision=None):
        """params: nested dict as ``load`` makes it, all of one float dtype. precision: "bf16", for the fast engine.

        What the fast engine does not have (float64, heads that no public model has) runs on the Numba layers, and
        ``engine`` says so. Raises ValueError for an unknown engine, a precision that this engine or CPU has not, and
        params that are not those of the config.
        """
        check_params(params, config)
        self.params, self.config, self.wanted = params, config, engine
        self.dtype = params["backbone"]["pos_embed"].dtype
        self.engine, self.ops, self.fused = choose_engine(engine, params, config, precision)
        self.precision = precision or self.dtype.name

    def __call__(self, images):
        """(B, 3, H, W) normalised RGB of the model's dtype -> heatmaps (B, K, Hm, Wm) of the same dtype.

        An image size other than config.image_size interpolates the positions. Raises ValueError for a wrong shape or
        dtype, an image smaller than a patch, or values that are not finite.
        """
        check_images(images, self.config, self.dtype)
        return self.fused(images) if self.fused else forward(images, self.params, self.config, self.ops)

    def run_with_cache(self, images, replace=None):
        """As ``model(images)``, with every activation by name in the order of execution: (heatmaps, Cache).

        The fast engine fuses layers, so here its model runs the Numba layers one by one; see ``run_fused``.
        replace: name -> array to go on with instead of what the model computed there; the cache holds what it computed.
        The cache's arrays may share memory: copy before writing into one. Raises ValueError as ``model(images)`` does,
        and for a replacement of an unknown name, another shape or another dtype.
        """
        cache, replace = Cache(self, images), replace or {}

        def tap(name, x):
            cache.add(name, x)
            return check_replacement(name, replace[name], x) if name in replace else x

        check_images(images, self.config, self.dtype)
        heatmaps = forward(images, self.params, self.config, self.ops, tap)
        if unknown := [name for name in replace if name not in cache]:
            raise ValueError(f"replace: the model has no activation {unknown[0]!r}; its names are in list(cache)")
        return heatmaps, cache

    def run_fused(self, images):
        """The fast engine, with those activations that it keeps in memory: (heatmaps, Cache).

        Raises ValueError as ``model(images)`` does, and for a model of another engine.
        """
        check_images(images, self.config, self.dtype)
        if self.fused is None:
            raise ValueError(f"run_fused needs the fast engine, this model has {self.engine!r}")
        cache = Cache(self, images, fused=True)

        def tap(name, x):  # image by image
            cache.add(name, np.concatenate([cache[name], x]) if name in cache else x)

        return self.fused(images, tap), cache

    def astype(self, dtype):
        """The same model, with the same layers, computing in float32 or float64; ValueError for another dtype."""
        check_dtype(dtype)
        params = nest({name: cast(x, dtype) for name, x in self.state_dict().items()})
        model = ViTPose(params, self.config, self.wanted)
        model.ops = self.ops  # with whatever layers were exchanged in it
        return model

    def with_engine(self, engine, precision=None):
        """The same weights, run by another engine, with its own layers."""
        return ViTPose(self.params, self.config, engine, precision)

    def state_dict(self):
        """Parameters by the checkpoint's flat names, in the order of execution, as load_state_dict takes them."""
        return flatten(self.params)

    def __reduce__(self):
        """Copied and sent to other processes as weights: threads and workspaces are made anew."""
        return ViTPose, (self.params, self.config, self.wanted, "bf16" if self.precision == "bf16" else None)

    def __repr__(self):
        count = sum(x.size for name, x in self.state_dict().items() if is_learnt(name))
        return f"{self.config.describe()}: {count:,} parameters, {self.precision}, engine {self.engine!r}"


def load(
    source,
    engine="fast",
    precision=None,
    dtype="float32",
    num_heads=None,
    image_size=None,
    dataset=None,
    expert=None,
    qk_scale=None,
    ratio=1,
    eps=None,
):
    """A ViTPose ready to run.

    source: a path to a PyTorch file (.pth, zip or legacy), safetensors or npz, in the naming of ViTPose, easy_ViTPose,
    mmpose 1.x or Hugging Face transformers; a folder as transformers saves it, or the index of its shards;
    "hf:OWNER/NAME" or "hf:OWNER/NAME/FILE" on the Hugging Face hub; the name "mini" (bundled); or a mapping of names to
    arrays or tensors such as ``module.state_dict()``. Nothing in a file is ever executed.
    engine: "fast", "numba" or "numpy". precision: "bf16" halves the fast engine's time where the CPU has bfloat16 dot
    products. dtype: "float32" or "float64".
    dataset: what the keypoints are, a name in config.DATASETS; of a ViTPose+ file it takes that dataset's head and
    expert (default: COCO's). expert: of a ViTPose+ file, a dataset's name or a number; takes that expert with the
    file's own head.
    What the weights do not show may be given: num_heads (needed for a model that is not S, B, L, H or mini and has no
    config.json beside it), image_size (height, width), qk_scale, ratio, eps of the layer norms (1e-12 in Hugging Face's
    naming, else 1e-6).
    Raises CheckpointError, with everything that does not fit, for a source that is not a whole ViTPose, and ValueError
    for an unknown engine, precision or dtype.
    """
    check_dtype(dtype)
    options = {"image_size": image_size, "qk_scale": qk_scale, "ratio": ratio, "eps": eps}
    params, config = fit(read_source(source), num_heads, options, dtype, dataset, expert)
    return ViTPose(params, config, engine, precision)


def check_params(params, config):
    """ValueError unless the parameters are those of the config: compiled passes trust it for the sizes of buffers."""
    found = {name: x.shape for name, x in flatten(params).items()}
    expected = parameter_shapes(config)
    names = [name for name in expected if name not in found and is_learnt(name)]
    names += [name for name in found if found[name] != expected.get(name)]
    if names:
        first = names[0]
        expected, found = (shapes.get(first, "nothing") for shapes in (expected, found))
        raise ValueError(f"params are not of this config: {first}: expected {expected}, found {found}")


def check_dtype(dtype):
    try:
        known = np.dtype(dtype) in (np.float32, np.float64)
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"dtype must be float32 or float64, not {dtype}")


ENGINES = ("fast", "numba", "numpy")


def choose_engine(engine, params, config, precision=None):
    """(name, module with the layers, Engine or None) for what was asked."""
    dtype = params["backbone"]["pos_embed"].dtype
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: expected one of {', '.join(ENGINES)}")
    if precision not in (None, "bf16", dtype.name):
        raise ValueError(f"unknown precision {precision!r}: expected 'bf16' or nothing, for weights of {dtype}")
    if precision == "bf16" and (engine != "fast" or dtype != np.float32):
        raise ValueError("precision 'bf16' goes with engine 'fast' and dtype float32")
    if engine == "numpy":
        return "numpy", layers, None
    from minivitpose import kernels  # importing Numba takes a while: only who needs it waits

    if engine == "fast" and dtype == np.float32:
        from minivitpose.engine import Engine, supports

        if supports(config) or precision == "bf16":
            return "fast", kernels, Engine(params, config, half=precision == "bf16")
    return "numba", kernels, None


def check_images(images, config, dtype):
    """Raises ValueError, with what was expected and what was found, unless images can go into the network."""
    height, width = config.image_size
    expected = f"expected normalised images of shape (B, 3, {height}, {width}) and dtype {dtype}"
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{expected}; found {type(images).__name__}, not a NumPy array")
    if images.ndim != 4 or images.shape[1] != 3:
        hint = ": the channels come first, try images.transpose(0, 3, 1, 2)" if images.shape[-1:] == (3,) else ""
        raise ValueError(f"{expected}; found shape {images.shape}{hint}")
    if images.dtype != dtype:
        hint = "minivitpose.pose.network_input" if images.dtype == np.uint8 else f"images.astype('{dtype}')"
        raise ValueError(f"{expected}; found {images.dtype}: try {hint}")
    if any(side < patch for side, patch in zip(images.shape[2:], config.patch_size, strict=True)):
        raise ValueError(f"{expected}; found {images.shape[2]} x {images.shape[3]} pixels, less than one patch")
    if fault := not_finite(images):
        raise ValueError(f"{expected}; found values that are not finite: {fault}")


def check_replacement(name, new, x):
    """The replacement, if it fits: raises ValueError if its shape or dtype is another."""
    if getattr(new, "shape", None) != x.shape or new.dtype != x.dtype:
        found = f"{new.dtype} {new.shape}" if isinstance(new, np.ndarray) else type(new).__name__
        raise ValueError(f"replace[{name!r}]: expected {x.dtype} {x.shape}, found {found}")
    return new
