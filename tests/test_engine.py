"""The fast engine: against the textbook in float64, from any number of threads, and its parts alone."""

import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import minivitpose as mvp
from minivitpose import engine as engine_module
from minivitpose.checkpoint import let_go
from minivitpose.engine import Engine, supports
from minivitpose.kernels import crew, gemm
from minivitpose.kernels.fused import forward
from minivitpose.kernels.micro_kernel import COLUMNS, ROWS
from minivitpose.kernels.simd import LANES, aligned, from_half, to_half
from minivitpose.trace import activation_shapes
from models import images_for, small_config, small_model, state_dict_for

COMPILED = not numba.config.DISABLE_JIT
TOLERANCE = 3e-6  # of the largest heatmap value, in float32; PyTorch's own error is about 1e-6
HALF_TOLERANCE = 2e-2  # of the same in bfloat16, whose numbers have 8 bits

KINDS = {
    "classic, heads of 8": {},
    "simple": {"head": "simple"},
    "heads of 10, qk_scale": {"head_dim": 10, "qk_scale": 0.17},
    "heads of 32": {"embed_dim": 64, "num_heads": 2},
    "heads of 64": {"embed_dim": 128, "num_heads": 2},
    "heads of 80": {"embed_dim": 160, "num_heads": 2},
    "heads of 96, simple": {"embed_dim": 192, "num_heads": 2, "head": "simple"},
    "odd numbers of everything": {"embed_dim": 27, "num_keypoints": 7, "mlp_dim": 53, "deconv_filters": (9, 71)},
    "odd numbers, simple": {"embed_dim": 27, "num_keypoints": 17, "mlp_dim": 53, "head": "simple"},
    "133 keypoints": {"num_keypoints": 133, "deconv_filters": (130, 20)},
    "133 keypoints, simple": {"num_keypoints": 133, "head": "simple"},
    "overlapping patches": {"ratio": 2},
    "small patches": {"patch_size": (6, 6), "image_size": (18, 24)},
    "no qkv bias": {"qkv_bias": False},
    "one deconv": {"deconv_filters": (8,), "deconv_kernels": (4,)},
    "three deconvs": {"deconv_filters": (8, 70, 5), "deconv_kernels": (4, 4, 4)},
    "long sums": {"embed_dim": 132, "mlp_dim": 300, "deconv_filters": (140, 10)},
}
SIZES = [None, (65, 49), (96, 80), (16, 16), (32, 128), (256, 192)]  # None: the checkpoint's own


def models(**changes):
    """(a model of the fast engine, the same weights in float64 in NumPy)."""
    fast = small_model("fast", "float32", **changes)
    assert fast.engine == "fast"
    return fast, fast.with_engine("numpy").astype("float64")


def off(y, truth):
    """The largest error, relative to the largest value."""
    assert y.shape == truth.shape
    return np.abs(y - truth).max() / np.abs(truth).max()


# ------------------------------------------------------------------------------------------------- against the textbook


@pytest.mark.parametrize("kind", KINDS)
def test_heatmaps_are_the_textbooks(kind):
    fast, exact = models(**KINDS[kind])
    for size in SIZES:
        images = images_for(fast, batch=3 if size is None else 1, size=size)
        heatmaps = fast(images)
        assert heatmaps.dtype == np.float32
        assert off(heatmaps, exact(images.astype(np.float64))) < TOLERANCE, size


@pytest.mark.parametrize("kind", ["classic, heads of 8", "simple"])
def test_no_image_gives_no_heatmap(kind):
    fast, _ = models(**KINDS[kind])
    heatmaps = fast(images_for(fast, batch=0))
    assert heatmaps.shape == (0, 5, 16, 12)
    assert heatmaps.dtype == np.float32


