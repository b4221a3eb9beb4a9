"""Run whole steps as compiled graphs, falling back to eager execution when that is impossible or not worthwhile."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from torchfit._execution.background import CompileImmediately, Compiler, CompileWhenWorthwhile, NotReadyError
from torchfit._execution.eager import EagerExecution, StepGroups
from torchfit._execution.graph import GraphError, GraphRunner
from torchfit._execution.memory_format import MemoryFormat, choose_memory_format
from torchfit._execution.step_program import GraphKey, StepProgram, Variant, run_each
from torchfit._types import StateDict, StepFn
from torchfit._utils import compat, tree, validation
from torchfit._utils.console import logger
from torchfit._utils.errors import describe
from torchfit._utils.tree import Batch

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
        auto: Whether to compile only once it is worthwhile, and in another process.
        memory_format: In which order weights lie in memory.
    """

    first_step_is_eager = True
    is_shareable = False  # A graph writes its results into memory of its own.

    def __init__(
        self, steps_per_execution: int, log: Log, *, auto: bool = False, memory_format: MemoryFormat | None = None
    ) -> None:
        super().__init__(steps_per_execution, memory_format)
        self._log, self._auto = log, auto
        self._steps: dict[str, CompiledStep] = {}

    def __getstate__(self) -> StateDict:
        """Leave out the graphs, which belong to the tensors of one model: copies compile for themselves."""
        return {**self.__dict__, "_steps": {}}

    def iter_steps(self, batches: Any, epoch: int, start: int = 0) -> StepGroups:
        """Iterate over the steps of an epoch, from batch `start` on, and re-evaluate the guards at the first."""
        for step in self._steps.values():
            step.check_guards()
        return super().iter_steps(batches, epoch, start)

    def bind(self, program: StepProgram, batches: Any) -> StepFn:
        """Return the function that runs the items of `iter_steps`; rows of device tensors are indexed in the graph."""
        step = self._compiled_step(program.mode).bind(program, batches)
        return step.run_steps if self.steps_per_execution > 1 else step.run_step

    def load_compiler(self) -> None:
        """Load what compiles steps."""
        compat.load_tracer()

    def bind_part(self, program: StepProgram) -> StepFn:
        """Return the function that runs a part of a step; its graph is compiled in this process."""
        return self._compiled_step(program.mode, CompileImmediately()).bind_part(program).run_step

    def grouped_step(self, program: StepProgram, step: StepFn) -> StepFn:
        """Return the function that runs several small steps at once: one graph after the other."""
        return partial(run_each, program, step)

    def state_dict(self) -> StateDict:
        """Return which graphs there are, by mode, since graphs round differently."""
        return {**super().state_dict(), "modes": {mode: step.state_dict() for mode, step in self._steps.items()}}

    def load_state_dict(self, state: StateDict) -> None:
        """Compile the same graphs, and no others, once their shapes occur again."""
        super().load_state_dict(state)
        for mode, of_mode in state.get("modes", state).items():  # Earlier versions stored the modes alone.
            self._compiled_step(mode).load_state_dict(of_mode)

    def _compiled_step(self, mode: str, policy: CompileImmediately | None = None) -> "CompiledStep":
        if mode not in self._steps:
            policy = policy or (CompileWhenWorthwhile() if self._auto else CompileImmediately())
            self._steps[mode] = CompiledStep(self._log, policy, self._add_compile_time, self.memory_format)
        return self._steps[mode]

    def _add_compile_time(self, seconds: float, in_background: bool) -> None:
        if in_background:
            self.background_compile_seconds += seconds
        else:
            self.compile_seconds += seconds

    def invalidate(self) -> None:
        """Compile again, because other parameters are trained."""
        for step in self._steps.values():
            step.invalidate()

    def release(self) -> None:
        """Release the data that the graphs were recorded with."""
        for step in self._steps.values():
            step.release()


class StepScope:
    """The step and the data of the loop that is running, which graphs read when their guards are evaluated.

    Graphs outlive loops. Between two loops the scope is empty, so that graphs keep neither a model nor data alive.
    """

    program: Any = None
    indexer: BatchIndexer | None = None


