"""Whole steps as compiled graphs, with ordinary Python for whatever does not fit or does not pay."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from torchfit._execution.execution import Eager, Work, several
from torchfit._execution.graph import Graph, traces_gradients
from torchfit._execution.step_program import Pieces, Step
from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.console import logger
from torchfit._utils.errors import describe

_MOST_STEPS = 4  # A graph holds so many steps at the most: more would save little and take long to compile.
_MOST_GRAPHS = 4
_PAYS_AFTER = 200  # So many steps of another shape are worth one more graph.
_TRIAL = 30  # So many steps are timed before "auto" decides.
_COMPILATION = 30.0  # Seconds that the first graph is expected to take; the next ones take what the last one took.
_GAIN = 0.4  # The share of a step's time that a graph is expected to save.

Tell = Callable[[str], None]
Gather = Callable[[Tensor], Batch]


class Compiled(Eager):
    """Every step is one graph: forward, losses, gradients, update and metrics.

    The first step of a loop runs as ordinary Python, since it settles what depends on the data; so do steps whose
    shapes are rare, such as the last batch of an epoch. With `patient`, graphs are made only once it pays.
    """

    def __init__(self, steps_per_execution: int, tell: Tell, *, patient: bool = False) -> None:
        """Make so many steps in one call; `tell` is called with one line where a graph cannot be made."""
        super().__init__(steps_per_execution)
        self._tell, self._patient = tell, patient
        self._runners: dict[str, Runner] = {}

    def work(self, batches: Any, epoch: int, start: int = 0) -> Work:
        """Give (index of the first batch, of the last, what one call takes) for an epoch from batch `start` on."""
        for runner in self._runners.values():
            runner.must_check = True
        return super().work(batches, epoch, start)

    def wrap(self, pieces: Pieces, batches: Any) -> Step:
        """Return what is called with one piece of work; rows of tensors on the device are gathered inside the graph."""
        runner = self._runner(pieces.kind)
        runner.bind(pieces, batches.defer_indexing())
        return runner.several if self.steps > 1 else runner.single

    def together(self, pieces: Pieces, step: Step) -> Step:
        """Return what does several small steps at once: one graph after the other."""
        return several(step, pieces.join)

    def state_dict(self) -> dict[str, Any]:
        """Return which graphs there are, by kind of step, since graphs round differently."""
        return {kind: runner.state_dict() for kind, runner in self._runners.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the graphs that there were then, and no others, once their shapes come again."""
        for kind, of_kind in state.items():
            self._runner(kind).load_state_dict(of_kind)

    def _runner(self, kind: str) -> "Runner":
        if kind not in self._runners:
            self._runners[kind] = Runner(self._tell, Patience() if self._patient else Eagerness(), self._spend)
        return self._runners[kind]

    def _spend(self, seconds: float) -> None:
        self.compiling_seconds += seconds

    @property
    def first_step_differs(self) -> bool:
        """Graphs round differently, and the first step has none yet."""
        return True

    def release(self) -> None:
        """Let go of the data that the graphs were recorded with."""
        for runner in self._runners.values():
            runner.release()


class Eagerness:
    """Makes the first graph at once."""

    def begin(self, planned: int | None) -> None:
        """Hear how many steps a loop will have."""

    def is_due(self) -> bool:
        """Tell whether the first graph is to be made before the next step."""
        return True

    def made(self, seconds: float) -> None:
        """Hear how long a graph took to make."""


class Patience(Eagerness):
    """Makes the first graph once the time that it will save exceeds the time that it takes, twice over."""

    compilation = _COMPILATION

    def begin(self, planned: int | None) -> None:
        """Start to count and to time the steps of a loop; of unknown length, as many are expected as were seen."""
        self._planned, self._steps, self._started = planned, 0, 0.0

    def is_due(self) -> bool:
        """Count a step, and weigh the steps to come against a compilation."""
        if self._steps == 0:
            self._started = perf_counter()
        self._steps += 1
        if self._steps <= _TRIAL:
            return False
        seconds = (perf_counter() - self._started) / (self._steps - 1)
        to_come = self._steps if self._planned is None else self._planned - self._steps
        return to_come * seconds * _GAIN > 2 * Patience.compilation

    def made(self, seconds: float) -> None:
        """Learn how long compilations take here."""
        Patience.compilation = seconds


