"""Plots of a model's graph, traced by torchview and drawn by Graphviz."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._serialization.files import require_local
from torchfit._trainer.summary import zeros_for_shape
from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.console import in_notebook
from torchfit._utils.errors import describe
from torchfit._utils.modules import device_of, floating_dtype_of, takes_hooks, training_mode
from torchfit._utils.names import suggest_keywords
from torchfit.utils.random_state import preserve_rng_state

_EVERY_LEVEL = 1_000
_COLOURS = {"TensorNode": "#fff7d6", "ModuleNode": "#dcefdc", "FunctionNode": "#e3ecf7"}
_FONT = "Helvetica"


@dataclass(frozen=True)
class Style:
    """The contents of the boxes of a plot."""

    shapes: bool
    dtype: bool
    names: bool
    activations: bool
    trainable: bool


@suggest_keywords
def plot_model(
    model: nn.Module,
    to_file: str | os.PathLike[str] | None = "model.png",
    show_shapes: bool = False,
    show_dtype: bool = False,
    show_layer_names: bool = False,
    rankdir: str = "TB",
    expand_nested: bool = False,
    dpi: int = 200,
    show_layer_activations: bool = False,
    show_trainable: bool = False,
    splines: str = "ortho",
    *,
    input_shape: object = None,
) -> Any:
    """Draw the graph of a model: its layers and the functions between them, as one batch goes through.

    Needs the packages torchview, graphviz and pygraphviz (`pip install torchview graphviz pygraphviz`); in the place of
    the last one the program `dot` of Graphviz will do.

    Args:
        model: A `Model`, or a module.
        to_file: The path of the file; its extension determines the format: png, svg, pdf, …
        show_shapes: Whether to write the shapes of inputs and outputs, `None` standing for the batch.
        show_dtype: Whether to write the dtypes of outputs.
        show_layer_names: Whether to write the names of layers, as in `named_modules`.
        rankdir: "TB" draws from top to bottom, "LR" from left to right.
        expand_nested: Whether to draw the layers inside layers, in frames.
        dpi: Dots per inch.
        show_layer_activations: Whether to write the activation that a layer has inside, such as that of an `nn.RNN`.
            Activations that are layers or functions are drawn in any case.
        show_trainable: Whether to write which layers are trained.
        splines: How Graphviz draws lines: "ortho", "curved", "polyline", …
        input_shape: The shape of one sample, or a list or dictionary of shapes; by default that of the data which the
            model saw last.

    Returns:
        An `IPython.display.Image` in a notebook, so that a cell ending with the call shows it; else `None`.

    Raises:
        ImportError: If something is not installed, with the line to type.
        ValueError: If the model saw no data and there is no `input_shape`.
    """
    path = require_local("plot_model", to_file if to_file is not None else "model.png")
    stem, ending = os.path.splitext(path)
    style = Style(show_shapes, show_dtype, show_layer_names, show_layer_activations, show_trainable)
    graph = model_to_dot(model, style, rankdir, expand_nested, dpi, splines, input_shape)
    content = _render(graph, ending[1:].lower() or "png")
    path = path if ending else f"{stem}.png"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    is_shown = in_notebook() and ending.lower() in ("", ".png", ".jpg", ".jpeg")
    return import_module("IPython.display").Image(data=content) if is_shown else None


def _render(graph: Any, format: str) -> bytes:
    """Return the picture: drawn by pygraphviz, which brings Graphviz with it, or by the program `dot`."""
    try:
        content: bytes = import_module("pygraphviz").AGraph(string=graph.source).draw(format=format, prog="dot")
    except ImportError:
        content = _run_dot(graph, format)
    return content


def _run_dot(graph: Any, format: str) -> bytes:
    try:
        content: bytes = graph.pipe(format=format)
    except import_module("graphviz").ExecutableNotFound as error:
        raise ImportError(
            "plot_model needs Graphviz. Type: pip install pygraphviz, which brings it; or install its program `dot`: "
            "sudo apt install graphviz (Debian, Ubuntu), brew install graphviz (macOS), conda install graphviz."
        ) from error
    return content


def model_to_dot(
    model: nn.Module, style: Style, rankdir: str, expand_nested: bool, dpi: int, splines: str, input_shape: object
) -> Any:
    """Return the `graphviz.Digraph`."""
    if rankdir not in ("TB", "BT", "LR", "RL"):
        raise ValueError(f"`rankdir` must be 'TB', 'BT', 'LR' or 'RL', but it is {describe(rankdir)}.")
    torchview = _torchview()
    module = getattr(model, "module", model)
    example = _example(model, input_shape)
    inputs = tree.map(lambda leaf: _placed(leaf, module), example)
    arguments = inputs if isinstance(inputs, (list, tuple, Mapping)) else [inputs]
    depth = _EVERY_LEVEL if expand_nested else 1
    options = {"depth": depth, "expand_nested": expand_nested, "device": device_of(module), "mode": "eval"}
    with training_mode(module, training=False), preserve_rng_state():
        traced = torchview.draw_graph(module, input_data=arguments, **options)
    graph = traced.visual_graph
    labels = Labels(module, inputs, style)
    labels.name_inputs(traced.root_container, list(example if isinstance(example, Mapping) else _input_names(model)))
    traced.get_node_label = labels.label
    graph.clear(keep_attrs=False)
    graph.attr(rankdir=rankdir, dpi=str(dpi), splines=splines, fontname=_FONT, ranksep="0.35", nodesep="0.3")
    graph.attr("node", shape="plaintext", fontname=_FONT, fontsize="11", margin="0")
    graph.attr("edge", fontname=_FONT, fontsize="10", arrowsize="0.7", color="#555555")
    _draw_again(traced)
    return graph


def _draw_again(traced: Any) -> None:
    """Make torchview build its graph again with other labels."""
    traced.id_dict.clear()
    traced.node_set.clear()
    traced.edge_list.clear()
    traced.running_node_id = 0
    traced.render_nodes()
    traced.render_edges()


class Labels:
    """Writes the labels of the boxes, in Graphviz' HTML."""

    def __init__(self, module: nn.Module, inputs: Nested, style: Style) -> None:
        """Index the layers of a module by identity."""
        self._layers = {id(layer): (name, layer) for name, layer in module.named_modules()}
        self._style = style
        self._dtypes = _dtypes(module, inputs) if style.dtype else {}
        self._input_names: dict[int, str] = {}

    def name_inputs(self, nodes: Sequence[object], names: Sequence[str]) -> None:
        """Give the inputs their names, if there are several."""
        if len(nodes) > 1:
            self._input_names = {id(node): name for node, name in zip(nodes, names)}

    def label(self, node: object) -> str:
        """Return the label of one of torchview's nodes."""
        rows = [_cell(self._title(node), bold=True), *map(_cell, self._lines(node))]
        colour = _COLOURS[type(node).__name__]
        table = f'BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="5" BGCOLOR="{colour}" COLOR="#777777"'
        return f"<<TABLE {table}>{''.join(f'<TR>{row}</TR>' for row in rows)}</TABLE>>"

    def _title(self, node: Any) -> str:
        name, layer = self._layers.get(getattr(node, "compute_unit_id", 0), ("", None))
        named = self._input_names.get(id(node), str(node.name).removesuffix("-tensor"))
        kind = named if layer is None else type(layer).__name__
        return f"{name} ({kind})" if name and self._style.names else kind

    def _lines(self, node: Any) -> Iterator[str]:
        _, layer = self._layers.get(getattr(node, "compute_unit_id", 0), ("", None))
        style = self._style
        if style.activations and layer is not None and _activation(layer):
            yield f"activation: {_activation(layer)}"
        if style.shapes and hasattr(node, "tensor_shape"):
            yield f"shape: {_shape(node.tensor_shape)}"
        elif style.shapes:
            yield f"input: {_shapes(node.input_shape)}"
            yield f"output: {_shapes(node.output_shape)}"
        if style.dtype and id(layer) in self._dtypes:
            yield f"dtype: {self._dtypes[id(layer)]}"
        if style.trainable and layer is not None and any(True for _ in layer.parameters()):
            yield "trainable" if any(weight.requires_grad for weight in layer.parameters()) else "not trainable"


