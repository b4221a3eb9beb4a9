"""The parameters of losses are trained, saved and restored with those of the model."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from tests.support import Interrupt, InterruptedHereError
from torchfit import callbacks, losses, optimizers
from torchfit._serialization import archive
from torchfit.models import load_model

X = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
Y = X.sum(1, keepdims=True)


class Scaled(nn.Module):
    """Learns the scale of its errors, and counts what it saw in a buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("center", torch.zeros(()))

    def forward(self, y_pred, y_true):
        with torch.no_grad():
            self.center.mul_(0.9).add_(0.1 * y_pred.mean())
        return (y_pred - y_true + 0.1 * self.center).square().mean() * self.scale + self.scale.square()

    def penalty(self):
        return self.scale.square()


class Holder(losses.Loss):
    """Holds a module, modules in a list, and a parameter of its own."""

    def __init__(self, name="holder", reduction="sum_over_batch_size"):
        super().__init__(name, reduction)
        self.inner, self.more = Scaled(), [Scaled()]
        self.temperature = nn.Parameter(torch.ones(()))

    def call(self, y_true, y_pred):
        values = self.inner(y_pred, y_true) + self.more[0](y_pred, y_true)
        return values * self.temperature + self.temperature.square()


class Regularizer(Scaled):
    def forward(self):
        return self.scale.square()


def with_weight(y_true, y_pred, loss):
    return loss(y_pred, y_true)


CUSTOM = {"Scaled": Scaled, "Holder": Holder, "Regularizer": Regularizer, "with_weight": with_weight}
LOSSES = {
    "module": Scaled,
    "loss": Holder,
    "dictionary": lambda: {"output_1": Scaled()},
    "partial function": lambda: functools.partial(with_weight, loss=Scaled()),
    "added": Regularizer,
}


def compiled(kind, optimizer="adam"):
    torch.manual_seed(0)
    model = torchfit.Model(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)), device="cpu")
    model.compile(optimizer, "mse" if kind == "added" else LOSSES[kind]())
    if kind == "added":
        model.add_loss(Regularizer())
    return model


def fit(model, epochs=2, **options):
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def tensors(model):
    return [*model.module.state_dict().values(), *model.loss_modules.state_dict().values()]


def assert_same(model, other):
    torch.testing.assert_close(tensors(model), tensors(other), rtol=0, atol=0)


each_loss = pytest.mark.parametrize("kind", LOSSES)


@each_loss
def test_all_parameters_of_losses_are_trained(kind):
    model = compiled(kind)
    before = [parameter.detach().clone() for parameter in model.loss_modules.parameters()]
    fit(model)
    after = list(model.loss_modules.parameters())
    assert len(after) == (3 if kind == "loss" else 1)
    assert not any(torch.equal(one, other) for one, other in zip(before, after))


@each_loss
def test_a_loaded_model_goes_on_with_the_parameters_of_its_losses(kind, tmp_path):
    model = compiled(kind)
    fit(model)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects=CUSTOM)
    given = load_model(tmp_path / "model", module=compiled(kind))
    for other in (loaded, given):
        assert_same(model, other)
    for each in (model, loaded, given):
        fit(each)
    for other in (loaded, given):
        assert_same(model, other)


@each_loss
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_goes_on_with_parameters_of_its_own(kind, copied):
    model = compiled(kind)
    fit(model)
    other = copied(model)
    fit(other)
    assert not torch.equal(*(next(iter(each.loss_modules.parameters())) for each in (model, other)))
    fit(model)
    assert_same(model, other)


@each_loss
def test_an_interrupted_run_is_resumed_with_the_parameters_of_its_losses(kind, tmp_path):
    whole, first, second = (compiled(kind) for _ in range(3))
    fit(whole, 4)
    backup = [callbacks.BackupAndRestore(tmp_path), Interrupt(2)]
    with pytest.raises(InterruptedHereError):
        fit(first, 4, callbacks=backup)
    fit(second, 4, callbacks=backup[:1])
    assert_same(second, whole)


def test_a_frozen_parameter_of_a_loss_is_loaded_as_such(tmp_path):
    model = compiled("loss")
    model.loss_modules.requires_grad_(False)
    fit(model)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects=CUSTOM)
    assert [parameter.requires_grad for parameter in loaded.loss_modules.parameters()] == [False] * 3


