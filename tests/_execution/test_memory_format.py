"""`compile(memory_format=)` changes the order of weights in memory, and nothing else."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, callbacks, models, optimizers
from torchfit._execution.memory_format import choose_memory_format

X = torch.tensor(np.random.default_rng(0).normal(size=(96, 3, 8, 8)).astype("float32"))
Y = torch.arange(96) % 4


def images():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def volumes():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 7 * 1, 4))


def compiled(net, memory_format, optimizer=None, **options):
    model = Model(net, device="cpu")
    optimizer = optimizers.SGD(0.01, momentum=0.9) if optimizer is None else optimizer
    model.compile(optimizer, nn.CrossEntropyLoss(), memory_format=memory_format, **options)
    return model


def fit(model, x=X, **options):
    return model.fit(x, Y, batch_size=8, shuffle=False, verbose=0, **options).history["loss"]


def is_channels_last(tensor):
    kind = {4: torch.channels_last, 5: torch.channels_last_3d}[tensor.ndim]
    return tensor.is_contiguous(memory_format=kind) and not tensor.is_contiguous()


def formats(model):
    """Which of the convolutions' weights, and of the tensors that the optimizer keeps for them, are channels-last."""
    tensors = [*model.module.parameters(), *model.optimizer.variables]
    return {is_channels_last(tensor) for tensor in tensors if tensor.ndim >= 4}


@pytest.fixture
def faster(monkeypatch):
    """Return a function that makes one of the formats appear to be faster."""

    def choose(name):
        def run(self, batch):
            result = self._program.run(batch)
            current = formats_of(self._program.weights())
            self.seconds = min(self.seconds, 1.0 if current == name else 2.0)
            return result

        def formats_of(tensors):
            return "channels_last" if any(is_channels_last(t) for t in tensors if t.ndim >= 4) else "contiguous"

        monkeypatch.setattr("torchfit._execution.memory_format._StopWatch.__call__", run)

    return choose


OPTIMIZERS = [
    lambda: optimizers.SGD(0.01, momentum=0.9),
    lambda: optimizers.Adam(0.01, epsilon=1e-3, use_ema=True, gradient_accumulation_steps=2),
    lambda: optimizers.Muon(0.01),
    lambda: partial(torch.optim.Adam, eps=1e-3),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["auto", "channels_last", "contiguous"])
def test_numbers_agree_to_rounding(name, optimizer, faster):
    faster("channels_last")
    plain, other = compiled(images(), None, optimizer()), compiled(images(), name, optimizer())
    assert fit(other, epochs=2) == pytest.approx(fit(plain, epochs=2), rel=1e-4)
    assert formats(other) == {name != "contiguous"}
    assert formats(plain) == {False}
    for key, tensor in plain.module.state_dict().items():
        assert torch.allclose(tensor, other.module.state_dict()[key], atol=1e-4), key
    assert other.evaluate(X, Y, verbose=0) == pytest.approx(plain.evaluate(X, Y, verbose=0), rel=1e-4)
    assert other.predict(X) == pytest.approx(plain.predict(X), abs=1e-4)


def test_volumes_have_a_format_of_their_own():
    x = X.reshape(96, 3, 4, 8, 2)
    plain, other = compiled(volumes(), None), compiled(volumes(), "channels_last")
    assert fit(other, x, epochs=2) == pytest.approx(fit(plain, x, epochs=2), rel=1e-4)
    assert formats(other) == {True}


