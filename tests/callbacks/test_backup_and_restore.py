import os
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, optimizers
from torchfit.callbacks import BackupAndRestore

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def compiled(optimizer="adam", **options):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = torchfit.Model(network(), device="cpu")
    loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer() if callable(optimizer) else optimizer, loss, metrics=["accuracy"], **options)
    return model


class Stop(callbacks.Callback):
    """Interrupts training at a step, counted over all epochs."""

    def __init__(self, step):
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def fit(model, folder, step=0, save_freq=1, more=(), **options):
    options = {"batch_size": 8, "epochs": 3, "validation_split": 0.25, **options}
    backup = BackupAndRestore(folder / "backup", save_freq)
    return model.fit(X, Y, verbose=0, callbacks=[backup, *more, Stop(step)], **options).history


def outcome(model, history):
    state = {**model.state_dict(), **{f"{i}": value for i, value in enumerate(model.optimizer.variables)}}
    return {name: value.tolist() for name, value in state.items()}, history


def interrupted(make, step, folder, save_freq=1, more=lambda: (), **options):
    """Return the outcome of a run that was interrupted and resumed by a new model."""
    with pytest.raises(KeyboardInterrupt):
        fit(make(), folder, step, save_freq, more(), **options)
    model = make()
    torch.rand(3), np.random.rand()
    return outcome(model, fit(model, folder, 0, save_freq, more(), **options))


@pytest.mark.parametrize("save_freq", [1, 4, 6, "epoch"])
@pytest.mark.parametrize("step", [7, 12, 18])
def test_an_interrupted_training_ends_bitwise_equal(step, save_freq, tmp_path):
    model = compiled()
    expected = outcome(model, fit(model, tmp_path))
    assert interrupted(compiled, step, tmp_path, save_freq) == expected


MODELS = {
    "torch.optim": lambda: compiled(lambda: torch.optim.AdamW),
    "a schedule": lambda: compiled(lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 5, 0.9))),
    "accumulation": lambda: compiled(lambda: optimizers.Adam(0.01, gradient_accumulation_steps=4)),
    "averages": lambda: compiled(lambda: optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)),
    "scaled loss": lambda: compiled(lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1), dynamic_growth_steps=3)),
    "several steps in a call": lambda: compiled(steps_per_execution=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_counter_and_average_goes_on(name, tmp_path):
    model = MODELS[name]()
    expected = outcome(model, fit(model, tmp_path))
    assert interrupted(MODELS[name], 8, tmp_path, 2) == expected


@pytest.mark.slow
@pytest.mark.graphs
def test_a_training_that_goes_on_has_the_graphs_that_it_would_have_had(tmp_path, monkeypatch):
    monkeypatch.setattr("torchfit._execution.compiled._MIN_STEPS_PER_SHAPE", 1)
    batches = {"batch_size": 10}  # Four full ones and one of eight samples, whose second occurrence gets a graph.

    class Evaluate(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.evaluate(X, Y, verbose=0)

    def make():
        return compiled(optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9), jit_compile=True)

    def watch():
        return [Evaluate()]

    model = make()
    expected = outcome(model, fit(model, tmp_path, more=watch(), **batches))
    behind_the_epoch = interrupted(make, 6, tmp_path, 5, watch, **batches)
    before_its_last_step = interrupted(make, 6, tmp_path, 4, watch, **batches)
    assert behind_the_epoch == expected
    assert before_its_last_step == expected


def test_callbacks_go_on_counting(tmp_path):
    def watch():
        return [
            callbacks.EarlyStopping(patience=2, restore_best_weights=True),
            callbacks.ReduceLROnPlateau(patience=1),
            callbacks.CSVLogger(tmp_path / "log.csv"),
            callbacks.SwapEMAWeights(swap_on_epoch=True),
        ]

    model = MODELS["averages"]()
    expected = outcome(model, fit(model, tmp_path, more=watch(), epochs=6))
    rows = (tmp_path / "log.csv").read_text()
    assert interrupted(MODELS["averages"], 21, tmp_path, "epoch", watch, epochs=6) == expected
    assert (tmp_path / "log.csv").read_text() == rows


def test_a_scheduler_of_torch_goes_on(tmp_path):
    def watch():
        return [
            callbacks.TorchLRScheduler(
                lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=18), "batch"
            )
        ]

    model = compiled("sgd")
    expected = outcome(model, fit(model, tmp_path, more=watch()))
    assert interrupted(lambda: compiled("sgd"), 8, tmp_path, 3, watch) == expected


