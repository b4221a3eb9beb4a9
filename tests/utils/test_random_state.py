import random

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit.utils import clear_session, set_random_seed


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_seed_repeats_everything():
    set_random_seed(3)
    first = draw()
    set_random_seed(3)
    assert draw() == first


def test_deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    try:
        set_random_seed(3, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "1"])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        set_random_seed(seed)


@pytest.mark.parametrize("free_memory", [True, False])
def test_clear_session_leaves_models_usable(free_memory):
    model = torchfit.Model(nn.Linear(2, 1), device="cpu")
    model.compile("adam", "mse")
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    before = model.fit(x, y, verbose=0).history["loss"]
    clear_session(free_memory=free_memory)
    assert model.fit(x, y, verbose=0).history["loss"] < before
    assert model.optimizer.iterations == 2
