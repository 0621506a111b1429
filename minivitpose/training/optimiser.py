"""AdamW as ViTPose was trained with it: decoupled weight decay, smaller steps in lower layers, clipped gradients.
And Muon, which learns the same from fewer crops: it turns each matrix as a whole instead of each number by itself.

Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019; Bao et al., BEiT, for the decay of the
learning rate from layer to layer; the rules for names are those of ViTPose's LayerDecayOptimizerConstructor. Muon:
Jordan et al. 2024; its steps are made as large as AdamW's in the way of Liu et al., Muon is scalable, 2025.
"""

import numpy as np
from numba import njit

from minivitpose.kernels.gradients import newton_schulz
from minivitpose.kernels.jit import CACHE
from minivitpose.parameters import flatten, is_learnt, stands_in
from minivitpose.training.settings import SettingsError


def layer_number(name, depth):
    """0 for patches and positions, 1 .. depth for the blocks, depth + 1 for the last norm and the head."""
    if name.startswith(("backbone.patch_embed.", "backbone.pos_embed")):
        return 0
    return int(name.split(".")[2]) + 1 if name.startswith("backbone.blocks.") else depth + 1


def rate_scale(name, depth, layer_decay=1.0):
    """What a parameter's learning rate is multiplied by: layer_decay for each layer between it and the head."""
    return layer_decay ** (depth + 1 - layer_number(name, depth))


def decays(name, x):
    """Whether weight decay pulls this parameter to zero: matrices and kernels, no bias, norm or position."""
    return x.ndim > 1 and not name.endswith("pos_embed")


def clip(gradients, largest=1.0):
    """Scale all gradients, in place, so that their norm as one long vector is at most ``largest``; -> the norm before.

    gradients: flat dict of arrays. As torch.nn.utils.clip_grad_norm_; a norm that is not finite changes nothing.
    """
    norm = float(np.sqrt(sum(np.square(g).sum(dtype=np.float64) for g in gradients.values())))
    if np.isfinite(norm) and norm > largest:
        for g in gradients.values():
            g *= largest / (norm + 1e-6)
    return norm


class AdamW:
    """The optimiser's state: two moments for each learnt parameter, and the number of steps."""

    def __init__(self, params, depth, layer_decay=1.0, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, frozen=()):
        """params: nested dict of arrays in C order, updated in place by ``step``. frozen: names of parameters that
        stay, or of what holds them. Raises ValueError for an array in another order.
        """
        learnt = {name: x for name, x in flatten(params).items() if is_learnt(name)}
        self.params = {name: x for name, x in learnt.items() if not stands_in(name, frozen)}
        if turned := [name for name, x in self.params.items() if not x.flags.c_contiguous]:
            raise ValueError(f"{turned[0]}: expected an array in C order; parameters.copied makes such copies")
        self.scale = {name: rate_scale(name, depth, layer_decay) for name in self.params}
        self.weight_decay = {name: weight_decay * decays(name, x) for name, x in self.params.items()}
        self.first = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.second = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.betas, self.eps, self.steps = betas, eps, 0

    def step(self, gradients, rate):
        """One update of every parameter. gradients: flat dict; rate: the learning rate of this step."""
        self.steps += 1
        for name, x in self.params.items():
            self.update(name, x, gradients[name], rate * self.scale[name])

    def update(self, name, x, gradient, rate):
        """One update of one parameter, in place."""
        (beta1, beta2), (first_share, second_share) = self.betas, (1 - beta**self.steps for beta in self.betas)
        keep = 1 - rate * self.weight_decay[name]
        numbers = (keep, 1 - beta1, beta2, 1 - beta2, rate / first_share, second_share**0.5, self.eps)
        arrays = (x, gradient, self.first[name], self.second[name])
        update(*(a.reshape(-1) for a in arrays), np.array(numbers, x.dtype))

    def state(self):
        """Flat dict of arrays, for a checkpoint."""
        moments = {"first": self.first, "second": self.second}
        flat = {f"{moment}.{name}": x for moment, arrays in moments.items() for name, x in arrays.items()}
        return flat | {"steps": np.array(self.steps)}

    def restore(self, flat):
        """Take up the state that ``state`` gave. Raises KeyError or ValueError where it is of another model."""
        self.steps = int(flat["steps"])
        for moment, arrays in (("first", self.first), ("second", self.second)):
            for name, x in arrays.items():
                x[...] = flat[f"{moment}.{name}"]


def is_hidden_matrix(name, x):
    """Whether Muon turns it: the matrices and kernels between the picture and the last layer."""
    return decays(name, x) and "final_layer" not in name


