"""Data of the guide to training with the built-in methods."""

import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits():
    """Return (x_train, y_train), (x_val, y_val), (x_test, y_test); the labels are floats, as in the guide."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype("float32") / 16, y.astype("float32")
    return (x[:1200], y[:1200]), (x[1200:1500], y[1200:1500]), (x[1500:], y[1500:])
