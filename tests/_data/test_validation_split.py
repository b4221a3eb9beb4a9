import warnings

import numpy as np
import pytest
import torch

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.validation_split import describe_label_shift


def test_the_last_samples_are_set_apart(batch_spec):
    first, last = get_data_adapter({"a": np.arange(10.0)}, np.arange(10.0), None, batch_spec).split(0.25)
    assert next(first.batches().epoch(0)).targets.tolist() == list(range(7))
    assert next(last.batches().epoch(0)).inputs["a"].tolist() == [7, 8, 9]


@pytest.mark.parametrize("fraction", [0.0, 1, 1.5, -0.1, "0.2", True, None])
def test_the_fraction_lies_between_0_and_1(fraction, batch_spec):
    with pytest.raises(ValueError, match="`validation_split` must be a number between 0 and 1"):
        get_data_adapter(np.zeros(4), None, None, batch_spec).split(fraction)


def test_neither_side_may_be_empty(batch_spec):
    with pytest.raises(ValueError, match="leaves one side empty"):
        get_data_adapter(np.zeros(1), None, None, batch_spec).split(0.5)


@pytest.mark.parametrize(
    "labels",
    [
        np.repeat([0, 1], 50),
        np.repeat([0.0, 1.0], 50)[:, None],
        np.repeat([False, True], 50),
        np.eye(2)[np.repeat([0, 1], 50)],
        {"a": np.repeat([0, 1], 50)},
    ],
)
def test_sorted_labels_give_a_warning(labels, batch_spec):
    with pytest.warns(UserWarning, match="class 0 is among the first samples only.*shuffle x and y"):
        get_data_adapter(np.zeros(100), labels, None, batch_spec).split(0.2)


def test_very_different_shares_give_a_warning():
    assert "frequencies of the classes" in describe_label_shift(torch.tensor([900, 100]), torch.tensor([20, 80]))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("classes", [2, 10, 200])
def test_shuffled_labels_give_none(seed, classes, batch_spec):
    labels = np.random.default_rng(seed).integers(0, classes, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_data_adapter(np.zeros(300), labels, None, batch_spec).split(0.2)


@pytest.mark.parametrize("values", [np.linspace(0, 1, 100), np.arange(100_000), np.zeros((100, 4, 2))])
def test_what_is_no_class_gives_none(values, batch_spec):
    get_data_adapter(np.zeros(len(values)), values, None, batch_spec).split(0.2)
