import copy
import sys

import pytest
from torch import nn

from tests.support import copies_deep_modules
from torchfit._utils.modules import deep_recursion, named_weights


def nested(depth):
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(depth):
        module = nn.Sequential(module)
    return module


@copies_deep_modules
def test_deeply_nested_modules_can_be_copied():
    module, limit = nested(300), sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Other tests may have raised it.
    try:
        with pytest.raises(RecursionError):
            copy.deepcopy(module)
        with deep_recursion(module):
            copy.deepcopy(module)
        assert sys.getrecursionlimit() == 1000
    finally:
        sys.setrecursionlimit(limit)


def test_modules_that_occur_again_count_once():
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(60):
        module = nn.Sequential(module, module)
    with deep_recursion(module):
        assert sys.getrecursionlimit() < 5000


def test_weights_are_parameters_and_persistent_buffers():
    assert list(named_weights(nn.BatchNorm1d(2))) == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]
