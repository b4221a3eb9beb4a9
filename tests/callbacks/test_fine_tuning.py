from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import optimizers
from torchfit.callbacks import (
    BackupAndRestore,
    FineTuning,
    LambdaCallback,
    LearningRateMonitor,
    LearningRateScheduler,
    TorchLRScheduler,
)

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 1))


def compiled(optimizer):
    net = network()
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizer(net), "mse")
    return model


def fit(model, *callbacks, epochs=4):
    """Return in which epochs each layer changed, and the history."""
    states = [{name: value.clone() for name, value in model.module.state_dict().items()}]

    def keep(epoch, logs):
        states.append({name: value.clone() for name, value in model.module.state_dict().items()})

    watch = LambdaCallback(on_epoch_end=keep)
    history = model.fit(X, Y, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks, watch])
    changed = {
        name: [not torch.equal(one[name], two[name]) for one, two in pairwise(states)]
        for name in ("0.weight", "1.running_mean", "2.weight", "3.weight")
    }
    return changed, history.history


OPTIMIZERS = {
    "own": lambda net: optimizers.Adam(0.01),
    "class": lambda net: torch.optim.Adam,
    "instance": lambda net: torch.optim.Adam(net.parameters(), 0.01),
    "named instance": lambda net: torch.optim.Adam(net.named_parameters(), 0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_parts_are_trained_from_their_epoch_on(kind):
    model = compiled(OPTIMIZERS[kind])
    changed, _ = fit(model, FineTuning({1: "2", 3: ["0", "1"]}))
    assert changed == {
        "0.weight": [False, False, False, True],
        "1.running_mean": [False, False, False, True],
        "2.weight": [False, True, True, True],
        "3.weight": [True, True, True, True],
    }


@pytest.mark.parametrize("kind", ["class", "instance", "named instance"])
def test_parts_have_their_learning_rates(kind):
    model = compiled(OPTIMIZERS[kind])
    changed, _ = fit(model, FineTuning({0: {"3": 0.5}, 1: {"2": 0.25}, 2: {"0": 0.125}}), epochs=2)
    groups = {group.get("name"): group for group in model.optimizer.optimizer.param_groups}
    assert {name: group["lr"] for name, group in groups.items() if name} == {"3": 0.5, "2": 0.25, "0": 0.125}
    held = [parameter for group in groups.values() for parameter in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.module.parameters()))
    assert changed["2.weight"] == [False, True]


def test_a_part_that_the_optimizer_does_not_hold_is_added():
    model = compiled(lambda net: torch.optim.SGD(net[3].parameters(), 0.1))
    changed, _ = fit(model, FineTuning({1: {"2": 0.01}}), epochs=2)
    assert changed["2.weight"] == [False, True]


def test_the_step_of_a_part_has_its_rate_and_the_settings_of_its_group():
    model = compiled(lambda net: torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.5))
    fit(model, FineTuning({0: {"2": 0.0}}), epochs=1)
    assert [group["weight_decay"] for group in model.optimizer.optimizer.param_groups] == [0.5, 0.5]
    assert torch.equal(model.module[2].weight, network()[2].weight)


def test_schedulers_scale_the_rates_of_all_parts():
    model = compiled(lambda net: torch.optim.SGD(net.parameters(), 0.1))
    halve = TorchLRScheduler(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    _, history = fit(model, halve, FineTuning({1: {"2": 0.01}}), LearningRateMonitor(), epochs=2)
    assert history["learning_rate_0"] == pytest.approx([0.1, 0.05])
    assert history["learning_rate_2"] == pytest.approx([0.01, 0.005])
    model = compiled(lambda net: torch.optim.SGD(net.parameters(), 0.1))
    fit(model, LearningRateScheduler(lambda epoch: 0.02), FineTuning({1: {"2": 0.01}}), epochs=2)
    assert [group["lr"] for group in model.optimizer.optimizer.param_groups] == pytest.approx([0.02, 0.002])


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_an_interrupted_run_is_resumed(kind, epoch, tmp_path):
    def tuning():
        return FineTuning({2: "2"} if kind == "own" else {2: {"2": 0.05}})

    def interrupt(index, logs):
        if index == epoch:
            raise KeyboardInterrupt

    model = compiled(OPTIMIZERS[kind])
    expected = fit(model, tuning())[1]
    stop = LambdaCallback(on_epoch_begin=interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(OPTIMIZERS[kind]), tuning(), BackupAndRestore(tmp_path), stop)
    resumed = compiled(OPTIMIZERS[kind])
    assert fit(resumed, tuning(), BackupAndRestore(tmp_path))[1] == expected
    assert all(map(torch.equal, model.module.state_dict().values(), resumed.module.state_dict().values()))


def test_what_is_unfrozen_is_printed(capsys):
    fit(compiled(OPTIMIZERS["instance"]), FineTuning({1: {"2": 0.05}, 2: "0"}, verbose=1), epochs=3)
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 2: FineTuning unfreezes 2 (2 parameters, learning rate 0.05).",
        "Epoch 3: FineTuning unfreezes 0 (2 parameters, learning rate 0.01).",
    ]


def test_rates_need_parameter_groups():
    with pytest.raises(TypeError, match=r"FineTuning: .* optimizers of torch\.optim only"):
        fit(compiled(OPTIMIZERS["own"]), FineTuning({1: {"2": 0.05}}))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({1: "backbone"}, "'backbone' is the name of no parameter or submodule"),
        ({1: "2", 2: "2.weight"}, r"'2\.weight' is listed twice: by '2' and by '2\.weight'"),
    ],
)
def test_names_are_checked_before_the_first_epoch(schedule, message):
    with pytest.raises(ValueError, match=message):
        fit(compiled(OPTIMIZERS["own"]), FineTuning(schedule))


@pytest.mark.parametrize("wrong", [{}, ["2"], {-1: "2"}, {1.5: "2"}, {1: {"2": -0.1}}, {1: [2]}])
def test_other_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="schedule: expected"):
        FineTuning(wrong)


def test_a_scheduler_for_other_groups_is_refused():
    model = compiled(OPTIMIZERS["instance"])
    scheduler = torch.optim.lr_scheduler.StepLR(model.optimizer.optimizer, 1)
    with pytest.raises(ValueError, match="created for 1 parameter groups, but the optimizer has 2 now"):
        fit(model, FineTuning({1: {"2": 0.05}}), TorchLRScheduler(scheduler))
