import functools

import numpy as np
import pytest
import torch

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss
from torchfit.saving import register_serializable


def cubed(y_true, y_pred):
    return (y_pred - y_true).abs().pow(3).mean(-1)


class Cubed(losses.Loss):
    def call(self, y_true, y_pred):
        return cubed(y_true, y_pred)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mse", "mean_squared_error"),
        ("MSE", "mean_squared_error"),
        ("mae", "mean_absolute_error"),
        ("mape", "mean_absolute_percentage_error"),
        ("msle", "mean_squared_logarithmic_error"),
        ("bce", "binary_crossentropy"),
        ("KLD", "kl_divergence"),
        ("Mean_Squared_Error", "mean_squared_error"),
    ],
)
def test_aliases_of_functions(name, function):
    assert losses.get(name) is getattr(losses, function)


def test_names_and_configs_of_classes():
    assert isinstance(losses.get("CTC"), losses.CTC)
    assert isinstance(losses.get("categoricalcrossentropy"), losses.CategoricalCrossentropy)
    config = {"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}
    assert losses.get(config).from_logits is True
    assert losses.get(None) is None
    assert losses.get(cubed) is cubed


def test_unknown_names_say_what_is_near():
    with pytest.raises(ValueError, match=r"Unknown loss: 'mean_square_error'. Did you mean 'mean_squared_error'"):
        losses.get("mean_square_error")


@pytest.mark.parametrize("identifier", [3, 1.5, object(), {"a": 1}])
def test_things_that_are_no_loss(identifier):
    with pytest.raises(ValueError, match="loss"):
        resolve_loss(identifier)


def test_serialized_form():
    assert losses.serialize(losses.Huber(0.5)) == {
        "module": "torchfit.losses",
        "class_name": "Huber",
        "config": {"name": "huber_loss", "reduction": "sum_over_batch_size", "delta": 0.5},
        "registered_name": None,
    }
    assert losses.serialize(losses.mean_squared_error)["config"] == "mean_squared_error"


def test_custom_objects():
    assert losses.deserialize(losses.serialize(cubed), {"cubed": cubed}) is cubed
    assert isinstance(losses.deserialize(losses.serialize(Cubed()), {"Cubed": Cubed}), Cubed)
    with pytest.raises(ValueError, match="Unknown loss: 'Cubed'"):
        losses.deserialize(losses.serialize(Cubed()))


def test_registered_objects():
    registered = register_serializable("shop")(type("Registered", (Cubed,), {}))
    config = losses.serialize(registered(reduction="sum"))
    assert config["registered_name"] == "shop>Registered"
    assert losses.deserialize(config).reduction == "sum"


@pytest.mark.parametrize(
    "name", sorted(set(losses.__all__) - {"Loss", "LossFunctionWrapper", "OverOutputs", "TorchLoss"})
)
def test_every_public_loss_is_known_by_its_name(name):
    if name.islower() and name in (
        "get",
        "serialize",
        "deserialize",
    ):
        return
    member = losses.get(name)
    assert losses.serialize(losses.deserialize(losses.serialize(member))) == losses.serialize(member)
    assert isinstance(resolve_loss(name), losses.Loss)


def test_functions_become_losses_of_their_name():
    loss = resolve_loss(cubed)
    assert (loss.name, loss([[0.0]], [[2.0]]).item()) == ("cubed", 8.0)
    assert resolve_loss("huber").name == "huber"
    assert resolve_loss(Cubed).name == "cubed"


def test_functions_see_columns_and_vectors_aligned():
    loss = resolve_loss(lambda y_true, y_pred: (y_true - y_pred).abs())
    assert loss(torch.zeros(3), torch.ones(3, 1)).item() == 1.0


def test_modules_are_called_in_the_order_of_their_arguments():
    class Over(torch.nn.Module):
        def forward(self, prediction, target):
            return (prediction - target).relu()

    class Under(torch.nn.Module):
        def forward(self, y_true, y_pred):
            return (y_true - y_pred).relu()

    assert resolve_loss(Over())([0.0], [1.0]).item() == 1.0
    assert resolve_loss(Under())([0.0], [1.0]).item() == 0.0


def test_wrapped_functions_are_saved_by_name():
    config = losses.serialize(resolve_loss(cubed))
    assert config["config"]["fn"] == "cubed"
    assert losses.deserialize(config, {"cubed": cubed})([[0.0]], [[2.0]]).item() == 8.0
    with pytest.raises(ValueError, match="Unknown loss function: 'cubed'"):
        losses.deserialize(config)


# -- crossentropy by shapes --------------------------------------------------------------------------------------------

ROWS = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])


