import numpy as np
import pytest
import torch

from torchfit import optimizers
from torchfit.callbacks import History, LambdaCallback, LearningRateScheduler, ReduceLROnPlateau, TorchLRScheduler
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
        LearningRateScheduler(0.1)  # type: ignore[arg-type]


def grouped(model, *rates):
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in rates]
    inner = torch.optim.SGD([{"params": [p], "lr": rate} for p, rate in zip(parameters, rates)], lr=0.1)
    model.optimizer = TorchOptimizer(inner)
    return inner.param_groups


def test_groups_are_scaled_from_their_own_rates_and_0_stays_0(drive, model):
    groups = grouped(model, 0.0, 0.1, 0.025)
    history = History()
    drive([LearningRateScheduler(lambda epoch, rate: rate * 0.5), history], [{}] * 2)
    assert [group["lr"] for group in groups] == pytest.approx([0.0, 0.025, 0.00625])
    assert history.history["learning_rate"] == pytest.approx([0.05, 0.025])


def test_groups_keep_their_ratio_over_a_rate_of_0(drive, model):
    groups = grouped(model, 0.1, 0.025)
    drive(LearningRateScheduler(lambda epoch: 0.2 * epoch), [{}] * 2)
    assert [group["lr"] for group in groups] == pytest.approx([0.2, 0.05])


def test_groups_that_all_start_at_0_get_the_rate(drive, model):
    groups = grouped(model, 0.0, 0.0)
    drive(LearningRateScheduler(lambda epoch: 0.2), [{}])
    assert [group["lr"] for group in groups] == [0.2, 0.2]


def test_a_rate_that_is_a_tensor_stays_one(drive, model):
    groups = grouped(model, torch.tensor(0.1), torch.tensor(0.2))
    tensors = [group["lr"] for group in groups]
    drive(LearningRateScheduler(lambda epoch, rate: rate / 2), [{}])
    assert [group["lr"] for group in groups] == tensors
    assert torch.tensor(tensors).tolist() == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(
    "callback",
    [
        LearningRateScheduler(lambda epoch: 0.1),
        ReduceLROnPlateau("loss"),
        TorchLRScheduler(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)),
    ],
    ids=lambda callback: type(callback).__name__,
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_schedule_of_the_optimizer_is_refused_before_the_first_epoch(drive, model, callback, wrapped):
    optimizer = optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))
    model.optimizer = optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer
    begun = []
    with pytest.raises(TypeError, match=rf"{type(callback).__name__}: the learning rate .* is set by a schedule"):
        drive([callback, LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))], [{"loss": 1.0}])
    assert begun == []
