import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit.utils import LRFinderResult, lr_find

x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
y = x.sum(1, keepdims=True)


def compiled(optimizer="adam"):
    model = torchfit.Model(
        nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1)), device="cpu"
    )
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


@pytest.mark.parametrize("optimizer", ["adam", torch.optim.SGD, "bound"])
@pytest.mark.parametrize("was_trained", [False, True])
def test_nothing_changes(optimizer, was_trained):
    model = compiled("adam" if optimizer == "bound" else optimizer)
    if optimizer == "bound":
        model.compile(torch.optim.Adam(model.parameters(), lr=0.25), "mse")
    if was_trained:
        model.fit(x, y, verbose=0)
    weights, rate, state = model.get_weights(), model.optimizer.learning_rate, torch.get_rng_state()
    was_built = model.optimizer.built
    iterations, history, numpy_state = model.optimizer.iterations, model.history, np.random.get_state()[1].copy()
    found = lr_find(model, x, y, batch_size=16, steps=30)
    assert 2 <= len(found.losses) <= 30
    assert all(map(np.array_equal, weights, model.get_weights()))
    assert torch.equal(state, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_state).all()
    assert (model.optimizer.learning_rate, model.optimizer.iterations) == (rate, iterations)
    assert model.history is history
    assert model.optimizer.built is was_built


def test_the_suggestion_is_where_the_loss_falls():
    found = lr_find(compiled("sgd"), x, y, batch_size=16, steps=60, start=1e-6, end=100.0)
    assert 1e-3 < found.suggestion < 1.0
    assert found.losses[-1] > min(found.losses)


def test_no_suggestion_where_nothing_falls():
    assert LRFinderResult([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]).suggestion is None
    assert "suggestion none" in repr(LRFinderResult([], []))


def test_the_picture_has_names():
    axes = lr_find(compiled(), x, y, steps=20).plot().axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("learning rate", "loss (smoothed)", "log")


@pytest.mark.parametrize("options", [{"start": 1, "end": 0.1}, {"steps": 1}, {"smoothing": 1.0}])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        lr_find(compiled(), x, y, **options)
