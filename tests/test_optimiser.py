"""AdamW, layer-wise rates, clipping and schedules: against PyTorch's, step by step, and against small sums by hand."""

import numpy as np
import pytest

from minivitpose.config import Config, parameter_shapes
from minivitpose.kernels.gradients.newton_schulz import NewtonSchulz, fits
from minivitpose.parameters import copied, flatten, nest, stands_in
from minivitpose.training.optimiser import (
    AdamW,
    Muon,
    Orthogonaliser,
    as_matrices,
    clip,
    decays,
    is_hidden_matrix,
    layer_number,
    orthogonalised,
    rate_scale,
)
from minivitpose.training.schedule import schedule
from models import small_config, state_dict_for


def gradients_for(params, seed):
    rng = np.random.default_rng(seed)
    return {name: 3 * rng.standard_normal(x.shape).astype(x.dtype) for name, x in params.items()}


@pytest.mark.reference
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 2e-6)])
def test_adamw_step_by_step(dtype, tolerance):
    torch = pytest.importorskip("torch")
    config = small_config(depth=3)
    params = nest(state_dict_for(config, dtype=dtype))
    ours = AdamW(params, config.depth, layer_decay=0.8, weight_decay=0.05, betas=(0.9, 0.99))
    theirs = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in ours.params.items()}
    groups = [
        {"params": [x], "lr": 1e-2 * rate_scale(name, 3, 0.8), "weight_decay": 0.05 * decays(name, x)}
        for name, x in theirs.items()
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8)
    before = {name: x.copy() for name, x in ours.params.items()}
    for seed in range(6):
        gradients = gradients_for(ours.params, seed)
        for name, x in theirs.items():
            x.grad = torch.tensor(gradients[name])
        norm = torch.nn.utils.clip_grad_norm_(list(theirs.values()), 1.0)
        assert clip(gradients) == pytest.approx(float(norm), rel=1e-6)
        ours.step(gradients, 1e-2)
        optimiser.step()
        for name, x in theirs.items():
            step = np.abs(ours.params[name] - before[name]).max()
            assert np.abs(ours.params[name] - x.detach().numpy()).max() < tolerance * max(1, step), name
            assert ours.params[name].dtype == dtype
    assert all(np.abs(x - before[name]).max() > 1e-3 for name, x in ours.params.items())


def test_layers_are_counted_from_the_patches():
    names = parameter_shapes(small_config(depth=3))
    numbers = {name: layer_number(name, 3) for name in names}
    assert numbers["backbone.pos_embed"] == numbers["backbone.patch_embed.proj.bias"] == 0
    assert numbers["backbone.blocks.0.norm1.weight"] == 1 and numbers["backbone.blocks.2.mlp.fc2.bias"] == 3
    assert numbers["backbone.last_norm.bias"] == numbers["keypoint_head.final_layer.weight"] == 4
    assert rate_scale("keypoint_head.final_layer.weight", 3, 0.5) == 1
    assert rate_scale("backbone.pos_embed", 3, 0.5) == 1 / 16


def test_what_decays():
    params = state_dict_for(small_config())
    found = {name for name, x in params.items() if decays(name, x)}
    assert "backbone.blocks.0.attn.qkv.weight" in found and "keypoint_head.deconv_layers.0.weight" in found
    assert not any(name.endswith(("bias", "pos_embed")) or "norm" in name for name in found)
    assert "keypoint_head.deconv_layers.1.weight" not in found


def test_frozen_parameters_and_statistics_stay():
    config = small_config()
    params = nest(state_dict_for(config))
    before = {name: x.copy() for name, x in flatten(params).items()}
    optimiser = AdamW(params, config.depth, frozen=("backbone.patch_embed", "backbone.blocks.0"))
    optimiser.step(gradients_for(before | {}, 0), 1e-2)
    for name, x in flatten(params).items():
        still = name.startswith(("backbone.patch_embed", "backbone.blocks.0.")) or "running" in name or "num_b" in name
        assert np.array_equal(x, before[name]) == still, name


def test_a_name_freezes_what_is_in_it_and_nothing_that_only_begins_like_it():
    names = ["backbone.blocks.1.norm1.bias", "backbone.blocks.11.norm1.bias", "backbone.blocks.1"]
    for place in ("backbone.blocks.1", "backbone.blocks.1."):
        assert [stands_in(name, [place]) for name in names] == [True, False, True]


def test_arrays_in_another_order_are_refused_and_copies_learn():
    config = small_config()
    turned = nest({name: np.asfortranarray(x) for name, x in state_dict_for(config).items()})
    with pytest.raises(ValueError, match="expected an array in C order; parameters.copied makes such copies"):
        AdamW(turned, config.depth)
    optimiser = AdamW(copied(turned), config.depth)
    before = {name: x.copy() for name, x in optimiser.params.items()}
    optimiser.step(gradients_for(optimiser.params, 0), 1e-2)
    assert not any(np.array_equal(x, before[name]) for name, x in optimiser.params.items())