class Sequences(nn.Module):
    """Has weights with four axes, and inputs with two."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3, 2, 2))

    def forward(self, x):
        return x[:, :3] @ self.weight.sum((2, 3)).T


@pytest.mark.parametrize("name", ["auto", "channels_last"])
def test_other_inputs_change_nothing(name):
    model = compiled(Sequences(), name)
    fit(model, X[:, :, 0, 0])
    assert formats(model) == {False}


@pytest.mark.parametrize("name", ["channels_last", "contiguous"])
def test_auto_keeps_the_faster_format(name, faster):
    faster(name)
    for run in (fit, lambda model: model.evaluate(X, Y, 8, verbose=0), lambda model: model.predict(X, 8)):
        model = compiled(images(), "auto")
        run(model)
        assert formats(model) == {name == "channels_last"}


def test_auto_measures_time(stop_clock):
    clock = stop_clock(choose_memory_format)

    class Slow(nn.Conv2d):
        def forward(self, x):
            clock.advance(1.0 if is_channels_last(self.weight) else 2.0)
            return super().forward(x)

    model = compiled(nn.Sequential(Slow(3, 4, 8), nn.Flatten()), "auto")
    fit(model)
    assert formats(model) == {True}


def test_auto_measures_steps_of_the_training_and_calls_nothing_twice(faster):
    faster("channels_last")

    class Counts(nn.Conv2d):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = compiled(nn.Sequential(Counts(3, 4, 8), nn.Flatten()), "auto")
    fit(model)
    assert model.module[0].calls == 12
    model.predict(X, 8)
    assert model.module[0].calls == 24


class Views(nn.Module):
    """Needs contiguous activations."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.2), nn.Conv2d(3, 4, 3))
        self.head = nn.Linear(144, 4)

    def forward(self, x):
        return self.head(self.layers(x).view(len(x), -1))


def test_auto_keeps_a_module_contiguous_that_cannot_be_otherwise():
    losses = []
    for name in (None, "auto"):
        model = compiled(Views(), name, metrics=["accuracy"])
        torch.manual_seed(1)
        losses.append([*fit(model, epochs=2), *model.history.history["accuracy"]])
    assert formats(model) == {False}
    assert losses[1] == losses[0]


@pytest.mark.graphs
@pytest.mark.parametrize("steps", [1, 4])
def test_compiled_steps_begin_when_the_format_is_known(steps, traced_only, faster):
    faster("channels_last")
    plain = compiled(images(), None)
    model = compiled(images(), "auto", jit_compile=True, steps_per_execution=steps)
    assert fit(model, epochs=3) == pytest.approx(fit(plain, epochs=3), rel=1e-4)
    assert formats(model) == {True}
    assert model._torchfit.execution._steps["train"]._graphs


def test_files_have_the_same_keys_and_values(tmp_path):
    model = compiled(images(), "channels_last")
    fit(model)
    model.save(tmp_path / "model.pt")
    loaded = models.load_model(tmp_path / "model.pt")
    assert loaded.get_compile_config()["memory_format"] == "channels_last"
    assert list(loaded.state_dict()) == list(images().state_dict())
    assert loaded.predict(X) == pytest.approx(model.predict(X), abs=1e-5)
    assert fit(loaded) == pytest.approx(fit(model), rel=1e-4)
    other = Model(images(), device="cpu")
    other.set_weights(model.get_weights())
    assert other.predict(X) == pytest.approx(model.predict(X), abs=1e-5)


def test_a_resumed_run_has_the_format_of_the_run_that_was_interrupted(tmp_path, faster):
    faster("channels_last")

    class Interrupt(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    whole = compiled(images(), "auto")
    expected = fit(whole, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(images(), "auto"), epochs=4, callbacks=[callbacks.BackupAndRestore(tmp_path), Interrupt()])
    faster("contiguous")  # A second measurement would find another one.
    resumed = compiled(images(), "auto")
    assert fit(resumed, epochs=4, callbacks=[callbacks.BackupAndRestore(tmp_path)]) == expected
    assert formats(resumed) == {True}


def test_memory_of_a_larger_tensor_is_left_alone():
    net = images()
    flat = torch.zeros(1000)
    convolution = net[0][0]
    flat[: convolution.weight.numel()] = convolution.weight.detach().flatten()
    convolution.weight.data = flat[: convolution.weight.numel()].view_as(convolution.weight)
    fit(compiled(net, "channels_last"))
    assert convolution.weight.data_ptr() == flat.data_ptr()


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="`memory_format` must be 'channels_last', 'contiguous', 'auto' or None"):
        choose_memory_format("nhwc")
