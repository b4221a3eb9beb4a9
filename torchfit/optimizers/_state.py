"""The tensors of an optimizer's state under the names of their parameters, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchfit._utils.errors import describe

Named: TypeAlias = "Mapping[str, list[Tensor] | list[Tensor | None]]"


def by_parameter(names: list[str], slots: Named) -> dict[str, dict[str, Tensor]]:
    """Turn slot -> tensors in order into parameter -> slot -> tensor.

    >>> by_parameter(["w"], {"momentum": [torch.zeros(1)]})
    {'w': {'momentum': tensor([0.])}}
    """
    return {
        name: {slot: tensor for slot, tensors in slots.items() if (tensor := tensors[position]) is not None}
        for position, name in enumerate(names)
    }


def restore(names: list[str], slots: Named, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Copy saved tensors into the slots, in place: by name, or by order where the names are all different."""
    wanted = by_parameter(names, slots)
    pairs = zip(wanted.items(), _in_order(names, saved))
    copies = [copy for (name, targets), sources in pairs for copy in _pair(name, targets, sources)]
    with torch.no_grad():
        for target, source in copies:
            target.copy_(source)


def restore_shared(shared: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy the saved tensors that belong to no single parameter, in place."""
    with torch.no_grad():
        for target, source in _pair("all parameters", shared, saved):
            target.copy_(source)


def require(state: Any, keys: tuple[str, ...]) -> None:
    """Raise unless `state` is a dictionary with the keys of an optimizer's state."""
    if not isinstance(state, Mapping) or any(key not in state for key in keys):
        raise ValueError(
            f"`state` must be what `state_dict()` returned: a dictionary with the keys {list(keys)}. "
            f"Received: {describe(state)}."
        )


def _in_order(names: list[str], saved: Mapping[str, Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
    if set(names) == set(saved):
        return [saved[name] for name in names]
    if len(names) == len(saved) and not set(names) & set(saved):
        return list(saved.values())
    missing, foreign = sorted(set(names) - set(saved)), sorted(set(saved) - set(names))
    raise ValueError(
        f"The optimizer's state belongs to other parameters: it has none for {missing}, and some for {foreign} "
        f"({len(names)} parameters here, {len(saved)} there). Load it into an optimizer built with the same ones."
    )


def _pair(owner: str, targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    if set(targets) != set(sources):
        raise ValueError(
            f"The optimizer's state for {owner} holds {sorted(sources)}, and this optimizer needs "
            f"{sorted(targets)}. Load it into an optimizer of the same class and arguments."
        )
    for slot, target in targets.items():
        if target.shape != sources[slot].shape:
            raise ValueError(
                f"The optimizer's state {slot!r} for {owner} must have the shape {tuple(target.shape)}. "
                f"Received: {describe(sources[slot])}."
            )
    return [(target, sources[slot]) for slot, target in targets.items()]
