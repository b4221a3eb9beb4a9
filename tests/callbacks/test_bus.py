import pytest

from torchfit.callbacks import Bus, Callback, EarlyStopping, LambdaCallback, ModelCheckpoint, ProgbarLogger
from torchfit.callbacks.base import EVENTS


class Recorder(Callback):
    def __init__(self, said, name):  # no super().__init__()
        self.said, self.name = said, name

    def on_epoch_end(self, epoch, logs=None):
        self.said.append((self.name, epoch, logs))


def test_an_event_is_heard_by_those_that_override_it_in_order():
    said = []
    bus = Bus([Recorder(said, "a"), Callback(), Recorder(said, "b")])
    bus.on_epoch_end(3, {"loss": 1.0})
    assert said == [("a", 3, {"loss": 1.0}), ("b", 3, {"loss": 1.0})]


def test_a_single_listener_is_called_without_anything_between():
    recorder = Recorder([], "a")
    assert Bus([recorder]).on_epoch_end == recorder.on_epoch_end


def test_unheard_events_share_one_function():
    bus = Bus([Callback()])
    assert len({getattr(bus, event) for event in EVENTS}) == 1
    assert not any(bus.heard(event) for event in EVENTS)


def test_the_alias_is_heard():
    class Old(Callback):
        def on_batch_end(self, batch, logs):
            self.batch = batch

    old = Old()
    bus = Bus([old])
    bus.on_train_batch_end(5, {})
    assert old.batch == 5
    assert not bus.heard("on_train_batch_begin")


def test_the_first_name_wins_and_hands_on_to_the_alias():
    said = []

    class Both(Callback):
        def on_train_batch_end(self, batch, logs=None):
            said.append("first")
            super().on_train_batch_end(batch, logs)

        def on_batch_end(self, batch, logs=None):
            said.append("alias")

    Bus([Both()]).on_train_batch_end(0, {})
    assert said == ["first", "alias"]


@pytest.mark.parametrize("event", ["on_train_batch_end", "on_batch_end"])
def test_an_override_on_the_object_is_heard(event):
    said = []
    callback = Callback()
    setattr(callback, event, lambda batch, logs: said.append(batch))
    Bus([callback]).on_train_batch_end(1, {})
    assert said == [1]


def test_an_object_that_is_no_callback_may_lack_events():
    class Duck:
        def on_train_end(self, logs):
            self.ended = True

    duck = Duck()
    bus = Bus([duck])
    bus.on_epoch_end(0, {})
    bus.on_train_end({})
    bus.release()
    assert duck.ended


def test_logs_may_be_taken_by_keyword_only():
    class Keywords(Callback):
        def on_epoch_end(self, epoch, **kwargs):
            self.kwargs = kwargs

    callback = Keywords()
    Bus([callback]).on_epoch_end(0, {"loss": 1.0})
    assert callback.kwargs == {"logs": {"loss": 1.0}}


def test_our_own_callbacks_keep_no_batch_logs():
    assert not Bus([ProgbarLogger(), ModelCheckpoint("x", save_freq=2), EarlyStopping()]).reads_batch_logs


def test_callbacks_of_users_may_keep_batch_logs():
    class Bar(ProgbarLogger):
        def on_train_batch_end(self, batch, logs=None):
            self.kept = logs

    assert Bus([LambdaCallback(on_batch_end=print)]).reads_batch_logs
    assert Bus([LambdaCallback(on_test_batch_end=print)]).reads_batch_logs
    assert Bus([Bar()]).reads_batch_logs
    assert not Bus([LambdaCallback(on_epoch_end=print)]).reads_batch_logs


def test_an_epoch_only_callback_adds_nothing_to_a_step():
    assert not Bus([EarlyStopping(), ModelCheckpoint("x")]).heard("on_train_batch_end")


def test_release_reaches_all_even_if_one_fails():
    released = []

    class Failing(Callback):
        def _release(self):
            released.append(self)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        Bus([Failing(), Failing()]).release()
    assert len(released) == 2
