"""`StepState`, which the phases of a step need besides the model, and the classes it is made of."""

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchfit._execution.compiled import choose_execution
from torchfit._execution.eager import EagerExecution
from torchfit._trainer.base_model import BaseModel, is_metric, overridden_method
from torchfit._trainer.module_call import ModuleCaller
from torchfit._trainer.objective import Objective, UncompiledObjective
from torchfit._types import Nested, TensorLike
from torchfit._utils.collector import AddedTerm, Collector
from torchfit._utils.compat import is_in_backward
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean
from torchfit._utils.tensors import as_tensor
from torchfit.losses.identifiers import hidden_modules
from torchfit.metrics import Mean, Metric, Sum

_lock = threading.Lock()


class OutputHook:
    """A forward hook that adds the output of a submodule while a model runs; unlike a closure, it can be pickled."""

    def __init__(self, terms: "AuxiliaryTerms", add: Callable[[Nested], None]) -> None:
        self._terms, self._add = terms, add
        self._was_collecting = False

    def __call__(self, module: nn.Module, inputs: object, output: Nested) -> None:
        """Add the output.

        A backward pass that computes activations again (`torch.utils.checkpoint`) must do what the forward pass did.
        """
        is_collecting = self._was_collecting if is_in_backward() else self._terms.is_collecting()
        if is_collecting is not self._was_collecting:  # Compiled code that changes nothing here needs fewer guards.
            self._was_collecting = is_collecting
        if is_collecting:
            self._add(output)


class AuxiliaryTerms(Collector):
    """The losses and metrics that were added to a model.

    Attributes:
        added_terms: The calls that added functions, in order.
        regularizers: Zero-argument callables added to the loss, such as weight regularizers.
        metric_fns: `(name, function, aggregation)` of zero-argument callables whose values are logged.
        metrics_updated: Whether the metrics were updated with the values of the current step.
        modules: Added losses that are modules, whose parameters are trained.
        metrics: The metrics that aggregate the logged values, by name, in order of first appearance.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hooks: list[tuple[str, OutputHook]] = []
        self.added_terms: list[AddedTerm] = []
        self.regularizers: list[Callable[[], Tensor]] = []
        self.metric_fns: list[tuple[str, Callable[[], TensorLike], str]] = []
        self.metrics: dict[str, Mean | Sum] = {}
        self.modules: list[nn.Module] = []
        self._aggregations: dict[str, str] = {}
        self._seen: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._hook_users = 0
        self.metrics_updated = False

    # -- user-defined functions ----------------------------------------------------------------------------

    def register_hook(self, on: str, add: Callable[[Nested], None]) -> None:
        """Call `add(output)` with the output of the submodule `on` whenever it runs within this model."""
        self._hooks.append((on, OutputHook(self, add)))

    def hidden_modules(self) -> list[tuple[str, nn.Module]]:
        """Return the modules that added functions use without getting them as arguments, by variable name."""
        return hidden_modules([term.arguments for term in self.added_terms])

    @property
    def has_uninstalled_hooks(self) -> bool:
        """Return whether there are hooks that are not installed."""
        return bool(self._hooks) and not self._hook_users

    def hooks_installed(self, module: nn.Module) -> AbstractContextManager[None]:
        """Register the forward hooks on `module` if they are not yet registered; the last to exit removes them."""
        return self._with_hooks(module) if self._hooks else nullcontext()

    @contextmanager
    def _with_hooks(self, module: nn.Module) -> Iterator[None]:
        with _lock:
            if not self._hook_users:
                self._handles = [module.get_submodule(on).register_forward_hook(hook) for on, hook in self._hooks]
            self._hook_users += 1
        try:
            yield
        finally:
            with _lock:
                self._hook_users -= 1
                handles = () if self._hook_users else self._handles
                for handle in handles:
                    handle.remove()

    # -- collected values ----------------------------------------------------------------------------------

    def all_losses(self) -> list[Tensor]:
        """Return the losses added in the last call, and the values of the regularizers."""
        return [*self.losses, *(regularizer() for regularizer in self.regularizers)]

    def add_to(self, loss: Tensor | None) -> Tensor | None:
        """Return a loss plus all added losses."""
        for value in self.all_losses():
            summed = value.sum() if value.ndim else value
            loss = summed if loss is None else loss + summed.to(loss.device)
        return loss

    def update_metrics(self, rows: int) -> None:
        """Update the metrics with the values of one batch of `rows` samples."""
        self.update_values(rows)
        for name, metric_fn, aggregation in self.metric_fns:
            self._update(name, metric_fn(), aggregation, rows)
        self.metrics_updated = True

    def update_values(self, rows: int) -> None:
        """Update the metrics with the values that modules added in a batch, or a part of one, of `rows` samples."""
        for name, value, aggregation in self.values:
            self._update(name, value, aggregation, rows)
        self.values.clear()

    def _update(self, name: str, value: TensorLike, aggregation: str, rows: int) -> None:
        metric = self.metrics.get(name)
        if metric is None:
            metric = self._add_metric(name, aggregation)
        if name not in self._seen:
            self._seen.add(name)
        value = as_tensor(value)
        if value.device != metric.total.device:
            metric.to(value.device)
        if aggregation == "mean" and value.numel() == 1:
            metric.update_state(value.detach().reshape(()), rows)
        else:
            metric.update_state(value)

    def _add_metric(self, name: str, aggregation: str) -> Mean | Sum:
        self._aggregations[name] = aggregation
        metric: Mean | Sum = Sum(name) if aggregation == "sum" else Mean(name)
        self.metrics[name] = metric
        return metric

    def logged_names(self) -> list[str]:
        """Return the names of the last collected values and of the zero-argument metrics."""
        return [name for name, *_ in (*self.values, *self.metric_fns)]

    @property
    def build_config(self) -> dict[str, str]:
        """The names and aggregations of the metrics, from which they can be created again."""
        return dict(self._aggregations)

    def build_from_config(self, config: Mapping[str, str]) -> None:
        """Create the metrics in another model's `build_config` that do not exist yet."""
        for name, aggregation in config.items():
            if name not in self.metrics:
                self._add_metric(name, aggregation)

    # -- from loop to loop ---------------------------------------------------------------------------------

    @property
    def unreported_metrics(self) -> Iterable[Metric]:
        """The metrics without a value in this loop, which are omitted from its logs."""
        return [metric for name, metric in self.metrics.items() if name not in self._seen]

    def start_loop(self) -> None:
        """From now on, report only the metrics that this loop logs."""
        self.losses.clear()
        self.values.clear()
        self._seen = set()

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Protect the reported metrics of an outer loop from a loop inside it."""
        seen, self._seen = self._seen, set()
        try:
            yield
        finally:
            self._seen = seen


def submodule_name(module: nn.Module, on: object) -> str:
    """Return the name of a submodule that is given by name or as a module; "" is the whole module.

    Raises:
        ValueError: If there is no such submodule; the message suggests the nearest names.
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


