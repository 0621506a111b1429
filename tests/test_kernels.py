"""The compiled layers: equal to the slow oracle, to the textbook in names and taps, and to themselves on more threads.

Runs with NUMBA_DISABLE_JIT=1 too, then every loop is plain Python.
"""

import inspect
import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from minivitpose import kernels, layers
from minivitpose.kernels import jit
from operations import CASES, TOLERANCE, Draw, arrays, call, check, error, expected, public_names
from test_layers import TAPPED, tapped

COMPILED = not numba.config.DISABLE_JIT
DTYPES = [np.float64, np.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_naive(case, dtype):
    arguments = case.arguments(dtype)
    check(call(kernels, case.operation, arguments), expected(case, dtype), dtype, case.operation)
    arrays(lambda a: a.setflags(write=False), arguments)
    check(call(kernels, case.operation, arguments), expected(case, dtype), dtype, case.operation)


def every_other(a):
    """The same array, two items apart in memory and backwards."""
    wide = np.repeat(a, 2, axis=-1)[..., ::-1].copy()
    return wide[..., ::-2]


def misaligned(a):
    buffer = np.zeros(a.nbytes + 1, np.uint8)[1:]
    buffer[:] = np.frombuffer(a.tobytes(), np.uint8)
    return buffer.view(a.dtype).reshape(a.shape)


@pytest.mark.parametrize("layout", [every_other, np.asfortranarray, misaligned], ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_memory_layout(case, layout):
    arguments = case.arguments(np.float32)
    plain = call(kernels, case.operation, arguments)
    other = arrays(layout, arguments)
    np.testing.assert_array_equal(call(kernels, case.operation, other), plain)
    arrays(lambda a: np.testing.assert_array_equal(a, layout(a)), arguments)  # that the layouts are the same numbers


def test_names_are_those_of_the_layers():
    assert sorted(kernels.__all__) == sorted(public_names(layers))


@pytest.mark.parametrize("name", public_names(layers))
def test_signatures_and_docstrings_are_those_of_the_layers(name):
    ours, theirs = getattr(kernels, name), getattr(layers, name)
    if name == "DECONV_PADDING" or ours is theirs:
        assert ours == theirs
        return
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__ == theirs.__doc__
    assert ours.__module__.startswith("minivitpose.kernels")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_kernel_falls_back_on_a_layer(case, monkeypatch):
    """With nothing left in layers.py that computes: rewired code finds the kernels' names."""
    for name in public_names(layers):
        if getattr(layers, name) is not getattr(kernels, name):
            monkeypatch.setattr(layers, name, None)
    call(kernels, case.operation, case.arguments())


# ------------------------------------------------------------------------------------------------------------ taps


@pytest.mark.parametrize("case", [c for c in CASES if c.operation in TAPPED], ids=str)
def test_taps_see_what_they_see_in_the_layers(case):
    y, seen = tapped(kernels, case)
    truth, theirs = tapped(layers, case)
    check(y, truth, np.float64)
    assert list(seen) == list(theirs)
    for name in seen:
        check(seen[name], theirs[name], np.float64)


@pytest.mark.parametrize("case", [c for c in CASES if c.operation in TAPPED], ids=str)
def test_what_the_tap_returns_goes_on(case):
    for name in tapped(layers, case)[1]:
        check(tapped(kernels, case, name)[0], tapped(layers, case, name)[0], np.float64)


# ----------------------------------------------------------------------------------- threads, edges, bad arguments


def larger(r):
    """Arguments large enough that each thread gets work, and lengths that no vector register divides."""
    n = 37
    return {
        "linear": dict(x=r(n, 3 * n), weight=r(n + 2, 3 * n), bias=r(n + 2)),
        "layer_norm": dict(x=r(n, 3 * n), weight=r(3 * n), bias=r(3 * n)),
        "softmax": dict(x=r(n, 3 * n)),
        "scaled_dot_product_attention": dict(q=r(2, 3, n, 5), k=r(2, 3, n, 5), v=r(2, 3, n, 5)),
        "gelu": dict(x=r(n, n)),
        "relu": dict(x=r(n, n)),
        "batch_norm": dict(x=r(2, n, 3, 5), **r.batch_norm(n)),
        "conv2d": dict(x=r(2, 3, n, 19), weight=r(7, 3, 3, 3), bias=r(7), padding=1),
        "conv_transpose2d": dict(x=r(2, n, 5, 3), weight=r(n, n, 4, 4), padding=1),
        "upsample_bilinear": dict(x=r(n, 2, 3, 5)),
        "block": dict(x=r(2, n, 12), p=r.block(12, 3, 4), num_heads=3),
        "keypoint_head": dict(
            x=r(1, 5, 4, 3),
            deconv_layers={"0": r.deconv(5, 7, 4), "1": r.batch_norm(7)},
            final_layer=r.conv(3, 7, 1),
        ),
    }


@pytest.mark.skipif(not COMPILED, reason="plain Python has one thread")
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", larger(Draw(0)))
def test_same_bits_for_any_number_of_threads(operation, dtype):
    arguments = arrays(lambda a: a.astype(dtype), larger(Draw(1))[operation])
    threads = numba.get_num_threads()
    try:
        results = []
        for n in (1, 2, threads, 1):
            numba.set_num_threads(n)
            results.append(call(kernels, operation, arguments))
    finally:
        numba.set_num_threads(threads)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    assert error(results[0], call(layers, operation, arrays(np.float64, arguments))) <= TOLERANCE[dtype]


EMPTY = {
    "linear": lambda r: dict(x=r(0, 5, 3), weight=r(4, 3), bias=r(4)),
    "layer_norm": lambda r: dict(x=r(0, 5, 3), weight=r(3), bias=r(3)),
    "scaled_dot_product_attention": lambda r: dict(q=r(0, 2, 3, 4), k=r(0, 2, 3, 4), v=r(0, 2, 3, 4)),
    "softmax": lambda r: dict(x=r(0, 3, 4)),
    "gelu": lambda r: dict(x=r(0, 3)),
    "relu": lambda r: dict(x=r(0, 3)),
    "mlp": lambda r: dict(x=r(0, 5, 3), **r.mlp(3, 4)),
    "attention": lambda r: dict(x=r(0, 5, 6), **r.attention(6, 2, 3), num_heads=2),
    "block": lambda r: dict(x=r(0, 5, 6), p=r.block(6, 2, 3), num_heads=2),
    "deconv": lambda r: dict(x=r(0, 3, 2, 2), **r.deconv(3, 4, 4)),
    "patch_embed": lambda r: dict(images=r(0, 3, 32, 16), weight=r(4, 3, 16, 16), bias=r(4)),
    "conv2d": lambda r: dict(x=r(0, 2, 4, 5), weight=r(3, 2, 3, 3), bias=r(3), padding=1),
    "conv_transpose2d": lambda r: dict(x=r(0, 2, 4, 5), weight=r(2, 3, 4, 4), padding=1),
    "batch_norm": lambda r: dict(x=r(0, 3, 2, 2), **r.batch_norm(3)),
    "upsample_bilinear": lambda r: dict(x=r(0, 3, 2, 2)),
    "keypoint_head": lambda r: dict(x=r(0, 3, 2, 2), final_layer=r.conv(2, 3, 3)),
}


@pytest.mark.parametrize("operation", EMPTY)
def test_an_empty_batch_gives_an_empty_batch(operation):
    arguments = arrays(np.float32, EMPTY[operation](Draw(2)))
    ours, theirs = (call(engine, operation, arguments) for engine in (kernels, layers))
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("softmax", {}),
        ("relu", {}),
        ("gelu", {}),
        ("linear", {"weight": np.ones((2, 5)), "bias": np.ones(2)}),
        ("layer_norm", {"weight": np.ones(5), "bias": np.ones(5)}),
    ],
)
def test_nan_is_not_hidden(operation, arguments, dtype):
    for row in ([1, np.nan, 3, 2, 0], [np.nan, 1, 3, 2, 0], [1, 2, 3, 4, np.nan], [np.nan] * 5):
        x = np.array([row, [1, 2, 3, 4, 5]], dtype)
        ours, theirs = (call(e, operation, {"x": x} | arrays(dtype, arguments)) for e in (kernels, layers))
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.isnan(ours[0]).any()
        assert not np.isnan(ours[1]).any()


