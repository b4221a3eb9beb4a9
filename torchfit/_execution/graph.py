"""A function of tensors as one compiled graph, replayed with as little Python as possible.

`torch.compile` re-evaluates its guards on every call; for a small network that takes longer than the whole step. A
`GraphRunner` evaluates them at the calls that may follow a change (`check_guards=True`), and until two calls in a row
have shown that nothing but its inputs changes from call to call: a function that counts its calls, or that keeps a
tensor for the next one, is always guarded. Otherwise it calls the compiled code with the tensors that it was recorded
with, replacing only its inputs.

Where private parts of torch's compiler (`_utils/compat.py`) are missing, guards are always evaluated.
"""

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

from torchfit._execution.background import Compiler, NotReadyError
from torchfit._utils import compat
from torchfit._utils.console import logger
from torchfit._utils.rng import random_state, restore_random_state

Function = Callable[[Sequence[Tensor]], list[Tensor]]
Code = Callable[[list[Tensor]], Any]
CompiledFn = Callable[..., Any]
Confirm = Callable[[str | None], None]
Values = Sequence[Any]
"""Arguments or results of compiled code: tensors, and numbers where sizes may change."""
ReplayFn = Callable[[Sequence[Tensor], list[int]], list[Tensor]]
InputSlots = list[tuple[int, int]]
"""Pairs of (position among the arguments of the compiled code, index among the inputs of the function)."""

_MAX_RECOMPILATIONS = 3
_CHANGED = re.compile(r"\d+/\d+: (\S+) == ")  # In a message about guards: "- 0/1: model.module.p == 0.1  # …".
_MAY_ATTEND = re.compile("attention|matmul|bmm|einsum")  # In the names of functions.
_OPTIONS = {
    "fallback_random": True,  # Dropout draws what it would draw without a compiler.
    "size_asserts": False,  # Shapes are those of the recording: a GraphRunner is made for one set of shapes.
}
_CPU_OPTIONS = {**_OPTIONS, "cpp_wrapper": True}  # Kernels are called from C++: half the time of small steps.


def traces_gradients() -> bool:
    """Return whether this torch can trace `torch.autograd.grad` (2.11 and later can)."""
    return hasattr(compat.dynamo_config(), "trace_autograd_ops")


class GraphError(Exception):
    """Why a function cannot run as a graph, in one line; whatever a failed run has changed is restored."""


class Recording(NamedTuple):
    """A call of compiled code, and what it returned."""

    code: "InductorCode"
    arguments: Values
    outputs: Values

    def equals(self, other: "Recording", ignore: set[int]) -> bool:
        """Return whether the other has the same code and the same arguments, but for those in the slots `ignore`."""
        if self.code is not other.code:
            return False
        pairs = enumerate(zip(self.arguments, other.arguments))
        return all(first is second for slot, (first, second) in pairs if slot not in ignore)


class Recorder:
    """Compiles, and records the calls of the compiled code.

    The guarded function refers to its recorder, and not to the `GraphRunner`, which would be a reference cycle.

    Args:
        compiler: Compiles graphs.

    Attributes:
        recording: The last call, `None` if there was none, or if it cannot be recorded.
        compilations: How often the function was compiled.
    """

    def __init__(self, compiler: Compiler, confirm: Confirm) -> None:
        self._compiler = compiler
        self.recording: Recording | None = None
        self.compilations = 0
        self._confirm = confirm
        self._started: InductorCode | None = None

    def start(self) -> None:
        """Prepare for a call."""
        self.recording = self._started = None

    @property
    def has_proven_itself(self) -> bool:
        """Whether the code that the last call has started had run before without an error."""
        return self._started is not None and self._started.has_run

    def backend(self, module: GraphModule, examples: Any) -> CompiledFn:
        """Compile; what `torch.compile` takes as its `backend`."""
        code = _compile_with_inductor(module, examples, self._compiler, self._confirm)
        self.compilations += 1
        if code is None:
            compiled: CompiledFn = compat.lookup_compiler_backend("inductor")(module, examples)
            self._confirm(None)  # What fails in its first run is not undone.
            return compiled

        def run(*arguments: Any) -> Any:
            self._started = code
            outputs = code.record(arguments)
            self.recording = Recording(code, arguments, outputs)
            return outputs

        return run


