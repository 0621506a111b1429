"""The PyTorch twin and the recorder of its activations: the only file of the package that imports torch.

The twin has the module and parameter names of easy_ViTPose, so that state dicts move both ways. ``record`` works on it
and on any other module with these names: it only hangs hooks on, and takes them off again.
"""

import copy

import numpy as np

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError as error:
    raise ImportError("minivitpose.reference needs PyTorch: pip install 'minivitpose[reference]'") from error

from minivitpose.checkpoint.sources import without_torch
from minivitpose.config import head_shapes
from minivitpose.layers import DECONV_PADDING
from minivitpose.parameters import random_state_dict
from minivitpose.trace import Reference

# ---------------------------------------------------------------------------------------------------------------- twin


class PatchEmbed(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, config.stride, config.padding)

    def forward(self, images):
        return self.proj(images)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = config.head_dim**-0.5 if config.qk_scale is None else config.qk_scale
        inner = config.num_heads * config.head_dim
        self.qkv = nn.Linear(config.embed_dim, 3 * inner, bias=config.qkv_bias)
        self.proj = nn.Linear(inner, config.embed_dim)

    def forward(self, x):
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        pattern = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj(merge_heads(pattern @ v))


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.eps)
        self.mlp = Mlp(config)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, config):
        super().__init__()
        Hp, Wp = self.grid = config.grid
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + Hp * Wp, config.embed_dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.last_norm = nn.LayerNorm(config.embed_dim, eps=config.eps)

    def forward(self, images):
        x = self.patch_embed(images)
        B, C, Hp, Wp = x.shape
        pos_embed = self.positions((Hp, Wp))
        x = x.flatten(2).transpose(1, 2)
        x = x + pos_embed[:, 1:] + pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x).transpose(1, 2).reshape(B, C, Hp, Wp).contiguous()

    def positions(self, grid):
        if grid == self.grid:
            return self.pos_embed
        table = self.pos_embed[:, 1:].reshape(1, *self.grid, -1).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)


class KeypointHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        shapes = dict(head_shapes(config))
        self.upsample = not config.deconv_kernels
        deconvs = [m for i in range(len(config.deconv_kernels)) for m in self.deconv(shapes, 3 * i)]
        self.deconv_layers = nn.Sequential(*deconvs) if deconvs else nn.Identity()
        if config.extra_kernels:
            names = [f"final_layer.{3 * i}" for i in range(len(config.extra_kernels))]
            extra = [m for name in names for m in self.conv(shapes[name], norm=True)]
            self.final_layer = nn.Sequential(*extra, *self.conv(shapes[f"final_layer.{3 * len(names)}"]))
        else:
            self.final_layer = self.conv(shapes["final_layer"])[0]

    @staticmethod
    def deconv(shapes, i):
        inputs, outputs, kernel, _ = shapes[f"deconv_layers.{i}"]["weight"]
        padding, output_padding = DECONV_PADDING[kernel]
        layer = nn.ConvTranspose2d(inputs, outputs, kernel, 2, padding, output_padding, bias=False)
        return layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)

    @staticmethod
    def conv(shapes, norm=False):
        outputs, inputs, kernel, _ = shapes["weight"]
        layer = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, bias="bias" in shapes)
        return (layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)) if norm else (layer,)

    def forward(self, x):
        if self.upsample:
            x = F.interpolate(F.relu(x), scale_factor=4, mode="bilinear", align_corners=False)
        return self.final_layer(self.deconv_layers(x))


class ViTPose(nn.Module):
    """The same network as model.py's, in PyTorch: (B, 3, H, W) -> (B, K, Hm, Wm). In evaluation mode when made."""

    def __init__(self, config):
        super().__init__()
        self.backbone = ViT(config)
        self.keypoint_head = KeypointHead(config)
        self.config = config
        self.eval()

    def forward(self, images):
        return self.keypoint_head(self.backbone(images))


def twin(model):
    """The PyTorch twin of a minivitpose model: same config, same weights, same dtype."""
    module = ViTPose(model.config)
    state = {name: torch.from_numpy(np.array(x)) for name, x in model.state_dict().items()}
    counters = {name: x for name, x in module.state_dict().items() if name.endswith("num_batches_tracked")}
    module.to(dtype=torch.from_numpy(np.zeros(1, model.dtype)).dtype).load_state_dict(counters | state)
    return module


def randomise(module, seed=0):
    """Random values in **every** tensor of a module, the same on every machine (see random_state_dict). -> module."""
    state = module.state_dict()
    values = random_state_dict({name: tuple(x.shape) for name, x in state.items()}, seed)
    module.load_state_dict({name: torch.from_numpy(values[name]).to(x.dtype) for name, x in state.items()})
    return module


# ------------------------------------------------------------------------------------------------------------ recorder


def record(module, images, truth=True):
    """All named activations of a PyTorch module (the table in trace.py) for these images. -> Reference.

    module: the twin, or any module with the names of easy_ViTPose, such as easy_ViTPose's own; it is left as it was.
    images: array or tensor (B, 3, H, W), normalised. truth: also run a float64 copy, once from the images on and once
    with every layer fed this run's own activations, so that ``compare`` knows how exact PyTorch itself is.
    Raises ValueError if the module does not have these names, or is neither of float32 nor of float64.
    """
    check_names(module)
    first = next(module.parameters())
    dtype = first.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"record: expected a module of float32 or float64, found {dtype}: module.float() makes it one")
    images = torch.as_tensor(np.array(without_torch(images))).to(first.device, dtype)
    values = run(module, images)
    reference = Reference(values, images=images.cpu().numpy())
    if truth and dtype != torch.float64:
        exact = copy.deepcopy(module).double()
        forced = {name: torch.from_numpy(x).to(first.device).double() for name, x in values.items()}
        reference.truth = run(exact, images.double())
        reference.alone = run(exact, images.double(), forced)
    return reference.gather_facts()


