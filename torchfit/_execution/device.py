"""Which device a model lives on."""

import torch
from torch import nn

from torchfit._utils.errors import describe
from torchfit._utils.modules import device_of


def resolve_device(device: str | torch.device | None, module: nn.Module) -> torch.device:
    """Return the device that `device` asks for.

    "auto" is the accelerator that the module is already on, else the one that the machine has, else the CPU.

    Raises:
        ValueError: If there is no such device.
    """
    if device is None or (isinstance(device, str) and device == "auto"):
        current = device_of(module)
        return current if current.type != "cpu" else best_device()
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        text = str(error).splitlines()[0]
        reason = "" if text.startswith("Expected one of") else f" torch says: {text}"  # a list of all there could be
        known = " or ".join(dict.fromkeys(repr(known.type) for known in (torch.device("cpu"), best_device())))
        raise ValueError(
            f"`device` must be 'auto' or a device that this machine has, {known}, but it is {describe(device)}.{reason}"
        ) from error


def best_device() -> torch.device:
    """Return the machine's accelerator (cuda, mps, xpu), or the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # With its index, as tensors on it have, so that the two compare equal.
    return torch.empty(0, device=accelerator or "cpu").device
