"""Vectors: the one place that knows how many floats the CPU's registers hold.

A ``vector`` is LANES float32 side by side in one register. Kernels load it from an array, calculate with + - * / and
the functions below, and store it. Every function is written twice: compiled, as the LLVM instruction it stands for, and
plain, as what it means in NumPy. With NUMBA_DISABLE_JIT=1 the plain ones run, so that a kernel can be stepped through.

    LANES     floats in a register: 16 (AVX-512), 8 (AVX2), 4 (NEON, SSE)
    ROWS      the register tile of a matrix product: ROWS rows of VECTORS vectors are summed at once, in registers
    VECTORS   4 where the CPU has 32 registers: 24 sums + 4 of b + 1 of a; 2 where it has 16: 12 + 2 + 1
    COLUMNS   VECTORS * LANES, the width of that tile

The type of an array says how its numbers are kept: float32; uint16 for bfloat16, the upper half of a float32; uint32 for
the same memory in pairs, which is how the CPU multiplies bfloat16 (``HALF`` says whether it can).
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
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    features = features.split(",")
    if "aarch64" in triple or "arm64" in triple:
        return 4, 32, True, False
    if "+avx512f" in features:
        return 16, 32, True, "+avx512bf16" in features
    if "+avx2" in features and "+fma" in features:
        return 8, 16, True, False
    return 4, 16, False, False


LANES, REGISTERS, FMA, HALF = cpu()
TRIPLE = cpu_target.target_context.codegen().magic_tuple()[0]
ARCHITECTURE = (
    "arm" if TRIPLE.startswith(("aarch64", "arm64")) else "x86" if TRIPLE.startswith(("x86_64", "i")) else "other"
)
ROWS = 6
VECTORS = 4 if REGISTERS == 32 else 2
COLUMNS = VECTORS * LANES
UNROLL = 4  # steps of k between two tests for the end of the loop

f32, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
vec, ivec = ir.VectorType(f32, LANES), ir.VectorType(i32, LANES)


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


# ------------------------------------------------------------------------------------- how an instruction is made


def instruction(emit, result, *arguments):
    """Decorates the plain meaning; ``emit(builder, *values)`` writes the LLVM instruction that does the same."""

    def decorate(plain):
        if config.DISABLE_JIT:
            return plain

        def typed(typingctx, *given):
            def codegen(context, builder, signature, values):
                values = [
                    Array(context, builder, kind, value) if isinstance(kind, types.Array) else value
                    for kind, value in zip(signature.args, values)
                ]
                answer = emit(builder, *values)
                return context.get_dummy_value() if answer is None else answer

            wanted = [kind if want is None else want for kind, want in zip(given, arguments, strict=True)]
            return result(*wanted), codegen

        typed.__name__, typed.__doc__ = plain.__name__, plain.__doc__
        names = ["typingctx", *inspect.signature(plain).parameters]  # Numba counts the arguments by this
        typed.__signature__ = inspect.Signature(
            [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
        )
        compiled = intrinsic(typed)
        compiled.plain = plain
        return compiled

    return decorate


class Array:
    """A two-dimensional C-contiguous array, seen from LLVM."""

    def __init__(self, context, builder, kind, value):
        assert kind.ndim == 2 and kind.layout == "C", kind
        struct = context.make_array(kind)(context, builder, value)
        self.builder, self.data, self.dtype = builder, struct.data, kind.dtype
        self.columns = cgutils.unpack_tuple(builder, struct.shape)[1]

    def in_pairs(self):
        """The same memory as uint32."""
        if self.dtype == types.uint16:
            self.data = self.builder.bitcast(self.data, i32.as_pointer())
            self.columns = self.builder.lshr(self.columns, ir.Constant(i64, 1))

    def at(self, i, j, plus=0):
        """The address of element (i, j + plus)."""
        offset = self.builder.add(self.builder.mul(i, self.columns), j)
        return self.builder.gep(self.data, [self.builder.add(offset, ir.Constant(i64, plus))])


array = None  # an argument of any array type
index = types.intp


def call(builder, name, result, *values):
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def splat_ir(builder, x):
    undefined = ir.Constant(vec, ir.Undefined)
    first = builder.insert_element(undefined, x, ir.Constant(i32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(i32, LANES), [0] * LANES))


def fma_ir(builder, a, b, c):
    if not FMA:  # LLVM would call a slow function for each float
        return builder.fadd(builder.fmul(a, b), c)
    return call(builder, f"llvm.fma.v{LANES}f32", vec, a, b, c)


def pair_fma_ir(builder, a, b, c):
    """c + a[0] b[0] + a[1] b[1], in each lane a pair of bfloat16."""
    if not HALF:
        mask = ir.Constant(ivec, [0xFFFF0000] * LANES)
        for half in (lambda v: builder.shl(v, ir.Constant(ivec, [16] * LANES)), lambda v: builder.and_(v, mask)):
            x, y = (builder.bitcast(half(builder.bitcast(v, ivec)), vec) for v in (a, b))
            c = fma_ir(builder, x, y, c)
        return c
    pairs = ir.VectorType(BFloat16(), 2 * LANES)
    a, b = builder.bitcast(a, pairs), builder.bitcast(b, pairs)
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", vec, c, a, b)


def load_ir(builder, x, i, j):
    return builder.load(builder.bitcast(x.at(i, j), vec.as_pointer()), align=4)


def store_ir(builder, x, i, j, v):
    if x.dtype == types.uint16:
        halves = ir.VectorType(ir.IntType(16), LANES)
        if HALF:
            v = call(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(BFloat16(), LANES), v)
            v = builder.bitcast(v, halves)
        else:  # round to even: add half a unit, less one where the last bit that stays is 0
            bits, ones = builder.bitcast(v, ivec), ir.Constant(ivec, [1] * LANES)
            last = builder.and_(builder.lshr(bits, ir.Constant(ivec, [16] * LANES)), ones)
            bits = builder.add(bits, builder.add(last, ir.Constant(ivec, [0x7FFF] * LANES)))
            v = builder.trunc(builder.lshr(bits, ir.Constant(ivec, [16] * LANES)), halves)
        builder.store(v, builder.bitcast(x.at(i, j), halves.as_pointer()), align=2)
    else:
        builder.store(v, builder.bitcast(x.at(i, j), vec.as_pointer()), align=4)


def count_up_ir(builder, counter, i, j):
    return builder.atomic_rmw("add", counter.at(i, j), ir.Constant(i64, 1), "acq_rel")


def count_ir(builder, counter, i, j):
    return builder.load_atomic(counter.at(i, j), "acquire", 8)


def pause_ir(builder):
    """A hint for the core: this thread only looks at a counter."""
    if ARCHITECTURE == "x86":
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif ARCHITECTURE == "arm":
        call(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(i32, 1))


def give_way_ir(builder):
    """POSIX has sched_yield; elsewhere the thread just goes on."""
    if sys.platform != "win32":
        call(builder, "sched_yield", i32)


def prefetch_ir(write, locality):
    """Asks for the cache line of x[i, j]. Locality 3: into the first-level cache, 2: into the second."""

    def emit(builder, x, i, j):
        address = builder.bitcast(x.at(i, j), ir.IntType(8).as_pointer())
        call(builder, "llvm.prefetch.p0", ir.VoidType(), address, *(ir.Constant(i32, n) for n in (write, locality, 1)))

    return emit


def transpose_ir(builder, y, yi, yj, x, xi, xj):
    """log2(LANES) rounds: in the round of distance s, rows i and i + s exchange their blocks of s lanes off the diagonal."""
    rows = [load_ir(builder, x, builder.add(xi, ir.Constant(i64, i)), xj) for i in range(LANES)]
    distance = LANES // 2
    while distance:
        low = [
            n if n & distance == 0 else n - distance + LANES for n in range(LANES)
        ]  # 0 .. LANES - 1 is the upper row
        high = [n + distance if n & distance == 0 else n + LANES for n in range(LANES)]
        for i in range(LANES):
            if i & distance == 0:
                a, b = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = (builder.shuffle_vector(a, b, ir.Constant(ivec, m)) for m in (low, high))
        distance //= 2
    for i in range(LANES):
        store_ir(builder, y, builder.add(yi, ir.Constant(i64, i)), yj, rows[i])


def maximum_ir(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def where_above_ir(builder, a, b, x, y):
    return builder.select(builder.fcmp_ordered(">", a, b), x, y)


def fold_ir(combine):
    """Lane with lane at half the distance, until one number is left: always the same order of additions."""

    def emit(builder, v):
        distance = LANES // 2
        while distance:
            mask = [lane ^ distance for lane in range(LANES)]
            v = combine(builder, v, builder.shuffle_vector(v, v, ir.Constant(ivec, mask)))
            distance //= 2
        return builder.extract_element(v, ir.Constant(i32, 0))

    return emit


def times_power_of_two_ir(builder, v, n):
    """A float's exponent stands in its bits from 23 on: adding n there multiplies by 2^n."""
    n = builder.shl(builder.fptosi(n, ivec), ir.Constant(ivec, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(v, ivec), n), vec)


