import copy
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from torchfit import metrics
from torchfit.callbacks import (
    BackupAndRestore,
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    ModelCheckpoint,
    ProgbarLogger,
    ReduceLROnPlateau,
    TensorBoard,
    Timer,
    TorchLRScheduler,
)
from torchfit.callbacks.base import HOOKS

TRAINING_STATE: Any = object()  # It is passed on, and nothing else.


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


def test_an_appended_callback_is_called():
    said = []
    callbacks = CallbackList()
    callbacks.append(LambdaCallback(on_train_end=said.append))
    callbacks.on_train_end({"loss": 1.0})
    assert said == [{"loss": 1.0}]


def test_every_hook_is_called():
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


class Recorder(Callback):
    def __init__(self, said, name):  # no super().__init__()
        self.said, self.name = said, name

    def on_epoch_end(self, epoch, logs=None):
        self.said.append((self.name, epoch, logs))


def test_a_hook_is_called_on_the_callbacks_that_override_it_in_order():
    said = []
    callbacks = CallbackList([Recorder(said, "a"), Callback(), Recorder(said, "b")])
    callbacks.on_epoch_end(3, {"loss": 1.0})
    assert said == [("a", 3, {"loss": 1.0}), ("b", 3, {"loss": 1.0})]


def test_a_single_listener_is_called_directly():
    recorder = Recorder([], "a")
    assert CallbackList([recorder]).on_epoch_end == recorder.on_epoch_end


def test_hooks_without_listeners_share_one_function():
    callbacks = CallbackList([Callback()])
    assert len({getattr(callbacks, hook) for hook in HOOKS}) == 1
    assert not any(callbacks.has_listeners(hook) for hook in HOOKS)


def test_an_alias_is_called():
    class Old(Callback):
        def on_batch_end(self, batch, logs):
            self.batch = batch

    old = Old()
    callbacks = CallbackList([old])
    callbacks.on_train_batch_end(5, {})
    assert old.batch == 5
    assert not callbacks.has_listeners("on_train_batch_begin")


def test_the_first_name_wins_and_calls_the_alias():
    said = []

    class Both(Callback):
        def on_train_batch_end(self, batch, logs=None):
            said.append("first")
            super().on_train_batch_end(batch, logs)

        def on_batch_end(self, batch, logs=None):
            said.append("alias")

    CallbackList([Both()]).on_train_batch_end(0, {})
    assert said == ["first", "alias"]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_batch_end"])
def test_an_override_on_the_object_is_called(hook):
    said = []
    callback = Callback()
    setattr(callback, hook, lambda batch, logs: said.append(batch))
    CallbackList([callback]).on_train_batch_end(1, {})
    assert said == [1]


def test_other_objects_may_lack_hooks():
    class Duck:
        def on_train_end(self, logs):
            self.ended = True

    duck = Duck()
    callbacks = CallbackList([duck])
    callbacks.on_epoch_end(0, {})
    callbacks.on_train_end({})
    callbacks.close()
    assert duck.ended


def test_logs_may_be_taken_by_keyword_only():
    class Keywords(Callback):
        def on_epoch_end(self, epoch, **kwargs):
            self.kwargs = kwargs

    callback = Keywords()
    CallbackList([callback]).on_epoch_end(0, {"loss": 1.0})
    assert callback.kwargs == {"logs": {"loss": 1.0}}


def test_our_own_callbacks_keep_no_batch_logs():
    assert not CallbackList([ProgbarLogger(), ModelCheckpoint("x", save_freq=2), EarlyStopping()]).keeps_batch_logs


def test_callbacks_of_users_may_keep_batch_logs():
    class Bar(ProgbarLogger):
        def on_train_batch_end(self, batch, logs=None):
            self.kept = logs

    assert CallbackList([LambdaCallback(on_batch_end=print)]).keeps_batch_logs
    assert CallbackList([LambdaCallback(on_test_batch_end=print)]).keeps_batch_logs
    assert CallbackList([LambdaCallback(on_train_batch_begin=print)]).keeps_batch_logs
    assert CallbackList([Bar()]).keeps_batch_logs
    assert not CallbackList([LambdaCallback(on_epoch_end=print)]).keeps_batch_logs


def test_an_epoch_only_callback_adds_nothing_to_a_step():
    assert not CallbackList([EarlyStopping(), ModelCheckpoint("x")]).has_listeners("on_train_batch_end")


def test_close_reaches_all_even_if_one_fails():
    closed = []

    class Failing(Callback):
        def release_resources(self):
            closed.append(self)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        CallbackList([Failing(), Failing()]).close()
    assert len(closed) == 2


