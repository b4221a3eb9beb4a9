"""The base class of metrics, and the variables that hold their state."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from torchfit._types import Config, DTypeLike, StateDict, TensorLike
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import SuggestsKeywords, snake_case
from torchfit._utils.tensors import as_dtype, as_tensor, compute_dtype, dtype_name, sum_dtype
from torchfit.losses.checks import LossTraits

# With this, operations on a variable return plain tensors, without Python dispatch per operation. It is the same
# private switch that torch.nn.Parameter uses. Without it, the results are variables, which are only slower.
_PLAIN_RESULTS = getattr(torch._C, "_disabled_torch_function_impl", Tensor.__torch_function__)


class Variable(Tensor):
    """A tensor with `assign`, `assign_add` and `assign_sub`, which always stays the same object.

    It is a buffer of the metric that created it (`Metric.add_weight`), moves with it between devices, and is set to its
    initial value by `reset`. All of torch's in-place methods work as well.

    >>> count = Variable(torch.zeros(2), "count")
    >>> count.assign_add([1, 2]).tolist(), count.name
    ([1.0, 2.0], 'count')
    """

    __torch_function__ = _PLAIN_RESULTS

    _label: str
    _initial: Tensor | None
    aggregation: str

    @staticmethod
    def __new__(cls: type["Variable"], value: Tensor, *_: object, **__: object) -> "Variable":
        """Wrap `value`, whose memory is shared."""
        variable: Variable = value.detach().as_subclass(cls)
        return variable

    def __init__(
        self, value: Tensor, name: str = "variable", aggregation: str = "sum", initial: Tensor | None = None
    ) -> None:
        """Store the name, the aggregation over processes, and the initial value, where `None` means zeros."""
        self._label = name
        self._initial = initial
        self.aggregation = aggregation

    @property
    def name(self) -> str:
        """The name given to `add_weight`."""
        return self._label

    def assign(self, value: TensorLike) -> "Variable":
        """Overwrite the content with a number, an array or a tensor that broadcasts to the shape."""
        with torch.no_grad():
            self.copy_(self._like(value))
        return self

    def assign_add(self, value: TensorLike) -> "Variable":
        """Add a number, an array or a tensor in place."""
        with torch.no_grad():
            self.add_(self._like(value))
        return self

    def assign_sub(self, value: TensorLike) -> "Variable":
        """Subtract a number, an array or a tensor in place."""
        with torch.no_grad():
            self.sub_(self._like(value))
        return self

    if TYPE_CHECKING:  # These return the variable itself, which torch's own annotations do not say.

        def __iadd__(self, other: object) -> "Variable": ...
        def __isub__(self, other: object) -> "Variable": ...
        def __imul__(self, other: object) -> "Variable": ...
        def __itruediv__(self, other: object) -> "Variable": ...

    def initial_value(self) -> Tensor:
        """Return a new tensor with the initial value."""
        return torch.zeros_like(self.data) if self._initial is None else self._initial.to(self.device, self.dtype)

    def reset(self) -> None:
        """Set the initial value again."""
        if self._initial is None:
            self.zero_()
        else:
            self.copy_(self._initial)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the memory with `fn`, such as `Tensor.cuda`, and keep the dtype if the device supports it."""
        try:
            moved = fn(self.data)
        except TypeError:  # Apple's GPUs have no float64
            self.data = fn(self.data.float())
            return
        self.data = moved if moved.dtype == self.dtype else self.data.to(moved.device)

    def _like(self, value: TensorLike) -> Any:
        if isinstance(value, (Tensor, int, float)):
            return value
        return as_tensor(value, dtype=self.dtype, device=self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Variable":
        if id(self) not in memo:
            memo[id(self)] = Variable(self.detach().clone(), self._label, self.aggregation, self._initial)
        copied: Variable = memo[id(self)]
        return copied

    def __repr__(self) -> str:  # type: ignore[override]
        return f"<Variable {self._label}, shape={tuple(self.shape)}, value={self.detach().tolist()}>"


Self = TypeVar("Self", bound="Metric")

SUM_DTYPE = torch.float64
"""The dtype of long sums and counts; on devices without it they are float32."""

_READING = {"axis": -1, "from_logits": False, "ignore_class": None}
_AGGREGATIONS = ("sum", "max", "min", "mean", "only_first_replica", "none", None)


class Metric(SuggestsKeywords, nn.Module):
    """Base class of all metrics: named state, updated in place and read lazily.

    A subclass creates its state in `__init__` with `add_weight` and defines `update_state` and `result`.
    By default, `reset_state` sets every variable to its initial value. Calling a metric updates it and returns
    the result. Metrics in attributes, lists or dictionaries of a metric are part of its state. The state moves with
    `.to(device)`, is included in `state_dict()`, and keeps its dtype. Nothing here reads a tensor on the host.

    A metric with state outside its variables must override `snapshot_state` and `restore_state` as well.

    Args:
        dtype: Dtype of the state and of the computation: a name or a torch dtype. Default `"float32"`, which becomes
            float64 with the first predictions in float64.
        name: Key in the logs. Default: the class name in snake case.

    Attributes:
        name: Key in the logs; `given_name` is the name without the prefix of an output.
        mode: `"max"` if higher is better, `"min"` if lower is, `None` if neither.

    Raises:
        ValueError: If `dtype` is not a dtype, or `name` is not a string.

    >>> class Largest(Metric):
    ...     def __init__(self, name="largest"):
    ...         super().__init__(name=name)
    ...         self.largest = self.add_weight(name="largest")
    ...     def update_state(self, y_true, y_pred, sample_weight=None):
    ...         self.largest.assign(torch.maximum(self.largest, y_pred.max()))
    ...     def result(self):
    ...         return self.largest
    >>> Largest()(None, torch.tensor([1.0, 3.0])).item()
    3.0
    """

    mode: str | None = None
    expects_probabilities: bool = False
    """Whether predictions are compared with probabilities, so that logits give a wrong result."""
    expects_binary_labels: bool = False
    """Whether labels are 0 and 1."""
    has_class_axis: bool = False
    """Whether predictions are scores of classes along an `axis`."""
    counts_every_label: bool = False
    """Whether labels outside the classes count as wrong."""
    updates_depend_on_state: bool = False
    """Whether an update reads the state, instead of only adding to it."""
    _given_name: str | None = None
    _nested_keys: tuple[str, ...] = ()
    _container_names: tuple[str, ...] = ()
    """The attributes that are lists, tuples or dictionaries, and may contain metrics."""
    _dtype: torch.dtype = torch.float32

    def __new__(cls: type[Self], *args: object, **kwargs: object) -> Self:
        """Initialize the module first, so that subclasses may set attributes in any order."""
        metric = super().__new__(cls)
        nn.Module.__init__(metric)
        metric.name = snake_case(cls.__name__)
        return metric

    def __init__(self, dtype: DTypeLike = None, name: str | None = None):
        if name is not None and not isinstance(name, str):
            raise ValueError(f"`name` must be a string. Received: {describe(name)}.")
        self.name: str = name or self.name
        self._dtype = as_dtype(dtype)

    # Names

    @property
    def given_name(self) -> str:
        """The name given by the user, or the default; `name` may differ from it, see `set_log_name`."""
        return self.name if self._given_name is None else self._given_name

    def set_log_name(self, name: str) -> None:
        """Use `name` as the key in the logs, such as `given_name` after the name of an output."""
        self._given_name = self.given_name
        self.name = name

    # State

    def add_variable(
        self,
        shape: int | Sequence[int],
        initializer: object = "zeros",
        dtype: DTypeLike = None,
        aggregation: str | None = "sum",
        name: str | None = None,
    ) -> Variable:
        """Create a state tensor, register it and return it.

        Args:
            shape: Its shape; `()` is a scalar.
            initializer: `"zeros"`, `"ones"`, a number, or a callable `(shape, dtype=...)` returning a tensor.
            dtype: Default: the metric's.
            aggregation: How it is combined over processes: `"sum"`, `"max"`, `"min"`, `"mean"`,
                `"only_first_replica"` or `"none"`.
            name: Its key in `state_dict()`. Default `"variable"`, numbered if taken.

        Raises:
            ValueError: If an argument is invalid.
        """
        if aggregation not in _AGGREGATIONS:
            raise ValueError(f"`aggregation` must be one of {_AGGREGATIONS}. Received: {describe(aggregation)}.")
        kind = self._dtype if dtype is None else as_dtype(dtype)
        if kind is torch.float64:
            kind = sum_dtype(self._device())
        initial = _initial_value(_shape(shape), initializer, kind)
        value = torch.zeros(_shape(shape), dtype=kind) if initial is None else initial.clone()
        variable = Variable(value.to(self._device()), name or "variable", aggregation or "none", initial)
        self._buffers[self._unique_key(name or "variable")] = variable
        return variable

    def add_weight(
        self,
        shape: int | Sequence[int] = (),
        initializer: object = "zeros",
        dtype: DTypeLike = None,
        name: str | None = None,
    ) -> Variable:
        """Create a state tensor as `add_variable` does; by default a scalar that starts at zero."""
        return self.add_variable(shape, initializer, dtype, name=name)

    @property
    def variables(self) -> list[Variable]:
        """All state, including that of nested metrics."""
        nested = [variable for metric in self._metrics() for variable in metric.variables]
        return [*self._own_variables(), *nested]

    @property
    def dtype(self) -> str:
        """Name of the dtype that the metric computes in."""
        return dtype_name(self._dtype)

    # Defined by subclasses

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Accumulate one batch: `update_state(y_true, y_pred, sample_weight=None)` in most metrics."""
        raise NotImplementedError(f"{type(self).__name__} must define update_state().")

    def result(self) -> Any:
        """Return the current value, on the device. If it is a variable itself, it changes with later updates."""
        raise NotImplementedError(f"{type(self).__name__} must define result().")

    def reset_state(self) -> None:
        """Set all state back to its initial value, in place."""
        for variable in self._own_variables():
            variable.reset()
        for metric in self._metrics():
            metric.reset_state()

    def build(self, y_true: TensorLike, y_pred: TensorLike) -> None:
        """Create the state whose shape depends on the first batch; most metrics have none."""

    def align(self, share: Callable[[Callable[[], Tensor]], Tensor]) -> None:
        """Prepare the state to be summed over processes; `share(make)` returns the result of the primary process."""

    def synchronize(self) -> None:
        """Exchange state outside variables with other processes, at the end of an epoch or an evaluation."""

    def follow_loss(self, traits: LossTraits) -> None:
        """Adopt the form of labels and predictions from the loss; called for metrics given by name."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update with one batch and return the result so far."""
        with torch.no_grad():
            self.update_state(*args, **kwargs)
            return self.result()

    # Configuration

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_config(cls: type[Self], config: Config) -> Self:
        """Build a metric from the result of `get_config`."""
        return cls(**config)

    def extra_repr(self) -> str:
        """Return the name and, if not the default, the form of labels and predictions."""
        values = {key: getattr(self, key, usual) for key, usual in _READING.items()}
        unusual = [f"{key}={value}" for key, value in values.items() if value != _READING[key]]
        return ", ".join([f"name={self.name}", *unusual])

    # Copies of all state

    def snapshot_state(self) -> Any:
        """Return a copy of all state for `restore_state`, without reading it on the host."""
        own = [(variable, variable.clone()) for variable in self._own_variables()]
        return own, [(metric, metric.snapshot_state()) for metric in self._metrics()]

    def restore_state(self, snapshot: Any) -> None:
        """Restore the result of `snapshot_state` in place; variables created since then are reset."""
        own, nested = snapshot
        saved = {id(variable): value for variable, value in own}
        for variable in self._own_variables():
            variable.reset() if id(variable) not in saved else variable.copy_(saved[id(variable)])
        saved = {id(metric): value for metric, value in nested}
        for metric in self._metrics():
            metric.reset_state() if id(metric) not in saved else metric.restore_state(saved[id(metric)])

    # Module

    def _own_variables(self) -> list[Variable]:
        return [buffer for buffer in self._buffers.values() if isinstance(buffer, Variable)]

    def _metrics(self) -> list["Metric"]:
        self._register_nested_metrics()
        return [module for module in self._modules.values() if isinstance(module, Metric)]

    def _register_nested_metrics(self) -> None:
        """Register the metrics that lists and dictionaries in attributes currently contain."""
        if not self._container_names:
            return
        for key in self._nested_keys:
            self._modules.pop(key, None)
        attributes = self.__dict__
        listed = {
            "_".join(map(str, (name, *path))).replace(".", "_"): leaf
            for name in self._container_names
            if isinstance(attributes.get(name), (list, tuple, dict))
            for path, leaf in tree.leaves_with_path(attributes[name])
            if isinstance(leaf, Metric)
        }
        self._modules.update(listed)
        attributes["_nested_keys"] = tuple(listed)

    def _as_values(self, value: TensorLike) -> Tensor:
        """Return predictions or values in the dtype of the computation, without a gradient."""
        values = as_tensor(value).detach()
        if values.dtype is self._dtype:
            return values
        dtype = compute_dtype(self._dtype, values)
        self._follow_dtype(values)
        return as_tensor(values, dtype)

    def _follow_dtype(self, values: Tensor) -> None:
        """Give results of values in float64 this dtype, if that of the metric is the default."""
        if values.dtype in (torch.float64, torch.complex128) and self._dtype is torch.float32:
            self._dtype = torch.float64

    def _device(self) -> torch.device | None:
        return next((variable.device for variable in self._own_variables()), None)

    def _unique_key(self, name: str) -> str:
        key, number = name.replace(".", "_"), 0
        while (candidate := f"{key}_{number}" if number else key) in self._buffers:
            number += 1
        return candidate

    def __setattr__(self, name: str, value: Any) -> None:
        """Store variables as plain attributes: they are registered already, and access is faster."""
        current = self.__dict__.get(name)
        if isinstance(value, Variable):
            self.__dict__[name] = value
        elif isinstance(current, Variable) and isinstance(value, Tensor):
            current.assign(value)
        else:
            if isinstance(value, (list, tuple, dict)) and name not in self._container_names:
                self.__dict__["_container_names"] = (*self._container_names, name)
            super().__setattr__(name, value)

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the variables without replacing them, and without changing their dtype."""
        self._register_nested_metrics()
        buffers = dict(self._buffers)
        variables = [value for value in buffers.values() if isinstance(value, Variable)]
        for key, value in buffers.items():
            if isinstance(value, Variable):
                del self._buffers[key]
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            self.__dict__["_buffers"] = {key: self._buffers.get(key, value) for key, value in buffers.items()}
        for variable in variables:
            variable.move(fn)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state by name, as for any module."""
        self._register_nested_metrics()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: StateDict, prefix: str, *args: object) -> None:
        self._register_nested_metrics()
        self._build_from_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _build_from_state(self, state_dict: StateDict, prefix: str) -> None:
        """Create the state that `build` would have created, with the shapes of a saved one."""


@contextmanager
def preserve_state(metrics: Sequence[Metric]) -> Iterator[None]:
    """Restore the states of `metrics` on exit, so that a nested evaluation does not change them."""
    states = [metric.snapshot_state() for metric in metrics]
    try:
        yield
    finally:
        for metric, state in zip(metrics, states):
            metric.restore_state(state)


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else shape
    if isinstance(sizes, str) or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError(f"`shape` must be a tuple of sizes. Received: {describe(shape)}. Pass the name as `name=...`.")
    return tuple(sizes)


def _initial_value(shape: tuple[int, ...], initializer: object, dtype: torch.dtype) -> Tensor | None:
    """Return the initial value of a variable, or `None` for zeros."""
    if initializer is None or (isinstance(initializer, str) and initializer == "zeros"):
        return None
    if isinstance(initializer, str) and initializer != "ones":
        raise ValueError(
            "`initializer` must be 'zeros', 'ones', a number or a callable (shape, dtype=...). "
            f"Received: {describe(initializer)}."
        )
    value = initializer(shape, dtype=dtype) if callable(initializer) else initializer
    return torch.as_tensor(1 if isinstance(value, str) else value, dtype=dtype).expand(shape)
