from types import SimpleNamespace

import pytest

from torchfit.callbacks.base import check_monitor, mode_of


def model(*metrics):
    return SimpleNamespace(metrics=[SimpleNamespace(name=name, mode=way) for name, way in metrics])


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("score_output_loss", "min"),
        ("gain", "max"),
        ("val_gain", "max"),
        ("val_head_gain", "max"),
        ("precision", "min"),  # a metric's word counts more than its name
        ("val_sparse_categorical_accuracy", "max"),
        ("val_auc", "max"),
        ("recall", "max"),
        ("mse", "min"),
        ("mean_absolute_error", "min"),
        ("score", None),
    ],
)
def test_mode(monitor, expected):
    assert mode_of(model(("gain", "max"), ("precision", "min"), ("score", None)), monitor) == expected


def test_an_unknown_name_is_refused_with_the_names_that_can_occur():
    with pytest.raises(ValueError, match=r"'val_los' does not occur .* loss, val_loss\. Did you mean 'val_loss'"):
        check_monitor("val_los", ["loss", "val_loss"])


def test_a_validation_name_without_validation_says_so():
    with pytest.raises(ValueError, match="There is no validation: pass validation_data"):
        check_monitor("val_loss", ["loss"])
