"""What surrounds a loop or a call with a single batch, and what is kept from one of them to the next."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, compress
from operator import attrgetter, is_, itemgetter
from typing import Any, Generic, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._data.convert import BatchSpec
from torchfit._execution.eager import EagerExecution
from torchfit._trainer.base_model import BaseModel, is_metric, items_of, iter_attribute_metrics, overridden_method
from torchfit._trainer.hints import ErrorTranslator
from torchfit._trainer.model_lock import ModelLock
from torchfit._trainer.step_state import StepState
from torchfit._trainer.steps import sync_optimizer
from torchfit._types import StateDict
from torchfit._utils.collector import suspended
from torchfit._utils.compat import MODULE_ATTRIBUTES
from torchfit._utils.modules import training_mode
from torchfit.callbacks import CallbackList
from torchfit.callbacks.callback_list import NO_CALLBACKS
from torchfit.metrics.base import Metric, preserve_state
from torchfit.optimizers.identifiers import AnyOptimizer

Item = TypeVar("Item")

_traits = attrgetter("requires_grad", "dtype")
_WALKS = "children", "named_children", "modules", "named_modules", "parameters", "named_parameters", "_named_members"


class ModelStructure:
    """The submodules of a model and the metrics in its attributes, kept until they change.

    `describes` notices that a submodule or parameter was added, replaced, renamed, frozen or cast, and that an
    attribute got a metric, in a fraction of the time of looking everything up again. It refers weakly to all of them.

    Args:
        model: The model.
        others: Modules that are trained with it, such as losses with parameters.
    """

    def __init__(self, model: BaseModel, others: Sequence[nn.Module] = ()) -> None:
        of_model = list(model.modules())
        modules = [*of_model, *(part for other in others for part in other.modules())]
        self._modules, self._num_submodules = References(modules), len(of_model) - 1
        self._others, self._metrics = References(others), References(iter_attribute_metrics(model))
        self._is_regular = all(map(_is_regular, modules))
        if not self._is_regular:
            return
        attributes = [dict(vars(each)) for each in modules]  # Copies, which no other thread changes.
        own = [[name for name in each if name not in MODULE_ATTRIBUTES] for each in attributes]
        self._getters = [itemgetter("_modules", "_modules", *names) for names in own]  # With two names, it gets tuples.
        self._names, parts, values = self._look(attributes)
        parameters = [part for part in parts if isinstance(part, Tensor)]
        self._parts, self._num_parameters = References(parts), len(parameters)
        self._classes = list(map(type, modules))
        self._traits = list(map(_traits, parameters))
        self._is_regular = not any(map(is_lazy, parameters))
        self._kinds = list(map(type, values))
        are_own = chain.from_iterable([False, False, *[True] * len(names)] for names in own)
        self._are_containers = [
            is_own and isinstance(value, (list, tuple, dict)) for is_own, value in zip(are_own, values)
        ]
        items = self._items(values)
        self._listed_metrics = References(filter(is_metric, items))
        self._kinds_of_others = {type(item) for item in items if not is_metric(item)}

    @property
    def submodules(self) -> list[nn.Module]:
        """The submodules of the model."""
        return self._modules.items()[1 : self._num_submodules + 1]

    @property
    def all_submodules(self) -> list[nn.Module]:
        """The submodules of the model and of the other modules."""
        return self._modules.present_items()[1:]

    @property
    def others(self) -> list[nn.Module]:
        """The other modules, except those that are gone, such as one made for the parameters of a loss."""
        return self._others.present_items()

    @property
    def attribute_metrics(self) -> list[Metric]:
        """The metrics in attributes of the model and its submodules."""
        return self._metrics.items()

    def describes(self, model: BaseModel, others: Sequence[nn.Module] = ()) -> bool:
        """Return whether this is still the structure of a model that is trained with certain other modules.

        It is not if the model has lazy layers, or modules that are not ordinary ones, as those of TorchScript: they are
        looked up every time.
        """
        modules = self._modules.items()
        if not self._is_regular or modules[0] is not model or not self._others.are(others):
            return False
        if list(map(type, modules)) != self._classes:  # One may be gone, too.
            return False
        try:
            names, parts, values = self._look(list(map(vars, modules)))
        except KeyError:  # An attribute is gone.
            return False
        return (
            names == self._names
            and self._parts.are(parts)
            and list(map(_traits, parts[len(parts) - self._num_parameters :])) == self._traits
            and list(map(type, values)) == self._kinds
            and self._has_same_metrics(self._items(values))
        )

    def _look(self, attributes: list[StateDict]) -> tuple[list[object], list[object], list[object]]:
        """Return the names of the children and parameters of all modules, they themselves, and other attributes.

        The names include the numbers of all three in each module.
        """
        tables = [each["_modules"] for each in attributes] + [each["_parameters"] for each in attributes]
        names = [*map(len, attributes), *map(len, tables), *chain.from_iterable(tables)]
        parts = [part for part in chain.from_iterable(map(dict.values, tables)) if part is not None]
        values = chain.from_iterable([get(each) for get, each in zip(self._getters, attributes)])
        return names, parts, [*values]

    def _items(self, values: list[object]) -> list[object]:
        """Return the items of the lists, tuples and dictionaries among values."""
        return [*chain.from_iterable(map(items_of, compress(values, self._are_containers)))]

    def _has_same_metrics(self, items: list[object]) -> bool:
        has_none = self._kinds_of_others.issuperset(map(type, items))
        return self._listed_metrics.are([] if has_none else list(filter(is_metric, items)))


class References(Generic[Item]):
    """Weak references to objects."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._references = list(map(ref, items))

    def items(self) -> list[Item]:
        """Return the objects, with `None` for those that are gone."""
        return [reference() for reference in self._references]  # type: ignore[misc]

    def present_items(self) -> list[Item]:
        """Return the objects that are not gone."""
        return [item for reference in self._references if (item := reference()) is not None]

    def are(self, items: Sequence[object]) -> bool:
        """Return whether these are the same objects, in the same order."""
        return len(items) == len(self._references) and all(map(is_, self.items(), items))


