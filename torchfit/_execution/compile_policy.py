"""When a step is compiled: at once, or when it is worthwhile."""

from time import perf_counter

from torchfit._execution.background import BackgroundCompiler, Compiler

_TRIAL_STEPS = 30  # "auto" times this many steps before it decides.
_DEFAULT_COMPILE_SECONDS = 10.0  # Expected for a graph, until one has taken longer.
_EXPECTED_TIME_SAVED = 0.4  # The share of a step's time that compiling is expected to save.


class CompileImmediately:
    """Compile the first graph at once, and wait for it."""

    def start_loop(self, expected_steps: int | None) -> None:
        """Prepare for a loop of this many steps."""

    def should_compile(self) -> bool:
        """Return whether to compile the first graph before the next step. Called once per step until it is true."""
        return True

    def make_compiler(self) -> Compiler:
        """Return what compiles a graph."""
        return Compiler()

    def record_compile_time(self, seconds: float) -> None:
        """Record how long a graph took to compile."""


class CompileWhenWorthwhile(CompileImmediately):
    """Compile in another process once the expected saving exceeds twice the compile time."""

    compile_seconds = _DEFAULT_COMPILE_SECONDS

    def start_loop(self, expected_steps: int | None) -> None:
        """Start to time the steps of a loop; if its length is unknown, as many again as were seen are expected."""
        self._expected_steps, self._steps, self._started = expected_steps, 0, 0.0

    def should_compile(self) -> bool:
        """Count a step, and weigh the remaining steps against the compile time."""
        if self._steps == 0:
            self._started = perf_counter()
        self._steps += 1
        if self._steps <= _TRIAL_STEPS:
            return False
        seconds = (perf_counter() - self._started) / (self._steps - 1)
        remaining = self._steps if self._expected_steps is None else self._expected_steps - self._steps
        return remaining * seconds * _EXPECTED_TIME_SAVED > 2 * CompileWhenWorthwhile.compile_seconds

    def make_compiler(self) -> Compiler:
        """Return what compiles a graph."""
        return BackgroundCompiler()

    def record_compile_time(self, seconds: float) -> None:
        """Remember, for all models of this process, how long compiling takes here at most."""
        CompileWhenWorthwhile.compile_seconds = max(CompileWhenWorthwhile.compile_seconds, seconds)
