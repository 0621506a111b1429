"""The register tile of micro_kernel.py for a^T b: both factors run down their rows, as in dL/dW = grad^T x.

Each step of k reads ROWS numbers that lie side by side in a row of a, and VECTORS vectors of a row of b.
"""

from numba import types

from minivitpose.kernels.micro_kernel import ROWS, UNROLL, VECTORS, sum_over, write_tile
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

        write_tile(builder, sum_over(builder, k, width, steps, step), c, ci, cj, add, width)

    return emit


tile_transposed = transposed_kernel(VECTORS)
tile_transposed_2, tile_transposed_1 = transposed_kernel(2), transposed_kernel(1)
