"""Own steps, evaluation, prediction, callbacks and agreements of several processes."""

import os
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import torchfit
from tests.distributed.cases import CROSSENTROPY, LABELS, ROWS, WEIGHTS, X, compiled, network, trained
from tests.distributed.test_objectives import STEPS, Sequences
from torchfit import callbacks, distribution, losses, metrics, optimizers

# -- steps of the user -------------------------------------------------------------------------------------


class Keras(torchfit.Model):
    """The first example of Keras' guide."""

    def train_step(self, data):
        x, y, sample_weight = (*data, None)[:3]
        y_pred = self(x, training=True)
        loss = self.compute_loss(x, y, y_pred, sample_weight)
        self.zero_grad()
        loss.backward()
        self.optimizer.apply([v.grad for v in self.trainable_weights], self.trainable_weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


class Numbers(Keras):
    """Returns numbers that are read in the step, and some that belong to no metric."""

    def train_step(self, data):
        results = super().train_step(data)
        return {**{name: float(value) for name, value in results.items()}, "mean": data[0].mean(), "one": 1}


class CallsSuper(torchfit.Model):
    def train_step(self, data):
        results = dict(super().train_step(data))
        return {**results, "twice": 2 * results["loss"]}

    def test_step(self, data):
        return {**dict(super().test_step(data)), "rows": 1.0}


class TwoOptimizers(torchfit.Model):
    def compile(self, *arguments, **named):
        super().compile(*arguments, **named)
        first, second = self.module[0], self.module[2]
        self.first = torch.optim.AdamW(first.parameters(), 0.01)
        self.others = [optimizers.SGD(0.1, gradient_accumulation_steps=2)]
        self.others[0].build(list(second.parameters()))
        self.tracker = metrics.Mean(name="tracked")

    def train_step(self, data):
        x, y = data
        loss = CROSSENTROPY(y, self(x))
        self.zero_grad()
        loss.backward()
        self.first.step()
        self.others[0].step()
        self.tracker.update_state(loss, len(x))
        return {"tracked": self.tracker.result(), "loss": loss}


class OwnLossAndMetrics(torchfit.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight) + y_pred.square().mean()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = dict(super().compute_metrics(x, y, y_pred, sample_weight))
        return {**results, "inverse": 1 / results["accuracy"]}


def with_own_step(kind, sequences=False, optimizer="adam", **settings):
    model = kind(Sequences() if sequences else network(), device="cpu")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1 if sequences else None)
    model.compile(optimizer, loss, ["accuracy"])
    return trained(model, X, STEPS if sequences else LABELS, validation_split=0.3, **settings)


@pytest.mark.parametrize("kind", [Keras, Numbers, CallsSuper, TwoOptimizers, OwnLossAndMetrics])
def test_own_steps(everywhere, kind):
    everywhere(with_kind, kind.__name__, sizes=(2, 3))


def with_kind(name, **settings):
    return with_own_step(globals()[name], **settings)


def test_own_steps_with_masks_and_weights_and_other_optimizers(everywhere):
    everywhere(with_kind, "Keras", sequences=True, sizes=(2, 3))
    everywhere(with_kind, "Keras", sample_weight=WEIGHTS)
    everywhere(with_torch_optimizer)


def with_torch_optimizer():
    return with_own_step(Keras, optimizer=torch.optim.AdamW)


def with_batch_norm():
    torch.manual_seed(0)
    model = Keras(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3)), device="cpu")
    model.compile("sgd", CROSSENTROPY, ["accuracy"])
    return trained(model, batch_size=37)


def test_an_own_step_with_batch_norm_and_dropout(everywhere):
    everywhere(with_batch_norm, sizes=(2, 3))


# -- evaluate and predict ----------------------------------------------------------------------------------


class Nested(nn.Module):
    def forward(self, x):
        return {"sum": x.sum(1), "pair": (x[:, :2], x.double())}


def evaluations():
    model = compiled(network(), metrics=["accuracy", metrics.SparseTopKCategoricalAccuracy(2)])
    listened = []
    listener = callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: listened.append(dict(logs)))
    return [
        *(model.evaluate(X, LABELS, batch_size=size, verbose=0, sample_weight=WEIGHTS) for size in (1, 5, 32)),
        model.evaluate(X[:1], LABELS[:1], verbose=0),
        model.evaluate(X, LABELS, batch_size=40, verbose=0, callbacks=[listener], return_dict=True),
        listened,
        model.test_on_batch(X, LABELS),
    ]


