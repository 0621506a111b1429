"""Vectors: the one place that knows how many floats the CPU's registers hold.

A ``vector`` is LANES float32 side by side in one register. Kernels load it from an array, calculate with + - * / and
the functions below, and store it. Every function is written twice: compiled, as the LLVM instruction it stands for (a
name in _ir), and under it plain, as what it means in NumPy. With NUMBA_DISABLE_JIT=1 the plain ones run, so that a
kernel can be stepped through.

    LANES     floats in a register: 16 (AVX-512), 8 (AVX2), 4 (NEON, SSE)

The type of an array says how its numbers are kept: float32; uint16 for bfloat16, the upper half of a float32; uint32
for the same memory in pairs, which is how the CPU multiplies bfloat16 (``HALF`` says whether it can).
"""

import inspect
import math
import operator
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model


def cpu():
    """(floats in a register, registers, has a multiply-add, has one for bfloat16), of the CPU that Numba compiles for.

    NUMBA_CPU_NAME and NUMBA_CPU_FEATURES choose another CPU than this one.
    """
    if ARCHITECTURE == "arm":
        return 4, 32, True, False
    if "+avx512f" in FEATURES:
        return 16, 32, True, "+avx512bf16" in FEATURES
    if "+avx2" in FEATURES and "+fma" in FEATURES:
        return 8, 16, True, False
    return 4, 16, False, False


TRIPLE, _, FEATURES = cpu_target.target_context.codegen().magic_tuple()
FEATURES = FEATURES.split(",")
ARCHITECTURE = "arm" if TRIPLE.startswith(("aarch64", "arm64")) else "x86" if TRIPLE.startswith("x86_64") else "other"
LANES, REGISTERS, FMA, HALF = cpu()
LINE = 16  # floats in a cache line of 64 bytes

f32, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
vec, ivec, halves = (ir.VectorType(kind, LANES) for kind in (f32, i32, ir.IntType(16)))


class BFloat16(type(f32).__base__):
    """What llvmlite lacks: LLVM's name for bfloat16."""

    def __str__(self):
        return "bfloat"


BFloat16._create_instance()


class Vector(types.Type):
    """Numba's name for LANES float32 in a register."""

    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


vector = Vector()


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, vec)


def aligned(*shape, dtype=np.float32):
    """Zeros that begin on a cache line (64 bytes), so that no vector load straddles two."""
    n = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(n + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n].view(dtype).reshape(shape)


