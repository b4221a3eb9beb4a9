from types import SimpleNamespace

import pytest
import torch

from torchfit.callbacks import History, ReduceLROnPlateau
from torchfit.optimizers import SGD
from torchfit.optimizers.torch_optimizer import TorchOptimizer


def losses(*values):
    return [{"val_loss": value} for value in values]


def test_the_rate_is_reduced_when_patience_has_run_out(drive, model, capsys):
    history = History()
    model.optimizer = SGD(0.1)
    drive([ReduceLROnPlateau(patience=2, verbose=1), history], losses(0.5, 0.5, 0.5, 0.5))
    assert history.history["learning_rate"] == [0.1, 0.1, 0.1, 0.01]
    assert capsys.readouterr().out == "\nEpoch 00003: ReduceLROnPlateau reducing learning rate to 0.01.\n"


def test_it_cools_down(drive, model):
    history = History()
    drive([ReduceLROnPlateau(patience=1, cooldown=2, factor=0.5), history], losses(*[0.5] * 6))
    assert history.history["learning_rate"] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


def test_the_rate_has_a_floor(drive, model):
    model.optimizer = SGD(0.1)
    drive(ReduceLROnPlateau(patience=1, min_lr=0.03), losses(*[0.5] * 6))
    assert model.optimizer.learning_rate == 0.03


def test_rates_are_compared_as_float32(drive, model, capsys):
    model.optimizer = SimpleNamespace(learning_rate=0.1 * 0.1)
    drive(ReduceLROnPlateau(patience=1, min_lr=0.01, verbose=1), losses(0.5, 0.5, 0.5))
    assert capsys.readouterr().out == ""


def test_improvements_keep_the_rate(drive, model):
    drive(ReduceLROnPlateau("acc", patience=1, min_delta=0.0), [{"acc": value} for value in (0.1, 0.2, 0.3)])
    assert model.optimizer.learning_rate == 0.1


def test_small_improvements_do_not_count(drive, model):
    drive(ReduceLROnPlateau(patience=1, min_delta=0.1, factor=0.5), losses(0.5, 0.45))
    assert model.optimizer.learning_rate == 0.05


@pytest.mark.parametrize("factor", [1, 1.5])
def test_the_factor_must_reduce(factor):
    with pytest.raises(ValueError, match="factor: expected a number below 1"):
        ReduceLROnPlateau(factor=factor)


def test_the_old_name_of_min_delta():
    with pytest.warns(DeprecationWarning, match="min_delta"):
        assert ReduceLROnPlateau(epsilon=0.5).min_delta == 0.5
    with pytest.raises(TypeError, match=r"has no argument `delta`. Did you mean .min_delta"):
        ReduceLROnPlateau(delta=1)


def test_a_monitor_that_cannot_occur_is_refused(drive):
    with pytest.raises(ValueError, match="ReduceLROnPlateau: monitor: 'val_acc' does not occur"):
        drive(ReduceLROnPlateau("val_acc"), [], metrics=["loss"])


def test_it_starts_afresh_with_every_training(drive, model):
    plateau = ReduceLROnPlateau(patience=2, factor=0.5)
    drive(plateau, losses(0.5, 0.5))
    drive(plateau, losses(0.9, 0.8))
    assert model.optimizer.learning_rate == 0.1


def test_it_goes_on_from_a_state(model):
    first, second = ReduceLROnPlateau(patience=2, factor=0.5), ReduceLROnPlateau(patience=2, factor=0.5)
    for callback in (first, second):
        callback.set_model(model)
        callback.on_train_begin()
    first.on_epoch_end(0, {"val_loss": 0.5})
    first.on_epoch_end(1, {"val_loss": 0.5})
    second.load_state_dict(first.state_dict())
    second.on_epoch_end(2, {"val_loss": 0.5})
    assert model.optimizer.learning_rate == 0.05


@pytest.mark.parametrize(("min_lr", "expected"), [(0.0, [0.0, 0.05, 0.01]), (0.015, [0.0, 0.05, 0.015])])
def test_every_group_is_reduced_from_its_own_rate(drive, model, min_lr, expected):
    rates = [0.0, 0.1, 0.02]
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in rates]
    inner = torch.optim.SGD([{"params": [p], "lr": rate} for p, rate in zip(parameters, rates)], lr=0.1)
    model.optimizer = TorchOptimizer(inner)
    history = History()
    drive([ReduceLROnPlateau(patience=1, factor=0.5, min_lr=min_lr, cooldown=9), history], losses(0.5, 0.5, 0.5))
    assert [group["lr"] for group in inner.param_groups] == pytest.approx(expected)
    assert history.history["learning_rate"] == pytest.approx([0.1, 0.1, 0.05])
