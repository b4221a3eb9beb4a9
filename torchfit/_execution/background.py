"""When a step is compiled, at once or when it is worthwhile, and a compiler in a process of its own for the latter.

Tracing turns a step into a graph of torch's operators. Only this graph is sent to the process, no modules and no data.
The process compiles it and fills the compiler's cache on disk, from which the code is loaded here.
"""

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import cache
from pickle import whichmodule  # type: ignore[attr-defined]
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any

import torch
from torch.fx import GraphModule

from torchfit._utils import compat
from torchfit._utils.console import logger

FindCode = Callable[[], Any]
"""Returns compiled code."""

_PROGRAM = """
import sys, types
namer, *path = sys.argv[1:]
sys.path[:] = dict.fromkeys([*filter(None, sys.path), *path])  # Nothing may come before Python's own modules.
stand_in = types.ModuleType(namer)
if namer:
    sys.modules[namer] = stand_in
import torch
stand_in.torch = torch
from torchfit._execution.background import main
main()
"""
_NICENESS = 5
_GLOBAL_SETTINGS: list[tuple[Callable[[], object], Callable[[Any], None]]] = [
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
]


class NotReadyError(Exception):
    """The code is still being compiled."""


def compile_now(module: GraphModule, examples: Any, options: dict[str, Any]) -> FindCode:
    """Compile a graph in this process, and return what returns its code."""
    inductor: Any = compat.inductor()
    code = inductor.compile_fx_inner(module, examples, **options)
    return lambda: code


class Compiler:
    """Compiles graphs in this process."""

    def compile(self, module: GraphModule, examples: Any, options: dict[str, Any]) -> FindCode:
        """Compile a graph, and return what returns its code, or raises `NotReadyError`."""
        return compile_now(module, examples, options)

    @property
    def is_ready(self) -> bool:
        """Whether no other process compiles."""
        return True

    @property
    def has_failed(self) -> bool:
        """Whether another process has ended without code."""
        return False

    def end(self) -> float:
        """End what runs in another process, and return the seconds that it ran."""
        return 0.0


class BackgroundCompiler(Compiler):
    """Compiles a graph in another process, unless its code is on disk, or it cannot be sent there."""

    def __init__(self) -> None:
        self._process: CompilerProcess | None = None

    def compile(self, module: GraphModule, examples: Any, options: dict[str, Any]) -> FindCode:
        """Load the code of a graph from disk, or start to compile it."""
        try:
            with compat.cached_code_only():
                return compile_now(module, examples, options)
        except compat.NotCachedError:
            pass
        settings, context = compat.compiler_settings(), compat.tracing_context()
        try:
            graph = compat.dump_graph((module, examples, options, settings, _global_settings()))
            self._process = process = CompilerProcess(graph)
        except Exception as error:  # Not everything in a graph can be pickled, and not every system has processes.
            logger.debug("jit_compile: a graph is compiled in this process: %s: %s", type(error).__name__, error)
            return compile_now(module, examples, options)

        @cache
        def find_code() -> Any:
            if process.is_running:
                raise NotReadyError
            with compat.compiling(settings, context):
                return compile_now(module, examples, options)()

        return find_code

    @property
    def is_ready(self) -> bool:
        """Whether the other process has ended."""
        return self._process is None or not self._process.is_running

    @property
    def has_failed(self) -> bool:
        """Whether the other process has ended without code."""
        return self._process is not None and self._process.has_failed

    def end(self) -> float:
        """End the other process, and return the seconds that it ran."""
        process, self._process = self._process, None
        return 0.0 if process is None else process.end()


class CompilerProcess:
    """A process that compiles a graph, and ends with this one."""

    def __init__(self, graph: bytes) -> None:
        with TemporaryFile() as file:
            file.write(graph)
            file.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, _namer(), *(entry or os.getcwd() for entry in sys.path)],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._started = perf_counter()
        self._end = weakref.finalize(self, _end_process, self._process)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def has_failed(self) -> bool:
        """Whether it has ended with an error."""
        return bool(self._process.poll())

    def end(self) -> float:
        """End it, and return the seconds that it ran, or since then if it had ended."""
        self._end()
        return perf_counter() - self._started


def _end_process(process: "subprocess.Popen[bytes]") -> None:
    """End a process; a C++ compiler that it started finishes what it writes to the cache."""
    process.kill()
    process.wait()


def _namer() -> str:
    """Return the module by which constants of torch are pickled, which is part of the names of files in the cache.

    It is the first module that was imported with a `torch` in it, often one of the user's. The other process lets an
    empty module stand in for it. Modules of torch itself are found there, too.
    """
    name: str = whichmodule(torch.contiguous_format, "torch.contiguous_format")
    return "" if name.partition(".")[0] == "torch" else name


def _global_settings() -> list[object]:
    """Return what compiled code depends on besides the settings of the compiler."""
    return [read() for read, _ in _GLOBAL_SETTINGS]


def _apply_global_settings(settings: list[object]) -> None:
    for (read, write), value in zip(_GLOBAL_SETTINGS, settings):
        if read() != value:  # What was never set counts as another setting than the default.
            write(value)


def main() -> None:
    """Compile the graph that comes in on the standard input."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    context = compat.new_tracing_context()
    graph = compat.load_graph(sys.stdin.buffer.read(), context)
    module, examples, options, settings, global_settings = graph
    _apply_global_settings(global_settings)
    with compat.compiling(settings, context):
        if settings.get("cpp.vec_isa_ok"):
            compat.trust_instructions()
        compile_now(module, examples, options)


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
