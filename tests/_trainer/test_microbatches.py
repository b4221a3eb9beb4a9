import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, losses, optimizers

x = np.random.RandomState(0).rand(50, 6).astype("float32")
y = (x.sum(axis=1) > 3).astype("int64")


class Hungry(nn.Module):
    """Runs out of memory on more than so many rows."""

    def __init__(self, rows=1000):
        super().__init__()
        self.layer, self.rows = nn.Linear(6, 2), rows

    def forward(self, inputs):
        if self.training and len(inputs) > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        return self.layer(inputs)


def trained(module=None, reduction="sum_over_batch_size", **compile_arguments):
    torch.manual_seed(0)
    model = Model(module or Hungry())
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile("adam", loss, ["accuracy"], **compile_arguments)
    weights = np.linspace(0, 2, len(x))
    history = model.fit(x, y, epochs=2, batch_size=16, shuffle=False, sample_weight=weights, verbose=0)
    return history.history, model


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
@pytest.mark.parametrize("size", [1, 5, 16, 100])
def test_parts_give_the_gradients_of_the_whole_batch(size, reduction):
    whole, model = trained(reduction=reduction)
    parts, other = trained(reduction=reduction, microbatch=size)
    for name in whole:
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)
    for one, two in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_auto_halves_the_rows_until_they_fit_and_says_so_each_time(caplog):
    with caplog.at_level(logging.WARNING, "torchfit"):
        parts, _ = trained(Hungry(rows=5), microbatch="auto")
    assert [record.args for record in caplog.records] == [(16, 8), (16, 4)]
    assert parts["loss"] == pytest.approx(trained()[0]["loss"], rel=1e-5)


def test_what_does_not_fit_with_one_row_is_out_of_memory():
    with pytest.raises(torch.OutOfMemoryError):
        trained(Hungry(rows=0), microbatch="auto")


def test_a_given_number_is_kept_even_when_memory_runs_out():
    with pytest.raises(torch.OutOfMemoryError):
        trained(Hungry(rows=4), microbatch=5)


class TooLargeForTheHost(nn.Module):
    """Asks for more memory than any machine has, for more than so many rows."""

    def __init__(self, rows):
        super().__init__()
        self.layer, self.rows = nn.Linear(6, 2), rows

    def forward(self, inputs):
        if self.training and len(inputs) > self.rows:
            torch.empty(2**52)
        return self.layer(inputs)


def test_auto_recognizes_that_the_memory_of_the_host_ran_out():
    parts, _ = trained(TooLargeForTheHost(rows=5), microbatch="auto")
    assert parts["loss"] == pytest.approx(trained()[0]["loss"], rel=1e-5)


class FailsAfterItsUpdate(optimizers.SGD):
    """Runs out of memory when the parameters have changed already."""

    def update_rule(self, *arguments):
        super().update_rule(*arguments)
        raise torch.OutOfMemoryError("out of memory")


def test_an_update_is_not_made_twice_where_memory_runs_out_during_it():
    model, expected = Model(nn.Linear(6, 2)), Model(nn.Linear(6, 2))
    expected.module.load_state_dict(model.module.state_dict())
    model.compile(FailsAfterItsUpdate(0.1), "mse", microbatch="auto")
    expected.compile(optimizers.SGD(0.1), "mse", microbatch="auto")
    with pytest.raises(torch.OutOfMemoryError):
        model.train_on_batch(x, np.zeros((50, 2)))
    expected.train_on_batch(x, np.zeros((50, 2)))
    assert torch.equal(model.module.weight, expected.module.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "all"])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="`microbatch` must be a positive integer or 'auto'"):
        Model(Hungry()).compile("sgd", "mse", microbatch=size)


@pytest.mark.parametrize("rows", [10, 7])
def test_gathered_gradients_equal_those_of_a_larger_batch_also_at_a_ragged_end(rows):
    def trained_with(batch_size, **options):
        torch.manual_seed(0)
        model = Model(Hungry())
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizers.Adam(0.01, **options), loss, ["accuracy"])
        weights = np.linspace(0, 2, len(x))
        fit: dict[str, Any] = {"epochs": 3, "shuffle": False, "sample_weight": weights, "verbose": 0}
        model.fit(x, y, batch_size=batch_size, **fit)
        return model

    model, other = trained_with(3 * rows), trained_with(rows, gradient_accumulation_steps=3)
    assert other.optimizer.iterations == model.optimizer.iterations
    for one, two in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(
    ("argument", "optimizer", "options"),
    [
        ("microbatch", {}, {"microbatch": 5}),
        ("gradient_accumulation_steps", {"gradient_accumulation_steps": 2}, {}),
    ],
)
def test_hooks_that_would_never_be_called_are_refused(argument, optimizer, options):
    module = nn.Linear(6, 2)
    model = Model(module, device="cpu")
    model.compile(optimizers.SGD(0.1, **optimizer), nn.CrossEntropyLoss(), **options)
    model.fit(x, y, verbose=0)
    called = []
    module.weight.register_post_accumulate_grad_hook(called.append)
    with pytest.raises(ValueError, match=f"`{argument}` does not go with `register_post_accumulate_grad_hook`"):
        model.fit(x, y, verbose=0)
    module.weight.requires_grad_(False)
    model.fit(x, y, verbose=0)
    assert not called


def test_hooks_are_called_with_the_gradient_of_each_part():
    module = nn.Linear(6, 2)
    model = Model(module, device="cpu")
    model.compile(optimizers.SGD(0.1), nn.CrossEntropyLoss(), microbatch=5)
    shapes = []
    module.weight.register_hook(lambda gradient: shapes.append(tuple(gradient.shape)))
    model.fit(x, y, batch_size=10, verbose=0)
    assert shapes == [(2, 6)] * 10
