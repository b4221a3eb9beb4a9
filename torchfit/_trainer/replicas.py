"""Keeps the models of several processes equal: a common start, common decisions, and checks of both."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._data.sharding import BatchPart
from torchfit._distribution.batch_rows import OwnRows
from torchfit._distribution.process_group import ProcessGroup, do_nothing
from torchfit._trainer.base_model import BaseModel
from torchfit._trainer.exchange import Exchange
from torchfit._types import Logs, StepIterator
from torchfit._utils.rng import random_state, restore_random_state
from torchfit._utils.tensors import real
from torchfit.callbacks import CallbackList


def share_model(processes: ProcessGroup, modules: Iterable[nn.Module], device: torch.device) -> None:
    """Copy the weights and the state of the random generators of the primary process to all processes.

    Raises:
        ValueError: If the models differ in anything but the values of their weights.
    """
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    tensors = [tensor for tensor in tensors if not is_lazy(tensor)]
    shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]
    for rank, theirs in enumerate(processes.gather(shapes)):
        if theirs != shapes:
            raise ValueError(
                f"The models of the processes differ: the weights of process {processes.rank} have the shapes "
                f"{shapes}, those of process {rank} {theirs}. Every process must make the same model."
            )
    processes.share_tensors(tensors)
    restore_random_state({**processes.share(lambda: random_state(devices=False)), "cuda": [], "mps": None})
    if device.type == "cuda":
        torch.cuda.set_rng_state(processes.share(lambda: torch.cuda.get_rng_state(device)), device)


def require_equal_replicas(processes: ProcessGroup, module: nn.Module) -> None:
    """Check that parameters are equal in all processes; buffers that differ are set to those of the primary process.

    Raises:
        RuntimeError: If a parameter differs; the message names it.
    """
    named, buffers = dict(module.named_parameters()), list(module.buffers())
    differs = _differ(processes, [*named.values(), *buffers])
    for name, is_other in zip(named, differs):
        if is_other:
            raise RuntimeError(
                f"The parameter {name!r} is not the same in all processes any more. Something changes it that depends "
                "on the process, such as a `train_step` that writes into it without the optimizer, a random number "
                "that was drawn in one process only, or a callback."
            )
    processes.share_tensors([buffer for buffer, is_other in zip(buffers, differs[len(named) :]) if is_other])


def _differ(processes: ProcessGroup, tensors: list[Tensor]) -> list[bool]:
    if not tensors:
        return []
    sums = torch.stack([_checksum(tensor) for tensor in tensors])
    largest, smallest = processes.largest(torch.cat([sums, -sums])).chunk(2)
    return (largest != -smallest).tolist()


def _checksum(tensor: Tensor) -> Tensor:
    value = tensor.detach().cpu()
    value = value.abs() if value.is_complex() else value
    return value.double().sum().nan_to_num(0.0, 0.0, 0.0)


class Controls:
    """What the processes tell each other with every step.

    How many rows they had, whether they are to stop, and whether they compile their steps.

    Attributes:
        is_interrupted: Whether a signal asked some process to end, which all of them know.
        wants_to_compile: Whether this process finds that worthwhile.
        is_compiling: Whether some process does, and so all compile.
        has_no_graph: Whether compiling failed in this process.
        is_eager: Whether it failed in some process, and so all run eagerly.
    """

    count = 4

    def __init__(self) -> None:
        self.is_interrupted = self._was_signalled = False
        self._pending: tuple[Tensor, int] | None = None
        self.forget_graphs()

    def forget_graphs(self) -> None:
        """Agree again on whether steps are compiled."""
        self.wants_to_compile = self.is_compiling = self.has_no_graph = self.is_eager = False

    def numbers(self, rows: int) -> tuple[float, ...]:
        """Return what is to be summed, `count` numbers."""
        flags = self._was_signalled, self.wants_to_compile, self.has_no_graph
        return (float(rows), *map(float, flags))

    def tensor(self, rows: int) -> Tensor:
        """Return that as a tensor."""
        return torch.tensor(self.numbers(rows))

    def finish(self, sums: Tensor, total: int) -> None:
        """Read the sums: immediately on a CPU; elsewhere those of the previous step, to avoid waiting for this one.

        Raises:
            RuntimeError: If the processes had parts of different batches.
        """
        if sums.device.type == "cpu":
            self._read(sums, total)
            return
        previous, self._pending = self._pending, (sums.clone(), total)
        if previous is not None:
            self._read(*previous)

    def _read(self, sums: Tensor, total: int) -> None:
        rows, signalled, compiling, eager = real(sums).tolist()
        if signalled or compiling or eager:
            self.is_interrupted = self.is_interrupted or signalled > 0
            self.is_compiling, self.is_eager = self.is_compiling or compiling > 0, self.is_eager or eager > 0
        if rows != total:
            raise RuntimeError(
                f"The batches of the processes differ: this one has a batch of {total} rows, but the parts that the "
                f"processes took of theirs have {int(rows)} together. Every process must pass the same data."
            )

    @contextmanager
    def signals_handled(self) -> Iterator[None]:
        """Record SIGTERM, which the launcher or the system sends, until all processes know of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_was_signalled", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


