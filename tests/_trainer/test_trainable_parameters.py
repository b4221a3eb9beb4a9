"""What is trainable is trained, whoever wrote the step, and whenever it became so."""

import functools

import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, optimizers
from torchfit.models import load_model

X = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


class OwnStep(torchfit.Model):
    def train_step(self, batch):
        x, y = batch
        self.optimizer.zero_grad()
        loss = self.compute_loss(x, y, self(x, training=True))
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}


class ScaledError(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, y_pred, y_true):
        return (y_pred - y_true).square().mean() * self.scale + self.scale.square()


def fit(model, epochs=1, **options):
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def train_on_batches(model):
    for x, y in zip(X.split(8), Y.split(8)):
        model.train_on_batch(x, y)


MAKE = {
    "torchfit": lambda net: optimizers.Adam(0.01, epsilon=1e-12),
    "class": lambda net: functools.partial(torch.optim.Adam, lr=0.01, eps=1e-12),
    "instance": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, eps=1e-12),
}


def compiled(kind, net, optimizer, loss="mse", **options):
    model = kind(net, device="cpu")
    model.compile(optimizer, loss, **options)
    return model


def by_hand(net, optimizer, epochs=1):
    for x, y in zip(X.split(8) * epochs, Y.split(8) * epochs):
        net.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()


def assert_same(net, twin):
    for (name, one), other in zip(net.named_parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0, msg=name)


@pytest.mark.filterwarnings("ignore:The optimizer's state was saved for other parameters")
@pytest.mark.parametrize("train", [fit, train_on_batches])
@pytest.mark.parametrize("kind", [torchfit.Model, OwnStep])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_layer_that_is_unfrozen_trains_as_in_a_loop_also_in_a_loaded_model(make, kind, train, tmp_path):
    net, twin = network(), network()
    net[0].requires_grad_(False)
    model = compiled(kind, net, make(net))
    train(model)
    net[0].requires_grad_(True)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"OwnStep": OwnStep})
    optimizer = torch.optim.Adam(twin.parameters(), 0.01, eps=1e-12)
    twin[0].requires_grad_(False)
    by_hand(twin, optimizer)
    twin[0].requires_grad_(True)
    by_hand(twin, optimizer)
    for each in (model, loaded):
        train(each)
        assert_same(each.module, twin)


@pytest.mark.parametrize("kind", [torchfit.Model, OwnStep])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize(("hook", "first"), [("on_train_batch_begin", 1), ("on_train_batch_end", 2)])
def test_a_layer_that_is_unfrozen_between_two_steps_is_trained_from_the_next_one(hook, first, make, kind):
    net, trained = network(), []
    net[0].requires_grad_(False)
    before = net[0].weight.detach().clone()
    unfreeze = callbacks.LambdaCallback(**{hook: lambda batch, logs: net[0].requires_grad_(batch >= 1)})
    look = callbacks.LambdaCallback(
        on_train_batch_end=lambda *_: trained.append(not torch.equal(net[0].weight, before))
    )
    fit(compiled(kind, net, make(net)), callbacks=[unfreeze, look])
    assert trained == [batch >= first for batch in range(4)]


def test_a_layer_that_is_frozen_between_two_steps_stays_as_it_is():
    net = network()
    model = compiled(torchfit.Model, net, optimizers.AdamW(0.01, weight_decay=0.1))
    kept = []

    def freeze(batch, logs):
        if batch == 1:
            net[0].requires_grad_(False)
            kept.append(net[0].weight.detach().clone())

    fit(model, callbacks=[callbacks.LambdaCallback(on_train_batch_end=freeze)])
    assert torch.equal(net[0].weight, kept[0])


@pytest.mark.parametrize("optimizer", ["adam", torch.optim.Adam], ids=["torchfit", "class"])
@pytest.mark.parametrize("train", [fit, train_on_batches])
def test_lazy_layers_are_trained_by_an_own_step(optimizer, train):
    torch.manual_seed(0)
    net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, 1))
    model = compiled(OwnStep, net, optimizer)
    train(model)
    assert len(model.optimizer.parameters) == 4


class WithUnusedLayer(nn.Linear):
    def __init__(self):
        super().__init__(5, 1)
        self.unused = nn.LazyLinear(3)


@pytest.mark.parametrize("optimizer", ["adam", torch.optim.Adam], ids=["torchfit", "class"])
def test_a_lazy_layer_that_is_never_called_is_left_out(optimizer):
    net = WithUnusedLayer()
    model = compiled(torchfit.Model, net, optimizer)
    before = net.weight.detach().clone()
    fit(model, epochs=2)
    assert not torch.equal(net.weight, before)
    net.bias.requires_grad_(False)
    fit(model)
    assert [tuple(parameter.shape) for parameter in model.optimizer.parameters] == [(1, 5)]


