import numpy as np
import pytest
import torch
from torch import nn

from tests.support import calls_with
from torchfit import Model
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


def on_meta(part=slice(None)):
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    net[part].to("meta")
    return net


X, Y = np.zeros((8, 4), "float32"), np.zeros((8, 1), "float32")
CALLS = {
    **calls_with(X, Y),
    "lr_find": lambda model: model.lr_find(X, Y),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("is_emptied", [False, True])
def test_a_model_without_values_is_refused_with_the_way_out(call, is_emptied):
    net = on_meta()
    model = Model(net)
    model.compile("sgd", "mse")
    if is_emptied:
        net.to_empty(device="cpu")
    with pytest.raises(
        ValueError, match=r'the meta device, which holds no values.*to_empty\(device="cpu"\).*Model\(mod'
    ):
        call(model)


def test_a_module_without_values_can_be_summarized_and_trained_after_it_got_them():
    lines: list[str] = []
    net = on_meta()
    Model(net).summary(print_fn=lines.append)
    assert "Linear" in lines[0]
    net.to_empty(device="cpu")
    for layer in (net[0], net[1]):
        layer.reset_parameters()
    model = Model(net)
    model.compile("sgd", "mse")
    assert model.fit(X, Y, verbose=0).history["loss"][0] >= 0


@pytest.mark.parametrize("part", [slice(0, 1), slice(1, 2)])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_module_partly_without_values_is_refused(part, device):
    net = on_meta(part)
    with pytest.raises(ValueError, match=rf"`module` has '{part.start}.weight' and 1 more on the meta device"):
        Model(net, device=device)
    assert not net[1 - part.start].weight.is_meta
