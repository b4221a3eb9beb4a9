"""A module that gathers, while it runs, the losses and metrics that are added, and the metrics in its attributes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from torchfit._trainer.auxiliary import Added, submodule_name
from torchfit._trainer.module_call import bind_call
from torchfit._trainer.objective import Objective, Uncompiled
from torchfit._trainer.shape_inference import logged_names
from torchfit._trainer.wrapper import ModuleWrapper
from torchfit._utils import collector
from torchfit._utils.errors import describe
from torchfit.metrics.base import preserve_state


class Gathering(ModuleWrapper):
    """A module with an objective, whose parts may add to the loss and to the logs."""

    _objective: Objective | Uncompiled
    _added: Added
    _tracked: list[Any] | None = None

    def __call__(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Run the module on one batch; `losses` are those of this call then.

        A single list, tuple or dictionary goes to the module as in `fit`. `training` puts the model into
        train (`True`) or evaluation mode (`False`) for this call; by default the mode stays as it is.
        """
        added = self._added
        if added.is_active:
            return super().__call__(*args, training=training, **kwargs)
        if added.needs_hooks:
            with added.watching(self.module):
                return self(*args, training=training, **kwargs)
        if added.is_nested():
            return super().__call__(*args, training=training, **kwargs)
        previous = added.enter()
        try:
            return super().__call__(*args, training=training, **kwargs)
        finally:
            added.leave(previous)

    # -- added losses and metrics --------------------------------------------------------------------------

    def add_loss(self, loss: Any, on: str | None = None) -> None:
        """Add to the loss that is minimised, besides that of `compile`.

        Args:
            loss: A function: of the output of the submodule `on`, or of nothing, such as a regularisation of
                weights. It returns a tensor, the elements of which are summed. In a `forward`, a tensor.
            on: The name of a submodule, as in `named_modules()`; "" is the whole module.

        Raises:
            ValueError: If there is no such submodule.
            TypeError: If `loss` is neither a function nor a tensor.

        >>> import torch, torchfit
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> model = torchfit.Model(net)
        >>> model.add_loss(lambda: 0.01 * net[0].weight.square().sum())
        >>> model.add_loss(lambda activations: 0.1 * activations.mean(), on="1")
        >>> _ = model(torch.ones(2, 4))
        >>> len(model.losses)
        2
        """
        if on is not None:
            self._watch(on, loss, lambda output: collector.add_loss(loss(output)))
        elif isinstance(loss, Tensor) or not callable(loss):
            collector.add_loss(loss)
        else:
            self._added.penalties.append(loss)
            self._forget_graphs()

    def add_metric(self, value: Any, name: str, aggregation: str = "mean", on: str | None = None) -> None:
        """Log a value besides the metrics of `compile`.

        Args:
            value: A function: of the output of the submodule `on`, or of nothing. In a `forward`, a tensor.
            name: The key in the logs.
            aggregation: "mean" or "sum" over the batches of an epoch.
            on: The name of a submodule, as in `named_modules()`; "" is the whole module.

        Raises:
            ValueError: If there is no such submodule or aggregation, or `name` is no string.
            TypeError: If `value` is neither a function nor a tensor.
        """
        collector.check_metric(name, aggregation)
        if on is not None:
            self._watch(on, value, lambda output: collector.add_metric(value(output), name, aggregation))
        elif isinstance(value, Tensor) or not callable(value):
            collector.add_metric(value, name, aggregation)
        else:
            self._added.gauges.append((name, value, aggregation))
            self._forget_graphs()

    def _watch(self, on: str, function: Any, add: Callable[[Any], None]) -> None:
        if not callable(function):
            raise TypeError(
                f"With `on`, a function of the submodule's output is needed. Received: {describe(function)}."
            )
        self._added.watch(submodule_name(self.module, on), add)
        self._forget_graphs()

    def _forget_graphs(self) -> None:
        """Do away with compiled steps, which know nothing of what was added now."""

    @property
    def losses(self) -> list[Tensor]:
        """The losses that were added in the last call of the model, and those of weights."""
        return self._added.all_losses()

    @contextmanager
    def _gathering(self) -> Iterator[None]:
        """Prepare for a loop: look at data, added values and metrics in attributes anew."""
        self._objective.forget_structures()
        self._added.begin_loop()
        tracked, self._tracked = self._tracked, list(own_metrics(self))
        try:
            with self._added.watching(self.module):
                yield
        finally:
            self._tracked = tracked

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Let a loop inside of a loop change nothing about what the outer one reports."""
        with self._objective.apart(), self._added.apart():
            yield

    @contextmanager
    def _metrics_apart(self) -> Iterator[None]:
        """Let a loop inside of a loop disturb no metric of the outer one."""
        with preserve_state(self.metrics), self._apart():
            yield

    # -- metrics -------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[Any]:
        """All metrics: the mean of the loss, those of `compile`, those in attributes, and added ones."""
        tracked = own_metrics(self) if self._tracked is None else self._tracked
        return [*self._objective.metrics, *tracked, *self._added.metrics.values()]

    @property
    def metrics_names(self) -> list[str]:
        """The names of the results, in the order of the list that `evaluate` returns."""
        return [metric.name for metric in self._reported()]

    def reset_metrics(self) -> None:
        """Set the state of every metric back to its start."""
        for metric in self.metrics:
            metric.reset_state()

    def get_metrics_result(self) -> Mapping[str, Any]:
        """Return the results by name, as tensors on the device."""
        return {metric.name: metric.result() for metric in self._reported()}

    def _reported(self) -> list[Any]:
        """Return the metrics without those whose outputs, targets or values were not there in the last loop."""
        silent = {id(metric) for metric in (*self._objective.silent, *self._added.silent)}
        return [metric for metric in self.metrics if id(metric) not in silent]

    def _foreseen_names(self, batch: Any) -> list[str] | None:
        """Return the names of the results before the first step, `None` where they cannot be known."""
        added = self._added
        others = [*own_metrics(self), *added.metrics.values()]
        previous = added.enter()
        try:
            with added.watching(self.module):
                call = None if batch is None else bind_call(self.module, self._signature(), batch.inputs)
                names = logged_names(self._objective, others, call, self.module, batch)
            logged = [name for name, *_ in (*added.values, *added.gauges)]
        finally:
            added.leave(previous)
        return None if names is None else list(dict.fromkeys([*names, *logged]))

    # -- what belongs to no state --------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state of the module, under its own keys; metrics in attributes of the model are none of it."""
        state = super().state_dict(*args, **kwargs)
        for key in self._metric_keys(state, kwargs.get("prefix", "")):
            del state[key]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state of the module, under its own keys; the metrics in attributes of the model keep theirs."""
        own = super().state_dict()
        missing = {key: own[key] for key in self._metric_keys(own) if key not in state_dict}
        return super().load_state_dict({**state_dict, **missing} if missing else state_dict, *args, **kwargs)

    def _metric_keys(self, state: Iterable[str], prefix: str = "") -> list[str]:
        if self.module is not self:
            return []
        names = tuple(f"{prefix}{name}." for name, part in self.named_modules() if name and is_metric(part))
        return [key for key in state if key.startswith(names)] if names else []


def is_metric(value: Any) -> bool:
    """Tell a metric of ours by what it can do."""
    return isinstance(value, nn.Module) and hasattr(value, "update_state") and hasattr(value, "reset_state")


def own_metrics(model: nn.Module) -> Iterator[Any]:
    """Give the metrics in attributes of a model and its submodules, also in lists and dictionaries, each once."""
    seen: set[int] = set()
    for part in _with_metrics(model):
        if is_metric(part) and id(part) not in seen:
            seen.add(id(part))
            yield part


def _with_metrics(module: nn.Module) -> Iterator[Any]:
    if is_metric(module):
        yield module
        return
    for child in module.children():
        yield from _with_metrics(child)
    for name, value in vars(module).items():
        if name not in _NO_METRICS and isinstance(value, (list, tuple, dict)):
            yield from filter(is_metric, value.values() if isinstance(value, dict) else value)


_NO_METRICS = {*vars(nn.Module()), "_compile_arguments", "_tracked"}
