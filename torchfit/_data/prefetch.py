"""Moving data to the device: all at once where they fit, else one batch ahead of the step."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchfit._utils import tree

# The rest is for the model, its gradients and activations.
_SHARE_OF_FREE_MEMORY = 0.5


def fits_on(device: torch.device, tensors: Iterable[Any]) -> bool:
    """Return whether tensors take at most half of the free memory of a device, not counting those already there.

    Where the free memory is not known, as on the CPU, everything fits.
    """
    if device.type != "cuda":
        return True
    missing = sum(tensor.nbytes for tensor in tensors if tensor.device.type != device.type)
    free, _ = torch.cuda.mem_get_info(device)
    return bool(missing <= free * _SHARE_OF_FREE_MEMORY)


def prefetch_to_device(batches: Iterator[Any], device: torch.device | None) -> Iterator[Any]:
    """Yield the same batches; on a CUDA device each is copied there, on a separate stream, during the previous step."""
    return batches if device is None or device.type != "cuda" else _prefetch(batches, device)


def _prefetch(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    upcoming = _next_on_stream(copies, batches)
    while upcoming is not None:
        batch, compute = upcoming, torch.cuda.current_stream(device)
        compute.wait_stream(copies)
        for leaf in tree.leaves(batch):
            if isinstance(leaf, Tensor) and leaf.is_cuda:
                leaf.record_stream(compute)  # Its memory must not be reused before the step has finished with it.
        upcoming = _next_on_stream(copies, batches)
        yield batch


def _next_on_stream(stream: torch.cuda.Stream, batches: Iterator[Any]) -> Any:
    with torch.cuda.stream(stream):
        return next(batches, None)