def test_logs_may_be_left_out_or_passed_by_name():
    seen = []

    class Strict(Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(logs)

    callbacks = CallbackList([Strict(), LambdaCallback(on_epoch_end=lambda epoch, values: seen.append(values))])
    callbacks.on_epoch_end(0)
    callbacks.on_epoch_end(1, logs={"loss": 1.0})
    assert seen == [{}, {}, {"loss": 1.0}, {"loss": 1.0}]


def test_new_params_decide_again_which_hooks_are_needed():
    callbacks = CallbackList([ProgbarLogger()], verbose=0)
    assert not callbacks.has_listeners("on_epoch_end")
    callbacks.set_params({"verbose": 2})
    assert callbacks.has_listeners("on_epoch_end")


def test_log_names_reach_all():
    one = EarlyStopping()
    callbacks = CallbackList([one], epochs=3)
    callbacks.set_log_names(["loss"])
    assert one.params == {"epochs": 3, "metrics": ["loss"], "metrics_complete": True}


def test_the_training_state_reaches_all_until_the_list_is_closed():
    class Other:
        def on_train_begin(self, logs=None):
            pass

    one = Callback()
    callbacks = CallbackList([one, Other()])
    callbacks.set_training_state(TRAINING_STATE)
    assert one.training_state is TRAINING_STATE
    callbacks.close()
    assert one.training_state is None


def test_copies_of_a_callback_leave_the_training_state_out():
    one = Callback()
    one.set_params({"epochs": 3})
    one.set_training_state(TRAINING_STATE)
    twin = copy.copy(one)
    assert (twin.params, twin.training_state) == ({"epochs": 3}, None)


def test_an_object_with_one_hook_is_a_callback(model):
    seen = []

    class Own:
        def on_epoch_end(self, epoch, logs=None):
            seen.append(epoch)

    callbacks = CallbackList([Own(), Callback()], model=model, epochs=3)
    callbacks.set_training_state(TRAINING_STATE)
    callbacks.on_epoch_end(2, {})
    callbacks.close()
    assert seen == [2]


def test_an_object_with_only_an_alias_is_a_callback():
    class Own:
        def on_batch_end(self, batch, logs=None):
            self.batch = batch

    own = Own()
    CallbackList(own).on_train_batch_end(4, {})
    assert own.batch == 4


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [
        (lambda epoch, logs: None, r"LambdaCallback\(on_epoch_end=function\)"),
        (StepLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1), 1), r"TorchLRScheduler\(scheduler\)"),
        (metrics.Mean(), r"compile\(\.\.\., metrics="),
        ("EarlyStopping", r"torchfit\.callbacks\.EarlyStopping\(\)"),
    ],
    ids=["function", "scheduler", "metric", "name"],
)
def test_what_is_no_callback_is_refused_with_the_way_out(wrong, way_out):
    with pytest.raises(TypeError, match=way_out):
        CallbackList([wrong])


def test_a_hook_that_takes_other_arguments_is_refused_at_once():
    class OfAnotherLibrary:
        def on_epoch_end(self, args, state, control, **kwargs):
            pass

    with pytest.raises(TypeError, match=r"on_epoch_end is called with \(index, logs\), but takes \(args"):
        CallbackList([OfAnotherLibrary()])


def unneeded(folder):
    """Return callbacks of torchfit, each with a hook of its class that it does not need with these settings."""
    yield ModelCheckpoint(folder / "weights"), "on_train_end"
    yield BackupAndRestore(folder / "backup"), "on_train_batch_end"
    yield TensorBoard(folder / "logs"), "on_train_batch_begin"
    yield Timer(), "on_train_batch_end"
    yield TorchLRScheduler(lambda optimizer: None), "on_train_batch_end"
    yield ProgbarLogger(), "on_epoch_end"


def test_hooks_that_a_callback_does_not_need_are_free(tmp_path):
    assert [CallbackList(one, verbose=0).has_listeners(hook) for one, hook in unneeded(tmp_path)] == [False] * 6


@pytest.mark.parametrize("owner", ["subclass", "mixin", "object"])
def test_hooks_that_its_class_does_not_define_are_always_called(tmp_path, owner):
    said = []
    for callback, hook in unneeded(tmp_path):

        def say(*arguments, hook=hook):
            said.append(hook)

        kind, owned = type(callback), {hook: say}
        if owner == "object":
            setattr(callback, hook, say)
        else:
            bases = (kind,) if owner == "subclass" else (type("Mixin", (), owned), kind)
            callback.__class__ = type("Own", bases, owned if owner == "subclass" else {})
        callbacks = CallbackList(callback, verbose=0)
        getattr(callbacks, hook)(*([] if "train_end" in hook else [0]))
    assert said == [hook for _, hook in unneeded(tmp_path)]


def test_an_alias_in_a_subclass_is_called_if_the_hook_of_the_class_is_not_needed():
    said = []

    class Own(Timer):
        def on_batch_end(self, batch, logs=None):
            said.append(batch)

    CallbackList(Own()).on_train_batch_end(3)
    assert said == [3]


def test_the_hooks_of_a_silent_bar_can_be_called_one_by_one():
    class Own(ProgbarLogger):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)

    CallbackList(Own(), verbose=0).on_train_batch_end(0)
