"""An optimizer trains what is trainable in its module, as layers are frozen, unfrozen, added and replaced."""

import copy
import functools

import pytest
import torch
from torch import nn

from torchfit.optimizers import SGD, Adam, LossScaleOptimizer, MultiOptimizer, TorchOptimizer


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def train(net, optimizer, steps=3, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        optimizer.scale_loss(net(torch.randn(5, 3, generator=generator)).square().mean()).backward()
        optimizer.step(**options)


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def assert_same(net, other, **tolerance):
    torch.testing.assert_close(weights(net), weights(other), **tolerance)


WAYS = {
    "Adam": lambda: Adam(0.01),
    "everything": lambda: Adam(0.01, weight_decay=0.1, global_clipnorm=0.1, use_ema=True, amsgrad=True),
    "LossScaleOptimizer": lambda: LossScaleOptimizer(Adam(0.01), initial_scale=8.0),
    "MultiOptimizer": lambda: MultiOptimizer({"0.*": Adam(0.01)}, default=SGD(0.01, momentum=0.9)),
    "torch": lambda: TorchOptimizer(functools.partial(torch.optim.Adam, lr=0.01)),
}
pytestmark = pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)


def test_what_becomes_trainable_is_trained_as_if_its_training_began_then(make):
    net, optimizer = network(), make()
    net[0].requires_grad_(False)
    assert optimizer.sync_parameters(net.named_parameters()).added == ("2.weight", "2.bias")
    train(net, optimizer)
    net[0].requires_grad_(True)
    assert optimizer.sync_parameters(net.named_parameters()) == (("0.weight", "0.bias"), ())
    first = net[0].weight.detach().clone()
    train(net, optimizer, 1, seed=1)
    step = (net[0].weight.detach() - first).abs().max().item()
    assert step == pytest.approx(0.01, rel=0.2)  # Adam's first step is the rate, whatever the gradient


def test_nothing_changed_is_false_and_keeps_everything(make):
    net, optimizer = network(), make()
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    variables = optimizer.variables[2:]
    assert not optimizer.sync_parameters(net.named_parameters())
    assert all(a is b for a, b in zip(optimizer.variables[2:], variables))


def test_what_is_frozen_and_unfrozen_again_goes_on_with_its_state(make):
    net, twin, optimizer, other = network(), network(), make(), make()
    for module, each in ((net, optimizer), (twin, other)):
        each.sync_parameters(module.named_parameters())
        train(module, each)
    net[0].requires_grad_(False)
    assert optimizer.sync_parameters(net.named_parameters()).removed == ("0.weight", "0.bias")
    assert [p.shape for p in optimizer.parameters] == [(1, 4), (1,)]
    net[0].requires_grad_(True)
    assert optimizer.sync_parameters(net.named_parameters()).added == ("0.weight", "0.bias")
    train(net, optimizer)
    train(twin, other)
    assert_same(net, twin, rtol=0, atol=0)


def test_frozen_parameters_stay_as_they_are(make):
    net, optimizer = network(), make()
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    net[2].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters())
    before = weights(net[2])
    train(net, optimizer)
    optimizer.finalize_variable_values()
    torch.testing.assert_close(weights(net[2]), before, rtol=0, atol=0)


def test_a_layer_that_is_added_is_trained_and_one_that_is_replaced_starts_afresh(make):
    net, optimizer = network(), make()
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    net.append(nn.Linear(1, 1))
    net[2] = nn.Linear(4, 1)
    changes = optimizer.sync_parameters(net.named_parameters())
    assert set(changes.added) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    before = weights(net)
    train(net, optimizer)
    assert not any(torch.equal(a, b) for a, b in zip(weights(net), before))
    again = make()
    again.sync_parameters(net.named_parameters())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.iterations == 6


