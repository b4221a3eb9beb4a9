"""What every adapter of a form of data is, and the tuples that streams yield."""

from typing import Any, ClassVar

from torchfit._data.arguments import Form, Loading
from torchfit._data.batches import Batches
from torchfit._data.class_weight import ClassWeights, as_class_weights, balanced
from torchfit._data.convert import Conversion
from torchfit._utils.batch import Batch
from torchfit._utils.errors import describe


class Source:
    """Data of one form, ready to be split and to give batches.

    Attributes:
        form: The name of the form, and the arguments that it does not take.
        conversion: The dtypes and the device that batches are wanted in.
        class_weights: What samples weigh by their class, applied to every batch; `None` for nothing.
    """

    form: ClassVar[Form]

    def __init__(self, conversion: Conversion, class_weights: ClassWeights | None = None) -> None:
        """Remember what batches are converted to."""
        self.conversion = conversion
        self.class_weights = class_weights

    def split(self, fraction: float) -> "tuple[Source, Source]":
        """Set the last `fraction` of the samples apart.

        Raises:
            ValueError: If this form cannot be split, or one side would be empty.
        """
        self.form.check(validation_split=fraction)
        raise NotImplementedError(f"{type(self).__name__} takes `validation_split`: define `split`.")

    def weighted(self, class_weight: Any) -> "Source":
        """Multiply the weights of the samples by those of their classes; `None` changes nothing.

        Raises:
            ValueError: If `class_weight` is not what it must be.
        """
        rules = as_class_weights(class_weight)
        if rules:
            counted = balanced(rules, self.labels, self.form)
            self.class_weights = ClassWeights(counted, self.conversion.output_names, self.conversion.target_dtype)
        return self

    def labels(self) -> Any:
        """Return the targets of all samples where they are at hand, else `None`."""
        return None

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loading: Loading | None = None
    ) -> Batches:
        """Give batches, in the order of the data or shuffled anew each epoch, read ahead as `loading` says."""
        raise NotImplementedError(f"{type(self).__name__} gives no batches: define `batches`.")


def unpack(raw: Any) -> tuple[Any, ...]:
    """Return the parts `(x,)`, `(x, y)` or `(x, y, sample_weight)` of what a stream yields.

    Anything that is no tuple is `x` as a whole; lists count as tuples, because torch's `default_collate` makes
    them of tuples.

    Raises:
        ValueError: If it is a named tuple, whose meaning would be ambiguous, or a tuple of another length.

    >>> unpack((1, 2)), unpack({"a": 1})
    ((1, 2), ({'a': 1},))
    """
    if not isinstance(raw, (tuple, list)) or isinstance(raw, Batch):
        return tuple(raw) if isinstance(raw, Batch) else (raw,)
    if hasattr(raw, "_fields"):
        raise ValueError(
            f"The data gave a named tuple, {type(raw).__name__}{raw._fields}. It is ambiguous whether its fields or "
            "its order say what is x, y and sample_weight: yield a plain tuple (x, y) or (x, y, sample_weight), or "
            "the tuple (batch,) if the named tuple is the input of the model."
        )
    if isinstance(raw, list) and raw and all(isinstance(value, (int, float)) for value in raw):
        return (raw,)
    if len(raw) not in (1, 2, 3):
        raise ValueError(
            f"The data must give (x,), (x, y) or (x, y, sample_weight), but gave {describe(raw)}. Put several inputs "
            "into one tuple or dictionary: ((x1, x2), y)."
        )
    return tuple(raw)
