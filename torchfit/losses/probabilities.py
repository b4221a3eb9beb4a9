"""Does the model put out what the loss expects?"""

from typing import Any

from torch import Tensor

_TOLERANCE = 1e-2  # half-precision probabilities sum to 1 with about this error


def probability_problem(loss: Any, y_pred: Any) -> str | None:
    """Return one line with the fix if `loss` expects probabilities and `y_pred (batch, …)` holds none, else `None`.

    Probabilities lie in [0, 1], and those of exclusive classes sum to 1 along the loss's `axis`. NaN is no
    evidence. This reads the values, which waits for the device: call it once, not at every step.

    >>> import torch
    >>> from torchfit.losses.crossentropy import BinaryCrossentropy
    >>> probability_problem(BinaryCrossentropy(), torch.tensor([[0.5], [0.9]]))
    >>> print(probability_problem(BinaryCrossentropy(), torch.tensor([[0.5], [3.0]])))
    The loss binary_crossentropy expects probabilities, but the model puts out values outside [0, 1]. \
Use BinaryCrossentropy(from_logits=True), or end the model with a sigmoid.
    """
    expected = getattr(loss, "probabilities", None)
    if expected is None or getattr(loss, "from_logits", False) or not isinstance(y_pred, Tensor):
        return None
    finding = _finding(y_pred.detach().float(), expected, getattr(loss, "axis", -1))
    if finding is None:
        return None
    end = "a sigmoid" if expected == "single" else "a softmax"
    return (
        f"The loss {loss.name} expects probabilities, but the model puts out {finding}. "
        f"{_other_loss(loss)} the model with {end}."
    )


def _finding(y_pred: Tensor, expected: str, axis: Any) -> str | None:
    if bool(((y_pred < 0) | (y_pred > 1)).any()):
        return "values outside [0, 1]"
    if expected == "distribution" and bool(((y_pred.sum(axis) - 1).abs() > _TOLERANCE).any()):
        return "rows that do not sum to 1"
    return None


def _other_loss(loss: Any) -> str:
    return f"Use {type(loss).__name__}(from_logits=True), or end" if hasattr(loss, "from_logits") else "End"