# ------------------------------------------------------------------------------------- what kernels use


@instruction(load_ir, vector, array, index, index)
def load(x, i, j):
    """LANES floats: x[i, j], x[i, j + 1], ..."""
    return x[i, j : j + LANES].copy()


@instruction(store_ir, types.void, array, index, index, vector)
def store(x, i, j, v):
    x[i, j : j + LANES] = to_half(v) if x.dtype == np.uint16 else v


@instruction(count_up_ir, types.int64, array, index, index)
def count_up(counter, i, j):
    """Adds 1 to counter[i, j] and returns what it was: no two threads get the same number."""
    counter[i, j] += 1
    return counter[i, j] - 1


@instruction(count_ir, types.int64, array, index, index)
def count(counter, i, j):
    """counter[i, j], as another thread may just have left it, and with all that it wrote before."""
    return counter[i, j]


@instruction(pause_ir, types.void)
def pause():
    """A short rest, some 10 nanoseconds, between two looks at a counter."""


@instruction(give_way_ir, types.void)
def give_way():
    """Lets another thread of this core run first."""


@instruction(prefetch_ir(1, 3), types.void, array, index, index)
def expect_write(x, i, j):
    """Has the CPU fetch the cache line of x[i, j], soon to be written."""


@instruction(prefetch_ir(0, 2), types.void, array, index, index)
def expect_read(x, i, j):
    """Has the CPU fetch the cache line of x[i, j], soon to be read."""


