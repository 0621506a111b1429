"""The numbers a learner's function is tried on: seeded, the same each time.

Small random arrays first, then the edges, then what the bundled model itself has there. Every array is random, biases
and statistics too: a zero hides what was forgotten.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from minivitpose import load
from minivitpose.parameters import flatten, nest
from minivitpose.teach.example import recorded

REAL = "the bundled model's own numbers"
EVERY = 48  # of the 192 tokens every 48th is taken, so that loops in plain Python finish, too


@dataclass(frozen=True)
class Case:
    """One set of arguments for one step."""

    step: str
    name: str
    build: callable  # Draw -> {argument: array, dict of arrays, number, tuple or None}
    layout: callable = np.copy

    @property
    def title(self):
        return self.name if self.layout is np.copy else f"{self.name}, not contiguous in memory"

    def arguments(self, dtype):
        """The arguments for one call, which may do with them what it wants; arrays in ``dtype``."""
        return each_array(self.layout, numbers(self, dtype))


@lru_cache(maxsize=1024)
def numbers(case, dtype):
    """The arguments of a case, shared, not to be changed. dtype: np.float32 or np.float64."""
    drawn = case.build(Draw(zlib.crc32(f"{case.step}: {case.name}".encode())))
    return each_array(lambda a: np.ascontiguousarray(a, dtype), drawn)


class Draw:
    """r(2, 3) is a random array of that shape; the rest is what layers are made of."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.random.standard_normal(shape)

    def linear(self, n, m):
        return {"weight": self(n, m), "bias": self(n)}

    def norm(self, C):
        return {"weight": self(C), "bias": self(C)}

    def batch_norm(self, C):
        return self.norm(C) | {"running_mean": self(C), "running_var": self.random.uniform(0.2, 3, C)}

    def attention(self, C, h, d):
        return {"qkv": self.linear(3 * h * d, C), "proj": self.linear(C, h * d)}

    def mlp(self, C, hidden):
        return {"fc1": self.linear(hidden, C), "fc2": self.linear(C, hidden)}

    def block(self, C, h, d):
        p = {"norm1": self.norm(C), "attn": self.attention(C, h, d)}
        return p | {"norm2": self.norm(C), "mlp": self.mlp(C, 2 * C)}

    def bumps(self, K, height, width, border=8, sigma=2.0):
        """K heatmaps, each with a Gaussian whose top lies between the cells, ``border`` cells from the edge or more."""
        x = self.random.uniform(border, width - 1 - border, (K, 1, 1))
        y = self.random.uniform(border, height - 1 - border, (K, 1, 1))
        away = (np.arange(width) - x) ** 2 + (np.arange(height)[:, None] - y) ** 2
        return self.random.uniform(0.4, 0.9, (K, 1, 1)) * np.exp(-away / (2 * sigma**2))

    def real(self, name):
        """An activation of the bundled model; of tokens one in EVERY."""
        x = bundled()[1][name]
        return x[:, ::EVERY] if x.ndim == 3 else x

    def params(self, name):
        """The bundled model's parameters under a name, nested."""
        flat = {key.removeprefix(name + "."): x for key, x in bundled()[0].items() if key.startswith(name + ".")}
        return nest({key: x for key, x in flat.items() if not key.endswith("num_batches_tracked")})


@lru_cache(maxsize=1)
def bundled():
    """The bundled model's parameters and, on the course's crop, its activations: two dicts, name -> float32 array."""
    model, images = load("mini", engine="numpy"), recorded().images
    return flatten(model.params), {"images": images, **model.run_with_cache(images)[1]}


def each_array(f, x):
    """f of every array in nested dicts; all else as it is."""
    if isinstance(x, dict):
        return {name: each_array(f, y) for name, y in x.items()}
    return f(x) if isinstance(x, np.ndarray) else x


def scattered(a):
    """The same numbers in an array that is not contiguous: two items apart, and backwards in memory."""
    return a.copy() if a.ndim == 0 else np.repeat(a, 2, axis=-1)[..., ::-1].copy()[..., ::-2]


def cases_of(step, builds):
    """name -> build, as in the tables: a tuple of Cases. The first comes once more, scattered in memory."""
    cases = [Case(step, name, build) for name, build in builds.items()]
    again = Case(step, cases[0].name, cases[0].build, scattered)
    return tuple(cases[:1] + [again] + cases[1:])
