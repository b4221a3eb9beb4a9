"""The callbacks on a real training."""

import csv

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import StepLR

import torchfit
from torchfit import callbacks
from torchfit.optimizers import SGD, Adam


@pytest.fixture
def data():
    x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64")


@pytest.fixture
def model():
    model = torchfit.Model(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)))
    loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(0.01), loss, metrics=["accuracy"])
    return model


def test_all_together(model, data, tmp_path, capsys):
    history = model.fit(
        *data,
        epochs=3,
        verbose=2,
        validation_split=0.25,
        callbacks=[
            callbacks.EarlyStopping("val_accuracy", patience=5, restore_best_weights=True),
            callbacks.ReduceLROnPlateau(patience=5),
            callbacks.CSVLogger(tmp_path / "log.csv"),
            callbacks.TensorBoard(tmp_path / "board", histogram_freq=1, update_freq=2),
            callbacks.TerminateOnNaN(),
            callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(mine=float(epoch))),
        ],
    )
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "mine"]
    assert history.epoch == [0, 1, 2]
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == history.history["loss"]
    assert [line[:5] for line in capsys.readouterr().out.splitlines()] == ["Epoch", "3/3 -"] * 3
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == ["train", "validation"]


def test_the_best_weights_come_back(model, data):
    stopping = callbacks.EarlyStopping("loss", mode="max", patience=5, restore_best_weights=True)
    model.fit(*data, epochs=3, verbose=0, callbacks=stopping)
    assert stopping.best_epoch == 0
    assert stopping.best_weights is not None
    assert all(map(np.array_equal, model.get_weights(), stopping.best_weights))


@pytest.mark.parametrize("optimizer", [lambda: SGD(0.5), lambda: torch.optim.SGD])
def test_a_scheduler_of_torch(model, data, optimizer):
    model.compile(optimizer(), model.loss)
    halve = callbacks.TorchLRScheduler(lambda optimizer: StepLR(optimizer, 1, 0.5))
    rates = model.fit(*data, epochs=3, verbose=0, callbacks=[halve]).history["learning_rate"]
    assert rates == [rates[0], rates[0] / 2, rates[0] / 4]


@pytest.mark.parametrize(
    ("monitor", "split", "message"),
    [
        ("val_acuracy", 0.25, "'val_acuracy' does not occur.*Names that do: loss, accuracy, val_loss, val_accuracy"),
        ("val_loss", 0, "'val_loss' does not occur.*Names that do: loss, accuracy. There is no validation"),
    ],
)
def test_a_misspelt_monitor_is_found_before_the_first_step(model, data, monitor, split, message):
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0, validation_split=split, callbacks=[callbacks.EarlyStopping(monitor)])
    assert model.optimizer.iterations == 0


class TwoHeads(torch.nn.Module):
    """Counts its calls, draws random numbers, and logs a value."""

    def __init__(self):
        super().__init__()
        self.heads = torch.nn.ModuleList([torch.nn.Linear(4, 2), torch.nn.Linear(4, 1)])
        self.norm = torch.nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = torch.nn.functional.dropout(self.norm(x), 0.5)
        torchfit.add_metric(x.mean(), "mean")
        return self.heads[0](x), self.heads[1](x)


def test_names_of_several_outputs_are_known_before_the_first_step_without_a_trace(data):
    x, y = data
    net = TwoHeads()
    model = torchfit.Model(net)
    model.compile("sgd", [torch.nn.CrossEntropyLoss(), "mse"], metrics=[["accuracy"], ["mae"]])
    generators = torch.get_rng_state()
    names = "loss, output_1_loss, output_2_loss, output_1_accuracy, output_2_mae, mean"
    with pytest.raises(ValueError, match=f"Names that do: {names}"):
        model.fit(x, [y, x[:, 0]], shuffle=False, verbose=0, callbacks=[callbacks.EarlyStopping("accuracy")])
    assert (net.calls, int(net.norm.num_batches_tracked)) == (0, 0)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), generators)
    model.fit(x, [y, x[:, 0]], verbose=0, callbacks=[callbacks.EarlyStopping("output_2_mae")])


def test_names_that_cannot_be_known_are_looked_for_after_the_first_epoch(data):
    class DependsOnValues(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1 if x.sum() > 0 else -1)

    model = torchfit.Model(DependsOnValues(4, 1))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"'val_los' does not occur in the logs. Names that do: loss"):
        model.fit(*data, verbose=0, callbacks=[callbacks.EarlyStopping("val_los")])
    assert model.optimizer.iterations == 3


def test_evaluation_sees_the_averages(model, data):
    model.compile(SGD(0.1, use_ema=True, ema_momentum=0.5), model.loss)
    seen = []
    watch = callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append(model.get_weights()),
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()),
    )
    model.fit(*data, verbose=0, validation_split=0.25, callbacks=[callbacks.SwapEMAWeights(), watch])
    averages, trained = seen
    assert not np.array_equal(averages[0], trained[0])