def check_names(module):
    """Raises ValueError unless the module has the names that the hooks go to."""
    names = dict(module.named_modules())
    needed = ["backbone.patch_embed.proj", "backbone.last_norm", "keypoint_head.final_layer"]
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2")
    needed += [f"backbone.blocks.0.{name}" for name in block]
    missing = [name for name in needed if name not in names]
    if missing:
        found = ", ".join(list(names)[1:4])
        raise ValueError(
            f"record: expected a module with the names of ViTPose; missing {missing[0]}, found {found}, ..."
        )


def run(module, images, forced=None):
    """One forward pass with hooks: name -> array. With ``forced``, each activation is noted and then replaced by its
    tensor there, so that every layer computes from the forced inputs."""
    recorder = Recorder(forced or {})
    modes = {part: part.training for part in module.modules()}
    handles = recorder.hang_on(module)
    try:
        with torch.no_grad():
            module.eval()(images)
    finally:
        for part, mode in modes.items():
            part.training = mode
        for handle in handles:
            handle.remove()
    return {name: x.cpu().numpy() for name, x in recorder.noted.items()}


class Recorder:
    """Hooks that note activations and, where a forced tensor is given, hand that on instead."""

    def __init__(self, forced):
        self.forced, self.noted = forced, {}

    def note(self, name, x):
        if name not in self.noted:
            self.noted[name] = x.detach().clone(memory_format=torch.contiguous_format)  # an in-place relu may follow
        return self.forced.get(name, x)

    def hang_on(self, module):
        modules = dict(module.named_modules())
        depth = len(modules["backbone.blocks"])
        handles = []
        for name in self.leaves(modules, depth):
            handles.append(modules[name].register_forward_hook(self.output(name)))
        handles.append(modules["backbone.blocks.0"].register_forward_pre_hook(self.input("backbone.pos")))
        for i in range(depth):
            block = f"backbone.blocks.{i}"
            attn = modules[f"{block}.attn"]
            handles.append(attn.qkv.register_forward_hook(self.attention(f"{block}.attn", attn)))
            handles.append(attn.proj.register_forward_pre_hook(self.input(f"{block}.attn.z")))
            handles.append(modules[f"{block}.norm2"].register_forward_pre_hook(self.input(f"{block}.resid_mid")))
            handles.append(modules[block].register_forward_hook(self.block(block)))
        handles.append(modules["backbone"].register_forward_hook(self.output("backbone")))
        if not any(name.startswith("keypoint_head.deconv_layers.") for name in modules):
            handles.append(modules["backbone"].register_forward_hook(self.relu))
            upsampled = self.input("keypoint_head.upsample")
            first = modules.get("keypoint_head.final_layer.0", modules["keypoint_head.final_layer"])
            handles.append(first.register_forward_pre_hook(upsampled))
        return handles

    @staticmethod
    def leaves(modules, depth):
        """The modules whose output is an activation of its own."""
        yield "backbone.patch_embed.proj"
        for i in range(depth):
            for name in ("norm1", "attn.qkv", "attn.proj", "attn", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2", "mlp"):
                yield f"backbone.blocks.{i}.{name}"
        yield "backbone.last_norm"
        for name in modules:
            parent, _, number = name.rpartition(".")
            if parent in ("keypoint_head.deconv_layers", "keypoint_head.final_layer") and number.isdecimal():
                yield name
        yield "keypoint_head.final_layer"

    def output(self, name):
        return lambda module, args, output: self.note(name, output)

    def input(self, name):
        return lambda module, args: (self.note(name, args[0]), *args[1:])

    def relu(self, module, args, output):
        self.note("keypoint_head.relu", F.relu(self.forced.get("backbone", output)))

    def attention(self, name, attn):
        """What happens between qkv and proj is no module's output: from qkv's output by the formula."""

        def hook(module, args, output):
            output = self.forced.get(f"{name}.qkv", output)
            heads = split_heads(output, attn.num_heads)
            q, k, v = (self.note(f"{name}.{letter}", x) for letter, x in zip("qkv", heads, strict=True))
            scores = self.note(f"{name}.scores", (q * attn.scale) @ k.transpose(-2, -1))
            pattern = self.note(f"{name}.pattern", scores.softmax(dim=-1))
            if self.forced:  # otherwise z is what proj really gets
                self.note(f"{name}.z", merge_heads(pattern @ v))

        return hook

    def block(self, name):
        def hook(module, args, output):
            if self.forced:  # the block's own sum starts from its own resid_mid, not from the forced one
                output = self.forced[f"{name}.resid_mid"] + self.forced[f"{name}.mlp"]
            return self.note(name, output)

        return hook


def split_heads(x, num_heads):
    """(B, N, 3 h d) -> three of (B, h, N, d)."""
    B, N, _ = x.shape
    return x.reshape(B, N, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x):
    """(B, h, N, d) -> (B, N, h d)."""
    B, h, N, d = x.shape
    return x.transpose(1, 2).reshape(B, N, h * d)


def save_weights(module, path):
    """Write the state dict as torch.save does: a file that PyTorch, easy_ViTPose and minivitpose load."""
    torch.save(module.state_dict(), path)
