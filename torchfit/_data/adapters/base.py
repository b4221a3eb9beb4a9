"""The base class of data adapters, and which arguments of `fit` an adapter supports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torchfit._data.batch_source import BatchSource
from torchfit._data.class_weight import ClassWeights, as_class_weights, resolve_balanced
from torchfit._data.convert import BatchSpec
from torchfit._data.workers import LoaderConfig
from torchfit._types import Nested, UserData
from torchfit._utils.errors import describe

# Values besides `None` that count as "not given".
_DEFAULTS: dict[str, tuple[object, ...]] = {"validation_split": (0, 0.0), "workers": (0, 1)}


@dataclass(frozen=True)
class AdapterSpec:
    """A kind of data: its name in messages, and a hint for each argument that it does not support."""

    name: str
    unsupported: Mapping[str, str]

    def check(self, **arguments: object) -> None:
        """Check that all given arguments are supported by this kind of data.

        Raises:
            ValueError: With the name of the argument and what to do instead.
        """
        for argument, value in arguments.items():
            if self.supports(argument) or value is None or _is_default(argument, value):
                continue
            raise ValueError(
                f"`{argument}` is not used with {self.name}: {self.hint(argument)}. Received: {describe(value)}."
            )

    def supports(self, argument: str) -> bool:
        """Return whether this kind of data supports an argument."""
        return self._key(argument) not in self.unsupported

    def hint(self, argument: str) -> str:
        """Return what to do instead of passing an argument."""
        return self.unsupported[self._key(argument)]

    def _key(self, argument: str) -> str:
        return "batch_size" if argument == "validation_batch_size" else argument


def _is_default(argument: str, value: UserData) -> bool:
    return isinstance(value, (bool, int, float)) and value in _DEFAULTS.get(argument, ())


class DataAdapter:
    """Data of one kind, which can be split and iterated over in batches.

    Attributes:
        spec: The name of this kind of data, and the arguments it does not support.
        batch_spec: The dtypes and the device of the batches.
        class_weights: The class weights to apply to every batch, or `None`.
    """

    spec: ClassVar[AdapterSpec]

    def __init__(self, batch_spec: BatchSpec, class_weights: ClassWeights | None = None) -> None:
        """Store the dtypes and device that batches are converted to."""
        self.batch_spec = batch_spec
        self.class_weights = class_weights

    def split(self, fraction: float) -> "tuple[DataAdapter, DataAdapter]":
        """Hold out the last `fraction` of the samples.

        Raises:
            ValueError: If this kind of data cannot be split, or one side would be empty.
        """
        self.spec.check(validation_split=fraction)
        raise NotImplementedError(f"{type(self).__name__} supports `validation_split`: define `split`.")

    def with_class_weight(self, class_weight: object) -> "DataAdapter":
        """Multiply the sample weights by the class weights; `None` changes nothing.

        Raises:
            ValueError: If `class_weight` is invalid, or "balanced" and the labels are not known.
        """
        rules = as_class_weights(class_weight)
        if rules:
            spec = self.batch_spec
            resolved = resolve_balanced(rules, self.labels, self.spec.name, spec.output_names, spec.index_targets)
            self.class_weights = ClassWeights(resolved, spec.output_names, spec.target_dtype, spec.index_targets)
        return self

    def labels(self) -> Nested:
        """Return the targets of all samples if they are known without iterating, else `None`."""
        return None

    def batches(
        self,
        batch_size: int | None = None,
        *,
        shuffle: bool | str = False,
        loader_config: LoaderConfig | None = None,
    ) -> BatchSource:
        """Return batches, in the order of the data or shuffled every epoch; `loader_config` says how to read ahead."""
        raise NotImplementedError(f"{type(self).__name__} has no batches: define `batches`.")

    def own_batches(self, batch_size: int | None = None, **arguments: Any) -> BatchSource:
        """Return the part of the batches that this process takes; the arguments are those of `batches`."""
        return self.batch_spec.share.part_of(self.batches(batch_size, **arguments))


def length_of(value: UserData) -> int | None:
    """Return `len(value)`, or `None` if it has no length."""
    try:
        return len(value)
    except (TypeError, NotImplementedError, AttributeError):
        return None
