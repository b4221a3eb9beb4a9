"""The kernels, and the public functions that stand in for them, give the same."""

import pytest
import torch

from torchfit._utils import compat

FIRST, SECOND = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])


@pytest.mark.parametrize("reduction", [compat.NONE, compat.MEAN])
@pytest.mark.parametrize(("name", "arguments"), [("mse_loss", ()), ("l1_loss", ()), ("huber_loss", (0.5,))])
def test_stand_ins(name, arguments, reduction):
    native = getattr(compat, name)(FIRST, SECOND, reduction, *arguments)
    public = getattr(compat, f"_public_{name}")(FIRST, SECOND, reduction, *arguments)
    torch.testing.assert_close(native, public)
