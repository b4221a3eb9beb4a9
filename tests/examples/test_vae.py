"""The autoencoder learns, and each step is that of a loop."""

import copy

import pytest
import torch

from torchfit import optimizers


def test_it_learns_to_decode(example):
    before, after = example.main()
    assert after["images_mae"] < before["images_mae"] / 4
    assert after["loss"] < before["loss"] / 4


def test_an_epoch_is_that_of_a_loop(example):
    images, model = example.make_data(96), example.make_model()
    twin = copy.deepcopy(model.module)
    optimizer = torch.optim.SGD(twin.parameters(), 1e-3)
    model.compile(optimizers.SGD(1e-3), model.loss)
    torch.manual_seed(1)
    total = 0.0
    for batch in images.split(32):
        loss = example.negative_elbo(batch, twin(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    torch.manual_seed(1)
    history = model.fit(images, images, batch_size=32, shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(total / 96, rel=1e-5)]
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other)
