"""Where the time of a training goes, measured from outside the loop."""

import sys
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any

import torch

from torchfit._utils.console import write_line

_WAITING_TOO_LONG = 1 / 3
_PARTS = ("data", "copy", "step", "callbacks", "validation", "compile")
Seconds = dict[str, float]


class Stopwatch:
    """Adds up the seconds of an epoch by what they were spent on; what is measured nowhere is the step's.

    Attributes:
        timing: For every epoch the seconds of `data` (waiting for a batch), `copy` (giving it its device and dtype),
            `step`, `callbacks`, `validation` and `compile`, their sum `total`, and `peak_memory` in bytes.
    """

    def __init__(
        self, device: torch.device, compiled: Callable[[], float], copied: Callable[[], float], tells: bool
    ) -> None:
        """Measure a training on `device`; `compiled()` and `copied()` give the seconds spent on that so far.

        With `tells`, a line is written after every epoch.
        """
        self.timing: dict[str, list[float]] = {}
        self._device, self._compiled, self._copied, self._tells = device, compiled, copied, tells
        self._advised = self._is_open = False
        self._seconds: Seconds = {}

    def items(self, items: Iterator[Any]) -> Iterator[Any]:
        """Give the same items, and count the waiting for them as `data`, but for what `copied` takes of it."""
        seconds, copied = self._seconds, self._copied()
        try:
            while True:
                asked = perf_counter()
                item = next(items, self)
                seconds["data"] += perf_counter() - asked
                if item is self:
                    return
                yield item
        finally:
            seconds["copy"] = min(self._copied() - copied, seconds["data"])
            seconds["data"] -= seconds["copy"]

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, its time counted as `kind`."""

        def measured(*arguments: Any) -> Any:
            called = perf_counter()
            try:
                return function(*arguments)
            finally:
                self._seconds[kind] += perf_counter() - called

        return measured

    def listen(self, bus: Any) -> None:
        """Count the time of the callbacks; of those that hear batches only where the user's are among them."""
        events = ["on_epoch_begin", "on_epoch_end"]
        events += ["on_train_batch_begin", "on_train_batch_end"] if bus.keeps_batch_logs else []
        for event in events:
            setattr(bus, event, self.timed("callbacks", getattr(bus, event)))

    def epochs(self, indices: Iterable[int]) -> Iterator[int]:
        """Give the same epochs, and record each; `close` records the one in which a loop stops."""
        for index in indices:
            self._start()
            yield index
            self.close()

    def close(self) -> None:
        """Record the epoch that goes on, if one does, and tell about it."""
        if not self._is_open:
            return
        self._is_open = False
        seconds = self._seconds
        total = perf_counter() - self._started
        seconds["compile"] = self._compiled() - self._compiled_before
        seconds["step"] = max(0.0, total - sum(seconds.values()))
        epoch = {**seconds, "total": total, "peak_memory": float(peak_memory(self._device))}
        for name, value in epoch.items():
            self.timing.setdefault(name, []).append(value)
        if self._tells:
            self._tell(epoch)

    def _start(self) -> None:
        self._is_open = True
        self._seconds.update(dict.fromkeys(_PARTS, 0.0))
        self._compiled_before = self._compiled()
        self._started = perf_counter()

    def _tell(self, epoch: Seconds) -> None:
        spent = [f"{name} {epoch[name]:.1f}s" for name in _PARTS]
        write_line(f"  time: {' - '.join(spent)} - peak memory: {epoch['peak_memory'] / 2**20:.0f} MB")
        share = epoch["data"] / epoch["total"]
        if share > _WAITING_TOO_LONG and not self._advised:
            self._advised = True
            write_line(
                f"  {share:.0%} of the epoch went into waiting for data: let workers read them ahead (`num_workers` of "
                "the DataLoader, `workers` of `fit`), prepare them beforehand, or pass arrays."
            )


def peak_memory(device: torch.device) -> int:
    """Return the most memory, in bytes, that was in use: on a CUDA device by torch, elsewhere by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