def to_half(x):
    """float32 -> bfloat16 as uint16: the upper half of the bits, rounded to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_half(x):
    """bfloat16 as uint16 -> float32."""
    return (x.astype(np.uint32) << 16).view(np.float32)


# ------------------------------------------------------------------------------------------ how an instruction is made


def instruction(emit, result, *arguments):
    """Decorates the plain meaning; ``emit(builder, *values)`` writes the LLVM instruction that does the same.

    result and arguments: Numba's types, ``array`` for an array of any. The plain function stays at hand as ``.plain``.
    """

    def decorate(plain):
        if config.DISABLE_JIT:
            return plain

        def typed(typingctx, *given):
            def codegen(context, builder, signature, values):
                values = [
                    Array(context, builder, kind, value) if isinstance(kind, types.Array) else value
                    for kind, value in zip(signature.args, values, strict=True)
                ]
                answer = emit(builder, *values)
                return context.get_dummy_value() if answer is None else answer

            wanted = [kind if want is array else want for kind, want in zip(given, arguments, strict=True)]
            return result(*wanted), codegen

        typed.__name__, typed.__doc__ = plain.__name__, plain.__doc__
        names = ["typingctx", *inspect.signature(plain).parameters]  # Numba counts the arguments by this
        parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
        typed.__signature__ = inspect.Signature(parameters)
        compiled = intrinsic(typed)
        compiled.plain = plain
        return compiled

    return decorate


array = None  # an argument that is an array of any type
index = types.intp


class Array:
    """A two-dimensional C-contiguous array, seen from LLVM."""

    def __init__(self, context, builder, kind, value):
        assert kind.ndim == 2 and kind.layout == "C", kind
        struct = context.make_array(kind)(context, builder, value)
        self.builder, self.data, self.dtype = builder, struct.data, kind.dtype
        self.columns = cgutils.unpack_tuple(builder, struct.shape)[1]

    def in_pairs(self):
        """From now on the same memory as uint32, if it is uint16."""
        if self.dtype == types.uint16:
            self.data = self.builder.bitcast(self.data, i32.as_pointer())
            self.columns = self.builder.lshr(self.columns, integer(1))

    def must_hold(self, *kinds):
        """No kernel reads floats out of an array of something else: raises TypeError, while it is compiled."""
        if self.dtype not in kinds:
            raise TypeError(f"expected an array of {' or '.join(map(str, kinds))}, not {self.dtype}")

    def at(self, i, j, plus=0):
        """The address of element (i, j + plus)."""
        offset = self.builder.add(self.builder.mul(i, self.columns), j)
        return self.builder.gep(self.data, [self.builder.add(offset, integer(plus))])


def integer(n):
    return ir.Constant(i64, n)


def integers(n):
    """The same 32-bit integer in every lane."""
    return ir.Constant(ivec, [n] * LANES)


def call(builder, name, result, *values):
    """A call of one of LLVM's own functions, or of the C library's."""
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


# --------------------------------------------------------------------------------------------------- vectors in memory


def load_at(builder, address):
    return builder.load(builder.bitcast(address, vec.as_pointer()), align=4)


def store_at(builder, v, address):
    builder.store(v, builder.bitcast(address, v.type.as_pointer()), align=2 if v.type is halves else 4)


def load_ir(builder, x, i, j):
    x.must_hold(types.float32, types.uint16)
    if x.dtype == types.uint16:
        v = builder.zext(builder.load(builder.bitcast(x.at(i, j), halves.as_pointer()), align=2), ivec)
        return builder.bitcast(builder.shl(v, integers(16)), vec)
    return load_at(builder, x.at(i, j))


@instruction(load_ir, vector, array, index, index)
def load(x, i, j):
    """LANES floats: x[i, j], x[i, j + 1], ..., of float32 or bfloat16 (uint16)."""
    x = x[i, j : j + LANES]
    return from_half(x) if x.dtype == np.uint16 else x.copy()


def to_half_ir(builder, v):
    if HALF:
        v = call(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(BFloat16(), LANES), v)
        return builder.bitcast(v, halves)
    # The engine offers bfloat16 only where HALF; its tests run everywhere. As to_half:
    bits = builder.bitcast(v, ivec)
    odd = builder.and_(builder.lshr(bits, integers(16)), integers(1))
    return builder.trunc(builder.lshr(builder.add(bits, builder.add(odd, integers(0x7FFF))), integers(16)), halves)


def store_ir(builder, x, i, j, v):
    x.must_hold(types.float32, types.uint16)
    store_at(builder, to_half_ir(builder, v) if x.dtype == types.uint16 else v, x.at(i, j))


@instruction(store_ir, types.void, array, index, index, vector)
def store(x, i, j, v):
    """x[i, j], x[i, j + 1], ... = the LANES floats of v, rounded to bfloat16 if x is uint16."""
    x[i, j : j + LANES] = to_half(v) if x.dtype == np.uint16 else v


def transposed_ir(builder, rows):
    """The columns of these LANES rows, in log2(LANES) rounds: in the one of distance s rows i and i + s exchange blocks
    of s lanes off the diagonal.
    """
    rows, distance = list(rows), LANES // 2
    while distance:
        # Lane n of both new rows: numbers below LANES count the lanes of the upper old row, the others the lower one's.
        upper = [n - distance + LANES if n & distance else n for n in range(LANES)]
        lower = [n + LANES if n & distance else n + distance for n in range(LANES)]
        for i in range(LANES):
            if not i & distance:
                pair = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = (
                    builder.shuffle_vector(*pair, ir.Constant(ivec, lanes)) for lanes in (upper, lower)
                )
        distance //= 2
    return rows


def transpose_ir(builder, y, yi, yj, x, xi, xj):
    rows = [load_ir(builder, x, builder.add(xi, integer(i)), xj) for i in range(LANES)]
    for i, row in enumerate(transposed_ir(builder, rows)):
        store_ir(builder, y, builder.add(yi, integer(i)), yj, row)


@instruction(transpose_ir, types.void, array, index, index, array, index, index)
def transpose(y, yi, yj, x, xi, xj):
    """y[yi + j, yj + i] = x[xi + i, xj + j] for i, j < LANES, each of float32 or bfloat16 (uint16)."""
    block = x[xi : xi + LANES, xj : xj + LANES].T
    block = from_half(block) if x.dtype == np.uint16 else block
    y[yi : yi + LANES, yj : yj + LANES] = to_half(block) if y.dtype == np.uint16 else block


def prefetch_at(builder, address, write, locality):
    """Asks for a cache line. Locality 3: into the first-level cache, 2: into the second."""
    address = builder.bitcast(address, ir.IntType(8).as_pointer())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), address, *(ir.Constant(i32, n) for n in (write, locality, 1)))


@instruction(lambda builder, x, i, j: prefetch_at(builder, x.at(i, j), 0, 2), types.void, array, index, index)
def expect_read(x, i, j):
    """Has the CPU fetch the cache line of x[i, j], soon to be read."""


# ------------------------------------------------------------------------------------------------ lane by lane


def splat_ir(builder, x):
    undefined = ir.Constant(vec, ir.Undefined)
    first = builder.insert_element(undefined, x, ir.Constant(i32, 0))
    return builder.shuffle_vector(first, undefined, integers(0))


@instruction(splat_ir, vector, types.float32)
def splat(x):
    """The same number in every lane."""
    return np.full(LANES, x, np.float32)


def fma_ir(builder, a, b, c):
    if not FMA:  # LLVM would call a slow function for each float
        return builder.fadd(builder.fmul(a, b), c)
    return call(builder, f"llvm.fma.v{LANES}f32", vec, a, b, c)


@instruction(fma_ir, vector, vector, vector, vector)
def fma(a, b, c):
    """a * b + c, rounded once (where the CPU can)."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def select_above_ir(builder, a, b, x, y):
    return builder.select(builder.fcmp_ordered(">", a, b), x, y)