WRONG = {
    "linear": [dict(x=(2, 5), weight=(3, 4), bias=(3,)), dict(x=(2, 4), weight=(3, 4), bias=(2,))],
    "layer_norm": [dict(x=(2, 5), weight=(4,), bias=(5,)), dict(x=(2, 5), weight=(5,), bias=(6,))],
    "scaled_dot_product_attention": [
        dict(q=(1, 2, 3, 4), k=(1, 2, 3, 5), v=(1, 2, 3, 4)),
        dict(q=(1, 2, 3, 4), k=(1, 2, 3, 4), v=(1, 2, 5, 4)),
        dict(q=(1, 2, 3, 4), k=(1, 3, 3, 4), v=(1, 3, 3, 4)),
    ],
    "batch_norm": [dict(x=(1, 3, 2, 2), weight=(3,), bias=(3,), running_mean=(2,), running_var=(3,))],
    "conv2d": [dict(x=(1, 3, 5, 5), weight=(4, 2, 3, 3)), dict(x=(1, 3, 5, 5), weight=(4, 3, 3, 3), bias=(3,))],
    "conv_transpose2d": [
        dict(x=(1, 3, 5, 5), weight=(2, 4, 4, 4)),
        dict(x=(1, 3, 5, 5), weight=(3, 4, 4, 4), bias=(3,)),
    ],
}


