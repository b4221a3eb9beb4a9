import pytest

from torchfit.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    ProgbarLogger,
    ReduceLROnPlateau,
)


def kinds(callbacks):
    return [type(callback).__name__ for callback in callbacks.callbacks]


def test_the_bar_comes_first_and_the_history_last():
    callbacks = CallbackList([EarlyStopping()], add_history=True, add_progbar=True)
    assert kinds(callbacks) == ["ProgbarLogger", "EarlyStopping", "History"]


def test_what_is_there_is_not_added_again():
    assert kinds(CallbackList([History(), ProgbarLogger()], add_history=True, add_progbar=True)) == [
        "History",
        "ProgbarLogger",
    ]


def test_callbacks_come_in_many_forms():
    one = Callback()
    assert CallbackList(None).callbacks == []
    assert CallbackList(one).callbacks == [one]
    assert CallbackList([[one], (one,)]).callbacks == [one, one]
    assert CallbackList(CallbackList([one])).callbacks == [one]


def test_model_and_params_reach_all(model):
    one = Callback()
    CallbackList([one], model=model, epochs=3, verbose=0)
    assert one.model is model
    assert one.params == {"epochs": 3, "verbose": 0}


def test_append_makes_a_callback_heard():
    said = []
    callbacks = CallbackList()
    callbacks.append(LambdaCallback(on_train_end=said.append))
    callbacks.on_train_end({"loss": 1.0})
    assert said == [{"loss": 1.0}]


def test_every_event_is_handed_on():
    said = []

    class Recorder(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda *arguments: said.append((name, *arguments))
            return super().__getattribute__(name)

    callbacks = CallbackList([Recorder()])
    for loop in ("train", "test", "predict"):
        getattr(callbacks, f"on_{loop}_begin")()
        getattr(callbacks, f"on_{loop}_batch_begin")(0)
        getattr(callbacks, f"on_{loop}_batch_end")(0, {"loss": 1.0})
        getattr(callbacks, f"on_{loop}_end")()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0)
    callbacks.on_batch_begin(1)
    callbacks.on_batch_end(1)
    assert said == [
        *[
            entry
            for loop in ("train", "test", "predict")
            for entry in (
                (f"on_{loop}_begin", {}),
                (f"on_{loop}_batch_begin", 0, {}),
                (f"on_{loop}_batch_end", 0, {"loss": 1.0}),
                (f"on_{loop}_end", {}),
            )
        ],
        ("on_epoch_begin", 0, {}),
        ("on_epoch_end", 0, {}),
        ("on_train_batch_begin", 1, {}),
        ("on_train_batch_end", 1, {}),
    ]


def test_a_class_or_another_object_is_refused():
    with pytest.raises(TypeError, match=r"Received: the class History\. Write History\(\.\.\.\)\."):
        CallbackList([History])
    with pytest.raises(TypeError, match=r"callbacks: expected Callback objects.*Received: 3"):
        CallbackList([3])


def test_names_that_our_callbacks_write_can_be_monitored():
    callbacks = CallbackList([ReduceLROnPlateau(), CSVLogger("x")], metrics=["loss"])
    assert callbacks.params == {"metrics": ["loss", "learning_rate"], "metrics_complete": True}


def test_a_callback_of_the_user_may_write_any_name():
    assert CallbackList([LambdaCallback()], metrics=["loss"]).params["metrics_complete"] is False
