"""`CallbackList`, which calls the hooks of several callbacks. Each hook is resolved once, so unused ones are free."""

from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from inspect import signature
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from torchfit._types import Logs, Params, RunState
from torchfit._utils.errors import describe
from torchfit.callbacks.base import HOOK_ALIASES, HOOKS, Callback, add_log_names
from torchfit.callbacks.history import History
from torchfit.callbacks.progress import ProgbarLogger

Hook = Callable[..., None]


def _noop(*_: object, **__: object) -> None:
    """Do nothing, in place of a hook that no callback overrides."""


def _names_of(hook: str) -> tuple[tuple[str, Callable[..., object]], ...]:
    """Return the names under which a hook may be overridden, with the functions of the base class."""
    return tuple((name, getattr(Callback, name)) for name in (hook, HOOK_ALIASES.get(hook)) if name)


# For each hook, the number of its arguments and its names.
_SPECS = tuple((hook, 2 if "batch" in hook or "epoch" in hook else 1, _names_of(hook)) for hook in HOOKS)
_NO_HOOKS = dict.fromkeys([*HOOKS, *HOOK_ALIASES.values()], _noop)
_STEP_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin", "on_test_batch_end")


class CallbackList(Callback):
    """Calls the hooks of several callbacks, in order. `fit` creates one; create your own for a custom training loop.

    Its hooks are attributes, which are bound on creation to just the callbacks that override the hook. If there is a
    single one, it is called directly. A hook may be overridden in the class, on the object itself, or under an alias
    (`on_batch_end`); hooks that are overridden later are not called. `logs` may be omitted.

    Args:
        callbacks: None, a callback, or a (nested) list of callbacks. Any object with some of the hooks of `Callback`
            is a callback.
        add_history: Append a `History`, unless there is one.
        add_progbar: Insert a `ProgbarLogger` at the front, unless there is one.
        model: Passed to every callback.
        **params: Passed to every callback: `epochs`, `steps`, `verbose`, `metrics`.

    Attributes:
        callbacks: The callbacks, in the order in which they are called (but see `runs_first` and `runs_last`).
        keeps_batch_logs: Whether a callback has batch hooks of training or evaluation that may do anything: read the
            `logs` after the hook has returned, so that each batch needs a mapping of its own, or change the model
            between two steps. Those of torchfit's own callbacks do neither.

    >>> both = CallbackList([], add_history=True)
    >>> both.on_train_begin()
    >>> both.on_epoch_end(0, {"loss": 0.5})
    >>> both.callbacks[-1].history
    {'loss': [0.5]}
    >>> both.has_listeners("on_epoch_end"), both.has_listeners("on_train_batch_end")
    (True, False)
    """

    def __init__(
        self,
        callbacks: object = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: object = None,
        **params: object,
    ) -> None:
        self.callbacks = as_callbacks(callbacks)
        self.model = model
        self.params: Params = MappingProxyType({})
        if add_progbar and not _contains(self.callbacks, ProgbarLogger):
            self.callbacks.insert(0, ProgbarLogger())
        if add_history and not _contains(self.callbacks, History):
            self.callbacks.append(History())
        if params:
            self._pass_params(params)
        if model is not None:
            self.set_model(model)
        self._bind()

    @property
    def needs_log_names(self) -> bool:
        """Whether a callback uses the names in the logs, and all names that callbacks add are known."""
        uses = any(hasattr(each, "monitor") or getattr(each, "uses_log_names", False) for each in self.callbacks)
        return uses and all(vars(type(callback)).get("written_logs") is not None for callback in self.callbacks)

    def has_listeners(self, hook: str) -> bool:
        """Return whether a callback overrides the hook of this name."""
        return hook in self._hooks_with_listeners

    def wrap_hooks(self, hooks: Iterable[str], wrap: Callable[[Hook], Hook]) -> None:
        """Wrap the functions that call these hooks, if a callback overrides them."""
        for hook in set(hooks).intersection(self._hooks_with_listeners):
            setattr(self, hook, wrap(getattr(self, hook)))

    def append(self, callback: object) -> None:
        """Add a callback, which is called after the others."""
        self.callbacks.extend(as_callbacks(callback))
        self._bind()

    def set_model(self, model: Any) -> None:
        """Pass the model to every callback."""
        self.model = model
        self._call_each("set_model", model)

    def set_params(self, params: Params) -> None:
        """Pass the parameters to every callback, with the names of the entries that callbacks add to the logs."""
        self._pass_params(params)
        self._bind()  # `verbose` decides which hooks are needed

    def set_log_names(self, names: Iterable[str]) -> None:
        """Pass to every callback the names that can occur in the logs, as `params["metrics"]`."""
        self._pass_params({**self.params, "metrics": list(names)})

    def set_training_state(self, state: RunState | None) -> None:
        """Pass the state of the training run to every callback: before `on_train_begin`, and None after `fit`."""
        self.training_state = state
        self._call_each("set_training_state", state)

    def close(self) -> None:
        """Release the files, bars and module hooks of every callback. Belongs in a `finally`; may be called twice."""
        with ExitStack() as stack:  # calls all of them, even if one raises
            if self.training_state is not None:
                stack.callback(self.set_training_state, None)
            for callback in reversed(self.callbacks):
                stack.callback(getattr(callback, "release_resources", _noop))

    def _pass_params(self, params: Params) -> None:
        self.params = add_log_names(params, self.callbacks)
        self._call_each("set_params", self.params)

    def _call_each(self, setter: str, value: object) -> None:
        """Call a setter on every callback that has it; callbacks need not derive from `Callback`."""
        for callback in self.callbacks:
            getattr(callback, setter, _noop)(value)

    def _bind(self) -> None:
        """Bind every hook to the callbacks that have it."""
        found: dict[str, list[tuple[int, Hook]]] = {}
        self.keeps_batch_logs = False
        for callback in self.callbacks:
            first, last = getattr(callback, "runs_first", ()), getattr(callback, "runs_last", ())
            for hook, method in _resolve_hooks(callback):
                found.setdefault(hook, []).append(((hook in last) - (hook in first), method))
                if hook in _STEP_HOOKS and not _reads_logs_synchronously(callback, hook):
                    self.keeps_batch_logs = True
        attributes = vars(self)
        attributes.update(_NO_HOOKS)
        for hook, ranked in found.items():
            listeners = [method for _, method in sorted(ranked, key=itemgetter(0))]
            attributes[hook] = listeners[0] if len(listeners) == 1 else _call_all(listeners)
        for hook in HOOK_ALIASES.keys() & found.keys():
            attributes[HOOK_ALIASES[hook]] = attributes[hook]
        self._hooks_with_listeners = found.keys()


