"""The gradients against PyTorch's autograd: each layer, whole models, the real mini and S; float64, to rounding."""

import numpy as np
import pytest

from minivitpose import gradients, load
from minivitpose.config import parameter_shapes, variant_config
from minivitpose.parameters import flatten, is_learnt
from minivitpose.training import heatmap_loss, heatmap_loss_backward, loss_and_gradients
from minivitpose.training.backward import draw_drops
from models import small_model, state_dict_for
from operations import CASES, Draw, arrays, call
from test_gradients import EXTRA, MODELS, WITHOUT_BACKWARD, backward, batch_for

torch = pytest.importorskip("torch")

from minivitpose import reference  # noqa: E402
from test_layers_reference import REFERENCE  # noqa: E402

F = torch.nn.functional
pytestmark = pytest.mark.reference

TOLERANCE = 1e-9  # of the largest number in each array


def assert_close(actual, expected, name="", floor=1e-6):
    """Shape, dtype and value. floor: where all numbers are smaller, they are 0 but for rounding."""
    assert actual.shape == expected.shape, name
    assert actual.dtype == expected.dtype, name
    assert np.abs(actual - expected).max() <= TOLERANCE * max(np.abs(expected).max(), floor), name


def autograd(operation, arguments, seed):
    """-> (an upstream gradient, {name of each input and parameter: PyTorch's gradient})."""
    tensors = arrays(lambda a: torch.from_numpy(a.copy()), arguments)
    leaves = {k: t for k, t in flatten(tensors).items() if isinstance(t, torch.Tensor) and is_learnt(k)}
    for t in leaves.values():
        t.requires_grad_(True)
    if operation == "batch_norm_training":
        p = dict(tensors)
        y = F.batch_norm(p.pop("x"), p.pop("running_mean"), p.pop("running_var"), **p, training=True)
    else:
        y = call(REFERENCE, operation, tensors)
    grad = np.random.default_rng(seed).standard_normal(y.shape)
    y.backward(torch.from_numpy(grad))
    return grad, {k: t.grad.numpy() for k, t in leaves.items()}


DIFFERENTIABLE = [(str(c), c.operation, c.arguments()) for c in CASES if c.operation not in WITHOUT_BACKWARD]
DIFFERENTIABLE += [(f"{o}: {name}", o, build(Draw(7))) for o, cases in EXTRA.items() for name, build in cases.items()]


@pytest.mark.parametrize("name, operation, arguments", DIFFERENTIABLE, ids=[name for name, *_ in DIFFERENTIABLE])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_gradient_equals_autograd(name, operation, arguments, seed):
    grad, expected = autograd(operation, arguments, seed)
    inputs, parameters = backward(operation, arguments, grad)
    found = flatten(inputs | parameters)
    assert set(found) == set(expected)
    for key, gradient in found.items():
        assert_close(gradient, expected[key], key, floor=1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 2)])
def test_running_statistics_equal_pytorch(shape):
    r = Draw(1)
    x, p = 2 * r(*shape) + 1, r.batch_norm(shape[1])
    module = torch.nn.BatchNorm2d(shape[1], dtype=torch.float64).train()
    module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in p.items()})
    expected = module(torch.from_numpy(x)).detach().numpy()
    y, statistics = gradients.batch_norm_training(x, **p)
    assert_close(y, expected)
    for name, value in statistics.items():
        assert_close(value, module.state_dict()[name].numpy(), name)


def torch_loss(heatmaps, targets, weight):
    """Joint by joint, as mmpose words it."""
    joints = [
        F.mse_loss(y * w[:, None, None], t * w[:, None, None])
        for y, t, w in zip(heatmaps.unbind(1), targets.unbind(1), weight.unbind(1), strict=True)
    ]
    return sum(joints) / len(joints)


def test_the_loss_equals_pytorch():
    r = Draw(0)
    x, targets, weight = r(2, 3, 4, 5), r(2, 3, 4, 5), r.positive(2, 3)
    tensor = torch.from_numpy(x.copy()).requires_grad_(True)
    loss = torch_loss(tensor, torch.from_numpy(targets), torch.from_numpy(weight))
    loss.backward()
    assert heatmap_loss(x, targets, weight) == pytest.approx(loss.item(), rel=1e-14)
    assert_close(heatmap_loss_backward(x, targets, weight), tensor.grad.numpy())


def pytorch_step(model, batch, drops=None, batch_norm="batch"):
    """The same by the PyTorch twin and autograd: (loss, {name: gradient}, {name: statistic})."""
    module = reference.twin(model).train(batch_norm == "batch")
    for i, factors in enumerate([] if drops is None else drops):
        for name, factor in zip(("attn", "mlp"), factors, strict=True):
            factor = torch.from_numpy(factor.copy())
            part = getattr(module.backbone.blocks[i], name)
            part.register_forward_hook(lambda module, inputs, output, factor=factor: output * factor)
    images, targets, weight = map(torch.from_numpy, batch)
    loss = torch_loss(module(images), targets, weight)
    loss.backward()
    statistics = {name: x.numpy() for name, x in module.named_buffers()} if batch_norm == "batch" else {}
    return loss.item(), {name: p.grad.numpy() for name, p in module.named_parameters()}, statistics


def assert_step_equals_pytorch(model, batch, drop_path=0.0, batch_norm="batch"):
    drops = draw_drops(model, len(batch[0]), drop_path, 5)
    options = {"drop_path": drop_path, "rng": 5, "batch_norm": batch_norm}
    loss, found, statistics = loss_and_gradients(model, *batch, **options)
    expected_loss, expected, expected_statistics = pytorch_step(model, batch, drops, batch_norm)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for flat, truth in ((flatten(found), expected), (flatten(statistics), expected_statistics)):
        assert set(flat) == set(truth)
        for name, x in flat.items():
            assert_close(x, truth[name], name)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("name", MODELS)
def test_the_whole_model_equals_autograd(name, batch_norm):
    model = small_model(**MODELS[name])
    assert_step_equals_pytorch(model, batch_for(model, 4), drop_path=0.6, batch_norm=batch_norm)


def test_the_whole_model_at_another_image_size_equals_autograd():
    model = small_model()
    assert_step_equals_pytorch(model, batch_for(model, size=(96, 64)))


@pytest.mark.parametrize("variant, batch", [("mini", 2), ("S", 1)])
def test_the_real_networks_equal_autograd(variant, batch):
    """Random weights in every parameter, the trained ones for mini."""
    model = load("mini" if variant == "mini" else state_dict_for(variant_config(variant)), "numpy", dtype="float64")
    assert list(model.state_dict()) == list(parameter_shapes(model.config))
    assert_step_equals_pytorch(model, batch_for(model, batch), drop_path=0.1)


def test_the_comparison_notices_what_is_wrong():
    truth = np.arange(6.0)
    assert_close(truth * (1 + 1e-12), truth)
    for wrong in (truth * 0, truth[::-1], truth + 1e-6, truth[None], truth.astype(np.float32), truth * np.nan):
        with pytest.raises(AssertionError):
            assert_close(wrong, truth)
