"""Finds out whether a NaN loss comes from the data, and from which batch, or from the model."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from torch import Tensor

from torchfit._data.batch_source import BatchSource
from torchfit._types import Logs, StepIterator
from torchfit._utils import tree
from torchfit._utils.errors import warn
from torchfit._utils.tree import Batch, parts_of
from torchfit.callbacks import CallbackList, TerminateOnNaN

Columns = Sequence[object] | None

_MAX_SECONDS = 10.0  # for another pass over the data
_FROM_THE_MODEL = "comes from the model: try a lower learning rate, `clipnorm=1.0`, or a loss with `from_logits=True`."
_WAY_OUT = "callbacks.TerminateOnNaN() stops training at the first batch whose loss is not a number."


class NaNWatch:
    """Warns once of a loss that is NaN or infinite, and names the batch and the part of it that contains NaN.

    Nothing is read during a step; the logs are read at the end of an epoch anyway. Only if a loss is NaN or infinite
    are the batches searched: those of the same epoch if they can be drawn again without side effects, as from arrays,
    else those of the next epoch.

    Args:
        batches: The data.
        columns: The names of the columns of `x`, or `None`.
    """

    def __init__(self, batches: BatchSource, columns: Columns) -> None:
        self._batches, self._columns = batches, columns
        self._unexplained = ""
        self._has_warned = False

    def listen(self, callbacks: CallbackList, validation: BatchSource | None, epochs: int) -> None:
        """Check the logs of every epoch after the callbacks, unless one of them terminates on NaN."""
        on_epoch_end, model = (
            callbacks.on_epoch_end,
            callbacks.model,
        )  # Capturing the list itself would create a reference cycle.

        def look(epoch: int, logs: Logs) -> None:
            on_epoch_end(epoch, logs)
            when = f"after epoch {epoch + 1}"
            self.check(logs, when, epoch, is_last=epoch + 1 == epochs or model.stop_training)
            if validation is not None:
                self.check_validation(logs, when, validation)

        if not any(isinstance(callback, TerminateOnNaN) for callback in callbacks.callbacks):
            vars(callbacks)["on_epoch_end"] = look

    def check(self, logs: Logs, when: str, epoch: int, is_last: bool = True) -> None:
        """Warn of losses of an epoch that are NaN or infinite, and search for the cause.

        Args:
            logs: The logs, which are read.
            when: The time of the logs, for the message.
            epoch: The index of the epoch.
            is_last: Whether this is the last epoch.
        """
        if self._unexplained:
            self._warn(self._unexplained, f"No NaN was found in the data, so it {_FROM_THE_MODEL}")
        problem = "" if self._has_warned else find_problem(logs, when, "")
        if not problem:
            return
        again = self._batches.reread(epoch)
        if again is not None:
            self._explain(problem, again)
        elif is_last:
            self._warn(problem, f"Look for NaN in the data. If they have none, it {_FROM_THE_MODEL}")
        else:
            self._unexplained = problem

    def check_validation(self, logs: Logs, when: str, batches: BatchSource) -> None:
        """Warn of losses of a validation that are NaN or infinite, and search for the cause."""
        again = batches.reread(0)
        problem = "" if self._has_warned or again is None else find_problem(logs, when, "val_")
        if problem and again is not None:
            self._explain(problem, again, " of `validation_data`")

    def _explain(self, problem: str, batches: Iterator[Batch], of: str = "") -> None:
        found = find_nan(_within(batches, _MAX_SECONDS), self._columns)
        self._warn(problem, f"{found}{of}." if found else f"No NaN was found in the data, so it {_FROM_THE_MODEL}")

    def examine(self, steps: StepIterator) -> StepIterator:
        """Return the steps of an epoch; their batches are searched if a problem is unexplained."""
        return self._examined(steps) if self._unexplained else steps

    def _examined(self, steps: StepIterator) -> StepIterator:
        for first, last, payload in steps:
            batches = payload if isinstance(payload, list) else [payload]
            found = find_nan(batches, self._columns, first) if self._unexplained else ""
            if found:
                self._warn(self._unexplained, f"In the next epoch, {found}.")
            yield first, last, payload

    def _warn(self, problem: str, cause: str) -> None:
        self._has_warned, self._unexplained = True, ""
        warn(f"{problem} {cause} {_WAY_OUT}")


def find_problem(logs: Logs, when: str, prefix: str = "") -> str:
    """Return a sentence that names the losses that are NaN or infinite, or "". Losses of outputs precede their sum.

    >>> find_problem({"loss": float("nan"), "a_loss": float("nan"), "b_loss": 1.0}, "after epoch 1")
    'The loss `a_loss` is nan after epoch 1.'
    """
    losses = {name: value for name, value in logs.items() if name.endswith("loss") and isinstance(value, float)}
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    wrong = [name for name in wrong if name.startswith("val_") == bool(prefix)]
    named = [name for name in wrong if name != f"{prefix}loss"] or wrong
    return f"The loss {' and '.join(f'`{name}`' for name in named)} is {losses[named[0]]} {when}." if named else ""


def find_nan(batches: Iterable[Batch], columns: Columns = None, first: int = 0) -> str:
    """Return which part of which batch has NaN or infinite values, "" if none has.

    Args:
        batches: The batches.
        columns: The names of the columns of the inputs.
        first: The number of the first batch.
    """
    for number, batch in enumerate(batches, first):
        for argument, part in zip(("x", "y", "sample_weight"), parts_of(batch)):
            for path, leaf in tree.leaves_with_path(part):
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and not leaf.isfinite().all():
                    place = _place(leaf, columns if argument == "x" and not path else None)
                    what = "NaN" if leaf.isnan().any() else "infinite values"
                    return f"`{tree.format_path(path, argument)}` has {what} in {place}batch {number} (counted from 0)"
    return ""


def _place(values: Tensor, names: Columns) -> str:
    """Return the first column that has NaN, or else infinite values, for the message."""
    if values.ndim != 2 or values.shape[1] == 1:
        return ""
    wrong = values.isnan() if values.isnan().any() else values.isinf()
    column = int(wrong.any(dim=0).nonzero()[0])
    return f"column {column} of " if names is None else f"the column {names[column]!r} of "


def _within(batches: Iterator[Batch], seconds: float) -> Iterator[Batch]:
    end = time.monotonic() + seconds
    return takewhile(lambda _: time.monotonic() < end, batches)