UNSUPPORTED = {
    "deconvs of 3 and 2": {"deconv_kernels": (3, 2)},
    "extra convolutions": {"extra_kernels": (3,)},
    "simple, extra convolutions": {"head": "simple", "extra_kernels": (1,)},
    "simple, final 1 x 1": {"head": "simple", "final_kernel": 1},
    "classic, final 3 x 3": {"final_kernel": 3},
    "oblong patches": {"patch_size": (16, 8)},
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_networks_run_layer_by_layer(kind):
    config = small_config(**UNSUPPORTED[kind])
    assert not supports(config)
    model = small_model("fast", "float32", **UNSUPPORTED[kind])
    assert model.engine == "numba"
    with pytest.raises(ValueError, match=r"^the fast engine has no ViTPose-custom \(24 channels.*use engine='numba'$"):
        Engine(model.params, config)
    with pytest.raises(ValueError, match="run_fused needs the fast engine"):
        model.run_fused(images_for(model))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_above_is_supported(kind):
    assert supports(small_config(**KINDS[kind]))


@pytest.mark.parametrize("kind", ["classic, heads of 8", "simple", "odd numbers of everything"])
def test_every_tensor_matters(kind):
    """Change any one parameter and the heatmaps change: none is packed and then forgotten."""
    fast, _ = models(**KINDS[kind])
    state, images = fast.state_dict(), images_for(fast)
    expected = fast(images)
    for name in state:
        changed = state | {name: state[name] + 1 if name.endswith("tracked") else state[name] * np.float32(1.25)}
        heatmaps = mvp.load(changed, num_heads=3, image_size=(64, 48))(images)
        if name.endswith("tracked"):
            assert np.array_equal(heatmaps, expected)  # a counter
        else:
            assert off(heatmaps, expected) > 1e-5, name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["backbone.blocks.0.attn.qkv.bias", "backbone.last_norm.weight"])
def test_what_overflows_is_not_hidden(name):
    """inf - inf, in the scores or before a relu, is NaN, and no maximum swallows it."""
    state = state_dict_for(small_config())
    state[name][:] = np.float32(3e38) * np.where(np.arange(len(state[name])) % 2, 1, -1)
    fast = mvp.load(state, num_heads=3, image_size=(64, 48))
    images = images_for(fast)
    assert np.isnan(fast.with_engine("numpy")(images)).all()
    assert np.isnan(fast(images)).all()


# -------------------------------------------------------------------------------------- activations that pass by memory


@pytest.mark.parametrize("size", [None, (96, 80)])
@pytest.mark.parametrize("kind", KINDS)
def test_fused_activations_are_the_layers_own(kind, size):
    fast, _ = models(**KINDS[kind])
    images = images_for(fast, batch=2, size=size)
    heatmaps, fused = fast.run_fused(images)
    layers = fast.run_with_cache(images)[1]
    c = fast.config
    padding = 4 + 2 * (c.ratio // 2 - 1)
    grid = tuple((n + 2 * padding - c.patch_size[0]) // c.stride + 1 for n in images.shape[2:])
    shapes = activation_shapes(c, batch=2, grid=grid)
    assert list(fused) == [name for name in shapes if name in fused]
    blocks = 7 * c.depth + ("norm1" in fused)
    assert len(fused) == 2 + blocks + (1 + len(c.deconv_filters) if c.head == "classic" else 0)
    for name, x in fused.items():
        assert x.shape == shapes[name], name
        assert x.dtype == np.float32
        assert off(x, layers[name]) < 1e-5, name
    assert np.array_equal(heatmaps, fused["keypoint_head.final_layer"])
    assert np.array_equal(heatmaps, fast(images))  # step by step or in one go
    assert fused.fused


def test_fused_activations_are_copies():
    """A later run does not write into what an earlier one gave."""
    fast, _ = models()
    first = fast.run_fused(images_for(fast, seed=0))[1]
    kept = {name: x.copy() for name, x in first.items()}
    fast.run_fused(images_for(fast, seed=1))
    assert all(np.array_equal(x, kept[name]) for name, x in first.items())


def test_the_run_changes_neither_images_nor_weights():
    fast, _ = models()
    images = images_for(fast, batch=2)
    before = images.copy(), {name: x.copy() for name, x in fast.state_dict().items()}
    fast(images)
    assert np.array_equal(images, before[0])
    assert all(np.array_equal(x, before[1][name]) for name, x in fast.state_dict().items())


# -------------------------------------------------------------------------------------------------------- determinism


def run_on(model, images, threads):
    """model(images) on so many threads; Numba's own set_num_threads stops at the number of cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba, "get_num_threads", lambda: threads)
        return model(images)


@pytest.mark.parametrize("kind", ["classic, heads of 8", "simple", "heads of 80", "odd numbers of everything"])
def test_same_bits_for_any_number_of_threads_and_from_run_to_run(kind):
    fast, _ = models(**KINDS[kind])
    images = images_for(fast, batch=2, size=(256, 192))
    expected = run_on(fast, images, 1)
    for threads in (1, 2, 3, 5, 16):
        for _ in range(3):
            assert np.array_equal(run_on(fast, images, threads), expected), threads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_batch_is_its_images_one_by_one(kind, precision, monkeypatch):
    """Of six, in bfloat16 four pass through the weights together, and each of the others alone."""
    monkeypatch.setattr(engine_module, "HALF", True)
    fast = models(**KINDS[kind])[0].with_engine("fast", precision)
    for size in (None, (65, 49), (128, 64)):
        images = images_for(fast, batch=engine_module.TOGETHER + 2, size=size)
        assert np.array_equal(fast(images), np.concatenate([fast(image[None]) for image in images])), size


def test_no_image_leaves_traces_in_the_next():
    """Another size, another number of threads and other images between: the same bits as at first."""
    fast, _ = models(head="simple")
    images = images_for(fast)
    expected = fast(images)
    fast(images_for(fast, seed=1) * np.float32(1e6))
    assert np.array_equal(fast(images), expected)
    fast(images_for(fast, size=(96, 80)))
    run_on(fast, images, 3)
    assert np.array_equal(fast(images), expected)


FORKED = """
import os, sys
import numba
import numpy as np
import minivitpose as mvp
model = mvp.load("mini")
images = np.random.default_rng(0).standard_normal((1, 3, 256, 192), dtype=np.float32)
expected = model(images)
child = os.fork()
if child == 0:
    same = np.array_equal(model(images), expected)
    crew = model.fused.crew(numba.get_num_threads())
    os._exit(0 if same and crew.process == os.getpid() else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not COMPILED, reason="needs fork, and the compiled engine")
def test_a_forked_process_has_threads_of_its_own():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], timeout=300)
    assert done.returncode == 0


