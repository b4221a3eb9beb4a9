from types import SimpleNamespace

import pytest

from torchfit.callbacks._monitor import check_monitor, direction_of


def model(*metrics):
    return SimpleNamespace(metrics=[SimpleNamespace(name=name, direction=way) for name, way in metrics])


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        ("loss", "down"),
        ("val_loss", "down"),
        ("score_output_loss", "down"),
        ("gain", "up"),
        ("val_gain", "up"),
        ("val_head_gain", "up"),
        ("precision", "down"),  # a metric's word counts more than its name
        ("val_sparse_categorical_accuracy", "up"),
        ("val_auc", "up"),
        ("recall", "up"),
        ("mse", "down"),
        ("mean_absolute_error", "down"),
        ("score", None),
    ],
)
def test_direction(monitor, expected):
    assert direction_of(model(("gain", "up"), ("precision", "down"), ("score", None)), monitor) == expected


def test_an_unknown_name_is_refused_with_the_names_that_can_occur():
    with pytest.raises(ValueError, match=r"'val_los' does not occur .* loss, val_loss\. Did you mean 'val_loss'"):
        check_monitor("val_los", ["loss", "val_loss"])


def test_a_validation_name_without_validation_says_so():
    with pytest.raises(ValueError, match="There is no validation: pass validation_data"):
        check_monitor("val_loss", ["loss"])
