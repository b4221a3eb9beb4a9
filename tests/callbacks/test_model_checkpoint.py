import os
import threading

import numpy as np
import pytest
import torch

import torchfit
from torchfit.callbacks import LambdaCallback, ModelCheckpoint
from torchfit.callbacks.model_checkpoint import BackgroundWriter
from torchfit.models import load_model

X, Y = np.ones((24, 2), "float32"), np.ones((24, 1), "float32")


def epochs(*losses):
    return [{"loss": loss, "val_loss": loss} for loss in losses]


def test_every_epoch(drive, model, tmp_path):
    drive(ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.2f}"), epochs(0.5, 0.25))
    assert model.saved == [f"{tmp_path}/01-0.50", f"{tmp_path}/02-0.25"]


def test_the_best_only_with_the_guides_messages(drive, model, capsys):
    checkpoint = ModelCheckpoint("mymodel_{epoch}", save_best_only=True, verbose=1)
    drive(checkpoint, epochs(0.2421, 0.24195, 0.3))
    assert model.saved == ["mymodel_1", "mymodel_2"]
    assert checkpoint.best == 0.24195
    assert capsys.readouterr().out == (
        "\nEpoch 00001: val_loss improved from inf to 0.24210, saving model to mymodel_1\n"
        "\nEpoch 00002: val_loss improved from 0.24210 to 0.24195, saving model to mymodel_2\n"
        "\nEpoch 00003: val_loss did not improve from 0.24195\n"
    )


def test_every_epoch_with_a_message(drive, capsys):
    drive(ModelCheckpoint("m", verbose=1), epochs(0.5))
    assert capsys.readouterr().out == "\nEpoch 00001: saving model to m\n"


def test_batches_are_counted_across_epochs(drive, model):
    drive(ModelCheckpoint("{epoch}-{batch}-{loss:.1f}", save_freq=3), epochs(0.5, 0.4, 0.3), steps=4)
    assert model.saved == ["1-3-0.5", "2-2-0.4", "3-1-0.3", "3-4-0.3"]


def test_groups_of_batches_are_counted_whole(model):
    checkpoint = ModelCheckpoint("{batch}", save_freq=3)
    checkpoint.set_model(model)
    for last_of_group in (1, 3, 5, 7):
        checkpoint.on_train_batch_end(last_of_group, {})
    assert model.saved == ["4", "8"]


def test_batches_with_the_best_only(drive, model):
    drive(
        ModelCheckpoint("{epoch}-{batch}", "loss", save_best_only=True, save_freq=2),
        epochs(0.5, 0.6, 0.3),
        steps=2,
    )
    assert model.saved == ["1-2", "3-2"]


def test_logs_are_read_only_when_needed(model):
    class Unread(dict):
        def __getitem__(self, name):
            raise AssertionError(name)

        __iter__ = keys = items = __contains__ = __getitem__  # type: ignore[assignment]

    checkpoint = ModelCheckpoint("{epoch}-{batch}", save_freq=2)
    checkpoint.set_model(model)
    for batch in range(4):
        checkpoint.on_train_batch_end(batch, Unread())
    assert model.saved == ["1-2", "1-4"]


def test_a_threshold_to_beat(drive, model):
    drive(ModelCheckpoint("{epoch}", save_best_only=True, initial_value_threshold=0.4), epochs(0.5, 0.4, 0.3))
    assert model.saved == ["3"]


def test_max_starts_from_minus_infinity(drive, capsys):
    drive(ModelCheckpoint("m", "acc", save_best_only=True, verbose=1), [{"acc": 0.5}])
    assert "acc improved from -inf to 0.50000" in capsys.readouterr().out


def test_folders_are_made(drive, model, tmp_path):
    drive(ModelCheckpoint(tmp_path / "a" / "{epoch}" / "m"), epochs(0.5))
    assert (tmp_path / "a" / "1").is_dir()


def test_weights_only(drive, model):
    model.save = None
    drive(ModelCheckpoint("w", save_weights_only=True), epochs(0.5))
    assert model.saved == ["w"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filepath": "m", "save_best_only": True, "monitor": "val_acc"}, "'val_acc' does not occur in the logs"),
        ({"filepath": "m_{val_acc:.2f}"}, "'val_acc' does not occur in the logs"),
        ({"filepath": "m", "save_best_only": True, "save_freq": 5}, "'val_loss' is known only at the end of epochs"),
        ({"filepath": "m_{val_loss}", "save_freq": 5}, "'val_loss' is known only at the end of epochs"),
        ({"filepath": "m_{batch}"}, "{batch} needs an integer save_freq"),
    ],
)
def test_what_can_never_save_is_refused_at_the_start(drive, settings, message):
    with pytest.raises(ValueError, match=message):
        drive(ModelCheckpoint(**settings), [], metrics=["loss", "val_loss"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filepath": "m", "save_freq": "batch"}, "save_freq: expected 'epoch' or a positive number"),
        ({"filepath": "m", "save_freq": 0}, "save_freq: expected 'epoch' or a positive number"),
        ({"filepath": "m", "mode": "best"}, "mode: expected"),
        ({"filepath": "m_{}"}, "fields need names"),
    ],
)
def test_wrong_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelCheckpoint(**settings)


def test_an_unused_monitor_is_not_checked(drive, model):
    drive(ModelCheckpoint("m"), [{"loss": 0.5}], metrics=["loss"])
    assert model.saved == ["m"]


def test_a_field_that_is_missing_in_an_epoch(drive):
    with pytest.raises(KeyError, match=r"needs 'val_loss'. Names in these logs: loss"):
        drive(ModelCheckpoint("m_{val_loss}"), [{"loss": 0.5}], metrics=["loss", "val_loss"])


