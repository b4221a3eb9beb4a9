"""The loops. They move batches through a step and tell a bus; they know no data, loss, device or name."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torchfit._trainer.logs import Logs
from torchfit.callbacks import CallbackList

Step = Callable[[Any], Any]
Work = Iterator[tuple[int, int, Any]]


class Signals(Protocol):
    """What may ask a loop to stop."""

    stop_training: bool
    stop_evaluating: bool
    stop_predicting: bool


def train_loop(
    epochs: Iterable[int],
    work: Callable[[int], Work],
    step: Step,
    bus: CallbackList,
    signals: Signals,
    start_epoch: Callable[[], Any],
    validate: Callable[[int], dict[str, float]],
    finish: Callable[[], Any] = dict,
) -> None:
    """Train.

    ```
    on_train_begin
    for each epoch:
        on_epoch_begin
        for each piece of work (a batch, or several with `steps_per_execution`):
            on_train_batch_begin(index of its first batch)
            step
            on_train_batch_end(index of its last batch, logs)
        validate
        on_epoch_end(epoch, logs)
    finish (averages of weights take their place)
    on_train_end(logs)
    ```
    """
    logs: Any = Logs.of(None)
    bus.on_train_begin({})
    for epoch in epochs:
        logs = start_epoch()
        bus.on_epoch_begin(epoch, {})
        for first, last, batch in work(epoch):
            bus.on_train_batch_begin(first, {})
            logs = step(batch)
            bus.on_train_batch_end(last, logs)
            if signals.stop_training:
                break
        logs.update(validate(epoch))
        bus.on_epoch_end(epoch, logs)
        if signals.stop_training:
            break
    finish()
    bus.on_train_end(logs)


def evaluate_loop(work: Work, step: Step, bus: CallbackList, signals: Signals) -> Any:
    """Evaluate and return the logs of the last step, in which the metrics of all of them have gathered."""
    logs: Any = Logs.of(None)
    bus.on_test_begin({})
    for first, last, batch in work:
        bus.on_test_batch_begin(first, {})
        logs = step(batch)
        bus.on_test_batch_end(last, logs)
        if signals.stop_evaluating:
            break
    bus.on_test_end(logs)
    return logs


def predict_loop(work: Work, step: Step, bus: CallbackList, signals: Signals, keep: Callable[[Any], None]) -> None:
    """Predict, handing the outputs of each batch to `keep`."""
    bus.on_predict_begin({})
    for first, last, batch in work:
        bus.on_predict_batch_begin(first, {})
        outputs = step(batch)
        keep(outputs)
        bus.on_predict_batch_end(last, {"outputs": outputs})
        del outputs  # Or two batches of them would be alive while the next one is made.
        if signals.stop_predicting:
            break
    bus.on_predict_end({})
