"""Models in float64, complex numbers and mixed precision, compared with loops by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import Model, losses, metrics, optimizers


def _squared(y_true, y_pred):
    return (y_true - y_pred).abs().square().mean(-1)


class _OwnLoss(losses.Loss):
    def call(self, y_true, y_pred):
        return _squared(y_true, y_pred)


def _train_by_hand(net, loss, *batch, steps=3, autocast=None, rate=0.1):
    optimizer = torch.optim.SGD(net.parameters(), rate)
    values = []
    for _ in range(steps):
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            value = loss(net(batch[0]), batch[1])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def _train(net, loss, x, y, rate=0.1, **options):
    model = Model(net, **options)
    model.compile(optimizers.SGD(rate), loss)
    return model, model.fit(x, y, batch_size=len(x), epochs=3, verbose=0).history["loss"]


@pytest.mark.parametrize("policy", [None, "float64"])
@pytest.mark.parametrize(
    "loss",
    [_squared, _OwnLoss(), "mse", losses.MeanSquaredError(), nn.MSELoss(), losses.OverOutputs(_squared)],
    ids=["function", "subclass", "name", "class", "torch", "over outputs"],
)
def test_float64_is_not_rounded(loss, policy):
    x = torch.rand(8, 2, dtype=torch.float64)
    y = 1e8 + x @ torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    net = nn.Linear(2, 1).double()
    with torch.no_grad():
        net.bias.fill_(1e8)
    by_hand = copy.deepcopy(net)
    expected = _train_by_hand(by_hand, F.mse_loss, x, y)
    model, history = _train(net, loss, x, y, dtype_policy=policy)
    assert history == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(net.weight, by_hand.weight, rtol=1e-12, atol=1e-12)
    model.compile("sgd", loss, metrics=["mae", metrics.RootMeanSquaredError(), lambda y, p: (y - p).abs()])
    difference = (net(x) - y).detach()
    expected = [difference.square().mean(), difference.abs().mean(), difference.square().mean().sqrt()]
    results = model.evaluate(x, y, batch_size=3, verbose=0)
    assert results[:3] == pytest.approx([each.item() for each in expected], rel=1e-9)
    assert results[3] == pytest.approx(results[1], rel=1e-9)


def test_a_saved_metric_keeps_to_the_dtype_of_predictions():
    metric = metrics.MeanAbsoluteError.from_config(metrics.MeanAbsoluteError().get_config())
    y_true = torch.tensor([[1e9]], dtype=torch.float64)
    assert metric(y_true, y_true + 1).item() == 1


class _ComplexNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize(
    "loss",
    [_squared, _OwnLoss(), losses.OverOutputs(_squared)],
    ids=["function", "subclass", "over outputs"],
)
def test_functions_of_complex_outputs(loss):
    x, y = torch.randn(8, 4, dtype=torch.complex64), torch.randn(8, 3, dtype=torch.complex64)
    net = _ComplexNet()
    by_hand = copy.deepcopy(net)
    expected = _train_by_hand(by_hand, lambda p, t: (p - t).abs().square().mean(), x, y)
    model, history = _train(net, loss, x, y)
    assert history == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(net.weight, by_hand.weight)
    model.compile("sgd", loss, metrics=[lambda y_true, y_pred: (y_true - y_pred).abs().mean(-1)])
    assert model.evaluate(x, y, verbose=0)[1] == pytest.approx((net(x) - y).abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "cosine_similarity"])
def test_losses_of_real_numbers_refuse_complex_ones(loss):
    x, y = torch.randn(8, 4, dtype=torch.complex64), torch.randn(8, 3, dtype=torch.complex64)
    with pytest.raises(TypeError, match="would lose their imaginary parts in float32"):
        _train(_ComplexNet(), loss, x, y)


def test_metrics_of_real_numbers_refuse_complex_ones():
    value = torch.randn(8, 3, dtype=torch.complex64)
    for metric in (metrics.MeanAbsoluteError(), metrics.RootMeanSquaredError(), metrics.AUC()):
        with pytest.raises(TypeError, match="imaginary parts"):
            metric.update_state(value, value)
    with pytest.raises(TypeError, match="must be real"):
        metrics.Mean().update_state(value)


def test_complex_results_of_a_loss_are_refused():
    x, y = torch.randn(8, 4, dtype=torch.complex64), torch.randn(8, 3, dtype=torch.complex64)
    with pytest.raises(TypeError, match="returned complex numbers"):
        _train(_ComplexNet(), lambda y_true, y_pred: (y_true - y_pred).square().mean(-1), x, y)


def test_complex_targets_of_real_outputs_are_not_truncated():
    with pytest.raises(ValueError, match="complex numbers"):
        _train(nn.Linear(4, 3), nn.MSELoss(), torch.randn(8, 4), torch.randn(8, 3, dtype=torch.complex64))


_LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
_SOFT = torch.rand(8, 5, generator=torch.Generator().manual_seed(0))
_WEIGHT = torch.tensor([1.0, 2.0, 0.5, 1.5, 1.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.MSELoss(), _SOFT),
        (nn.L1Loss(), _SOFT),
        (nn.SmoothL1Loss(), _SOFT),
        (nn.CrossEntropyLoss(), _LABELS),
        (nn.CrossEntropyLoss(weight=_WEIGHT), _LABELS),
        (nn.CrossEntropyLoss(label_smoothing=0.1), _LABELS),
        (nn.CrossEntropyLoss(), _SOFT),
        (nn.BCEWithLogitsLoss(), _SOFT),
        (F.cross_entropy, _LABELS),
        (losses.OverOutputs(lambda y, outputs: F.mse_loss(outputs, y)), _SOFT),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_losses_of_torch_are_computed_as_with_autocast(loss, targets, dtype):
    net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 5))
    x, by_hand = torch.randn(8, 4), copy.deepcopy(net)
    in_loop = F.mse_loss if isinstance(loss, losses.OverOutputs) else loss
    expected = _train_by_hand(by_hand, in_loop, x, targets, autocast=dtype, rate=1e-4)
    policy = "mixed_" + str(dtype).removeprefix("torch.")
    _, history = _train(net, loss, x, targets, rate=1e-4, dtype_policy=policy)
    assert history == pytest.approx(expected, rel=1e-6)
    for weight, other in zip(net.parameters(), by_hand.parameters()):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_class_weights_in_half_precision(kind, dtype):
    net, x = nn.Linear(4, 5).to(dtype), torch.randn(8, 4, dtype=dtype)
    loss = kind(weight=_WEIGHT.to(dtype))
    model = Model(net)
    model.compile("sgd", loss)
    expected = kind(weight=_WEIGHT)(net(x).float(), _LABELS).item()
    assert model.evaluate(x, _LABELS, verbose=0) == pytest.approx(expected, rel=1e-2)


def test_the_loss_that_a_module_returns_counts_by_its_samples():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x, y):
            return F.mse_loss(self.layer(x), y)

    net, x, y = Net(), torch.randn(20, 4), torch.randn(20, 1)
    model = Model(net)
    model.compile(torch.optim.SGD(net.parameters(), 0.0))
    expected = net(x, y).item()
    assert model.evaluate([x, y], batch_size=8, verbose=0) == pytest.approx(expected, rel=1e-6)
    assert model.fit([x, y], batch_size=8, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-6)
