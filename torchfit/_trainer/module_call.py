"""How a module is called with inputs of any structure, worked out once for each structure."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from torchfit._utils import tree
from torchfit._utils.errors import describe

Call = Callable[[Any], Any]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature:
    """What the `forward` of a module takes."""

    def __init__(self, module: nn.Module, input_names: Sequence[str] | None = None) -> None:
        """Read the parameters; `input_names` names the positional ones for dictionaries of inputs."""
        parameters = list(inspect.signature(module.forward).parameters.values())
        kinds = {parameter.kind for parameter in parameters}
        positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
        self.given_names = input_names
        self.keywords = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.takes_any_keyword = inspect.Parameter.VAR_KEYWORD in kinds
        self.required = sum(parameter.default is parameter.empty for parameter in positional)
        takes_any = inspect.Parameter.VAR_POSITIONAL in kinds
        self.most = float("inf") if takes_any else len(positional)

    @property
    def input_names(self) -> list[str]:
        """The names under which inputs may come."""
        return list(self.given_names or self.keywords)


def bind_call(module: nn.Module, signature: Signature, inputs: Any) -> Call:
    """Return a function that calls `module` with inputs structured like `inputs`.

    A tensor is the one positional argument, a list or tuple gives the positional arguments, a dictionary goes
    by name; a module whose `forward` takes a single argument gets a list or dictionary as a whole.
    """
    if isinstance(inputs, Mapping):
        return _bind_by_name(module, signature, inputs)
    if not isinstance(inputs, (list, tuple)):
        return module
    if signature.required <= len(inputs) <= signature.most:
        return lambda parts: module(*parts)
    if signature.required <= 1 <= signature.most:
        return module
    raise ValueError(
        f"`x` has {len(inputs)} parts, but `{type(module).__name__}.forward` takes {signature.required} inputs: "
        f"{signature.input_names}. Pass one array for each, or a dictionary with these names."
    )


def _bind_by_name(module: nn.Module, signature: Signature, inputs: Mapping[str, Any]) -> Call:
    names = signature.given_names
    if names is not None and set(inputs) <= set(names):
        in_order = [name for name in names if name in inputs]
        return lambda parts: module(*[parts[name] for name in in_order])
    if signature.takes_any_keyword or set(inputs) <= set(signature.keywords):
        return lambda parts: module(**parts)
    if signature.required <= 1 <= signature.most:
        return module
    raise ValueError(
        f"`x` is {describe(inputs)}, but `{type(module).__name__}.forward` takes the inputs "
        f"{signature.input_names}. Rename the keys, or name the inputs: Model(module, input_names=[…])."
    )


def rows_of(inputs: Any) -> Callable[[Any], int]:
    """Return a function that counts the samples in inputs structured like `inputs`."""
    path, leaf = next(tree.leaves_with_path(inputs))
    if not isinstance(leaf, Tensor) or leaf.ndim == 0:
        return lambda _: 1
    if not path:
        return lambda inputs: int(inputs.shape[0])
    first = tree.path_getter(inputs, path)
    return lambda parts: int(first(parts).shape[0])
