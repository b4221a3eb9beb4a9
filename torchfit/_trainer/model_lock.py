"""`ModelLock`, which controls which threads may use a model at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


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
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
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
        with self._lock:
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
        with self._lock:
            while self._owner.thread not in (None, thread):
                self._wait(method, may_wait=thread not in self._users)
            previous = self._owner
            self._owner = owner.inside(previous) if previous.thread is not None else owner
            self._users[thread] = self._users.get(thread, 0) + 1
        try:
            if is_alone:
                with self._lock:
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
        with self._lock:
            self._owner = self._owner if owner is None else owner
            self._users[thread] -= 1
            if not self._users[thread]:
                del self._users[thread]
            if self._waiting:
                self._changed.notify_all()
