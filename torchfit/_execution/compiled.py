"""Run whole steps as compiled graphs, falling back to eager execution when that is impossible or not worthwhile."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from torchfit._execution.compile_policy import CompileImmediately, CompileWhenWorthwhile
from torchfit._execution.eager import EagerExecution, StepGroups
from torchfit._execution.graph import GraphRunner, traces_gradients
from torchfit._execution.step_program import StepProgram, run_each
from torchfit._types import StateDict, StepFn
from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.console import logger
from torchfit._utils.errors import describe

_MAX_UNROLLED_STEPS = 4  # Steps in one graph: more would save little and take long to compile.
_MAX_GRAPHS = 4
_MIN_STEPS_PER_SHAPE = 200  # Another shape gets a graph of its own after this many steps.

Log = Callable[[str], None]
BatchIndexer = Callable[[Tensor], Batch]


class CompiledExecution(EagerExecution):
    """Runs every step as one graph: forward, losses, gradients, update and metrics.

    The first step of a loop runs eagerly, since it resolves what depends on the data; so do steps whose shapes are
    rare, such as the last batch of an epoch.

    Args:
        steps_per_execution: How many steps run in one call.
        log: Called with one line where a step cannot be compiled.
        auto: Whether to compile only once it is worthwhile.
    """

    first_step_is_eager = True
    is_shareable = False  # A graph writes its results into memory of its own.

    def __init__(self, steps_per_execution: int, log: Log, *, auto: bool = False) -> None:
        super().__init__(steps_per_execution)
        self._log, self._auto = log, auto
        self._steps: dict[str, CompiledStep] = {}

    def __getstate__(self) -> StateDict:
        """Leave out the graphs, which belong to the tensors of one model: copies compile for themselves."""
        return {**self.__dict__, "_steps": {}}

    def iter_steps(self, batches: Any, epoch: int, start: int = 0) -> StepGroups:
        """Iterate over the steps of an epoch, from batch `start` on, and re-evaluate the guards at the first."""
        for step in self._steps.values():
            step.check_guards = True
        return super().iter_steps(batches, epoch, start)

    def bind(self, program: StepProgram, batches: Any) -> StepFn:
        """Return the function that runs the items of `iter_steps`; rows of device tensors are indexed in the graph."""
        step = self._compiled_step(program.mode)
        step.bind(program, batches.defer_indexing())
        return step.run_steps if self.steps_per_execution > 1 else step.run_step

    def grouped_step(self, program: StepProgram, step: StepFn) -> StepFn:
        """Return the function that runs several small steps at once: one graph after the other."""
        return partial(run_each, program, step)

    def state_dict(self) -> StateDict:
        """Return which graphs there are, by mode, since graphs round differently."""
        return {mode: step.state_dict() for mode, step in self._steps.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compile the same graphs, and no others, once their shapes occur again."""
        for mode, of_mode in state.items():
            self._compiled_step(mode).load_state_dict(of_mode)

    def _compiled_step(self, mode: str) -> "CompiledStep":
        if mode not in self._steps:
            policy = CompileWhenWorthwhile() if self._auto else CompileImmediately()
            self._steps[mode] = CompiledStep(self._log, policy, self._add_compile_time)
        return self._steps[mode]

    def _add_compile_time(self, seconds: float) -> None:
        self.compile_seconds += seconds

    def invalidate(self) -> None:
        """Compile again, because other parameters are trained."""
        for step in self._steps.values():
            step.invalidate()

    def release(self) -> None:
        """Release the data that the graphs were recorded with."""
        for step in self._steps.values():
            step.release()