@pytest.mark.parametrize("name", ["crossentropy", "ce", "CE", "Crossentropy"])
@pytest.mark.parametrize(
    ("targets", "outputs", "meant"),
    [
        ([0.0, 1.0], ROWS[:, 0], losses.BinaryCrossentropy()),
        ([0, 1], ROWS[:, :1], losses.BinaryCrossentropy()),
        ([0, 2], ROWS, losses.SparseCategoricalCrossentropy()),
        ([[0], [2]], ROWS, losses.SparseCategoricalCrossentropy()),
        ([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], ROWS, losses.CategoricalCrossentropy()),
    ],
)
def test_crossentropy_is_the_one_that_the_shapes_call_for(name, targets, outputs, meant):
    loss = resolve_loss(name)
    assert loss.name == "crossentropy"
    assert torch.equal(loss(torch.tensor(targets), outputs), meant(torch.tensor(targets), outputs))
    weighted = loss.with_denominator(torch.tensor(targets), outputs, [1.0, 3.0])
    assert weighted == meant.with_denominator(torch.tensor(targets), outputs, [1.0, 3.0])


@pytest.mark.parametrize("reduction", ["sum", "none", "mean_with_sample_weight"])
def test_crossentropy_has_reductions(reduction):
    config = losses.serialize(losses.get({"class_name": "Crossentropy", "config": {"reduction": reduction}}))
    loss, meant = losses.deserialize(config), losses.SparseCategoricalCrossentropy(reduction=reduction)
    torch.testing.assert_close(loss([0, 2], ROWS, [1.0, 3.0]), meant([0, 2], ROWS, [1.0, 3.0]))


# -- what a function returns -------------------------------------------------------------------------------------------


def forgets_to_return(y_true, y_pred):
    (y_true - y_pred).square().mean()


def leaves_torch(y_true, y_pred):
    return np.square(y_true.numpy() - y_pred.numpy())


def returns_several(y_true, y_pred):
    return y_true.sum(), y_pred.sum()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (forgets_to_return, "The loss forgets_to_return returned None"),
        (leaves_torch, "The loss leaves_torch must return a tensor.* Received: a NumPy array of shape .*torch only"),
        (returns_several, "The loss returns_several must return a tensor.* Received: a tuple of length 2"),
    ],
)
def test_what_is_no_loss_value_is_named(function, message):
    for call in (resolve_loss(function), resolve_loss(function).with_denominator):
        with pytest.raises(TypeError, match=message):
            call([[0.0]], [[1.0]])


def test_a_number_is_a_loss_value():
    assert resolve_loss(lambda y_true, y_pred: 0).with_denominator([[0.0], [0.0]], [[1.0], [1.0]]) == (0.0, 2.0)


# -- configurations ----------------------------------------------------------------------------------------------------

FOCAL = {"from_logits": True, "label_smoothing": 0.1, "axis": 1}


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (losses.Huber, {"delta": 0.3}),
        (losses.CosineSimilarity, {"axis": 1}),
        (losses.BinaryCrossentropy, {"from_logits": True, "label_smoothing": 0.1, "axis": 1}),
        (losses.CategoricalCrossentropy, {"from_logits": True, "label_smoothing": 0.1, "axis": 1}),
        (losses.SparseCategoricalCrossentropy, {"from_logits": True, "ignore_class": 255, "axis": 1}),
        (losses.BinaryFocalCrossentropy, {"apply_class_balancing": True, "alpha": 0.3, "gamma": 1.5, **FOCAL}),
        (losses.CategoricalFocalCrossentropy, {"alpha": [0.1, 0.2], "gamma": 1.5, **FOCAL}),
        (losses.CategoricalGeneralizedCrossEntropy, {"q": 0.7}),
        (losses.Dice, {"axis": (1, 2)}),
        (losses.Tversky, {"alpha": 0.3, "beta": 0.7, "axis": (1, 2)}),
        (losses.Circle, {"gamma": 64.0, "margin": 0.3, "remove_diagonal": False}),
        (functools.partial(losses.LossFunctionWrapper, losses.huber), {"delta": 0.3}),
        (lambda delta: resolve_loss(functools.partial(losses.huber, delta=delta)), {"delta": 0.3}),
    ],
)
def test_configurations_keep_every_argument(make, arguments):
    loss = make(**arguments)
    copied = losses.deserialize(losses.serialize(loss))
    assert copied.get_config() == loss.get_config()
    assert arguments.items() <= loss.get_config().items()


def test_a_partial_function_keeps_its_arguments():
    loss = resolve_loss(functools.partial(losses.huber, delta=0.5))
    copied = losses.deserialize(losses.serialize(loss))
    assert copied([[0.0]], [[2.0]]) == loss([[0.0]], [[2.0]]) == losses.Huber(0.5)([[0.0]], [[2.0]])