def as_callbacks(callbacks: object) -> list[Any]:
    """Convert the argument `callbacks` (None, a callback, a `CallbackList`, nested lists) to a flat list.

    Raises:
        TypeError: If it contains a class instead of an object, or an object without hooks.

    >>> as_callbacks(None), as_callbacks([[History()]])
    ([], [<torchfit.callbacks.history.History object at ...>])
    """
    if callbacks is None:
        return []
    if isinstance(callbacks, CallbackList):
        return list(callbacks.callbacks)
    if isinstance(callbacks, (list, tuple)):
        return [callback for nested in callbacks for callback in as_callbacks(nested)]
    if isinstance(callbacks, Callback):
        return [callbacks]
    if isinstance(callbacks, type) or not any(hasattr(callbacks, hook) for hook in _NO_HOOKS):
        raise TypeError(
            "callbacks: expected Callback objects, or objects with some of its methods. "
            f"Received: {describe(callbacks)}.{_hint(callbacks)}"
        )
    return [callbacks]


def _hint(value: object) -> str:
    """Return a hint for something that is not a callback."""
    if isinstance(value, type):
        return f" Write {value.__name__}(...)."
    if isinstance(value, str):
        return " Callbacks have no names: create the object, such as torchfit.callbacks.EarlyStopping()."
    if hasattr(value, "step") and hasattr(value, "optimizer"):
        return " Wrap a scheduler of torch: TorchLRScheduler(scheduler)."
    if hasattr(value, "update_state") or hasattr(value, "compute"):
        return " Pass metrics to compile(..., metrics=[...])."
    if callable(value):
        return (
            " Wrap a function: LambdaCallback(on_epoch_end=function), or LearningRateScheduler(function) if it "
            "returns the learning rate of an epoch."
        )
    return ""


