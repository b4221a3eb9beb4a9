import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import torchfit
from torchfit.utils import split_dataset


def rows(part):
    return [int(sample[0]) for sample in part]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"left_size": 0.8}, (8, 2)),
        ({"right_size": 0.25}, (8, 2)),
        ({"left_size": 3}, (3, 7)),
        ({"left_size": 3, "right_size": 2}, (3, 2)),
        ({"left_size": 0.5, "right_size": 0.3}, (5, 3)),
    ],
)
def test_sizes(sizes, expected):
    left, right = split_dataset(np.arange(10), **sizes)
    assert (len(left), len(right)) == expected
    assert rows(left) + rows(right) == list(range(sum(expected)))


def test_shuffling_is_repeatable_and_loses_nothing():
    first, second = (split_dataset(np.arange(10), 0.5, shuffle=True, seed=3) for _ in range(2))
    assert rows(first[0]) == rows(second[0])
    assert sorted(rows(first[0]) + rows(first[1])) == list(range(10))
    assert rows(first[0]) != list(range(5))


def test_datasets_and_dictionaries():
    left, _ = split_dataset(TensorDataset(torch.arange(4), torch.arange(4)), 2)
    assert left[1] == (1, 1)
    left, _ = split_dataset({"a": np.arange(4), "b": np.arange(4.0)}, 2)
    assert left[1] == {"a": 1, "b": 1.0}


def test_parts_go_into_fit():
    left, right = split_dataset((np.ones((10, 3)), np.ones((10, 1))), left_size=0.8)
    model = torchfit.Model(nn.Linear(3, 1), device="cpu")
    model.compile("sgd", "mse")
    assert "val_loss" in model.fit(left, validation_data=right, verbose=0).history


@pytest.mark.parametrize(
    "sizes", [{}, {"left_size": 11}, {"left_size": 0}, {"left_size": 1.2}, {"left_size": 0.9, "right_size": 0.3}]
)
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="`left_size`"):
        split_dataset(np.arange(10), **sizes)


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="must be an integer or a fraction"):
        split_dataset(np.arange(10), "half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a Dataset"):
        split_dataset(iter([1]), 0.5)
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        split_dataset((np.arange(3), np.arange(4)), 0.5)
