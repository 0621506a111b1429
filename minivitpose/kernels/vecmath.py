"""exp and the normal distribution on vectors, as polynomials. fit.py finds the coefficients and the errors given here."""

import numba
import numpy as np

from minivitpose.kernels.simd import absolute, fma, maximum, splat, times_power_of_two, where_above

f = np.float32
LOG2_E = f(1.4426950408889634)
LN2_HIGH, LN2_LOW = f(0.693359375), f(-2.12194440e-4)  # ln 2 in two parts; the first has 9 bits, so n times it is exact
ROUND = f(1.5 * 2**23)  # adding it leaves no bit for a fraction, so the CPU rounds to a whole number
SMALLEST = f(-87.0)  # exp of it, 1.6e-38, is still a normal float32


@numba.njit(error_model="numpy")
def exp(x):
    """e^x for x <= 0, within 1 ulp; below -87 it stays at 1.6e-38.

    x = n ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^n e^r, and e^r = 1 + r + r^2 P(r) with P of degree 4.
    """
    x = maximum(x, splat(SMALLEST))
    n = fma(x, splat(LOG2_E), splat(ROUND)) - splat(ROUND)
    r = fma(n, splat(-LN2_HIGH), x)
    r = fma(n, splat(-LN2_LOW), r)
    p = splat(f(0.001381459878757596))
    p = fma(p, r, splat(f(0.008368716575205326)))
    p = fma(p, r, splat(f(0.04166838899254799)))
    p = fma(p, r, splat(f(0.1666652113199234)))
    p = fma(p, r, splat(f(0.4999999403953552)))
    p = fma(p, r * r, r) + splat(f(1))
    return times_power_of_two(p, n)


@numba.njit(error_model="numpy")
def gelu(x):
    """x Phi(x), within 3e-7 |x|, half of PyTorch's error.

    Phi(x) = 1/2 + x P(x^2) / Q(x^2), so x Phi(x) = x/2 + |x| h with h = |x| P / Q; beyond 5.5 h is 1/2 to 2e-8.
    """
    y = absolute(x)
    t = y * y
    p = splat(f(2.2931164522788094e-08))
    p = fma(p, t, splat(f(6.301585926848929e-06)))
    p = fma(p, t, splat(f(0.0001645733864279464)))
    p = fma(p, t, splat(f(0.004651479888707399)))
    p = fma(p, t, splat(f(0.033458858728408813)))
    p = fma(p, t, splat(f(0.3989422619342804)))
    q = splat(f(1.199028247356182e-06))
    q = fma(q, t, splat(f(7.216691301437095e-05)))
    q = fma(q, t, splat(f(0.0018606438534334302)))
    q = fma(q, t, splat(f(0.028416110202670097)))
    q = fma(q, t, splat(f(0.2505353093147278)))
    q = fma(q, t, splat(f(1)))
    h = where_above(y, splat(f(5.5)), splat(f(0.5)), y * p / q)
    return fma(h, y, splat(f(0.5)) * x)
