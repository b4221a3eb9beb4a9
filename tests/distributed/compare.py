"""Compare what several processes return with what one does."""

import numpy as np


def assert_same(found, expected, tolerance, where=""):
    """Compare numbers in nested structures; the tolerance is relative, and absolute for what is below 1."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name, value in expected.items():
            assert_same(found[name], value, tolerance, f"{where}: {name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_same(found[number], value, tolerance, f"{where}[{number}]")
    elif isinstance(expected, str) or expected is None:
        assert found == expected, where
    else:
        found, expected = np.asarray(found, dtype="float64"), np.asarray(expected, dtype="float64")
        assert found.shape == expected.shape, where
        error = np.abs(found - expected) / np.maximum(np.abs(expected), 1)
        largest = error.max(initial=0.0)
        assert largest <= tolerance, f"{where}: off by {largest}, expected {expected.ravel()[:3]}"


def assert_equal(found, expected):
    """Compare bit by bit."""
    assert_same(found, expected, 0, "another process")
