"""The generator learns, and each step is that of a loop."""

import copy

import torch
from torch.nn import functional as F

from torchfit import optimizers


def test_made_points_come_near_to_real_ones(example):
    before, after = example.main()
    assert before > 1
    assert after < 0.2


def test_an_epoch_is_that_of_a_loop(example):
    points, model = example.make_data(96), example.make_model()
    generator, discriminator = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    optimizer, other_optimizer = (torch.optim.SGD(net.parameters(), 0.1) for net in (generator, discriminator))
    model.compile(optimizers.SGD(0.1), optimizers.SGD(0.1))
    torch.manual_seed(1)
    for real in points.split(32):
        fake = generator(torch.randn_like(real))
        other_optimizer.zero_grad()
        right, wrong = discriminator(real), discriminator(fake.detach())
        ((F.softplus(-right).mean() + F.softplus(wrong).mean()) / 2).backward()
        other_optimizer.step()
        optimizer.zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        optimizer.step()
    torch.manual_seed(1)
    model.fit(points, batch_size=32, shuffle=False, verbose=0)
    expected = {**generator.state_dict(prefix="generator."), **discriminator.state_dict(prefix="discriminator.")}
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
