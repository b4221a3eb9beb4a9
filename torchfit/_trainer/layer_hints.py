"""What a layer of torch wants of its input, and the way out for inputs that it does not take.

Nothing here reads a tensor: shapes and dtypes tell.
"""

from typing import Any

import torch
from torch import Tensor, nn

from torchfit._utils.modules import floating_dtype_of, has_running_stats
from torchfit._utils.tensors import is_plain

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMALISATIONS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_SPATIAL_AXES = {"1d": 1, "2d": 2, "3d": 3}
_AXIS_NAMES = ("batch", "channel", "depth", "height", "width")


def describe_layer(module: nn.Module, layer: nn.Module) -> str:
    """Return the name of a layer in a module, with its arguments; of a layer that contains others, with its class."""
    names = {id(submodule): name for name, submodule in module.named_modules()}
    name = names.get(id(layer), "").removeprefix("module.")
    kind = repr(layer) if "\n" not in repr(layer) else type(layer).__name__
    return f"`{name}`, {kind}," if name else kind


def suggest_way_out(layer: nn.Module, received: Any, text: str) -> str:
    """Return a sentence with what to do about the input that a layer of torch refused.

    Args:
        layer: The layer.
        received: Its input, whatever that is.
        text: What torch says.
    """
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return _suggest_ids(layer, received)
    if not isinstance(received, Tensor):
        return _suggest_one_tensor(received)
    if "more than 1 value per channel" in text and has_running_stats(layer):
        return (
            "In training it normalises by the values of a batch, and one sample has no spread. Choose a `batch_size` "
            "that does not leave a last batch of one sample, or leave that batch out: `drop_last=True` of a DataLoader."
        )
    if "more than 1 spatial element" in text:
        return (
            "It normalises each channel of a sample over the axes after the channels, which hold one value here. Pass "
            "longer inputs, or use nn.LayerNorm or nn.GroupNorm, which normalise over the channels."
        )
    if not is_plain(received):
        return "Check the inputs of this layer: it takes tensors, dense and with values."
    if not (received.is_floating_point() or received.is_complex()):
        dtype = str(floating_dtype_of(layer)).removeprefix("torch.")
        return (
            f'This layer computes with floats: cast the inputs, x.astype("{dtype}") of an array or x.float() of a '
            "tensor; bytes of images as well, which are best divided by 255 then."
        )
    return _suggest_axes(layer, received) or "Check the number and order of features in `x` against this layer."


def _suggest_one_tensor(received: object) -> str:
    """Return the way out for a tuple, such as an RNN returns, or a list of arrays where one tensor is expected."""
    if isinstance(received, tuple):
        return (
            "It takes one tensor, and the layer before it returns several, as nn.GRU and nn.LSTM return (outputs, "
            "state). Put a module between them that picks one in its `forward`, such as `return parts[0][:, -1]` for "
            "the last step of batch_first outputs."
        )
    if isinstance(received, (list, dict)):
        return (
            "It takes one tensor, and `x` has several parts. Join them to one array, np.concatenate(x, 1) along the "
            "features or np.stack(x) for a list of samples, or write a module whose `forward` takes each of them."
        )
    return "Check the inputs of this layer: it takes tensors."


def _suggest_ids(layer: nn.Embedding | nn.EmbeddingBag, received: Any) -> str:
    if isinstance(received, Tensor) and received.is_floating_point():
        return 'This layer takes ids, which are integers: pass x.astype("int64") of an array or x.long() of a tensor.'
    if isinstance(received, Tensor) and received.dtype not in (torch.int64, torch.int32):
        return 'This layer takes ids as int64 or int32: pass x.astype("int64") of an array or x.long() of a tensor.'
    last = layer.num_embeddings - 1
    return (
        f"This layer has rows for the ids from 0 to {last}, and `x` holds others. Make `num_embeddings` the highest "
        "id plus 1, or map the ids that are not known to one that is."
    )


def channels_of(layer: nn.Module) -> int | None:
    """Return how many channels a convolution or normalisation over channels takes, `None` for other layers."""
    if isinstance(layer, CONVOLUTIONS):
        return layer.in_channels
    if isinstance(layer, _NORMALISATIONS):
        return layer.num_features
    return layer.num_channels if isinstance(layer, nn.GroupNorm) else None


def num_spatial_axes(layer: nn.Module) -> int | None:
    """Return over how many axes a layer such as `nn.Conv2d` moves, `None` for layers without such axes."""
    name = type(layer).__name__.removeprefix("Lazy").lower()
    return None if isinstance(layer, nn.BatchNorm1d) else _SPATIAL_AXES.get(name[-2:])


def _suggest_axes(layer: nn.Module, received: Tensor) -> str | None:
    """Return the way out for channels at the end, or for a missing axis of channels or of the batch."""
    channels, shape, spatial = channels_of(layer), tuple(received.shape), num_spatial_axes(layer)
    if channels is None:
        return suggest_missing_axis(layer, shape)
    if spatial is not None and len(shape) in (2, spatial + 1):
        return suggest_missing_axis(layer, shape)
    if len(shape) > 2 and shape[-1] == channels != shape[1]:
        axes = (0, len(shape) - 1, *range(1, len(shape) - 1))
        order = ", ".join(map(str, axes))
        return (
            f"It takes {channels} channels on the second axis, and the inputs seem to have them on the last: pass "
            f"x.transpose({order}) of an array or x.permute({order}) of a tensor."
        )
    return None


def suggest_missing_axis(layer: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Return the way out for inputs that lack the axis of the batch, or that of channels or features, else `None`."""
    spatial, channels = num_spatial_axes(layer), channels_of(layer)
    if isinstance(layer, (nn.Linear, nn.Flatten)) and len(shape) == 1:
        return (
            "The first axis of `x` is the batch, and no axis is left for the features. Pass one sample as a batch of "
            "one, x[None], and samples of one feature each as x[:, None]."
        )
    if spatial is not None and spatial > 1 and len(shape) == len(_AXIS_NAMES[:2]):
        axes = ", ".join(_AXIS_NAMES[5 - spatial :])
        return (
            f"It takes batches of {spatial + 2} axes, and the rows of `x` are flat. Give them their axes back: "
            f"x.reshape(len(x), {channels or 'channel'}, {axes})."
        )
    if spatial is None or channels is None or len(shape) != spatial + 1:
        return None
    names = ", ".join((*_AXIS_NAMES[:2], *_AXIS_NAMES[5 - spatial :]))
    add_channel = "x[:, None]" if channels == 1 else f"x[:, None].repeat({channels}, 1) of an array"
    return (
        f"It takes batches of {spatial + 2} axes: {names}. Pass one sample as a batch of one, x[None]; where the "
        f"axis of channels is missing, pass {add_channel}."
    )
