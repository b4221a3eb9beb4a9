"""`OptimizerMap`, a mapping from patterns of parameter names to optimizers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit._utils.names import suggest_constructor_keywords
from torchfit.optimizers import _arguments
from torchfit.optimizers.base import REGISTRY, Optimizer
from torchfit.optimizers.torch_optimizer import TorchOptimizer


@suggest_constructor_keywords
class OptimizerMap:
    """Optimizers by patterns of parameter names, and one for all other parameters.

    Args:
        default_optimizer: The optimizer (or its name) of parameters that no pattern matches. With `None`, there may be
            no such parameter.
        optimizer_map: Regular expressions that match the whole name of a parameter, such as `"encoder.*"`, each with an
            optimizer or its name.

    >>> from torchfit.optimizers import SGD, Adam
    >>> rules = OptimizerMap(SGD(0.1), {"encoder.*": Adam()})
    >>> rules["head.*"] = Adam(0.01)
    >>> rules["encoder.0.weight"].name, rules["neck.weight"].name, len(rules)
    ('adam', 'sgd', 2)
    """

    def __init__(self, default_optimizer: object, optimizer_map: Mapping[str, object] | None = None):
        self.default_optimizer = None if default_optimizer is None else resolve("default_optimizer", default_optimizer)
        self._optimizers: dict[str, Optimizer] = {}
        for pattern, optimizer in (optimizer_map or {}).items():
            self[pattern] = optimizer

    def __setitem__(self, pattern: str, optimizer: object) -> None:
        """Let an optimizer update the parameters whose whole name matches a pattern."""
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            rule = f"a mapping of regular expressions to optimizers ({error})"
            _arguments.invalid("optimizer_map", rule, pattern)
        self._optimizers[pattern] = resolve(f"optimizer_map[{pattern!r}]", optimizer)

    def __getitem__(self, name: str) -> Optimizer:
        """Return the optimizer of a pattern, or of the parameter of this name.

        Raises:
            ValueError: Several patterns match the name, or none, and there is no default.
        """
        found = [name] if name in self._optimizers else self.matching(name)
        if len({id(self._optimizers[pattern]) for pattern in found}) > 1:
            raise ValueError(
                f"Several optimizers are mapped to the parameter {name!r}, by the patterns {found}. Change them so "
                "that one matches."
            )
        if not found and self.default_optimizer is None:
            raise ValueError(
                f"No optimizer is mapped to the parameter {name!r}. Its name as a whole matches none of the patterns "
                f"{list(self)}; add one, or a default optimizer."
            )
        return self._optimizers[found[0]] if found else self.default_optimizer  # type: ignore[return-value]

    def __delitem__(self, pattern: str) -> None:
        """Remove a pattern."""
        del self._optimizers[pattern]

    def __len__(self) -> int:
        """Return how many patterns there are."""
        return len(self._optimizers)

    def __iter__(self) -> Iterator[str]:
        """Yield the patterns."""
        return iter(self._optimizers)

    def matching(self, name: str) -> list[str]:
        """Return the patterns that match a name."""
        return [pattern for pattern in self._optimizers if re.fullmatch(pattern, name)]

    def __call__(self, name: str, parameter: Tensor | None = None) -> Optimizer:
        """Return the optimizer of the parameter of this name."""
        return self[name]

    def get_config(self) -> Config:
        """Return the optimizers as plain data."""
        return {
            "default_optimizer": None if self.default_optimizer is None else REGISTRY.serialize(self.default_optimizer),
            "optimizer_map": {pattern: REGISTRY.serialize(each) for pattern, each in self._optimizers.items()},
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> OptimizerMap:
        """Build a map from what `get_config` returned."""
        patterns, default = config.get("optimizer_map") or {}, config.get("default_optimizer")
        return cls(
            None if default is None else REGISTRY.deserialize(default, custom_objects),
            {pattern: REGISTRY.deserialize(each, custom_objects) for pattern, each in patterns.items()},
        )


def resolve(argument: str, optimizer: object) -> Optimizer:
    """Return the optimizer that a name, a class, plain data of `serialize` or an optimizer stands for.

    Raises:
        ValueError: It is one of torch, or wraps others.
    """
    found = REGISTRY.lookup(optimizer) if isinstance(optimizer, str) else optimizer
    if isinstance(found, Mapping) or (isinstance(found, type) and not getattr(found, "wraps_others", True)):
        found = REGISTRY.get(found)
    if not isinstance(found, Optimizer) or found.wraps_others:
        _arguments.invalid(argument, f"{_RULE}{_instead_of_torch(found)}", optimizer)
    return found


_RULE = "an optimizer of torchfit.optimizers (or its name) that wraps no other"


def _instead_of_torch(found: object) -> str:
    """Return a hint for what is, or makes, an optimizer of torch, and an empty text for anything else."""
    maker = found.func if isinstance(found, functools.partial) else found
    kind = maker if isinstance(maker, type) else type(maker)
    if not issubclass(kind, (torch.optim.Optimizer, TorchOptimizer)):
        return ""
    own = REGISTRY.entries.get(kind.__name__)
    is_here_too = isinstance(own, type) and issubclass(own, Optimizer)
    alternative = f"Pass torchfit.optimizers.{kind.__name__}, or give" if is_here_too else "Give"
    return (
        f", but this is one of torch.optim. {alternative} `compile` one of torch.optim with groups of parameters, "
        "[{'params': net[0].parameters(), 'lr': 0.1}, …]"
    )