class LossModules(nn.ModuleDict):
    """The modules among the losses of `compile` and `add_loss`; their parameters are trained with the model."""


class StepState:
    """Everything that the phases of a step need besides the model.

    Attributes:
        call: A function that calls the module with the inputs of a batch.
        objective: The losses and metrics of all outputs.
        auxiliary: The losses and metrics added with `add_loss` and `add_metric`.
        passes_training: Whether `compute_loss`, which may be an override, takes the argument `training`.
        data_name: The argument that the data of the current loop were passed as, for messages.
        unit: A tensor that holds 1 on the device, for `compat.backward`.
    """

    def __init__(
        self, call: ModuleCaller, auxiliary: AuxiliaryTerms, compute_loss: Callable[..., Tensor], device: torch.device
    ) -> None:
        self.call, self.auxiliary = call, auxiliary
        self.unit = torch.ones((), device=device)
        self.data_name = "x"
        parameters = inspect.signature(compute_loss).parameters
        self.passes_training = "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self.objective: Objective | UncompiledObjective = UncompiledObjective()

    def named_parameters(self, model: BaseModel) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters of the module, of losses, and of modules in attributes of the model, by name.

        A custom `train_step` decides itself about those in attributes, such as the teacher in distillation.
        """
        named = [*model.module.named_parameters()]
        losses = (*self.objective.loss_modules(), *self.auxiliary.modules)
        if any(True for module in losses for _ in module.parameters()):
            named += self.loss_modules(model).named_parameters()
        if overridden_method(model, "train_step") is None:
            for name, module in _modules_in_attributes(model):
                named += module.named_parameters(name)
        return named

    def loss_modules(self, model: BaseModel) -> LossModules:
        """Return the losses that are or contain modules other than those of the model, as `loss_1`, `loss_2`, …."""
        found = (*self.objective.loss_modules(), *self.auxiliary.modules)
        known = set(map(id, model.module.modules())) if found else set()
        own = [module for module in found if id(module) not in known]
        return LossModules({f"loss_{number}": module for number, module in enumerate(own, 1)})

    @staticmethod
    def attribute_modules(model: BaseModel) -> nn.Module:
        """Return the modules in attributes of a model that wraps a module, except metrics, as one module."""
        found = nn.Module()
        for name, child in _modules_in_attributes(model):
            found.add_module(name, child)
        return found


def _modules_in_attributes(model: BaseModel) -> list[tuple[str, nn.Module]]:
    if model.module is model:
        return []
    return [(name, child) for name, child in model.named_children() if name != "module" and not is_metric(child)]


@dataclass(frozen=True)
class CompileOptions:
    """The arguments of `compile`, except the optimizer."""

    loss: object = None
    metrics: object = None
    loss_weights: object = None
    weighted_metrics: object = None
    run_eagerly: bool | None = None
    steps_per_execution: int | None = None
    jit_compile: bool | str | None = None
    auto_scale_loss: bool = True
    microbatch: int | str | None = None
    memory_format: str | None = None

    def choose_execution(self) -> EagerExecution:
        """Return the execution for these options."""
        return choose_execution(self.run_eagerly, self.jit_compile, self.steps_per_execution, self.memory_format)
