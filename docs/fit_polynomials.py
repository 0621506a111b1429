"""Where the coefficients in vecmath.py come from, and how far the float32 formulas are from the truth.

Minimax fits by Lawson's method: weighted least squares, where each round gives more weight to where the error is large.

    python fit.py
"""

import math

import mpmath
import numpy as np


def lawson(columns, target, scale, rounds=300):
    """Coefficients c that make max |(columns @ c - target) * scale| as small as Lawson's iteration gets it."""
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


def fit_exp(degree):
    """exp(r) = 1 + r + r^2 (c0 + c1 r + ...) on |r| <= ln 2 / 2, relative error."""
    r = np.cos(np.linspace(0, np.pi, 4001)) * math.log(2) / 2 * 1.0001
    r = r[np.abs(r) > 1e-9]
    rest = np.array([float((mpmath.exp(mpmath.mpf(x)) - 1 - mpmath.mpf(x)) / mpmath.mpf(x) ** 2) for x in r])
    columns = r[:, None] ** np.arange(degree - 1)
    return lawson(columns, rest, r * r / np.exp(r))


def fit_phi(top, bottom, limit):
    """Phi(x) - 1/2 = x P(x^2) / Q(x^2) on |x| <= limit, error relative to the value; Q begins with 1."""
    x = (np.sin(np.linspace(0, np.pi / 2, 4001))[1:]) * limit
    x = np.sort(np.concatenate([x, np.linspace(1e-3, limit, 2000)]))
    f = np.array([float(mpmath.erf(mpmath.mpf(v) / mpmath.sqrt(2)) / 2) for v in x])
    t = x * x
    q = np.ones(len(x))
    best, best_error = None, np.inf
    for _ in range(30):
        columns = np.concatenate(
            [(x / f)[:, None] * t[:, None] ** np.arange(top + 1), -(t[:, None] ** np.arange(1, bottom + 1))], 1
        )
        c, _ = lawson(columns, np.ones(len(x)), 1 / q, 60)
        p, qq = c[: top + 1], np.concatenate([[1.0], c[top + 1 :]])
        q = np.polyval(qq[::-1], t)
        error = np.abs(x * np.polyval(p[::-1], t) / q / f - 1).max()
        if error < best_error:
            best, best_error = (p, qq), error
    return *best, best_error


if __name__ == "__main__":
    for degree in (5, 6, 7):
        c, error = fit_exp(degree)
        print(
            "exp",
            degree,
            f"relative error {error:.2e} = {error * 2**24:.3f} half ulps",
            [float(np.float32(v)) for v in c],
        )
    for top, bottom, limit in [(4, 4, 5.5), (5, 4, 5.5), (5, 5, 5.5), (6, 4, 5.5), (6, 5, 5.5), (6, 6, 5.5)]:
        p, q, error = fit_phi(top, bottom, limit)
        print("phi", top, bottom, limit, f"relative error {error:.2e} = {error * 2**24:.3f}")
        print([float(np.float32(v)) for v in p], [float(np.float32(v)) for v in q])
