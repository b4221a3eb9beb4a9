"""Losses, metrics and optimizers give on the device what they give on the CPU, and read nothing back."""

import runpy
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from torchfit import losses, metrics
from torchfit.optimizers import _fused

TESTS = Path(__file__).parents[1]
MEMBERS = runpy.run_path(str(TESTS / "metrics" / "members.py"))
OPTIMIZERS = runpy.run_path(str(TESTS / "optimizers" / "test_conformance.py"))
LOSSES = runpy.run_path(str(TESTS / "losses" / "test_compiled.py"))
LABELS, VALUES = LOSSES["LABELS"], LOSSES["VALUES"]
TORCH_LOSSES = [
    torch.nn.CrossEntropyLoss(torch.rand(5), ignore_index=1),
    torch.nn.CrossEntropyLoss(label_smoothing=0.1),
]


@contextmanager
def no_wait(device):
    """Refuse everything that waits for the device."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def loss_and_gradient(loss, y_true, y_pred, device):
    y_true, y_pred = y_true.to(device), y_pred.to(device).requires_grad_()
    loss.with_denominator(y_true, y_pred)  # What belongs to the device is made at the first call.
    with no_wait(device):
        value, denominator = loss.with_denominator(y_true, y_pred)
        (gradient,) = torch.autograd.grad(value, y_pred)
    return value.detach().cpu(), torch.as_tensor(denominator).cpu(), gradient.cpu()


@pytest.mark.parametrize("name", LOSSES["NAMES"])
def test_losses(name, device):
    y_true, y_pred = LOSSES["OTHER_INPUTS"].get(name, (VALUES.flip(0), VALUES))
    found = loss_and_gradient(getattr(losses, name)(), y_true, y_pred, device)
    torch.testing.assert_close(found, loss_and_gradient(getattr(losses, name)(), y_true, y_pred, torch.device("cpu")))


@pytest.mark.parametrize("loss", TORCH_LOSSES, ids=str)
def test_losses_of_torch(loss, device):
    y_true, y_pred = LABELS[:, 0], VALUES[:, 0]

    def on(device):
        made = losses.identifiers.resolve_loss(loss)
        return loss_and_gradient(made, y_true, y_pred, device)

    expected = on(torch.device("cpu"))
    torch.testing.assert_close(on(device), expected)
    loss.to("cpu")


@pytest.mark.parametrize("member", [*MEMBERS["MEMBERS"], *MEMBERS["EXTENDED"]], ids=str)
def test_metrics(member, device):
    def result(device):
        metric = getattr(metrics, member.name)(**member.arguments)
        for seed in range(3):
            batch = [torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in member.data(seed)]
            if seed == 0:
                metric.build(*batch)
                metric.to(device)
            with no_wait(device):
                metric.update_state(*batch)
        return torch.as_tensor(metric.result()).detach().cpu()

    torch.testing.assert_close(result(device), result(torch.device("cpu")), rtol=1e-4, atol=1e-5, equal_nan=True)


def updated(name, options, device, dtype=torch.float32):
    """Return the parameters after six updates, none of which waits for the device."""
    optimizer, shapes = OPTIMIZERS["make"](name, options), OPTIMIZERS["SHAPES"]
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    parameters = [torch.nn.Parameter(value) for value in values]
    optimizer.build((f"layer.{index}", parameter) for index, parameter in enumerate(parameters))
    for step in range(6):
        gradients = [gradient.to(device, dtype) for gradient in OPTIMIZERS["gradients"](step)]
        with no_wait(device):
            optimizer.apply(gradients)
    return [parameter.detach().cpu() for parameter in parameters]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS["CASES"])
def test_optimizers(name, options, device):
    found, expected = updated(name, options, device), updated(name, options, torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"clipnorm": 0.5}, {"clipvalue": 0.1}, {"gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_clipping_and_accumulation(name, options, device):
    found, expected = updated(name, options, device), updated(name, options, torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), [("Adam", {}), ("Adam", {"amsgrad": True}), ("SGD", {"momentum": 0.9})])
def test_fused_kernels_compute_what_the_rules_do(name, options, device, monkeypatch):
    fused = updated(name, options, device)
    monkeypatch.setattr(_fused, "available", lambda *arguments: False)
    torch.testing.assert_close(fused, updated(name, options, device), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_the_fused_kernels_are_there(device):
    parameters = [torch.zeros(3, device=device)]
    assert _fused.available("adam", parameters)
    assert _fused.available("sgd", parameters)
