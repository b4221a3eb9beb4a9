import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

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


def test_a_scalar_for_each_of_many_batches_is_kept():
    class Mean(nn.Module):
        def forward(self, x):
            return {"rows": x, "mean": x.mean()}

    x = np.arange(12, dtype="float32")[:, None]
    found = Model(Mean(), device="cpu").predict(x, batch_size=2)
    np.testing.assert_array_equal(found["rows"], x)
    np.testing.assert_array_equal(found["mean"], [0.5, 2.5, 4.5, 6.5, 8.5, 10.5])


class Squeezes(nn.Linear):
    """Gives `(batch,)`, and a scalar for a batch of one row."""

    def forward(self, x):
        return super().forward(x).squeeze()


@pytest.mark.parametrize("batch_size", [2, 8, 1])
def test_a_last_row_that_was_squeezed_is_a_row(batch_size):
    x = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    net = Squeezes(3, 1)
    model = Model(net, device="cpu")
    expected = net(torch.tensor(x)).detach().numpy()
    batches = [x[start : start + batch_size] for start in range(0, len(x), batch_size)]
    out = np.empty(9, "float32")
    model.predict(x, batch_size=batch_size, out=out)
    for found in (model.predict(x, batch_size=batch_size), model.predict(iter(batches)), out):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_shapes_that_change_are_explained():
    with pytest.raises(ValueError, match=r"after 1 rows of shape \(2,\) a batch gave \(1, 3\)"):
        gathered(torch.ones(1, 2), torch.ones(1, 3), samples=2)


def test_the_host_buffer_is_allocated_once(monkeypatch):
    sizes = []
    empty = torch.empty
    monkeypatch.setattr(results.torch, "empty", lambda *size, **options: sizes.append(size) or empty(*size, **options))  # type: ignore[attr-defined]
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


class TwoNamed(nn.Module):
    def forward(self, x):
        return {"b": x, "a": x + 1}


def test_arrays_to_write_into_are_found_by_name():
    x = np.random.rand(11, 3).astype("float32")
    out = {"a": np.zeros((11, 3), "float32"), "b": np.zeros((11, 3), "float32")}
    assert Model(TwoNamed()).predict(x, batch_size=3, out=out, verbose=0) is out
    np.testing.assert_array_equal(out["b"], x)
    np.testing.assert_array_equal(out["a"], x + 1)


def test_arrays_to_write_into_of_other_names_are_refused():
    x = np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match=r"out\['b'\], out\['a'\]. Received: out\['a'\], out\['c'\]"):
        Model(TwoNamed()).predict(x, out={"a": x, "c": x}, verbose=0)


def test_predictions_may_be_written_into_a_tensor():
    x, out = np.random.rand(11, 3).astype("float32"), torch.zeros(11, 3)
    Model(nn.Identity(), device="cpu").predict(x, out=out, verbose=0)
    np.testing.assert_array_equal(out.numpy(), x)


class Ragged(nn.Module):
    def forward(self, x):
        return x[:, : 1 + int(x[0, 0] > 0)]


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}])
def test_outputs_of_different_widths_are_padded_or_refused(options):
    x = np.array([[1, 2], [-3, 4], [5, 6], [-7, 8]], "float32")
    model = Model(Ragged())
    model.compile("sgd", "mse", **options)
    padded = model.predict(x, batch_size=1, pad_value=-1.0, verbose=0)
    np.testing.assert_array_equal(padded, [[1, 2], [-3, -1], [5, 6], [-7, -1]])
    with pytest.raises(ValueError, match=r"`predict_iter`.*`pad_value=`"):
        model.predict(x, batch_size=1, verbose=0)


class PerSample(nn.Module):
    def forward(self, x):
        return [{"boxes": row[None, : 1 + i % 2]} for i, row in enumerate(x)]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_list_of_dictionaries_has_an_entry_for_each_sample(batch_size):
    x = np.random.rand(4, 3).astype("float32")
    model = Model(PerSample())
    assert len(model.predict(x, batch_size=batch_size, verbose=0)) == 4
    with pytest.raises(ValueError, match="list with an entry for each sample"):
        model.predict(x, out=np.zeros((4, 1)), verbose=0)


class ListOfTwo(nn.Module):
    def forward(self, x):
        return [x, x[:, 0]]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_list_of_tensors_has_a_part_for_each_output(batch_size):
    x = np.random.rand(4, 3).astype("float32")
    first, second = Model(ListOfTwo()).predict(x, batch_size=batch_size, verbose=0)
    assert first.shape == (4, 3)
    assert second.shape == (4,)


UNUSUAL_OUTPUTS = {
    "COO": lambda x: x.relu().to_sparse(),
    "CSR": lambda x: x.relu().to_sparse_csr(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "bfloat16": torch.Tensor.bfloat16,
    "conjugated": lambda x: torch.complex(x, x).conj(),
    "negated": lambda x: torch.complex(x, x).conj().imag,
}


class Applied(nn.Module):
    """Applies a function to its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return {"outputs": self.function(x), "rows": x}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*quantize")
@pytest.mark.parametrize("pad_value", [None, 0.0])
@pytest.mark.parametrize("batch_size", [50, 16, 1])
@pytest.mark.parametrize("function", UNUSUAL_OUTPUTS.values(), ids=UNUSUAL_OUTPUTS)
def test_tensors_that_numpy_does_not_know(function, batch_size, pad_value):
    x = torch.linspace(-2, 2, 150).reshape(50, 3)
    expected = function(x)
    expected = expected.dequantize() if expected.is_quantized else expected.to_dense().resolve_conj().resolve_neg()
    found = Model(Applied(function), device="cpu").predict(x, batch_size=batch_size, pad_value=pad_value)
    np.testing.assert_array_equal(found["outputs"], (expected.float() if expected.is_floating_point() else expected))
    np.testing.assert_array_equal(found["rows"], x)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_rows_of_different_lengths_are_refused():
    model = Model(Applied(lambda x: torch.nested.nested_tensor(list(x))), device="cpu")
    with pytest.raises(ValueError, match=r"the outputs of the model.*rows of different lengths"):
        model.predict(torch.ones(4, 3))
