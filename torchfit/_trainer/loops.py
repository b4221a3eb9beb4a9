"""The loops: they run a step with every batch and call the callbacks. They know no data, loss or device."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torchfit._trainer.logs import LazyLogs
from torchfit._types import StepFn, StepIterator
from torchfit.callbacks.callback_list import CallbackList


class StopFlags(Protocol):
    """The flags that ask a loop to stop."""

    @property
    def stop_training(self) -> bool:
        """Whether to stop training."""
        ...

    @property
    def stop_evaluating(self) -> bool:
        """Whether to stop evaluating."""
        ...

    @property
    def stop_predicting(self) -> bool:
        """Whether to stop predicting."""
        ...


def train_loop(
    epochs: Iterable[int],
    iter_steps: Callable[[int], StepIterator],
    step: StepFn,
    callbacks: CallbackList,
    stop_flags: StopFlags,
    start_epoch: Callable[[], Any],
    validate: Callable[[int], dict[str, float]],
    finalize: Callable[[], Any],
) -> None:
    """Train.

    ```
    on_train_begin
    for each epoch:
        on_epoch_begin
        for each step (or group of steps, with `steps_per_execution`):
            on_train_batch_begin(index of its first batch)
            step
            on_train_batch_end(index of its last batch, logs)
        validate
        on_epoch_end(epoch, logs)
    finalize (averages of weights replace the weights)
    on_train_end(logs)
    ```
    """
    logs: Any = LazyLogs.wrap(None)
    callbacks.on_train_begin({})
    for epoch in epochs:
        logs = start_epoch()
        callbacks.on_epoch_begin(epoch, {})
        for first, last, batch in iter_steps(epoch):
            callbacks.on_train_batch_begin(first, {})
            logs = step(batch)
            callbacks.on_train_batch_end(last, logs)
            if stop_flags.stop_training:
                break
        logs.update(validate(epoch))
        callbacks.on_epoch_end(epoch, logs)
        if stop_flags.stop_training:
            break
    finalize()
    callbacks.on_train_end(logs)


def evaluate_loop(steps: StepIterator, step: StepFn, callbacks: CallbackList, stop_flags: StopFlags) -> Any:
    """Evaluate and return the logs of the last step, which hold the metrics over all steps."""
    logs: Any = LazyLogs.wrap(None)
    callbacks.on_test_begin({})
    for first, last, batch in steps:
        callbacks.on_test_batch_begin(first, {})
        logs = step(batch)
        del batch  # So that the data see that nobody holds what was drawn.
        callbacks.on_test_batch_end(last, logs)
        if stop_flags.stop_evaluating:
            break
    callbacks.on_test_end(logs)
    return logs


def predict_loop(
    steps: StepIterator, step: StepFn, callbacks: CallbackList, stop_flags: StopFlags, collect: Callable[[Any], None]
) -> None:
    """Predict, passing the outputs of each batch to `collect`."""
    callbacks.on_predict_begin({})
    for first, last, batch in steps:
        callbacks.on_predict_batch_begin(first, {})
        outputs = step(batch)
        del batch
        collect(outputs)
        callbacks.on_predict_batch_end(last, {"outputs": outputs})
        del outputs  # Otherwise two batches of outputs would be alive while the next one is computed.
        if stop_flags.stop_predicting:
            break
    callbacks.on_predict_end({})
