"""Whether data may live on the device as a whole."""

from collections.abc import Iterable
from typing import Any

import torch

# The rest is for the model, its gradients and activations.
_SHARE_OF_FREE_MEMORY = 0.5


def fits_on(device: torch.device, tensors: Iterable[Any]) -> bool:
    """Tell whether tensors take at most half of the memory that is free on a device, counting what is there already.

    Where the free memory is not known, as on the CPU, everything fits.
    """
    if device.type != "cuda":
        return True
    missing = sum(tensor.nbytes for tensor in tensors if tensor.device.type != device.type)
    free, _ = torch.cuda.mem_get_info(device)
    return bool(missing <= free * _SHARE_OF_FREE_MEMORY)