@instruction(select_above_ir, vector, vector, vector, vector, vector)
def where_above(a, b, x, y):
    """x where a > b, else y."""
    return np.where(a > b, x, y)


def maximum_ir(builder, a, b):
    return select_above_ir(builder, b, a, b, a)


@instruction(maximum_ir, vector, vector, vector)
def maximum(a, b):
    """The larger of both; a where a is NaN, so that nothing hides it."""
    return np.where(b > a, b, a)


@instruction(lambda builder, v: call(builder, f"llvm.fabs.v{LANES}f32", vec, v), vector, vector)
def absolute(v):
    """v without its sign."""
    return np.abs(v)


def times_power_of_two_ir(builder, v, n):
    """A float's exponent stands in its bits from 23 on: adding n there multiplies by 2^n."""
    n = builder.shl(builder.fptosi(n, ivec), integers(23))
    return builder.bitcast(builder.add(builder.bitcast(v, ivec), n), vec)


@instruction(times_power_of_two_ir, vector, vector, vector)
def times_power_of_two(v, n):
    """v * 2^n, for whole n and a result that is neither 0 nor infinite."""
    return np.ldexp(v, n.astype(np.int32))


if not config.DISABLE_JIT:  # + - * /; NumPy's arrays have them anyway
    for operation, emit in [
        (operator.add, "fadd"),
        (operator.sub, "fsub"),
        (operator.mul, "fmul"),
        (operator.truediv, "fdiv"),
    ]:
        cases = {"cases": [signature(vector, vector, vector)]}
        infer_global(operation)(type("VectorTemplate", (ConcreteTemplate,), cases))

        @lower_builtin(operation, Vector, Vector)
        def lower(context, builder, sig, values, emit=emit):
            return getattr(builder, emit)(*values)


# ------------------------------------------------------------------------------------------------ across lanes


def fold_ir(combine):
    """Lane with lane at half the distance, until one number is left: always the same order of additions."""

    def emit(builder, v):
        distance = LANES // 2
        while distance:
            others = ir.Constant(ivec, [lane ^ distance for lane in range(LANES)])
            v = combine(builder, v, builder.shuffle_vector(v, v, others))
            distance //= 2
        return builder.extract_element(v, ir.Constant(i32, 0))

    return emit


@instruction(fold_ir(lambda builder, a, b: builder.fadd(a, b)), types.float32, vector)
def sum_lanes(v):
    """The sum of all lanes."""
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


@instruction(fold_ir(maximum_ir), types.float32, vector)
def max_lanes(v):
    """The largest lane, if none is NaN."""
    return v.max()


# --------------------------------------------------------------------------- counters that threads share (see crew.py)


def count_up_ir(builder, counter, i, j):
    counter.must_hold(types.int64)
    return builder.atomic_rmw("add", counter.at(i, j), integer(1), "acq_rel")


@instruction(count_up_ir, types.int64, array, index, index)
def count_up(counter, i, j):
    """Adds 1 to counter[i, j] and returns what it was: no two threads get the same number."""
    counter[i, j] += 1
    return counter[i, j] - 1


def count_ir(builder, counter, i, j):
    counter.must_hold(types.int64)
    return builder.load_atomic(counter.at(i, j), "acquire", 8)


@instruction(count_ir, types.int64, array, index, index)
def count(counter, i, j):
    """counter[i, j], as another thread may just have left it, and with all that it wrote before."""
    return counter[i, j]


def pause_ir(builder):
    if ARCHITECTURE == "x86":
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif ARCHITECTURE == "arm":
        call(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(i32, 1))


@instruction(pause_ir, types.void)
def pause():
    """A short rest, some 10 to 30 nanoseconds, between two looks at a counter."""


def give_way_ir(builder):
    if sys.platform != "win32":
        call(builder, "sched_yield", i32)


@instruction(give_way_ir, types.void)
def give_way():
    """Lets another thread of this core run first. Windows has no sched_yield: there it does nothing."""
