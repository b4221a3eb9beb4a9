"""The losses and metrics that a model gathers while its module runs, besides those of `compile`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from torchfit._utils.collector import Collector
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean

Hook = Callable[[nn.Module, Any, Any], None]
Make = Callable[[str, str], Any]


class Added(Collector):
    """What one model gathers, and the functions of its user that add to it.

    Attributes:
        penalties: Functions of nothing whose values are added to the loss, such as a regularisation of weights.
        gauges: `(name, function, aggregation)` of functions of nothing whose values are logged.
        is_counted: Whether the values of this step went into the metrics already.
        metrics: What aggregates the logged values, by name, in the order of their first appearance.
    """

    def __init__(self, make_metric: Make) -> None:
        """Aggregate with what `make_metric(aggregation, name)` makes."""
        super().__init__()
        self._make_metric = make_metric
        self._hooks: list[tuple[str, Hook]] = []
        self.penalties: list[Callable[[], Tensor]] = []
        self.gauges: list[tuple[str, Callable[[], Any], str]] = []
        self.metrics: dict[str, Any] = {}
        self._aggregations: dict[str, str] = {}
        self._seen: set[str] = set()
        self._is_watching = False
        self.is_counted = False

    # -- functions of the user -----------------------------------------------------------------------------

    def watch(self, on: str, add: Callable[[Any], None]) -> None:
        """Call `add(output)` with the output of the submodule `on` whenever it runs within this model."""

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if self.is_active or self.is_nested():
                add(output)

        self._hooks.append((on, hook))

    @property
    def needs_hooks(self) -> bool:
        """Tell whether there are submodules to be watched that are not yet."""
        return bool(self._hooks) and not self._is_watching

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Hang the hooks into `module`, unless they hang there already, and take them out afterwards."""
        hooks = self._hooks if self.needs_hooks else []
        handles = [module.get_submodule(on).register_forward_hook(hook) for on, hook in hooks]
        was_watching, self._is_watching = self._is_watching, True
        try:
            yield
        finally:
            self._is_watching = was_watching
            for handle in handles:
                handle.remove()

    # -- what was gathered ---------------------------------------------------------------------------------

    def all_losses(self) -> list[Tensor]:
        """Return the losses that were added in the last call, and those of weights."""
        return [*self.losses, *(penalty() for penalty in self.penalties)]

    def total(self, loss: Tensor | None) -> Tensor | None:
        """Return a loss with everything that was added to it."""
        for value in self.all_losses():
            summed = value.sum() if value.ndim else value
            loss = summed if loss is None else loss + summed.to(loss.device)
        return loss

    def update_metrics(self) -> None:
        """Take the logged values of one batch into the metrics."""
        for name, value, aggregation in self.values:
            self._update(name, value, aggregation)
        for name, gauge, aggregation in self.gauges:
            self._update(name, gauge(), aggregation)
        self.values.clear()
        self.is_counted = True

    def _update(self, name: str, value: Any, aggregation: str) -> None:
        metric = self.metrics.get(name)
        if metric is None:
            metric = self._new(name, aggregation)
        if name not in self._seen:
            self._seen.add(name)
        if aggregation == "mean" and isinstance(value, Tensor) and value.ndim:
            value = value.float().mean()
        metric.update_state(value)

    def _new(self, name: str, aggregation: str) -> Any:
        self._aggregations[name] = aggregation
        metric = self.metrics[name] = self._make_metric(aggregation, name)
        return metric

    @property
    def outlook(self) -> dict[str, str]:
        """The names of the metrics that there are, with their aggregations."""
        return dict(self._aggregations)

    def foresee(self, outlook: Mapping[str, str]) -> None:
        """Make the metrics that another model gathered, unless they are there."""
        for name, aggregation in outlook.items():
            if name not in self.metrics:
                self._new(name, aggregation)

    # -- from loop to loop ---------------------------------------------------------------------------------

    @property
    def silent(self) -> list[Any]:
        """The metrics that got no value in this loop, and are left out of its logs."""
        return [metric for name, metric in self.metrics.items() if name not in self._seen]

    def begin_loop(self) -> None:
        """Report only what this loop logs."""
        self.losses.clear()
        self.values.clear()
        self._seen = set()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Put back, after a loop inside of a loop, what the outer one reports."""
        seen, self._seen = self._seen, set()
        try:
            yield
        finally:
            self._seen = seen


def submodule_name(module: nn.Module, on: Any) -> str:
    """Return the name of a submodule, given by name or as the module itself; "" is the whole module.

    Raises:
        ValueError: If there is none such, with the nearest names.
    """
    names: dict[str, nn.Module] = dict(module.named_modules())
    for name, submodule in names.items():
        if on is submodule or (isinstance(on, str) and on == name):
            return name
    known = [name for name in names if name]
    raise ValueError(
        f"`on` must name a submodule of {type(module).__name__}, as `named_modules()` does. "
        f"Received: {describe(on)}. {did_you_mean(str(on), known)}"
    )
