import copy

import pytest
import torch
from torch import nn

import torchfit
from torchfit.utils import freeze, unfreeze


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


def trained(net):
    return [name for name, parameter in net.named_parameters() if parameter.requires_grad]


def test_names_and_patterns():
    net = Net()
    assert freeze(net, "backbone") == ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]
    assert trained(net) == ["head.weight", "head.bias"]
    unfreeze(net, "*.bias")
    assert trained(net) == ["backbone.0.bias", "backbone.1.bias", "head.weight", "head.bias"]
    unfreeze(net)
    assert len(trained(net)) == 6


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'backbone'"):
        freeze(Net(), "backbon")
    with pytest.raises(ValueError, match="must be a Model or a module"):
        freeze("net")  # type: ignore[arg-type]


@pytest.mark.parametrize("copied", [False, True])
def test_frozen_statistics_stand_still_in_fit(copied):
    model = torchfit.Model(Net(), device="cpu")
    freeze(model, "backbone")
    model = copy.deepcopy(model) if copied else model
    model.compile("sgd", "mse")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.fit(torch.randn(8, 3), torch.randn(8, 1), verbose=0)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["head.weight", "head.bias"]
    unfreeze(model)
    model.compile("sgd", "mse")
    model.fit(torch.randn(8, 3), torch.randn(8, 1), verbose=0)
    assert not torch.equal(model.module.backbone[1].running_mean, before["backbone.1.running_mean"])
