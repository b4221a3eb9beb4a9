"""The loops, which run a step for every batch and call the callbacks, and `EpochTimer`.

The loops do not know about data adapters, losses or devices.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import sub
from time import perf_counter
from typing import Any, Protocol, TypeVar

import torch

from torchfit._trainer.logs import LazyLogs
from torchfit._types import Logs, Nested, StepFn, StepIterator
from torchfit._utils.console import write_line
from torchfit.callbacks.callback_list import CallbackList

_MAX_DATA_SHARE = 1 / 3
_MIN_DATA_SECONDS = 0.1
_PARTS = ("data", "copy", "step", "callbacks", "validation", "compile")
Seconds = dict[str, float]
Result = TypeVar("Result")


class EpochTimer:
    """Breaks down the time of each epoch by activity; unattributed time counts as `step`.

    Args:
        device: The device that the model is trained on.
        compile_seconds: Returns the seconds spent on compiling so far, here and in other processes.
        transfer_seconds: Returns the seconds spent so far on moving batches to their device and dtype.
        verbose: Whether to print advice, once, if the run waits for data.

    Attributes:
        timing: For every epoch the seconds of `data` (waiting for a batch), `copy` (giving it its device and dtype),
            `step`, `callbacks`, `validation` and `compile`, their sum `total`, `peak_memory` in bytes, and
            `background_compile`, the seconds of compilers in other processes that have ended.
    """

    def __init__(
        self,
        device: torch.device,
        compile_seconds: Callable[[], tuple[float, float]],
        transfer_seconds: Callable[[], float],
        verbose: bool,
    ) -> None:
        self.timing: dict[str, list[float]] = {}
        self._device, self._verbose = device, verbose
        self._compile_seconds, self._transfer_seconds = compile_seconds, transfer_seconds
        self._advised = self._is_open = False
        self._seconds: Seconds = {}

    def time_iterator(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield the items, and count the wait for each as `data`, or as `copy` if it is spent on transfers."""
        seconds, transfer_seconds = self._seconds, self._transfer_seconds()
        try:
            while True:
                asked = perf_counter()
                item = next(items, self)
                seconds["data"] += perf_counter() - asked
                if item is self:
                    return
                yield item
        finally:
            seconds["copy"] = min(self._transfer_seconds() - transfer_seconds, seconds["data"])
            seconds["data"] -= seconds["copy"]

    def timed(self, kind: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """Wrap a function so that its time is counted as `kind`."""

        def measured(*arguments: object) -> Result:
            called = perf_counter()
            try:
                return function(*arguments)
            finally:
                self._seconds[kind] += perf_counter() - called

        return measured

    def time_callbacks(self, callbacks: CallbackList) -> None:
        """Time the hooks of the callbacks; batch hooks only if a user-defined callback has them."""
        hooks = ["on_epoch_begin", "on_epoch_end"]
        hooks += ["on_train_batch_begin", "on_train_batch_end"] if callbacks.keeps_batch_logs else []
        callbacks.wrap_hooks(hooks, partial(self.timed, "callbacks"))

    def epochs(self, indices: Iterable[int]) -> Iterator[int]:
        """Yield the epochs, and record the times of each; `close` records the epoch in which a loop stops."""
        for index in indices:
            self._start()
            yield index
            self.close()

    def close(self) -> None:
        """Record the current epoch, if there is one."""
        if not self._is_open:
            return
        self._is_open = False
        seconds = self._seconds
        total = perf_counter() - self._started
        here, elsewhere = map(sub, self._compile_seconds(), self._compile_seconds_before)
        seconds["compile"] = here
        seconds["step"] = max(0.0, total - sum(seconds.values()))
        epoch = {**seconds, "total": total, "peak_memory": float(peak_memory(self._device))}
        epoch["background_compile"] = elsewhere
        for name, value in epoch.items():
            self.timing.setdefault(name, []).append(value)
        if self._verbose:
            self._advise(epoch)

    def _start(self) -> None:
        self._is_open = True
        self._seconds.update(dict.fromkeys(_PARTS, 0.0))
        self._compile_seconds_before = self._compile_seconds()
        self._started = perf_counter()

    def _advise(self, epoch: Seconds) -> None:
        share = epoch["data"] / epoch["total"]
        if share > _MAX_DATA_SHARE and epoch["data"] > _MIN_DATA_SECONDS and not self._advised:
            self._advised = True
            write_line(
                f"  {share:.0%} of the epoch went into waiting for data: let workers prefetch them (`num_workers` of "
                "the DataLoader, `workers` of `fit`), prepare them beforehand, or pass arrays."
            )


def peak_memory(device: torch.device) -> int:
    """Return the peak memory use in bytes: that of torch on a CUDA device, elsewhere that of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
    start_epoch: Callable[[], Logs],
    validate: Callable[[int], dict[str, float]],
    finalize: Callable[[], object],
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
    logs: Logs = LazyLogs.wrap(None)
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
        logs = LazyLogs.without_written(logs)  # A callback may have kept those of the last batch.
        logs.update(validate(epoch))
        callbacks.on_epoch_end(epoch, logs)
        if stop_flags.stop_training:
            break
    finalize()
    callbacks.on_train_end(logs)


def evaluate_loop(steps: StepIterator, step: StepFn, callbacks: CallbackList, stop_flags: StopFlags) -> Logs:
    """Evaluate and return the logs of the last step, which hold the metrics over all steps."""
    logs: Logs = LazyLogs.wrap(None)
    callbacks.on_test_begin({})
    for first, last, batch in steps:
        callbacks.on_test_batch_begin(first, {})
        logs = step(batch)
        del batch  # The data source can then see that the batch is no longer in use.
        callbacks.on_test_batch_end(last, logs)
        if stop_flags.stop_evaluating:
            break
    logs = LazyLogs.without_written(logs)
    callbacks.on_test_end(logs)
    return logs


def predict_loop(
    steps: StepIterator, step: StepFn, callbacks: CallbackList, stop_flags: StopFlags, collect: Callable[[Nested], None]
) -> None:
    """Predict, passing the outputs of each batch to `collect`."""
    callbacks.on_predict_begin({})
    for first, last, batch in steps:
        callbacks.on_predict_batch_begin(first, {})
        outputs = step(batch)
        del batch
        collect(outputs)
        callbacks.on_predict_batch_end(last, {"outputs": outputs})
        del outputs  # Otherwise two batches of outputs would be in memory while the next one is computed.
        if stop_flags.stop_predicting:
            break
    callbacks.on_predict_end({})