class Runner:
    """Runs one kind of step, in graphs by the shapes of what comes, and remembers them from loop to loop."""

    must_check = True
    _pieces: Pieces
    _gather: Gather | None

    def __init__(self, tell: Tell, policy: Eagerness, spend: Callable[[float], None]) -> None:
        """Begin without graphs; `spend` is told the seconds that one took to make."""
        self._tell, self._policy, self._spend = tell, policy, spend
        self._graphs: dict[Any, Graph | None] = {}  # `None` until a graph of a training that goes on is made again.
        self._seen: Counter[Any] = Counter()
        self._is_off = False
        self._template: Any = None

    def bind(self, pieces: Pieces, gather: Gather | None) -> None:
        """Prepare for a loop."""
        self._pieces, self._gather = pieces, gather
        self._template = None
        self.must_check = True
        self._policy.begin(pieces.planned)
        if not self._is_off:
            self._give_up_on(pieces.obstacle)

    def release(self) -> None:
        """Let go of data and model."""
        self._template = None
        for graph in self._graphs.values():
            if graph is not None:
                graph.release()

    def state_dict(self) -> dict[str, Any]:
        """Return the shapes that have a graph, and how often others were seen."""
        return {
            "graphs": [_plain(key) for key in self._graphs],
            "seen": [(_plain(key), count) for key, count in self._seen.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from there."""
        self._graphs = {key: self._graphs.get(key) for key in state["graphs"]}
        self._seen = Counter(dict(state["seen"]))

    def single(self, source: Any) -> Any:
        """Make one step."""
        return self._run([source])

    def several(self, sources: Sequence[Any]) -> Any:
        """Make the steps of a group, in graphs of a few each."""
        size = math.ceil(len(sources) / math.ceil(len(sources) / _MOST_STEPS))
        results = [self._run(sources[start : start + size]) for start in range(0, len(sources), size)]
        return results[0] if len(results) == 1 else self._pieces.join(results)

    def _run(self, sources: Sequence[Any]) -> Any:
        tensors = sources if self._gather is not None else [leaf for batch in sources for leaf in tree.leaves(batch)]
        key = (self._pieces.kinds(len(sources)), *[tensor.shape for tensor in tensors])
        graph = self._graphs.get(key)
        if graph is None or self._template is None:
            return self._without_graph(sources, tensors, key)
        return self._replay(graph, tensors, len(sources))

    def _replay(self, graph: Graph, tensors: Sequence[Tensor], steps: int) -> Any:
        produced = graph([*tensors, *self._numbers(tensors, steps)], check=self.must_check)
        self.must_check = self._pieces.watched
        return self._pieces.finish(self._template, produced)

    def _numbers(self, tensors: Sequence[Tensor], steps: int) -> Sequence[Tensor]:
        """Return the numbers of all steps as one tensor (steps, numbers), if there are any."""
        count = self._pieces.numbers
        if count is None:
            return ()
        numbers = torch.tensor([count(tensor.shape[0]) for tensor in tensors[:: len(tensors) // steps]])
        return (numbers.to(tensors[0].device, non_blocking=True),)

    def _without_graph(self, sources: Sequence[Any], tensors: Sequence[Tensor], key: Any) -> Any:
        """Run as ordinary Python, unless it is time to make a graph for these shapes."""
        if not self._is_off and self._template is not None and self._pays(key):
            return self._with_new_graph(sources, tensors, key)
        batches = [self._batch(source) for source in sources]
        if len(batches) == 1:
            self._template = self._pieces.step(batches[0])
        else:
            self._template = several(self._pieces.step, self._pieces.join)(batches)
        return self._template

    def _pays(self, key: Any) -> bool:
        """Tell whether a graph for these shapes is worth its compilation."""
        if not self._graphs:
            return self._policy.is_due()
        if any(key[1:] == known[1:] for known in self._graphs):
            return True  # Only what a step has to do is another: as often as not, it is the next one in turn.
        self._seen[key] += 1
        return self._seen[key] > _PAYS_AFTER and len(self._graphs) < _MOST_GRAPHS

    def _with_new_graph(self, sources: Sequence[Any], tensors: Sequence[Tensor], key: Any) -> Any:
        self._graphs[key] = graph = Graph(self._function(sources))
        self.must_check = True
        started, counts = perf_counter(), self._pieces.counts()
        try:
            result = self._replay(graph, tensors, len(sources))
            self._policy.made(perf_counter() - started)
            return result
        except Exception as error:
            del self._graphs[key]
            self._pieces.recount(counts)
            self._give_up_on(_reason(error))
            return self._without_graph(sources, tensors, key)
        finally:
            self._spend(perf_counter() - started)

    def _give_up_on(self, reason: str | None) -> None:
        if reason is not None:
            self._is_off = True
            self._tell(f"jit_compile: the {self._pieces.kind} step runs without a graph: {reason}")
            self._pieces.instead()

    def _function(self, sources: Sequence[Any]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """Return the function of tensors that makes these steps: what varies comes first, the numbers last."""
        graph, unpack, width = self._pieces.graph, *self._unpacking(sources[0])
        kinds, counts = self._pieces.kinds(len(sources)), self._pieces.numbers is not None

        def function(tensors: Sequence[Tensor]) -> list[Tensor]:
            produced = []
            for step, kind in enumerate(kinds):
                batch = unpack(tensors[step * width : (step + 1) * width])
                numbers = tensors[-1][step].unbind() if counts else ()
                produced += graph(batch, *numbers, *kind)
            return produced

        return function

    def _unpacking(self, source: Any) -> tuple[Callable[[Sequence[Tensor]], Batch], int]:
        """Return how a batch is made from tensors inside the graph, and from how many."""
        gather = self._gather
        if gather is not None:
            return lambda tensors: gather(tensors[0]), 1
        pack = tree.unflattener(tuple(source))
        return lambda tensors: Batch(*pack(tensors)), len(tree.leaves(source))

    def _batch(self, source: Any) -> Batch:
        return source if self._gather is None else self._gather(source)


def _plain(key: Any) -> Any:
    return (key[0], *map(tuple, key[1:]))


def _reason(error: Exception) -> str:
    """Say in one line why a graph could not be made."""
    if not traces_gradients():
        return f"torch {torch.__version__} cannot put gradients into a graph"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def choose_execution(run_eagerly: Any, jit_compile: Any, steps_per_execution: Any) -> Eager:
    """Return the way of execution that `compile` asked for.

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
    return Compiled(steps, logger.warning, patient=jit_compile == "auto") if jit_compile else Eager(steps)
