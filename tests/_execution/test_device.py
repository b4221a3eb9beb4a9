import pytest
import torch
from torch import nn

from torchfit._execution.precision import best_device, resolve_device


@pytest.mark.parametrize("device", ["auto", None])
def test_auto_is_where_the_module_is_or_the_best(device):
    assert resolve_device(device, nn.Linear(1, 1)) == best_device()
    assert resolve_device(device, nn.Linear(1, 1, device="meta")) == torch.device("meta")


def test_a_device_is_taken_as_it_is():
    assert resolve_device("cpu", nn.Linear(1, 1)) == resolve_device(torch.device("cpu"), nn.Linear(1, 1))


def test_the_best_device_equals_that_of_the_tensors_on_it():
    assert torch.empty(0, device=best_device()).device == best_device()


@pytest.mark.parametrize(("device", "reason"), [("gpu", r"$"), ("cuda:99", " torch says"), (3.5, " torch says")])
def test_others_are_refused(device, reason):
    with pytest.raises(ValueError, match=rf"`device` must be 'auto' or a device.*'cpu'.*{device}'?\.{reason}"):
        resolve_device(device, nn.Linear(1, 1))