class Replica:
    """What the steps of one of several processes have in common.

    Args:
        processes: The processes.

    Attributes:
        exchange: Adds up what the processes have.
        own: Which rows this process has in the batch of the moment, as layers and dropout ask for it.
        controls: What the processes tell each other with every step.
    """

    def __init__(self, processes: ProcessGroup) -> None:
        self.processes, self.exchange = processes, Exchange(processes)
        self.own, self.controls = OwnRows(), Controls()

    def take(self, part: BatchPart) -> None:
        """Take the rows of a batch."""
        self.own.take(part.first, part.rows, part.total)

    @property
    def key(self) -> tuple[int, ...]:
        """What a graph for these rows depends on besides the whole batch: nothing, where they follow from that."""
        own = self.own
        return (own.total,) if self.processes.options.auto_shard_dataset else (own.first, own.rows, own.total)

    @contextmanager
    def rows_of(self, part: BatchPart, is_whole: bool = True, weight: float = 1.0) -> Iterator[None]:
        """Set the rows of this process while the module is called with them."""
        own = self.own
        self.take(part)
        own.weight, own.is_whole = weight, is_whole
        try:
            yield
        finally:
            own.is_whole = False

    @contextmanager
    def counting(self, part: BatchPart) -> Iterator[None]:
        """Let numbers for a batch count in metrics by the share of the rows of this process."""
        self.take(part)
        self.own.counts = True
        try:
            yield
        finally:
            self.own.counts = False


class InterruptedRun(SystemExit):
    """Raised in all processes, at the same step, after one of them received a signal to stop."""


class AgreedFlags:
    """The stop flags of a loop, agreed on by all processes: a flag is set if it is set in any process.

    They are compared at the end of an epoch, and after each step if there are batch hooks.

    Args:
        processes: The processes.
        model: The model, which holds the flags of this process.
        callbacks: The callbacks of the loop.
        controls: The control data that the processes exchange.

    Attributes:
        is_epoch_over: Whether an epoch has just ended.
        hears_test: Whether callbacks run after the steps of an evaluation.
    """

    def __init__(self, processes: ProcessGroup, model: BaseModel, callbacks: CallbackList, controls: Controls) -> None:
        self._processes, self._model, self._callbacks, self._controls = processes, model, callbacks, controls
        self._epoch, self._steps = 0, 0
        self.is_epoch_over = False
        # The primary process has callbacks that the others lack.
        heard = [callbacks.has_listeners(f"on_{mode}_batch_end") for mode in ("train", "test", "predict")]
        self._hears_train, self.hears_test, self._hears_predict = processes.gather(heard)[-1]

    def track(self, epoch: int, steps: StepIterator) -> StepIterator:
        """Yield the steps of an epoch, and record its index."""
        self._epoch = epoch
        for first, last, batch in steps:
            self._steps = last + 1
            yield first, last, batch

    @property
    def stop_training(self) -> bool:
        """Whether training should stop, at the end of an epoch or after a step."""
        if self._controls.is_interrupted:
            self._interrupt()
        if not self.is_epoch_over and not self._hears_train:
            return False
        self.is_epoch_over = False
        self._model.stop_training = self._processes.any(self._model.stop_training)
        return bool(self._model.stop_training)

    @property
    def stop_evaluating(self) -> bool:
        """Whether the evaluation should stop after a step."""
        return self.hears_test and self._processes.any(self._model.stop_evaluating)

    @property
    def stop_predicting(self) -> bool:
        """Whether the prediction should stop after a step."""
        return self._hears_predict and self._processes.any(self._model.stop_predicting)

    def _interrupt(self) -> None:
        """Let callbacks store the state of the run, then end the process as the signal would have done."""
        epoch, steps = (self._epoch + 1, 0) if self.is_epoch_over else (self._epoch, self._steps)
        for callback in self._callbacks.callbacks:
            getattr(callback, "on_interrupt", do_nothing)(epoch, steps)
        raise InterruptedRun(128 + signal.SIGTERM)


class FinishingCallbacks:
    """The hooks of an evaluation, with a function called before its end.

    Args:
        callbacks: The callbacks.
        finish: The function to call before `on_test_end`.
    """

    def __init__(self, callbacks: CallbackList, finish: Callable[[], None]) -> None:
        self.on_test_begin = callbacks.on_test_begin
        self.on_test_batch_begin, self.on_test_batch_end = callbacks.on_test_batch_begin, callbacks.on_test_batch_end
        self._on_test_end, self._finish = callbacks.on_test_end, finish

    def on_test_end(self, logs: Logs) -> None:
        """Called at the end of the evaluation."""
        self._finish()
        self._on_test_end(logs)