def predictions(folder):
    module = network()
    model = torchfit.Model(module, device="cpu")
    out = np.lib.format.open_memmap(f"{folder}/{distribution.rank()}.npy", "w+", "float32", (ROWS, 3))
    model.predict(X, out=out)
    return [
        *(model.predict(X[:rows], batch_size=size) for rows, size in ((65, 32), (1, 32), (2, 1), (ROWS, 7))),
        torchfit.Model(Nested(), device="cpu").predict(X),
        model.predict(DataLoader(TensorDataset(torch.from_numpy(X)), 10)),
        list(model.predict_iter(X, batch_size=50)),
        out,
        model.predict_on_batch(X[:3]),
    ]


class Boxes(nn.Module):
    """Returns a list with an entry for each sample, as detectors do."""

    def forward(self, x):
        return [{"box": row[: 1 + int(row[0] > 0)], "name": "box"} for row in x]


def boxes():
    return torchfit.Model(Boxes(), device="cpu").predict(X, batch_size=10)


def test_evaluation_and_prediction(everywhere, tmp_path):
    everywhere(evaluations, sizes=(2, 3))
    everywhere(predictions, tmp_path, sizes=(2, 3))
    everywhere(boxes)


# -- costs -------------------------------------------------------------------------------------------------


def sums():
    """Return how many tensors are summed by a step, an evaluation and a prediction."""
    model, counted = compiled(network()), []

    class Count(callbacks.Callback):
        reads_logs_synchronously = True

        def on_train_batch_end(self, batch, logs=None):
            counted.append(num_sums())

    def num_sums():
        return sum(call.args[1:] == (dist.ReduceOp.SUM,) for call in all_reduce.mock_calls)

    with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
        model.fit(X[:64], LABELS[:64], batch_size=8, verbose=0, callbacks=[Count()])
        before = num_sums()
        model.evaluate(X, LABELS, batch_size=8, verbose=0)
        after = num_sums()
        model.predict(X, batch_size=8)
        return np.diff(counted).tolist(), after - before, num_sums() - after


def test_one_sum_for_a_step_and_one_for_an_evaluation(pools):
    assert pools(2).run(sums) == [([1] * 7, 1, 0)] * 2


# -- agreements --------------------------------------------------------------------------------------------


def unseeded():
    torch.manual_seed(distribution.rank())
    np.random.seed(distribution.rank())
    model = compiled(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)))
    before = model.get_weights()
    history = model.fit(X, LABELS, verbose=0).history
    return before, history, model.get_weights()


def test_without_a_seed_the_weights_are_those_of_the_primary_process(pools):
    (before, history, after), (other, *others) = pools(2).run(unseeded)
    assert not np.array_equal(before[0], other[0])
    assert others[0] == history
    assert all(np.array_equal(a, b) for a, b in zip(others[1], after))


class Stops(callbacks.Callback):
    """Stops in one process alone, after an epoch or a step."""

    def __init__(self, step=None):
        self.step, self.steps = step, 0
        if step is not None:
            self.on_train_batch_end = self.count

    def count(self, batch, logs=None):
        self.steps += 1
        self.model.stop_training = self.steps == self.step and distribution.rank() == 1

    def on_epoch_end(self, epoch, logs=None):
        if self.step is None and epoch == 2 and distribution.rank() == 1:
            self.model.stop_training = True


def stopped(step):
    model, stops = compiled(network()), Stops(step)
    model.fit(X, LABELS, batch_size=16, epochs=9, verbose=0, callbacks=[stops])
    return len(model.history.epoch), stops.steps, model.optimizer.iterations


@pytest.mark.parametrize(("step", "expected"), [(None, (3, 0, 24)), (11, (2, 11, 11))])
def test_all_stop_when_one_does(pools, step, expected):
    assert pools(2).run(stopped, step) == [expected] * 2


def files(folder):
    os.chdir(folder)
    model = compiled(network())
    checkpoint = callbacks.ModelCheckpoint("best-{epoch}.pt", monitor="val_loss", save_best_only=True)
    written = [callbacks.CSVLogger("log.csv"), callbacks.TensorBoard("board"), checkpoint]
    early = callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    model.fit(X, LABELS, epochs=3, validation_split=0.3, verbose=2, callbacks=[*written, early])
    if distribution.is_primary():
        model.save("model.pt")
    return model.evaluate(X, LABELS, verbose=0)


