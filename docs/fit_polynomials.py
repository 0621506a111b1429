"""Where the coefficients in kernels/vecmath.py come from, and how far its float32 formulas are from the truth.

Minimax fits by Lawson's method: weighted least squares, where each round gives more weight to where the error is large.

    pip install mpmath                       # for the fit's target: numbers of 50 digits; nothing else needs it
    python docs/fit_polynomials.py           # half a minute; with PyTorch installed its errors stand beside ours
"""

import importlib.util
import math

import numba
import numpy as np

from minivitpose.kernels import vecmath
from minivitpose.kernels.simd import LANES, aligned, load, store

POINTS = 1 << 20
RANGES = [-12, -5.5, -5, -3, -1, -0.1, 0, 0.1, 1, 3, 5, 5.5, 12]

# --------------------------------------------------------------------------------------------------------- the fits


def lawson(columns, target, scale, rounds=300):
    """Coefficients c that make max |(columns @ c - target) * scale| as small as Lawson's iteration gets it, and that.

    columns (n, coefficients), target (n,), scale (n,): at each of n points the basis, the value, the error's weight.
    """
    weight = np.ones(len(target))
    best, best_error = None, np.inf
    norms = np.abs(columns * scale[:, None]).max(0)
    for _ in range(rounds):
        w = np.sqrt(weight) * scale
        c = np.linalg.lstsq(columns * w[:, None] / norms, target * w, rcond=None)[0] / norms
        error = np.abs((columns @ c - target) * scale)
        if error.max() < best_error:
            best, best_error = c, error.max()
        weight = weight * error
        weight /= weight.sum()
    return best, best_error


def fit_exp(count):
    """(c, relative error): exp(r) = 1 + r + r^2 (c0 + c1 r + ...), ``count`` coefficients, on |r| <= ln 2 / 2."""
    import mpmath

    r = np.cos(np.linspace(0, np.pi, 4001)) * math.log(2) / 2 * 1.0001
    r = r[np.abs(r) > 1e-9]
    rest = np.array([float((mpmath.exp(mpmath.mpf(x)) - 1 - mpmath.mpf(x)) / mpmath.mpf(x) ** 2) for x in r])
    columns = r[:, None] ** np.arange(count)
    return lawson(columns, rest, r * r / np.exp(r))


def fit_phi(top, bottom, limit):
    """(p, q, relative error): Phi(x) - 1/2 = x P(x^2) / Q(x^2) of these degrees on |x| <= limit; Q begins with 1.

    Multiplied by Q the equation is linear in both; the Q of the round before weighs the error as dividing by it would.
    """
    import mpmath

    x = (np.sin(np.linspace(0, np.pi / 2, 4001))[1:]) * limit
    x = np.sort(np.concatenate([x, np.linspace(1e-3, limit, 2000)]))
    f = np.array([float(mpmath.erf(mpmath.mpf(v) / mpmath.sqrt(2)) / 2) for v in x])
    t = x * x
    q = np.ones(len(x))
    best, best_error = None, np.inf
    for _ in range(30):
        over, under = t[:, None] ** np.arange(top + 1), t[:, None] ** np.arange(1, bottom + 1)
        c, _ = lawson(np.concatenate([(x / f)[:, None] * over, -under], 1), np.ones(len(x)), 1 / q, 60)
        p, below = c[: top + 1], np.concatenate([[1.0], c[top + 1 :]])
        q = np.polyval(below[::-1], t)
        error = np.abs(x * np.polyval(p[::-1], t) / q / f - 1).max()
        if error < best_error:
            best, best_error = (p, below), error
    return *best, best_error


# ----------------------------------------------------------------------------- the float32 formulas, against the truth


@numba.njit
def exp_each(x, y):
    for j in range(0, x.shape[1], LANES):
        store(y, 0, j, vecmath.exp(load(x, 0, j)))


@numba.njit
def gelu_each(x, y):
    for j in range(0, x.shape[1], LANES):
        store(y, 0, j, vecmath.gelu(load(x, 0, j)))


def on_a_grid(kernel, low, high, points=POINTS):
    """(x, kernel(x)), both (points,) float32, x from low to high."""
    x, y = aligned(1, points), aligned(1, points)
    x[0] = np.linspace(low, high, points)
    kernel(x, y)
    return x[0], y[0]


def exp_error(low=-87.0, high=0.0):
    """The largest error of exp on a grid, in units in the last place of the truth."""
    x, y = on_a_grid(exp_each, low, high)
    truth = np.exp(x.astype(np.float64))
    return np.max(np.abs(y - truth) / np.spacing(truth.astype(np.float32)))


def gelu_truth(x):
    """x Phi(x) = x erfc(-x / sqrt 2) / 2 in float64, without the cancellation that 1 + erf has."""
    return np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.astype(np.float64).tolist()])


def main():
    c, error = fit_exp(5)
    print(f"exp: relative error {error:.1e} before rounding")
    show("EXP", c)
    print(f"in float32 at most {exp_error():.2f} units in the last place, from -87 to 0\n")

    p, q, error = fit_phi(5, 5, 5.5)
    print(f"Phi(x) - 1/2 up to x = 5.5: relative error {error:.1e} before rounding")
    show("P", p)
    show("Q", q)
    x, y = on_a_grid(gelu_each, RANGES[0], RANGES[-1])
    truth, results = gelu_truth(x), {"ours": y}
    if importlib.util.find_spec("torch"):
        import torch

        results["PyTorch"] = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    print("gelu in float32: the largest error of", ", ".join(results))
    for low, high in zip(RANGES[:-1], RANGES[1:], strict=True):
        part = (x >= low) & (x <= high)
        print(f"{low:6} to {high:4}", *(f"{np.abs(y - truth)[part].max():.2e}" for y in results.values()))
    print("   / |x|       ", *(f"{np.max(np.abs(y - truth) / np.abs(x)):.2e}" for y in results.values()))
    print(" |x| <= 5.5    ", *(f"{np.abs(y - truth)[np.abs(x) <= 5.5].max():.2e}" for y in results.values()))


def show(name, fitted):
    used = getattr(vecmath, name)
    same = np.array_equal(np.float32(fitted), np.float32(used))
    print(f"{name} =", [float(np.float32(v)) for v in fitted], "as in vecmath.py" if same else f"BUT IN USE {used}")


if __name__ == "__main__":
    main()
