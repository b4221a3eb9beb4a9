import numpy as np
import pytest
import torch

from torchfit.callbacks import History, LearningRateScheduler
from torchfit.optimizers.torch_optimizer import TorchOptimizer


def test_the_rate_is_set_and_logged(drive, capsys):
    history = History()
    drive([LearningRateScheduler(lambda epoch, rate: rate / 2, verbose=1), history], [{}] * 2)
    assert history.history["learning_rate"] == [0.05, 0.025]
    assert capsys.readouterr().out == (
        "\nEpoch 00001: LearningRateScheduler setting learning rate to 0.05.\n"
        "\nEpoch 00002: LearningRateScheduler setting learning rate to 0.025.\n"
    )


def test_a_schedule_of_the_epoch_alone(drive, model):
    drive(LearningRateScheduler(lambda epoch: 1.0 / (epoch + 1)), [{}] * 2)
    assert model.optimizer.learning_rate == 0.5


@pytest.mark.parametrize("rate", [np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_rates_without_dimensions(drive, model, rate):
    drive(LearningRateScheduler(lambda epoch: rate), [{}])
    assert model.optimizer.learning_rate == 0.5


@pytest.mark.parametrize("wrong", ["0.1", None, [0.1], np.zeros(2)])
def test_other_results_are_refused(drive, wrong):
    with pytest.raises(ValueError, match=r"schedule: expected it to return a number. Received:"):
        drive(LearningRateScheduler(lambda epoch: wrong), [{}])


def test_a_class_of_torchs_optimizers_has_a_rate_from_the_start(drive, model):
    model.optimizer = TorchOptimizer(torch.optim.SGD)
    drive(LearningRateScheduler(lambda epoch, rate: rate * 2), [{}])
    assert model.optimizer.learning_rate == 0.002


def test_errors_of_the_schedule_are_not_hidden(drive):
    with pytest.raises(TypeError, match="unsupported operand"):
        drive(LearningRateScheduler(lambda epoch, rate: rate + "x"), [{}])


def test_a_number_is_no_schedule():
    with pytest.raises(TypeError, match="schedule: expected a function"):
        LearningRateScheduler(0.1)
