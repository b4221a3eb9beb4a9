"""What a loss says about the outputs and labels that it takes, for the metrics beside it."""

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal

from torchfit.losses import crossentropy, focal, margins
from torchfit.losses.base import Loss
from torchfit.losses.functional_loss import LossFunctionWrapper
from torchfit.losses.identifiers import resolve_loss
from torchfit.losses.torch_losses import TorchLoss

Kind = Literal["binary", "categorical", "sparse", "other"]


@dataclass(frozen=True)
class LossTraits:
    """How the outputs and labels of a loss are to be read.

    Attributes:
        kind: "binary" for an independent decision per output, "categorical" for one of several classes with one-hot
            labels, "sparse" for class indices, "other" for numbers; `None` of a loss that says nothing, or none.
        axis: the dimension of the classes in the outputs `(batch, …)`.
        from_logits: whether outputs are logits, or scores that are positive for a positive label, not probabilities.
        ignore_class: the class index whose samples do not count.
    """

    kind: Kind | None = None
    axis: int = -1
    from_logits: bool = False
    ignore_class: int | None = None

    @property
    def is_multiclass(self) -> bool:
        """Whether the outputs are scores of exclusive classes."""
        return self.kind in ("categorical", "sparse")


_KINDS: dict[type[Loss], Kind] = {
    crossentropy.BinaryCrossentropy: "binary",
    crossentropy.CategoricalCrossentropy: "categorical",
    crossentropy.SparseCategoricalCrossentropy: "sparse",
    focal.BinaryFocalCrossentropy: "binary",
    focal.CategoricalFocalCrossentropy: "categorical",
    focal.CategoricalGeneralizedCrossEntropy: "sparse",
    margins.Hinge: "binary",
    margins.SquaredHinge: "binary",
    margins.CategoricalHinge: "categorical",
}
_MARGINS = (margins.Hinge, margins.SquaredHinge, margins.CategoricalHinge)
_TORCH_KINDS: dict[str, Kind] = {
    "binary_cross_entropy": "binary",
    "binary_cross_entropy_with_logits": "binary",
    "cross_entropy": "sparse",
    "multi_margin_loss": "sparse",
    "multilabel_soft_margin_loss": "binary",
    "nll_loss": "sparse",
    "soft_margin_loss": "binary",
}


def loss_traits(loss: object) -> LossTraits:
    """Return how the outputs and labels of anything that `compile(loss=)` takes are to be read.

    >>> loss_traits("binary_crossentropy")
    LossTraits(kind='binary', axis=-1, from_logits=False, ignore_class=None)
    >>> import torch
    >>> loss_traits(torch.nn.CrossEntropyLoss(ignore_index=255))
    LossTraits(kind='sparse', axis=1, from_logits=True, ignore_class=255)
    """
    loss = resolve_loss(loss)
    if isinstance(loss, TorchLoss):
        return _torch_traits(loss)
    if isinstance(loss, LossFunctionWrapper):
        return _function_traits(loss)
    kind = next((kind for known, kind in _KINDS.items() if isinstance(loss, known)), None)
    if kind is None and type(loss).__module__.startswith("torchfit."):
        return LossTraits("other")
    axis, ignored = getattr(loss, "axis", None), getattr(loss, "ignore_class", None)
    return LossTraits(
        kind or _kind_by_name(loss),
        axis if kind in ("categorical", "sparse") and isinstance(axis, int) else -1,
        isinstance(loss, _MARGINS) or bool(getattr(loss, "from_logits", False)),
        ignored if isinstance(ignored, int) else None,
    )


def _torch_traits(loss: TorchLoss) -> LossTraits:
    kind = _TORCH_KINDS.get(loss.torch_name)
    if kind is None:
        return LossTraits("other" if loss.torch_name else None)
    from_logits = loss.torch_name != "binary_cross_entropy"
    return LossTraits(kind, 1 if kind == "sparse" else -1, from_logits, loss.ignore_index)


def _function_traits(loss: LossFunctionWrapper) -> LossTraits:
    """Return the traits of a function of this package, with the arguments that it is given."""
    function: Any = getattr(loss.fn, "function", loss.fn)  # of a module that takes the predictions first
    given = dict(loss.fn_kwargs)
    if isinstance(function, functools.partial):
        given.update(function.keywords)
        function = function.func
    if not str(getattr(function, "__module__", "")).startswith("torchfit."):
        return LossTraits(_kind_by_name(loss), from_logits=bool(given.get("from_logits", False)))
    traits = loss_traits(function)
    names = ("axis", "from_logits", "ignore_class") if traits.is_multiclass else ("from_logits",)
    return replace(traits, **{name: given[name] for name in names if name in given})


def _kind_by_name(loss: object) -> Kind | None:
    """Take user-defined losses at their word."""
    return "binary" if str(getattr(loss, "name", "")).startswith("binary") else None
