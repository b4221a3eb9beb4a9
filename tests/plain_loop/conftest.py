"""The same seed for every test, which compares a training with the loop that does the same in plain PyTorch."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    np.random.seed(0)
    torch.manual_seed(0)
