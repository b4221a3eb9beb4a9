"""Training with several processes gives the numbers of one."""

import pytest
import torch

from tests.distributed.cases import LABELS, WEIGHTS, X, compiled, network, trained
from torchfit import losses, metrics


def history(data=None, settings=None, compile_arguments=None):
    return trained(compiled(network(), **(compile_arguments or {})), *(data or ()), **(settings or {}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shuffle": False},
        {"shuffle": "batch"},
        {"batch_size": 1, "steps_per_epoch": 20},
        {"batch_size": 3},
        {"steps_per_epoch": 5},
        {"validation_split": 0.3},
        {"validation_data": (X[:33], LABELS[:33])},
        {"class_weight": {0: 0.2, 1: 3.0, 2: 1.0}},
        {"class_weight": "balanced"},
        {"sample_weight": WEIGHTS},
    ],
    ids=str,
)
def test_arguments_of_fit(everywhere, settings):
    everywhere(history, None, settings, sizes=(2, 3))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_fewer_rows_than_processes(everywhere, rows):
    everywhere(history, (X[:rows], LABELS[:rows]), sizes=(3,))


def test_four_processes(everywhere):
    everywhere(history, None, {"validation_split": 0.3, "sample_weight": WEIGHTS}, sizes=(4,))


def with_float64(**settings):
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    same = metrics.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model = compiled(network(dtype=torch.float64), loss=loss, metrics=[same])
    found = trained(model, X.astype("float64"), **settings)
    del found["history"]["loss"]  # Which is logged in float32.
    return found


def test_float64_is_exact(everywhere):
    everywhere(with_float64, shuffle=False, sample_weight=WEIGHTS.astype("float64"), sizes=(2, 3), tolerance=1e-12)
