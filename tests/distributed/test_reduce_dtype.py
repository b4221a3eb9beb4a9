"""Gradients that are exchanged in another dtype; losses and metrics are not."""

import functools
import re
from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed.cases import CROSSENTROPY, LABELS, WEIGHTS, X, compiled, network, trained
from tests.distributed.compare import assert_equal, assert_same
from tests.distributed.test_compiled import Unused, only_traced
from torchfit import Model, distribution, optimizers
from torchfit._distribution.process_group import ProcessGroup


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("bfloat61", "`reduce_dtype` must be the name of a dtype. Received: 'bfloat61'."),
        ("int32", "`reduce_dtype` must be a floating-point dtype of at least 16 bits. Received: torch.int32."),
        (
            torch.complex64,
            "`reduce_dtype` must be a floating-point dtype of at least 16 bits. Received: torch.complex64.",
        ),
    ],
)
def test_wrong_dtypes(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        distribution.DataParallel(reduce_dtype=value)


def test_names_become_dtypes():
    assert distribution.DataParallel().reduce_dtype is None
    for value in ("bfloat16", torch.bfloat16):
        assert distribution.DataParallel(reduce_dtype=value).reduce_dtype is torch.bfloat16


class Overridden(Model):
    def train_step(self, data):
        x, y = data[:2]
        loss = self.compute_loss(x, y, self(x))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return self.compute_metrics(x, y, self(x))


def overridden(rate):
    model = Overridden(network(), device="cpu")
    model.compile(optimizers.SGD(rate), CROSSENTROPY, ["accuracy"])
    return trained(model)


def weighted(rate, module=network, jit_compile=None):
    model = compiled(module(), optimizers.SGD(rate), jit_compile=jit_compile)
    with only_traced():
        return trained(model, sample_weight=WEIGHTS)


def with_lbfgs(rate):
    optimizer = functools.partial(torch.optim.LBFGS, lr=rate, max_iter=2)
    return trained(compiled(network(), optimizer), batch_size=40)


def with_reduce_dtype(train, dtype, *arguments):
    """Return the numbers, and the dtypes in which something was exchanged in this process."""
    distribution.set_distribution(distribution.DataParallel(reduce_dtype=dtype))
    used = set()

    def recording(method):
        def call(processes, tensors):
            used.update(str(tensor.dtype) for tensor in ([tensors] if isinstance(tensors, torch.Tensor) else tensors))
            return method(processes, tensors)

        return call

    ProcessGroup.sum = recording(ProcessGroup.sum)
    ProcessGroup.start_sums = recording(ProcessGroup.start_sums)
    return train(*arguments), used


CASES: dict[str, tuple[Any, ...]] = {
    "eager": (weighted,),
    "compiled": (weighted, network, True),
    "compiled, with missing gradients": (weighted, Unused, True),
    "user-defined step": (overridden,),
}


@pytest.mark.graphs
@pytest.mark.filterwarnings("ignore:There is no gradient")
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_rounded_and_nothing_else(pools, name):
    train, *arguments = CASES[name]
    expected, still = train(0.1, *arguments[:1]), train(0.0, *arguments[:1])
    processes = pools(2, forks=True)
    (found, used), (other, _) = processes.run(with_reduce_dtype, train, "bfloat16", 0.1, *arguments)
    assert_equal(other, found)
    assert_same(found, expected, 1e-2)
    assert found["weights"][0].tolist() != expected["weights"][0].tolist()
    assert {"torch.bfloat16", "torch.float32"} <= used
    # Without updates only losses and metrics are left.
    for numbers, _ in pools(2, forks=True).run(with_reduce_dtype, train, "bfloat16", 0.0, *arguments):
        assert_same(numbers, still, 1e-6)


def test_another_dtype_for_an_optimizer_that_evaluates_the_loss(pools):
    expected = with_lbfgs(0.1)
    (found, _), (other, _) = pools(2, forks=True).run(with_reduce_dtype, with_lbfgs, "bfloat16", 0.1)
    assert_equal(other, found)
    assert_same(found, expected, 2e-2)


def test_a_wider_dtype(pools):
    for found, used in pools(2, forks=True).run(with_reduce_dtype, weighted, "float64", 0.1):
        assert_same(found, weighted(0.1), 1e-6)
        assert "torch.float64" in used


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 3, dtype=torch.complex64)

    def forward(self, x):
        return self.layer(x.to(torch.complex64)).abs()


def with_complex_weights():
    return compiled(Complex(), "sgd").fit(X, LABELS, batch_size=16, verbose=0).history


def test_complex_gradients_stay_complex(pools):
    expected = with_complex_weights()
    for found, _ in pools(2, forks=True).run(with_reduce_dtype, with_complex_weights, "bfloat16"):
        assert_same(found, expected, 1e-6)
