"""`fit`, `evaluate` and `predict` in plain cases: signatures, results, epochs, seeds."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, optimizers
from torchfit.callbacks import History, LambdaCallback

X, Y = np.random.default_rng(0).random((10, 3)), np.ones((10, 1))


@pytest.fixture
def model():
    model = Model(nn.Linear(3, 1), device="cpu")
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def arguments_of(method):
    return [name for name in inspect.signature(getattr(Model, method)).parameters if name != "self"]


SIGNATURES = {
    "compile": "optimizer loss metrics loss_weights weighted_metrics run_eagerly steps_per_execution",
    "fit": "x y batch_size epochs verbose callbacks validation_split validation_data shuffle class_weight "
    "sample_weight initial_epoch steps_per_epoch validation_steps validation_batch_size validation_freq "
    "max_queue_size workers use_multiprocessing",
    "evaluate": "x y batch_size verbose sample_weight steps callbacks max_queue_size workers use_multiprocessing "
    "return_dict",
    "train_on_batch": "x y sample_weight class_weight reset_metrics return_dict",
    "test_on_batch": "x y sample_weight reset_metrics return_dict",
    "predict_on_batch": "x",
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_arguments_come_in_the_order_of_the_reference(method):
    expected = SIGNATURES[method].split()
    assert arguments_of(method)[: len(expected)] == expected


def test_fit_returns_the_history(model):
    history = model.fit(X, Y, epochs=3, verbose=0)
    assert isinstance(history, History)
    assert model.history is history
    assert history.epoch == [0, 1, 2]
    assert {name: len(values) for name, values in history.history.items()} == {"loss": 3, "mae": 3}


def test_results_of_an_evaluation(model):
    loss, mae = model.evaluate(X, Y, verbose=0)
    assert model.evaluate(X, Y, verbose=0, return_dict=True) == {"loss": loss, "mae": mae}
    assert model.metrics_names == ["loss", "mae"]
    model.compile("sgd", "mse")
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(loss)


def test_losses_are_averaged_over_rows(model):
    """A ragged last batch counts for as much as it has rows."""
    assert model.evaluate(X, Y, batch_size=4, verbose=0) == pytest.approx(
        model.evaluate(X, Y, batch_size=10, verbose=0)
    )


def test_predictions_keep_the_structure():
    class Both(nn.Module):
        def forward(self, x):
            return {"sum": x.sum(1, keepdim=True), "parts": (x, x[:, 0])}

    found = Model(Both(), device="cpu").predict(X, batch_size=4)
    assert found["sum"].shape == (10, 1)
    assert [part.shape for part in found["parts"]] == [(10, 3), (10,)]
    np.testing.assert_allclose(found["parts"][0], X, rtol=1e-6)


def test_prediction_is_in_evaluation_mode_without_gradients():
    model = Model(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), device="cpu")
    np.testing.assert_array_equal(model.predict(X), model.predict(X))
    np.testing.assert_array_equal(model.predict(X), model.predict_on_batch(X))


def test_batches_shuffle_by_the_seed(model):
    first = model.get_weights()
    losses = []
    for seed in (1, 1, 2):
        model.set_weights(first)
        torch.manual_seed(seed)
        losses.append(model.fit(X, Y * np.arange(10)[:, None], batch_size=2, verbose=0).history["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_an_optimizer_is_bound_at_the_first_step(model):
    mine = optimizers.Adam(0.01)
    model.compile(mine, "mse")
    assert model.optimizer is mine
    assert not mine.built
    model.fit(X, Y, verbose=0)
    assert (mine.built, mine.iterations) == (True, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: torch.optim.SGD(net.parameters(), lr=0.01),
        lambda net: torch.optim.SGD,
        lambda net: lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    ],
    ids=["object", "class", "factory"],
)
def test_optimizers_of_torch(make):
    net = nn.Linear(3, 1)
    model, before = Model(net, device="cpu"), net.weight.detach().clone()
    model.compile(make(net), "mse")
    model.fit(X, Y, verbose=0)
    assert not torch.equal(net.weight, before)


def test_epochs_of_validation(model):
    history = model.fit(X, Y, epochs=5, validation_data=(X, Y), validation_freq=[1, 4], verbose=0).history
    assert (len(history["loss"]), len(history["val_loss"])) == (5, 2)
    history = model.fit(X, Y, epochs=5, validation_data=(X, Y), validation_freq=2, verbose=0).history
    assert len(history["val_loss"]) == 2


def test_a_train_step_of_ones_own():
    class Mine(Model):
        def train_step(self, batch):
            x, y = batch
            loss = ((self(x, training=True) - y) ** 2).mean()
            loss.backward()
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
            return {"mine": loss}

    model = Mine(nn.Linear(3, 1), device="cpu")
    model.compile()
    history = model.fit(X, Y, epochs=3, verbose=0).history
    assert list(history) == ["mine"]
    assert history["mine"][0] > history["mine"][-1]


def test_a_loss_of_ones_own():
    class Mine(Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return (y_pred - y).abs().mean() * 2

    model = Mine(nn.Linear(3, 1), device="cpu")
    model.compile("sgd", metrics=["mae"])
    loss, mae = model.evaluate(X, Y, verbose=0)
    assert loss == pytest.approx(2 * mae)
    assert list(model.fit(X, Y, verbose=0).history) == ["loss", "mae"]


def test_results_before_data_were_seen(model):
    assert model.metrics_names == ["loss"]
    assert Model(nn.Linear(1, 1), device="cpu").metrics_names == []
    model.reset_metrics()


def test_averages_of_weights_are_written_back_at_the_end(model):
    seen = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(model.get_weights()))
    model.compile(optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[watch])
    for average, first, second, third in zip(model.get_weights(), *seen, strict=True):
        np.testing.assert_allclose(average, (first + second) / 4 + third / 2, rtol=1e-6)
        assert not np.array_equal(average, third)
