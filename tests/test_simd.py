"""Each vector instruction against its plain meaning, and the whole engine at every width of register.

The widths that are not this CPU's own run in processes of their own, in which Numba compiles for another CPU.
"""

import functools
import os
import subprocess
import sys
import types

import llvmlite.binding
import numba
import numpy as np
import pytest

from minivitpose.kernels import micro_kernel, simd
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS, tile_product, tile_product_1, tile_product_2
from minivitpose.kernels.simd import (
    LANES,
    absolute,
    aligned,
    count,
    count_up,
    expect_read,
    fma,
    from_half,
    give_way,
    load,
    max_lanes,
    maximum,
    pause,
    splat,
    store,
    sum_lanes,
    times_power_of_two,
    to_half,
    transpose,
    where_above,
)
from models import images_for, small_model

COMPILED = not numba.config.DISABLE_JIT
TOLERANCE = 3e-6  # of the engine's largest heatmap value: see test_engine.py

# ------------------------------------------------------------------------- small kernels that use one instruction each
# a, b, c (1, 192) float32 to read, y (1, 192) to write


def kernel_load_store(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, load(a, 0, j))


def kernel_load_store_anywhere(a, b, c, y):
    store(y, 0, 5, load(a, 0, 3))


def kernel_plus(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, load(a, 0, j) + load(b, 0, j))


def kernel_minus(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, load(a, 0, j) - load(b, 0, j))


def kernel_times(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, load(a, 0, j) * load(b, 0, j))


def kernel_over(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, load(a, 0, j) / load(b, 0, j))


def kernel_splat(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, splat(a[0, j + 3]))


def kernel_maximum(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, maximum(load(a, 0, j), load(b, 0, j)))


def kernel_where_above(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, where_above(load(a, 0, j), load(b, 0, j), load(c, 0, j), load(a, 0, j)))


def kernel_absolute(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, absolute(load(a, 0, j)))


def kernel_sum_lanes(a, b, c, y):
    for j in range(0, 192, LANES):
        y[0, j] = sum_lanes(load(a, 0, j))


def kernel_max_lanes(a, b, c, y):
    for j in range(0, 192, LANES):
        y[0, j] = max_lanes(absolute(load(a, 0, j)))


def kernel_fma(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, fma(load(a, 0, j), load(b, 0, j), load(c, 0, j)))


def kernel_times_power_of_two(a, b, c, y):
    for j in range(0, 192, LANES):
        store(y, 0, j, times_power_of_two(load(a, 0, j), load(b, 0, j)))


def kernel_transpose(a, b, c, y):
    transpose(y, 1, 2, a, 3, 5)


def kernel_counters(a, b, c, y):
    for i in range(3):
        y[0, i] = count_up(c, 0, 8)
        pause()
        give_way()
    y[0, 3] = count(c, 0, 8)
    expect_read(a, 0, 0)
    expect_read(a, 1 << 40, 7)  # beyond all memory: no fault, nothing happens


INSTRUCTIONS = {name: f for name, f in simd.__dict__.items() if hasattr(f, "plain")}
KERNELS = {name.removeprefix("kernel_"): f for name, f in globals().items() if name.startswith("kernel_")}
ORDINARY = ("load_store", "load_store_anywhere", "plus", "minus", "times", "over", "splat", "maximum", "where_above")
ORDINARY += ("absolute", "sum_lanes", "max_lanes")
SPECIAL = np.float32([0, -0.0, 1, -1, 0.5, 2, 3, -7, 1e-30, -1e30, np.inf, -np.inf, np.nan, 3e38, 126, -126])


@functools.cache
def compiled(kernel):
    return numba.njit(error_model="numpy")(kernel)


def both(kernel, *arguments):
    """What the kernel makes of copies of the arguments, as (compiled, plain): lists of arrays."""
    names = {name: f.plain for name, f in (INSTRUCTIONS | vars(micro_kernel)).items() if hasattr(f, "plain")}
    plainly = types.FunctionType(kernel.__code__, globals() | names)
    results = []
    for run in (compiled(kernel), plainly):
        copies = [aligned(*x.shape, dtype=x.dtype) if isinstance(x, np.ndarray) else x for x in arguments]
        for copy, x in zip(copies, arguments, strict=True):
            if isinstance(x, np.ndarray):
                copy[:] = x
        with np.errstate(all="ignore"):
            run(*copies)
        results.append(copies)
    return results


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32) * 10