class CompiledStep:
    """The graphs of one kind of step, one for each set of shapes, which are kept from loop to loop.

    Args:
        log: Called with one line where the step cannot be compiled.
        policy: When the first graph is compiled, and where.
        add_compile_time: Called with the seconds that a graph took to compile, and whether in another process.
        memory_format: In which order weights lie in memory, which must be known before a graph is compiled.

    Attributes:
        memory_format: As the argument.
    """

    def __init__(
        self,
        log: Log,
        policy: CompileImmediately,
        add_compile_time: Callable[[float, bool], None],
        memory_format: MemoryFormat,
    ) -> None:
        self._log, self._policy, self._add_compile_time = log, policy, add_compile_time
        self.memory_format = memory_format
        self._graphs: dict[GraphKey, GraphRunner | None] = {}  # `None`: to be compiled again.
        self._pending: dict[GraphKey, GraphRunner] = {}  # Those that another process compiles.
        self._seen: Counter[GraphKey] = Counter()
        self._failure: str | None = None
        self._logged: str | None = None
        self._scope = StepScope()
        self._running: LoopStep | None = None
        self._indexed_samples: int | None = None
        self._checked: set[GraphKey] = set()

    def bind(self, program: StepProgram, batches: Any) -> "LoopStep":
        """Return what runs the steps of a loop.

        Rows of tensors on the device are indexed inside the graphs, for data of one size: other sizes would need graphs
        of their own.
        """
        indexer = None
        if self._indexed_samples in (None, batches.samples):
            indexer = batches.defer_indexing()
            self._indexed_samples = self._indexed_samples if indexer is None else batches.samples
        self._policy.start_loop(program.expected_steps)
        return LoopStep(self, program, self.memory_format.bind(program), indexer)

    def bind_part(self, program: StepProgram) -> "LoopStep":
        """Return what runs a part of the steps of a loop."""
        return LoopStep(self, program, program.run)

    def enter(self, step: "LoopStep") -> bool:
        """Let the graphs read the step and the data of a loop; return whether it was not running."""
        if self._running is step:
            return False
        self._running, self._scope.program, self._scope.indexer = step, step.program, step.indexer
        self._checked.clear()
        return True

    def must_check(self, key: GraphKey) -> bool:
        """Return whether the guards of a graph must be evaluated, once for each graph since `enter` was true."""
        if key in self._checked:
            return False
        self._checked.add(key)
        return True

    def check_guards(self) -> None:
        """Evaluate the guards before the next step."""
        self._running = None

    def find_blocker(self, program: StepProgram) -> str | None:
        """Return why a step runs without a graph, `None` if it has one, and log the reason once."""
        reason = self._failure or program.compile_blocker
        if reason is not None and reason != self._logged:
            self._logged = reason
            self._log(f"jit_compile: the {program.mode} step runs without a graph: {reason}")
        return reason

    def give_up(self, reason: str) -> None:
        """Compile no more, because that failed."""
        self._failure = reason
        self._graphs.clear()
        self._drop_pending()

    def invalidate(self) -> None:
        """Compile the same graphs again."""
        self._graphs = dict.fromkeys(self._graphs)
        self._drop_pending()
        self.check_guards()

    def release(self) -> None:
        """Release data and model."""
        self._drop_pending()
        self._running = self._scope.program = self._scope.indexer = None
        for graph in self._graphs.values():
            if graph is not None:
                graph.release()

    def state_dict(self) -> StateDict:
        """Return the shapes that have a graph, how often others were seen, and why nothing is compiled."""
        return {
            "graphs": [_plain_key(key) for key in self._graphs],
            "seen": [(_plain_key(key), count) for key, count in self._seen.items()],
            "failure": self._failure,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore that."""
        self._graphs = {key: self._graphs.get(key) for key in state["graphs"]}
        self._drop_pending()
        self._seen = Counter(dict(state["seen"]))
        self._failure = state.get("failure")

    def find_graph(self, key: GraphKey, step: "LoopStep", inputs: Any) -> GraphRunner | None:
        """Return the graph for steps with these shapes, a new one if that is worthwhile, or `None`."""
        graph = self._graphs.get(key) or self._take_over(key)
        if graph is None and key not in self._pending and self._is_worthwhile(key, step.program):
            function = _make_function(self._scope, step, inputs, variants=key[0])
            # A resumed run had this graph at this step.
            compiler = Compiler() if key in self._graphs else self._policy.make_compiler()
            self._graphs[key] = graph = GraphRunner(function, self._record_compile_time, compiler, self._confirm)
        return graph

    def postpone(self, key: GraphKey) -> None:
        """Run steps eagerly until another process has compiled their graph."""
        self._pending[key] = cast(GraphRunner, self._graphs.pop(key))

    def _take_over(self, key: GraphKey) -> GraphRunner | None:
        """Return the graph that another process has compiled for these shapes, if there is one."""
        pending = self._pending.get(key)
        if pending is None or not pending.compiler.is_ready:
            return None
        # Compile here what the other process could not.
        graph = self._graphs[key] = None if pending.compiler.has_failed else pending
        self._end(self._pending.pop(key))
        return graph

    def _drop_pending(self) -> None:
        while self._pending:
            self._end(self._pending.popitem()[1])

    def _end(self, pending: GraphRunner) -> None:
        self._record_compile_time(pending.compiler.end(), in_background=True)

    def _is_worthwhile(self, key: GraphKey, program: StepProgram) -> bool:
        """Return whether to compile a graph for these shapes."""
        if self.memory_format.is_trying:
            return False
        graphs = [*self._graphs, *self._pending]
        if not any(_kind(key) == _kind(known) for known in graphs):
            return program.may_compile(self._policy.should_compile)
        if any(key[1:] == known[1:] for known in graphs):
            return True  # Same shapes, different variant (e.g. the last accumulation step): it will recur.
        self._seen[key] += 1
        return self._seen[key] > _MIN_STEPS_PER_SHAPE and len(graphs) < _MAX_GRAPHS

    def _confirm(self, failure: str | None) -> None:
        self._scope.program.confirm_graph(failure)

    def _record_compile_time(self, seconds: float, in_background: bool = False) -> None:
        self._policy.record_compile_time(seconds)
        self._add_compile_time(seconds, in_background)


class LoopStep:
    """Runs the steps of one loop. The first runs eagerly, since it resolves what depends on the data.

    Args:
        compiled: The graphs.
        program: The step.
        run_eagerly: Runs the step with a batch, without a graph.
        indexer: Makes a batch of row indices, if that is what the items of the loop are.

    Attributes:
        program: The step.
        indexer: As the argument.
    """

    program: StepProgram

    def __init__(
        self, compiled: CompiledStep, program: StepProgram, run_eagerly: StepFn, indexer: BatchIndexer | None = None
    ) -> None:
        self._compiled, self.indexer = compiled, indexer
        self._numbers: list[tuple[float, ...]] = []
        self._scalar_tensor = torch.empty(0)
        self._start(program, run_eagerly)

    def _start(self, program: StepProgram, run_eagerly: StepFn) -> None:
        self.program, self._run_batch = program, run_eagerly
        self._result_template = program.result_template
        self._blocker = self._compiled.find_blocker(program)

    def run_step(self, inputs: Any) -> Any:
        """Run one step."""
        return self._run([inputs])

    def run_steps(self, inputs: Sequence[Any]) -> Any:
        """Run the steps of a group, in graphs of a few each."""
        size = math.ceil(len(inputs) / math.ceil(len(inputs) / self.program.max_unrolled_steps))
        groups = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        return self._run(groups[0]) if len(groups) == 1 else run_each(self.program, self._run, groups)

    def _run(self, inputs: Sequence[Any]) -> Any:
        compiled, is_watched = self._compiled, self.program.keeps_step_logs
        if (compiled.enter(self) or is_watched) and not self.program.is_current:
            program = self.program.renewed()
            self._start(program, compiled.memory_format.bind(program))
            compiled.invalidate()
            compiled.enter(self)
        if self._blocker is not None or self._result_template is None:
            return self._run_eagerly(inputs)
        program = self.program
        counters = program.get_counters()
        try:
            outputs = self._replay(inputs)
        except (GraphError, NotReadyError) as error:
            program.set_counters(counters)
            if isinstance(error, GraphError):
                compiled.give_up(str(error))
                self._blocker = compiled.find_blocker(program)
            outputs = None
        if outputs is None:
            return self._run_eagerly(inputs)
        if program.needs_batch:
            program.make_batch = partial(self._make_batch, inputs[0])
        return program.unpack_result(self._result_template, outputs)

    def _replay(self, inputs: Sequence[Any]) -> list[Tensor] | None:
        """Run the steps as a graph, and return its outputs; `None` if there is no graph for them."""
        compiled, program = self._compiled, self.program
        tensors = inputs if isinstance(inputs[0], Tensor) else [leaf for batch in inputs for leaf in tree.leaves(batch)]
        key = program.graph_key(inputs, tensors)
        graph = None if key is None else compiled.find_graph(key, self, inputs[0])
        if key is None or graph is None:
            return None
        check_guards = compiled.must_check(key) or program.keeps_step_logs
        arguments = [*tensors, *self._scalars(tensors, len(inputs))]
        program.await_inputs()
        try:
            return graph(arguments, check_guards)
        except NotReadyError:
            compiled.postpone(key)
            raise

    def _scalars(self, tensors: Sequence[Tensor], steps: int) -> Sequence[Tensor]:
        """Return the scalars of all steps as one tensor (steps, scalars), if there are any."""
        if not self.program.has_step_scalars:
            return ()
        rows = [tensor.shape[0] for tensor in tensors[:: len(tensors) // steps]]
        numbers = [self.program.step_scalars(count) for count in rows]
        if numbers != self._numbers:
            self._numbers, self._scalar_tensor = numbers, torch.tensor(numbers).to(tensors[0].device, non_blocking=True)
        return (self._scalar_tensor,)

    def _run_eagerly(self, inputs: Sequence[Any]) -> Any:
        batches = [*map(self._make_batch, inputs)]
        if len(batches) == 1:
            self._result_template = self._run_batch(batches[0])
        else:
            self._result_template = run_each(self.program, self._run_batch, batches)
        return self._result_template

    def _make_batch(self, item: Any) -> Any:
        """Return the batch that an item of the loop is, or that it has the row indices of."""
        return item if self.indexer is None else self.indexer(item)


def _make_function(
    scope: StepScope, step: LoopStep, example: Any, variants: tuple[Variant, ...]
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return the function of tensors that runs steps with inputs like `example`; their scalars come last."""
    is_indexed, has_scalars = step.indexer is not None, step.program.has_step_scalars
    width = 1 if is_indexed else len(tree.leaves(example))
    unflatten = tree.unflattener(() if is_indexed else tree.map(_no_leaf, tuple(example)))

    def function(tensors: Sequence[Tensor]) -> list[Tensor]:
        outputs = []
        for number, variant in enumerate(variants):
            own = tensors[number * width : (number + 1) * width]
            batch = scope.indexer(own[0]) if scope.indexer is not None else Batch(*unflatten(own))
            scalars = tensors[-1][number].unbind() if has_scalars else ()
            outputs += scope.program.traceable(batch, *scalars, *variant)
        return outputs

    return function


def _no_leaf(leaf: object) -> int:
    """Return what holds the place of a leaf, so that the structure does not keep a batch alive."""
    return 0


def _kind(key: GraphKey) -> list[int]:
    """Return the numbers of axes of the inputs of one step: batches, or rows of data that the graph indexes."""
    variants, *shapes = key
    return [len(shape) for shape in shapes[: len(shapes) // len(variants)]]


def _plain_key(key: GraphKey) -> GraphKey:
    return (key[0], *map(tuple, key[1:]))


def choose_execution(
    run_eagerly: Any, jit_compile: Any, steps_per_execution: Any, memory_format: str | None = None
) -> EagerExecution:
    """Return the execution that `compile` asked for.

    Raises:
        ValueError: If an argument is not one of its values, or the two contradict each other.
    """
    is_auto = isinstance(jit_compile, str) and jit_compile == "auto"
    if not (jit_compile is None or is_auto or validation.is_bool(jit_compile)):
        raise ValueError(f"`jit_compile` must be True, False, 'auto' or None, but it is {describe(jit_compile)}.")
    if validation.optional_boolean("run_eagerly", run_eagerly) and jit_compile:
        raise ValueError(f"`run_eagerly=True` and `jit_compile={jit_compile!r}` exclude each other: choose one.")
    steps = 1 if steps_per_execution is None else steps_per_execution
    if not validation.is_integer(steps) or steps < 1:
        raise ValueError(f"`steps_per_execution` must be a positive integer, but it is {describe(steps)}.")
    steps = validation.integer("steps_per_execution", steps)
    chosen_format = choose_memory_format(memory_format)
    if not jit_compile:
        return EagerExecution(steps, chosen_format)
    return CompiledExecution(steps, logger.warning, auto=is_auto, memory_format=chosen_format)