def test_a_layer_that_was_replaced_does_not_come_back(make):
    net, optimizer = network(), make()
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    net[2] = nn.Linear(4, 1)
    optimizer.sync_parameters(net.named_parameters())
    net[0].requires_grad_(False)
    changes = optimizer.sync_parameters(net.named_parameters())
    assert changes == ((), ("0.weight", "0.bias"))
    if not isinstance(optimizer, TorchOptimizer):  # which keeps in its groups what is left out of the model
        assert len(optimizer.parameters) == 2


def test_gradients_of_all_parameters_are_cleared_frozen_ones_included(make):
    net, optimizer = network(), make()
    net[0].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters())
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.zero_grad()
    assert [p.grad for p in net.parameters()] == [None] * 4


@pytest.mark.filterwarnings("error")
def test_a_run_in_which_a_layer_was_unfrozen_is_resumed_bit_by_bit(make):
    net, optimizer = network(), make()
    net[0].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    net[0].requires_grad_(True)
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer, seed=1)
    state, saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
    train(net, optimizer, seed=2)
    for is_built in (True, False):
        other, again = network(), make()
        other[0].requires_grad_(False)  # as at the start of a run, before its flags are restored
        if is_built:
            again.sync_parameters(other.named_parameters())
            again.load_state_dict(copy.deepcopy(state))
        else:
            again.load_state_dict(copy.deepcopy(state))
            again.sync_parameters(other.named_parameters())
        other.load_state_dict(saved)
        other[0].requires_grad_(True)
        again.sync_parameters(other.named_parameters())
        train(other, again, seed=2)
        assert_same(net, other, rtol=0, atol=0)


def test_a_state_is_restored_after_a_layer_was_frozen(make):
    """As a model that is frozen after its training, saved and loaded."""
    net, optimizer = network(), make()
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    net[0].requires_grad_(False)
    again, other = make(), copy.deepcopy(net)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.sync_parameters(other.named_parameters())
    optimizer.sync_parameters(net.named_parameters())
    for module, each in ((net, optimizer), (other, again)):
        train(module, each, seed=1)
        module[0].requires_grad_(True)
        each.sync_parameters(module.named_parameters())
        train(module, each, seed=2)
    assert_same(net, other, rtol=0, atol=0)


def test_a_state_of_some_of_the_parameters_is_restored_with_a_warning(make):
    net, optimizer = network(), make()
    net[0].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    other, again = copy.deepcopy(net).requires_grad_(True), make()
    again.sync_parameters(other.named_parameters())
    with pytest.warns(UserWarning, match=r"there is none for \['0.weight', '0.bias'\], which start afresh"):
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    net.requires_grad_(True)
    optimizer.sync_parameters(net.named_parameters())
    for module, each in ((net, optimizer), (other, again)):
        train(module, each, seed=1)
    assert_same(net, other, rtol=0, atol=0)


def test_copies_follow_their_own_module(make):
    net, optimizer = network(), make()
    net[0].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    other, again = copy.deepcopy((net, optimizer))
    before = weights(net)
    other[0].requires_grad_(True)
    assert again.sync_parameters(other.named_parameters()).added == ("0.weight", "0.bias")
    train(other, again)
    torch.testing.assert_close(weights(net), before, rtol=0, atol=0)
    assert not any(torch.equal(a, b) for a, b in zip(weights(other), before))


def test_an_optimizer_of_another_model_is_refused(make):
    net, optimizer = network(), make()
    optimizer.sync_parameters(net.named_parameters())
    if isinstance(optimizer, TorchOptimizer):
        pytest.skip("what is left out of an instance is the user's choice")
    with pytest.raises(ValueError, match="bound to other parameters than the model's"):
        optimizer.sync_parameters(network().named_parameters())


def test_averages_of_what_starts_afresh_start_at_the_parameters(make):
    net, optimizer = network(), make()
    if not optimizer.use_ema:
        pytest.skip("keeps no averages")
    net[0].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters())
    train(net, optimizer)
    other, again = copy.deepcopy(net).requires_grad_(True), make()
    again.sync_parameters(other.named_parameters())
    with pytest.warns(UserWarning, match="start afresh"):
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.finalize_variable_values()
    assert torch.equal(other[0].weight, net[0].weight)
