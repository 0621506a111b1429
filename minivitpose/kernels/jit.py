"""How every kernel is compiled, and how arrays are made ready for one.

Compilation is lazy, once for float32 and once for float64, and kept on disk (CACHE). Numba sees no change of this file
in that cache: after one, delete ``kernels/__pycache__``.
"""

import warnings
from functools import wraps

import numpy as np
from numba import njit
from numba.core import config
from numba.extending import overload


def can_cache():
    """Whether Numba can write to a folder for compiled code: NUMBA_CACHE_DIR, beside the source, the user's cache."""
    try:
        njit(cache=True)(lambda: None)
    except RuntimeError:
        warnings.warn(
            "no folder can be written to keep compiled code in, so it is compiled anew by each process: set "
            "NUMBA_CACHE_DIR to one that can",
            stacklevel=2,
        )
        return False
    return True


CACHE = can_cache()

# error_model="numpy": a division by zero gives inf or nan, as in NumPy. Python's check would keep loops scalar.
options = {"parallel": True, "cache": CACHE, "error_model": "numpy"}

kernel = njit(**options)

# For sums over many numbers. The flag reassoc lets the compiler keep many partial sums, one a lane of the vector
# registers, instead of one long chain. On 2 AVX-512 cores in float32 it took linear, 192 x 768 @ 768 x 768, from 9.0
# to 1.3 ms, the second transposed convolution from 185 to 25, patch embedding from 54 to 1.8, a layer_norm from 0.08 to
# 0.01, and the error of linear to a fifth, at K = 3072 to a seventh. contract bought nothing on top. The order of a
# sum is fixed when the kernel is compiled for a CPU: it depends neither on the number of threads nor on the run.
summing_kernel = njit(**options, fastmath={"reassoc"})


def float_type(*arrays):
    """The dtype that NumPy would give to a result of these arrays: float32 or float64, else TypeError."""
    dtype = np.result_type(*arrays)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"the kernels take float32 and float64, got {dtype}: convert with x.astype(np.float32)")
    return dtype


def ready(name, x, shape, dtype):
    """The array as kernels take it: of this shape, else ValueError, and of this dtype, C-contiguous and read-only.

    Copied only if it is not so already. Read-only, because then a kernel that wrote to its input would not compile, and
    an array that cannot be written, for example of a file mapped into memory, needs no compilation of its own.
    """
    if x.shape != tuple(shape):
        raise ValueError(f"{name} has shape {x.shape}, expected {tuple(shape)}")
    x = np.require(x, dtype, ["C_CONTIGUOUS", "ALIGNED"]).view()
    x.flags.writeable = False
    return x


def ready_bias(bias, n, dtype):
    """The same for a bias (n,) that may be None: zeros."""
    return ready("bias", np.zeros(n, dtype) if bias is None else bias, (n,), dtype)


def by_type(choose):
    """Decorates ``choose(*arguments)``, which says which kernel takes arguments of these types.

    Kernels call it as if it were that kernel: the choice is made when they are compiled. ``choose`` may look at the
    dtypes of arrays with ``holds``, and at nothing else.
    """

    @wraps(choose)
    def call(*arguments):
        return choose(*arguments)(*arguments)

    if not config.DISABLE_JIT:

        @overload(call, strict=False)
        @wraps(choose)
        def chosen(*arguments):
            return choose(*arguments).py_func

    return call


def holds(x, dtype):
    """Whether x, an array or Numba's type of one, has this dtype."""
    return str(x.dtype) == np.dtype(dtype).name
