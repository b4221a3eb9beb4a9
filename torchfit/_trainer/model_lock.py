"""What surrounds a loop: `ModelLock`, which controls which threads may use a model, and `LoopContexts`."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch

from torchfit._execution.eager import EagerExecution
from torchfit._trainer.base_model import BaseModel, ModelStructure, overridden_method
from torchfit._trainer.hints import ErrorTranslator
from torchfit._trainer.step_state import StepState
from torchfit._utils.collector import suspended
from torchfit._utils.modules import training_mode
from torchfit.callbacks import CallbackList
from torchfit.metrics.base import Metric, preserve_state


class Owner(NamedTuple):
    """The thread that changes the metrics or weights of a model, and how.

    Attributes:
        thread: The identifier of the thread, or `None` if there is no owner.
        method: The method of the model that it called.
        is_loop: Whether it may take long. Other threads then get an error; otherwise they wait.
        is_alone: Whether no other thread may predict meanwhile, because weights or modes change.
    """

    thread: int | None = None
    method: str = ""
    is_loop: bool = False
    is_alone: bool = False

    def inside(self, outer: "Owner") -> "Owner":
        """Return the owner for a nested call in the same thread."""
        return Owner(self.thread, outer.method, outer.is_loop or self.is_loop, outer.is_alone or self.is_alone)


class ModelLock:
    """Lets one thread at a time train or evaluate a model, and any number of them predict.

    Predictions run concurrently, also with an evaluation. A call that conflicts with a single batch in another thread
    waits for it; a call that conflicts with a loop over data raises an error. `fit` waits for running predictions.
    Nested calls in the same thread are always allowed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._owner = Owner()
        self._users: dict[int, int] = {}  # The number of calls in progress, by thread.
        self._waiting = 0

    def __reduce__(self) -> tuple[type["ModelLock"], tuple[()]]:
        """Return an unlocked lock for copies."""
        return ModelLock, ()

    @contextmanager
    def shared(self, method: str) -> Iterator[None]:
        """Hold the lock for a prediction, together with other predictions.

        Raises:
            RuntimeError: If another thread runs a loop that changes the model.
        """
        thread = threading.get_ident()
        with self._changed:
            while self._owner.is_alone and thread not in self._users:
                self._wait(method)
            self._users[thread] = self._users.get(thread, 0) + 1
        try:
            yield
        finally:
            self._leave(thread)

    @contextmanager
    def owned(self, method: str, *, is_loop: bool, is_alone: bool) -> Iterator[None]:
        """Hold the lock as the only thread that changes metrics or, with `is_alone`, the only one that uses the model.

        Raises:
            RuntimeError: If another thread runs a loop that holds it.
        """
        thread = threading.get_ident()
        owner = Owner(thread, method, is_loop, is_alone)
        with self._changed:
            while self._owner.thread not in (None, thread):
                self._wait(method, may_wait=thread not in self._users)
            previous = self._owner
            self._owner = owner.inside(previous) if previous.thread is not None else owner
            self._users[thread] = self._users.get(thread, 0) + 1
        try:
            if is_alone:
                with self._changed:
                    while len(self._users) > 1:
                        self._wait_for_change()
            yield
        finally:
            self._leave(thread, previous)

    def _wait(self, method: str, may_wait: bool = True) -> None:
        """Wait for a change, or raise if the owner may take long or waits for this thread."""
        if self._owner.is_loop or not may_wait:
            raise RuntimeError(
                f"`{method}` was called while `{self._owner.method}` of the same model runs in another thread. Call it "
                f"when `{self._owner.method}` has returned, from a callback, or of a copy of the model made before."
            )
        self._wait_for_change()

    def _wait_for_change(self) -> None:
        self._waiting += 1
        try:
            self._changed.wait()
        finally:
            self._waiting -= 1

    def _leave(self, thread: int, owner: Owner | None = None) -> None:
        with self._changed:
            self._owner = self._owner if owner is None else owner
            self._users[thread] -= 1
            if not self._users[thread]:
                del self._users[thread]
            if self._waiting:
                self._changed.notify_all()


class LoopContexts:
    """Prepares a model for loops and single steps, and restores and releases everything afterwards.

    Args:
        lock: The lock of the model.
        state: The state of its steps.

    Attributes:
        attribute_metrics: The metrics in attributes of the model, looked up once per loop, or `None` between loops.
    """

    def __init__(self, lock: ModelLock, state: StepState) -> None:
        self._lock, self._state = lock, state
        self._is_running = False  # A loop is running, whose metrics a nested loop must not change.
        self.attribute_metrics: list[Metric] | None = None

    @contextmanager
    def with_metrics(
        self,
        method: str,
        model: BaseModel,
        structure: ModelStructure,
        execution: EagerExecution,
        callbacks: CallbackList,
        is_loop: bool,
        training: bool,
    ) -> Iterator[None]:
        """Prepare for steps that update metrics: lock the model, discard what earlier loops saw, and set the mode."""
        state = self._state
        is_alone = training or not _is_shareable(model, execution, "test_step")
        with self._lock.owned(method, is_loop=is_loop, is_alone=is_alone), self.metrics_isolated(model):
            state.call.start_loop()
            was_running, self._is_running = self._is_running, True
            previous, self.attribute_metrics = self.attribute_metrics, structure.attribute_metrics
            state.objective.start_loop()
            state.auxiliary.start_loop()
            try:
                mode = training_mode(model, training, structure.submodules)
                with state.auxiliary.hooks_installed(model.module), mode, ErrorTranslator(model.module):
                    yield
            finally:
                self._is_running, self.attribute_metrics = was_running, previous
                if not was_running:  # A nested loop keeps the graphs of the outer one.
                    execution.release()
                callbacks.close()

    @contextmanager
    def prediction(
        self,
        method: str,
        model: BaseModel,
        structure: ModelStructure,
        execution: EagerExecution,
        callbacks: CallbackList,
        has_callbacks: bool,
    ) -> Iterator[None]:
        """Prepare for a prediction, which changes nothing visible to other threads."""
        is_shared = not has_callbacks and _is_shareable(model, execution, "predict_step")  # Callbacks may stop it.
        lock = self._lock.shared(method) if is_shared else self._lock.owned(method, is_loop=False, is_alone=True)
        with lock:
            self._state.call.start_loop()
            try:
                mode = training_mode(model, False, structure.submodules)
                with suspended(), mode, ErrorTranslator(model.module), torch.no_grad():
                    yield
            finally:
                if not self._is_running:
                    execution.release()
                callbacks.close()

    def metrics_isolated(self, model: BaseModel) -> AbstractContextManager[None]:
        """Protect the metrics of an outer loop, if there is one, and what it reports, from a nested loop."""
        return self._nested_metrics_isolated(model) if self._is_running else nullcontext()

    @contextmanager
    def _nested_metrics_isolated(self, model: BaseModel) -> Iterator[None]:
        with preserve_state(model.metrics), self._state.objective.isolated(), self._state.auxiliary.isolated():
            yield


def _is_shareable(model: BaseModel, execution: EagerExecution, step: str) -> bool:
    """Return whether threads may run an evaluation or prediction step concurrently: if it is built in and eager."""
    return execution.is_shareable and overridden_method(model, step) is None
