import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchfit
from tests.support import Evil
from torchfit._serialization import archive
from torchfit.models import load_model

OLD = [
    os.path.join(os.path.dirname(__file__), "data", name)
    for name in ("version_1.torchfit", "version_1_between_steps.torchfit")
]


class TwoHeads(torchfit.Model):
    """A model by subclassing, with a number of its own and a metric."""

    def __init__(self, size):
        super().__init__(name="heads")
        self.size = size
        self.tracker = torchfit.metrics.Mean(name="tracked")
        self.left = nn.Linear(size, 1)
        self.right = nn.Linear(size, 1)

    def forward(self, x):
        return {"left": self.left(x), "right": self.right(x) * self.size}


def network():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 5, generator=generator)
    return x, torch.randint(0, 3, (24,), generator=generator)


@pytest.fixture
def fitted():
    """Return a compiled model that was trained for an epoch."""
    torch.manual_seed(0)
    model = torchfit.Model(network(), device="cpu")
    loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(*data(), epochs=1, batch_size=8, verbose=0)
    return model


def train_on(model, epochs=2):
    torch.manual_seed(7)
    return model.fit(*data(), epochs=epochs, batch_size=8, verbose=0).history


def assert_same_state(model, other):
    assert list(model.state_dict()) == list(other.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def goes_on_alike(model, path, **options):
    model.save(path)
    loaded = load_model(path, **options)
    assert train_on(loaded) == train_on(model)
    assert_same_state(loaded, model)
    assert loaded.optimizer.iterations == model.optimizer.iterations
    return loaded


def test_predicts_alike(fitted, path):
    fitted.save(path)
    loaded = load_model(path)
    x, _ = data()
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), fitted.predict(x, verbose=0))
    assert loaded.evaluate(*data(), verbose=0) == fitted.evaluate(*data(), verbose=0)


def test_loads_where_nothing_else_was_imported(fitted, path):
    fitted.save(path)
    program = "import sys; from torchfit.saving import load_model; print(type(load_model(sys.argv[1])).__name__)"
    finished = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert finished.stdout.strip() == "Model", finished.stderr


def test_is_a_single_file_of_any_name(fitted, tmp_path):
    fitted.save(tmp_path / "ckpt" / "ckpt-loss=0.92")
    assert os.listdir(tmp_path / "ckpt") == ["ckpt-loss=0.92"]
    assert load_model(tmp_path / "ckpt" / "ckpt-loss=0.92").name == fitted.name


def test_remote(fitted):
    fitted.save("memory://models/fitted")
    assert_same_state(load_model("memory://models/fitted"), fitted)


OPTIMIZERS = {
    "name": lambda module: "rmsprop",
    "object": lambda module: torchfit.optimizers.Adam(3e-3, clipnorm=1.0, use_ema=True, amsgrad=True),
    "schedule": lambda module: torchfit.optimizers.SGD(
        torchfit.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5), momentum=0.9
    ),
    "accumulation": lambda module: torchfit.optimizers.Adam(gradient_accumulation_steps=2),
    "torch object": lambda module: torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9),
    "torch class": lambda module: torch.optim.AdamW,
    "callable": lambda module: lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_goes_on_alike_with_optimizers(make, path):
    model = torchfit.Model(network(), device="cpu")
    model.compile(make(model.module), nn.CrossEntropyLoss())
    train_on(model, 1)
    goes_on_alike(model, path)


def own_loss(y_true, y_pred):
    return F.cross_entropy(y_pred, y_true, reduction="none")


COMPILED = {
    "names": {"loss": "sparse_categorical_crossentropy", "metrics": ["acc", "crossentropy"]},
    "torch module": {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)},
    "torch function": {"loss": F.cross_entropy, "weighted_metrics": ["acc"]},
    "objects": {
        "loss": torchfit.losses.SparseCategoricalCrossentropy(from_logits=True, name="mine"),
        "metrics": [torchfit.metrics.SparseTopKCategoricalAccuracy(k=2, name="top")],
        "loss_weights": [0.5],
    },
    "own function": {"loss": own_loss},
}


@pytest.mark.filterwarnings("ignore:.*expects logits:UserWarning")
@pytest.mark.parametrize("arguments", COMPILED.values(), ids=COMPILED)
def test_goes_on_alike_however_compiled(arguments, path):
    model = torchfit.Model(nn.Sequential(*network(), nn.Softmax(-1)), device="cpu")
    model.compile("adam", **arguments)
    train_on(model, 1)
    goes_on_alike(model, path, custom_objects={"own_loss": own_loss})


def test_frozen_parameters_stay_frozen(path):
    model = torchfit.Model(network(), device="cpu")
    model.module[0].requires_grad_(False)
    model.compile("adam", nn.CrossEntropyLoss())
    train_on(model, 1)
    loaded = goes_on_alike(model, path)
    assert [parameter.requires_grad for parameter in loaded.module.parameters()] == [False, False, *[True] * 4]


def test_own_loss_that_is_not_given_is_named(fitted, path):
    fitted.compile("adam", own_loss)
    fitted.save(path)
    with pytest.raises(ValueError, match=r"`loss`: it needs the function 'own_loss'.*compile=False"):
        load_model(path)
    assert not load_model(path, compile=False).compiled


