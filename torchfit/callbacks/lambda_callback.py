"""LambdaCallback: a callback built from functions."""

from collections.abc import Callable

from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean
from torchfit.callbacks.base import HOOK_ALIASES, HOOKS, Callback


class LambdaCallback(Callback):
    """Call functions in hooks. Hooks without a function are free.

    Args:
        on_epoch_begin, on_epoch_end: functions of `(epoch, logs)`.
        on_train_begin, on_train_end: functions of `(logs)`.
        on_train_batch_begin, on_train_batch_end: functions of `(batch, logs)`.
        **kwargs: functions for the other hooks of `Callback`.

    Raises:
        TypeError: for an unknown hook, or something that cannot be called.

    >>> printer = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> printer.on_epoch_end(0, {"loss": 0.5})
    0 0.5
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., object] | None = None,
        on_epoch_end: Callable[..., object] | None = None,
        on_train_begin: Callable[..., object] | None = None,
        on_train_end: Callable[..., object] | None = None,
        on_train_batch_begin: Callable[..., object] | None = None,
        on_train_batch_end: Callable[..., object] | None = None,
        **kwargs: Callable[..., object] | None,
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
        for hook, function in given.items():
            if function is not None:
                setattr(self, _checked(hook, function), function)


def _checked(hook: str, function: object) -> str:
    known = [*HOOKS, *HOOK_ALIASES.values()]
    if hook not in known:
        raise TypeError(f"LambdaCallback: unknown hook {hook!r}. {did_you_mean(hook, known)}")
    if not callable(function):
        raise TypeError(f"{hook}: expected a function. Received: {describe(function)}")
    return hook
