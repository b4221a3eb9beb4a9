"""Whole runs on the device: eager, compiled and captured, in every precision, interrupted and resumed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, callbacks, losses, optimizers
from torchfit._execution.graph import _CudaGraph
from torchfit._utils.tree import Batch

X = np.random.RandomState(0).rand(640, 20).astype("float32")
Y = (X.sum(axis=1) > 10).astype("int64")
FIT = {"epochs": 3, "batch_size": 32, "verbose": 0}


def plain():
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 2))


def with_state():
    """A network that draws random numbers and keeps statistics."""
    return nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def compiled(device, network=plain, optimizer=lambda: "adam", policy=None, **arguments):
    torch.manual_seed(0)
    model = Model(network(), device=device, dtype_policy=policy)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(), loss, ["accuracy"], **arguments)
    torch.manual_seed(1)
    return model


def trained(device, *more, fit=FIT, **options):
    model = compiled(device, *more, **options)
    return model, model.fit(X, Y, validation_split=0.25, **fit).history


def assert_close(found, expected, tolerance=1e-4):
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=tolerance), name


@pytest.fixture
def captured(monkeypatch):
    """Return a list to which every graph is added that is captured."""
    graphs, make = [], _CudaGraph.__init__

    def remember(self, *arguments):
        make(self, *arguments)
        graphs.append(self)

    monkeypatch.setattr(_CudaGraph, "__init__", remember)
    return graphs


def test_a_model_goes_to_the_device_and_its_data_with_it(device):
    model, _ = trained(device)
    assert next(model.parameters()).device == device
    assert model.predict(X, verbose=0).shape == (640, 2)


@pytest.mark.gpu
def test_the_device_is_found(device):
    model = Model(plain())
    assert next(model.parameters()).device == device


def test_the_device_gives_the_numbers_of_the_cpu(device):
    assert_close(trained(device)[1], trained("cpu")[1])


def test_the_device_gives_the_weights_of_the_loop_by_hand(device):
    model = compiled(device, optimizer=lambda: optimizers.SGD(0.1))
    torch.manual_seed(0)
    network = plain().to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    x, y = torch.from_numpy(X).to(device), torch.from_numpy(Y).to(device)
    for inputs, labels in zip(x.split(32), y.split(32)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    model.fit(X, Y, shuffle=False, batch_size=32, verbose=0)
    for ours, theirs in zip(model.parameters(), network.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# -- compiled and captured steps -------------------------------------------------------------------------------


def decayed():
    return optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 5, 0.9))


CAPTURED: dict[str, Any] = {
    "one step": {},
    "8 steps in a call": {"steps_per_execution": 8},
    "dropout and BatchNorm": {"network": with_state},
    "accumulation": {"optimizer": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=4)},
    "a schedule": {"optimizer": decayed},
    "clipping": {"optimizer": lambda: optimizers.Adam(0.01, global_clipnorm=0.1)},
    "averages": {"optimizer": lambda: optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=7)},
    "momentum": {"optimizer": lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)},
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
    "mixed_float16": {"policy": "mixed_float16"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTURED)
def test_compiled_steps_give_the_numbers_of_eager_ones(name, device, captured):
    options = CAPTURED[name]
    model, found = trained(device, jit_compile=True, **options)
    _, expected = trained(device, **options)
    assert_close(found, expected, 0.02 if "policy" in options else 1e-4)
    assert device.type != "cuda" or captured, "no step was captured in a CUDA graph"
    torch.manual_seed(1)
    model.fit(X, Y, **FIT)


@pytest.mark.slow
def test_a_change_of_shape_is_another_graph(device, monkeypatch):
    monkeypatch.setattr("torchfit._execution.compiled._MIN_STEPS_PER_SHAPE", 1)
    fit = {"epochs": 3, "batch_size": 100, "verbose": 0}  # Four full batches and one of 80 rows in every epoch.
    _, found = trained(device, fit=fit, jit_compile=True)
    assert_close(found, trained(device, fit=fit)[1])


@pytest.mark.slow
def test_two_models_share_a_device(device):
    first, second = (compiled(device, network=with_state, jit_compile=True) for _ in range(2))
    _, expected = trained(device, network=with_state, jit_compile=True)
    torch.manual_seed(1)
    found = first.fit(X, Y, validation_split=0.25, **FIT).history
    torch.manual_seed(1)
    again = second.fit(X, Y, validation_split=0.25, **FIT).history
    assert_close(found, expected, 1e-6)
    assert_close(again, expected, 1e-6)
    before = [weight.clone() for weight in first.parameters()]
    second.fit(X, Y, **FIT)
    assert all(map(torch.equal, before, first.parameters()))


@pytest.mark.slow
def test_compiled_predictions_are_those_of_eager_ones(device):
    model, other = compiled(device, jit_compile=True), compiled(device)
    np.testing.assert_allclose(model.predict(X, verbose=0), other.predict(X, verbose=0), rtol=1e-4, atol=1e-5)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(other.evaluate(X, Y, verbose=0), abs=1e-4)


# -- nothing waits, nothing grows ------------------------------------------------------------------------------


class NoWait(callbacks.Callback):
    """Refuses whatever waits for the device from the third step of an epoch to its last one."""

    def __init__(self, device, last):
        super().__init__()
        self.device, self.last = device, last

    def on_train_batch_end(self, batch, logs=None):
        if self.device.type == "cuda" and batch in (2, self.last):
            torch.cuda.set_sync_debug_mode("error" if batch == 2 else "default")


@pytest.fixture
def _waiting_allowed_afterwards():
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


QUIET: dict[str, Any] = {
    "plain": {},
    "dropout and BatchNorm": {"network": with_state},
    "accumulation": {"optimizer": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=4)},
    "a schedule": {"optimizer": decayed},
    "clipping": {"optimizer": lambda: optimizers.Adam(0.01, global_clipnorm=0.1)},
    "averages": {"optimizer": lambda: optimizers.Adam(0.01, use_ema=True)},
    "torch.optim": {"optimizer": lambda: torch.optim.AdamW},
    "microbatches": {"microbatch": 4},
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
    "mixed_float16": {"policy": "mixed_float16"},
}


@pytest.mark.usefixtures("_waiting_allowed_afterwards")
@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, 640).astype("float32")], ids=["", "weighted"])
@pytest.mark.parametrize("name", QUIET)
def test_no_step_waits_for_the_device(name, weights, device):
    model = compiled(device, **QUIET[name])
    model.fit(X, Y, sample_weight=weights, callbacks=[NoWait(device, 79)], batch_size=8, verbose=0)


@pytest.mark.usefixtures("_waiting_allowed_afterwards")
def test_no_step_on_streamed_arrays_waits_for_the_device(device, monkeypatch):
    monkeypatch.setattr("torchfit._data.adapters.arrays.fits_on", lambda *arguments: False)
    compiled(device).fit(X, Y, callbacks=[NoWait(device, 79)], batch_size=8, verbose=0)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 8])
def test_no_compiled_step_waits_for_the_device(steps, device, monkeypatch):
    replayed, replay = [], _CudaGraph.__call__

    def watched(self, *arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            replayed.append(self)
            return replay(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_CudaGraph, "__call__", watched)
    compiled(device, jit_compile=True, steps_per_execution=steps).fit(X, Y, **FIT)
    assert replayed


@pytest.mark.gpu
def test_no_step_of_train_step_waits_for_the_device(device):
    model = compiled(device)
    batch = Batch(torch.from_numpy(X[:32]).to(device), torch.from_numpy(Y[:32]).to(device))
    model.train_step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            model.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [None, True])
def test_memory_does_not_grow_from_fit_to_fit(jit_compile, device):
    model = compiled(device, jit_compile=jit_compile)
    used = []
    for _ in range(5):
        model.fit(X, Y, batch_size=32, verbose=0)
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert used[-1] <= used[1]


# -- precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(policy, device):
    model, found = trained(device, policy=policy)
    assert_close(found, trained(device)[1], 0.1)
    assert model.module[0].weight.dtype == torch.float32


def test_loss_scaling_skips_what_overflows_and_goes_on(device):
    def scaled():
        return optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=2.0**40)

    model, found = trained(device, policy="mixed_float16", optimizer=scaled)
    assert 0 < model.optimizer.skipped_updates < 40
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert found["loss"][-1] < found["loss"][0]


@pytest.mark.gpu
def test_tf32_is_used_where_the_user_asks_for_it(device):
    matrix = torch.rand(512, 512, generator=torch.Generator().manual_seed(0))
    module = nn.Linear(512, 512, bias=False)
    module.weight.data.copy_(matrix)
    model, exact = Model(module, device=device), matrix.double() @ matrix.double().T

    def error():
        return np.abs(model.predict(matrix.numpy(), verbose=0) - exact.numpy()).max()

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        full = error()
        torch.set_float32_matmul_precision("high")
        reduced = error()
    finally:
        torch.set_float32_matmul_precision(before)
    assert full < 1e-3
    if torch.cuda.get_device_capability(device) >= (8, 0):
        assert reduced > 2 * full


# -- resume ----------------------------------------------------------------------------------------------------


class Interrupt(callbacks.Callback):
    """Stops a training as Ctrl-C does."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


RESUMED: dict[str, Any] = {
    "dropout and BatchNorm": {"network": with_state},
    "accumulation": {"optimizer": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=4)},
    "averages": {"optimizer": lambda: optimizers.Adam(0.01, use_ema=True)},
    "mixed_float16": {"policy": "mixed_float16", "network": with_state},
    "compiled": {"jit_compile": True, "network": with_state},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_training_ends_bitwise_equal(name, device, tmp_path):
    def fit(*more):
        model = compiled(device, **RESUMED[name])
        backup = callbacks.BackupAndRestore(tmp_path, save_freq=4, delete_checkpoint=True)
        history = model.fit(X, Y, callbacks=[backup, *more], **FIT).history
        return [weight.detach().cpu() for weight in model.parameters()], history

    weights, history = fit(Interrupt(10_000))
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupt(26))
    resumed, continued = fit(Interrupt(10_000))
    assert all(map(torch.equal, weights, resumed))
    assert continued["loss"][-1] == history["loss"][-1]
