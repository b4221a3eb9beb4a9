"""LambdaCallback: a callback made of functions."""

from collections.abc import Callable
from typing import Any

from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean
from torchfit.callbacks.base import ALIASES, EVENTS, Callback


class LambdaCallback(Callback):
    """Call functions at events. Events without a function cost nothing.

    Args:
        on_epoch_begin, on_epoch_end: functions of `(epoch, logs)`.
        on_train_begin, on_train_end: functions of `(logs)`.
        on_train_batch_begin, on_train_batch_end: functions of `(batch, logs)`.
        **kwargs: functions for the other events of `Callback`.

    Raises:
        TypeError: for an unknown event, or something that cannot be called.

    >>> say = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> say.on_epoch_end(0, {"loss": 0.5})
    0 0.5
    """

    _is_builtin = False  # its functions may write anything into the logs

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
        **kwargs: Callable[..., Any] | None,
    ) -> None:
        given = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        for event, function in given.items():
            if function is not None:
                setattr(self, _checked(event, function), function)


def _checked(event: str, function: Any) -> str:
    known = [*EVENTS, *ALIASES.values()]
    if event not in known:
        raise TypeError(f"LambdaCallback: unknown event {event!r}. {did_you_mean(event, known)}")
    if not callable(function):
        raise TypeError(f"{event}: expected a function. Received: {describe(function)}")
    return event