@pytest.mark.parametrize(("operation", "shapes"), [(o, s) for o, cases in WRONG.items() for s in cases])
def test_shapes_that_do_not_fit_are_refused(operation, shapes):
    """A compiled loop does not look where it reads, so the thin function before it must."""
    for engine in (kernels, layers):
        with pytest.raises(ValueError):
            call(engine, operation, {name: np.ones(shape) for name, shape in shapes.items()})


def test_the_refusal_says_what_and_what_was_expected():
    with pytest.raises(ValueError, match=r"^x has shape \(2, 5\), expected \(2, 4\)$"):
        kernels.linear(np.ones((2, 5)), np.ones((3, 4)))
    with pytest.raises(TypeError, match=r"float32 and float64, got float16: convert"):
        kernels.relu(np.ones(3, np.float16))


@pytest.mark.parametrize("engine", [kernels, layers])
def test_mixed_dtypes_widen_as_in_numpy(engine):
    x, weight = np.ones((2, 3), np.float32), np.full((4, 3), 1 + 1e-12)
    y = engine.linear(x, weight)
    assert y.dtype == np.float64
    assert error(y, np.full((2, 4), 3 + 3e-12)) < 1e-15


# --------------------------------------------------------------------------------------------------- compilation


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_one_compilation_for_each_dtype():
    """Whatever the layout: read-only, strided or mapped arrays need no compilation of their own."""
    for case in CASES:
        for dtype in DTYPES:
            call(kernels, case.operation, case.arguments(dtype))
    compiled = [
        v for m in list(sys.modules) if m.startswith("minivitpose.kernels.") for v in vars(sys.modules[m]).values()
    ]
    compiled = [f for f in compiled if isinstance(f, numba.core.registry.CPUDispatcher)]
    compiled = [f for f in compiled if f.targetoptions.get("parallel")]  # those of kernels/jit.py
    assert len(compiled) >= 10
    for f in compiled:
        assert len(f.signatures) == 2, f
        assert not {"nnan", "ninf", "fast"} & set(f.targetoptions.get("fastmath") or ())
        assert f.targetoptions["error_model"] == "numpy"


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_a_second_process_takes_the_kernels_from_the_disk(tmp_path):
    code = (
        "import numpy as np; from minivitpose import kernels; from minivitpose.kernels.relu import relu_each\n"
        "kernels.relu(np.ones(3, np.float32)); print(sum(relu_each.stats.cache_hits.values()))"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def hits():
        return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout

    assert [int(hits()), int(hits())] == [0, 1]


@pytest.mark.skipif(not COMPILED, reason="this test starts such a process")
def test_without_compilation_too():
    """In a process of its own, the table once more with every loop in plain Python."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np; from minivitpose import kernels; from minivitpose.kernels.relu import relu_each\n"
        "from operations import CASES, call, check, expected\n"
        "assert not hasattr(relu_each, 'signatures')\n"
        "for c in CASES: check(call(kernels, c.operation, c.arguments()), expected(c), np.float64, c.operation)\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-c", code, os.path.dirname(__file__)]
    subprocess.run(command, env=environment, check=True)


def test_ready_copies_only_what_it_must():
    x = np.ones((2, 3), np.float32)
    assert np.shares_memory(jit.ready("x", x, (2, 3), np.float32), x)
    assert not jit.ready("x", x, (2, 3), np.float32).flags.writeable
    assert x.flags.writeable
    assert not np.shares_memory(jit.ready("x", x.T, (3, 2), np.float32), x)


def test_where_no_folder_can_be_written_it_says_so_and_goes_on(monkeypatch):
    def refuse(**options):
        raise RuntimeError("cannot cache function: no locator available for file")

    monkeypatch.setattr(jit, "njit", refuse)
    with pytest.warns(UserWarning, match="compiled anew by each process: set NUMBA_CACHE_DIR to one that can"):
        assert not jit.can_cache()
