"""The kernels, and the public functions that stand in for them, give the same."""

import pytest
import torch
import torch.nn.functional as F

from torchfit._utils import compat

FIRST, SECOND = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])


@pytest.mark.parametrize("reduction", [compat.NONE, compat.MEAN])
@pytest.mark.parametrize(("name", "arguments"), [("mse_loss", ()), ("l1_loss", ()), ("huber_loss", (0.5,))])
def test_stand_ins(name, arguments, reduction):
    native = getattr(compat, name)(FIRST, SECOND, reduction, *arguments)
    public = getattr(compat, f"_public_{name}")(FIRST, SECOND, reduction, *arguments)
    torch.testing.assert_close(native, public)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 4.0])])
@pytest.mark.parametrize("places", [(), (5,), (4, 5), (2, 2, 2)])
def test_sums_of_log_probabilities_come_with_their_count(places, weight, monkeypatch):
    log_probs = torch.randn(6, 3, *places).log_softmax(1)
    labels = torch.randint(0, 3, (6, *places))
    labels[0] = -1
    valid = labels != -1
    counts = valid.float() if weight is None else weight[labels.clamp(min=0)] * valid
    expected = F.nll_loss(log_probs, labels, weight, ignore_index=-1, reduction="sum"), counts.sum()
    torch.testing.assert_close(compat.nll_loss_sum(log_probs, labels, weight, -1), expected)
    for name in ("_nll_loss", "_nll_loss_2d"):
        monkeypatch.setattr(compat, name, compat._public_nll_loss)
    torch.testing.assert_close(compat.nll_loss_sum(log_probs, labels, weight, -1), expected)