def test_a_lambda_is_named_and_the_compiled_model_helps(fitted, path):
    loss = lambda y_true, y_pred: own_loss(y_true, y_pred)  # noqa: E731
    fitted.compile("adam", loss)
    train_on(fitted, 1)
    with pytest.warns(UserWarning, match=r"`loss` is the function <lambda>.*\nWhen loading it, pass compile=False"):
        fitted.save(path)
    with pytest.raises(ValueError, match=r"`loss` is the function <lambda>, which is not plain data"):
        load_model(path)
    again = torchfit.Model(network(), device="cpu")
    again.compile("adam", loss)
    loaded = load_model(path, module=again)
    assert loaded is again
    assert train_on(loaded) == train_on(fitted)
    assert_same_state(loaded, fitted)


def test_without_optimizer(fitted, path):
    fitted.save(path, include_optimizer=False)
    assert not load_model(path).compiled


def test_uncompiled_model(path):
    model = torchfit.Model(network(), device="cpu", name="mine", input_names=["features"])
    model.save(path)
    loaded = load_model(path)
    assert (loaded.name, loaded.input_names, loaded.compiled) == ("mine", ["features"], False)


def test_compiled_but_not_trained(path):
    model = torchfit.Model(network(), device="cpu")
    model.compile("adam", nn.CrossEntropyLoss())
    goes_on_alike(model, path)


def test_subclasses_of_model(path):
    model = TwoHeads(3)
    model.compile("sgd", {"left": "mse", "right": "mae"}, metrics={"left": ["mae"]})
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    model.fit(x, {"left": y, "right": y}, verbose=0)
    model.save(path)
    loaded = load_model(path, custom_objects={"TwoHeads": TwoHeads})
    assert (type(loaded), loaded.name, loaded.size) == (TwoHeads, "heads", 3)
    assert isinstance(loaded.tracker, torchfit.metrics.Mean)
    np.testing.assert_array_equal(loaded.predict(x)["right"], model.predict(x)["right"])
    history = [each.fit(x, {"left": y, "right": y}, shuffle=False, verbose=0).history for each in (model, loaded)]
    assert history[0] == history[1]


def test_refuses_to_replace(fitted, path):
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fitted.save(path, overwrite=False)
    assert path.read_text() == "mine"


def test_a_failed_save_leaves_the_old_file(fitted, path, monkeypatch):
    fitted.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device") as caught:
        fitted.save(path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("safe_mode", [True, False])
def test_malicious_files_run_nothing(path, tmp_path, safe_mode):
    witness = tmp_path / "witness"
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write({"format": "torchfit model", "state": Evil(witness)}, path)
        with pytest.raises(ValueError, match="was refused") as caught:
            load_model(path, safe_mode=safe_mode)
        assert str(path) in str(caught.value)
        assert not witness.exists()


def test_damaged_files_are_refused(fitted, path):
    fitted.save(path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 211):
        changed = bytearray(whole)
        changed[position] ^= 16
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="damaged"):
            load_model(path)
    for size in range(0, len(whole), 499):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            load_model(path)


def test_weights_are_no_model(fitted, path):
    fitted.save_weights(path)
    with pytest.raises(ValueError, match=r"holds no torchfit model.*load_weights"):
        load_model(path)


def test_a_class_is_no_module(fitted, path):
    fitted.save(path)
    with pytest.raises(TypeError, match=r"`module` must be a torch\.nn\.Module \(an object, not a class\)"):
        load_model(path, module=nn.Linear)  # type: ignore[arg-type]


def test_a_module_that_does_not_fit(fitted, path):
    fitted.save(path)
    with pytest.raises(ValueError, match=r"missing: 9\.weight"):
        load_model(path, module=nn.Sequential(*network(), *[nn.Identity()] * 4, nn.Linear(1, 1)))


def test_files_of_the_future_are_refused(fitted, path):
    fitted.save(path)
    archive.write(path, {**archive.read(path), "version": 2})
    with pytest.raises(ValueError, match=r"in version 2 of the format; this torchfit .* reads versions up to 1"):
        load_model(path)


def test_incomplete_files_are_refused(fitted, path):
    fitted.save(path)
    content = archive.read(path)
    del content["architecture"]
    archive.write(path, content)
    with pytest.raises(ValueError, match=r"holds no complete torchfit model: it lacks \['architecture'\]"):
        load_model(path)


def test_loading_draws_no_random_numbers(fitted, path):
    fitted.save(path)
    before = torch.get_rng_state()
    load_model(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_guides_checkpoints(tmp_path):
    model = torchfit.Model(network(), device="cpu")
    model.compile("adam", nn.CrossEntropyLoss())
    checkpoint = torchfit.callbacks.ModelCheckpoint(tmp_path / "ckpt" / "mymodel_{epoch}")
    model.fit(*data(), epochs=2, verbose=0, callbacks=[checkpoint])
    assert sorted(os.listdir(tmp_path / "ckpt")) == ["mymodel_1", "mymodel_2"]
    assert_same_state(torchfit.models.load_model(tmp_path / "ckpt" / "mymodel_2"), model)


def test_a_checkpoint_between_steps_leaves_nothing_else_in_memory(tmp_path):
    model = torchfit.Model(network(), device="cpu")
    model.compile("adam", nn.CrossEntropyLoss())
    checkpoint = torchfit.callbacks.ModelCheckpoint(tmp_path / "model", save_freq=1)
    model.fit(*data(), verbose=0, callbacks=[checkpoint])
    loaded = load_model(tmp_path / "model")
    assert_same_state(loaded, model)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in loaded.state_dict().values())


@pytest.mark.parametrize("path", OLD)
def test_old_files_keep_loading(path):
    model = load_model(path)
    assert model.predict(torch.ones(1, 4)).round(5).tolist() == [[-0.25, 1.75]]
    assert model.optimizer.iterations == 3
    assert model.get_compile_config()["metrics"] == ["mae"]
    model.fit(torch.ones(2, 4), torch.ones(2, 2), verbose=0)
