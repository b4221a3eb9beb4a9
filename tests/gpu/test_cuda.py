"""What only a CUDA device can show. Skipped where there is none."""

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, losses
from torchfit._execution.graph import _CudaGraph
from torchfit._utils.batch import Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
x = np.random.RandomState(0).rand(640, 20).astype("float32")
y = (x.sum(axis=1) > 10).astype("int64")


def trained(data=(x, y), policy=None, **compile_arguments):
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 2)), dtype_policy=policy)
    model.compile("adam", losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"], **compile_arguments)
    torch.manual_seed(1)
    return model, model.fit(*data, epochs=3, batch_size=32, validation_split=0.25, verbose=0).history


def assert_same(one, other, tolerance=1e-5):
    for name in one:
        assert one[name] == pytest.approx(other[name], abs=tolerance), name


def test_a_model_goes_to_the_device_and_its_data_with_it():
    model, _ = trained()
    assert next(model.parameters()).is_cuda
    assert model.predict(x).shape == (640, 2)


def test_the_device_gives_the_numbers_of_the_host():
    torch.manual_seed(0)
    host = Model(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 2)), device="cpu")
    host.compile("adam", losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    torch.manual_seed(1)
    expected = host.fit(x, y, epochs=3, batch_size=32, validation_split=0.25, verbose=0).history
    assert_same(trained()[1], expected, tolerance=1e-4)


@pytest.mark.parametrize("steps", [1, 8])
def test_captured_steps_give_the_numbers_of_plain_ones(steps):
    model, captured = trained(jit_compile=True, steps_per_execution=steps)
    assert_same(captured, trained()[1])
    torch.manual_seed(1)
    model.fit(x, y, epochs=1, batch_size=32, verbose=0)


def test_steps_are_captured_in_a_cuda_graph(monkeypatch):
    captured = []
    make = _CudaGraph.__init__

    def remember(self, *arguments):
        captured.append(self)
        make(self, *arguments)

    monkeypatch.setattr(_CudaGraph, "__init__", remember)
    trained(jit_compile=True)
    assert captured


def test_no_step_waits_for_the_device():
    model, _ = trained()
    batch = Batch(torch.from_numpy(x[:32]).cuda(), torch.from_numpy(y[:32]).cuda())
    model.train_step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            model.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(policy):
    assert_same(trained(policy=policy)[1], trained()[1], tolerance=0.1)


def test_streams_are_copied_one_batch_ahead_and_in_order():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(64.0)[:, None]), 8)
    model = Model(nn.Identity())
    assert model.predict(loader).ravel().tolist() == list(range(64))


def test_memory_does_not_grow_from_fit_to_fit():
    model, _ = trained()
    used = []
    for _ in range(5):
        model.fit(x, y, batch_size=32, verbose=0)
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert used[-1] <= used[1]
