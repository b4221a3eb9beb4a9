"""The table that `summary` prints: layers, the shapes they give, and what they weigh."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._support import tree
from torchfit._support.modules import counted

Row = tuple[str, ...]


def summarize(
    name: str,
    module: nn.Module,
    run: Callable[[], Any] | None = None,
    line_length: int | None = None,
    expand_nested: bool = False,
    show_trainable: bool = False,
) -> str:
    """Return the table.

    Args:
        name: The name of the model.
        module: What is described: its children, or itself where it has none.
        run: Calls the module on an example batch, for the shapes; without it they are unknown.
        line_length: Characters in a line; by default as many as the contents need, at least 65.
        expand_nested: Whether to list the layers inside of layers.
        show_trainable: Whether to tell which layers are trained.
    """
    layers = list(_layers(module, expand_nested))
    shapes = _output_shapes([layer for _, layer in layers], run)
    header: Row = ("Layer (type)", "Output Shape", "Param #")
    rows: list[Row] = [
        (f"{path} ({type(layer).__name__})", shapes.get(id(layer), "?"), _count(layer)) for path, layer in layers
    ]
    if show_trainable:
        header = (*header, "Trainable")
        rows = [(*row, _trainable(layer)) for row, (_, layer) in zip(rows, layers)]
    return "\n".join([f'Model: "{name}"', *_table([header, *rows], line_length), *_totals(module)])


def _layers(module: nn.Module, deep: bool) -> Iterator[tuple[str, nn.Module]]:
    if deep:
        inner = [(path, layer) for path, layer in module.named_modules() if path]
    else:
        inner = list(module.named_children())
    yield from inner or [(type(module).__name__.lower(), module)]


def _output_shapes(layers: list[nn.Module], run: Callable[[], Any] | None) -> dict[int, str]:
    shapes: dict[int, str] = {}
    if run is None:
        return shapes
    with _recording(layers, shapes), torch.no_grad():
        run()
    return shapes


@contextmanager
def _recording(layers: list[nn.Module], shapes: dict[int, str]) -> Iterator[None]:
    def record(layer: nn.Module, _: Any, outputs: Any) -> None:
        shapes[id(layer)] = ", ".join(_shape(leaf) for leaf in tree.leaves(outputs) if isinstance(leaf, Tensor))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(['None', *map(str, tensor.shape[1:])])})" if tensor.ndim else "()"


def _count(layer: nn.Module) -> str:
    tensors = counted(layer)
    return "?" if any(map(is_lazy, tensors)) else f"{sum(tensor.numel() for tensor in tensors):,}"


def _trainable(layer: nn.Module) -> str:
    return "-" if not counted(layer) else "Y" if any(p.requires_grad for p in layer.parameters()) else "N"


def _table(rows: list[Row], line_length: int | None) -> list[str]:
    widths = [max(map(len, column)) + 2 for column in zip(*rows)]
    width = line_length or max(65, sum(widths))
    widths[0] += max(0, width - sum(widths)) * 2 // 3
    widths[1] = max(1, width - widths[0] - sum(widths[2:]))
    lines = ["".join(_fit(cell, room) for cell, room in zip(row, widths)).rstrip() for row in rows]
    return ["_" * width, lines[0], "=" * width, *lines[1:], "=" * width]


def _fit(cell: str, room: int) -> str:
    return (cell if len(cell) < room else cell[: max(0, room - 2)] + "…").ljust(room)


def _totals(module: nn.Module) -> list[str]:
    weights = counted(module)
    trained = [tensor for tensor in weights if tensor.requires_grad]
    rest = [tensor for tensor in weights if not tensor.requires_grad]
    kinds = (("Total", weights), ("Trainable", trained), ("Non-trainable", rest))
    return [f"{kind} params: {_size(tensors)}" for kind, tensors in kinds]


def _size(tensors: list[Tensor]) -> str:
    known = [tensor for tensor in tensors if not is_lazy(tensor)]
    count = f"{sum(tensor.numel() for tensor in known):,}" + ("" if len(known) == len(tensors) else " and lazy ones")
    return f"{count} ({readable_size(sum(tensor.numel() * tensor.element_size() for tensor in known))})"


def readable_size(size: float) -> str:
    """Write a number of bytes.

    >>> readable_size(218_856)
    '213.73 KB'
    """
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GB"


def zeros_of(shape: Any) -> Any:
    """Return a batch of one sample of zeros for a shape, or for a list or dictionary of shapes."""
    if isinstance(shape, Mapping):
        return {name: zeros_of(part) for name, part in shape.items()}
    if any(isinstance(part, (tuple, list)) for part in shape):
        return [zeros_of(part) for part in shape]
    return torch.zeros(1, *(1 if size is None else size for size in shape))


def blank(inputs: Any) -> Any:
    """Return one sample of zeros like a batch of inputs, on the CPU, to remember what data look like."""
    return tree.map_leaves(_blank_leaf, inputs)


def _blank_leaf(leaf: Any) -> Any:
    return torch.zeros(1, *leaf.shape[1:], dtype=leaf.dtype) if isinstance(leaf, Tensor) and leaf.ndim else leaf
