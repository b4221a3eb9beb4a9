"""`model.optimizer` has what optimizers of torch have, or says what to use instead, and may be set."""

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from tests.plain_loop.by_hand import fit_over, loop_over
from torchfit import callbacks, optimizers

X = torch.tensor(np.random.default_rng(0).normal(size=(24, 5)).astype("float32"))
Y = X[:, :2] * 2
MAKE = {
    "torchfit": lambda net: optimizers.SGD(0.1),
    "torch": lambda net: torch.optim.SGD(net.parameters(), 0.1),
    "class": lambda net: torch.optim.SGD,
    "several": lambda net: optimizers.MultiOptimizer({".*weight": optimizers.SGD(0.1)}, default=optimizers.SGD(0.1)),
}


def network():
    torch.manual_seed(0)
    return nn.Linear(5, 2)


def compiled(make, **options):
    model = torchfit.Model(network(), device="cpu")
    model.compile(make(model.module), "mse", **options)
    return model


fit, loop = fit_over(X, Y), loop_over(X, Y)


def assert_same(net, twin):
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=0, atol=1e-6)


# -- attributes of torch -----------------------------------------------------------------------------------------------


class Clears(torchfit.Model):
    """Clears gradients with torch's argument."""

    def __init__(self, set_to_none):
        super().__init__(device="cpu")
        self.net, self.set_to_none, self.seen = network(), set_to_none, []

    def forward(self, x):
        return self.net(x)

    def train_step(self, batch):
        x, y = batch
        loss = self.compute_loss(x, y, self(x))
        self.optimizer.zero_grad(set_to_none=self.set_to_none)
        self.seen.append(self.net.weight.grad is None)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_cleared_with_the_argument_of_torch(make, set_to_none):
    model, twin = Clears(set_to_none), network()
    model.compile(make(model.net), "mse")
    model.optimizer.learning_rate = 0.1
    fit(model)
    loop(twin, torch.optim.SGD(twin.parameters(), 0.1))
    assert_same(model.net, twin)
    assert model.seen == [True, set_to_none, set_to_none]


def clip(optimizer, *arguments):
    nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], 0.1)


def test_the_attributes_of_a_wrapped_optimizer_are_reached():
    model, twin = compiled(MAKE["torch"]), network()
    optimizer, own = torch.optim.SGD(twin.parameters(), 0.1), model.optimizer
    model.module.bias.requires_grad_(False)
    twin.bias.requires_grad_(False)
    for each in (own, optimizer):
        each.param_groups[0]["lr"] = 0.05
        each.param_groups[0]["momentum"] = 0.9
        each.register_step_pre_hook(clip)
    fit(model)
    loop(twin, optimizer)
    assert_same(model.module, twin)
    assert (own.learning_rate, own.defaults["lr"], len(own.state)) == (0.05, 0.1, len(optimizer.state))
    extra = nn.Parameter(torch.ones(2))
    own.add_param_group({"params": [extra], "lr": 0.3})
    assert own.optimizer.param_groups[1]["params"] == [extra]


def test_before_a_class_has_made_the_optimizer_the_attributes_say_when_it_will():
    model = compiled(MAKE["class"])
    with pytest.raises(AttributeError, match=r"`param_groups` .* first step, or by model.build_optimizer\(\)"):
        _ = model.optimizer.param_groups
    assert not hasattr(model.optimizer, "state")
    model.build_optimizer()
    assert len(model.optimizer.param_groups) == 1


@pytest.mark.parametrize("kind", ["torchfit", "several"])
@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("param_groups", r"`learning_rate`.*MultiOptimizer.*TorchLRScheduler"),
        ("state", r"`state_dict\(\)`"),
        ("defaults", r"`get_config\(\)`"),
        ("add_param_group", r"build_optimizer\(\)"),
    ],
)
def test_optimizers_of_torchfit_say_what_to_use_instead(kind, name, way_out):
    optimizer = compiled(MAKE[kind]).optimizer
    with pytest.raises(AttributeError, match=f"has no attribute '{name}' as in torch.*{way_out}"):
        getattr(optimizer, name)


def test_a_subclass_may_use_the_names_that_torch_has():
    class Counting(optimizers.SGD):
        def __init__(self, rate):
            super().__init__(rate)
            self.state = {"calls": 0}

        def update(self, *arguments):
            self.state["calls"] += 1
            super().update(*arguments)

    model = compiled(lambda net: Counting(0.1))
    fit(model)
    assert model.optimizer.state == {"calls": 3}


# -- setting the optimizer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"microbatch": 4}, {"steps_per_execution": 2}], ids=str)
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_an_optimizer_that_is_set_trains_and_is_saved(make, options, tmp_path):
    model, twin = compiled(lambda net: "adam", **options), network()
    model.optimizer = make(model.module)
    model.optimizer.learning_rate = 0.1
    fit(model)
    loop(twin, torch.optim.SGD(twin.parameters(), 0.1))
    model.save(tmp_path / "model")
    loaded = torchfit.models.load_model(tmp_path / "model")
    assert type(loaded.optimizer) is type(model.optimizer)
    assert_same(model.module, twin)


def test_an_optimizer_may_be_set_in_the_middle_of_a_training():
    model, twin = compiled(MAKE["torchfit"]), network()

    def switch(epoch, logs):
        if epoch == 1:
            model.optimizer = torch.optim.Adam(model.module.parameters(), 0.05)

    fit(model, epochs=3, callbacks=[callbacks.LambdaCallback(on_epoch_begin=switch)])
    loop(twin, torch.optim.SGD(twin.parameters(), 0.1))
    loop(twin, torch.optim.Adam(twin.parameters(), 0.05), epochs=2)
    assert_same(model.module, twin)


@pytest.mark.parametrize("value", [3, "adm", object(), [torch.optim.SGD([nn.Parameter(torch.ones(1))])], nn.MSELoss()])
def test_what_is_no_optimizer_is_refused_where_it_is_set(value):
    model = compiled(MAKE["torchfit"])
    before = model.optimizer
    with pytest.raises((ValueError, AttributeError), match=r"optimizer"):
        model.optimizer = value
    assert model.optimizer is before


def test_an_optimizer_that_is_set_scales_the_loss_as_one_that_is_compiled():
    model = torchfit.Model(network(), device="cpu", dtype_policy="mixed_float16")
    model.compile("sgd", "mse")
    model.optimizer = optimizers.Adam(0.01)
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    with pytest.raises(ValueError, match="float16 needs a scaled loss"):
        model.optimizer = torch.optim.SGD(model.parameters(), 0.1)
