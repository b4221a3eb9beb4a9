"""Several rules for one model, by the names of its parameters."""

import copy
import functools

import pytest
import torch
from torch import nn

from torchfit.optimizers import (
    SGD,
    Adam,
    LossScaleOptimizer,
    MultiOptimizer,
    Muon,
    OptimizerMap,
    TorchOptimizer,
    deserialize,
    get,
    schedules,
    serialize,
)
from torchfit.optimizers.identifiers import resolve_optimizer


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"backbone": nn.Linear(3, 3), "head": nn.Linear(3, 1)})


def gradients(net, step=0):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in net.parameters()]


def built(optimizer, net):
    optimizer.build(net.named_parameters())
    return optimizer


def rates(optimizer):
    return [each.learning_rate for each in optimizer.optimizers]


def test_each_part_is_updated_as_by_its_optimizer_alone():
    net, twin = network(), network()
    optimizer = built(MultiOptimizer({"backbone.*": Adam(0.1)}, default=SGD(0.1, momentum=0.9)), net)
    parts = [Adam(0.1), SGD(0.1, momentum=0.9)]
    for part, name in zip(parts, twin):
        part.build(twin[name].parameters())
    for step in range(3):
        optimizer.apply(gradients(net, step))
        parts[0].apply(gradients(twin, step)[:2])
        parts[1].apply(gradients(twin, step)[2:])
    torch.testing.assert_close(list(net.parameters()), list(twin.parameters()), rtol=0, atol=0)
    assert [each.iterations for each in [optimizer, *optimizer.optimizers]] == [3, 3, 3]


def test_patterns_match_whole_names_and_only_one_of_them():
    rules = OptimizerMap("sgd", {"head": "adam", ".*bias": Adam()})
    assert [rules[name].name for name in ("head.weight", "head.bias", "head")] == ["sgd", "adam", "adam"]
    rules["backbone.*"] = "rmsprop"
    with pytest.raises(ValueError, match=r"'backbone.bias', by the patterns \['.\*bias', 'backbone.\*'\]"):
        rules["backbone.bias"]
    del rules["backbone.*"]
    assert list(rules) == ["head", ".*bias"]


def test_what_nothing_matches_needs_a_default():
    with pytest.raises(ValueError, match=r"No optimizer is mapped to the parameter 'head.weight'"):
        built(MultiOptimizer({"backbone.*": "sgd"}), network())
    with pytest.warns(UserWarning, match=r"The pattern 'hed.\*' .* The names are \['backbone.weight'"):
        built(MultiOptimizer({"hed.*": "sgd"}, default="adam"), network())


def test_names_are_needed():
    with pytest.raises(ValueError, match="`optimizer_map` needs the parameters' names"):
        MultiOptimizer({".*": "sgd"}).build(network().parameters())


def test_matrices_may_go_to_muon_and_the_rest_to_another():
    optimizer = MultiOptimizer(lambda name, parameter: Muon(0.01) if parameter.ndim == 2 else Adam(0.001))
    with pytest.raises(ValueError, match="before it is built"):
        optimizer.get_config()
    net = network()
    built(optimizer, net)
    assert [type(each).__name__ for each in optimizer.optimizers] == ["Muon", "Adam"]
    assert [p.ndim for p in optimizer.optimizers[0].parameters] == [2, 2]
    again = built(deserialize(serialize(optimizer)), net)
    assert [len(each.parameters) for each in again.optimizers] == [2, 2]
    assert again["head.bias"].name == "adam"


def test_rates_of_all_are_scaled_and_that_of_one_is_set():
    optimizer = built(MultiOptimizer({"backbone.*": SGD(0.0), "head.*": SGD(0.1)}), network())
    optimizer["backbone.*"].learning_rate = 0.01
    assert optimizer.learning_rate == 0.01
    optimizer.learning_rate = 0.005
    assert rates(optimizer) == [0.005, 0.05]
    optimizer.learning_rate = 0.0
    optimizer.learning_rate = 0.02
    assert rates(optimizer) == pytest.approx([0.02, 0.2])
    assert optimizer["head.weight"] is optimizer.optimizers[1]


def test_schedules_are_those_of_the_parts():
    schedule = schedules.ExponentialDecay(0.4, 1, 0.5)
    optimizer = built(MultiOptimizer({"backbone.*": SGD(schedule), "head.*": SGD(0.1)}), network())
    assert optimizer.begin_update() == (0.4, 0.1, 1)
    assert optimizer.begin_update() == (0.2, 0.1, 2)
    assert optimizer.learning_rate_or_schedule is schedule
    with pytest.raises(TypeError, match=r"decided by schedules: \['sgd'\]"):
        optimizer.learning_rate = 0.1


@pytest.mark.parametrize("is_built", [True, False])
def test_it_is_resumed_bit_by_bit(is_built):
    def make():
        rules = {"backbone.*": Adam(0.1), "head.*": SGD(schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9)}
        return MultiOptimizer(rules, use_ema=True, gradient_accumulation_steps=2, global_clipnorm=1.0)

    net = network()
    optimizer = built(make(), net)
    for step in range(3):
        optimizer.apply(gradients(net, step))
    optimizer["backbone.*"].learning_rate = 0.03
    twin, again = copy.deepcopy(net), make()
    if is_built:
        built(again, twin)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    built(again, twin)
    assert [each.learning_rate for each in again.optimizers] == [0.03, optimizer.optimizers[1].learning_rate]
    for step in range(3, 8):
        optimizer.apply(gradients(net, step))
        again.apply(gradients(twin, step))
    for each in (optimizer, again):
        each.finalize_variable_values()
    torch.testing.assert_close(list(net.parameters()), list(twin.parameters()), rtol=0, atol=0)


