"""The kernels, and the public functions that stand in for them, give the same."""

import pytest
import torch

from torchfit.functional import _kernels

FIRST, SECOND = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])


@pytest.mark.parametrize("reduction", [_kernels.NONE, _kernels.MEAN])
@pytest.mark.parametrize(("name", "arguments"), [("mse_loss", ()), ("l1_loss", ()), ("huber_loss", (0.5,))])
def test_stand_ins(name, arguments, reduction):
    native = getattr(_kernels, name)(FIRST, SECOND, reduction, *arguments)
    public = getattr(_kernels, f"_public_{name}")(FIRST, SECOND, reduction, *arguments)
    torch.testing.assert_close(native, public)
