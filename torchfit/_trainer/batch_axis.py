"""A look at the first batch of a loop: some layers of torch take a sample without the axis of the batch silently."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from torchfit._trainer.layer_hints import CONVOLUTIONS, describe_layer, num_spatial_axes, suggest_missing_axis
from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.errors import describe

Call = Callable[[nn.Module, Any], Any]


def check_batch_axis(call: Call, module: nn.Module, inputs: Nested) -> Call:
    """Return what calls the module with its first batch, and refuses inputs that a layer takes as a single sample.

    Arrays are cut into batches along their first axis, so that a sample without the axis of the batch would be cut
    itself. A layer such as `nn.Linear` takes the pieces for samples, without a word.
    """
    leaves = [leaf for leaf in tree.leaves(inputs) if isinstance(leaf, Tensor)]
    suspects = [layer for layer in module.modules() if any(takes_as_sample(layer, leaf.ndim) for leaf in leaves)]
    return partial(_call_checked, call, leaves, suspects) if suspects else call


def takes_as_sample(layer: nn.Module, num_axes: int) -> bool:
    """Return whether a layer takes an input of so many axes as a sample without the axis of the batch.

    >>> takes_as_sample(nn.Linear(4, 3), 1), takes_as_sample(nn.Conv2d(3, 4, 2), 3), takes_as_sample(nn.ReLU(), 1)
    (True, True, False)
    """
    if isinstance(layer, nn.Linear):
        return num_axes == 1
    return isinstance(layer, CONVOLUTIONS) and num_axes == (num_spatial_axes(layer) or 0) + 1


def _call_checked(
    call: Call, leaves: Sequence[Tensor], suspects: Sequence[nn.Module], module: nn.Module, inputs: Nested
) -> Any:
    def check(layer: nn.Module, received: tuple[Any, ...]) -> None:
        """Refuse what came in `x` as it is; what the model computed itself may have any axes."""
        first = received[0] if received else None
        if isinstance(first, Tensor) and _is_one_of(first, leaves) and takes_as_sample(layer, first.ndim):
            raise ValueError(
                f"`x` does not fit the model: layer {describe_layer(module, layer)} was called with {describe(first)}. "
                f"{suggest_missing_axis(layer, tuple(first.shape))}"
            )

    with ExitStack() as hooks:
        for layer in suspects:
            hooks.callback(layer.register_forward_pre_hook(check).remove)
        return call(module, inputs)


def _is_one_of(tensor: Tensor, tensors: Sequence[Tensor]) -> bool:
    return any(tensor is other for other in tensors)
