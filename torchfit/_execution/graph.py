"""A function of tensors as one compiled graph, replayed without asking Python anything.

`torch.compile` checks at every call whether anything that the graph depends on has changed, which costs more than a
small network's whole step. A `Graph` makes these checks at the calls that may follow a change (`check=True`), and
otherwise calls the compiled code with the tensors that it was recorded with, putting in only those that vary.

This is the one place that touches private parts of torch's compiler. Where they are missing, `check` is always on.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from torchfit._utils.console import logger

Function = Callable[[Sequence[Tensor]], list[Tensor]]
Code = Callable[[list[Tensor]], Any]
_OPTIONS = {
    "fallback_random": True,  # Dropout draws what it would draw without a compiler.
    "size_asserts": False,  # The shapes are those of the recording: a Graph is made for one set of shapes.
}
_OPTIONS_OF_PROCESSORS = {**_OPTIONS, "cpp_wrapper": True}  # Kernels are called from C++: half the time of small steps.


def traces_gradients() -> bool:
    """Tell whether this torch can put `torch.autograd.grad` into a graph (2.11 and later can)."""
    return hasattr(_dynamo_config(), "trace_autograd_ops")


class Graph:
    """One graph of `function`, which takes tensors of fixed shapes and returns a list of tensors.

    Besides its arguments the function may read and change, in place, any tensor it can reach.
    """

    def __init__(self, function: Function) -> None:
        """Compile at the first call."""
        # The compiler keeps what it made with the code object, and gives up on one with too many versions.
        function.__code__ = function.__code__.replace()
        self._guarded = torch.compile(function, fullgraph=True, dynamic=False, backend=self._backend)
        self._compiled: Compiled | None = None
        self._recorded: Sequence[Tensor] = ()
        self._produced: Sequence[Any] = ()
        self._varying: list[tuple[int, int]] = []
        self._returned: list[int] | None = None
        self._capture: Replay | None = None

    def __call__(self, tensors: Sequence[Tensor], check: bool = True) -> list[Tensor]:
        """Run the graph; with `check`, find out first whether it must be made anew."""
        if check or self._returned is None or self._compiled is None:
            return self._checked(tensors)
        if self._capture is None:
            self._capture = _capture(self._compiled, self._recorded, self._varying)
        return self._capture(tensors, self._returned)

    def release(self) -> None:
        """Let go of the tensors of the recording; the next call checks."""
        self._recorded, self._returned, self._capture = (), None, None

    def _checked(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        before = self._recorded, self._compiled
        with _tracing_gradients():
            results: list[Tensor] = self._guarded(tensors)
        self._returned = self._positions(results)
        where = {id(tensor): index for index, tensor in enumerate(tensors)}
        recorded = enumerate(self._recorded)
        self._varying = [(position, where[id(tensor)]) for position, tensor in recorded if id(tensor) in where]
        self._produced = ()
        varying = {position for position, _ in self._varying}
        if self._compiled is not before[1] or not _same(before[0], self._recorded, varying):
            self._capture = None
        return results

    def _positions(self, results: list[Tensor]) -> list[int] | None:
        """Find what the function returned among what the graph produced; `None` where Python had a hand in it."""
        where = {id(tensor): position for position, tensor in enumerate(self._produced)}
        found = [where.get(id(result)) for result in results]
        known = [position for position in found if position is not None]
        return known if self._compiled is not None and len(known) == len(results) else None

    def _backend(self, module: Any, examples: Any) -> Callable[..., Any]:
        compiled = _inductor(module, examples)
        if compiled is None:
            return _lookup("inductor")(module, examples)  # type: ignore[no-any-return]

        def run(*arguments: Tensor) -> Any:
            self._compiled, self._recorded = compiled, arguments
            self._produced = compiled.record(arguments)
            return self._produced

        return run


class Compiled:
    """What inductor made of a function: code, inside of wrappers that look after arguments and results."""

    def __init__(self, module: Any, examples: Any, options: dict[str, Any]) -> None:
        """Compile."""
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        self._code: Code | None = None
        self._seen: tuple[Any, ...] = ()
        inner: Any = self._compile_code if "cpp_wrapper" in options else compile_fx_inner
        self._wrapped = cast(Callable[..., Any], compile_fx(module, examples, inner, config_patches=options))

    def record(self, arguments: Sequence[Tensor]) -> Any:
        """Run with all wrappers, and find out whether they hand on what they get."""
        produced = self._wrapped(*arguments)
        is_idle = [*map(id, self._seen)] == [*map(id, arguments), *map(id, produced)]
        is_idle = is_idle and not torch.is_autocast_enabled("cpu")
        self.run: Code = self._code if self._code is not None and is_idle else self._run_wrapped
        self._seen = ()
        return produced

    def _run_wrapped(self, arguments: list[Tensor]) -> Any:
        return self._wrapped(*arguments)

    def _compile_code(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx_inner

        code: Any = compile_fx_inner(*arguments, **options)
        self._code = getattr(code, "current_callable", None)

        def run(inputs: list[Any]) -> Any:
            given = tuple(inputs)
            produced = code(inputs)
            self._seen = (*given, *produced)
            return produced

        run._boxed_call = True  # type: ignore[attr-defined]
        return run


Replay = Callable[[Sequence[Tensor], list[int]], list[Tensor]]


def _capture(compiled: Compiled, recorded: Sequence[Tensor], varying: list[tuple[int, int]]) -> Replay:
    """Return what runs the compiled code again: on a CUDA device a CUDA graph of its kernels, if one can be made."""
    if recorded and all(tensor.is_cuda for tensor in recorded):
        try:
            return _CudaGraph(compiled, recorded, varying)
        except RuntimeError as error:
            logger.warning("jit_compile: the step is not captured in a CUDA graph: %s", str(error).splitlines()[0])
    return _Call(compiled, recorded, varying)


class _Call:
    """Calls the compiled code."""

    def __init__(self, compiled: Compiled, recorded: Sequence[Tensor], varying: list[tuple[int, int]]) -> None:
        run = torch.no_grad()(compiled.run) if torch.is_grad_enabled() else compiled.run
        self._run, self._arguments, self._varying = run, list(recorded), varying

    def __call__(self, tensors: Sequence[Tensor], returned: list[int]) -> list[Tensor]:
        arguments = self._arguments
        for position, index in self._varying:
            arguments[position] = tensors[index]
        produced = self._run(arguments[:])
        return [produced[position] for position in returned]


class _CudaGraph:
    """Launches all kernels of the compiled code at once; inputs are copied to where they were captured."""

    def __init__(self, compiled: Compiled, recorded: Sequence[Tensor], varying: list[tuple[int, int]]) -> None:
        arguments = list(recorded)
        for position, _ in varying:
            arguments[position] = recorded[position].clone()
        self._inputs = [(arguments[position], index) for position, index in varying]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):  # Capturing runs nothing: the state changes with the first replay.
            self._produced = compiled.run(arguments)

    def __call__(self, tensors: Sequence[Tensor], returned: list[int]) -> list[Tensor]:
        for buffer, index in self._inputs:
            buffer.copy_(tensors[index], non_blocking=True)
        self._graph.replay()
        # The next replay writes over what this one produced.
        return [self._produced[position].clone() for position in returned]


def _same(one: Sequence[Tensor], other: Sequence[Tensor], but: set[int]) -> bool:
    """Tell whether two recordings hold the very same tensors, but for some positions."""
    if len(one) != len(other):
        return False
    return all(first is second for number, (first, second) in enumerate(zip(one, other)) if number not in but)


def _inductor(module: Any, examples: Sequence[Any]) -> Compiled | None:
    try:
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner  # noqa: F401
    except ImportError:
        return None
    if not all(example.device.type == "cpu" for example in examples if isinstance(example, Tensor)):
        return Compiled(module, examples, _OPTIONS)
    try:
        return Compiled(module, examples, _OPTIONS_OF_PROCESSORS)
    except Exception as error:  # Not every torch can do everything in C++; what is really wrong comes up again.
        logger.debug("jit_compile: kernels are called from Python: %s: %s", type(error).__name__, error)
        return Compiled(module, examples, _OPTIONS)


def _lookup(name: str) -> Callable[..., Any]:
    import torch._dynamo

    return torch._dynamo.lookup_backend(name)


def _dynamo_config() -> Any:
    import torch._dynamo.config

    return torch._dynamo.config


def _tracing_gradients() -> AbstractContextManager[Any]:
    if not traces_gradients():
        return nullcontext()
    context: AbstractContextManager[Any] = _dynamo_config().patch(trace_autograd_ops=True)
    return context