@instruction(transpose_ir, types.void, array, index, index, array, index, index)
def transpose(y, yi, yj, x, xi, xj):
    """y[yi + j, yj + i] = x[xi + i, xj + j] for i, j < LANES."""
    y[yi : yi + LANES, yj : yj + LANES] = x[xi : xi + LANES, xj : xj + LANES].T


@instruction(splat_ir, vector, types.float32)
def splat(x):
    """The same number in every lane."""
    return np.full(LANES, x, np.float32)


@instruction(fma_ir, vector, vector, vector, vector)
def fma(a, b, c):
    """a * b + c, rounded once (where the CPU can)."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


@instruction(maximum_ir, vector, vector, vector)
def maximum(a, b):
    return np.maximum(a, b)


@instruction(where_above_ir, vector, vector, vector, vector, vector)
def where_above(a, b, x, y):
    """x where a > b, else y."""
    return np.where(a > b, x, y)


@instruction(lambda builder, v: call(builder, f"llvm.fabs.v{LANES}f32", vec, v), vector, vector)
def absolute(v):
    return np.abs(v)


@instruction(fold_ir(lambda builder, a, b: builder.fadd(a, b)), types.float32, vector)
def sum_lanes(v):
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


@instruction(fold_ir(maximum_ir), types.float32, vector)
def max_lanes(v):
    return v.max()


@instruction(times_power_of_two_ir, vector, vector, vector)
def times_power_of_two(v, n):
    """v * 2^n, for whole n and a result that is neither 0 nor infinite."""
    return np.ldexp(v, n.astype(np.int32))


if not config.DISABLE_JIT:
    for operation, emit in [
        (operator.add, "fadd"),
        (operator.sub, "fsub"),
        (operator.mul, "fmul"),
        (operator.truediv, "fdiv"),
    ]:
        infer_global(operation)(
            type("VectorTemplate", (ConcreteTemplate,), {"cases": [signature(vector, vector, vector)]})
        )

        @lower_builtin(operation, Vector, Vector)
        def lower(context, builder, sig, values, emit=emit):
            return getattr(builder, emit)(*values)


def product_ir(width, add):
    """The micro-kernel: ROWS x width sums stay in registers while k runs; c is touched once, at the end."""

    def emit(builder, c, ci, cj, a, ai, ak, b, bk, bj, k, ahead):
        def integer(n):
            return ir.Constant(i64, n)

        multiply_add = pair_fma_ir if b.dtype == types.uint32 else fma_ir
        a.in_pairs()
        a_rows = [a.at(builder.add(ai, integer(i)), ak) for i in range(ROWS)]
        b_start = b.at(bk, bj)

        def loop(first, last, unroll, sums, fetch):
            """Blocks of LLVM for: k from first to last in steps of unroll; returns the sums."""
            before = builder.block
            head, body, after = (builder.append_basic_block(n) for n in ("k_head", "k_body", "k_done"))
            builder.branch(head)
            builder.position_at_end(head)
            step = builder.phi(i64)
            step.add_incoming(first, before)
            phis = [builder.phi(vec) for _ in sums]
            for phi, value in zip(phis, sums):
                phi.add_incoming(value, before)
            builder.cbranch(builder.icmp_signed("<", step, last), body, after)
            builder.position_at_end(body)
            new = list(phis)
            if fetch:
                line = builder.gep(ahead_start, [builder.mul(step, integer(16 // unroll))])
                call(
                    builder,
                    "llvm.prefetch.p0",
                    ir.VoidType(),
                    builder.bitcast(line, ir.IntType(8).as_pointer()),
                    ir.Constant(i32, 0),
                    ir.Constant(i32, 2),
                    ir.Constant(i32, 1),
                )
            for u in range(unroll):
                now = builder.add(step, integer(u))
                row = builder.gep(b_start, [builder.mul(now, b.columns)])
                bs = [
                    builder.load(builder.bitcast(builder.gep(row, [integer(j * LANES)]), vec.as_pointer()), align=4)
                    for j in range(width)
                ]
                for i in range(ROWS):
                    one = builder.bitcast(builder.gep(a_rows[i], [now]), f32.as_pointer())
                    x = splat_ir(builder, builder.load(one, align=4))
                    for j in range(width):
                        new[i * width + j] = multiply_add(builder, x, bs[j], new[i * width + j])
            step.add_incoming(builder.add(step, integer(unroll)), builder.block)
            for phi, value in zip(phis, new):
                phi.add_incoming(value, builder.block)
            builder.branch(head)
            builder.position_at_end(after)
            return phis

        ahead_start = b.at(ahead, integer(0))
        whole = builder.sub(k, builder.srem(k, integer(UNROLL)))
        sums = [ir.Constant(vec, [0.0] * LANES)] * (ROWS * width)
        sums = loop(integer(0), whole, UNROLL, sums, True)
        sums = loop(whole, k, 1, sums, False)
        for i in range(ROWS):
            for j in range(width):
                at = builder.bitcast(c.at(builder.add(ci, integer(i)), cj, j * LANES), vec.as_pointer())
                total = sums[i * width + j]
                builder.store(builder.fadd(builder.load(at, align=4), total) if add else total, at, align=4)

    return emit


def micro_kernel(width, add):
    @instruction(product_ir(width, add), types.void, array, *[index] * 2, array, *[index] * 2, array, *[index] * 4)
    def tile_product(c, ci, cj, a, ai, ak, b, bk, bj, k, ahead):
        """c[ci : ci + ROWS, cj : cj + width LANES] = a[ai .., ak : ak + k] @ b[bk : bk + k, bj ..], or += for ``add``.

        With b in pairs of bfloat16 so is a, and k counts pairs.

        Meanwhile the lines of b from row ``ahead`` on are fetched, one for each UNROLL steps of k.
        """
        columns = slice(cj, cj + width * LANES)
        before = c[ci : ci + ROWS, columns] if add else 0
        a = a.view(np.uint32) if a.dtype == np.uint16 else a
        a, b = a[ai : ai + ROWS, ak : ak + k], b[bk : bk + k, bj : bj + width * LANES]
        if b.dtype == np.uint32:
            a = from_half(np.ascontiguousarray(a).view(np.uint16))
            b = from_half(np.stack([b & 0xFFFF, b >> 16], 1).reshape(2 * k, -1).astype(np.uint16))
        c[ci : ci + ROWS, columns] = before + a @ b

    return tile_product


add_product, set_product = micro_kernel(VECTORS, True), micro_kernel(VECTORS, False)
