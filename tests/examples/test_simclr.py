"""The encoder learns without labels, and each step is that of a loop."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from torchfit import optimizers


@pytest.mark.slow
def test_classes_can_be_told_by_what_was_learned_without_them(example):
    history, accuracy = example.main()
    assert history[-1] < history[0] - 0.5
    assert accuracy > 0.95


def test_an_epoch_is_that_of_a_loop(example):
    signals, _ = example.make_data(96)
    model = example.make_model()
    twin = copy.deepcopy(model.module)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    model.compile(optimizers.SGD(0.1), model.loss)
    loader = DataLoader([*map(example.Views(signals).__getitem__, range(96))], batch_size=32)  # type: ignore[arg-type]
    losses = []
    for ((first, second),) in loader:
        losses.append(example.contrast(twin(first, second)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    history = model.fit(loader, verbose=0).history
    assert history["loss"] == [pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)]
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other)
