"""What a callback is, and the one list of events."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

EVENTS = (
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_predict_begin",
    "on_predict_end",
    "on_predict_batch_begin",
    "on_predict_batch_end",
)
"""Every event that a callback can hear, in the order of the loops below."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
)
"""Events with a second name, which is called where the first is not overridden."""


class Callback:
    """Something that is told what happens in `fit`, `evaluate` and `predict`, and may step in.

    Override the events that you need; those that you leave alone cost nothing. The loops, in pseudocode::

        fit:       on_train_begin(logs)
                   for epoch in epochs:
                       on_epoch_begin(epoch, logs)
                       for batch in batches:
                           on_train_batch_begin(batch, logs)       # alias: on_batch_begin
                           train on the batch
                           on_train_batch_end(batch, logs)         # alias: on_batch_end
                       evaluate, if there is validation data
                       on_epoch_end(epoch, logs)                   # logs holds val_ entries as well
                       stop if model.stop_training
                   on_train_end(logs)

        evaluate:  on_test_begin(logs)
                   for batch in batches:
                       on_test_batch_begin(batch, logs)
                       on_test_batch_end(batch, logs)              # stop if model.stop_evaluating
                   on_test_end(logs)

        predict:   on_predict_begin(logs)
                   for batch in batches:
                       on_predict_batch_begin(batch, logs)
                       on_predict_batch_end(batch, {"outputs": …}) # stop if model.stop_predicting
                   on_predict_end(logs)

    `epoch` and `batch` count from 0. `logs` is a mutable mapping of names to Python floats. Its values are
    fetched from the device, which waits for it, at the first read and not before. What is written into the
    `logs` of `on_epoch_end` is seen by the callbacks that come later, and by the history. With
    `steps_per_execution=K`, batches begin with the first index of a group and end with its last.

    Events are looked up once, when a loop starts. A subclass need not call `super().__init__()`.

    Attributes:
        model: the model that is trained, evaluated or asked for predictions.
        params: how it runs: `"epochs"`, `"steps"` (None if unknown), `"verbose"`, and `"metrics"`, the names
            that can occur in `logs`.

    >>> class Losses(Callback):
    ...     def on_train_begin(self, logs=None):
    ...         self.values = []
    ...
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         self.values.append(logs["loss"])
    >>> losses = Losses()
    >>> losses.on_train_begin()
    >>> losses.on_epoch_end(0, {"loss": 0.5})
    >>> losses.values
    [0.5]
    """

    model: Any = None
    params: Mapping[str, Any] = MappingProxyType({})

    # True in a class whose batch events read `logs` while the event lasts or not at all, and keep no
    # reference to it. The loop may then hand out one mapping for all batches.
    _reads_logs_at_once = False

    # True in a class that hears every event behind the callbacks of all other classes, the history included.
    _comes_last = False

    # True in a class that writes no entries into `logs` but the ones in `_written_logs`. What a callback of
    # the user's writes is not known, so that any name may turn up.
    _is_builtin = False
    _written_logs: tuple[str, ...] = ()

    training_state: Any = None

    def set_training_state(self, state: Any) -> None:
        """Called before `on_train_begin` of `fit` with what is needed to save and resume the run, `None` after it."""
        self.training_state = state

    def set_model(self, model: Any) -> None:
        """Receive the model, before the first event."""
        self.model = model

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Receive how the loop runs, before the first event."""
        self.params = params

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive an interruption: numbers, strings, arrays, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` returned. Call it after `on_train_begin`, which starts afresh."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Hear that `fit` begins."""

    def on_train_end(self, logs: Any = None) -> None:
        """Hear that `fit` ends; `logs` is that of the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Hear that an epoch of training begins."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Hear that an epoch ended; `logs` holds its loss and metrics, and validation's with `val_`."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Hear that a training batch begins."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hear that a training batch ended; `logs` holds loss and metrics averaged over the epoch so far."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Hear the same as `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hear the same as `on_train_batch_end`."""

    def on_test_begin(self, logs: Any = None) -> None:
        """Hear that `evaluate`, or the validation of an epoch, begins."""

    def on_test_end(self, logs: Any = None) -> None:
        """Hear that `evaluate`, or the validation of an epoch, ended; `logs` holds the results."""

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Hear that a batch of evaluation begins."""

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hear that a batch of evaluation ended; `logs` holds the results so far."""

    def on_predict_begin(self, logs: Any = None) -> None:
        """Hear that `predict` begins."""

    def on_predict_end(self, logs: Any = None) -> None:
        """Hear that `predict` ended."""

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Hear that a batch of prediction begins."""

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hear that a batch was predicted; `logs["outputs"]` holds the model's outputs for it."""

    def _hears(self, event: str) -> bool:
        """Tell whether the event is of use with this object's settings; the bus leaves it out otherwise."""
        return True

    def _release(self) -> None:
        """Let go of files, bars and hooks. The loop's last act, also after an exception; may come twice."""
