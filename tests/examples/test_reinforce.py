"""The policy learns, and each step is that of a loop."""

import copy

import torch
from torch.nn import functional as F

from torchfit import optimizers


def test_the_reward_grows(example):
    history = example.main()
    assert sum(history[-5:]) / 5 > 12
    assert history[0] < 4


def test_an_update_is_that_of_a_loop(example):
    model = example.make_model()
    twin = copy.deepcopy(model.module)
    states, actions, weights, _ = example.play(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    (F.cross_entropy(twin(states), actions, reduction="none") * weights).mean().backward()
    optimizer.step()
    model.compile(optimizers.SGD(0.1), model.loss)
    model.train_on_batch(states, actions, sample_weight=weights)
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other)
