"""The bus: who hears which event is worked out once, so that an unheard event costs nothing."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from inspect import signature
from typing import Any

from torchfit.callbacks.base import ALIASES, EVENTS, Callback

Listener = Callable[..., None]


def _unheard(*_: Any) -> None:
    """Do nothing: the one function behind every event without listeners."""


class Bus:
    """The events as attributes, each bound to just the callbacks that override it.

    One listener is called directly, without a function in between; several are called in the order of the
    callbacks. An override counts in a class, on the object itself, or under an alias (`on_batch_end`).
    What is overridden after the bus was made is not heard.

    Args:
        callbacks: objects with methods named like the events of `Callback`; any may be missing.

    Attributes:
        reads_batch_logs: True if somebody may look at the `logs` of a batch of training or evaluation after
            the event, so that each batch needs a mapping of its own. torchfit's own callbacks do not.

    >>> class Steps(Callback):
    ...     def on_train_batch_end(self, batch, logs=None):
    ...         print("step", batch)
    >>> bus = Bus([Steps()])
    >>> bus.on_train_batch_end(3, {})
    step 3
    >>> bus.heard("on_train_batch_end"), bus.heard("on_epoch_end")
    (True, False)
    """

    on_train_begin: Callable[[Any], None]
    on_train_end: Callable[[Any], None]
    on_epoch_begin: Callable[[int, Any], None]
    on_epoch_end: Callable[[int, Any], None]
    on_train_batch_begin: Callable[[int, Any], None]
    on_train_batch_end: Callable[[int, Any], None]
    on_test_begin: Callable[[Any], None]
    on_test_end: Callable[[Any], None]
    on_test_batch_begin: Callable[[int, Any], None]
    on_test_batch_end: Callable[[int, Any], None]
    on_predict_begin: Callable[[Any], None]
    on_predict_end: Callable[[Any], None]
    on_predict_batch_begin: Callable[[int, Any], None]
    on_predict_batch_end: Callable[[int, Any], None]
    reads_batch_logs: bool

    def __init__(self, callbacks: Iterable[Any]) -> None:
        """Bind every event."""
        self.callbacks = tuple(callbacks)
        for event in EVENTS:
            setattr(self, event, _together(_listeners(self.callbacks, event)))
        self.reads_batch_logs = any(
            not _reads_at_once(callback, event)
            for event in ("on_train_batch_end", "on_test_batch_end")
            for callback in self.callbacks
            if _listener(callback, event)
        )

    def heard(self, event: str) -> bool:
        """Tell whether anybody listens to an event, given by name."""
        return getattr(self, event) is not _unheard

    def release(self) -> None:
        """Make every callback let go of files, bars and hooks. Belongs in the loop's `finally`."""
        with ExitStack() as stack:
            for callback in reversed(self.callbacks):
                stack.callback(getattr(callback, "_release", _unheard))


def _listeners(callbacks: Iterable[Any], event: str) -> list[Listener]:
    found = (_listener(callback, event) for callback in callbacks)
    return [listener for listener in found if listener is not None]


def _listener(callback: Any, event: str) -> Listener | None:
    """Return the method that hears the event, or its alias, or None where neither is overridden."""
    for name in (event, ALIASES.get(event, event)):
        method = getattr(callback, name, None)
        if method is not None and getattr(method, "__func__", None) is not getattr(Callback, name):
            return _positional(callback, method, event) if getattr(callback, "_hears", _always)(event) else None
    return None


def _positional(callback: Any, method: Listener, event: str) -> Listener:
    """Make a user's method that takes `logs` by keyword only, as `**kwargs` do, callable by position."""
    places = (0, 0) if "batch" in event or "epoch" in event else (0,)
    if vars(type(callback)).get("_is_builtin") or _takes(method, *places) or not _takes(method, *places[1:], logs=0):
        return method

    def call(*arguments: Any) -> None:
        method(*arguments[:-1], logs=arguments[-1])

    return call


def _takes(method: Listener, *arguments: int, **named: int) -> bool:
    try:
        signature(method).bind(*arguments, **named)
    except (TypeError, ValueError):
        return False
    return True


def _together(listeners: list[Listener]) -> Listener:
    if not listeners:
        return _unheard
    if len(listeners) == 1:
        return listeners[0]

    def call_all(*arguments: Any) -> None:
        for listener in listeners:
            listener(*arguments)

    return call_all


def _reads_at_once(callback: Any, event: str) -> bool:
    """Tell whether the class that overrides the event declares it; a subclass's override is not covered."""
    names = {event, ALIASES.get(event, event)}
    if names & vars(callback).keys():
        return False
    owner = next((kind for kind in type(callback).__mro__ if names & vars(kind).keys()), object)
    return bool(vars(owner).get("_reads_logs_at_once", False))


def _always(_: str) -> bool:
    return True
