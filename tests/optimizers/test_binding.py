"""Optimizers of parts of a model, and what binds an optimizer where the steps are the user's own."""

import copy
import warnings

import pytest
import torch
from torch import nn

from torchfit.optimizers import SGD, Adam, TorchOptimizer


def gan():
    torch.manual_seed(0)
    return nn.ModuleDict({"generator": nn.Linear(2, 2), "discriminator": nn.Linear(2, 1)})


def gradients_of(loss, module):
    return list(torch.autograd.grad(loss, list(module.parameters()), allow_unused=True))


def keras_step(net, g_optimizer, d_optimizer):
    """A step of a GAN in the form of Keras' example."""
    noise = torch.ones(4, 2)
    d_loss = net["discriminator"](net["generator"](noise).detach()).square().mean()
    d_optimizer.apply_gradients(zip(gradients_of(d_loss, net["discriminator"]), net["discriminator"].parameters()))
    g_loss = -net["discriminator"](net["generator"](noise)).mean()
    g_optimizer.apply(gradients_of(g_loss, net["generator"]), net["generator"].parameters())


def test_two_optimizers_bind_to_what_they_are_applied_to():
    net, g_optimizer, d_optimizer = gan(), Adam(), Adam()
    g_optimizer.sync_parameters(net.named_parameters(), build=False)  # as a model does before a step of the user's
    keras_step(net, g_optimizer, d_optimizer)
    assert g_optimizer.parameters == list(net["generator"].parameters())
    assert d_optimizer.parameters == list(net["discriminator"].parameters())
    assert not g_optimizer.sync_parameters(net.named_parameters(), build=False)
    assert list(g_optimizer.state_dict()["parameters"]) == ["generator.weight", "generator.bias"]


def test_one_optimizer_may_be_applied_to_one_part_after_the_other():
    net, optimizer = gan(), SGD(0.1, momentum=0.9)
    optimizer.sync_parameters(net.named_parameters(), build=False)
    keras_step(net, optimizer, optimizer)
    assert [name.split(".")[0] for name in optimizer.state_dict()["parameters"]] == ["discriminator"] * 2 + [
        "generator"
    ] * 2
    with pytest.raises(ValueError, match="Unknown parameter"):
        optimizer.apply([torch.ones(1)], [nn.Parameter(torch.ones(1))])


def test_a_step_binds_to_the_module_that_was_shown_and_follows_it():
    net, optimizer = gan(), SGD(0.1)
    net["discriminator"].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters(), build=False)
    optimizer.zero_grad()
    net["generator"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert len(optimizer.parameters) == 2
    net["discriminator"].requires_grad_(True)
    assert optimizer.sync_parameters(net.named_parameters(), build=False).added == (
        "discriminator.weight",
        "discriminator.bias",
    )


@pytest.mark.parametrize("act", [lambda o: o.step(), lambda o: o.apply([torch.ones(1)])], ids=["step", "apply"])
@pytest.mark.parametrize("make", [SGD, lambda: TorchOptimizer(torch.optim.SGD)], ids=["torchfit", "torch"])
def test_an_optimizer_without_parameters_is_an_error_that_says_so(make, act):
    with pytest.raises(ValueError, match=r"bound to no parameters. Call optimizer.build\(parameters\)"):
        act(make())


def test_an_optimizer_of_a_part_keeps_to_it_and_tells_once_what_becomes_trainable_beside_it():
    net, optimizer = gan(), SGD(0.1)
    net["discriminator"].requires_grad_(False)
    optimizer.build(net["generator"].named_parameters())
    assert not optimizer.sync_parameters(net.named_parameters())
    net["discriminator"].requires_grad_(True)
    with pytest.warns(UserWarning, match=r"\['discriminator.weight', 'discriminator.bias'\] are trainable"):
        assert not optimizer.sync_parameters(net.named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net["generator"].bias.requires_grad_(False)
        assert optimizer.sync_parameters(net.named_parameters()).removed == ("generator.bias",)


def test_an_optimizer_of_a_part_says_nothing_of_what_it_was_not_meant_for():
    net, optimizer = gan(), SGD(0.1)
    optimizer.build(net["generator"].named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not optimizer.sync_parameters(net.named_parameters())
    assert len(optimizer.parameters) == 2


def test_an_optimizer_that_was_built_with_all_parameters_follows_the_module_in_the_order_given():
    net, optimizer = gan(), SGD(0.1, momentum=0.9)
    net["generator"].requires_grad_(False)
    optimizer.build(reversed(list(net.parameters())))
    net["generator"].requires_grad_(True)
    optimizer.sync_parameters(net.named_parameters())
    assert optimizer.parameters == list(reversed(list(net.parameters())))
    assert next(iter(optimizer.state_dict()["parameters"])) == "discriminator.bias"


@pytest.mark.parametrize("make", [lambda p: SGD(), lambda p: TorchOptimizer(torch.optim.SGD(p))], ids=["ours", "torch"])
@pytest.mark.parametrize("is_own_step", [False, True])
def test_an_optimizer_of_a_part_clears_its_part_in_a_step_of_the_users_and_the_whole_model_else(make, is_own_step):
    net = gan()
    optimizer = make(list(net["generator"].parameters()))
    optimizer.build(net["generator"].named_parameters())
    optimizer.sync_parameters(net.named_parameters(), build=not is_own_step)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.zero_grad()
    assert [p.grad is None for p in net.parameters()] == [True, True, not is_own_step, not is_own_step]


def test_parameters_beside_the_module_stay():
    net, loss, optimizer = gan(), nn.Parameter(torch.ones(1)), SGD(0.1)
    optimizer.build([*net.named_parameters(), ("scale", loss)])
    net["generator"].requires_grad_(False)
    optimizer.sync_parameters(net.named_parameters())
    assert list(optimizer.state_dict()["parameters"])[:3] == ["discriminator.weight", "discriminator.bias", "scale"]


def test_a_part_is_resumed_as_a_part():
    net, optimizer, other = gan(), Adam(), Adam()
    optimizer.sync_parameters(net.named_parameters(), build=False)
    keras_step(net, optimizer, Adam())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.sync_parameters(net.named_parameters(), build=False)
    assert other.parameters == optimizer.parameters
    assert other.iterations == 1


def test_names_that_occur_twice_do_not_mix():
    one, two, optimizer = nn.Linear(1, 1), nn.Linear(1, 1), SGD(0.1, momentum=0.9)
    optimizer.build([*one.named_parameters(), *two.named_parameters()])
    assert list(optimizer.state_dict()["parameters"]) == ["weight", "bias", "weight#2", "bias#2"]


def test_weight_decay_spares_what_was_excluded_after_loading_the_config():
    w, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGD(0.5, weight_decay=0.5)
    optimizer.build([("w", w), ("b", b)])
    optimizer.exclude_from_weight_decay(var_list=[b], var_names=["scale"])
    again = SGD.from_config(optimizer.get_config())
    again.build([("w", w), ("b", b)])
    again.apply([torch.zeros(1)] * 2)
    assert (w.item(), b.item()) == (0.75, 1.0)
    assert again.get_config() == optimizer.get_config()
