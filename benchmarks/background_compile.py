"""Training time that `jit_compile="auto"` costs until the compiled step takes over, on two cores.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.background_compile

Short epochs of the MNIST network run eagerly, and then with "auto" and an empty cache. Time is lost while the step is
traced and its code loaded (`history.timing["compile"]`), and while the compiler's process makes eager steps slower.
That process gets another core, as it would on an idle machine.
"""

import os
import statistics
import tempfile
from collections.abc import Sequence
from time import perf_counter

from benchmarks.cases import CASES
from benchmarks.frameworks.torchfit_fit import compiled
from torchfit._execution import background
from torchfit.callbacks import Callback, History

CASE = CASES["mnist"].of(6_400)
EAGER_EPOCHS, PLANNED_SECONDS = 80, 80.0
CORE = 0  # of the compiler's process


class EpochTimes(Callback):
    """Records the seconds of each epoch, and stops when 30 epochs were faster than `stop_below`."""

    def __init__(self, stop_below: float = 0.0) -> None:
        super().__init__()
        self.stop_below, self.seconds = stop_below, list[float]()

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Start the clock."""
        self._started = perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Stop the clock."""
        self.seconds.append(perf_counter() - self._started)
        if len(self.seconds) > 60 and max(self.seconds[-30:]) < self.stop_below:
            self.model.stop_training = True


def lost_seconds(epochs: Sequence[float], compiling: Sequence[float], eager: float) -> tuple[float, float]:
    """Return the seconds in which training stood still, and those by which steps were slower until the code was loaded.

    Args:
        epochs: The seconds of each epoch.
        compiling: The seconds of each epoch in which the step was traced, or code was loaded.
        eager: The seconds of an epoch without a compiler.
    """
    last = max(index for index, seconds in enumerate(compiling) if seconds > 0)
    return sum(compiling), sum(epochs[: last + 1]) - (last + 1) * eager - sum(compiling)


def fit(epochs: int, times: EpochTimes, jit_compile: str | None) -> History:
    """Train without output."""
    x, y = CASE.data
    model = compiled(CASE, jit_compile=jit_compile)
    return model.fit(x, y, batch_size=CASE.batch, epochs=epochs, verbose=0, callbacks=[times])


class PinnedProcess(background.CompilerProcess):
    """A compiler's process on a core of its own."""

    def __init__(self, graph: bytes) -> None:
        super().__init__(graph)
        os.sched_setaffinity(self._process.pid, {CORE})


def main() -> None:
    """Measure and print."""
    background.CompilerProcess = PinnedProcess  # type: ignore[misc]
    fit(EAGER_EPOCHS, eager := EpochTimes(), None)
    epoch = statistics.median(eager.seconds)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        history = fit(round(PLANNED_SECONDS / epoch), auto := EpochTimes(0.9 * epoch), "auto")
    still, slower = lost_seconds(auto.seconds, history.timing["compile"], epoch)
    print(f"steps {1e3 * epoch / CASE.steps:.3f} ms, compiled {1e3 * min(auto.seconds) / CASE.steps:.3f} ms")
    print(f"lost: {still:.2f} s without steps, {slower:.2f} s by slower steps beside the compiler's process,")
    print(f"which took {sum(history.timing['background_compile']):.1f} s")


if __name__ == "__main__":
    main()
