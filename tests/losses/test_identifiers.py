import pytest
import torch

import torchfit._utils.registry as registry
from torchfit import losses
from torchfit.losses.identifiers import resolve_loss


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


def test_registered_objects(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    registry.register_serializable("shop")(Cubed)
    config = losses.serialize(Cubed(reduction="sum"))
    assert config["registered_name"] == "shop>Cubed"
    assert losses.deserialize(config).reduction == "sum"


@pytest.mark.parametrize("name", sorted(set(losses.__all__) - {"Loss", "LossFunctionWrapper", "TorchLoss"}))
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