def _cell(text: str, bold: bool = False) -> str:
    inner = f"<B>{escape(text)}</B>" if bold else escape(text)
    return f'<TD ALIGN="CENTER">{inner}</TD>'


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(['None', *map(str, shape[1:])])})" if len(shape) else "()"


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(map(_shape, shapes)) or "none"


def _activation(layer: nn.Module) -> str:
    found = getattr(layer, "nonlinearity", None) or getattr(layer, "activation", None)
    return found if isinstance(found, str) else getattr(found, "__name__", type(found).__name__ if found else "")


def _dtypes(module: nn.Module, inputs: Nested) -> dict[int, str]:
    found: dict[int, str] = {}

    def note(layer: nn.Module, _: object, outputs: object) -> None:
        kinds = [str(leaf.dtype).removeprefix("torch.") for leaf in tree.leaves(outputs) if isinstance(leaf, Tensor)]
        found[id(layer)] = ", ".join(dict.fromkeys(kinds))

    handles = [layer.register_forward_hook(note) for layer in filter(takes_hooks, module.modules())]
    try:
        with torch.no_grad(), training_mode(module, training=False), preserve_rng_state():
            _call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _call(module: nn.Module, inputs: Nested) -> Nested:
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, (list, tuple)) else module(inputs)


def _example(model: nn.Module, input_shape: object) -> Nested:
    example = getattr(model, "example_inputs", None) if input_shape is None else zeros_for_shape(input_shape)
    if example is None:
        raise ValueError("The model saw no data yet: pass `input_shape=`, the shape of one sample, or call it first.")
    return example


def _input_names(model: nn.Module) -> Sequence[str]:
    return getattr(model, "input_names", ())


def _placed(leaf: object, module: nn.Module) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.to(device_of(module), floating_dtype_of(module) if leaf.is_floating_point() else None)


def _torchview() -> ModuleType:
    try:
        import_module("graphviz")
        return import_module("torchview")
    except ImportError as error:
        raise ImportError(
            "plot_model needs torchview and graphviz. Type: pip install torchview graphviz pygraphviz"
        ) from error
