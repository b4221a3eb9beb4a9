import copy
import pickle

import numpy as np
import pytest
import torch

from torchfit import losses


class Squared(losses.Loss):
    """The guide's kind of loss: a subclass with `__init__` and `call`."""

    def __init__(self, factor=1.0, name="squared", **kwargs):
        super().__init__(name=name, **kwargs)
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * (y_true - y_pred).square().mean(-1)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class Scalar(losses.Loss):
    def call(self, y_true, y_pred):
        return (y_true - y_pred).square().mean()


Y_TRUE, Y_PRED = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("sum_over_batch_size", 2.5),
        ("mean", 2.5),
        ("mean_with_sample_weight", 2.5),
        ("sum", 5.0),
        ("none", [1.0, 4.0]),
        (None, [1.0, 4.0]),
    ],
)
def test_reductions(reduction, expected):
    assert Squared(reduction=reduction)(Y_TRUE, Y_PRED).tolist() == expected


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum_over_batch_size", 5.5), ("mean_with_sample_weight", 2.2), ("sum", 11.0), (None, [3.0, 8.0])],
)
@pytest.mark.parametrize("loss", [Squared, losses.MeanSquaredError])
def test_sample_weights(loss, reduction, expected):
    result = loss(reduction=reduction)(Y_TRUE, Y_PRED, sample_weight=np.array([3.0, 2.0]))
    assert result.tolist() == pytest.approx(expected)


def test_a_call_may_return_a_scalar():
    assert Scalar()(Y_TRUE, Y_PRED).item() == 2.5
    assert Scalar()(Y_TRUE, Y_PRED, sample_weight=2.0).item() == 5.0


def test_a_call_that_returns_a_scalar_takes_no_weights_of_samples():
    with pytest.raises(ValueError, match=r"`sample_weight` .*loss scalar, .*Received: a list of length 2"):
        Scalar()(Y_TRUE, Y_PRED, sample_weight=[1.0, 3.0])


def test_call_is_needed():
    with pytest.raises(NotImplementedError, match="define call"):
        losses.Loss()(Y_TRUE, Y_PRED)


def test_the_name_is_the_class_in_snake_case():
    assert Scalar().name == "scalar"
    assert Scalar(name="mine").name == "mine"


def test_inputs_may_be_lists_arrays_integers_and_numbers():
    mean_squared_error = losses.MeanSquaredError()
    assert mean_squared_error([[0, 1]], [[1, 3]]).item() == 2.5
    assert mean_squared_error(np.array([[0.0, 1.0]]), np.array([[1.0, 3.0]])).dtype == torch.float32
    assert mean_squared_error(1.0, 3.0).item() == 4.0
    assert mean_squared_error(torch.tensor([[True]]), torch.tensor([[0.0]])).item() == 1.0


def test_custom_losses_get_nests_of_tensors():
    class OfParts(losses.Loss):
        def call(self, y_true, y_pred):
            return (y_true["a"] - y_pred["a"]).abs() + y_pred["b"][0]

    result = OfParts()({"a": np.zeros(2)}, {"a": torch.ones(2), "b": [torch.ones(2)]})
    assert result.item() == 2.0


def test_custom_losses_get_class_numbers_as_integers():
    class Picked(losses.Loss):
        def call(self, y_true, y_pred):
            return torch.nn.functional.cross_entropy(y_pred, y_true, reduction="none")

    assert Picked()(torch.tensor([0, 1]), torch.zeros(2, 2)).item() == pytest.approx(0.6931, abs=1e-4)


def test_the_dtype_is_that_of_the_result():
    assert losses.MeanSquaredError(dtype="float16")(Y_TRUE, Y_PRED).dtype == torch.float16
    assert losses.MeanSquaredError(dtype="mixed_bfloat16")(Y_TRUE, Y_PRED).dtype == torch.bfloat16
    assert losses.MeanSquaredError()(Y_TRUE.double(), Y_PRED.half()).dtype == torch.float32


@pytest.mark.parametrize("mask", [[True, False], [False, True], [False, False]])
def test_a_mask_leaves_values_out_of_the_mean(mask):
    prediction = Y_PRED.clone()
    prediction._keras_mask = torch.tensor(mask)  # type: ignore[attr-defined]
    kept = torch.tensor([1.0, 4.0])[torch.tensor(mask)]
    expected = kept.mean() if len(kept) else torch.tensor(0.0)
    assert losses.MeanSquaredError()(Y_TRUE, prediction) == expected


def test_nothing_valid_gives_no_nan_in_gradients():
    prediction = Y_PRED.clone().requires_grad_()
    loss = losses.MeanSquaredError(reduction="mean_with_sample_weight")(Y_TRUE, prediction, torch.zeros(2))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad.tolist() == [[0, 0], [0, 0]]


def test_weights_of_samples_spread_over_steps():
    y_true, y_pred = torch.zeros(2, 3, 1), torch.ones(2, 3, 1)
    loss = losses.MeanSquaredError(reduction="sum")
    assert loss(y_true, y_pred, torch.tensor([1.0, 2.0])).item() == 9.0
    assert loss(y_true, y_pred, torch.tensor([[1.0], [2.0]])).item() == 9.0


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 2, 2)])
def test_weights_that_fit_no_sample_are_refused(shape):
    with pytest.raises(ValueError, match=r"sample_weight must be .*\(2,\)\. Received: a tensor of shape"):
        losses.MeanSquaredError()(Y_TRUE, Y_PRED, torch.ones(shape))


def test_an_empty_batch_gives_zero():
    assert losses.MeanSquaredError()(Y_TRUE[:0], Y_PRED[:0]).item() == 0


@pytest.mark.parametrize("reduction", ["average", 3, ["sum"]])
def test_unknown_reductions(reduction):
    with pytest.raises(ValueError, match="`reduction` must be one of 'sum_over_batch_size'"):
        losses.Loss(reduction=reduction)


def test_unknown_dtype():
    with pytest.raises(ValueError, match="`dtype`"):
        losses.MeanSquaredError(dtype="float31")


def test_config_round_trip_keeps_the_dtype():
    loss = Squared.from_config(Squared(2.0, reduction="sum", dtype="float64").get_config())
    assert (loss.factor, loss.reduction, loss.dtype) == (2.0, "sum", torch.float64)


def test_a_subclass_of_a_built_in_loss_is_asked():
    class Doubled(losses.MeanSquaredError):
        def call(self, y_true, y_pred):
            return 2 * super().call(y_true, y_pred)

    assert Doubled()(Y_TRUE, Y_PRED).item() == 5.0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_losses_copy_and_pickle(duplicate):
    assert duplicate(losses.Huber(delta=2.0))(Y_TRUE, Y_PRED) == losses.Huber(delta=2.0)(Y_TRUE, Y_PRED)