def test_metrics_of_torchmetrics_and_added_ones_go_on_in_the_middle_of_an_epoch(tmp_path):
    torchmetrics = pytest.importorskip("torchmetrics")

    def make():
        model = compiled()
        metric = torchmetrics.classification.MulticlassAccuracy(num_classes=2)
        model.compile("adam", model.loss, metrics=[metric, "accuracy"], run_eagerly=True)
        model.add_metric(lambda output: output.mean(), "mean", on="0")
        return model

    model = make()
    expected = outcome(model, fit(model, tmp_path))
    assert {"multiclass_accuracy", "mean"} <= expected[1].keys()
    assert interrupted(make, 10, tmp_path, 1) == expected


def test_a_model_that_gave_up_goes_on_in_the_same_process(tmp_path):
    model = compiled()
    expected = outcome(model, fit(model, tmp_path))
    model = compiled()
    with pytest.raises(KeyboardInterrupt):
        fit(model, tmp_path, step=10)
    assert outcome(model, fit(model, tmp_path)) == expected


def draws_as_when_the_file_was_written():
    """Return whether dropout draws the numbers that it drew then; that of torch 2.6 draws others."""
    torch.manual_seed(0)
    return nn.functional.dropout(torch.ones(8)).tolist() == [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 2.0, 2.0]


def test_a_state_of_the_first_version_still_goes_on(tmp_path):
    seen = []
    watch = callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(batch))
    whole = fit(compiled(), tmp_path)
    (tmp_path / "backup").mkdir()
    shutil.copy(Path(__file__).with_name("data") / "training_version_1.pt", tmp_path / "backup" / "latest.pt")
    history = fit(compiled(), tmp_path, more=[watch])
    assert seen == [2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert all(len(history[name]) == len(values) for name, values in whole.items())
    if draws_as_when_the_file_was_written():
        for name, values in whole.items():
            assert history[name] == pytest.approx(values, rel=1e-4)


def test_the_state_is_one_file_and_goes_when_training_ends(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), tmp_path, step=4)
    assert os.listdir(tmp_path / "backup") == ["latest.pt"]
    fit(compiled(), tmp_path)
    assert not (tmp_path / "backup").exists()


