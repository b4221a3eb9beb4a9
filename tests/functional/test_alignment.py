import numpy as np
import pytest
import torch

from torchfit.functional.alignment import align_class_indices, align_one_hot, align_pair, align_ranks, batch_mean


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((4,), (4, 1), [(4, 1), (4, 1)]),
        ((4, 1), (4,), [(4, 1), (4, 1)]),
        ((4, 5), (4, 5, 1), [(4, 5), (4, 5)]),
        ((4, 5, 1), (4, 5), [(4, 5), (4, 5)]),
        ((4,), (4, 3), [(4,), (4, 3)]),
        ((4, 3), (4, 3), [(4, 3), (4, 3)]),
        ((1,), (), [(), ()]),
    ],
)
def test_ranks(first, second, expected):
    assert [tuple(tensor.shape) for tensor in align_ranks(torch.zeros(first), torch.zeros(second))] == expected


def test_pairs_share_dtype_and_shape():
    y_true, y_pred = align_pair(np.array([1, 0]), torch.zeros(2, 1, dtype=torch.float16))
    assert (y_true.dtype, y_true.shape) == (y_pred.dtype, y_pred.shape) == (torch.float16, (2, 1))


def test_integers_become_floats():
    assert align_pair([1, 2], [3, 4])[1].dtype == torch.float32
    assert align_one_hot(torch.tensor([[1, 0]]), torch.tensor([[1, 0]]))[0].dtype == torch.float32


@pytest.mark.parametrize("shapes", [((4,), (4, 3)), ((4, 1), (4, 3)), ((4, 3), (4, 2)), ((3,), (4,))])
def test_nothing_is_broadcast(shapes):
    y_true, y_pred = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"y_true must be of the same shape. Received: y_true, a tensor of shape"):
        align_pair(y_true, y_pred)


def test_labels_lose_their_last_dimension():
    labels, _ = align_class_indices([[1.0], [2.0]], torch.zeros(2, 3))
    assert labels.tolist() == [1, 2]
    assert align_class_indices(torch.zeros(2, 4), torch.zeros(2, 3, 4), axis=1)[0].dtype == torch.int64


def test_the_mean_of_nothing_is_zero():
    assert batch_mean(torch.zeros(0, 3)).item() == 0
