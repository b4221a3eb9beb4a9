import numpy as np
import pytest
import torch

from torchfit._data.epoch_iterator import make_order, shuffled_batches, shuffled_rows


@pytest.mark.parametrize(
    ("shuffle", "order"),
    [
        (True, shuffled_rows),
        (np.True_, shuffled_rows),
        (1, shuffled_rows),
        ("batch", shuffled_batches),
        (False, None),
        (None, None),
        (np.int64(0), None),
    ],
)
def test_what_shuffle_may_be(shuffle, order):
    assert make_order(shuffle) is order


@pytest.mark.parametrize("shuffle", [2, 0.5, "rows", np.zeros(2), torch.zeros(2), [True], bool, {}])
def test_what_shuffle_may_not_be(shuffle):
    with pytest.raises(ValueError, match="`shuffle` must be True, False or 'batch'"):
        make_order(shuffle)
