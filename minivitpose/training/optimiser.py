"""AdamW as ViTPose was trained with it: decoupled weight decay, smaller steps in lower layers, clipped gradients.

Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019; Bao et al., BEiT, for the decay of the
learning rate from layer to layer; the rules for names are those of ViTPose's LayerDecayOptimizerConstructor.
"""

import numpy as np
from numba import njit

from minivitpose.parameters import flatten, is_learnt


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
    norm = float(np.sqrt(sum(np.vdot(g, g).astype(np.float64) for g in gradients.values())))
    if np.isfinite(norm) and norm > largest:
        for g in gradients.values():
            g *= largest / (norm + 1e-6)
    return norm


class AdamW:
    """The optimiser's state: two moments for each learnt parameter, and the number of steps."""

    def __init__(self, params, depth, layer_decay=1.0, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, frozen=()):
        """params: nested dict, updated in place by ``step``. frozen: names of parameters or beginnings of names."""
        learnt = {name: x for name, x in flatten(params).items() if is_learnt(name)}
        self.params = {name: x for name, x in learnt.items() if not name.startswith(tuple(frozen))}
        self.scale = {name: rate_scale(name, depth, layer_decay) for name in self.params}
        self.weight_decay = {name: weight_decay * decays(name, x) for name, x in self.params.items()}
        self.first = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.second = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.betas, self.eps, self.steps = betas, eps, 0

    def step(self, gradients, rate):
        """One update of every parameter. gradients: flat dict; rate: the learning rate of this step."""
        self.steps += 1
        (beta1, beta2), (first_share, second_share) = self.betas, (1 - beta**self.steps for beta in self.betas)
        for name, x in self.params.items():
            r = rate * self.scale[name]
            keep = 1 - r * self.weight_decay[name]
            numbers = (keep, 1 - beta1, beta2, 1 - beta2, r / first_share, second_share**0.5, self.eps)
            arrays = (x, gradients[name], self.first[name], self.second[name])
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


@njit(cache=True, error_model="numpy")
def update(x, gradient, first, second, numbers):
    """x, gradient and both moments (n,): all of the rule in one pass over memory, in the order of PyTorch's."""
    keep, new1, old2, new2, rate, root, eps = numbers
    for i in range(len(x)):
        g = gradient[i]
        first[i] += (g - first[i]) * new1
        second[i] = old2 * second[i] + new2 * (g * g)
        x[i] = x[i] * keep - rate * (first[i] / (np.sqrt(second[i]) / root + eps))
