"""The dtype of a module decides that of its inputs, and the state of its optimizer follows it from call to call."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import Model, losses, optimizers

X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 24)[:, None]


def _make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def _train_by_hand(net, optimizer):
    dtype = net[0].weight.dtype
    for rows in torch.arange(24).split(8):
        optimizer.zero_grad()
        F.mse_loss(net(X[rows].to(dtype)), Y[rows].to(dtype)).backward()
        optimizer.step()


OPTIMIZERS = {
    "SGD": (lambda _: optimizers.SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "torch SGD": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "torch Adam": (torch.optim.Adam, torch.optim.Adam),
    "class of torch": (lambda _: torch.optim.AdamW, torch.optim.AdamW),
    "RMSprop of torch": (lambda p: torch.optim.RMSprop(p, 0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("make", "make_by_hand"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_as_after_loading_the_state(make, make_by_hand, jit):
    net, by_hand = _make_net(), _make_net()
    optimizer = make_by_hand(by_hand.parameters())
    model = Model(net)
    model.compile(make(net.parameters()), nn.MSELoss(), jit_compile=jit)
    for dtype in (torch.float32, torch.float64, torch.float32):
        net.to(dtype)
        by_hand.to(dtype)
        optimizer.load_state_dict(optimizer.state_dict())  # casts the state
        for _ in range(2):
            _train_by_hand(by_hand, optimizer)
        model.fit(X.to(dtype), Y.to(dtype), batch_size=8, epochs=2, shuffle=False, verbose=0)
        for parameter, other in zip(net.parameters(), by_hand.parameters()):
            torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-6)
    model.train_on_batch(X, Y)
    net.double()
    model.train_on_batch(X.double(), Y.double())
    assert {variable.dtype for variable in model.optimizer.variables if variable.ndim} == {torch.float64}


class _OwnStep(Model):
    def train_step(self, batch):
        x, y = batch
        loss = self.compute_loss(x, y, self(x))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


ACCUMULATING = optimizers.Adam(0.01, gradient_accumulation_steps=2, use_ema=True, ema_momentum=0.9)
EVERY_KIND = {
    **{kind.__name__: kind() for kind in (optimizers.Adam, optimizers.Nadam, optimizers.Lion, optimizers.Adafactor)},
    "accumulating": ACCUMULATING,
    "several": optimizers.MultiOptimizer({"0.*": optimizers.Adam(0.01)}, default=optimizers.SGD(0.1, momentum=0.9)),
    "scaled": optimizers.LossScaleOptimizer(optimizers.Adam(0.01)),
    "of torch": torch.optim.Adam,
}


@pytest.mark.parametrize("kind", [Model, _OwnStep])
@pytest.mark.parametrize("optimizer", EVERY_KIND.values(), ids=EVERY_KIND)
def test_every_kind_of_optimizer_follows_the_parameters(kind, optimizer):
    model = kind(_make_net())
    model.compile(copy.deepcopy(optimizer), losses.MeanSquaredError())
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model.module.to(dtype)
        history = model.fit(X.to(dtype), Y.to(dtype), batch_size=8, epochs=2, verbose=0).history
        assert history["loss"][-1] > 0
        state = [variable for variable in model.optimizer.variables if variable.ndim]
        assert state
        assert {variable.dtype for variable in state} == {dtype}


class _Clock(nn.Module):
    """Computes the second of the minute from seconds since 1970."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, seconds):
        self.second = seconds % 60
        return self.layer((self.second / 60).to(self.layer.weight.dtype))


@pytest.mark.parametrize(
    ("make_inputs", "make_net", "is_exact"),
    [
        (lambda seconds: seconds, _Clock, True),
        (lambda seconds: seconds.double(), lambda: _Clock().double(), True),
        (lambda seconds: seconds.double(), _Clock, False),
        (lambda seconds: seconds.double().numpy(), _Clock, False),
    ],
    ids=["integers", "a module in float64", "a module in float32", "an array"],
)
def test_large_inputs_are_exact_as_integers_and_for_modules_in_float64(make_inputs, make_net, is_exact):
    seconds = 1_700_000_001 + torch.arange(24)[:, None]
    model = Model(make_net())
    model.predict(make_inputs(seconds))
    assert (model.module.second.long() == seconds % 60).all().item() is is_exact