class Adversarial(torchfit.Model):
    """Trains two parts against each other; each is frozen while the other one is trained."""

    def __init__(self, generator, discriminator):
        super().__init__(device="cpu")
        self.generator, self.discriminator = generator, discriminator

    def forward(self, x):
        return self.generator(x)

    def compile(self, optimizer, discriminator_optimizer):
        super().compile(optimizer)
        self.discriminator_optimizer = discriminator_optimizer

    def train_step(self, batch):
        x, _ = batch
        for part, other, optimizer, sign in (
            (self.generator, self.discriminator, self.optimizer, 1),
            (self.discriminator, self.generator, self.discriminator_optimizer, -1),
        ):
            part.requires_grad_(True)
            other.requires_grad_(False)
            loss = sign * self.discriminator(self.generator(x)).square().mean()
            parameters = list(part.parameters())
            optimizer.apply(torch.autograd.grad(loss, parameters), parameters)
        return {"loss": loss.detach()}


def test_each_optimizer_of_an_own_step_binds_to_what_it_is_applied_to(tmp_path):
    torch.manual_seed(0)
    model = Adversarial(nn.Linear(5, 3), nn.Linear(3, 1))
    model.compile(optimizers.Adam(0.01), optimizers.Adam(0.01))
    fit(model)
    before = model.get_weights()
    fit(model)
    assert [list(each.state_dict()["parameters"]) for each in (model.optimizer, model.discriminator_optimizer)] == [
        ["generator.weight", "generator.bias"],
        ["0", "1"],
    ]
    assert not any((one == other).all() for one, other in zip(before, model.get_weights()))


class Alternating(OwnStep):
    """Freezes a layer between the steps, as one that trains parts in turns may leave it."""

    def train_step(self, batch):
        self.module[0].requires_grad_(True)
        logs = super().train_step(batch)
        self.module[0].requires_grad_(False)
        return logs


def test_what_an_own_step_freezes_at_its_end_is_trained_in_every_epoch():
    net, twin = network(), network()
    fit(compiled(Alternating, net, optimizers.SGD(0.1)), epochs=3)
    by_hand(twin, torch.optim.SGD(twin.parameters(), 0.1), epochs=3)
    assert_same(net, twin)


# -- instances of torch.optim ------------------------------------------------------------------------------------------


def test_an_instance_for_another_model_is_refused_by_compile():
    with pytest.raises(ValueError, match=r"bound to other parameters than the model's.*model\.parameters\(\)"):
        compiled(torchfit.Model, network(), torch.optim.SGD(network().parameters(), 0.1))


def test_an_optimizer_of_another_model_is_refused_by_compile():
    first = compiled(torchfit.Model, network(), "adam")
    fit(first)
    with pytest.raises(ValueError, match="bound to other parameters than the model's"):
        compiled(torchfit.Model, network(), first.optimizer)


def test_what_is_unfrozen_between_compile_and_fit_is_told_of():
    net = network()
    net[0].requires_grad_(False)
    model = compiled(torchfit.Model, net, torch.optim.SGD(net[2].parameters(), 0.1))
    net[0].requires_grad_(True)
    with pytest.warns(UserWarning, match=r"\['0.weight', '0.bias'\] are trainable.*add_param_group"):
        fit(model)


def test_compiling_with_the_same_instance_tells_what_became_trainable_and_keeps_its_count():
    net = network()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[2].parameters(), 0.1)
    model = compiled(torchfit.Model, net, optimizer)
    fit(model)
    net[0].requires_grad_(True)
    with pytest.warns(UserWarning, match=r"\['0.weight', '0.bias'\] are trainable.*add_param_group"):
        model.compile(optimizer, "mae")
    assert model.optimizer.iterations == 4


def test_an_instance_for_a_part_of_the_model_is_nobodys_business(recwarn):
    net = network()
    fit(compiled(torchfit.Model, net, torch.optim.SGD(net[2].parameters(), 0.1)), epochs=2)
    assert [str(warning.message) for warning in recwarn] == []


class Regularizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self):
        return self.scale.square()


def test_an_instance_that_leaves_out_the_parameters_of_a_loss_is_told():
    net = network()
    with pytest.warns(UserWarning, match=r"\['loss_1.scale'\] are trainable.*add_param_group"):
        compiled(torchfit.Model, net, torch.optim.SGD(net.parameters(), 0.1), ScaledError())


