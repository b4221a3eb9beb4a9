import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model
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
