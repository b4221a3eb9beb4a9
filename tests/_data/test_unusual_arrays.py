"""Arrays and tensors of unusual kinds are read, or refused in words of torchfit."""

from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn

import torchfit

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
LABELS = np.arange(6) % 3
TENSOR = torch.from_numpy(X)


Targets = namedtuple("Targets", "a b")


def model_of(loss=None):
    model = torchfit.Model(nn.Linear(4, 3), device="cpu")
    model.compile("sgd", loss or nn.CrossEntropyLoss())
    return model


@pytest.mark.parametrize("x", [scipy.sparse.dok_matrix(X), memoryview(X), TENSOR.to_sparse()])  # type: ignore[arg-type]
def test_inputs_are_read(x):
    model = model_of()
    np.testing.assert_allclose(model.predict(x), model.predict(X), rtol=1e-5)


@pytest.mark.parametrize("call", ["fit", "train_on_batch"])
def test_targets_and_weights_are_made_dense(call):
    y, weight = torch.from_numpy(X[:, :3]), torch.tensor([1.0, 0, 2, 0, 0, 1])
    results = []
    for targets, weights in [(y, weight), (y.to_sparse(), weight.to_sparse())]:
        torch.manual_seed(0)
        model = model_of("mse")
        getattr(model, call)(X, targets, sample_weight=weights, **({"verbose": 0} if call == "fit" else {}))
        results.append(model.predict(X))
    np.testing.assert_allclose(results[1], results[0])


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize("call", ["predict", "predict_on_batch"])
def test_quantized_inputs_are_read_or_refused_with_the_layer(call):
    quantized = torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8)
    model = model_of()
    if call == "predict":
        np.testing.assert_allclose(model.predict(quantized), model.predict(quantized.dequantize()), rtol=1e-5)
    else:
        with pytest.raises(ValueError, match="`x` does not fit the model"):
            model.predict_on_batch(quantized)


@pytest.mark.parametrize("method", ["evaluate", "test_on_batch", "predict", "predict_on_batch"])
def test_tensors_without_values_are_refused(method):
    meta = TENSOR.to("meta")
    with pytest.raises(ValueError, match="`x` is a tensor without values, on the device meta"):
        getattr(model_of(), method)(meta, *([LABELS] if "predict" not in method else []))


@pytest.mark.parametrize("y", [LABELS + 0j, torch.float32, object(), pd.NA])
def test_targets_that_are_no_real_numbers_are_refused(y):
    with pytest.raises(ValueError, match="`y`"):
        model_of().test_on_batch(X, y)


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="`sample_weight` must hold numbers"):
        model_of().train_on_batch(X, LABELS, sample_weight="heavy")
    with pytest.raises(ValueError, match="`sample_weight` must hold numbers"):
        model_of().train_on_batch(X, LABELS, sample_weight={1}, class_weight={0: 2.0})


@pytest.mark.parametrize("x", [..., [None], {}, pd.Series(pd.date_range("2020", periods=6))])
def test_inputs_that_a_layer_cannot_take_are_told_with_the_layer(x):
    with pytest.raises(ValueError, match="`x`"):
        model_of().predict_on_batch(x)


def test_weights_that_do_not_go_with_the_classes_are_refused():
    with pytest.raises(ValueError, match=r"`sample_weight`.*does not match the labels"):
        model_of().train_on_batch(X, LABELS, sample_weight=np.ones(5), class_weight={0: 2.0})


def test_class_weights_reach_targets_in_a_named_tuple():
    class Two(nn.Linear):
        def forward(self, x):
            return {"a": super().forward(x), "b": super().forward(x)}

    targets = Targets(LABELS, LABELS)
    results = []
    for y in (targets, targets._asdict()):
        torch.manual_seed(0)
        model = torchfit.Model(Two(4, 3), device="cpu")
        model.compile("sgd", nn.CrossEntropyLoss())
        results.append(model.train_on_batch(X, y, class_weight={"a": {0: 2.0}}))
    assert results[0] == pytest.approx(results[1])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"loss_weights": "half"}, "loss_weights"),
        ({"loss_weights": np.array([1.0, 2.0])}, "loss_weights"),
        ({"run_eagerly": pd.NA}, "run_eagerly"),
        ({"jit_compile": np.array([True, False])}, "jit_compile"),
        ({"auto_scale_loss": pd.Series([1])}, "auto_scale_loss"),
        ({"steps_per_execution": 2**70}, "steps_per_execution"),
        ({"microbatch": np.array([1, 2])}, "microbatch"),
        ({"loss": nn.Linear(1, 1)}, "loss"),
        ({"loss": lambda y_true: y_true}, "loss"),
        ({"loss": torchfit.metrics.MeanAbsoluteError()}, "loss"),
        ({"optimizer": lambda: None}, "optimizer"),
    ],
)
def test_arguments_of_compile_are_named(arguments, name):
    def compile_and_fit():
        model = torchfit.Model(nn.Linear(4, 3), device="cpu")
        model.compile(**{"optimizer": "sgd", "loss": "mse", **arguments})
        model.fit(X, X[:, :3], verbose=0)

    with pytest.raises(ValueError, match=f"`{name}`"):
        compile_and_fit()


@pytest.mark.parametrize(
    "arguments",
    [{"input_names": 3}, {"output_names": [[1]]}, {"name": X}, {"device": X}, {"dtype_policy": X}, {"device": 2**70}],
)
def test_arguments_of_a_model_are_named(arguments):
    with pytest.raises((TypeError, ValueError), match=f"`{next(iter(arguments))}`"):
        torchfit.Model(nn.Linear(4, 3), **arguments)


@pytest.mark.parametrize(
    "arguments", [{"out": 3.0}, {"out": torch.zeros(6, 3).to_sparse()}, {"pad_value": "a"}, {"pad_value": [1]}]
)
def test_arguments_of_predict_are_named(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
        model_of().predict(X, **arguments)


def test_numbers_of_numpy_are_integers_everywhere():
    model = torchfit.Model(nn.Linear(4, 3), device="cpu")
    model.compile("sgd", nn.CrossEntropyLoss(), steps_per_execution=np.int64(2), microbatch=np.int64(2))
    assert np.isfinite(model.fit(X, LABELS, verbose=0).history["loss"]).all()
