import numpy as np
import pytest
import torch

from torchfit._utils import validation


def test_integers_of_numpy_are_integers():
    assert validation.integer("epochs", np.int64(3), min_value=0) == 3
    assert validation.batch_size(np.int32(8)) == 8
    assert validation.steps("steps", np.int64(2)) == 2
    assert validation.steps("steps", np.int64(-1)) is None
    assert validation.integer("epochs", torch.tensor(3), min_value=0) == 3


@pytest.mark.parametrize(
    "value", [-1, 1.5, "2", True, None, int, np.zeros(3), np.array([3]), torch.tensor([1]), np.bool_(True)]
)
def test_what_is_no_integer_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"`epochs` must be an integer of at least 0. Received: "):
        validation.integer("epochs", value, min_value=0)


def test_the_default_batch_size():
    assert validation.batch_size(None) == 32


@pytest.mark.parametrize("value", [None, -1])
def test_steps_until_the_data_end(value):
    assert validation.steps("steps", value) is None


def test_integers_are_no_larger_than_indices_may_be():
    with pytest.raises(ValueError, match=r"`epochs` must be at most \d+. Received: an integer of 16610 bits"):
        validation.integer("epochs", 10**5000, min_value=0)


def test_fractions_of_numpy():
    assert validation.fraction("validation_split", np.float32(0.25)) == 0.25


@pytest.mark.parametrize("value", [0, 1, -0.5, True, None, "0.2", float("nan"), np.array([0.5]), torch.tensor([0.5])])
def test_what_is_no_fraction_is_refused_by_name(value):
    with pytest.raises(ValueError, match="`validation_split` must be a number between 0 and 1"):
        validation.fraction("validation_split", value)


@pytest.mark.parametrize("value", [2, np.int64(2), [1, 5], (1,), {3}, range(3), range(10**12), np.array([1, 2]), []])
def test_frequencies_and_containers_of_epochs(value):
    assert validation.frequency_or_epochs("validation_freq", value) is not None


@pytest.mark.parametrize(
    "value", [0, -1, True, 1.5, "12", b"12", None, [1.5], ["1"], np.zeros((2, 2)), np.zeros(2), list, iter([1])]
)
def test_what_is_no_frequency_is_refused_by_name(value):
    with pytest.raises(ValueError, match="`validation_freq` must be a positive integer or a container of epochs"):
        validation.frequency_or_epochs("validation_freq", value)
