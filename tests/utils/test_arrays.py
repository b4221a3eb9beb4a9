import numpy as np
import pytest
import torch

from torchfit.utils import normalize, pad_sequences, to_categorical


def test_classes_become_rows():
    assert to_categorical([0, 2]).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert to_categorical(np.array([[1], [0]]), num_classes=3).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert to_categorical([]).shape == (0, 0)


def test_tensors_stay_tensors():
    rows = to_categorical(torch.tensor([1, 0]))
    assert rows.dtype == torch.float32
    assert rows.tolist() == [[0, 1], [1, 0]]
    assert normalize(torch.tensor([[3, 4]])).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


@pytest.mark.parametrize(("labels", "classes"), [([-1, 1], None), ([0, 3], 3)])
def test_numbers_without_a_class_are_refused(labels, classes):
    with pytest.raises(ValueError, match="`x` must hold class indices from 0 to"):
        to_categorical(labels, classes)


def test_vectors_of_zeros_stay():
    assert normalize([[3.0, 4.0], [0.0, 0.0]]).tolist() == [[0.6, 0.8], [0, 0]]
    assert normalize(np.array([[1.0, 3.0]]), order=1).tolist() == [[0.25, 0.75]]


def test_sequences_get_one_length():
    sequences = [[1], [2, 3, 4]]
    assert pad_sequences(sequences).tolist() == [[0, 0, 1], [2, 3, 4]]
    assert pad_sequences(sequences, maxlen=2, truncating="post").tolist() == [[0, 1], [2, 3]]
    assert pad_sequences(sequences, padding="post", value=-1.5, dtype="float32").tolist() == [
        [1, -1.5, -1.5],
        [2, 3, 4],
    ]
    assert pad_sequences([[], [[1, 2]]]).tolist() == [[[0, 0]], [[1, 2]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequences": 3}, "`sequences` must be iterable"),
        ({"sequences": [1, 2]}, "number 0 is 1"),
        ({"sequences": [[1]], "padding": "left"}, "`padding` must be 'pre' or 'post'"),
        ({"sequences": [[1]], "truncating": "left"}, "`truncating` must be"),
        ({"sequences": [[1]], "value": "a"}, "dtype=object"),
        ({"sequences": [[[1, 2]], [[1]]]}, "sequence 1 holds"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pad_sequences(**arguments)