def test_an_instance_that_leaves_out_the_parameters_of_an_added_loss_is_told():
    net = network()
    model = compiled(torchfit.Model, net, torch.optim.SGD(net.parameters(), 0.1))
    model.add_loss(Regularizer())
    with pytest.warns(UserWarning, match=r"\['loss_1.scale'\] are trainable.*add_param_group"):
        fit(model)


def test_an_instance_that_holds_the_parameters_of_a_loss_trains_them(recwarn):
    net, loss = network(), ScaledError()
    fit(compiled(torchfit.Model, net, torch.optim.SGD([*net.parameters(), *loss.parameters()], 0.1), loss))
    assert loss.scale.item() != 1.0
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize(
    "callback",
    [
        callbacks.FineTuning({1: "0"}),
        callbacks.LearningRateScheduler(lambda epoch, rate: rate),
        callbacks.LearningRateMonitor(),
    ],
    ids=lambda callback: type(callback).__name__,
)
@pytest.mark.parametrize("optimizer", ["adam", torch.optim.Adam], ids=["torchfit", "class"])
def test_the_parameters_of_a_loss_are_trained_beside_callbacks_that_look_at_the_optimizer(optimizer, callback):
    loss = ScaledError()
    fit(compiled(torchfit.Model, network(), optimizer, loss), epochs=2, callbacks=[callback])
    assert loss.scale.item() != 1.0


# -- optimizers of torchfit that the user has bound ------------------------------------------------------------------


def test_an_optimizer_that_was_built_with_all_parameters_takes_in_a_layer_that_is_added():
    net, optimizer = network(), optimizers.Adam(0.01)
    optimizer.build(net.named_parameters())
    model = compiled(torchfit.Model, net, optimizer)
    fit(model)
    net.append(nn.Linear(1, 1))
    before = net[3].weight.detach().clone()
    fit(model)
    assert not torch.equal(net[3].weight, before)


def test_an_optimizer_that_was_built_with_a_part_tells_what_is_unfrozen_beside_it(recwarn):
    net, optimizer = network(), optimizers.Adam(0.01)
    net[0].requires_grad_(False)
    optimizer.build(net[2].named_parameters())
    model = compiled(torchfit.Model, net, optimizer)
    net[0].requires_grad_(True)
    with pytest.warns(
        UserWarning, match=r"\['0.weight', '0.bias'\] are trainable, but the optimizer was built without"
    ):
        fit(model)


def test_an_optimizer_that_was_built_without_the_parameters_of_a_loss_tells_so():
    net, optimizer = network(), optimizers.Adam(0.01)
    optimizer.build(net.named_parameters())
    model = compiled(torchfit.Model, net, optimizer, ScaledError())
    with pytest.warns(UserWarning, match=r"\['loss_1.scale'\] are trainable, but the optimizer was built without them"):
        fit(model)


# -- parameters of losses that are seen, or not ----------------------------------------------------------------------

AROUND = ScaledError()


def with_global(y_true, y_pred):
    return AROUND(y_pred, y_true)


def with_argument(y_true, y_pred, inner):
    return inner(y_pred, y_true)


@pytest.mark.parametrize("name", ["AROUND", "local"])
def test_a_module_that_a_function_uses_as_a_loss_is_told_of(name):
    local = ScaledError()
    loss = with_global if name == "AROUND" else lambda y_true, y_pred: local(y_pred, y_true)
    model = compiled(torchfit.Model, network(), "adam", loss)
    with pytest.warns(UserWarning, match=rf"The loss uses '{name}', a ScaledError whose parameters are not trained"):
        fit(model)


def test_modules_that_are_arguments_frozen_or_the_network_itself_are_nothing_to_tell(recwarn):
    net, frozen = network(), ScaledError().requires_grad_(False)
    fit(compiled(torchfit.Model, net, "adam", functools.partial(with_argument, inner=ScaledError())))
    fit(compiled(torchfit.Model, net, "adam", lambda y_true, y_pred: frozen(y_pred, y_true) + net[0].weight.sum()))
    assert [str(warning.message) for warning in recwarn] == []


def test_a_loss_is_trained_beside_a_frozen_network(recwarn):
    net, loss = network().requires_grad_(False), ScaledError()
    fit(compiled(torchfit.Model, net, "adam", loss))
    assert loss.scale.item() != 1.0
    assert [str(warning.message) for warning in recwarn] == []


def test_hooks_of_an_optimizer_are_told_of_when_they_are_not_saved(tmp_path):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    optimizer.register_step_pre_hook(lambda *_: None)
    model = compiled(torchfit.Model, net, optimizer)
    with pytest.warns(UserWarning, match=r"The hooks of SGD are code, and are not saved"):
        model.save(tmp_path / "model")
