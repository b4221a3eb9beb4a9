import numpy as np
import pytest

from torchfit._utils import validation


def test_integers_of_numpy_are_integers():
    assert validation.integer("epochs", np.int64(3), min_value=0) == 3
    assert validation.batch_size(np.int32(8)) == 8
    assert validation.steps("steps", np.int64(2)) == 2


@pytest.mark.parametrize("value", [-1, 1.5, "2", True, None])
def test_what_is_no_integer_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"`epochs` must be an integer of at least 0. Received: "):
        validation.integer("epochs", value, min_value=0)


def test_the_default_batch_size():
    assert validation.batch_size(None) == 32


@pytest.mark.parametrize("value", [None, -1])
def test_steps_until_the_data_end(value):
    assert validation.steps("steps", value) is None
