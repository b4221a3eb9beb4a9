import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from torchfit import optimizers
from torchfit.callbacks import History, LearningRateMonitor, ReduceLROnPlateau, TorchLRScheduler
from torchfit.optimizers.torch_optimizer import TorchOptimizer


def grouped(model, *groups):
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in groups]
    inner = torch.optim.SGD([{"params": [p], **group} for p, group in zip(parameters, groups)], lr=0.1)
    model.optimizer = TorchOptimizer(inner)


def test_one_rate_has_the_usual_name(drive, model):
    history = History()
    model.optimizer = optimizers.SGD(optimizers.schedules.ExponentialDecay(0.5, 1, 0.5))
    drive([LearningRateMonitor(), history], [{"loss": 1.0}])
    assert history.history == {"loss": [1.0], "learning_rate": [0.5]}


def test_every_group_has_its_rate(drive, model):
    history = History()
    grouped(model, {"lr": 0.0}, {"lr": 0.2, "name": "head"})
    drive([LearningRateMonitor(), history], [{}])
    expected = {"learning_rate": 0.2, "learning_rate_0": 0.0, "learning_rate_head": 0.2}
    assert {name: value for name, (value,) in history.history.items()} == pytest.approx(expected)


def test_groups_of_the_same_name_are_numbered(drive, model):
    history = History()
    grouped(model, {"name": "layer"}, {"name": "layer"})
    drive([LearningRateMonitor(), history], [{}])
    assert list(history.history) == ["learning_rate", "learning_rate_0", "learning_rate_1"]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_the_rates_are_those_of_the_epoch_wherever_the_scheduler_stands(drive, model):
    history = History()
    grouped(model, {"lr": 0.1}, {"lr": 0.2})
    drive([TorchLRScheduler(lambda inner: StepLR(inner, 1, 0.5)), LearningRateMonitor(), history], [{}] * 2)
    assert history.history["learning_rate_1"] == [0.2, 0.1]


def test_every_one_of_several_optimizers_has_its_rate(drive, model):
    history = History()
    model.optimizer = optimizers.MultiOptimizer({"weight": optimizers.SGD(0.5)}, default=optimizers.SGD(0.25))
    model.optimizer.build(model.module.named_parameters())
    plateau = ReduceLROnPlateau("loss", factor=0.5, patience=1)
    drive([LearningRateMonitor(), plateau, history], [{"loss": 1.0}] * 3)
    assert history.history["learning_rate"] == [0.5, 0.5, 0.25]
    assert history.history["learning_rate_0"] == [0.5, 0.5, 0.25]
    assert history.history["learning_rate_1"] == [0.25, 0.25, 0.125]
