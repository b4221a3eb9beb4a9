import pytest
import torch

from torchfit import metrics
from torchfit.metrics.base import preserve_state


@pytest.mark.parametrize("fails", [False, True])
def test_states_come_back_in_place(fails):
    mean = metrics.Mean()
    mean.update_state([1.0, 3.0])
    total = mean.total
    try:
        with preserve_state([mean]):
            mean.reset_state()
            mean.update_state(torch.tensor([100.0]))
            assert mean.result() == 100
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert mean.result() == 2
    assert mean.total is total
