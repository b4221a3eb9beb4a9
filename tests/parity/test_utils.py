import numpy as np
import pytest

import torchfit

keras = pytest.importorskip("keras", reason="compares with Keras")

SEQUENCES = [[1], [2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("labels", "classes"), [([0, 2, 1], None), ([[1], [0]], None), (2, None), ([1.0, 2.0], 5), ([[0, 1], [2, 2]], None)]
)
def test_to_categorical(labels, classes):
    expected = keras.utils.to_categorical(labels, classes)
    found = torchfit.utils.to_categorical(labels, classes)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis", [1, -1])  # Keras takes axis 0 for the last one
@pytest.mark.parametrize("order", [1, 2, 3])
def test_normalize(axis, order):
    x = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(torchfit.utils.normalize(x, axis, order), keras.utils.normalize(x, axis, order))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"maxlen": 2},
        {"maxlen": 2, "padding": "post", "truncating": "post"},
        {"maxlen": 5, "padding": "post", "value": -1.0, "dtype": "float32"},
        {"dtype": object, "value": "x"},
    ],
)
def test_pad_sequences(options):
    expected = keras.utils.pad_sequences(SEQUENCES, **options)
    found = torchfit.utils.pad_sequences(SEQUENCES, **options)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sizes", [{"left_size": 0.25}, {"right_size": 0.33}, {"left_size": 0.8}, {"left_size": 3}])
def test_split_sizes(sizes):
    expected = keras.utils.split_dataset(np.arange(10.0), **sizes)
    found = torchfit.utils.split_dataset(np.arange(10.0), **sizes)
    assert list(map(len, found)) == list(map(len, expected))


def test_keras_helpers_have_their_arguments_in_order():
    import inspect

    for name in ("to_categorical", "normalize", "pad_sequences", "set_random_seed", "clear_session"):
        wanted = list(inspect.signature(getattr(keras.utils, name)).parameters)
        assert list(inspect.signature(getattr(torchfit.utils, name)).parameters)[: len(wanted)] == wanted
