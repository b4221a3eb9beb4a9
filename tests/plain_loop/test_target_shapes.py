"""Losses and metrics of users get targets in the shape that their code expects, as in a loop written for it."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import Model, losses, metrics
from torchfit._utils.compat import TorchLossModule

ROWS = 11


class _Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, pred, target):
        return self.function(target, pred)


class _Subclass(losses.Loss):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


class _TorchSubclass(nn.MSELoss):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, input, target):
        return self.function(target, input)


def _squeezes(y_true, y_pred):
    return (y_pred.squeeze(-1) - y_true).square().mean()


def _squeezes_per_sample(y_true, y_pred):
    return (y_pred[:, 0] - y_true).square()


def _subtracts(y_true, y_pred):
    return (y_pred - y_true).square().mean()


def _selects(y_true, y_pred):
    return (y_pred[:, 0] - y_true[:, 0]).square()


FUNCTIONS = [_squeezes, _squeezes_per_sample, _subtracts, _selects]
KINDS = [lambda function: function, _Module, _Subclass, _TorchSubclass]


@pytest.mark.parametrize("kind", KINDS, ids=["function", "module", "loss", "loss of torch"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)], ids=["vector", "column"])
def test_losses_of_one_output_are_those_of_the_loop(kind, function, shape):
    x, y = torch.randn(ROWS, 5), torch.randn(shape)
    net = nn.Linear(5, 1)
    twin = copy.deepcopy(net)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for start in range(0, ROWS, 4):
        optimizer.zero_grad()
        output, target = twin(x[start : start + 4]).flatten(), y[start : start + 4].flatten()
        (output - target).square().mean().backward()
        optimizer.step()
    model = Model(net)
    model.compile(torch.optim.SGD(net.parameters(), 0.1), kind(function))
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    torch.testing.assert_close(net.weight, twin.weight)
    expected = (twin(x).flatten() - y.flatten()).square().mean().item()
    assert model.evaluate(x, y, batch_size=4, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)], ids=["vector", "column"])
def test_metric_functions_of_one_output(function, shape):
    x, y, net = torch.randn(ROWS, 5), torch.randn(shape), nn.Linear(5, 1)
    model = Model(net)
    model.compile("sgd", "mse", metrics=[function])
    loss, value = model.evaluate(x, y, batch_size=4, verbose=0)
    assert value == pytest.approx(loss, rel=1e-5)


class _Hits(metrics.Metric):
    def __init__(self, compare):
        super().__init__(name="hits")
        self.compare = compare
        self.hits, self.count = self.add_weight(name="hits"), self.add_weight(name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.hits.assign_add(self.compare(y_true, y_pred).float().sum())
        self.count.assign_add(float(len(y_true)))

    def result(self):
        return self.hits / self.count


@pytest.mark.parametrize(
    "compare",
    [
        lambda y_true, y_pred: y_pred.argmax(-1) == y_true,
        lambda y_true, y_pred: y_pred.argmax(-1, keepdim=True) == y_true,
        lambda y_true, y_pred: y_pred.argmax(-1) == y_true.flatten(),
        lambda y_true, y_pred: y_pred.argmax(-1) == y_true[:, 0],
    ],
)
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)], ids=["vector", "column"])
def test_metrics_of_several_classes(compare, shape):
    x, y, net = torch.randn(ROWS, 5), torch.randint(0, 3, shape), nn.Linear(5, 3)
    model = Model(net)
    model.compile("sgd", nn.CrossEntropyLoss(), metrics=["accuracy", _Hits(compare), compare])
    for _ in range(2):
        _, expected, of_class, of_function = model.evaluate(x, y, batch_size=4, verbose=0)
        assert (of_class, of_function) == pytest.approx((expected, expected))


def test_a_batch_of_one_row_decides_nothing():
    x, y, net = torch.randn(5, 3), torch.randn(5), nn.Linear(3, 1)
    model = Model(net)
    model.compile("sgd", _squeezes)
    model.test_on_batch(x[:1], y[:1])
    expected = (net(x)[:, 0] - y).square().mean().item()
    assert float(model.test_on_batch(x, y)) == pytest.approx(expected)


def test_samples_may_be_compared_with_each_other():
    def ranking(y_true, y_pred):
        scores = y_pred.squeeze(-1)
        distances = scores[:, None] - scores[None, :]
        return F.softplus(-distances * (y_true[:, None] - y_true[None, :]).sign()).mean()

    x, y, net = torch.randn(ROWS, 3), torch.randn(ROWS), nn.Linear(3, 1)
    model = Model(net)
    model.compile("sgd", losses.OverOutputs(ranking))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(ranking(y, net(x)).item())


def test_a_loss_is_called_once_per_batch():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, pred, target):
            self.calls.add_(1)
            return F.cross_entropy(pred, target)

    loss, net = Counting(), nn.Linear(3, 4)
    model = Model(net)
    model.compile("sgd", loss)
    model.fit(torch.randn(8, 3), torch.randint(0, 4, (8,)), batch_size=2, verbose=0)
    assert loss.calls.item() == 4


def test_errors_are_those_for_the_targets_as_they_are():
    def fails(y_true, y_pred):
        raise RuntimeError(f"got {tuple(y_true.shape)}")

    model = Model(nn.Linear(3, 1))
    model.compile("sgd", fails)
    with pytest.raises(RuntimeError, match=r"got \(5,\)"):
        model.evaluate(torch.randn(5, 3), torch.randn(5), verbose=0)


class _Focal(nn.CrossEntropyLoss):
    def forward(self, input, target):
        loss = F.cross_entropy(input, target, weight=self.weight, reduction="none")
        return ((1 - torch.exp(-loss)) ** 2 * loss).mean()


class _Dice(TorchLossModule):  # type: ignore[valid-type]
    def forward(self, input, target):
        probabilities, labels = input.softmax(1), F.one_hot(target[:, 0].long(), 3).movedim(-1, 1)
        return 1 - 2 * (probabilities * labels).sum() / (probabilities.sum() + labels.sum())


class _OneVersusRest(nn.BCEWithLogitsLoss):
    def forward(self, input, target):
        return super().forward(input, F.one_hot(target, 3).float())


@pytest.mark.parametrize(
    ("loss", "net", "x", "y"),
    [
        (_Focal(), nn.Linear(5, 3), torch.randn(8, 5), torch.randint(0, 3, (8,))),
        (_Focal(torch.tensor([1.0, 2.0, 3.0])), nn.Linear(5, 3), torch.randn(8, 5), torch.randint(0, 3, (8,))),
        (_Dice(), nn.Conv2d(2, 3, 1), torch.randn(4, 2, 6, 6), torch.randint(0, 3, (4, 1, 6, 6))),
        (_OneVersusRest(), nn.Linear(5, 3), torch.randn(8, 5), torch.randint(0, 3, (8,))),
    ],
    ids=["focal", "focal weighted", "dice", "one versus rest"],
)
def test_subclasses_of_torchs_losses_get_targets_as_they_are(loss, net, x, y):
    twin = copy.deepcopy(net)
    value = loss(twin(x), y)
    value.backward()
    model = Model(net)
    model.compile(torch.optim.SGD(net.parameters(), 1.0), loss)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(value.item())
    before = net.weight.detach().clone()
    model.train_on_batch(x, y)
    torch.testing.assert_close(before - net.weight, twin.weight.grad)


@pytest.mark.parametrize("order", ["pred, target", "y_hat, y", "logits, labels", "input, target", "outputs, targets"])
def test_functions_are_called_in_the_order_of_their_names(order):
    first, second = order.split(", ")
    source = f"lambda {first}, {second}: (F.softplus({first}) - {second} * {first}).mean()"
    function = eval(source, {"F": F})
    x, y, net = torch.randn(ROWS, 5), torch.randint(0, 2, (ROWS, 1)).float(), nn.Linear(5, 1)
    expected = function(net(x), y).item()
    model = Model(net)
    model.compile("sgd", function, metrics=[function])
    assert model.evaluate(x, y, verbose=0) == pytest.approx([expected, expected])


def test_further_arguments_of_a_function_in_the_order_of_torch():
    def scaled(pred, target, scale):
        return scale * (pred - 2 * target).square().mean(-1)

    x, y, net = torch.randn(ROWS, 5), torch.randn(ROWS, 2), nn.Linear(5, 2)
    expected = scaled(net(x), y, 3.0).mean().item()
    loss = losses.LossFunctionWrapper(scaled, scale=3.0)
    model = Model(net)
    model.compile("sgd", loss, metrics=[metrics.MeanMetricWrapper(scaled, scale=3.0)])
    assert model.evaluate(x, y, verbose=0) == pytest.approx([expected, expected])
    model.compile("sgd", functools.partial(scaled, scale=3.0))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected)


def test_torchmetrics_of_a_column():
    torchmetrics = pytest.importorskip("torchmetrics")
    x, y, net = torch.randn(ROWS, 5), torch.randn(ROWS), nn.Linear(5, 1)
    model = Model(net)
    model.compile("sgd", "mse", metrics=[torchmetrics.MeanSquaredError(), torchmetrics.R2Score()])
    loss, error, score = model.evaluate(x, y, batch_size=4, verbose=0)
    assert error == pytest.approx(loss, rel=1e-5)
    assert score == pytest.approx(torchmetrics.R2Score()(net(x)[:, 0], y).item(), rel=1e-5)
