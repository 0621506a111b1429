"""bfloat16 in pairs, as the CPU multiplies them: two numbers that follow one another along k, in one uint32.

The second factor of a product, (k, n), lies as (k / 2, n) pairs. The functions take float32 there, which they round,
or bfloat16 (uint16).
"""

import numpy as np
from llvmlite import ir
from numba import types

from minivitpose.kernels.simd import (
    LANES,
    array,
    halves,
    index,
    instruction,
    integer,
    integers,
    ivec,
    load_ir,
    store_at,
    to_half,
    to_half_ir,
    transposed_ir,
    vec,
)


@instruction(lambda builder, x: ir.Constant(ir.IntType(1), x.dtype == types.uint32), types.boolean, array)
def has_pairs(x):
    """Whether x holds pairs."""
    return x.dtype == np.uint32


def load_halves(builder, x, i, j):
    """x[i, j], x[i, j + 1], ... as LANES bfloat16."""
    if x.dtype == types.uint16:
        return builder.load(builder.bitcast(x.at(i, j), halves.as_pointer()), align=2)
    return to_half_ir(builder, load_ir(builder, x, i, j))


def as_halves(x):
    return (x if x.dtype == np.uint16 else to_half(x)).astype(np.uint32)


def pair_rows_ir(builder, y, yi, yj, x, xi, xj):
    y.must_hold(types.uint32)
    low, high = (builder.zext(load_halves(builder, x, builder.add(xi, integer(i)), xj), ivec) for i in range(2))
    store_at(builder, builder.or_(low, builder.shl(high, integers(16))), y.at(yi, yj))


@instruction(pair_rows_ir, types.void, array, index, index, array, index, index)
def pair_rows(y, yi, yj, x, xi, xj):
    """y[yi, yj + j] = the pair of x[xi, xj + j] and x[xi + 1, xj + j], for j < LANES."""
    low, high = as_halves(x[xi : xi + 2, xj : xj + LANES])
    y[yi, yj : yj + LANES] = low | high << 16


def pair_columns_ir(builder, y, yi, yj, x, xi, xj):
    y.must_hold(types.uint32)
    both = ir.Constant(ir.VectorType(ivec.element, 2 * LANES), list(range(2 * LANES)))
    rows = []
    for i in range(LANES):
        parts = [(builder.add(xi, integer(i)), builder.add(xj, integer(j))) for j in (0, LANES)]
        row = [load_halves(builder, x, *at) for at in parts]
        rows.append(builder.bitcast(builder.shuffle_vector(*row, both), vec))
    for i, row in enumerate(transposed_ir(builder, rows)):
        store_at(builder, builder.bitcast(row, ivec), y.at(builder.add(yi, integer(i)), yj))


@instruction(pair_columns_ir, types.void, array, index, index, array, index, index)
def pair_columns(y, yi, yj, x, xi, xj):
    """y[yi + j, yj + i] = the pair of x[xi + i, xj + 2 j] and x[xi + i, xj + 2 j + 1], for i, j < LANES."""
    block = as_halves(x[xi : xi + LANES, xj : xj + 2 * LANES])
    y[yi : yi + LANES, yj : yj + LANES] = (block[:, 0::2] | block[:, 1::2] << 16).T