def test_one_process_writes(pools, tmp_path):
    first, second = pools(2).run(files, tmp_path)
    assert first == second
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    assert len(list((tmp_path / "board").rglob("events*"))) == 2  # One for training, one for validation.
    loaded = torchfit.models.load_model(tmp_path / "model.pt")
    assert loaded.evaluate(X, LABELS, verbose=0) == pytest.approx(first, rel=1e-6)


class Largest(metrics.Metric):
    def __init__(self, aggregation):
        super().__init__(name="largest")
        self.value = self.add_variable((), -9.0, aggregation=aggregation, name="value")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(torch.maximum(self.value, y_pred.max()))

    def result(self):
        return self.value


def largest(aggregation):
    return trained(compiled(network(), metrics=[Largest(aggregation)]), validation_split=0.3)


def test_a_state_that_is_no_sum(everywhere, pools):
    everywhere(largest, "max", sizes=(2, 3))
    for message in pools(2, forks=True).run(refusal, "state"):
        assert "the metric 'largest'" in message
        assert 'aggregation="max"' in message


def torchmetrics_results():
    import torchmetrics

    found = (torchmetrics.classification.MulticlassAUROC(3),)
    model = torchfit.Model(nn.Softmax(1), device="cpu")
    model.compile("sgd", None, [found[0]])
    return model.evaluate(X[:, :3], LABELS, batch_size=16, verbose=0, return_dict=True)


def test_metrics_of_torchmetrics(everywhere):
    everywhere(torchmetrics_results)


# -- refusals ----------------------------------------------------------------------------------------------


def refusal(what):
    try:
        REFUSED[what]()
    except (ValueError, RuntimeError) as error:
        return str(error)


def different_arrays():
    compiled(network()).fit(np.random.RandomState(distribution.rank()).rand(20, 8).astype("float32"), LABELS[:20])


def different_lengths():
    compiled(network()).fit(
        X, LABELS, validation_data=(X[: 10 + distribution.rank()], LABELS[: 10 + distribution.rank()])
    )


def different_streams():
    compiled(network()).fit(
        ((X[i : i + 8], LABELS[i : i + 8]) for i in range(0, 64 - 8 * distribution.rank(), 8)), verbose=0
    )


def different_streams_with_batch_norm():
    rows = 64 - 8 * distribution.rank()
    model = compiled(nn.Sequential(nn.BatchNorm1d(8), network()))
    model.fit(((X[i : i + 8], LABELS[i : i + 8]) for i in range(0, rows, 8)), verbose=0)


def different_arguments():
    compiled(network()).fit(X, LABELS, batch_size=8 + distribution.rank())


def distributed_sampler():
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS))
    compiled(network()).fit(DataLoader(data, 8, sampler=DistributedSampler(data)))


def changes_a_parameter():
    model = compiled(network())

    def change(epoch, logs):
        if distribution.rank() == 1:
            with torch.no_grad():
                model.module[0].bias.add_(1)

    model.fit(X, LABELS, epochs=3, verbose=0, callbacks=[callbacks.LambdaCallback(on_epoch_begin=change)])


def ragged():
    compiled(network()).fit(iter([(torch.ones(4, 8), torch.ones(3, dtype=torch.long))]), verbose=0)


REFUSED = {
    "arrays": different_arrays,
    "lengths": different_lengths,
    "streams": different_streams,
    "streams with BatchNorm": different_streams_with_batch_norm,
    "arguments": different_arguments,
    "sampler": distributed_sampler,
    "parameter": changes_a_parameter,
    "ragged": ragged,
    "wrapped": lambda: torchfit.Model(nn.DataParallel(network())),
    "ddp": lambda: torchfit.Model(nn.parallel.DistributedDataParallel(network())),
    "models": lambda: compiled(nn.Linear(8, 3 + distribution.rank())).fit(X, LABELS),
    "state": lambda: largest("sum"),
}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("arrays", "`x` differs between process 0 and process 1"),
        ("lengths", "`validation_data, x` differs between process 0 and process 1: (10, 8) float32"),
        ("streams", "The batches of the processes differ: this one has "),
        ("streams with BatchNorm", "The batches of the processes differ: this one has "),
        ("arguments", "`batch_size` is 8 on process 0 and 9 on process 1"),
        ("sampler", "DataLoader with a DistributedSampler, which repeats rows"),
        ("parameter", "The parameter '0.bias' is not the same in all processes"),
        ("ragged", "all of its parts must be tensors with the same number of rows"),
        ("wrapped", "The module is wrapped in DataParallel"),
        ("models", "The models of the processes differ"),
    ],
)
def test_what_is_refused(pools, what, expected):
    for message in pools(2, forks=True).run(refusal, what):
        assert expected in message
