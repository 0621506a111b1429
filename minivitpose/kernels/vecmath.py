"""exp and GELU on vectors, as polynomials. docs/fit_polynomials.py finds the coefficients and measures the errors."""

import numba
import numpy as np

from minivitpose.kernels.simd import absolute, fma, maximum, splat, times_power_of_two, where_above

f = np.float32
LOG2_E = f(1.4426950408889634)
LN2_HIGH, LN2_LOW = f(0.693359375), f(-2.12194440e-4)  # ln 2 in two parts; the first has 9 bits: n times it is exact
ROUND = f(1.5 * 2**23)  # adding it leaves no bit for a fraction, so the CPU rounds to a whole number
SMALLEST = f(-87.0)  # exp of it, 1.6e-38, is still a normal float32
FAR = f(5.5)  # from here on Phi(x) is 1 to 2e-8, a third of a unit in the last place

# (e^r - 1 - r) / r^2 from r^0 on: for |r| <= ln 2 / 2 this makes e^r to 3.1e-9 before rounding
EXP = (f(0.4999999403953552), f(0.1666652113199234), f(0.04166838899254799), f(0.008368716575205326))
EXP += (f(0.001381459878757596),)
# (Phi(x) - 1/2) / x = P(x^2) / Q(x^2), both from x^0 on: for |x| <= 5.5 to 1.7e-8 before rounding
P = (f(0.3989422619342804), f(0.033458858728408813), f(0.004651479888707399), f(0.0001645733864279464))
P += (f(6.301585926848929e-06), f(2.2931164522788094e-08))
Q = (f(1.0), f(0.2505353093147278), f(0.028416110202670097), f(0.0018606438534334302))
Q += (f(7.216691301437095e-05), f(1.199028247356182e-06))


@numba.njit(error_model="numpy")
def exp(x):
    """e^x for x <= 0, within 1 unit in the last place (measured 0.98); below -87 it stays at 1.6e-38.

    x = n ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^n e^r, and e^r = 1 + r + r^2 EXP(r).
    """
    x = maximum(x, splat(SMALLEST))
    n = fma(x, splat(LOG2_E), splat(ROUND)) - splat(ROUND)
    r = fma(n, splat(-LN2_HIGH), x)
    r = fma(n, splat(-LN2_LOW), r)
    p = splat(EXP[4])
    p = fma(p, r, splat(EXP[3]))
    p = fma(p, r, splat(EXP[2]))
    p = fma(p, r, splat(EXP[1]))
    p = fma(p, r, splat(EXP[0]))
    p = fma(p, r * r, r) + splat(f(1))
    return times_power_of_two(p, n)


@numba.njit(error_model="numpy")
def gelu_half(y):
    """Phi(y) - 1/2 for y >= 0: y P / Q, or 1/2 beyond FAR."""
    t = y * y
    p = splat(P[5])
    p = fma(p, t, splat(P[4]))
    p = fma(p, t, splat(P[3]))
    p = fma(p, t, splat(P[2]))
    p = fma(p, t, splat(P[1]))
    p = fma(p, t, splat(P[0]))
    q = splat(Q[5])
    q = fma(q, t, splat(Q[4]))
    q = fma(q, t, splat(Q[3]))
    q = fma(q, t, splat(Q[2]))
    q = fma(q, t, splat(Q[1]))
    q = fma(q, t, splat(Q[0]))
    return where_above(y, splat(FAR), splat(f(0.5)), y * p / q)


@numba.njit(error_model="numpy")
def gelu(x):
    """x Phi(x). Its error is at most 1.9e-7 |x|, and so below 9.6e-7 for |x| <= 5.5 (measured 1.81e-7 and 9.46e-7).

    Phi(x) = 1/2 + x P / Q, so x Phi(x) = x/2 + |x| h with h = |x| P / Q, or 1/2 beyond 5.5.
    PyTorch's own, in float32, is within 3.7e-7 |x|. It is closer than this one for -1 < x < -0.1 (3.4e-8 against
    5.8e-8) and for 5 < |x| < 5.5 (for x < 0 1.1e-7 against 7.8e-7), equal beyond, and farther elsewhere.
    """
    y = absolute(x)
    h = gelu_half(y)
    return fma(h, y, splat(f(0.5)) * x)
