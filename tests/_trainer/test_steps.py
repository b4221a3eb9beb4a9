import pytest
import torch

from torchfit._trainer.steps import count_rows

FIVE, THREE = torch.ones(5, 2), torch.ones(3)


@pytest.mark.parametrize(
    ("targets", "outputs", "rows"),
    [
        (FIVE, THREE, 5),
        (None, THREE, 3),
        ({"a": None, "b": FIVE}, THREE, 5),
        ([{"boxes": THREE}], FIVE, 3),
        (["a", "b"], FIVE, 5),
        (torch.tensor(1.0), None, 1),
    ],
)
def test_samples_are_counted_on_the_targets_or_else_on_the_outputs(targets, outputs, rows):
    assert count_rows(targets, outputs) == rows
