import tracemalloc
import weakref

import numpy as np
import pytest
import torch

from torchfit import Model
from torchfit._trainer import predictions as results
from torchfit._trainer.predictions import Predictions, format_results, to_numpy


def gathered(*batches, samples):
    predictions = Predictions(samples)
    for batch in batches:
        predictions.append(batch)
    return predictions.result()


@pytest.mark.parametrize("samples", [3, None])
def test_batches_are_joined(samples):
    found = gathered(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]]), samples=samples)
    np.testing.assert_array_equal(found, np.array([[1.0], [2.0], [3.0]], dtype="float32"))


@pytest.mark.parametrize("samples", [2, None])
def test_structures_are_kept(samples):
    found = gathered(*[{"a": torch.ones(1, 2), "b": [torch.zeros(1)]}] * 2, samples=samples)
    assert {name: np.shape(part) for name, part in found.items()} == {"a": (2, 2), "b": (1, 2)}


def test_a_prediction_that_was_stopped_is_cut():
    assert gathered(torch.ones(2, 1), samples=10).shape == (2, 1)


def test_scalars_are_kept_one_for_each_batch():
    np.testing.assert_array_equal(gathered(torch.tensor(1), torch.tensor(2), samples=8), [1, 2])


def test_shapes_that_change_are_explained():
    with pytest.raises(ValueError, match=r"after 1 rows of shape \(2,\) a batch gave \(1, 3\)"):
        gathered(torch.ones(1, 2), torch.ones(1, 3), samples=2)


def test_the_host_buffer_is_allocated_once(monkeypatch):
    sizes = []
    empty = torch.empty
    monkeypatch.setattr(results.torch, "empty", lambda *size, **options: sizes.append(size) or empty(*size, **options))
    gathered(*[torch.ones(4, 3)] * 5, samples=20)
    assert sizes == [((20, 3),)]


class Wide(torch.nn.Module):
    """Makes 10,000 numbers of one, and notes how many of its outputs are alive."""

    def __init__(self):
        super().__init__()
        self.alive, self.max_positional = 0, 0

    def forward(self, x):
        output = x.expand(-1, 10_000).clone()
        self.alive += 1
        self.max_positional = max(self.max_positional, self.alive)
        weakref.finalize(output, self.gone)
        return output

    def gone(self):
        self.alive -= 1


def test_the_peak_is_the_result_and_one_batch():
    module = Wide()
    tracemalloc.start()
    try:
        found = Model(module, device="cpu").predict(np.ones((640, 1)), batch_size=32)
        python_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (640, 10_000)
    assert module.max_positional == 1
    assert python_peak < found.nbytes / 2


def test_half_precision_that_numpy_lacks_becomes_float32():
    assert to_numpy([torch.ones(1, dtype=torch.bfloat16)])[0].dtype == np.float32


def test_reports():
    assert format_results({"loss": 1.0}, as_dict=False) == 1.0
    assert format_results({"loss": 1.0, "acc": 0.5}, as_dict=False) == [1.0, 0.5]
    assert format_results({"loss": 1.0}, as_dict=True) == {"loss": 1.0}
