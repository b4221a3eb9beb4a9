"""Predictions of any size and structure."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchfit

X = np.random.RandomState(0).rand(50, 4).astype("float32")


class Pair(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return {"score": y, "rest": [y + 1]}


@pytest.fixture
def model():
    return torchfit.Model(nn.Linear(4, 2), device="cpu")


def endless(size=5):
    return (np.full((size, 4), number, "float32") for number in itertools.count())


def test_unbounded_data_with_steps(model):
    found = model.predict(endless(), steps=3)
    assert found.shape == (15, 2)
    np.testing.assert_allclose(found[10:], model.predict(np.full((5, 4), 2, "float32")))


def test_batch_by_batch(model):
    batches = model.predict_iter(X, batch_size=20)
    assert not isinstance(batches, list)
    batches = list(batches)
    assert [len(batch) for batch in batches] == [20, 20, 10]
    np.testing.assert_array_equal(np.concatenate(batches), model.predict(X, batch_size=20))


def test_batch_by_batch_without_an_end_and_with_a_number_of_steps(model):
    found = list(itertools.islice(model.predict_iter(endless()), 3))
    assert [part.shape for part in found] == [(5, 2)] * 3
    assert len(list(model.predict_iter(endless(), steps=4))) == 4


def test_between_the_batches_the_model_is_as_it_was(model):
    model.compile("sgd", "mse")
    for batch in model.predict_iter(X, batch_size=20):
        assert model.module.training
        assert torch.is_grad_enabled()
        model.train_on_batch(X, np.zeros((50, 2)))
        assert np.isfinite(batch).all()


def test_wrong_arguments_fail_before_the_first_batch(model):
    with pytest.raises(ValueError, match="`batch_size`"):
        model.predict_iter(X, batch_size=0)
    with pytest.raises(ValueError, match="`workers`"):
        model.predict_iter(X, workers=-1)


def test_into_a_memory_map(model, tmp_path):
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", "float32", (50, 2))
    assert model.predict(X, batch_size=20, out=out) is out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.predict(X, batch_size=20))


def test_into_arrays_in_the_structure_of_the_outputs():
    model = torchfit.Model(Pair(4, 1), device="cpu")
    out: dict[str, Any] = {"score": np.zeros((50, 1)), "rest": [np.zeros((50, 1), "float32")]}
    model.predict(X, batch_size=16, out=out)
    expected = model.predict(X)
    np.testing.assert_allclose(out["score"], expected["score"])
    np.testing.assert_allclose(out["rest"][0], expected["rest"][0])


def test_rows_beyond_the_samples_stay(model):
    out = np.full((20, 2), 7.0)
    model.predict(endless(), steps=3, out=out)
    assert (out[15:] == 7).all()
    assert not (out[:15] == 7).any()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((49, 2)), r"`out` is a NumPy array of shape \(49, 2\).* 50 samples"),
        (np.zeros((50, 3)), r"does not fit after 0 rows.*\(samples, 2\) and dtype float32"),
        (np.zeros((50, 2), int), "does not fit"),
        ([np.zeros((50, 2)), np.zeros((50, 2))], "`out` has 2 arrays, but the model returns 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(model, out, message):
    with pytest.raises(ValueError, match=message):
        model.predict(X, out=out)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_holds_one_batch_of_outputs():
    model = torchfit.Model(nn.Linear(4, 1 << 16), device="cuda")
    x = np.zeros((512, 4), "float32")
    model.predict(x[:16], batch_size=16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model.predict(x, batch_size=16)
    batch = 16 * (1 << 16) * 4
    assert torch.cuda.max_memory_allocated() - before < 2.5 * batch


class Sharing(nn.Module):
    """Returns weights, a view of them, its inputs, and memory that it reuses, besides what it computes."""

    def __init__(self):
        super().__init__()
        self.layer, self.prototypes = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 3))
        self.register_buffer("mean", torch.zeros(3))
        self.memory = torch.zeros(5, 3)

    def forward(self, x):
        scores = self.layer(x)
        if self.training:
            self.mean.lerp_(scores.detach().mean(0), 0.1)
        self.memory.copy_(scores.detach())
        weights = {"prototypes": self.prototypes, "first": self.prototypes[:1], "mean": self.mean}
        return {"scores": scores @ self.prototypes, "same": x, "memory": self.memory, **weights}


PREDICTIONS = {
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
    "predict_iter": lambda model, x: next(model.predict_iter(x, batch_size=5)),
    "second of predict_iter": lambda model, x: list(model.predict_iter(np.concatenate([x, x]), batch_size=5))[1],
    "predict": lambda model, x: model.predict(x),
}


@pytest.mark.parametrize("predicted", PREDICTIONS.values(), ids=PREDICTIONS)
def test_results_share_no_memory(predicted):
    torch.manual_seed(0)
    model, x = torchfit.Model(Sharing(), device="cpu"), X[:5].copy()
    model.compile(torchfit.optimizers.SGD(0.5), {"scores": "mse"})
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = predicted(model, x)
    before = {name: value.copy() for name, value in found.items()}
    model.train_on_batch(x, np.ones((5, 3)))
    x += 1
    for name, value in before.items():
        np.testing.assert_array_equal(found[name], value, name)
    model.load_state_dict(weights)
    for value in found.values():
        value += 1
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value), name


class PerSample(Sharing):
    def forward(self, x):
        outputs = super().forward(x)
        return [{"scores": outputs["memory"][row], "mean": self.mean} for row in range(len(x))]


def test_results_for_each_sample_share_no_memory():
    model = torchfit.Model(PerSample(), device="cpu")
    found = model.predict(X[:10], batch_size=5)
    scores = model.module.layer(torch.tensor(X[:10])).detach()
    np.testing.assert_allclose(np.stack([sample["scores"] for sample in found]), scores, rtol=1e-5, atol=1e-6)
