"""A function of tensors as one compiled graph, replayed with as little Python as possible.

`torch.compile` re-evaluates its guards on every call; for a small network that takes longer than the whole step. A
`GraphRunner` evaluates them at the calls that may follow a change (`check_guards=True`). Otherwise it calls the
compiled code with the tensors that it was recorded with, replacing only its inputs.

Where private parts of torch's compiler (`_utils/compat.py`) are missing, guards are always evaluated.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from torchfit._utils import compat
from torchfit._utils.console import logger

Function = Callable[[Sequence[Tensor]], list[Tensor]]
Code = Callable[[list[Tensor]], Any]
ReplayFn = Callable[[Sequence[Tensor], list[int]], list[Tensor]]
InputSlots = list[tuple[int, int]]
"""Pairs of (position among the arguments of the compiled code, index among the inputs of the function)."""

_OPTIONS = {
    "fallback_random": True,  # Dropout draws what it would draw without a compiler.
    "size_asserts": False,  # Shapes are those of the recording: a GraphRunner is made for one set of shapes.
}
_CPU_OPTIONS = {**_OPTIONS, "cpp_wrapper": True}  # Kernels are called from C++: half the time of small steps.


def traces_gradients() -> bool:
    """Return whether this torch can trace `torch.autograd.grad` (2.11 and later can)."""
    return hasattr(compat.dynamo_config(), "trace_autograd_ops")


class GraphRunner:
    """One graph of `function`, which takes tensors of fixed shapes and returns a list of tensors.

    Besides its arguments the function may read, and change in place, any tensor it can reach. It is compiled at the
    first call.
    """

    def __init__(self, function: Function) -> None:
        # The compiler caches by code object, and gives up on one with too many versions.
        function.__code__ = function.__code__.replace()
        self._guarded_fn = torch.compile(function, fullgraph=True, dynamic=False, backend=self._backend)
        self._code: InductorCode | None = None
        self._recorded_args: Sequence[Tensor] = ()
        self._outputs: Sequence[Any] = ()
        self._input_slots: InputSlots = []
        self._output_indices: list[int] | None = None
        self._replay: ReplayFn | None = None

    def __call__(self, tensors: Sequence[Tensor], check_guards: bool = True) -> list[Tensor]:
        """Run the graph; with `check_guards`, recompile it first if something that it depends on has changed."""
        if check_guards or self._output_indices is None or self._code is None:
            return self._run_guarded(tensors)
        if self._replay is None:
            self._replay = _make_replay(self._code, self._recorded_args, self._input_slots)
        return self._replay(tensors, self._output_indices)

    def release(self) -> None:
        """Release the recorded tensors; the next call evaluates the guards."""
        self._recorded_args, self._output_indices, self._replay = (), None, None

    def _run_guarded(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        previous_args, previous_code = self._recorded_args, self._code
        with _tracing_gradients():
            results: list[Tensor] = self._guarded_fn(tensors)
        self._output_indices = self._find_outputs(results)
        index_of = {id(tensor): index for index, tensor in enumerate(tensors)}
        recorded = enumerate(self._recorded_args)
        self._input_slots = [(slot, index_of[id(tensor)]) for slot, tensor in recorded if id(tensor) in index_of]
        self._outputs = ()
        inputs = {slot for slot, _ in self._input_slots}
        if self._code is not previous_code or not _same_tensors(previous_args, self._recorded_args, ignore=inputs):
            self._replay = None
        return results

    def _find_outputs(self, results: list[Tensor]) -> list[int] | None:
        """Find the results among the outputs of the compiled code; `None` where Python computed some of them."""
        index_of = {id(tensor): index for index, tensor in enumerate(self._outputs)}
        found = [index_of.get(id(result)) for result in results]
        known = [index for index in found if index is not None]
        return known if self._code is not None and len(known) == len(results) else None

    def _backend(self, module: Any, examples: Any) -> Callable[..., Any]:
        code = _compile_with_inductor(module, examples)
        if code is None:
            return compat.lookup_compiler_backend("inductor")(module, examples)  # type: ignore[no-any-return]

        def run(*arguments: Tensor) -> Any:
            self._code, self._recorded_args = code, arguments
            self._outputs = code.record(arguments)
            return self._outputs

        return run


class InductorCode:
    """Code that inductor compiled, inside wrappers that prepare its arguments and results."""

    def __init__(self, module: Any, examples: Any, options: dict[str, Any]) -> None:
        inductor: Any = compat.inductor()
        self._inner: Code | None = None
        self._observed: tuple[Any, ...] = ()
        inner: Any = self._compile_inner if "cpp_wrapper" in options else inductor.compile_fx_inner
        self._wrapped = cast(Callable[..., Any], inductor.compile_fx(module, examples, inner, config_patches=options))

    def record(self, arguments: Sequence[Tensor]) -> Any:
        """Run through all wrappers and record whether they pass arguments through unchanged."""
        outputs = self._run_wrapped(arguments)
        is_passthrough = [*map(id, self._observed)] == [*map(id, arguments), *map(id, outputs)]
        is_passthrough = is_passthrough and not torch.is_autocast_enabled("cpu")
        self.run: Code = self._inner if self._inner is not None and is_passthrough else self._run_wrapped
        self._observed = ()
        return outputs

    def _run_wrapped(self, arguments: Sequence[Tensor]) -> Any:
        with compat.without_operator_checks():
            return self._wrapped(*arguments)

    def _compile_inner(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        inductor: Any = compat.inductor()
        code: Any = inductor.compile_fx_inner(*arguments, **options)
        self._inner = getattr(code, "current_callable", None)

        def run(inputs: list[Any]) -> Any:
            given = tuple(inputs)
            outputs = code(inputs)
            self._observed = (*given, *outputs)
            return outputs

        return compat.takes_arguments_as_list(run)


def _make_replay(code: InductorCode, arguments: Sequence[Tensor], input_slots: InputSlots) -> ReplayFn:
    """Return what runs the compiled code again: on a CUDA device a CUDA graph, if one can be captured."""
    if arguments and all(tensor.is_cuda for tensor in arguments):
        try:
            return _CudaGraph(code, arguments, input_slots)
        except RuntimeError as error:
            logger.warning("jit_compile: the step is not captured in a CUDA graph: %s", str(error).splitlines()[0])
    return _DirectCall(code, arguments, input_slots)


class _DirectCall:
    """Calls the compiled code."""

    def __init__(self, code: InductorCode, arguments: Sequence[Tensor], input_slots: InputSlots) -> None:
        run = torch.no_grad()(code.run) if torch.is_grad_enabled() else code.run
        self._run, self._arguments, self._input_slots = run, list(arguments), input_slots

    def __call__(self, tensors: Sequence[Tensor], output_indices: list[int]) -> list[Tensor]:
        arguments = self._arguments
        for slot, index in self._input_slots:
            arguments[slot] = tensors[index]
        outputs = self._run(arguments[:])
        return [outputs[index] for index in output_indices]


class _CudaGraph:
    """Launches all kernels of the compiled code at once; inputs are copied to where they were captured."""

    def __init__(self, code: InductorCode, arguments: Sequence[Tensor], input_slots: InputSlots) -> None:
        captured = list(arguments)
        for slot, _ in input_slots:
            captured[slot] = arguments[slot].clone()
        self._inputs = [(captured[slot], index) for slot, index in input_slots]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):  # Capturing runs nothing: the state changes with the first replay.
            self._outputs = code.run(captured)

    def __call__(self, tensors: Sequence[Tensor], output_indices: list[int]) -> list[Tensor]:
        for buffer, index in self._inputs:
            buffer.copy_(tensors[index], non_blocking=True)
        self._graph.replay()
        # The next replay overwrites the outputs of this one.
        return [self._outputs[index].clone() for index in output_indices]


def _same_tensors(a: Sequence[Tensor], b: Sequence[Tensor], ignore: set[int]) -> bool:
    """Return whether two recordings hold the same tensor objects, except at the positions in `ignore`."""
    if len(a) != len(b):
        return False
    return all(first is second for position, (first, second) in enumerate(zip(a, b)) if position not in ignore)


def _compile_with_inductor(module: Any, examples: Sequence[Any]) -> InductorCode | None:
    if compat.inductor() is None:
        return None
    if not all(example.device.type == "cpu" for example in examples if isinstance(example, Tensor)):
        return InductorCode(module, examples, _OPTIONS)
    try:
        return InductorCode(module, examples, _CPU_OPTIONS)
    except Exception as error:  # Not every torch can do everything in C++; a real problem will occur again.
        logger.debug("jit_compile: kernels are called from Python: %s: %s", type(error).__name__, error)
        return InductorCode(module, examples, _OPTIONS)


def _tracing_gradients() -> AbstractContextManager[Any]:
    if not traces_gradients():
        return nullcontext()
    context: AbstractContextManager[Any] = compat.dynamo_config().patch(trace_autograd_ops=True)
    return context