class GraphRunner:
    """One graph of `function`, which takes tensors of fixed shapes and returns a list of tensors.

    Besides its arguments the function may read, and change in place, any tensor it can reach. It is compiled at the
    first call.

    Args:
        function: The function.
        add_compile_time: Called with the seconds of every call that compiled.
        compiler: Compiles graphs.
        confirm: Called when compiled code has run for the first time, or with the reason why there is none. May raise
            `GraphError`, which undoes the run.

    Attributes:
        compiler: As the argument.
    """

    def __init__(
        self,
        function: Function,
        add_compile_time: Callable[[float], None] = lambda seconds: None,
        compiler: Compiler | None = None,
        confirm: Confirm = lambda failure: None,
    ) -> None:
        # The compiler caches by code object, and gives up on one with too many versions.
        function.__code__ = function.__code__.replace()
        self.compiler, self._confirm = compiler or Compiler(), confirm
        self._recorder = Recorder(self.compiler, confirm)
        self._function = function
        self._guarded_fn: CompiledFn | None = None
        self._add_compile_time = add_compile_time
        self._recording: Recording | None = None
        self._input_slots: InputSlots = []
        self._output_indices: list[int] = []
        self.is_steady = False  # Whether the last two guarded calls differ in their inputs alone.
        self._replay: ReplayFn | None = None
        self._is_waiting = False  # Whether the last call has started to compile.

    def __call__(self, tensors: Sequence[Tensor], check_guards: bool = True) -> list[Tensor]:
        """Run the graph; with `check_guards`, recompile it first if something that it depends on has changed.

        Raises:
            GraphError: If it cannot be compiled or recompiled, or fails when it runs for the first time.
            NotReadyError: If it is being compiled.
        """
        if check_guards or not self.is_steady:
            return self._run_guarded(tensors)
        if self._replay is None:
            self._replay = self._make_replay()
        return self._replay(tensors, self._output_indices)

    def release(self) -> None:
        """Release the recorded tensors; the next calls evaluate the guards."""
        self._recording = self._recorder.recording = self._replay = None
        self.is_steady = False

    def _run_guarded(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        recorder = self._recorder
        compilations, started = recorder.compilations, perf_counter()
        recorder.start()
        try:
            with _without_garbage_collection():
                results = self._call_guarded(tensors, may_recompile=compilations <= _MAX_RECOMPILATIONS)
        except NotReadyError:
            self._is_waiting = True
            raise
        except GraphError:
            raise
        except Exception as error:
            if recorder.has_proven_itself:
                raise  # It ran before: what fails now would fail without a graph.
            reason = _reason(error)
            self._confirm(reason)
            raise GraphError(reason) from error
        finally:
            if recorder.compilations > compilations or self._is_waiting:
                self._add_compile_time(perf_counter() - started)
        self._is_waiting = False
        self._compare(recorder.recording, tensors, results)
        return results

    def _call_guarded(self, tensors: Sequence[Tensor], may_recompile: bool) -> list[Tensor]:
        if self._guarded_fn is None:
            _import_compiler()
            backend = self._recorder.backend
            self._guarded_fn = torch.compile(self._function, fullgraph=True, dynamic=False, backend=backend)
        with _compiler_config(may_recompile):
            results: list[Tensor] = self._guarded_fn(tensors)
        return results

    def _compare(self, recording: Recording | None, tensors: Sequence[Tensor], results: list[Tensor]) -> None:
        """Find out what has changed since the call before, and where inputs and results are in the recording."""
        previous, self._recording = self._recording, recording and recording._replace(outputs=())
        if recording is None:
            self.is_steady = False
            return
        input_index = {id(tensor): index for index, tensor in enumerate(tensors)}
        slots = [(slot, input_index.get(id(argument))) for slot, argument in enumerate(recording.arguments)]
        self._input_slots = [(slot, index) for slot, index in slots if index is not None]
        output_index = {id(output): index for index, output in enumerate(recording.outputs)}
        self._output_indices = [output_index.get(id(result), -1) for result in results]
        # What is no result, is kept somewhere by Python: a replay would not do that.
        returns_all = {*self._output_indices} == {*range(len(recording.outputs))}
        is_same = previous is not None and recording.equals(previous, {slot for slot, _ in self._input_slots})
        self.is_steady = is_same and returns_all
        if not is_same:
            self._replay = None

    def _make_replay(self) -> ReplayFn:
        assert self._recording is not None
        return _make_replay(self._recording.code, self._recording.arguments, self._input_slots)


class InductorCode:
    """Code that inductor compiled, inside wrappers that prepare its arguments and results.

    Attributes:
        has_run: Whether it has run without an error.
    """

    def __init__(
        self, module: GraphModule, examples: Any, options: dict[str, Any], compiler: Compiler, confirm: Confirm
    ) -> None:
        inductor: Any = compat.inductor()
        self._compiler, self._confirm = compiler, confirm
        self.has_run = False
        self._inner: Code | None = None
        self._observed: tuple[Any, ...] = ()
        self._changed: list[int] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        self._is_direct = "cpp_wrapper" in options
        with compat.without_gradient_cache(), _needed_patterns(module):
            self._wrapped: CompiledFn = inductor.compile_fx(
                module, examples, self._compile_inner, config_patches=options
            )

    def record(self, arguments: Values) -> Any:
        """Run through all wrappers and record whether they pass arguments through unchanged."""
        outputs = self._run_wrapped(arguments) if self.has_run else self._try(arguments)
        is_passthrough = [*map(id, self._observed)] == [*map(id, arguments), *map(id, outputs)]
        is_passthrough = is_passthrough and not torch.is_autocast_enabled("cpu")
        self.run: Code = self._inner if self._inner is not None and is_passthrough else self._run_wrapped
        self._observed = ()
        return outputs

    def _try(self, arguments: Values) -> Any:
        """Run for the first time; if that fails, restore the tensors and random generators that it has changed."""
        generators = random_state()
        try:
            outputs = self._run_wrapped(arguments)
            self._confirm(None)
        except BaseException:
            restore_random_state(generators)
            with torch.no_grad():
                for tensor, value in self._before:
                    tensor.copy_(value)
            raise
        finally:
            self._before = []
        self.has_run = True
        return outputs

    def _run_wrapped(self, arguments: Values) -> Any:
        with compat.without_operator_checks():
            return self._wrapped(*arguments)

    def _compile_inner(self, module: GraphModule, examples: Any, **options: Any) -> CompiledFn:
        self._changed = _changed_inputs(module)  # Before inductor changes the module.
        find_code = self._compiler.compile(module, examples, options)

        def run(inputs: list[Any]) -> Any:
            code = find_code()
            if not self.has_run:
                self._inner = getattr(code, "current_callable", None) if self._is_direct else None
                self._before = [(inputs[index], inputs[index].to("cpu", copy=True)) for index in self._changed]
            if not self._is_direct:
                return code(inputs)
            given = tuple(inputs)
            outputs = code(inputs)
            self._observed = (*given, *outputs)
            return outputs

        return compat.takes_arguments_as_list(run)


def _needed_patterns(module: GraphModule) -> AbstractContextManager[None]:
    """Return the context to compile a graph in, without patterns of attention if it contains none."""
    nodes = [node for part in module.modules() if isinstance(part, GraphModule) for node in part.graph.nodes]
    may_attend = any(node.op == "call_module" or _MAY_ATTEND.search(str(node.target)) for node in nodes)
    return nullcontext() if may_attend else compat.without_attention_patterns()


def _changed_inputs(module: GraphModule) -> list[int]:
    """Return the positions of the inputs that a graph of functional operators writes back at its end."""
    inputs = {node: index for index, node in enumerate(module.graph.find_nodes(op="placeholder"))}
    written = {node.args[0] for node in module.graph.nodes if "copy_" in str(node.target) and node.args}
    return [index for node, index in inputs.items() if node in written]


def _make_replay(code: InductorCode, arguments: Sequence[Tensor], input_slots: InputSlots) -> ReplayFn:
    """Return what runs the compiled code again: on a CUDA device a CUDA graph, if one can be captured."""
    if arguments and arguments[0].is_cuda and len({tensor.device for tensor in arguments}) == 1:
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
        self._graph, device = torch.cuda.CUDAGraph(), arguments[0].device
        # Only this thread is restricted while it captures: others may pin the memory of batches meanwhile.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        capturing = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.device(device), capturing, torch.no_grad():
            self._outputs = code.run(captured)  # Runs nothing: the state changes with the first replay.

    def __call__(self, tensors: Sequence[Tensor], output_indices: list[int]) -> list[Tensor]:
        for buffer, index in self._inputs:
            buffer.copy_(tensors[index], non_blocking=True)
        self._graph.replay()
        # The next replay overwrites the outputs of this one.
        return [self._outputs[index].clone() for index in output_indices]


def _compile_with_inductor(
    module: GraphModule, examples: Values, compiler: Compiler, confirm: Confirm
) -> InductorCode | None:
    if compat.inductor() is None:
        return None
    if not all(example.device.type == "cpu" for example in examples if isinstance(example, Tensor)):
        return InductorCode(module, examples, _OPTIONS, Compiler(), confirm)
    try:
        return _compile_for_cpu(module, examples, compiler, confirm)
    except compat.tracer_errors().RestartAnalysis:
        raise  # Not a failure: the tracer begins again, with what it has learned.
    except Exception as error:  # Not every torch can do everything in C++; a real problem will occur again.
        logger.debug("jit_compile: kernels are called from Python: %s: %s", type(error).__name__, error)
        return InductorCode(module, examples, _OPTIONS, Compiler(), confirm)


def _compile_for_cpu(module: GraphModule, examples: Values, compiler: Compiler, confirm: Confirm) -> InductorCode:
    """Compile for the vector instructions of the CPU; test which of them the C++ compiler knows if it rejects code."""
    options = {**_CPU_OPTIONS, **compat.without_precompiled_header()}
    trust = compat.without_instruction_probes()
    if not trust:
        return InductorCode(module, examples, options, compiler, confirm)
    compat.trust_instructions()
    try:
        return InductorCode(module, examples, {**options, **trust}, compiler, confirm)
    except Exception as error:
        compat.forget_instructions()
        if not compat.is_compiler_error(error):
            raise
    return InductorCode(module, examples, options, compiler, confirm)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Let Python not look for garbage, which takes a third of the time of a compilation."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@cache
def _import_compiler() -> None:
    """Import the compiler, two thousand modules, and count them as old, so that the next collection passes them by."""
    compat.inductor()
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()


def _compiler_config(may_recompile: bool) -> AbstractContextManager[Any]:
    """Trace gradients, where this torch can, guard the hooks of modules, and refuse to recompile if asked to."""
    if not traces_gradients():
        return nullcontext()
    context: AbstractContextManager[Any] = compat.dynamo_config().patch(
        trace_autograd_ops=True, skip_nnmodule_hook_guards=False, error_on_recompile=not may_recompile
    )
    return context


def _reason(error: Exception) -> str:
    """Return one line on why a function cannot be a graph."""
    if not traces_gradients():
        return f"torch {torch.__version__} cannot put gradients into a graph"
    changed = _CHANGED.search(str(error)) if isinstance(error, compat.tracer_errors().RecompileError) else None
    if changed is not None:
        return f"it was compiled {_MAX_RECOMPILATIONS + 1} times, because `{_public_path(changed[1])}` changes"
    error = getattr(error, "inner_exception", error)  # What a backend raised says more than that it raised.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _public_path(path: str) -> str:
    """Return where a value is, as users know it.

    >>> _public_path("scope.program._model._modules['module']._modules['1'].p")
    'model.module.1.p'
    """
    path = re.sub(r"\._modules\['([^']*)'\]", r".\1", path)
    return re.sub(r"^scope\.(program|indexer)\.", "", path).replace("_state.objective", "objective").lstrip("_")