def test_the_state_goes_on_where_it_was():
    config = small_config()
    runs = [nest(state_dict_for(config)) for _ in range(2)]
    a, b = (AdamW(params, config.depth) for params in runs)
    for seed in range(4):
        a.step(gradients_for(a.params, seed), 1e-2)
        if seed == 2:  # the first is stored after three steps and taken up by another
            for name, x in a.params.items():
                b.params[name][...] = x
            b.restore({name: x.copy() for name, x in a.state().items()})
    b.step(gradients_for(b.params, 3), 1e-2)
    assert a.steps == b.steps == 4
    assert all(np.array_equal(x, b.params[name]) for name, x in a.params.items())


def test_clipping():
    gradients = {"a": np.array([3.0, 0.0], np.float32), "b": np.array([[4.0]], np.float32)}
    assert clip(gradients, 1.0) == 5
    assert np.allclose(gradients["a"], [0.6, 0], rtol=1e-6) and np.allclose(gradients["b"], 0.8, rtol=1e-6)
    assert clip(gradients, 1.0) == pytest.approx(1, rel=1e-6) and np.allclose(gradients["b"], 0.8, rtol=1e-6)
    gradients["a"][0], before = np.nan, gradients["b"].copy()
    assert np.isnan(clip(gradients)) and np.array_equal(gradients["b"], before)


def test_schedules():
    rates = np.array([schedule(i, 100, warm_up=10) for i in range(100)])
    assert np.allclose(np.diff(rates[:10]), 1 / 11) and rates[0] == 1 / 11
    assert rates[10] == 1 and np.all(np.diff(rates[10:]) < 0) and rates[55] == pytest.approx(0.5) and rates[-1] < 1e-3
    assert schedule(100, 100, final=0.1) == pytest.approx(0.1)
    steps = [schedule(i, 210, kind="step") for i in (0, 169, 170, 199, 200, 209)]
    assert np.allclose(steps, [1, 1, 0.1, 0.1, 0.01, 0.01])
    assert schedule(5, 10, kind="constant") == 1
    line = [schedule(i, 100, warm_up=10, kind="linear", final=0.1) for i in (9, 10, 75, 80, 100, 110)]
    assert np.allclose(line, [10 / 11, 1, 1, 0.82, 0.1, 0.1])
    assert np.allclose([schedule(i, 100, kind="linear", stay=0.4) for i in (40, 70, 100)], [1, 0.5, 0])
    with pytest.raises(ValueError, match="unknown schedule 'wave': expected 'cosine'"):
        schedule(5, 10, kind="wave")


def test_orthogonalised_takes_each_singular_value_through_the_polynomial():
    rng = np.random.default_rng(3)
    for shape in ((2, 6, 6), (1, 5, 12), (3, 12, 5)):
        matrices = rng.standard_normal(shape)
        u, s, vt = np.linalg.svd(matrices, full_matrices=False)
        first = s = s / (np.linalg.norm(matrices, axis=(1, 2))[:, None] + 1e-7)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        assert np.allclose(orthogonalised(matrices), u * s[:, None] @ vt, rtol=0, atol=1e-12)
        assert np.all((s > 0.68) & (s < 1.14) | (first < 0.02)) and (first > 0.02).mean() > 0.8


SIZES = [(16, 16), (48, 48), (32, 208), (128, 144), (16, 400)]  # rows and columns that leave parts of tiles


def unit_matrices(seed=0):
    rng = np.random.default_rng(seed)
    found = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    return [x / np.linalg.norm(x) for x in found]


def test_the_kernel_iterates_as_numpy_does():
    matrices, kernel = unit_matrices(), NewtonSchulz(SIZES)
    kernel(unit_matrices(1))  # what an earlier call left in the workspace counts for nothing
    for x, found in zip(matrices, kernel(matrices), strict=True):
        true, single = (orthogonalised(x[None].astype(dtype))[0] for dtype in (np.float64, np.float32))
        assert found.dtype == np.float32 and found.shape == x.shape
        error, numpys = (np.sqrt(np.mean((y - true) ** 2)) for y in (found, single))
        assert error < 2 * numpys, (x.shape, error, numpys)


def test_the_kernel_gives_the_same_bits_for_any_number_of_threads():
    first, *others = ([x.tobytes() for x in NewtonSchulz(SIZES, threads=n)(unit_matrices())] for n in (1, 2, 3, 7))
    assert all(found == first for found in others)


