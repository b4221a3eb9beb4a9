import functools
import json

import pytest
from torch import nn

import torchfit


def model_of(**arguments):
    model = torchfit.Model(nn.Linear(2, 1), device="cpu")
    model.compile(**arguments)
    return model


def test_compile_config_is_plain_data():
    model = model_of(
        optimizer=torchfit.optimizers.SGD(0.5),
        loss={"output_1": torchfit.losses.Huber(delta=2.0)},
        metrics=["mae", torchfit.metrics.Mean(name="mean")],
    )
    config = json.loads(json.dumps(model.get_compile_config()))
    assert config["optimizer"]["config"]["learning_rate"] == 0.5
    assert config["loss"]["output_1"]["config"]["delta"] == 2.0
    assert config["metrics"][0] == "mae"


def test_compile_config_round_trip():
    model = model_of(optimizer="adam", loss=torchfit.losses.Huber(delta=2.0), metrics=["mae"], steps_per_execution=2)
    other = torchfit.Model(nn.Linear(2, 1), device="cpu")
    other.compile_from_config(json.loads(json.dumps(model.get_compile_config())))
    assert other.get_compile_config() == model.get_compile_config()


def test_the_optimizer_is_told_as_it_is_now():
    model = model_of(optimizer="sgd", loss="mse")
    model.optimizer.learning_rate = 0.25
    assert model.get_compile_config()["optimizer"]["config"]["learning_rate"] == 0.25


def test_before_compile():
    model = torchfit.Model(nn.Linear(2, 1), device="cpu")
    assert (model.compiled, model.get_compile_config()) == (False, {})
    model.compile_from_config({})
    assert not model.compiled


def test_functions_stay_themselves():
    loss = functools.partial(nn.functional.mse_loss, reduction="mean")
    assert model_of(loss=loss).get_compile_config()["loss"] is loss


class Weighted(torchfit.losses.Loss):
    def __init__(self, factor=1.0):
        super().__init__(name="weighted")
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * (y_true - y_pred) ** 2


class Peak(torchfit.metrics.Metric):
    def __init__(self, start, name="peak"):
        super().__init__(name=name)
        self.start = start
        self.peak = self.add_weight(name="peak")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.peak.assign(y_pred.max())

    def result(self):
        return self.peak + self.start


class Secretive(Weighted):
    def __init__(self, hidden):
        super().__init__()
        self._hidden = hidden


def test_arguments_that_an_inherited_config_does_not_know_are_read_from_attributes():
    model = model_of(loss=Weighted(3.0), metrics=[Peak(2.0)])
    config = json.loads(json.dumps(model.get_compile_config()))
    assert config["loss"]["config"] == {"factor": 3.0}
    assert config["metrics"][0]["config"] == {"name": "peak", "start": 2.0}
    other = torchfit.Model(nn.Linear(2, 1), device="cpu")
    with torchfit.saving.custom_object_scope({"Weighted": Weighted, "Peak": Peak}):
        other.compile_from_config(config)
    assert other.loss.factor == 3.0


def test_arguments_that_nobody_knows_are_told_when_loading(tmp_path):
    with pytest.warns(UserWarning, match="an object of type Secretive"):
        model_of(loss=Secretive(1)).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"an object of type Secretive.* get_config\(\) of its class must return all"):
        torchfit.models.load_model(tmp_path / "model", custom_objects={"Secretive": Secretive})


class Adversarial(torchfit.Model):
    def compile(self, first, second):
        super().compile(first, "mse")
        self.second = second


def test_a_compile_of_ones_own_is_not_called():
    model = Adversarial(nn.Linear(2, 1), device="cpu")
    with pytest.warns(UserWarning, match=r"Adversarial has a compile\(\) of its own and was not compiled"):
        model.compile_from_config({"optimizer": "sgd"})


def test_a_loss_that_is_a_module_is_no_part_of_the_model():
    model = model_of(loss=nn.CrossEntropyLoss())
    model.compile(loss="mse")
    assert "loss" not in dict(model.named_children())