def test_gradients_of_all_parts_are_clipped_together():
    net = network()
    optimizer = built(MultiOptimizer({".*": SGD(1.0)}, global_clipnorm=1.0), net)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.apply([10 * g for g in gradients(net)])
    moved = torch.cat([(p.detach() - was).flatten() for p, was in zip(net.parameters(), before)])
    assert moved.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_an_update_that_overflows_is_skipped_for_all_parts():
    net = network()
    rules = MultiOptimizer({"backbone.*": Adam(0.1)}, default=SGD(0.1))
    optimizer = built(LossScaleOptimizer(rules, initial_scale=2.0), net)
    before = [p.detach().clone() for p in net.parameters()]
    first, *rest = gradients(net)
    optimizer.apply([first * float("inf"), *rest])
    torch.testing.assert_close(list(net.parameters()), before, rtol=0, atol=0)
    optimizer.apply([first, *rest])
    assert (optimizer.iterations, optimizer.skipped_updates) == (1, 1)
    assert type(deserialize(serialize(optimizer)).inner_optimizer) is MultiOptimizer


def test_identifiers():
    rules = OptimizerMap(SGD(), {"head.*": Adam()})
    assert isinstance(get(rules), MultiOptimizer)
    assert isinstance(resolve_optimizer(rules), MultiOptimizer)
    config = serialize(MultiOptimizer(rules))["config"]
    again = MultiOptimizer.from_config({**config, "optimizer_map": {"config": rules.get_config()}})
    assert again["head.x"].name == "adam"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiOptimizer(3), "`optimizer_map` must be a mapping of patterns"),  # type: ignore[arg-type]
        (lambda: MultiOptimizer({"(": "sgd"}), "`optimizer_map` must be a mapping of regular expressions"),
        (
            lambda: MultiOptimizer({"a": TorchOptimizer(torch.optim.SGD)}),
            r"`optimizer_map\['a'\]` must be an optimizer",
        ),
        (lambda: MultiOptimizer({"a": "sgd"}, weight_decay=0.1), "set it on the optimizers of the map"),
        (lambda: MultiOptimizer({"a": SGD(use_ema=True)}), "`use_ema` concerns all parameters .* not on 'sgd'"),
        (lambda: MultiOptimizer(OptimizerMap("sgd"), default="adam"), "`default` must be None unless"),
        (lambda: MultiOptimizer({"a": MultiOptimizer({"b": "sgd"})}), "that wraps no other"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.optim.SGD, r"torchfit\.optimizers\.SGD, or give `compile`.*Received: .*the class SGD"),
        (functools.partial(torch.optim.SGD, lr=0.1), r"torchfit\.optimizers\.SGD, or give `compile`"),
        (torch.optim.AdamW([nn.Parameter(torch.ones(1))]), r"torchfit\.optimizers\.AdamW, or give `compile`"),
        (torch.optim.SparseAdam, r"one of torch\.optim\. Give `compile`"),
        (TorchOptimizer, r"one of torch\.optim\. Give `compile`"),
        ("sparseadam", r"one of torch\.optim\. Give `compile`.*Received: .*'sparseadam'"),
        (serialize(TorchOptimizer(torch.optim.SGD)), r"one of torch\.optim\. Give `compile`"),
        (MultiOptimizer, "that wraps no other. Received: .*the class MultiOptimizer"),
        ("lossscaleoptimizer", "that wraps no other. Received: .*'lossscaleoptimizer'"),
        (lambda parameters: torch.optim.SGD(parameters), "that wraps no other. Received: .*the function"),
    ],
)
def test_what_cannot_be_a_part_is_refused_with_what_to_pass_instead(given, message):
    for argument, make in {
        r"optimizer_map\['a'\]": lambda: MultiOptimizer({"a": given}),
        "default_optimizer": lambda: MultiOptimizer({"a": "sgd"}, default=given),
        r"optimizer_map\('0.weight'\)": lambda: MultiOptimizer(lambda name, parameter: given).build(
            nn.Sequential(nn.Linear(1, 1)).named_parameters()
        ),
    }.items():
        with pytest.raises(ValueError, match=f"`{argument}` must be an optimizer.*{message}"):
            make()


def test_plain_data_of_an_optimizer_may_be_a_part():
    assert MultiOptimizer({"a": serialize(SGD(0.25))})["a"].learning_rate == 0.25


def test_patterns_may_be_added_before_it_is_built():
    net, optimizer = network(), MultiOptimizer(OptimizerMap(SGD()))
    optimizer["head.*"] = Adam()
    built(optimizer, net)
    assert [each.name for each in optimizer.optimizers] == ["adam", "sgd"]
    with pytest.raises(ValueError, match="before the optimizer is built"):
        optimizer["backbone.*"] = Adam()


def test_weight_decay_is_excluded_in_all_parts():
    net = network()
    optimizer = built(MultiOptimizer({"head.*": SGD(1.0, weight_decay=0.5)}, default=SGD(1.0, weight_decay=0.1)), net)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    before = net["head"].bias.detach().clone()
    optimizer.apply([torch.zeros_like(p) for p in net.parameters()])
    assert torch.equal(net["head"].bias, before)


def constant(rate):
    def schedule():
        return rate

    return schedule


@pytest.mark.parametrize("make", [constant, lambda rate: lambda: rate])
def test_functions_of_one_name_are_different_rates(make):
    optimizer = MultiOptimizer(lambda name, parameter: SGD(make(0.5 if name == "a" else 0.25)))
    optimizer.build([("a", nn.Parameter(torch.zeros(1))), ("b", nn.Parameter(torch.zeros(1)))])
    assert [optimizer[name].learning_rate for name in ("a", "b")] == [0.5, 0.25]