def test_the_state_may_be_kept(tmp_path):
    model = compiled()
    backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=backup)
    assert os.listdir(tmp_path) == ["latest.pt"]
    again = compiled()
    history = again.fit(X, Y, epochs=3, verbose=0, callbacks=backup).history
    assert (again.optimizer.iterations, len(history["loss"])) == (6, 3)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_the_state_before_the_last_serves_when_that_is_damaged(damage, tmp_path, capsys):
    def backup():
        return BackupAndRestore(tmp_path, save_freq=2, double_checkpoint=True)

    whole = compiled()
    expected = outcome(whole, whole.fit(X, Y, epochs=2, batch_size=8, verbose=0, callbacks=backup()).history)
    with pytest.raises(KeyboardInterrupt):
        compiled().fit(X, Y, epochs=2, batch_size=8, verbose=0, callbacks=[backup(), Stop(7)])
    assert sorted(os.listdir(tmp_path)) == ["latest.pt", "previous.pt"]
    latest = tmp_path / "latest.pt"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes(content[:-100] if damage == "cut" else content)
    if damage == "gone":
        latest.unlink()
    model = compiled()
    assert outcome(model, model.fit(X, Y, epochs=2, batch_size=8, verbose=0, callbacks=backup()).history) == expected
    assert "latest.pt" in capsys.readouterr().out


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / "latest.pt").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ValueError, match=r"latest\.pt"):
        compiled().fit(X, Y, verbose=0, callbacks=BackupAndRestore(tmp_path))


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"format": "torchfit training", "evil": Evil()}, tmp_path / "latest.pt")
    with pytest.raises(ValueError, match=r"latest\.pt.*was refused.*system"):
        compiled().fit(X, Y, verbose=0, callbacks=BackupAndRestore(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_the_state_of_another_training_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), tmp_path, step=4)
    other = torchfit.Model(nn.Linear(4, 2))
    other.compile("adam", nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"(?s)does not fit this training.*unexpected: 0\.weight"):
        fit(other, tmp_path)
    with pytest.raises(ValueError, match="interrupted after step 3 of an epoch of 6 steps, but now an epoch has 3"):
        fit(compiled(), tmp_path, batch_size=16)


def test_a_generator_goes_on_at_the_epoch_and_is_told_so(tmp_path):
    def batches():
        while True:
            for start in range(0, 64, 8):
                yield X[start : start + 8], Y[start : start + 8]

    options = {"epochs": 3, "steps_per_epoch": 8, "verbose": 0}
    whole = compiled()
    expected = outcome(whole, whole.fit(batches(), **options).history)
    with pytest.warns(UserWarning, match="an epoch cannot be resumed in the middle"), pytest.raises(KeyboardInterrupt):
        compiled().fit(batches(), callbacks=[BackupAndRestore(tmp_path, 3), Stop(20)], **options)
    model = compiled()
    with pytest.warns(UserWarning, match="an epoch cannot be resumed in the middle"):
        history = model.fit(batches(), callbacks=BackupAndRestore(tmp_path, 3), **options).history
    assert outcome(model, history) == expected


def test_a_folder_that_cannot_be_written_to_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = compiled()
    with pytest.raises(OSError, match="file"):
        model.fit(X, Y, verbose=0, callbacks=BackupAndRestore(tmp_path / "file" / "backup"))
    assert model.optimizer.iterations == 0


def test_a_state_of_a_callback_that_is_no_plain_data_is_named_before_training(tmp_path):
    class Mine(callbacks.Callback):
        def state_dict(self):
            return {"lock": object()}

    model = compiled()
    with pytest.raises(TypeError, match=r"Mine 1.*lock"):
        model.fit(X, Y, verbose=0, callbacks=[Mine(), BackupAndRestore(tmp_path)])
    assert model.optimizer.iterations == 0


def test_a_full_disk_ends_training_with_the_file_named_and_the_last_state_whole(tmp_path, monkeypatch):
    calls = iter(range(100))
    write = os.fsync

    def full(descriptor):
        if next(calls) > 5:
            raise OSError(28, "No space left on device")
        write(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        fit(compiled(), tmp_path)
    assert caught.value.filename == str(tmp_path / "backup" / "latest.pt")
    monkeypatch.undo()
    assert os.listdir(tmp_path / "backup") == ["latest.pt"]
    model = compiled()
    expected = outcome(model, fit(model, tmp_path / "other"))
    again = compiled()
    assert outcome(again, fit(again, tmp_path)) == expected


def test_a_step_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    write, step_began, files = os.fsync, threading.Event(), []

    def hold(descriptor):
        files.append(step_began.wait(60))
        write(descriptor)

    monkeypatch.setattr(os, "fsync", hold)
    watch = callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: step_began.set() if batch == 5 else None)
    compiled().fit(X, Y, batch_size=8, verbose=0, callbacks=[BackupAndRestore(tmp_path, 3), watch])
    assert all(files)
    assert len(files) >= 2  # after the third and the sixth step