def rows(special):
    """a, b, c (1, 192), and y. With special numbers each of them meets each in some lane."""
    a, b, c = (draw(1, 192, seed=seed) for seed in range(3))
    if special:
        a, b = np.tile(SPECIAL, 12)[None], np.repeat(SPECIAL, 12)[None]
    return a, b, c, np.zeros((1, 192), np.float32)


def test_each_instruction_has_a_kernel_here():
    used = {name for f in KERNELS.values() for name in f.__code__.co_names}
    assert set(INSTRUCTIONS) <= used
    assert len(INSTRUCTIONS) == 16 or not COMPILED


@pytest.mark.parametrize("special", [False, True], ids=["ordinary", "special"])
@pytest.mark.parametrize("name", ORDINARY)
def test_compiled_is_plain(name, special):
    if name == "max_lanes" and special:
        pytest.skip("of NaN it says nothing")
    fast, plain = both(KERNELS[name], *rows(special))
    np.testing.assert_array_equal(fast[3], plain[3])
    assert plain[3].any()


def test_fma():
    a, b, c, y = rows(False)
    fast, plain = both(kernel_fma, a, b, c, y)
    rounding = 0 if simd.FMA else 2.0**-24  # of the product, where the CPU rounds twice
    error = np.abs(fast[3] - plain[3])
    assert np.all(error <= rounding * np.abs(a * b) + np.spacing(np.abs(plain[3])))
    np.testing.assert_allclose(plain[3], a.astype(np.float64) * b + c, rtol=1e-6)


def test_maximum_keeps_what_is_not_a_number():
    a, y = np.full((1, 192), np.nan, np.float32), np.zeros((1, 192), np.float32)
    fast, plain = both(kernel_maximum, a, y, y, y)
    assert np.isnan(fast[3]).all()
    assert np.isnan(plain[3]).all()


def test_times_power_of_two():
    a, _, c, y = rows(False)
    a = np.where(np.abs(a) < 1e-3, np.float32(1), a)
    n = np.resize(np.arange(-100, 101, dtype=np.float32), (1, 192))
    fast, plain = both(kernel_times_power_of_two, a, n, c, y)
    assert np.array_equal(fast[3], plain[3])
    assert np.array_equal(fast[3], a.astype(np.float64) * 2.0**n)


def test_transpose():
    x, y = draw(LANES + 4, LANES + 9), np.zeros((LANES + 2, LANES + 3), np.float32)
    for result in both(kernel_transpose, x, x, x, y):
        expected = y.copy()
        expected[1 : LANES + 1, 2 : LANES + 2] = x[3 : LANES + 3, 5 : LANES + 5].T
        assert np.array_equal(result[3], expected)


def test_counters():
    counters = np.zeros((2, 16), np.int64)
    counters[0, 8] = 40
    for a, _, c, y in both(kernel_counters, *rows(False)[:2], counters, np.zeros((1, 4), np.int64)):
        assert y.tolist() == [[40, 41, 42, 43]]
        assert c[0, 8] == 43
        assert c.sum() == 43
        assert np.array_equal(a, rows(False)[0])


def test_store_rounds_to_bfloat16():
    """To even, both ways, up into the next exponent, and to infinity."""
    x = draw(1, 192) * np.float32(10) ** np.resize(np.arange(-30, 31, dtype=np.float32), (1, 192))
    bits = np.uint32([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x3FFFFFFF, 0x7F7FFFFF, 0xFF7F8000, 0x80000000])
    x[0, :8] = bits.view(np.float32)
    fast, plain = both(kernel_load_store, x, x, x, np.zeros((1, 192), np.uint16))
    assert np.array_equal(fast[3], plain[3])
    assert plain[3][0, :8].tolist() == [0x3F80, 0x3F82, 0x3F80, 0x3F81, 0x4000, 0x7F80, 0xFF80, 0x8000]
    assert np.max(np.abs(from_half(fast[3])[:, 8:] / x[:, 8:] - 1)) <= 2.0**-8


@pytest.mark.skipif(not COMPILED, reason="plain Python takes any")
@pytest.mark.parametrize("name", ["load_store", "transpose", "counters"])
def test_an_array_of_other_numbers_is_refused(name):
    a, b, c, y = (np.zeros((40, 192), np.float64) for _ in range(4))
    with pytest.raises(TypeError, match="expected an array of (float32|int64).*, not float64"):
        both(KERNELS[name], a, b, c, y)


def test_arrays_begin_on_a_cache_line():
    for dtype in (np.float32, np.uint16, np.int64):
        for _ in range(5):
            x = aligned(3, 5, dtype=dtype)
            assert x.ctypes.data % 64 == 0
            assert x.shape == (3, 5)
            assert x.dtype == dtype
            assert not x.any()


