import pytest

from torchfit.callbacks import CallbackList, LambdaCallback


def test_functions_are_called_at_their_events():
    said = []
    callbacks = CallbackList(
        [
            LambdaCallback(
                on_train_begin=lambda logs: said.append("begin"),
                on_train_batch_begin=lambda batch, logs: said.append(batch),
                on_test_end=lambda logs: said.append(logs),
            )
        ]
    )
    callbacks.on_train_begin({})
    callbacks.on_train_batch_begin(2, {})
    callbacks.on_test_end({"loss": 1.0})
    assert said == ["begin", 2, {"loss": 1.0}]


def test_other_events_cost_nothing():
    assert not CallbackList([LambdaCallback(on_epoch_end=print)]).has_listeners("on_train_batch_end")


def test_unknown_hooks_are_refused():
    with pytest.raises(TypeError, match=r"has no argument `on_epoch_ends`. Did you mean 'on_epoch_end'"):
        LambdaCallback(on_epoch_ends=print)


def test_functions_must_be_callable():
    with pytest.raises(TypeError, match=r"on_epoch_end: expected a function. Received: 3"):
        LambdaCallback(on_epoch_end=3)  # type: ignore[arg-type]
