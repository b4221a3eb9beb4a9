"""Times the passes of one trainer: on the device, on the host, and what they launch and allocate."""

import gc
import statistics
import time
from typing import Any

import torch

WARM_UP, PROFILED = 1, 1  # Passes before and after those that are timed.
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")


class Clock:
    """Told by a trainer where its passes begin and end; the first warms it up, the last is profiled.

    Args:
        device: The device.
        rounds: How many passes are timed.
        steps: The steps of a pass.
    """

    def __init__(self, device: torch.device, rounds: int, steps: int) -> None:
        self.passes = WARM_UP + rounds + PROFILED
        self._device, self._steps, self._is_cuda = device, steps, device.type == "cuda"
        self._seconds: list[float] = []
        self._host_seconds: list[float] = []
        self._launches: float | None = None
        self._profiler: Any = None
        self._done = 0
        gc.collect()
        if self._is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._memory_before = torch.cuda.memory_allocated(device)
        self._created = time.perf_counter()
        self._warm_up_seconds = 0.0

    def start(self) -> None:
        """Begin a pass: call it before its first step."""
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
            self._begun, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if self._done == self.passes - 1 and self._is_cuda:
            self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profiler.__enter__()
        self._started = time.perf_counter()
        if self._is_cuda:
            self._begun.record()

    def stop(self) -> None:
        """End a pass: call it when its last step is issued, before anything is read."""
        if self._is_cuda:
            self._ended.record()
        host = time.perf_counter() - self._started
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
        seconds = self._begun.elapsed_time(self._ended) / 1e3 if self._is_cuda else host
        self._done += 1
        if self._done == WARM_UP:
            self._warm_up_seconds = time.perf_counter() - self._created
        elif self._done < self.passes:
            self._seconds.append(seconds)
            self._host_seconds.append(host)
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            events = self._profiler.profiler.kineto_results.events()
            self._launches = sum(event.name().startswith(_LAUNCHES) for event in events) / self._steps

    def result(self) -> dict[str, float | None]:
        """Return microseconds per step, launches per step, peak memory in MiB, and the seconds of the warm-up."""
        peak = None
        if self._is_cuda:
            peak = (torch.cuda.max_memory_allocated(self._device) - self._memory_before) / 2**20
        return {
            "step": statistics.median(self._seconds) / self._steps * 1e6,
            "fastest step": min(self._seconds) / self._steps * 1e6,
            "host": statistics.median(self._host_seconds) / self._steps * 1e6,
            "launches": self._launches,
            "peak": peak,
            "warm-up": self._warm_up_seconds,
        }