def as_matrices(name, x):
    """A weight as the matrices that it is made of, (count, rows, columns): qkv is three, a kernel is one."""
    return x.reshape(3 if ".qkv." in name else 1, -1, x.size // len(x))


def orthogonalised(matrices, steps=5):
    """Each matrix U S V^T -> about U V^T: its singular values, from 0.02 of their norm up, to between 0.68 and 1.14.

    matrices (n, rows, columns). A step takes each singular value s to a s + b s^3 + c s^5: no decomposition is needed.
    Source: the Newton-Schulz iteration of Jordan et al. 2024, with its coefficients.
    """
    a, b, c = newton_schulz.COEFFICIENTS
    x = lying(unit(matrices))
    for _ in range(steps):
        square = x @ x.swapaxes(1, 2)
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.swapaxes(1, 2) if is_tall(matrices) else x


def unit(matrices):
    """Each divided by its Frobenius norm, which no singular value exceeds."""
    return matrices / (np.sqrt(np.square(matrices).sum(axis=(1, 2), keepdims=True)) + 1e-7)


def is_tall(matrices):
    return matrices.shape[1] > matrices.shape[2]


def lying(matrices):
    """Transposed if they are higher than wide: the square of the shorter side is the smaller one."""
    return matrices.swapaxes(1, 2) if is_tall(matrices) else matrices


class Muon(AdamW):
    """AdamW, but a hidden matrix moves along the orthogonalised mean of its gradients, Nesterov's way.

    So all directions of a matrix learn alike, also those that its gradients rarely point to.
    """

    def __init__(self, *arguments, matrix_rate=1.0, momentum=0.95, **options):
        """As AdamW. matrix_rate: how many times the learning rate hidden matrices take."""
        super().__init__(*arguments, **options)
        self.matrix_rate, self.momentum = matrix_rate, momentum
        self.hidden = [name for name, x in self.params.items() if is_hidden_matrix(name, x)]
        self.others = [name for name in self.params if name not in self.hidden]
        self.second = {name: self.second[name] for name in self.others}
        self.orthogonalise = Orthogonaliser([as_matrices(name, self.params[name]) for name in self.hidden])

    def step(self, gradients, rate):
        """One update of every parameter; a hidden matrix moves by 0.2 rate on average, as AdamW's usually do."""
        self.steps += 1
        for name in self.others:
            self.update(name, self.params[name], gradients[name], rate * self.scale[name])
        ahead = [as_matrices(name, self.ahead(name, gradients[name])) for name in self.hidden]
        for name, direction in zip(self.hidden, self.orthogonalise(ahead), strict=True):
            x, own_rate = self.params[name], rate * self.scale[name] * self.matrix_rate
            x *= x.dtype.type(1 - own_rate * self.weight_decay[name])
            x -= x.dtype.type(own_rate * 0.2 * max(direction.shape[1:]) ** 0.5) * direction.reshape(x.shape)

    def ahead(self, name, gradient):
        """The running mean of the gradients, after this one, and once more in its direction."""
        first, new = self.first[name], gradient.dtype.type(1 - self.momentum)
        first += new * (gradient - first)
        return first + new * (gradient - first)


class Orthogonaliser:
    """``orthogonalised`` for many stacks of matrices at once: those that the kernel takes go through it together."""

    def __init__(self, stacks):
        """stacks: arrays (n, rows, columns), as each call will bring."""
        self.fast = [i for i, stack in enumerate(stacks) if newton_schulz.fits(stack)]
        shapes = [sorted(stacks[i].shape[1:]) for i in self.fast for _ in stacks[i]]
        self.kernel = newton_schulz.NewtonSchulz(shapes) if shapes else None

    def __call__(self, stacks):
        """-> a list of arrays like the stacks."""
        found = [None if i in self.fast else orthogonalised(stack) for i, stack in enumerate(stacks)]
        flat = [lying(unit(stacks[i])) for i in self.fast]
        turned = iter(self.kernel([matrix for stack in flat for matrix in stack]) if self.kernel else ())
        for i in self.fast:
            stack = np.stack([next(turned) for _ in stacks[i]])
            found[i] = stack.swapaxes(1, 2) if is_tall(stacks[i]) else stack
        return found


def new_optimiser(params, config, settings):
    """The optimiser that the settings name, for these nested parameters. Raises SettingsError if these do not fit."""
    names = list(flatten(params))
    for place in settings.frozen:
        if not any(stands_in(name, [place]) for name in names):
            some = "backbone.pos_embed, backbone.blocks.0, keypoint_head"
            raise SettingsError(f"frozen: no parameter is, or is in, {place!r}; expected names such as {some}")
    if all(stands_in(name, settings.frozen) for name in names):
        raise SettingsError(f"frozen: {', '.join(settings.frozen)} is all there is; nothing is left to learn")
    rules = {"layer_decay": settings.layer_decay, "weight_decay": settings.weight_decay, "frozen": settings.frozen}
    if settings.optimiser == "muon":
        return Muon(params, config.depth, **rules, matrix_rate=settings.matrix_rate)
    return AdamW(params, config.depth, **rules)


@njit(cache=CACHE, error_model="numpy")
def update(x, gradient, first, second, numbers):
    """x, gradient and both moments (n,): all of the rule in one pass over memory, in the order of PyTorch's."""
    keep, new1, old2, new2, rate, root, eps = numbers
    for i in range(len(x)):
        g = gradient[i]
        first[i] += (g - first[i]) * new1
        second[i] = old2 * second[i] + new2 * (g * g)
        x[i] = x[i] * keep - rate * (first[i] / (np.sqrt(second[i]) / root + eps))
