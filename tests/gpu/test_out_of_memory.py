"""Memory that really runs out. Run this file alone: it fills the device."""

import logging

import pytest
import torch
from torch import nn

from torchfit import Model, optimizers

ROWS, WIDTH = 512, 2**16  # Activations of 128 MiB for each operation.


class Wide(nn.Module):
    """A few weights and large activations; in the rehearsal the memory that is missing is imagined."""

    def __init__(self, rows_that_fit=None, width=WIDTH):
        super().__init__()
        self.width = width
        self.first, self.second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.rows_that_fit = rows_that_fit

    def forward(self, x):
        if self.rows_that_fit is not None and len(x) > self.rows_that_fit:
            raise torch.OutOfMemoryError("out of memory")
        wide = (x * self.first).expand(-1, self.width).sin().cos().sin().cos()
        return (wide * self.second).mean(1, keepdim=True)


def trained(device, microbatch=None, rows_that_fit=None):
    model = Model(Wide(rows_that_fit, WIDTH if device.type == "cuda" else 64), device=device)
    model.compile(optimizers.SGD(0.1), "mse", microbatch=microbatch)
    x = torch.linspace(0, 1, ROWS)[:, None]
    history = model.fit(x, 2 * x, batch_size=ROWS, epochs=2, shuffle=False, verbose=0)
    return [weight.detach().cpu() for weight in model.parameters()], history.history["loss"]


@pytest.fixture
def full(device):
    """Leave 400 MiB of the device free, which is less than a whole batch needs."""
    if device.type != "cuda":
        yield ROWS // 8
        return
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    filling = torch.empty(free - 400 * 2**20, dtype=torch.uint8, device=device)
    yield None
    del filling
    torch.cuda.empty_cache()


@pytest.fixture
def expected(device):
    return trained(device)


def test_auto_finds_what_fits_and_gives_the_updates_of_the_whole_batch(device, expected, full, caplog):
    with caplog.at_level(logging.WARNING, "torchfit"):
        weights, loss = trained(device, "auto", full)
    assert "memory ran out" in caplog.text
    torch.testing.assert_close(weights, expected[0], rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(expected[1], rel=1e-4)


def test_without_it_the_error_is_torchs(device, full):
    with pytest.raises(torch.OutOfMemoryError):
        trained(device, rows_that_fit=full)


def test_memory_is_free_again_after_the_error(device, expected, full):
    with pytest.raises(torch.OutOfMemoryError):
        trained(device, rows_that_fit=full)
    _, loss = trained(device, 16, full)
    assert loss == pytest.approx(expected[1], rel=1e-4)