def test_calls_from_four_threads_at_once():
    fast, _ = models()
    batches = [images_for(fast, batch=2, seed=seed, size=size) for seed in range(4) for size in (None, (96, 80))]
    expected = [fast(images) for images in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for heatmaps, alone in zip(pool.map(fast, batches * 3), expected * 3, strict=True):
                assert np.array_equal(heatmaps, alone)


class Absent:
    """An executor whose threads never start, as when the system gives them no time."""

    def __init__(self, threads):
        pass

    def submit(self, f, *arguments):
        return Future()


class Late(Absent):
    """An executor whose threads start when much is done, and get nothing to do or something."""

    def submit(self, f, *arguments):
        future = Future()

        def begin():
            if future.set_running_or_notify_cancel():
                future.set_result(f(*arguments))

        threading.Timer(0.0003, begin).start()
        return future


class Refusing(Absent):
    """An executor for which the system starts no thread."""

    def submit(self, f, *arguments):
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("executor", [Absent, Late, Refusing])
def test_helpers_that_come_late_or_never_hang_nothing(executor, monkeypatch):
    fast, _ = models()
    images = images_for(fast, batch=4, size=(256, 192))
    expected, results = fast(images), []
    monkeypatch.setattr(crew, "ThreadPoolExecutor", executor)
    again = fast.with_engine("fast")
    caller = threading.Thread(target=lambda: results.append(run_on(again, images, 4)), daemon=True)
    caller.start()
    caller.join(60)
    assert not caller.is_alive(), "waits for a helper"
    assert np.array_equal(results[0], expected)


def test_an_interrupted_run_does_not_spoil_the_next():
    fast, _ = models()
    images = images_for(fast, batch=2)
    expected, spaces = fast(images), []

    def interrupt(name, x):
        spaces.append(fast.fused.workspaces.spaces[1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast.fused(images, interrupt)
    assert np.array_equal(fast(images), expected)
    assert fast.fused.workspaces.spaces[1] is not spaces[0]  # into that one a helper may still be writing


@pytest.mark.skipif(not COMPILED, reason="plain Python allocates")
def test_a_pass_allocates_nothing():
    """Numba counts one for each array that it is given, and no other."""
    statistics = pytest.importorskip("numba.core.runtime._nrt_python")
    from numba.core.runtime import rtsys

    def arrays(x):
        return sum(map(arrays, x)) if isinstance(x, tuple) else int(isinstance(x, np.ndarray))

    for kind in ("classic, heads of 8", "simple"):
        fast, _ = models(**KINDS[kind])
        images = images_for(fast, size=(256, 192))
        run_on(fast, images, 1)
        space = fast.fused.workspaces.spaces[1]
        given = arrays((fast.fused.weights, space.buffers, space.counters)) + 2  # and image and heatmaps
        enabled = statistics.memsys_stats_enabled()
        statistics.memsys_enable_stats()
        try:
            before = rtsys.get_allocation_stats()
            run_on(fast, images, 1)
            after = rtsys.get_allocation_stats()
        finally:
            if not enabled:
                statistics.memsys_disable_stats()
        assert after.mi_alloc - before.mi_alloc == given
        assert after.alloc - before.alloc == given
        assert after.free - before.free == given


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_images_of_any_layout_need_no_compilation_of_their_own():
    fast, _ = models()
    images = images_for(fast, batch=2)
    expected = fast(images)
    compiled = len(forward.classic.signatures)
    bytes_ = np.zeros(images.nbytes + 1, np.uint8)[1:]
    misaligned = bytes_.view(np.float32).reshape(images.shape)
    misaligned[:] = images
    frozen = images.copy()
    frozen.setflags(write=False)
    for other in (misaligned, frozen, np.asfortranarray(images), images[::-1][::-1]):
        assert np.array_equal(fast(other), expected)
    assert len(forward.classic.signatures) == compiled


# ----------------------------------------------------------------------------------------------------------- bfloat16


@pytest.mark.parametrize(
    "kind",
    [
        "classic, heads of 8",
        "simple",
        "heads of 32",
        "heads of 64",
        "heads of 80",
        "odd numbers of everything",
        "odd numbers, simple",
        "long sums",
    ],
)
@pytest.mark.parametrize("size", [None, (96, 80), (128, 64), (256, 192)])  # with and without whole blocks of tokens
def test_bfloat16_is_near(kind, size, monkeypatch):
    """On every CPU: where it has no bfloat16 products, simd.py makes them of others."""
    monkeypatch.setattr(engine_module, "HALF", True)
    fast, exact = models(**KINDS[kind])
    half = fast.with_engine("fast", "bf16")
    assert half.precision == "bf16"
    images = images_for(fast, batch=2, size=size)
    truth = exact(images.astype(np.float64))
    heatmaps, fused = half.run_fused(images)
    assert heatmaps.dtype == np.float32
    assert TOLERANCE < off(heatmaps, truth) < HALF_TOLERANCE  # that it does round
    assert np.array_equal(half(images), heatmaps)
    assert np.array_equal(run_on(half, images, 5), heatmaps)
    layers = fast.run_with_cache(images)[1]
    for name, x in fused.items():
        assert x.dtype == np.float32
        assert off(x, layers[name]) < HALF_TOLERANCE, name


def test_bfloat16_is_refused_where_the_cpu_has_none(monkeypatch):
    monkeypatch.setattr(engine_module, "HALF", False)
    with pytest.raises(ValueError, match="^precision 'bf16' needs a CPU with bfloat16 dot products") as error:
        models()[0].with_engine("fast", "bf16")
    assert "\n" not in str(error.value)


def test_bfloat16_of_a_head_that_the_engine_has_not_is_refused(monkeypatch):
    monkeypatch.setattr(engine_module, "HALF", True)
    model = small_model("fast", "float32", extra_kernels=(3,))
    with pytest.raises(ValueError, match="the fast engine has no ViTPose-custom"):
        model.with_engine("fast", "bf16")


# ----------------------------------------------------------------------------------------------------- parts alone

LENGTHS = [1, 2, 3, 4, 5, 7, 32, 96, 127, 128, 129, 131, 260, 576]
WIDTHS = [1, COLUMNS - 1, COLUMNS, COLUMNS + 1, COLUMNS + 2 * LANES, 3 * COLUMNS]
HEIGHTS = [ROWS, 5 * ROWS, 33 * ROWS]  # whole tiles; 32 tiles go through a panel together
EPILOGUES = {"store": gemm.STORE, "add": gemm.ADD, "gelu": gemm.GELU}


def gelu_exactly(x):
    """x Phi(x) in float64."""
    return measure.gelu_truth(x.reshape(-1)).reshape(x.shape)


def multiply(x, weight, bias, base, after, threads=1, half=False):
    """gemm.product for arrays of any size, in float32."""
    (M, K), N = x.shape, len(weight)
    columns = gemm.round_up(N, LANES)
    kept = aligned(M, gemm.round_up(K, COLUMNS), dtype=np.uint16 if half else np.float32)
    kept[:, :K] = to_half(x) if half else x
    panels, packed_bias, y = gemm.pack(weight, half), aligned(1, columns), aligned(M, columns + LANES)
    packed_bias[0, :N], y[:, :N] = bias, base
    y[:, columns:] = np.nan  # nobody's business
    sums, counters = aligned(gemm.CHUNK, gemm.SUMS), crew.new_counters(1)
    gemm.product(counters, 0, threads, kept, panels, packed_bias, y, y, after, sums)
    assert np.isnan(y[:, columns:]).all()
    return y[:, :N]


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("M", HEIGHTS)
def test_product(M, epilogue, half):
    for N in WIDTHS:
        for K in LENGTHS:
            x, weight, bias, base = draw(M, K), draw(N, K, seed=1), draw(N, seed=2), draw(M, N, seed=3)
            y = multiply(x, weight, bias, base, EPILOGUES[epilogue], half=half)
            if half:
                x, weight = from_half(to_half(x)), from_half(to_half(weight))
            sums = x.astype(np.float64) @ weight.astype(np.float64).T + bias
            size = np.abs(x).astype(np.float64) @ np.abs(weight).T.astype(np.float64) + np.abs(bias)
            expected = {"store": sums, "add": base + sums, "gelu": gelu_exactly(sums)}[epilogue]
            assert np.max(np.abs(y - expected) / (size + np.abs(base))) < 1e-6, (N, K)


@pytest.mark.parametrize("N", WIDTHS)
def test_product_is_cut_for_any_number_of_threads(N):
    x, weight, bias, base = draw(HEIGHTS[-1], 131), draw(N, 131), draw(N), draw(HEIGHTS[-1], N)
    expected = multiply(x, weight, bias, base, gemm.ADD)
    for threads in (2, 3, 5, 16, 100):
        assert np.array_equal(multiply(x, weight, bias, base, gemm.ADD, threads), expected)


def test_packed_weights_are_the_weights():
    weight = draw(2 * COLUMNS + 3, 5)
    panels = gemm.pack(weight)
    assert panels.shape == (3 * 5, COLUMNS)
    for n, k in np.ndindex(*weight.shape):
        assert panels[n // COLUMNS * 5 + k, n % COLUMNS] == weight[n, k]
    assert not panels[2 * 5 :, 3:].any()
    pairs = gemm.pack(weight, half=True)
    assert pairs.shape == (3 * 3, COLUMNS)
    assert pairs.dtype == np.uint32
    for n, k in np.ndindex(*weight.shape):
        pair = pairs[n // COLUMNS * 3 + k // 2, n % COLUMNS]
        assert pair >> 16 * (k % 2) & 0xFFFF == to_half(weight[n, k])
    assert not (pairs[2::3] >> 16).any()  # the odd number of k


def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


measure = load_script(Path(__file__).parent.parent / "docs" / "fit_polynomials.py")
POINTS = 1 << 20 if COMPILED else 1 << 12


def test_exp_is_within_a_unit_in_the_last_place():
    x, y = measure.on_a_grid(measure.exp_each, -87, 0, POINTS)
    truth = np.exp(x.astype(np.float64))
    assert np.max(np.abs(y - truth) / np.spacing(truth.astype(np.float32))) < 1
    assert y[-1] == 1  # of 0
    assert np.all(np.diff(y) >= -np.spacing(y[1:]))
    x, y = measure.on_a_grid(measure.exp_each, -1e30, -87, 1 << 12)
    assert np.all(y == y[-1])
    assert 0 < y[0] < 2e-38


def test_gelu_is_within_the_stated_error():
    x, y = measure.on_a_grid(measure.gelu_each, -12, 12, POINTS)
    error = np.abs(y - measure.gelu_truth(x))
    assert np.all(error <= 1.9e-7 * np.abs(x))
    assert error[np.abs(x) <= 5.5].max() < 9.6e-7
    x, y = measure.on_a_grid(measure.gelu_each, -1e-3, 1e-3, POINTS)
    assert np.all(np.abs(y - measure.gelu_truth(x)) <= 1.2e-7 * np.abs(x))
    x, y = measure.on_a_grid(measure.gelu_each, -1e4, 1e4, 1 << 12)
    assert np.array_equal(y[np.abs(x) > 6], np.maximum(x, 0)[np.abs(x) > 6])


@pytest.mark.parametrize(("units", "pieces", "longest", "threads"), [(12, 32, 32, 1), (3, 7, 2, 5), (1, 1, 8, 16)])
def test_cuts_leave_no_part_too_long(units, pieces, longest, threads):
    parts = crew.cuts(units, pieces, longest, threads)
    sizes = [(part + 1) * pieces // parts - part * pieces // parts for part in range(parts)]
    assert sum(sizes) == pieces
    assert 1 <= min(sizes) <= max(sizes) <= longest


# ------------------------------------------------------------------------------------------- files: weights and caches


@pytest.fixture
def on_disk(tmp_path):
    """A safetensors file, its state, and how to load it."""
    from safetensors.numpy import save_file

    state = state_dict_for(small_config(embed_dim=96, depth=4))
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", state, {"num_heads": 3, "image_size": (64, 48)}


def in_memory(path):
    """KiB of the mapped file that this process holds."""
    sizes = [0]
    with open("/proc/self/smaps") as file:
        for line in file:
            if line.split()[0].count("-") == 1:
                mine = line.rstrip().endswith(str(path))
            elif line.startswith("Rss:") and mine:
                sizes.append(int(line.split()[1]))
    return sum(sizes)


needs_smaps = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is in memory")


@needs_smaps
def test_weights_let_go_come_back_with_the_same_values(on_disk):
    path, state, options = on_disk
    model = mvp.load(path, "numpy", **options)
    before = in_memory(path)
    assert before > 1000
    let_go(model.params["backbone"]["pos_embed"])
    assert in_memory(path) == 0
    for name, x in model.state_dict().items():
        assert np.array_equal(x, state[name]), name
    assert in_memory(path) > 1000


@needs_smaps
def test_packing_lets_the_file_go(on_disk):
    path, state, options = on_disk
    fast = mvp.load(path, **options)
    assert fast.engine == "fast"
    assert in_memory(path) < path.stat().st_size / 1024 / 2
    images = images_for(fast)
    assert np.array_equal(fast(images), mvp.load(state, **options)(images))
    assert all(np.array_equal(x, state[name]) for name, x in fast.state_dict().items())


def test_letting_go_of_what_is_not_mapped_changes_nothing():
    x = np.arange(5.0)
    let_go(x[1:])
    assert np.array_equal(x, np.arange(5.0))


def test_every_changed_source_makes_another_stamp(tmp_path):
    """Numba's cache on disk is renewed when any file changes that a pass is compiled from."""
    kernels = Path(forward.__file__).parent.parent
    sources = [path.relative_to(kernels) for path in kernels.rglob("*.py")]
    assert {Path("simd.py"), Path("micro_kernel.py"), Path("gemm.py"), Path("fused/attention.py")} <= set(sources)
    for source in sources:
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (tmp_path / source).write_bytes((kernels / source).read_bytes())
    assert forward.source_stamp(tmp_path) == forward.source_stamp()
    for source in sources:
        with open(tmp_path / source, "a") as file:
            file.write("\n# changed")
        assert forward.source_stamp(tmp_path) != forward.source_stamp(), source
        (tmp_path / source).write_bytes((kernels / source).read_bytes())


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_the_stamp_is_where_numba_looks():
    for f in (forward.classic, forward.simple):
        assert f._cache._cache_file._source_stamp == forward.source_stamp()


def test_another_numba_without_stamps_is_left_alone():
    for f in (SimpleNamespace(), SimpleNamespace(_cache=SimpleNamespace(_cache_file=SimpleNamespace()))):
        forward.watch_sources(f)
        assert not hasattr(getattr(getattr(f, "_cache", None), "_cache_file", None), "_source_stamp")
