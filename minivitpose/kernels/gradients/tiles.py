"""The register tile of micro_kernel.py for a^T b: both factors run down their rows, as in dL/dW = grad^T x.

Each step of k reads ROWS numbers that lie side by side in a row of a, and VECTORS vectors of a row of b.
"""

from llvmlite import ir
from numba import types

from minivitpose.kernels.micro_kernel import ROWS, UNROLL, VECTORS, loop
from minivitpose.kernels.simd import (
    LANES,
    array,
    f32,
    fma_ir,
    index,
    instruction,
    integer,
    load_at,
    splat_ir,
    store_at,
    vec,
)


def transposed_kernel(width):
    """The product for tiles of ``width`` vectors."""

    @instruction(transposed_ir(width), types.void, *[array, index, index] * 3, index, types.boolean)
    def tile_transposed(c, ci, cj, a, ak, ai, b, bk, bj, k, add):
        """c[ci .., cj : cj + width LANES] = a[ak : ak + k, ai : ai + ROWS].T @ b[bk .., bj ..], or += if ``add``."""
        columns = slice(cj, cj + width * LANES)
        before = c[ci : ci + ROWS, columns] if add else 0
        c[ci : ci + ROWS, columns] = before + a[ak : ak + k, ai : ai + ROWS].T @ b[bk : bk + k, bj : bj + width * LANES]

    return tile_transposed


def transposed_ir(width):
    def emit(builder, c, ci, cj, a, ak, ai, b, bk, bj, k, add):
        for x in (a, b, c):
            x.must_hold(types.float32)
        a_start, b_start = a.at(ak, ai), b.at(bk, bj)

        def step(at, sums):
            """k = at: sums[i, j] += a[k, i] b[k, j]."""
            a_row = builder.gep(a_start, [builder.mul(at, a.columns)])
            b_row = builder.gep(b_start, [builder.mul(at, b.columns)])
            bs = [load_at(builder, builder.gep(b_row, [integer(j * LANES)])) for j in range(width)]
            new = []
            for i in range(ROWS):
                one = builder.bitcast(builder.gep(a_row, [integer(i)]), f32.as_pointer())
                x = splat_ir(builder, builder.load(one, align=4))
                new += [fma_ir(builder, x, bs[j], sums[i * width + j]) for j in range(width)]
            return new

        def steps(at, sums):
            for u in range(UNROLL):
                sums = step(builder.add(at, integer(u)), sums)
            return sums

        whole = builder.sub(k, builder.srem(k, integer(UNROLL)))
        sums = [ir.Constant(vec, [0.0] * LANES)] * (ROWS * width)
        sums = loop(builder, integer(0), whole, UNROLL, sums, steps)
        sums = loop(builder, whole, k, 1, sums, step)
        places = [c.at(builder.add(ci, integer(i)), cj, j * LANES) for i in range(ROWS) for j in range(width)]
        with builder.if_else(add) as (added, alone):
            with added:
                for total, place in zip(sums, places, strict=True):
                    store_at(builder, builder.fadd(load_at(builder, place), total), place)
            with alone:
                for total, place in zip(sums, places, strict=True):
                    store_at(builder, total, place)

    return emit


tile_transposed = transposed_kernel(VECTORS)
tile_transposed_2, tile_transposed_1 = transposed_kernel(2), transposed_kernel(1)
