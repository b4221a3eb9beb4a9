"""Models of subclasses, and what was added to their losses, come back from files."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from tests.support import copies_deep_modules
from torchfit import optimizers
from torchfit._serialization import archive
from torchfit.models import load_model

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = X.sum(1, keepdims=True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))


def fit(model):
    return model.fit(X, Y, epochs=2, shuffle=False, verbose=0).history


def assert_continues(model, path, **options):
    fit(model)
    model.save(path)
    loaded = load_model(path, **options)
    assert type(loaded) is type(model)
    assert fit(loaded) == fit(model)
    return loaded


class Distilled(torchfit.Model):
    """A model with a step, a number, a network and a metric of its own."""

    def __init__(self, module, teacher, share):
        super().__init__(module, device="cpu")
        self.teacher, self.share = teacher, share
        self.tracker = torchfit.metrics.Mean(name="distance")

    def train_step(self, batch):
        x, y = batch
        outputs = self(x)
        with torch.no_grad():
            taught = self.teacher(x)
        distance = (outputs - taught).square().mean()
        loss = self.compute_loss(x, y, outputs) + self.share * distance
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.tracker.update_state(distance.detach())
        return {"loss": loss.detach(), "distance": self.tracker.result()}


def distilled():
    model = Distilled(network(), nn.Linear(6, 1).eval(), 0.25)
    model.compile(optimizers.Adam(0.01), "mse")
    model.build_optimizer()
    return model


def test_a_wrapper_with_a_step_of_its_own_comes_back_as_its_class(tmp_path):
    loaded = assert_continues(distilled(), tmp_path / "model", custom_objects={"Distilled": Distilled})
    assert (loaded.share, loaded.teacher.training, loaded.compiled) == (0.25, False, True)


def test_a_wrapper_whose_class_is_not_passed_is_loaded_as_a_model_with_a_warning(tmp_path):
    model = distilled()
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"is a Distilled around its.*custom_objects=\{'Distilled': Distilled\}"):
        loaded = load_model(tmp_path / "model")
    assert type(loaded) is torchfit.Model
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_a_given_module_is_not_wrapped_by_the_class_of_the_file_with_a_warning(tmp_path):
    distilled().save(tmp_path / "model")
    with pytest.warns(UserWarning, match="is a Distilled around its module"):
        load_model(tmp_path / "model", module=network(), custom_objects={"Distilled": Distilled})
    given = Distilled(network(), nn.Linear(6, 1), 0.5)
    assert load_model(tmp_path / "model", module=given) is given


class Opaque(torchfit.Model):
    """A wrapper with an attribute that is no plain data."""

    def __init__(self, module):
        super().__init__(module, device="cpu")
        self.cache = object()


def test_a_wrapper_that_cannot_be_rebuilt_says_so_when_it_is_saved_and_loaded(tmp_path):
    with pytest.warns(UserWarning, match="Opaque: its attribute `cache` is an object of type object"):
        Opaque(network()).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Opaque: its attribute `cache`.*\n.*module="):
        load_model(tmp_path / "model", custom_objects={"Opaque": Opaque})


def large(hidden):
    return hidden.abs().mean()


def mean(hidden):
    return hidden.mean()


def constant():
    return torch.tensor(2.0)


ADDED = {"large": large, "mean": mean, "constant": constant}


def with_added_terms():
    model = torchfit.Model(network(), device="cpu")
    model.compile(optimizers.SGD(0.001), "mse")
    model.add_loss(large, on="1")
    model.add_loss(constant)
    model.add_metric(mean, "mean", on="1")
    model.add_metric(constant, "constant", "sum")
    return model


def test_added_losses_and_metrics_come_back_by_the_names_of_their_functions(tmp_path):
    loaded = assert_continues(with_added_terms(), tmp_path / "model", custom_objects=ADDED)
    assert [term.method for term in loaded.added_terms] == ["add_loss", "add_loss", "add_metric", "add_metric"]
    assert list(fit(loaded)) == ["loss", "mean", "constant"]


def test_functions_that_were_added_and_are_not_passed_are_named(tmp_path):
    with_added_terms().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"added to the loss cannot be restored: it needs the function 'large'"):
        load_model(tmp_path / "model")
    assert load_model(tmp_path / "model", compile=False).added_terms == []


def test_lambdas_that_were_added_are_told_of_when_saving_and_loading(tmp_path):
    model = torchfit.Model(network(), device="cpu")
    model.add_loss(lambda: torch.ones(()))
    with pytest.warns(UserWarning, match="`add_loss`.* is the function <lambda>"):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the function <lambda>.*pass compile=False"):
        load_model(tmp_path / "model")


def test_what_was_added_to_a_given_model_is_not_added_twice(tmp_path):
    model = with_added_terms()
    model.save(tmp_path / "model")
    given = with_added_terms()
    load_model(tmp_path / "model", module=given, custom_objects=ADDED)
    assert len(given.added_terms) == 4
    assert load_model(tmp_path / "model", module=network(), custom_objects=ADDED).added_terms == model.added_terms


def test_files_of_earlier_versions_know_no_wrappers_and_added_terms(tmp_path):
    model = with_added_terms()
    model.save(tmp_path / "model")
    content = archive.read(tmp_path / "model")
    del content["added"], content["architecture"]["wrapper"]
    archive.write(tmp_path / "model", content)
    assert load_model(tmp_path / "model").added_terms == []


@copies_deep_modules
@pytest.mark.parametrize("depth", [200, 300])
def test_deeply_nested_modules_are_saved_and_copied(tmp_path, depth):
    net = network()
    for _ in range(depth):
        net = nn.Sequential(net)
    model = torchfit.Model(net, device="cpu")
    model.save(tmp_path / "model")
    for twin in (load_model(tmp_path / "model"), copy.deepcopy(model)):
        for own, other in zip(model.weights, twin.weights, strict=True):
            assert torch.equal(own, other)
            assert own is not other


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_add_what_the_model_adds(copied):
    model = with_added_terms()
    fit(model)
    twin = copied(model)
    assert fit(twin) == fit(model)
    assert len(twin.added_terms) == 4
