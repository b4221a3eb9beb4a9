"""The table that `summary` prints: layers with their output shapes and numbers of weights."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._trainer.base_model import BaseModel
from torchfit._trainer.module_call import ModuleCaller, make_module_call
from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.modules import class_name, device_of, floating_dtype_of, takes_hooks, training_mode, weight_tensors
from torchfit._utils.notebook import table_html

Row = tuple[str, ...]


@dataclass
class Summary:
    """The contents of the summary of a model."""

    name: str
    header: Row
    rows: list[Row]
    totals: list[str]

    def text(self, line_length: int | None = None, positions: Sequence[float] | None = None) -> str:
        """Return the table, `line_length` characters wide or, by default, as wide as the contents need and at least 65.

        `positions` are where the columns end, in characters or as fractions of the line.
        """
        lines = _table([self.header, *self.rows], line_length, positions)
        return "\n".join([f'Model: "{self.name}"', *lines, *self.totals])

    def html(self) -> str:
        """Return the table as HTML, for a notebook."""
        totals = "<br/>".join(map(escape, self.totals))
        return f"<p><b>Model: {escape(self.name)}</b></p>{table_html(self.header, self.rows)}<p>{totals}</p>"


def summarize_model(model: BaseModel, call: ModuleCaller, input_shape: Nested = None, **options: Any) -> Summary:
    """Return the summary of a model.

    Args:
        model: The model.
        call: The caller of its module.
        input_shape: The shape of one sample, or a list or dictionary of shapes; by default that of the last data.
        **options: Further arguments of `summarize`.
    """
    example = call.example if input_shape is None else zeros_for_shape(input_shape)
    run = None if example is None else lambda: _run_example(model, call, example)
    held = model.optimizer.variables if getattr(model.optimizer, "built", False) else ()
    return summarize(model.name, model.module, run, optimizer_weights=held, **options)


def _run_example(model: BaseModel, call: ModuleCaller, example: Nested) -> None:
    module = model.module
    device, dtype = device_of(module), floating_dtype_of(module)
    inputs = tree.map(lambda leaf: leaf.to(device, dtype if leaf.is_floating_point() else None), example)
    devices = [device] if device.type == "cuda" else []
    with training_mode(model, training=False), torch.random.fork_rng(devices):
        make_module_call(call.signature(module), inputs)(module, inputs)


def summarize(
    name: str,
    module: nn.Module,
    run: Callable[[], object] | None = None,
    expand_nested: bool = False,
    show_trainable: bool = False,
    layer_range: Sequence[str] | None = None,
    optimizer_weights: Sequence[Tensor] = (),
) -> Summary:
    """Return the summary of a module.

    Args:
        name: The name of the model.
        module: The module whose children are listed, or itself if it has none.
        run: A function that calls the module on an example batch, for the shapes; without it they are unknown.
        expand_nested: Whether to list the layers inside layers.
        show_trainable: Whether to show which layers are trainable.
        layer_range: Patterns (`re`) for the first and the last layer to list; all by default.
        optimizer_weights: The tensors that the optimizer holds.

    Raises:
        ValueError: If no layer matches a pattern of `layer_range`.
    """
    layers = list(_layers(module, expand_nested))
    shapes = _output_shapes([layer for _, layer in layers], run)
    layers = layers if layer_range is None else _between(layers, layer_range)
    header: Row = ("Layer (type)", "Output Shape", "Param #")
    rows: list[Row] = [
        (f"{path} ({class_name(layer)})", shapes.get(id(layer), "?"), _count(layer)) for path, layer in layers
    ]
    if show_trainable:
        header = (*header, "Trainable")
        rows = [(*row, _trainable(layer)) for row, (_, layer) in zip(rows, layers)]
    return Summary(name, header, rows, _totals(module, list(optimizer_weights)))


def _between(layers: list[tuple[str, nn.Module]], layer_range: Sequence[str]) -> list[tuple[str, nn.Module]]:
    if isinstance(layer_range, str) or len(layer_range) != 2:
        raise ValueError("`layer_range` must be two patterns: of the name of the first layer, and of the last.")
    first, last = (
        [number for number, (path, _) in enumerate(layers) if re.match(pattern, path)] for pattern in layer_range
    )
    if not first or not last:
        raise ValueError(
            f"`layer_range` matches no layer with {layer_range[0 if not first else 1]!r}. "
            f"The layers are {[path for path, _ in layers]}."
        )
    return layers[min(first) : max(last) + 1]


def _layers(module: nn.Module, deep: bool) -> Iterator[tuple[str, nn.Module]]:
    if deep:
        inner = [(path, layer) for path, layer in module.named_modules() if path]
    else:
        inner = list(module.named_children())
    yield from inner or [(class_name(module).lower(), module)]


def _output_shapes(layers: list[nn.Module], run: Callable[[], object] | None) -> dict[int, str]:
    shapes: dict[int, str] = {}
    if run is None:
        return shapes
    with _recording(layers, shapes), torch.no_grad():
        run()
    return shapes


@contextmanager
def _recording(layers: list[nn.Module], shapes: dict[int, str]) -> Iterator[None]:
    def record(layer: nn.Module, _: object, outputs: Nested) -> None:
        shapes[id(layer)] = ", ".join(_shape(leaf) for leaf in tree.leaves(outputs) if isinstance(leaf, Tensor))

    handles = [layer.register_forward_hook(record) for layer in filter(takes_hooks, layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(['None', *map(str, tensor.shape[1:])])})" if tensor.ndim else "()"


def _count(layer: nn.Module) -> str:
    tensors = weight_tensors(layer)
    return "?" if any(map(is_lazy, tensors)) else f"{sum(tensor.numel() for tensor in tensors):,}"


def _trainable(layer: nn.Module) -> str:
    return "-" if not weight_tensors(layer) else "Y" if any(p.requires_grad for p in layer.parameters()) else "N"


def _table(rows: list[Row], line_length: int | None, positions: Sequence[float] | None) -> list[str]:
    widths = _widths(rows, line_length) if positions is None else _column_widths(positions, line_length, len(rows[0]))
    lines = ["".join(_pad(cell, width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    width = line_length or sum(widths)
    return ["_" * width, lines[0], "=" * width, *lines[1:], "=" * width]


def _widths(rows: list[Row], line_length: int | None) -> list[int]:
    widths = [max(map(len, column)) + 2 for column in zip(*rows)]
    width = line_length or max(65, sum(widths))
    widths[0] += max(0, width - sum(widths)) * 2 // 3
    widths[1] = max(1, width - widths[0] - sum(widths[2:]))
    return widths


def _column_widths(positions: Sequence[float], line_length: int | None, columns: int) -> list[int]:
    if len(positions) < columns:
        raise ValueError(f"`positions` must say where each of the {columns} columns ends, not {len(positions)}.")
    ends = [round(end * (line_length or 65)) if end <= 1 else int(end) for end in positions[:columns]]
    return [max(1, end - start) for start, end in zip([0, *ends], ends)]


def _pad(cell: str, width: int) -> str:
    return (cell if len(cell) < width else cell[: max(0, width - 2)] + "…").ljust(width)


def _totals(module: nn.Module, optimizer_weights: list[Tensor]) -> list[str]:
    weights = weight_tensors(module)
    trained = [tensor for tensor in weights if tensor.requires_grad]
    rest = [tensor for tensor in weights if not tensor.requires_grad]
    kinds = [("Total", weights), ("Trainable", trained), ("Non-trainable", rest)]
    if optimizer_weights:
        kinds.append(("Optimizer", optimizer_weights))
    return [f"{kind} params: {_size(tensors)}" for kind, tensors in kinds]


def _size(tensors: list[Tensor]) -> str:
    known = [tensor for tensor in tensors if not is_lazy(tensor)]
    count = f"{sum(tensor.numel() for tensor in known):,}" + ("" if len(known) == len(tensors) else " and lazy ones")
    return f"{count} ({readable_size(sum(tensor.numel() * tensor.element_size() for tensor in known))})"


def readable_size(size: float) -> str:
    """Format a number of bytes.

    >>> readable_size(218_856)
    '213.73 KB'
    """
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GB"


def zeros_for_shape(shape: Nested) -> Nested:
    """Return a batch of one sample of zeros with a shape, or a list or dictionary of shapes."""
    if isinstance(shape, Mapping):
        return {name: zeros_for_shape(part) for name, part in shape.items()}
    if any(isinstance(part, (tuple, list)) for part in shape):
        return [zeros_for_shape(part) for part in shape]
    return torch.zeros(1, *(1 if size is None else size for size in shape))
