"""Moving data to the device: all at once where they fit, else batch by batch, while the step before computes."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

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


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor in host memory to a device; to a CUDA device on a stream of its own, without waiting for it.

    The copy overlaps with the step that the device is busy with, and the next step waits for it. Only the copy is on
    that stream: what the user's code computes on the device stays in order with the steps.
    """
    if device.type != "cuda" or tensor.layout != torch.strided:
        return tensor.to(device)
    copies, compute = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        placed = tensor.pin_memory().to(device, non_blocking=True)
    compute.wait_stream(copies)
    placed.record_stream(compute)  # Its memory must not be reused before the step has finished with it.
    return placed


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