def _is_regular(module: nn.Module) -> bool:
    """Return whether a module keeps its parts in dictionaries, as usual, and finds them by the methods of torch."""
    attributes, kind = vars(module), type(module)
    tables = attributes.get("_modules"), attributes.get("_parameters")
    is_usual = all(getattr(kind, name) is getattr(nn.Module, name) and name not in attributes for name in _WALKS)
    return is_usual and all(isinstance(table, dict) for table in tables)


class SeenModel:
    """What is known of a model from earlier calls: its structure, and the parameters that its optimizer was shown."""

    def __init__(self) -> None:
        self._structure: ModelStructure | None = None
        self._hidden: tuple[Callable[[], object], int, References[nn.Module]] = lambda: None, 0, References(())
        # The parameters to train follow from these three: those of the model, the optimizer, and what it holds.
        self._synced: tuple[ModelStructure | None, Callable[[], AnyOptimizer | None], tuple[int, ...]]
        self._synced = None, lambda: None, ()
        self._batch_spec: tuple[tuple[object, ...], BatchSpec | None] = (), None

    def __reduce__(self) -> tuple[type["SeenModel"], tuple[()]]:
        """Return that nothing is known yet for copies."""
        return SeenModel, ()

    def structure(self, model: BaseModel, state: StepState) -> ModelStructure:
        """Return the current structure of the model."""
        others = *state.objective.loss_modules(), *state.auxiliary.modules
        structure = self._structure
        if structure is None or not structure.describes(model, others):
            structure = self._structure = ModelStructure(model, others)
        return structure

    def hidden_modules(self, state: StepState) -> list[nn.Module]:
        """Return the modules that functions of losses, and those added to the model, use as variables."""
        objective, num_terms = state.objective, len(state.auxiliary.added_terms)
        of_objective, of_terms, hidden = self._hidden
        if of_objective() is not objective or of_terms != num_terms:
            found = [module for _, module in (*objective.hidden_modules(), *state.auxiliary.hidden_modules())]
            hidden = References({id(module): module for module in found}.values())
            self._hidden = ref(objective), num_terms, hidden
        return hidden.present_items()

    def batch_spec(self, *arguments: Any) -> BatchSpec:
        """Return `BatchSpec(*arguments)`, the same object for the same arguments."""
        known, spec = self._batch_spec
        if spec is None or known != arguments:
            spec = BatchSpec(*arguments)
            self._batch_spec = arguments, spec
        return spec

    def sync_optimizer(self, model: BaseModel, state: StepState, structure: ModelStructure | None) -> bool:
        """Call `sync_optimizer` unless nothing has changed since the last call, and return what it returns."""
        structure, optimizer = structure or self.structure(model, state), model.optimizer
        of_structure, of_optimizer, key = self._synced
        is_known = of_structure is structure and of_optimizer() is optimizer
        if is_known and optimizer.built and optimizer.binding_key == key:
            return False
        has_changed = sync_optimizer(model, state)
        self._synced = structure, ref(optimizer), optimizer.binding_key
        return has_changed


