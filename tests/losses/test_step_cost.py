"""What runs at every step takes few calls: of ours (frames), and of torch's (operators)."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss

PACKAGE = str(Path(losses.__file__).parents[1])
ONE_HOT, PREDICTED, LABELS = torch.eye(10)[:8], torch.rand(8, 10).softmax(-1), torch.arange(8)
USUAL = [
    (losses.MeanSquaredError(), ONE_HOT, 1),
    (losses.MeanAbsoluteError(), ONE_HOT, 3),
    (losses.BinaryCrossentropy(from_logits=True), ONE_HOT, 1),
    (losses.BinaryCrossentropy(), ONE_HOT, 2),
    (losses.CategoricalCrossentropy(from_logits=True), ONE_HOT, 5),
    (losses.CategoricalCrossentropy(), ONE_HOT, 7),
    (losses.SparseCategoricalCrossentropy(from_logits=True), LABELS, 2),
    (losses.SparseCategoricalCrossentropy(), LABELS, 5),
    (resolve_loss(torch.nn.CrossEntropyLoss()), LABELS, 4),
    (resolve_loss(torch.nn.MSELoss()), ONE_HOT, 1),
]


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("loss", "y_true", "operators"), USUAL, ids=lambda value: getattr(value, "name", None))
def test_operators_of_the_usual_path(loss, y_true, operators):
    with _Counter() as counter:
        loss.with_denominator(y_true, PREDICTED)
    assert len(counter.calls) <= operators, counter.calls


@pytest.mark.parametrize(("loss", "y_true", "operators"), USUAL, ids=lambda value: getattr(value, "name", None))
def test_frames_of_the_usual_path(loss, y_true, operators):
    frames = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            frames.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        loss.with_denominator(y_true, PREDICTED)
    finally:
        sys.setprofile(None)
    assert 1 <= len(frames) <= (7 if isinstance(loss, losses.TorchLoss) else 4), frames
