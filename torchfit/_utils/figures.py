"""Figures with matplotlib, which is imported only when one is drawn."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchfit._utils.console import in_notebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_figure(draw: "Callable[[Figure], None]") -> "Figure":
    """Draw on a new figure with `draw(figure)`, and return it.

    In a notebook it is displayed immediately, and only once even if the call is the last expression of a cell;
    elsewhere `matplotlib.pyplot.show()` displays it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    pyplot = _matplotlib("pyplot")
    figure: Figure = pyplot.figure(layout="constrained")
    draw(figure)
    if in_notebook():
        import_module("IPython.display").display(figure)
        pyplot.close(figure)
        vars(figure)["_ipython_display_"] = lambda: vars(figure).pop("_ipython_display_")
    return figure


def png_html(draw: "Callable[[Figure], None]", text: str) -> str:
    """Return the figure that `draw(figure)` draws as an HTML image, or `text` if matplotlib is not installed."""
    try:
        figure: Figure = _matplotlib("figure").Figure(layout="constrained")
    except ImportError:
        return f"<p>{escape(text)}</p>"
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}"/>'


def table_html(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return an HTML table; the first column is left-aligned, the others right-aligned."""
    head = "".join(f"<th{_side(column)}>{escape(cell)}</th>" for column, cell in enumerate(header))
    body = [
        "<tr>" + "".join(f"<td{_side(column)}>{escape(cell)}</td>" for column, cell in enumerate(row)) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _side(column: int) -> str:
    return f' style="text-align:{"right" if column else "left"}; padding:0.1em 0.7em"'


def _matplotlib(part: str) -> Any:
    try:
        return import_module(f"matplotlib.{part}")
    except ImportError as error:
        raise ImportError("Plots need matplotlib. Type: pip install matplotlib") from error
