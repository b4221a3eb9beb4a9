"""Every loss is one graph: no data-dependent Python, nothing read back."""

import pytest
import torch

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss

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
    if isinstance(getattr(losses, name), type) and name not in ("Loss", "LossFunctionWrapper", "TorchLoss", "CTC")
]


@pytest.fixture(autouse=True)
def _forgetful_compiler():
    torch._dynamo.reset()


def assert_one_graph(loss, y_true, y_pred):
    of_batch = isinstance(loss, (losses.Dice, losses.Tversky))  # which take no weights of samples
    weight = torch.tensor(2.0) if of_batch else torch.rand(6)

    def step(y_true, y_pred, sample_weight):
        return loss(y_true, y_pred * 1.0) + loss(y_true, y_pred * 1.0, sample_weight)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(y_true, y_pred, weight), step(y_true, y_pred, weight))


@pytest.mark.parametrize("name", NAMES)
def test_one_graph(name):
    assert_one_graph(getattr(losses, name)(), *OTHER_INPUTS.get(name, (VALUES.flip(0), VALUES)))


def test_one_graph_with_an_ignored_class():
    assert_one_graph(losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1), LABELS, VALUES)


@pytest.mark.parametrize("loss", [torch.nn.CrossEntropyLoss(), torch.nn.functional.mse_loss])
def test_one_graph_with_torchs_own(loss):
    labels = LABELS[:, 0] if isinstance(loss, torch.nn.Module) else VALUES[:, 1]
    assert_one_graph(resolve_loss(loss), labels, VALUES[:, 0])
