import itertools

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, add_loss, add_metric
from torchfit._trainer.predictions import Predictions
from torchfit.callbacks import LambdaCallback

X, Y = np.random.default_rng(0).random((10, 2)), np.ones((10, 1))


def fitted(epochs=1, **options):
    torch.manual_seed(0)
    model, begun, ended = Model(nn.Linear(2, 1), device="cpu"), [], []
    model.compile("sgd", "mse", **options)
    note = LambdaCallback(
        on_train_batch_begin=lambda batch, logs: begun.append(batch),
        on_train_batch_end=lambda batch, logs: ended.append(batch),
    )
    history = model.fit(X, Y, batch_size=1, epochs=epochs, shuffle=False, verbose=0, callbacks=[note])
    return model, history.history, begun, ended


def test_groups_of_batches():
    _, _, begun, ended = fitted(steps_per_execution=4)
    assert (begun, ended) == ([0, 4, 8], [3, 7, 9])


@pytest.mark.parametrize("steps", [1, 2, 10, 99])
def test_groups_change_no_number(steps):
    model, history, _, _ = fitted(epochs=2, steps_per_execution=steps)
    alone, expected, _, _ = fitted(epochs=2)
    assert history == expected
    np.testing.assert_array_equal(model.get_weights()[0], alone.get_weights()[0])
    assert model.optimizer.iterations == 20


@pytest.mark.parametrize("steps", [1, 3])
def test_evaluation_and_prediction_in_groups(steps):
    model, *_ = fitted(steps_per_execution=steps)
    alone, *_ = fitted()
    assert model.evaluate(X, Y, batch_size=3, verbose=0) == alone.evaluate(X, Y, batch_size=3, verbose=0)
    np.testing.assert_array_equal(model.predict(X, batch_size=3), alone.predict(X, batch_size=3))


class Counting(nn.Module):
    """Notes in which order it and the loss and metrics behind it run."""

    def __init__(self, events, outputs=1):
        super().__init__()
        self.linear, self.events, self.outputs = nn.Linear(2, outputs), events, outputs

    def forward(self, x):
        self.events.append(f"forward {len(x)}")
        return self.linear(x)


def noting(events, function):
    def noted(*arguments):
        events.append("loss")
        return function(*arguments)

    return noted


def evaluated(module=None, loss="mse", x=X, **options):
    torch.manual_seed(0)
    events = []
    model = Model(module or Counting(events), device="cpu")
    model.compile("sgd", loss, metrics=["mae"])
    objective_loss = model._torchfit.state.objective.loss
    model._torchfit.state.objective.loss = noting(events, objective_loss)
    return model.evaluate(x, Y, batch_size=2, verbose=0, **options), events


ONE_BY_ONE = ["forward 2", "loss"] * 5


def test_small_steps_that_nobody_hears_are_evaluated_in_turns():
    _, events = evaluated()
    assert events == ["forward 2", "loss", *["forward 2"] * 4, *["loss"] * 4]


def test_turns_change_no_number():
    listened = [LambdaCallback(on_test_batch_end=lambda batch, logs: None)]
    together, _ = evaluated()
    alone, events = evaluated(callbacks=listened)
    assert together == alone
    assert events == ONE_BY_ONE


def test_what_a_user_wrote_sees_one_batch_at_a_time():
    _, events = evaluated(loss=lambda y_true, y_pred: (y_true - y_pred).square())
    assert events == ONE_BY_ONE


def test_batches_that_are_made_one_by_one_are_not_gathered_first():
    torch.manual_seed(0)
    events = []

    def batches():
        for start in range(0, 10, 2):
            events.append("batch")
            yield X[start : start + 2], Y[start : start + 2]

    model = Model(Counting(events), device="cpu")
    model.compile("sgd", "mse")
    model.evaluate(batches(), verbose=0)
    assert events == ["batch", "forward 2"] * 5


class Reusing(nn.Module):
    """Writes its outputs into the same memory, or into several buffers in turn."""

    def __init__(self, buffers=1):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.outputs = itertools.cycle([torch.zeros(2, 1) for _ in range(buffers)])

    def forward(self, x):
        return next(self.outputs).copy_(self.linear(x).detach())


class Adding(nn.Linear):
    """Adds a loss and a metric to every batch."""

    def forward(self, x):
        add_loss(x.sum())
        add_metric(x.sum(), "inputs")
        return super().forward(x)


@pytest.mark.parametrize("module", [Reusing, lambda: Reusing(2), lambda: Reusing(4), lambda: Adding(2, 1)])
def test_steps_that_depend_on_each_other_are_made_one_by_one(module):
    torch.manual_seed(1)
    module = module()
    listened = [LambdaCallback(on_test_batch_end=lambda batch, logs: None)]
    assert evaluated(module)[0] == evaluated(module, callbacks=listened)[0]
    model = Model(module, device="cpu")
    alone = np.concatenate([model.predict_on_batch(X[start : start + 2]).copy() for start in range(0, 10, 2)])
    np.testing.assert_array_equal(model.predict(X, batch_size=2), alone)


def test_large_outputs_are_predicted_one_batch_at_a_time():
    events = []
    model = Model(Counting(events, outputs=40_000), device="cpu")
    kept = Predictions.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictions, "append", lambda self, outputs: events.append("keep") or kept(self, outputs))
        model.predict(X, batch_size=2)
    assert events == ["forward 2", "keep"] * 5
