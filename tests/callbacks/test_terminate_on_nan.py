import math

import pytest

from torchfit.callbacks import CallbackList, LambdaCallback, TerminateOnNaN


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_training_is_stopped(model, capsys, loss):
    callback = TerminateOnNaN()
    callback.set_model(model)
    CallbackList([callback]).on_train_batch_end(3, {"loss": loss})
    assert model.stop_training
    assert capsys.readouterr().out == "Batch 3: Invalid loss, terminating training\n"


def test_numbers_go_on(model):
    callback = TerminateOnNaN()
    callback.set_model(model)
    callback.on_batch_end(0, {"loss": 1e30})
    callback.on_batch_end(0, {})
    assert not model.stop_training


def test_an_error_if_wanted(drive):
    spoil = LambdaCallback(on_batch_end=lambda batch, logs: logs.update(loss=math.nan))
    with pytest.raises(RuntimeError, match="The loss is nan at batch 0"):
        drive([spoil, TerminateOnNaN(raise_error=True)], [{"loss": 1.0}], steps=1)
