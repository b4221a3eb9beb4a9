import pytest
import torch

from torchfit.callbacks import CallbackList, LambdaCallback, SwapEMAWeights
from torchfit.optimizers import SGD


@pytest.fixture
def averaged(model):
    """A model with one weight, trained to 3.0, whose average is 2.0."""
    model.weight = torch.nn.Parameter(torch.tensor([0.0]))
    model.optimizer = SGD(1.0, use_ema=True, ema_momentum=0.5)
    model.optimizer.build([model.weight])
    for gradient in (-1.0, -2.0):
        model.optimizer.apply([torch.tensor([gradient])])
    assert model.weight.item() == 3.0
    return model


def heard(model, **settings):
    callback = SwapEMAWeights(**settings)
    callback.set_model(model)
    return CallbackList([callback])


@pytest.mark.parametrize("loop", ["test", "predict"])
def test_averages_are_there_for_an_evaluation(averaged, loop):
    callbacks = heard(averaged)
    getattr(callbacks, f"on_{loop}_begin")({})
    assert averaged.weight.item() == 2.0
    getattr(callbacks, f"on_{loop}_end")({})
    assert averaged.weight.item() == 3.0


def test_averages_stay_between_epochs_if_wanted(averaged):
    callbacks = heard(averaged, swap_on_epoch=True)
    callbacks.on_epoch_end(0, {})
    assert averaged.weight.item() == 2.0
    callbacks.on_epoch_begin(1, {})
    assert averaged.weight.item() == 3.0
    callbacks.on_epoch_end(1, {})
    callbacks.on_train_end({})
    callbacks.close()
    assert averaged.weight.item() == 2.0


def test_epochs_end_with_the_trainings_weights_otherwise(averaged):
    heard(averaged).on_epoch_end(0, {})
    assert averaged.weight.item() == 3.0


def test_the_trainings_weights_come_back_when_an_evaluation_breaks_off(averaged):
    callbacks = heard(averaged)
    callbacks.on_test_begin({})
    callbacks.close()
    assert averaged.weight.item() == 3.0


def test_an_optimizer_without_averages_is_refused(drive):
    with pytest.raises(ValueError, match=r"keeps no averaged weights. Compile with one that does"):
        drive([SwapEMAWeights(), LambdaCallback()], [])
