"""All forms of data, resident and streamed: the batches of the CPU, in order, and results in host memory."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchfit import Model, losses, optimizers, utils
from torchfit._data import batch_source

ROWS = 96
X = np.random.RandomState(0).rand(ROWS, 20).astype("float32")
Y = (X.sum(axis=1) > 10).astype("int64")


class Pairs(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return zip(torch.from_numpy(X), torch.from_numpy(Y))


class Batches(utils.Sequence):
    def __len__(self):
        return ROWS // 16

    def __getitem__(self, index):
        rows = slice(index * 16, (index + 1) * 16)
        return X[rows], Y[rows]


def memory_map(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r"), Y


def batches_on(device):
    """Yield batches that are computed on the device."""
    x, y = torch.from_numpy(X).to(device), torch.from_numpy(Y).to(device)
    for first in range(0, ROWS, 16):
        yield x[first : first + 16] * 1.0, y[first : first + 16]


FORMS = {
    "arrays": lambda device, folder: (X, Y),
    "lists": lambda device, folder: (X.tolist(), Y.tolist()),
    "tensors": lambda device, folder: (torch.from_numpy(X), torch.from_numpy(Y)),
    "tensors on the device": lambda device, folder: (torch.from_numpy(X).to(device), torch.from_numpy(Y).to(device)),
    "a DataFrame": lambda device, folder: (pd.DataFrame(X), pd.Series(Y)),
    "a memory map": lambda device, folder: memory_map(folder),
    "a TensorDataset": lambda device, folder: (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),),
    "a Dataset": lambda device, folder: (Pairs(),),
    "an IterableDataset": lambda device, folder: (Stream(),),
    "a DataLoader": lambda device, folder: (DataLoader(Pairs(), 16),),
    "a DataLoader that pins": lambda device, folder: (DataLoader(Pairs(), 16, pin_memory=device.type == "cuda"),),
    "workers": lambda device, folder: (DataLoader(Pairs(), 16, num_workers=2),),
    "a Sequence": lambda device, folder: (Batches(),),
    "a generator on the device": lambda device, folder: (batches_on(device),),
}


def history(data, device, **options):
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 2)), device=device)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers.SGD(0.1), loss, ["accuracy"], **options)
    size: dict[str, Any] = (
        {} if len(data) == 1 and not isinstance(data[0], (Dataset, IterableDataset)) else {"batch_size": 16}
    )
    return model.fit(*data, shuffle=False, verbose=0, **size).history


@pytest.mark.filterwarnings("ignore:`shuffle`")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_as_arrays_do_on_the_cpu(form, device, tmp_path):
    expected = history((X, Y), "cpu")
    found = history(FORMS[form](device, tmp_path), device)
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-4), name


def test_arrays_that_do_not_fit_are_streamed_with_the_same_numbers(device, monkeypatch):
    resident = history((X, Y), device)
    monkeypatch.setattr("torchfit._data.adapters.arrays.fits_on", lambda *arguments: False)
    streamed = history((X, Y), device)
    for name in resident:
        assert streamed[name] == pytest.approx(resident[name], abs=1e-6), name


def test_streams_stay_in_order(device):
    x = torch.arange(4096.0)[:, None]
    model = Model(nn.Identity(), device=device)
    assert np.array_equal(model.predict(DataLoader(TensorDataset(x), 8)), x.numpy())


@pytest.mark.gpu
def test_copies_run_on_a_stream_of_their_own(device):
    host = torch.rand(64, 64)
    placed = batch_source.copy_to_device(host, device)
    assert placed.device == device
    assert batch_source._copy_stream(device) != torch.cuda.current_stream(device)
    assert torch.equal(placed.cpu(), host)


def test_batches_of_a_generator_that_asks_the_model_are_in_order_with_the_steps(device):
    def hard_samples(model):
        for first in range(0, ROWS, 16):
            x = torch.from_numpy(X[first : first + 16]).to(device)
            yield x, model.module(x).detach().argmax(1)

    def outcome(device_of_model):
        torch.manual_seed(0)
        model = Model(nn.Linear(20, 2), device=device_of_model)
        model.compile(optimizers.SGD(0.5), losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(hard_samples(model), verbose=0)
        return model.module.weight.detach().cpu()

    torch.testing.assert_close(outcome(device), outcome(device), rtol=0, atol=0)


def test_predictions_lie_in_host_memory_and_the_device_keeps_none(device):
    model = Model(nn.Linear(20, 4096, bias=False), device=device)
    x = np.ones((4096, 20), "float32")
    model.predict(x[:64], batch_size=64, verbose=0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    outputs = model.predict(x, batch_size=64, verbose=0)
    assert isinstance(outputs, np.ndarray)
    assert outputs.nbytes == 4096 * 4096 * 4
    if device.type == "cuda":
        assert torch.cuda.memory_allocated(device) == before
        assert torch.cuda.max_memory_allocated(device) - before < outputs.nbytes / 8
