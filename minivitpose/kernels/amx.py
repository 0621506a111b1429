"""The matrix unit that some CPUs have (AMX): eight registers of 16 rows of 64 bytes, multiplied with one another.

One instruction multiplies 16 x 32 bfloat16 with 32 x 16 and adds to 16 x 16 float32, in 16 cycles: 16 times what the
vectors of float32 do in that time. Four registers keep the sums of 32 x 32 results, two hold 32 rows of a, two 32
columns of b; so four loads feed four products. Both factors lie in memory as bfloat16 lies for vectors too: a row by
row, b in pairs.

    AMX       whether this CPU has it, Numba knows it, and the system lets this process use it
    SIDE      rows and columns of a block of results
    DEEP      bfloat16 pairs that one product sums over
"""

import ctypes
import platform
import sys

import numba
import numpy as np
from llvmlite import ir
from numba import types

from minivitpose.kernels.micro_kernel import COLUMNS, loop
from minivitpose.kernels.simd import (
    FEATURES,
    HALF,
    LINE,
    array,
    call,
    from_half,
    index,
    instruction,
    integer,
    prefetch_at,
)

SIDE, DEEP = 32, 16
i8, nothing = ir.IntType(8), ir.VoidType()
FETCHED = 6  # cache lines of the next block for each DEEP pairs: a chunk's blocks fetch all of it


def permitted():
    """Whether the system lets this process use the registers: Linux wants to be asked, once. Threads have it too."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    ask, arch_prctl, tile_data = 0x1023, 158, 18  # ARCH_REQ_XCOMP_PERM, the system call, XFEATURE_XTILEDATA
    return ctypes.CDLL(None).syscall(arch_prctl, ask, tile_data) == 0


AMX = HALF and {"+amx-tile", "+amx-bf16"} <= set(FEATURES) and permitted()


def has_blocks_ir(builder, b):
    return ir.Constant(ir.IntType(1), AMX and b.dtype == types.uint32)


@instruction(has_blocks_ir, types.boolean, array)
def has_blocks(b):
    """Whether the functions below multiply with arrays of this type here. Where not, they compile, but do nothing."""
    return AMX and b.dtype == np.uint32


def number(n):
    """Of a register, in an instruction."""
    return ir.Constant(i8, n)


def open_ir(builder):
    """All eight registers with 16 rows of 64 bytes each."""
    if not AMX:
        return
    layout = bytearray(64)
    layout[0] = 1
    for register in range(8):
        layout[16 + 2 * register], layout[48 + register] = 64, 16
    kind = ir.ArrayType(i8, 64)
    name = "amx_layout"
    constant = builder.module.globals.get(name)
    if constant is None:
        constant = ir.GlobalVariable(builder.module, kind, name)
        constant.initializer, constant.global_constant, constant.linkage = ir.Constant(kind, layout), True, "internal"
        constant.align = 64
    call(builder, "llvm.x86.ldtilecfg", nothing, builder.bitcast(constant, i8.as_pointer()))


@instruction(open_ir, types.void)
def open_registers():
    """Before the first block."""


def close_ir(builder):
    if AMX:
        call(builder, "llvm.x86.tilerelease", nothing)


@instruction(close_ir, types.void)
def close_registers():
    """Behind the last one: what nobody needs costs nothing when the system changes threads."""


def block_ir(builder, c, ci, cj, a, ai, ak, b, bk, bj, k, ahead, add):
    if not AMX or (a.dtype, b.dtype, c.dtype) != (types.uint16, types.uint32, types.float32):
        return
    a.in_pairs()
    bytes_of = {x: builder.mul(x.columns, integer(4)) for x in (a, b, c)}

    def move(which, register, x, address):
        address = builder.bitcast(address, i8.as_pointer())
        call(builder, f"llvm.x86.tile{which}64", nothing, number(register), address, bytes_of[x])

    places = [c.at(builder.add(ci, integer(i)), cj, j) for i in (0, 16) for j in (0, 16)]
    with builder.if_else(add) as (added, alone):
        with added:
            for i, place in enumerate(places):
                move("loadd", i, c, place)
        with alone:
            for i in range(4):
                call(builder, "llvm.x86.tilezero", nothing, number(i))
    a_starts = [a.at(builder.add(ai, integer(i)), ak) for i in (0, 16)]
    b_starts = [b.at(bk, builder.add(bj, integer(j))) for j in (0, 16)]
    ahead_start = b.at(ahead, integer(0))

    def step(at, _):
        down = builder.mul(at, b.columns)
        for j, start in enumerate(b_starts):
            move("loadd", 6 + j, b, builder.gep(start, [down]))
        for i, start in enumerate(a_starts):
            move("loadd", 4 + i, a, builder.gep(start, [at]))
            for j in range(2):
                call(builder, "llvm.x86.tdpbf16ps", nothing, number(2 * i + j), number(4 + i), number(6 + j))
        line = builder.gep(ahead_start, [builder.mul(at, integer(FETCHED * LINE // DEEP))])
        for n in range(FETCHED):
            prefetch_at(builder, builder.gep(line, [integer(n * LINE)]), 0, 2)
        return []

    loop(builder, integer(0), k, DEEP, [], step)
    for i, place in enumerate(places):
        move("stored", i, c, place)


@instruction(block_ir, types.void, *[array, index, index] * 3, index, index, types.boolean)
def block_product(c, ci, cj, a, ai, ak, b, bk, bj, k, ahead, add):
    """c[ci : ci + SIDE, cj : cj + SIDE] = a[ai .., ak : ak + k] @ b[bk : bk + k, bj ..], or += if ``add``.

    a holds bfloat16 (uint16), b pairs of them (uint32); ak and k count pairs, k a multiple of DEEP. Meanwhile lines of
    b from row ``ahead`` on are fetched, FETCHED for each DEEP pairs.
    """
    a, rows, columns = a.view(np.uint32), slice(ci, ci + SIDE), slice(cj, cj + SIDE)
    a, b = a[ai : ai + SIDE, ak : ak + k], b[bk : bk + k, bj : bj + SIDE]
    a = from_half(np.ascontiguousarray(a).view(np.uint16))
    b = from_half(np.stack([b & 0xFFFF, b >> 16], 1).reshape(2 * k, -1).astype(np.uint16))
    c[rows, columns] = (c[rows, columns] if add else 0) + a @ b


@numba.njit
def fetched_rows(k):
    """How many rows of b, of COLUMNS numbers, a block of k pairs fetches."""
    return k // DEEP * FETCHED * LINE // COLUMNS