@pytest.mark.parametrize(
    "arguments", [{"backup_dir": ""}, {"backup_dir": 3}, {"backup_dir": "a", "save_freq": 0}, {"save_freq": "batch"}]
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"backup_dir|save_freq"):
        BackupAndRestore(**{"backup_dir": "a", **arguments})


def test_outside_of_fit_there_is_nothing_to_store(tmp_path):
    with pytest.raises(RuntimeError, match="works in `fit` only"):
        callbacks.CallbackList(BackupAndRestore(tmp_path), model=compiled()).on_train_begin()


class AtEpoch(callbacks.Callback):
    """Changes something about the optimizer at the start of an epoch."""

    def __init__(self, change, epoch=1):
        self.change, self.at = change, epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            self.change(self.model)


def add_group(model):
    model.optimizer.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.1})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda model: model.compile("sgd", model.loss), "a callback replaced the optimizer"),
        (add_group, r"parameter groups of the optimizer: \[6\] parameters before, \[6, 1\] now"),
    ],
    ids=["compile", "group"],
)
def test_a_state_that_could_not_be_resumed_is_refused_when_it_is_written(change, problem, tmp_path):
    model = compiled(lambda: torch.optim.SGD)
    epochs = []
    count = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    with pytest.raises(ValueError, match=rf"BackupAndRestore: .*{problem}"):
        fit(model, tmp_path, save_freq="epoch", more=[AtEpoch(change), count])
    assert epochs == [0, 1]


@pytest.mark.filterwarnings("ignore")
def test_groups_that_are_there_from_the_start_are_resumed(tmp_path):
    def make():
        model = compiled()
        groups = [{"params": [parameter], "lr": 0.01} for parameter in model.module.parameters()]
        model.compile(torch.optim.SGD(groups), "mse")
        model.compile(model.optimizer, torchfit.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    model = make()
    expected = outcome(model, fit(model, tmp_path))
    assert interrupted(make, 10, tmp_path) == expected


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr("torchfit.callbacks.backup_and_restore._CHUNK_EPOCHS", 2)


@pytest.mark.parametrize("save_freq", [1, "epoch"])
@pytest.mark.parametrize("step", [33, 42])
def test_a_history_in_chunks_is_resumed(step, save_freq, tmp_path, short_chunks):
    options = {"epochs": 8, "validation_freq": 3}
    model = compiled()
    expected = outcome(model, fit(model, tmp_path, **options))
    assert interrupted(compiled, step, tmp_path, save_freq, **options) == expected
    assert not (tmp_path / "backup").exists()


def test_states_do_not_grow_with_the_history(tmp_path, short_chunks):
    sizes = []
    size = callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: sizes.append(
            sum(file.stat().st_size for file in tmp_path.glob("backup/latest.pt"))
        )
    )
    history = fit(compiled(), tmp_path, save_freq="epoch", more=[size], epochs=20)
    assert len(history["loss"]) == 20
    assert max(sizes[3:]) - min(sizes[3:]) < 256


def test_a_missing_part_of_the_history_is_told(tmp_path, short_chunks):
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), tmp_path, 40, epochs=8)
    (tmp_path / "backup" / "history_0.pt").unlink()
    with pytest.raises(ValueError, match=r"history_0\.pt.*is missing"):
        fit(compiled(), tmp_path, epochs=8)


def test_two_backups_of_one_run_do_not_mix_their_histories(tmp_path, short_chunks):
    model = compiled()
    expected = outcome(model, fit(model, tmp_path, epochs=8))
    second = [BackupAndRestore(tmp_path / "second", save_freq=4)]
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), tmp_path, 33, more=second, epochs=8)
    shutil.rmtree(tmp_path / "backup")
    os.rename(tmp_path / "second", tmp_path / "backup")
    model = compiled()
    assert outcome(model, fit(model, tmp_path, epochs=8)) == expected