def test_losses_of_other_parameters_are_refused_with_their_names(tmp_path):
    compiled("loss").save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"(?s)its losses cannot be restored: .*unexpected: loss_2\.scale"):
        load_model(tmp_path / "model", module=compiled("module"))


def test_a_loss_that_shares_a_parameter_with_the_model_says_so_when_it_is_saved(tmp_path):
    model = compiled("module", optimizers.SGD(0.01))
    loss = Scaled()
    loss.scale = model.module[2].bias
    model.compile(optimizers.SGD(0.01), loss)
    assert [name for name, _ in model.loss_modules.named_parameters()] == ["loss_1.scale"]
    with pytest.warns(UserWarning, match=r"`loss` shares the parameter loss_1\.scale with the module"):
        model.save(tmp_path / "model")


def test_a_loss_that_holds_the_network_itself_has_no_parameters_of_its_own():
    model = compiled("module")
    model.compile("sgd", functools.partial(with_weight, loss=lambda *_: None))
    assert list(model.loss_modules) == []
    loss = functools.partial(lambda y_true, y_pred, net: net[2].weight.square().mean(), net=model.module)
    model.compile("sgd", loss)
    assert list(model.loss_modules) == []


@pytest.mark.parametrize("loss", [losses.LossFunctionWrapper(Scaled()), Scaled().forward], ids=["wrapper", "method"])
def test_a_loss_without_a_name_is_told_when_it_is_saved(loss, tmp_path):
    model = compiled("module")
    model.compile("sgd", loss)
    with pytest.warns(UserWarning, match=r"(?s)`loss` is .*compile=False"):
        model.save(tmp_path / "model")


@pytest.mark.parametrize("version", [2, 3])
def test_states_of_runs_of_the_second_version_hold_nothing_of_losses(version, tmp_path):
    backup = [callbacks.BackupAndRestore(tmp_path), Interrupt(2)]
    with pytest.raises(InterruptedHereError):
        fit(compiled("module"), 4, callbacks=backup)
    content = archive.read(tmp_path / "latest.pt")
    archive.write(
        tmp_path / "latest.pt",
        {**{k: v for k, v in content.items() if k not in ("losses", "attributes")}, "version": version},
    )
    if version == 2:
        assert len(fit(compiled("module"), 4, callbacks=backup[:1]).epoch) == 4
    else:
        with pytest.raises(ValueError, match="does not fit this training run"):
            fit(compiled("module"), 4, callbacks=backup[:1])


class AroundWithLoss(torchfit.Model):
    """Holds a loss with parameters beside the module that it is around."""

    def __init__(self, module):
        super().__init__(module, device="cpu")
        self.inner, self.distance = Scaled(), torchfit.metrics.Mean(name="distance")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.inner(y_pred, y)


class AroundWithStep(AroundWithLoss):
    def train_step(self, batch):
        x, y = batch
        self.optimizer.zero_grad()
        self.inner.zero_grad()
        loss = self.compute_loss(x, y, self(x, training=True))
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.inner.scale.sub_(0.1 * self.inner.scale.grad)
        return {"loss": loss.detach()}


@pytest.mark.parametrize("kind", [AroundWithLoss, AroundWithStep])
def test_a_loss_in_an_attribute_of_a_model_is_trained_saved_and_resumed(kind, tmp_path):
    def make():
        torch.manual_seed(0)
        model = kind(nn.Linear(5, 1))
        model.compile("adam")
        return model

    def everything(model):
        return [*model.module.state_dict().values(), *model.inner.state_dict().values()]

    whole, first, second = make(), make(), make()
    fit(whole, 4)
    assert whole.inner.scale.item() != 1.0
    backup = [callbacks.BackupAndRestore(tmp_path / "backup"), Interrupt(2)]
    with pytest.raises(InterruptedHereError):
        fit(first, 4, callbacks=backup)
    fit(second, 4, callbacks=backup[:1])
    torch.testing.assert_close(everything(second), everything(whole), rtol=0, atol=0)
    second.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={kind.__name__: kind, "Scaled": Scaled})
    for each in (second, loaded):
        fit(each)
    torch.testing.assert_close(everything(loaded), everything(second), rtol=0, atol=0)
