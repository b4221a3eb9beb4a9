"""`evaluate` and `predict` of arrays that fit into one batch skip the data adapter: the same results, fewer calls."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchfit
from torchfit._data.convert import BatchSpec
from torchfit._data.epoch_iterator import EpochIterator
from torchfit._data.pipelines import OneBatch, make_evaluation_batches
from torchfit._data.workers import LoaderConfig

ROWS = 6
SPEC = BatchSpec(torch.device("cpu"))
INPUTS = {
    "float32": torch.randn(ROWS, 3),
    "float64": torch.randn(ROWS, 3, dtype=torch.float64),
    "half": torch.randn(ROWS, 3).half(),
    "integers": torch.randint(9, (ROWS, 3)),
    "bools": torch.rand(ROWS, 3) > 0.5,
    "transposed": torch.randn(3, ROWS).T,
    "array": np.random.default_rng(0).normal(size=(ROWS, 3)),
    "uint16": np.arange(ROWS * 3, dtype=np.uint16).reshape(ROWS, 3),
    "longdouble": np.ones((ROWS, 3), dtype=np.longdouble),
    "byte order": np.ones((ROWS, 3), dtype=">f4"),
    "reversed": np.arange(ROWS * 3.0).reshape(ROWS, 3)[::-1],
    "read-only": np.broadcast_to(np.float32(2), (ROWS, 3)),
    "complex": torch.randn(ROWS, 3, dtype=torch.complex64),
}


def batches(x, y=None, sample_weight=None, batch_size=None, steps=None):
    return make_evaluation_batches(x, y, sample_weight, SPEC, batch_size, steps, LoaderConfig())


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
def test_it_is_converted_as_by_the_adapter(x):
    y, weight = np.arange(ROWS), np.arange(ROWS)
    own, of_adapter = batches(x, y, weight), batches(x, y, weight, steps=1)
    assert isinstance(own, OneBatch)
    assert isinstance(of_adapter, EpochIterator)
    assert (own.steps, own.samples) == (of_adapter.steps, of_adapter.samples) == (1, ROWS)
    (batch,), (expected,) = own.epoch(0), of_adapter.epoch(0)
    for part, other in zip(batch, expected, strict=True):
        assert part.dtype == other.dtype
        torch.testing.assert_close(part, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((torch.ones(33, 3),), {}),
        ((torch.ones(5, 3),), {"batch_size": 4}),
        ((torch.ones(5, 3),), {"steps": 1}),
        ((torch.ones(5, 3, requires_grad=True),), {}),
        ((nn.Parameter(torch.ones(5, 3)),), {}),
        (([[1.0], [2.0]],), {}),
        (({"a": torch.ones(5, 3)},), {}),
        ((torch.eye(5).to_sparse(),), {}),
        ((torch.ones(5, 3), [1, 2, 3, 4, 5]), {}),
        ((np.ma.ones((5, 3)),), {}),
    ],
)
def test_other_data_have_an_adapter(arguments, settings):
    assert isinstance(batches(*arguments, **settings), EpochIterator)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(5, 3), torch.ones(4)), "`x` has 5, `y` has 4"),
        ((torch.ones(5, 3), torch.ones(5), torch.ones(4)), "`sample_weight` has 4"),
        ((torch.ones(0, 3),), "`x` has no samples"),
        ((torch.tensor(1.0),), "must have samples along its first axis"),
        ((np.array(["a", "b"]),), "`x` must hold numbers"),
    ],
)
def test_errors_are_those_of_the_adapter(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(*arguments)


def test_an_invalid_batch_size_is_refused():
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
        batches(torch.ones(5, 3), batch_size=0)


class Doubler(nn.Module):
    """Doubles its inputs in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2).sum(1)


def test_data_of_the_user_are_not_changed():
    model = torchfit.Model(Doubler(), device="cpu")
    model.compile(loss="mse")
    x, y = torch.ones(ROWS, 3), np.zeros(ROWS, dtype=np.float32)
    assert model.predict(x, verbose=0).tolist() == [6.0] * ROWS
    assert model.evaluate(x, y, verbose=0) == pytest.approx(36.0)
    assert x.eq(1).all()
    assert not y.any()


def test_predictions_do_not_share_the_memory_of_the_inputs():
    x = torch.ones(ROWS, 3)
    outputs = torchfit.Model(nn.Identity(), device="cpu").predict(x, verbose=0)
    x.zero_()
    assert outputs.all()


def test_nan_in_the_inputs_is_found():
    model = torchfit.Model(nn.Linear(3, 1), device="cpu")
    model.compile(loss="mse")
    x = torch.ones(ROWS, 3)
    x[4, 1] = torch.nan
    with pytest.warns(UserWarning, match="`x` has NaN in column 1 of batch 0"):
        model.evaluate(x, torch.ones(ROWS, 1), verbose=0)


def test_callbacks_see_one_batch():
    seen = []

    class Events(torchfit.callbacks.Callback):
        def on_predict_begin(self, logs=None):
            seen.append((self.params["steps"], self.params["samples"]))

        def on_predict_batch_end(self, batch, logs):
            seen.append((batch, tuple(logs["outputs"].shape)))

    torchfit.Model(nn.Identity(), device="cpu").predict(torch.ones(ROWS, 3), verbose=0, callbacks=[Events()])
    assert seen == [(1, ROWS), (0, (ROWS, 3))]
