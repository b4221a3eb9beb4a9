"""On which device and in which dtype a model computes."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from torchfit._utils.errors import describe
from torchfit._utils.modules import device_of
from torchfit._utils.names import did_you_mean, suggest_constructor_keywords

Result = TypeVar("Result")


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


_GIVE_VALUES = (
    'Give the module memory on a device, module.to_empty(device="cpu"), initialize or load its weights, and wrap it '
    "after that: Model(module)."
)


def move_module(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device.

    Raises:
        ValueError: If there is nothing to move, because tensors are on the meta device, which holds no values.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty and (device.type != "meta" or len(empty) < len(tensors)):
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"`module` has {empty[0]!r}{more} on the meta device, which holds no values. {_GIVE_VALUES}")
    module.to(device)


def require_values(device: torch.device) -> None:
    """Check that the device of a model holds values.

    Raises:
        ValueError: If it is the meta device.
    """
    if device.type == "meta":
        raise ValueError(f"The model was made for the meta device, which holds no values. {_GIVE_VALUES}")


def best_device() -> torch.device:
    """Return the machine's accelerator (cuda, mps, xpu), or the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # With its index, as tensors on it have, so that the two compare equal.
    return torch.empty(0, device=accelerator or "cpu").device


_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_NAMES = (*_DTYPES, "mixed_float16", "mixed_bfloat16")
_NAMES_ELSEWHERE = {
    **dict.fromkeys(("fp16", "half", "amp", "16", "16-mixed"), "mixed_float16"),
    **dict.fromkeys(("bf16", "bf16-mixed"), "mixed_bfloat16"),
    **dict.fromkeys(("fp32", "float", "32", "32-true"), "float32"),
}


@suggest_constructor_keywords
class DTypePolicy:
    """In which dtype a model computes, and in which it keeps its weights.

    Args:
        name: `"mixed_bfloat16"` or `"mixed_float16"`: weights in float32, what gains from it computed in the half
            precision (`torch.autocast`). `"float32"`, `"float64"`, `"bfloat16"`, `"float16"`: everything in this dtype.

    Attributes:
        name: the name.
        compute_dtype: the dtype of the computation, such as `"bfloat16"`.
        variable_dtype: the dtype of the weights, such as `"float32"`.

    Raises:
        ValueError: if there is no such policy.

    >>> policy = DTypePolicy("mixed_bfloat16")
    >>> policy.compute_dtype, policy.variable_dtype
    ('bfloat16', 'float32')
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or name not in _NAMES:
            known = did_you_mean(_NAMES_ELSEWHERE.get(str(name), str(name)), _NAMES)
            raise ValueError(f"`dtype_policy` must be the name of a policy, but it is {describe(name)}. {known}")
        self.name = name
        self.is_mixed = name.startswith("mixed_")
        self.compute_dtype = name.removeprefix("mixed_")
        self.variable_dtype = "float32" if self.is_mixed else name

    def get_config(self) -> dict[str, str]:
        """Return the constructor's argument."""
        return {"name": self.name}

    def __repr__(self) -> str:
        return f'<DTypePolicy "{self.name}">'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DTypePolicy) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


_global_policy: DTypePolicy | None = None


def set_dtype_policy(policy: "DTypePolicy | str | None") -> None:
    """Set the policy of the models that are made from now on; `None` leaves each module its own dtype again.

    Raises:
        ValueError: If there is no such policy.
    """
    global _global_policy
    _global_policy = as_policy(policy)


def dtype_policy() -> DTypePolicy:
    """Return the policy of new models, `"float32"` unless it was set."""
    return _global_policy or DTypePolicy("float32")


def as_policy(policy: "DTypePolicy | str | None") -> DTypePolicy | None:
    """Return a policy by its name; `None` stays `None`."""
    return policy if policy is None or isinstance(policy, DTypePolicy) else DTypePolicy(policy)


class ComputePrecision:
    """Compute in the module's own dtype: the null object."""

    policy: DTypePolicy | None = None
    scales_loss = False

    def convert_module(self, module: nn.Module) -> None:
        """Leave the module unchanged."""

    def wrap_forward(self, call: Callable[..., Result]) -> Callable[..., Result]:
        """Return the function that calls the module, unchanged."""
        return call


class SingleDTypePrecision(ComputePrecision):
    """Weights and computation in one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Cast to `dtype`."""
        self._dtype = dtype

    def convert_module(self, module: nn.Module) -> None:
        """Cast the module."""
        module.to(self._dtype)


class MixedPrecision(ComputePrecision):
    """Weights as they are, and half precision where torch's autocast finds it safe."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Compute in `dtype`; gradients of float16 need a scaled loss."""
        self._dtype, self._device_type = dtype, device.type
        self.scales_loss = dtype == torch.float16

    def wrap_forward(self, call: Callable[..., Result]) -> Callable[..., Result]:
        """Call within autocast."""
        dtype, device_type = self._dtype, self._device_type

        def mixed(*arguments: object, **keywords: object) -> Result:
            with torch.autocast(device_type, dtype):
                return call(*arguments, **keywords)

        return mixed


def choose_precision(policy: DTypePolicy | str | None, device: torch.device) -> ComputePrecision:
    """Return the precision that `Model(dtype_policy=)`, or else the global policy, asks for.

    Raises:
        ValueError: If there is no such policy.
    """
    chosen = as_policy(policy) or _global_policy
    if chosen is None:
        return ComputePrecision()
    dtype = _DTYPES[chosen.compute_dtype]
    precision = MixedPrecision(dtype, device) if chosen.is_mixed else SingleDTypePrecision(dtype)
    precision.policy = chosen
    return precision
