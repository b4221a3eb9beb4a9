"""CallbackList: several callbacks behind one face, for loops of one's own."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torchfit._utils.errors import describe
from torchfit.callbacks._monitor import with_possible_names
from torchfit.callbacks.base import EVENTS
from torchfit.callbacks.bus import Bus
from torchfit.callbacks.history import History
from torchfit.callbacks.progress import ProgbarLogger


def as_callbacks(callbacks: Any) -> list[Any]:
    """Turn the argument `callbacks` into a flat list: None, one callback, a `CallbackList`, nested lists.

    Raises:
        TypeError: for a class instead of an object, and for objects without any event.

    >>> as_callbacks(None), as_callbacks([[History()]])
    ([], [<torchfit.callbacks.history.History object at ...>])
    """
    if callbacks is None:
        return []
    if isinstance(callbacks, CallbackList):
        return list(callbacks.callbacks)
    if isinstance(callbacks, (list, tuple)):
        return [callback for nested in callbacks for callback in as_callbacks(nested)]
    if isinstance(callbacks, type) or not any(hasattr(callbacks, event) for event in EVENTS):
        hint = f" Write {callbacks.__name__}(...)." if isinstance(callbacks, type) else ""
        raise TypeError(
            "callbacks: expected Callback objects, or objects with some of its methods. "
            f"Received: {describe(callbacks)}.{hint}"
        )
    return [callbacks]


class CallbackList:
    """Several callbacks behind one face, for training loops of your own. `fit` makes one by itself.

    Args:
        callbacks: None, a callback, or a (nested) list of them.
        add_history: add a `History`, as the last one, unless there is one.
        add_progbar: add a `ProgbarLogger`, as the first one, unless there is one.
        model: handed to every callback.
        **params: handed to every callback: `epochs`, `steps`, `verbose`, `metrics`.

    Attributes:
        callbacks: the callbacks, in the order in which they hear events.
        bus: a `Bus` over them, made anew by `append`, `set_model` and `set_params`.

    >>> both = CallbackList([], add_history=True)
    >>> both.on_train_begin()
    >>> both.on_epoch_end(0, {"loss": 0.5})
    >>> both.callbacks[-1].history
    {'loss': [0.5]}
    """

    def __init__(
        self,
        callbacks: Any = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: Any = None,
        **params: Any,
    ) -> None:
        self.callbacks = as_callbacks(callbacks)
        self.model = model
        self.params: Mapping[str, Any] = MappingProxyType({})
        if add_progbar and not _holds(self.callbacks, ProgbarLogger):
            self.callbacks.insert(0, ProgbarLogger())
        if add_history and not _holds(self.callbacks, History):
            self.callbacks.append(History())
        self.callbacks.sort(key=lambda callback: getattr(callback, "_comes_last", False))
        if params:
            self.set_params(params)
        self.set_model(model)

    @property
    def look_for_names(self) -> bool:
        """Whether a callback wants to know which names can occur, and none of the user's may add others."""
        kinds = [vars(type(callback)) for callback in self.callbacks]
        watch = any(hasattr(callback, "monitor") for callback in self.callbacks)
        return watch and all(kind.get("_is_builtin", False) for kind in kinds)

    def append(self, callback: Any) -> None:
        """Add a callback, which hears events after the others."""
        self.callbacks.append(callback)
        self.bus = Bus(self.callbacks)

    def set_model(self, model: Any) -> None:
        """Hand the model to every callback."""
        self.model = model
        for callback in self.callbacks if model is not None else ():
            callback.set_model(model)
        self.bus = Bus(self.callbacks)

    def set_training_state(self, state: Any) -> None:
        """Hand what is needed to save and resume a run to every callback."""
        for callback in self.callbacks:
            if hasattr(callback, "set_training_state"):
                callback.set_training_state(state)

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Hand the parameters to every callback, with the names that callbacks add to the logs."""
        self.params = with_possible_names(params, self.callbacks)
        for callback in self.callbacks:
            callback.set_params(self.params)
        self.bus = Bus(self.callbacks)

    def on_train_begin(self, logs: Any = None) -> None:
        """Tell all that training begins."""
        self.bus.on_train_begin(_or_empty(logs))

    def on_train_end(self, logs: Any = None) -> None:
        """Tell all that training ended."""
        self.bus.on_train_end(_or_empty(logs))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Tell all that an epoch begins."""
        self.bus.on_epoch_begin(epoch, _or_empty(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell all that an epoch ended."""
        self.bus.on_epoch_end(epoch, _or_empty(logs))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tell all that a training batch begins."""
        self.bus.on_train_batch_begin(batch, _or_empty(logs))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell all that a training batch ended."""
        self.bus.on_train_batch_end(batch, _or_empty(logs))

    def on_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Do the same as `on_train_batch_begin`."""
        self.on_train_batch_begin(batch, logs)

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        """Do the same as `on_train_batch_end`."""
        self.on_train_batch_end(batch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Tell all that an evaluation begins."""
        self.bus.on_test_begin(_or_empty(logs))

    def on_test_end(self, logs: Any = None) -> None:
        """Tell all that an evaluation ended."""
        self.bus.on_test_end(_or_empty(logs))

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tell all that a batch of evaluation begins."""
        self.bus.on_test_batch_begin(batch, _or_empty(logs))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell all that a batch of evaluation ended."""
        self.bus.on_test_batch_end(batch, _or_empty(logs))

    def on_predict_begin(self, logs: Any = None) -> None:
        """Tell all that a prediction begins."""
        self.bus.on_predict_begin(_or_empty(logs))

    def on_predict_end(self, logs: Any = None) -> None:
        """Tell all that a prediction ended."""
        self.bus.on_predict_end(_or_empty(logs))

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tell all that a batch of prediction begins."""
        self.bus.on_predict_batch_begin(batch, _or_empty(logs))

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tell all that a batch of prediction ended."""
        self.bus.on_predict_batch_end(batch, _or_empty(logs))


def _holds(callbacks: Iterable[Any], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def _or_empty(logs: Any) -> Any:
    return {} if logs is None else logs