class LoopContexts:
    """Prepares a model for loops and single steps, and restores and releases everything afterwards.

    Args:
        lock: The lock of the model.
        state: The state of its steps.
        seen: What is known of the model.

    Attributes:
        attribute_metrics: The metrics in attributes of the model, looked up once per loop, or `None` between loops.
    """

    def __init__(self, lock: ModelLock, state: StepState, seen: SeenModel) -> None:
        self._lock, self._state, self._seen = lock, state, seen
        self._is_running = False  # A loop is running, whose metrics a nested loop must not change.
        self.attribute_metrics: list[Metric] | None = None

    @contextmanager
    def with_metrics(
        self,
        method: str,
        model: BaseModel,
        execution: EagerExecution,
        callbacks: CallbackList = NO_CALLBACKS,
        *,
        is_loop: bool = False,
        training: bool = False,
    ) -> Iterator[ModelStructure]:
        """Prepare for steps that update metrics: lock the model, discard what earlier loops saw, and set the modes."""
        state = self._state
        is_alone = training or not _is_shareable(model, execution, "test_step")
        with self._lock.owned(method, is_loop=is_loop, is_alone=is_alone), self.metrics_isolated(model):
            before = self._is_running, self.attribute_metrics
            try:
                structure = self._seen.structure(model, state)
                self._is_running, self.attribute_metrics = True, structure.attribute_metrics
                state.call.start_loop()
                state.objective.start_loop()
                state.auxiliary.start_loop()
                mode = self.mode(model, training, structure)
                translated = ErrorTranslator(model.module, has_gradients=training)
                with state.auxiliary.hooks_installed(model.module), mode, translated:
                    yield structure
            finally:
                self._is_running, self.attribute_metrics = before
                if not self._is_running:  # A nested loop keeps the graphs of the outer one.
                    execution.release()
                callbacks.close()

    @contextmanager
    def without_metrics(
        self,
        method: str,
        model: BaseModel,
        execution: EagerExecution,
        callbacks: CallbackList = NO_CALLBACKS,
        has_callbacks: bool = False,
    ) -> Iterator[None]:
        """Prepare for a prediction, which changes nothing visible to other threads."""
        is_shared = not has_callbacks and _is_shareable(model, execution, "predict_step")  # Callbacks may stop it.
        lock = self._lock.shared(method) if is_shared else self._lock.owned(method, is_loop=False, is_alone=True)
        with lock:
            self._state.call.start_loop()
            try:
                translated = ErrorTranslator(model.module, has_gradients=False)
                with suspended(), training_mode(model, False), translated, torch.no_grad():
                    yield
            finally:
                if not self._is_running:
                    execution.release()
                callbacks.close()

    def mode(
        self, model: BaseModel, training: bool, structure: ModelStructure | None = None
    ) -> AbstractContextManager[None]:
        """Put a model into a mode, and for an evaluation the modules that its losses use as well.

        In training these, which may be pretrained, keep the mode that the user gave them. `structure` is that of the
        model, if it is known.
        """
        structure = structure or self._seen.structure(model, self._state)
        if training:
            return training_mode(model, True, structure.submodules)
        hidden = self._seen.hidden_modules(self._state)
        submodules = chain(structure.all_submodules, *(module.modules() for module in hidden))
        return training_mode(model, False, submodules, [*structure.others, *hidden])

    def metrics_isolated(self, model: BaseModel) -> AbstractContextManager[None]:
        """Protect the metrics of an outer loop, if there is one, and what it reports, from a nested loop."""
        return self._nested_metrics_isolated(model) if self._is_running else nullcontext()

    @contextmanager
    def _nested_metrics_isolated(self, model: BaseModel) -> Iterator[None]:
        known = model.metrics
        with preserve_state(known), self._state.objective.isolated(), self._state.auxiliary.isolated():
            try:
                yield
            finally:
                _reset_others(model, known)


def gradients_enabled() -> AbstractContextManager[None]:
    """Enable gradients where a caller has disabled them, as `torch.no_grad` and `torch.inference_mode` do."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else torch.enable_grad()


def _reset_others(model: BaseModel, known: Sequence[Metric]) -> None:
    """Reset the metrics that were created since `known` were looked up: the outer loop has not updated them yet."""
    ids = set(map(id, known))
    for metric in model.metrics:
        if id(metric) not in ids:
            metric.reset_state()


def _is_shareable(model: BaseModel, execution: EagerExecution, step: str) -> bool:
    """Return whether threads may run an evaluation or prediction step concurrently: if it is built in and eager."""
    return execution.is_shareable and overridden_method(model, step) is None