def test_epochs_without_validation_are_skipped(drive, model):
    drive(ModelCheckpoint("{epoch}", save_best_only=True), [{"loss": 0.5}, *epochs(0.4)], metrics=["loss", "val_loss"])
    assert model.saved == ["2"]


def test_it_goes_on_from_a_state(drive, model):
    first, second = (ModelCheckpoint("{batch}", "loss", save_best_only=True, save_freq=3) for _ in range(2))
    drive(first, epochs(0.5), steps=4)
    second.load_state_dict(first.state_dict())
    second.set_model(model)
    second.on_train_batch_end(4, {"loss": 0.6})
    second.on_train_batch_end(5, {"loss": 0.4})
    second.on_train_batch_end(8, {"loss": 0.3})
    assert second.best == 0.3
    assert model.saved == ["3", "6", "9"]


def fit(*heard, model_class=torchfit.Model, **options):
    """Train for two epochs of six steps, and return the model."""
    model = model_class(torch.nn.Linear(2, 1), device="cpu")
    model.compile("adam", "mse")
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=list(heard), **options)
    return model


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk that takes until somebody waits for it."""
    write, wait, is_awaited = os.fsync, BackgroundWriter.wait, threading.Event()

    def hold(descriptor):
        assert is_awaited.wait(60)
        write(descriptor)

    def wait_for(writer):
        is_awaited.set()
        wait(writer)
        is_awaited.clear()

    monkeypatch.setattr(os, "fsync", hold)
    monkeypatch.setattr(BackgroundWriter, "wait", wait_for)


def test_a_step_does_not_wait_for_the_disk(tmp_path, slow_disk):
    there = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: there.append((tmp_path / "m").exists()))
    fit(ModelCheckpoint(tmp_path / "m", save_freq=4), watch)
    assert there == [False] * 6 + [True] * 6


@pytest.mark.parametrize("name", ["m", "w.safetensors"])
def test_the_file_holds_what_the_model_was_and_is_there_when_the_epoch_ends(tmp_path, slow_disk, name):
    pytest.importorskip("safetensors")
    seen = []
    checkpoint = ModelCheckpoint(tmp_path / name, save_freq=4, save_weights_only=name != "m")
    watch = LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(checkpoint.model.module.weight.detach().clone()),
        on_epoch_end=lambda epoch, logs: seen.append((tmp_path / name).exists()),
    )
    model = fit(watch, checkpoint, watch)
    weights = [value for value in seen if isinstance(value, torch.Tensor)]
    assert [value for value in seen if value is True or value is False][1::2] == [True, True]
    model.load_weights(tmp_path / name)
    assert torch.equal(model.module.weight, weights[2 * 11])  # two watchers; the last save followed step 12
    assert os.listdir(tmp_path) == [name]


def test_a_validation_begins_with_the_file_there_and_none_being_written(tmp_path, slow_disk):
    seen = []
    watch = LambdaCallback(on_train_batch_end=None)
    watch.on_test_begin = lambda logs=None: seen.append(os.listdir(tmp_path))
    fit(ModelCheckpoint(tmp_path / "m", save_freq=5), watch, validation_data=(X, Y))
    assert seen == [["m"], ["m"]]
    assert writers() == 0


def writers():
    return sum(thread.name.startswith("torchfit-writer") for thread in threading.enumerate())


def test_the_file_is_there_after_an_interruption(tmp_path, slow_disk):
    def stop(batch, logs):
        if batch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ModelCheckpoint(tmp_path / "m", save_freq=4), LambdaCallback(on_train_batch_end=stop))
    assert load_model(tmp_path / "m").optimizer.iterations == 4
    assert (os.listdir(tmp_path), writers()) == (["m"], 0)


def full(descriptor):
    raise OSError(28, "No space left on device")


def test_a_full_disk_ends_training_with_the_file_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        fit(ModelCheckpoint(tmp_path / "m", save_freq=5))
    assert (caught.value.filename, os.listdir(tmp_path)) == (str(tmp_path / "m"), [])


def test_a_full_disk_is_told_beside_an_interruption_and_forgotten(tmp_path, monkeypatch):
    def stop(batch, logs):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", full)
    checkpoint = ModelCheckpoint(tmp_path / "m", save_freq=1)
    with pytest.warns(UserWarning, match="No space left"), pytest.raises(KeyboardInterrupt):
        fit(checkpoint, LambdaCallback(on_train_batch_end=stop))
    monkeypatch.undo()
    fit(checkpoint)
    assert (tmp_path / "m").exists()


def test_a_state_is_not_told_before_its_files_are_there(tmp_path, slow_disk):
    there = []
    checkpoint = ModelCheckpoint(tmp_path / "m", save_freq=2)
    watch = LambdaCallback(
        on_train_batch_end=lambda batch, logs: there.append((checkpoint.state_dict(), (tmp_path / "m").exists())[1])
    )
    fit(checkpoint, watch)
    assert there[:3] == [False, True, True]


def test_a_save_of_the_users_is_called_where_it_may_change_the_file(tmp_path):
    threads = []

    class Own(torchfit.Model):
        def save(self, path, *arguments):
            super().save(path, *arguments)
            threads.append(threading.current_thread())
            os.replace(path, f"{path}.moved")

    fit(ModelCheckpoint(tmp_path / "m", save_freq=5), model_class=Own)
    assert (set(threads), os.listdir(tmp_path)) == ({threading.main_thread()}, ["m.moved"])