def test_stacks_of_all_shapes_come_back_in_their_order():
    rng = np.random.default_rng(2)
    sizes = [(3, 48, 32), (2, 5, 7), (1, 16, 64), (1, 9, 4), (1, 64, 16)]
    stacks = [rng.standard_normal(size).astype(np.float32) for size in sizes]
    assert [fits(stack) for stack in stacks] == [True, False, True, False, True]
    assert not fits(stacks[0].astype(np.float64))
    for found, stack in zip(Orthogonaliser(stacks)(stacks), stacks, strict=True):
        assert found.shape == stack.shape and np.abs(found - orthogonalised(stack)).max() < 5e-6
    alone = [stacks[1].astype(np.float64)]
    assert np.array_equal(Orthogonaliser(alone)(alone)[0], orthogonalised(alone[0])) and Orthogonaliser([])([]) == []


def test_muon_moves_alike_with_the_kernel_and_without(monkeypatch):
    config = Config(64, 2, 4, image_size=(64, 48), deconv_filters=(32, 16))
    runs = [nest(state_dict_for(config, dtype="float32")) for _ in range(2)]
    fast = Muon(runs[0], config.depth, layer_decay=0.8)
    assert len(fast.orthogonalise.fast) == len(fast.hidden) == 11
    monkeypatch.setattr("minivitpose.kernels.gradients.newton_schulz.fits", lambda matrices: False)
    plain = Muon(runs[1], config.depth, layer_decay=0.8)
    before = {name: x.copy() for name, x in fast.params.items()}
    for seed in range(3):
        gradients = gradients_for(fast.params, seed)
        fast.step(gradients, 1e-2)
        plain.step(gradients, 1e-2)
    for name, x in fast.params.items():
        moved = np.abs(x - before[name]).max()
        assert np.abs(x - plain.params[name]).max() < 2e-5 * moved > 0, name


def test_what_muon_turns():
    params = state_dict_for(small_config())
    found = {name for name, x in params.items() if is_hidden_matrix(name, x)}
    assert {"backbone.patch_embed.proj.weight", "backbone.blocks.0.attn.qkv.weight"} <= found
    assert "keypoint_head.deconv_layers.0.weight" in found and "keypoint_head.final_layer.weight" not in found
    assert not any(name.endswith(("bias", "pos_embed")) or "norm" in name for name in found)
    qkv = params["backbone.blocks.0.attn.qkv.weight"]
    three = as_matrices("backbone.blocks.0.attn.qkv.weight", qkv)
    assert np.array_equal(three, np.split(qkv, 3))


@pytest.mark.reference
def test_muon_step_by_step():
    """PyTorch turns in bfloat16, which has three digits, and knows no kernels and no qkv: matrices are compared."""
    torch = pytest.importorskip("torch")
    config = small_config(depth=2)
    params = nest(state_dict_for(config, dtype="float32"))
    ours = Muon(params, config.depth, weight_decay=0.05, matrix_rate=3)
    names = [name for name, x in ours.params.items() if is_hidden_matrix(name, x) and x.ndim == 2 and "qkv" not in name]
    assert len(names) == 6
    theirs = {name: torch.nn.Parameter(torch.tensor(ours.params[name])) for name in names}
    optimiser = torch.optim.Muon(theirs.values(), lr=3e-2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    before = {name: ours.params[name].copy() for name in names}
    for seed in range(4):
        gradients = gradients_for(ours.params, seed)
        for name, x in theirs.items():
            x.grad = torch.tensor(gradients[name])
        ours.step(gradients, 1e-2)
        optimiser.step()
    for name, x in theirs.items():
        moved, off = ours.params[name] - before[name], ours.params[name] - x.detach().numpy()
        assert np.sqrt(np.mean(off**2)) < 0.02 * np.sqrt(np.mean(moved**2)), name


def test_muon_leaves_the_rest_to_adamw_and_goes_on_where_it_was():
    config = small_config()
    runs = [nest(state_dict_for(config, dtype="float32")) for _ in range(3)]
    a, b = (Muon(params, config.depth) for params in runs[:2])
    adamw = AdamW(runs[2], config.depth)
    for seed in range(4):
        gradients = gradients_for(a.params, seed)
        a.step({name: g.copy() for name, g in gradients.items()}, 1e-2)
        adamw.step(gradients, 1e-2)
        if seed == 2:
            for name, x in a.params.items():
                b.params[name][...] = x
            b.restore({name: x.copy() for name, x in a.state().items()})
    b.step(gradients_for(b.params, 3), 1e-2)
    for name, x in a.params.items():
        assert np.array_equal(x, b.params[name]), name
        assert np.array_equal(x, adamw.params[name]) != is_hidden_matrix(name, x), name
        assert x.dtype == np.float32