class CompiledStep:
    """Runs one kind of step as graphs, one for each set of shapes, which are kept from loop to loop.

    Args:
        log: Called with one line where the step cannot be compiled.
        policy: When the first graph is compiled.
        add_compile_time: Called with the seconds that a graph took to compile.
    """

    check_guards = True
    _program: StepProgram
    _indexer: BatchIndexer | None

    def __init__(self, log: Log, policy: CompileImmediately, add_compile_time: Callable[[float], None]) -> None:
        self._log, self._policy, self._add_compile_time = log, policy, add_compile_time
        self._graphs: dict[Any, GraphRunner | None] = {}  # `None`: to be compiled again in a resumed run.
        self._seen: Counter[Any] = Counter()
        self._is_disabled = False
        self._result_template: Any = None

    def bind(self, program: StepProgram, indexer: BatchIndexer | None) -> None:
        """Prepare for a loop."""
        self._program, self._indexer = program, indexer
        self._result_template = None
        self.check_guards = True
        self._policy.start_loop(program.expected_steps)
        if not self._is_disabled:
            self._disable(program.compile_blocker)

    def invalidate(self) -> None:
        """Compile the same graphs again."""
        self._graphs = dict.fromkeys(self._graphs)
        self._result_template = None

    def release(self) -> None:
        """Release data and model."""
        self._result_template = None
        for graph in self._graphs.values():
            if graph is not None:
                graph.release()

    def state_dict(self) -> StateDict:
        """Return the shapes that have a graph, and how often others were seen."""
        return {
            "graphs": [_plain_key(key) for key in self._graphs],
            "seen": [(_plain_key(key), count) for key, count in self._seen.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore that."""
        self._graphs = {key: self._graphs.get(key) for key in state["graphs"]}
        self._seen = Counter(dict(state["seen"]))

    def run_step(self, inputs: Any) -> Any:
        """Run one step."""
        return self._run([inputs])

    def run_steps(self, inputs: Sequence[Any]) -> Any:
        """Run the steps of a group, in graphs of a few each."""
        size = math.ceil(len(inputs) / math.ceil(len(inputs) / _MAX_UNROLLED_STEPS))
        groups = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        return self._run(groups[0]) if len(groups) == 1 else run_each(self._program, self._run, groups)

    def _run(self, inputs: Sequence[Any]) -> Any:
        tensors = inputs if self._indexer is not None else [leaf for batch in inputs for leaf in tree.leaves(batch)]
        key = (self._program.variants(len(inputs)), *[tensor.shape for tensor in tensors])
        graph = self._graphs.get(key)
        if graph is None or self._result_template is None:
            return self._run_without_graph(inputs, tensors, key)
        return self._replay(graph, tensors, len(inputs))

    def _replay(self, graph: GraphRunner, tensors: Sequence[Tensor], steps: int) -> Any:
        outputs = graph([*tensors, *self._scalars(tensors, steps)], check_guards=self.check_guards)
        self.check_guards = self._program.keeps_step_logs
        return self._program.unpack_result(self._result_template, outputs)

    def _scalars(self, tensors: Sequence[Tensor], steps: int) -> Sequence[Tensor]:
        """Return the scalars of all steps as one tensor (steps, scalars), if there are any."""
        if not self._program.has_step_scalars:
            return ()
        rows = [tensor.shape[0] for tensor in tensors[:: len(tensors) // steps]]
        scalars = torch.tensor([self._program.step_scalars(count) for count in rows])
        return (scalars.to(tensors[0].device, non_blocking=True),)

    def _run_without_graph(self, inputs: Sequence[Any], tensors: Sequence[Tensor], key: Any) -> Any:
        """Run eagerly, unless it is time to compile a graph for these shapes."""
        if not self._is_disabled and self._result_template is not None and self._is_worthwhile(key):
            return self._compile_and_run(inputs, tensors, key)
        batches = [self._batch(source) for source in inputs]
        if len(batches) == 1:
            self._result_template = self._program.run(batches[0])
        else:
            self._result_template = run_each(self._program, self._program.run, batches)
        return self._result_template

    def _is_worthwhile(self, key: Any) -> bool:
        """Return whether to compile a graph for these shapes."""
        if not self._graphs:
            return self._policy.should_compile()
        if any(key[1:] == known[1:] for known in self._graphs):
            return True  # Same shapes, different variant (e.g. the last accumulation step): it will recur.
        self._seen[key] += 1
        return self._seen[key] > _MIN_STEPS_PER_SHAPE and len(self._graphs) < _MAX_GRAPHS

    def _compile_and_run(self, inputs: Sequence[Any], tensors: Sequence[Tensor], key: Any) -> Any:
        self._graphs[key] = graph = GraphRunner(self._build_function(inputs))
        self.check_guards = True
        started, counters = perf_counter(), self._program.get_counters()
        try:
            result = self._replay(graph, tensors, len(inputs))
            self._policy.record_compile_time(perf_counter() - started)
            return result
        except Exception as error:
            del self._graphs[key]
            self._program.set_counters(counters)
            self._disable(_reason(error))
            return self._run_without_graph(inputs, tensors, key)
        finally:
            self._add_compile_time(perf_counter() - started)

    def _disable(self, reason: str | None) -> None:
        if reason is not None:
            self._is_disabled = True
            self._log(f"jit_compile: the {self._program.mode} step runs without a graph: {reason}")
            self._program.on_fallback()

    def _build_function(self, inputs: Sequence[Any]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """Return the function of tensors that runs these steps: their inputs come first, the scalars last."""
        traceable, unpack, width = self._program.traceable, *self._unpacking(inputs[0])
        variants, has_scalars = self._program.variants(len(inputs)), self._program.has_step_scalars

        def function(tensors: Sequence[Tensor]) -> list[Tensor]:
            outputs = []
            for step, variant in enumerate(variants):
                batch = unpack(tensors[step * width : (step + 1) * width])
                scalars = tensors[-1][step].unbind() if has_scalars else ()
                outputs += traceable(batch, *scalars, *variant)
            return outputs

        return function

    def _unpacking(self, inputs: Any) -> tuple[Callable[[Sequence[Tensor]], Batch], int]:
        """Return how a batch is made from tensors inside the graph, and from how many."""
        indexer = self._indexer
        if indexer is not None:
            return lambda tensors: indexer(tensors[0]), 1
        unflatten = tree.unflattener(tuple(inputs))
        return lambda tensors: Batch(*unflatten(tensors)), len(tree.leaves(inputs))

    def _batch(self, inputs: Any) -> Batch:
        return inputs if self._indexer is None else self._indexer(inputs)


def _plain_key(key: Any) -> Any:
    return (key[0], *map(tuple, key[1:]))


def _reason(error: Exception) -> str:
    """Return one line on why a step could not be compiled."""
    if not traces_gradients():
        return f"torch {torch.__version__} cannot put gradients into a graph"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def choose_execution(run_eagerly: Any, jit_compile: Any, steps_per_execution: Any) -> EagerExecution:
    """Return the execution that `compile` asked for.

    Raises:
        ValueError: If an argument is not one of its values, or the two contradict each other.
    """
    if jit_compile not in (None, True, False, "auto"):
        raise ValueError(f"`jit_compile` must be True, False, 'auto' or None, but it is {describe(jit_compile)}.")
    if run_eagerly and jit_compile:
        raise ValueError(f"`run_eagerly=True` and `jit_compile={jit_compile!r}` exclude each other: choose one.")
    steps = 1 if steps_per_execution is None else steps_per_execution
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`steps_per_execution` must be a positive integer, but it is {describe(steps)}.")
    if not jit_compile:
        return EagerExecution(steps)
    return CompiledExecution(steps, logger.warning, auto=jit_compile == "auto")
