"""Several processes with CUDA devices: over NCCL with a device each, and over gloo where they share one."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

import torchfit
from tests.distributed.cases import CROSSENTROPY, LABELS, X, trained
from tests.distributed.compare import assert_equal, assert_same
from tests.distributed.pool import Pool
from torchfit import distribution

pytestmark = pytest.mark.gpu
needs_one = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices for NCCL")


def network(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), norm(16), nn.Tanh(), nn.Linear(16, 3))


def train(device=None, jit_compile=False, **settings):
    if device is not None and "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    # Steps with BatchNorm layers run without graphs.
    model = torchfit.Model(network(nn.LayerNorm if jit_compile else nn.BatchNorm1d), device=device)
    model.compile("sgd", CROSSENTROPY, ["accuracy"], jit_compile=jit_compile)
    found = trained(model, batch_size=37, validation_split=0.3, **settings)
    found["evaluated"] = model.evaluate(X, LABELS, verbose=0)
    found["predicted"] = model.predict(X)
    return found, next(model.parameters()).device.index, distribution.rank()


def compare(found, expected):
    for results, _, _ in found:
        assert_same(results, expected, 1e-5)
        assert_equal(results, found[0][0])


@needs_one
@pytest.mark.parametrize("jit_compile", [False, True], ids=["eager", "compiled"])
def test_processes_that_share_a_device(jit_compile):
    expected, _, _ = train("cuda:0", jit_compile)
    pool = Pool(2, forks=False)
    try:
        compare(pool.run(train, "cuda:0", jit_compile), expected)
    finally:
        pool.close()


@needs_two
@pytest.mark.parametrize("jit_compile", [False, True], ids=["eager", "compiled"])
def test_a_device_for_each_process(jit_compile):
    expected, _, _ = train("cuda:0", jit_compile)
    pool = Pool(2)
    try:
        found = pool.run(train, None, jit_compile)
        compare(found, expected)
        assert all(device == rank for _, device, rank in found)
    finally:
        pool.close()
