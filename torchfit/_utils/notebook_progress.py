"""The bar of a notebook: a widget where ipywidgets is installed, else HTML."""

from html import escape
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol


class Output(Protocol):
    """An output of a cell, as IPython returns it."""

    def update(self, content: object, *, raw: bool) -> None:
        """Replace what is displayed."""


class NotebookBar:
    """A bar in one output, which is emptied when it is closed, so that nothing of it is saved with the notebook."""

    def __init__(self) -> None:
        self._output: Output | None = None
        self._label = ""
        self._drawn = (0, 1, "")
        self._widgets: tuple[Any, ...] = ()

    def open(self, label: str) -> None:
        """Write a label in front of the bar, and show it empty if there is none yet."""
        self._label = label
        if self._output is None:
            self.show(0, 1, "")

    def show(self, completed: int, total: int | None, text: str) -> None:
        """Move the bar, which is full while the total is unknown, and write a text after it."""
        self._drawn = (completed if total else 1, total or 1, text)
        count = f" {completed}/{total or 'Unknown'}" if text else ""
        self._text = f"{self._label}{count}{text}"
        if self._output is None:
            self._open()
        elif not self._widgets:
            self._output.update(_html(*self._drawn[:2], self._text), raw=True)
        if self._widgets:
            bar, label = self._widgets
            bar.max, bar.value, label.value = self._drawn[1], self._drawn[0], self._text

    def close(self) -> None:
        """Remove the bar."""
        output, self._output = self._output, None
        if output is not None:
            output.update({"text/html": "", "text/plain": ""}, raw=True)
        self._close_widgets()

    def abandon(self) -> None:
        """Leave the bar as it is, in red."""
        output, self._output = self._output, None
        if output is not None:
            output.update(_html(*self._drawn[:2], self._text, "accent-color: #d9534f"), raw=True)
        self._close_widgets()

    def _open(self) -> None:
        display = import_module("IPython.display").display
        if find_spec("ipywidgets") is None:
            self._output = display(_html(*self._drawn[:2], self._text), raw=True, display_id=True)
            return
        widgets = import_module("ipywidgets")
        bar, label = widgets.FloatProgress(min=0, max=1, layout={"width": "30%"}), widgets.Label()
        self._widgets = bar, label
        self._output = display(widgets.HBox([bar, label]), display_id=True)

    def _close_widgets(self) -> None:
        for widget in self._widgets:
            widget.close()
        self._widgets = ()


def _html(value: int, total: int, text: str, style: str = "") -> dict[str, str]:
    bar = f'<progress value="{value}" max="{total}" style="width: 30%; {style}"></progress>'
    return {"text/html": f"<div>{bar} {escape(text)}</div>", "text/plain": text}