# ---------------------------------------------------------------------------------------------------- the register tile


def kernel_of_tile(c, a, b, k, add):
    tile_product(c, 1, 3, a, 2, 1, b, 4, 5, k, 0, add)


def kernel_of_tile_2(c, a, b, k, add):
    tile_product_2(c, 1, 3, a, 2, 1, b, 4, 5, k, 0, add)


def kernel_of_tile_1(c, a, b, k, add):
    tile_product_1(c, 1, 3, a, 2, 1, b, 4, 5, k, 0, add)


TILES = {1: kernel_of_tile_1, 2: kernel_of_tile_2, micro_kernel.VECTORS: kernel_of_tile}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("width", TILES)
def test_tile_product(width, half):
    columns = width * LANES
    a, b, c = draw(ROWS + 3, 40), draw(40, COLUMNS + 8, seed=1), draw(ROWS + 2, COLUMNS + 5, seed=2)
    kept_a, kept_b = a, b
    if half:
        a, b = from_half(to_half(a)), from_half(to_half(b))
        kept_a = to_half(a)
        kept_b = np.ascontiguousarray(to_half(b).reshape(20, 2, -1).transpose(0, 2, 1)).view(np.uint32)[:, :, 0]
    for k in (1, 2, 3, 4, 5, 7, 8, 11, 13):
        for add in (False, True):
            first, last, per = (2, 2 + 2 * k, 2) if half else (1, 1 + k, 1)
            product = a[2 : 2 + ROWS, first:last].astype(np.float64) @ b[4 * per : (4 + k) * per, 5 : 5 + columns]
            expected = c.astype(np.float64)
            expected[1 : 1 + ROWS, 3 : 3 + columns] = product + add * expected[1 : 1 + ROWS, 3 : 3 + columns]
            for result in both(TILES[width], c, kept_a, kept_b, k, add):
                assert np.abs(result[0] - expected).max() < 1e-3 * np.sqrt(per)  # of sums of products of 10 by 10
                outside = np.ones(c.shape, bool)
                outside[1 : 1 + ROWS, 3 : 3 + columns] = False
                assert np.array_equal(result[0][outside], c[outside])


# ---------------------------------------------------------------------------------------- the engine at every width


@pytest.mark.parametrize("head", ["classic", "simple"])
def test_the_engine(head):
    """At this process's width."""
    assert str(LANES) == os.environ.get("EXPECTED_LANES", str(LANES))
    fast = small_model("fast", "float32", head=head)
    images = images_for(fast, batch=2)
    truth = fast.with_engine("numpy").astype("float64")(images.astype(np.float64))
    heatmaps = fast(images)
    assert heatmaps.dtype == np.float32
    assert np.abs(heatmaps - truth).max() < TOLERANCE * np.abs(truth).max()


SSE = "+sse,+sse2,+cx8,+fxsr,+mmx"
AVX2 = f"{SSE},+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+popcnt"
AVX512 = f"{AVX2},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
OTHERS = {  # what Numba is told -> lanes, and what the CPU must have for it
    "16 lanes, no bfloat16": ({"NUMBA_CPU_NAME": "x86-64-v4", "NUMBA_CPU_FEATURES": AVX512}, 16, {"avx512vl"}),
    "8 lanes": ({"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": AVX2}, 8, {"avx2", "fma"}),
    "4 lanes": ({"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": SSE}, 4, {"sse2"}),
    "plain Python": ({"NUMBA_DISABLE_JIT": "1"}, LANES, set()),
}
HOST = {name for name, has in llvmlite.binding.get_host_cpu_features().items() if has}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The tests above in a process for each of OTHERS, all at the same time."""
    running = {}
    for name, (variables, lanes, needed) in OTHERS.items():
        if needed <= HOST:
            folder = tmp_path_factory.mktemp("numba")
            environment = os.environ | variables | {"EXPECTED_LANES": str(lanes), "NUMBA_CACHE_DIR": str(folder)}
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not other_cpus", __file__]
            log = open(folder / "log", "w+")  # noqa: SIM115 (closed below)
            running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT), log
    yield running
    for process, log in running.values():
        process.kill()
        process.wait()
        log.close()


@pytest.mark.skipif("EXPECTED_LANES" in os.environ or not COMPILED, reason="this is such a process")
@pytest.mark.parametrize("name", OTHERS)
def test_other_cpus(name, processes):
    if name not in processes:
        pytest.skip("this CPU cannot run it")
    process, log = processes[name]
    code = process.wait(timeout=300)
    log.seek(0)
    output = log.read()
    assert code == 0, output
    assert "passed" in output
    assert "failed" not in output
