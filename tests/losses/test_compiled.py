"""Every loss is one graph: no data-dependent Python, nothing read back."""

import pytest
import torch

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss

pytestmark = pytest.mark.graphs
LABELS, VALUES = torch.randint(0, 5, (6, 4)), torch.rand(6, 4, 5)
OTHER_INPUTS = {
    "Circle": (torch.tensor([0, 0, 1, 1, 2, 2]), torch.rand(6, 5)),
    "SparseCategoricalCrossentropy": (LABELS, VALUES),
    "CategoricalGeneralizedCrossEntropy": (LABELS, VALUES),
}
# torch.ctc_loss itself breaks the graph: the size of what it keeps depends on the labels.
NAMES = [
    name
    for name in losses.__all__
    if isinstance(getattr(losses, name), type)
    and name not in ("Loss", "LossFunctionWrapper", "OverOutputs", "TorchLoss", "CTC")
]


@pytest.fixture(autouse=True)
def _forgetful_compiler():
    torch._dynamo.reset()


def assert_one_graph(loss, y_true, y_pred):
    of_batch = isinstance(loss, (losses.Dice, losses.Tversky))  # which take no weights of samples
    weight = torch.tensor(2.0) if of_batch else torch.rand(6)

    def step(y_true, y_pred, sample_weight):
        value, denominator = loss.with_denominator(y_true, y_pred * 1.0)
        weighted, divisor = loss.with_denominator(y_true, y_pred * 1.0, sample_weight)
        return loss(y_true, y_pred * 1.0), value, value * denominator, weighted, weighted * divisor

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(y_true, y_pred, weight), step(y_true, y_pred, weight))


@pytest.mark.parametrize("name", NAMES)
def test_one_graph(name):
    assert_one_graph(getattr(losses, name)(), *OTHER_INPUTS.get(name, (VALUES.flip(0), VALUES)))


def test_one_graph_with_an_ignored_class():
    assert_one_graph(losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1), LABELS, VALUES)


@pytest.mark.parametrize(
    "loss",
    [
        torch.nn.CrossEntropyLoss(),
        torch.nn.CrossEntropyLoss(torch.rand(5), ignore_index=1),
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.NLLLoss(),
        torch.nn.functional.mse_loss,
    ],
)
def test_one_graph_with_torchs_own(loss):
    labels = LABELS[:, 0] if isinstance(loss, torch.nn.Module) else VALUES[:, 1]
    assert_one_graph(resolve_loss(loss), labels, VALUES[:, 0])


def test_one_graph_with_torchs_own_of_places():
    loss = resolve_loss(torch.nn.CrossEntropyLoss(ignore_index=1))
    assert_one_graph(loss, LABELS, VALUES.mT.contiguous())


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_one_graph_with_a_mask(reduction):
    loss, mask = losses.MeanSquaredError(reduction=reduction), torch.rand(6, 4) > 0.5

    def step(y_true, y_pred, sample_weight):
        y_pred = y_pred * 1.0
        y_pred._keras_mask = mask
        value, denominator = loss.with_denominator(y_true, y_pred, sample_weight)
        return value, value * denominator

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    arguments = VALUES.flip(0), VALUES, torch.rand(6)
    torch.testing.assert_close(compiled(*arguments), step(*arguments))


@pytest.mark.parametrize("loss", ["mse", losses.SparseCategoricalCrossentropy(), torch.nn.CrossEntropyLoss()])
def test_one_graph_for_batches_of_any_size(loss):
    loss = resolve_loss(loss)

    def step(y_true, y_pred):
        value, denominator = loss.with_denominator(y_true, y_pred * 1.0)
        return value * denominator

    compiled = torch.compile(step, backend="eager", fullgraph=True, dynamic=True)
    for rows in (6, 3, 5):
        y_pred = VALUES[:rows, 0]
        y_true = y_pred.flip(0) if loss.name == "mean_squared_error" else LABELS[:rows, 0]
        torch.testing.assert_close(compiled(y_true, y_pred), step(y_true, y_pred))


def test_one_graph_with_an_own_function():
    assert_one_graph(resolve_loss(lambda y_true, y_pred: (y_true - y_pred).abs().amax(-1)), VALUES.flip(0), VALUES)
    of_batch = resolve_loss(lambda y_true, y_pred: (y_true - y_pred).abs().amax())
    compiled = torch.compile(of_batch.with_denominator, backend="eager", fullgraph=True)
    for _ in range(3):
        torch.testing.assert_close(compiled(VALUES.flip(0), VALUES), of_batch.with_denominator(VALUES.flip(0), VALUES))