def _call_all(listeners: list[Hook]) -> Hook:
    def call_all(*arguments: object, **named: object) -> None:
        for listener in listeners:
            listener(*arguments, **named)

    return call_all


def _resolve_hooks(callback: object) -> list[tuple[str, Hook]]:
    """Return the hooks that a callback overrides, under their own name or an alias, and needs."""
    unneeded: Collection[str] = getattr(callback, "unneeded_hooks", tuple)()
    found = []
    for hook, num_arguments, names in _SPECS:
        for name, inherited in names:
            method = getattr(callback, name, None)
            function = getattr(method, "__func__", None)
            if method is None or function is inherited or (hook in unneeded and _may_be_dropped(callback, name)):
                continue
            code = getattr(function, "__code__", None)
            # Nearly all methods take `(self, index, logs=None)` or `(self, logs=None)`, and need no adapter.
            is_usual = (
                code is not None
                and code.co_argcount == num_arguments + 1
                and code.co_varnames[num_arguments] == "logs"
                and method.__defaults__ is not None
            )
            found.append((hook, method if is_usual else _with_optional_logs(method, num_arguments)))
            break
    return found


def _may_be_dropped(callback: object, name: str) -> bool:
    """Return whether a hook is one that `unneeded_hooks` knows: defined in the same class or in a base of it."""
    owner = _owner(callback, ("unneeded_hooks",))
    return name not in vars(callback) and issubclass(owner, _owner(callback, (name,)))


def _with_optional_logs(method: Hook, num_arguments: int) -> Hook:
    """Return a function that can be called with `logs` by position, by name, and without.

    Raises:
        TypeError: If the method takes other arguments, such as those of a callback of another library.
    """
    index = (0,) * (num_arguments - 1)
    by_name = not _accepts(method, *index, 0)
    if by_name and not _accepts(method, *index, logs=0):  # `**kwargs` accepts it
        name = getattr(method, "__qualname__", repr(method))
        expected = "(logs)" if num_arguments == 1 else "(index, logs)"
        raise TypeError(f"callbacks: {name} is called with {expected}, but takes {signature(method)}.")

    def call(*arguments: object, logs: Logs | None = None) -> None:
        if len(arguments) < num_arguments:
            arguments = (*arguments, {} if logs is None else logs)
        if by_name:
            method(*arguments[:-1], logs=arguments[-1])
        else:
            method(*arguments)

    return call


def _accepts(method: Hook, *arguments: int, **named: int) -> bool:
    try:
        expected = signature(method)
    except ValueError:  # a function written in C without a signature
        return True
    try:
        expected.bind(*arguments, **named)
    except TypeError:
        return False
    return True


def _reads_logs_synchronously(callback: object, hook: str) -> bool:
    """Return whether the class that overrides the hook sets `reads_logs_synchronously`; base classes do not count."""
    names = {hook, HOOK_ALIASES.get(hook, hook)}
    if names & vars(callback).keys():
        return False
    return bool(vars(_owner(callback, names)).get("reads_logs_synchronously", False))


def _owner(callback: object, names: Collection[str]) -> type:
    """Return the class that defines the first of these attributes, as far as a class does."""
    return next((kind for kind in type(callback).__mro__ if not vars(kind).keys().isdisjoint(names)), object)


def _contains(callbacks: Iterable[object], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


NO_CALLBACKS = CallbackList()
"""A list without callbacks, shared by loops that have none. Nothing may be appended."""
