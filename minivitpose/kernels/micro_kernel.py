"""The register-tiled matrix product: ROWS x COLUMNS sums stay in registers while k runs, and memory sees them once.

Each step of k loads VECTORS vectors of b, and for each of ROWS rows one number of a, which goes into every lane: so
VECTORS + ROWS loads feed VECTORS * ROWS multiply-adds of LANES each. In the first-level cache the loop runs at 95 to
97 % of the CPU's peak, on AVX-512.

    ROWS      rows of the tile: 6 divides all that ViTPose has, 192 tokens and maps 12, 24 and 48 pixels wide
    VECTORS   vectors in a row: 4 where the CPU has 32 registers (24 sums, 4 of b, 1 of a); 2 where it has 16 (12, 2, 1)
    COLUMNS   VECTORS * LANES

Tiles of 8 x 3, 9 x 3 and 5 x 5 vectors are within 2 % of 6 x 4; 12 x 2 and 14 x 2 need more registers than there are.
"""

import numpy as np
from llvmlite import ir
from numba import types

from minivitpose.kernels.simd import (
    HALF,
    LANES,
    LINE,
    REGISTERS,
    BFloat16,
    array,
    call,
    f32,
    fma_ir,
    from_half,
    i64,
    index,
    instruction,
    integer,
    integers,
    ivec,
    load_at,
    prefetch_at,
    splat_ir,
    store_at,
    vec,
)

ROWS = 6
VECTORS = 4 if REGISTERS == 32 else 2
COLUMNS = VECTORS * LANES
UNROLL = 4  # steps of k between two tests for the end of the loop


def micro_kernel(width):
    """The product for tiles of ``width`` vectors."""

    @instruction(tile_ir(width), types.void, *[array, index, index] * 3, index, index, types.boolean)
    def tile_product(c, ci, cj, a, ai, ak, b, bk, bj, k, ahead, add):
        """c[ci : ci + ROWS, cj : cj + width LANES] = a[ai .., ak : ak + k] @ b[bk : bk + k, bj ..], or += if ``add``.

        With b in pairs of bfloat16 (uint32) a holds bfloat16 (uint16), and ak and k count pairs.
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


def sum_over(builder, k, width, steps, step):
    """The tile's sums over k steps from zeros: UNROLL at a time by ``steps``, what is left one by one by ``step``."""
    whole = builder.sub(k, builder.srem(k, integer(UNROLL)))
    sums = [ir.Constant(vec, [0.0] * LANES)] * (ROWS * width)
    sums = loop(builder, integer(0), whole, UNROLL, sums, steps)
    return loop(builder, whole, k, 1, sums, step)


def write_tile(builder, sums, c, ci, cj, add, width):
    """The sums to their places in c, or on top of what is there if ``add``."""
    places = [c.at(builder.add(ci, integer(i)), cj, j * LANES) for i in range(ROWS) for j in range(width)]
    with builder.if_else(add) as (added, alone):
        with added:
            for total, place in zip(sums, places, strict=True):
                store_at(builder, builder.fadd(load_at(builder, place), total), place)
        with alone:
            for total, place in zip(sums, places, strict=True):
                store_at(builder, total, place)


def tile_ir(width):
    def emit(builder, c, ci, cj, a, ai, ak, b, bk, bj, k, ahead, add):
        pairs = b.dtype == types.uint32
        multiply_add = pair_fma_ir if pairs else fma_ir
        a.must_hold(types.uint16 if pairs else types.float32)
        b.must_hold(types.uint32 if pairs else types.float32)
        c.must_hold(types.float32)
        a.in_pairs()
        a_rows = [a.at(builder.add(ai, integer(i)), ak) for i in range(ROWS)]
        b_start, ahead_start = b.at(bk, bj), b.at(ahead, integer(0))

        def step(at, sums):
            """k = at: sums[i, j] += a[i, k] b[k, j]."""
            row = builder.gep(b_start, [builder.mul(at, b.columns)])
            bs = [load_at(builder, builder.gep(row, [integer(j * LANES)])) for j in range(width)]
            new = []
            for i in range(ROWS):
                one = builder.bitcast(builder.gep(a_rows[i], [at]), f32.as_pointer())
                x = splat_ir(builder, builder.load(one, align=4))
                new += [multiply_add(builder, x, bs[j], sums[i * width + j]) for j in range(width)]
            return new

        def steps(at, sums):
            """UNROLL of them, and the next line to fetch."""
            prefetch_at(builder, builder.gep(ahead_start, [builder.mul(at, integer(LINE // UNROLL))]), 0, 2)
            for u in range(UNROLL):
                sums = step(builder.add(at, integer(u)), sums)
            return sums

        write_tile(builder, sum_over(builder, k, width, steps, step), c, ci, cj, add, width)

    return emit


def pair_fma_ir(builder, a, b, c):
    """c + a[0] b[0] + a[1] b[1], in each lane a pair of bfloat16."""
    if HALF:
        a, b = (builder.bitcast(v, ir.VectorType(BFloat16(), 2 * LANES)) for v in (a, b))
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", vec, c, a, b)
    a, b = builder.bitcast(a, ivec), builder.bitcast(b, ivec)  # for the tests, as in to_half_ir
    for part in (lambda v: builder.shl(v, integers(16)), lambda v: builder.and_(v, integers(0xFFFF0000))):
        c = fma_ir(builder, builder.bitcast(part(a), vec), builder.bitcast(part(b), vec), c)
    return c


def loop(builder, first, last, stride, sums, body):
    """In LLVM: for at in range(first, last, stride): sums = body(at, sums). The sums stay in registers."""
    before = builder.block
    test, inside, after = (builder.append_basic_block(name) for name in ("k_test", "k_body", "k_done"))
    builder.branch(test)
    builder.position_at_end(test)
    at, variables = builder.phi(i64), [builder.phi(vec) for _ in sums]
    builder.cbranch(builder.icmp_signed("<", at, last), inside, after)
    builder.position_at_end(inside)
    new = body(at, variables)
    following = builder.add(at, integer(stride))
    for variable, start, value in zip([at, *variables], [first, *sums], [following, *new], strict=True):
        variable.add_incoming(start, before)
        variable.add_incoming(value, builder.block)
    builder.branch(test)
    builder.position_at_end(after)
    return variables


tile_product = micro_kernel(VECTORS)
tile_product_2, tile_product_1 = micro_kernel(2), micro_kernel(1)  # what attention's heads leave of whole tiles
