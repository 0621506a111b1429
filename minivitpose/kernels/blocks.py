"""Products of bfloat16 in blocks of rows: on the matrix unit if there is one, else tile by tile on vectors.

STRIP   rows of a block: the unit's, or whole tiles that are whole vectors too
"""

import numba

from minivitpose.kernels.amx import AMX, SIDE, block_product, has_blocks
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, tile_product, tile_product_2
from minivitpose.kernels.simd import LANES

STRIP = SIDE if AMX else 8 * ROWS


@numba.njit
def multiply(c, row0, column, a, a_row0, a_column, pairs, at, rows, columns, k, add):
    """c[row0 .., column ..] = rows x columns of a @ the pairs from row ``at`` on, or += if ``add``.

    a holds bfloat16; k pairs to sum over, and a_column counts them too. pairs lie in panels of COLUMNS columns and k
    rows. What is no whole block or tile is filled up: more of c is written, more of a and of the pairs is read.
    """
    if has_blocks(pairs):
        for j in range(0, columns, SIDE):
            panel = at + j // COLUMNS * k
            for i in range(0, rows, SIDE):
                block_product(c, row0 + i, column + j, a, a_row0 + i, a_column, pairs, panel, j % COLUMNS, k, at, add)
    else:
        for j in range(0, columns, COLUMNS):
            panel = at + j // COLUMNS * k
            for i in range(0, rows, ROWS):
                if columns - j > 2 * LANES:
                    tile_product(c, row0 + i, column + j, a, a_row0 + i, a_column, pairs, panel, 0, k, at, add)
                else:
                    tile_product_2(c, row0 + i, column + j, a, a_row0 + i, a_column, pairs, panel, 0, k, at, add)
