import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import Terminal
from torchfit._utils import console, notebook
from torchfit._utils.notebook import Row, table_bundle
from torchfit._utils.progress_display import Notebook
from torchfit.callbacks import CallbackList, EarlyStopping, LambdaCallback, ProgbarLogger
from torchfit.callbacks.progress import resolve_verbose


class Untouchable(dict):
    """Logs that must not be read."""

    def __iter__(self):
        raise AssertionError("read")

    keys = items = __getitem__ = get = __len__ = __iter__  # type: ignore[assignment]


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that makes standard output a terminal; pytest changes it between fixture and test."""

    def install(seconds_between_draws=0.0):
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr("torchfit.callbacks.progress._SECONDS_BETWEEN_DRAWS", seconds_between_draws)
        return sys.stdout

    return install


def without_times(text):
    return re.sub(r"\d+s - \d+[mu]?s/step|\d+s \d+[mu]?s/step", "TIME", text)


def fit(epochs=1, steps=4, verbose=1, known=True, logs=None):
    callbacks = CallbackList(ProgbarLogger(), verbose=verbose, epochs=epochs, steps=steps if known else None)
    callbacks.on_train_begin({})
    for epoch in range(epochs):
        callbacks.on_epoch_begin(epoch, {})
        for step in range(steps):
            callbacks.on_train_batch_end(step, {"loss": 0.5} if logs is None else logs)
        callbacks.on_test_begin({})
        callbacks.on_test_batch_end(0, Untouchable())
        callbacks.on_test_end(Untouchable())
        callbacks.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 0.25})
    callbacks.on_train_end({})
    return callbacks


def test_a_file_gets_finished_lines_without_control_characters(capsys):
    fit(epochs=2)
    line = "4/4 [==============================] - TIME - loss: 0.5000 - val_loss: 0.2500\n"
    assert without_times(capsys.readouterr().out) == f"Epoch 1/2\n{line}Epoch 2/2\n{line}"


def test_one_epoch_has_no_header(capsys):
    fit()
    assert capsys.readouterr().out.startswith("4/4 [===")


def test_verbose_2_is_a_line_without_a_bar(capsys):
    fit(epochs=2, verbose=2)
    line = "4/4 - TIME - loss: 0.5000 - val_loss: 0.2500\n"
    assert without_times(capsys.readouterr().out) == f"Epoch 1/2\n{line}Epoch 2/2\n{line}"


def test_verbose_0_hears_nothing(capsys):
    callbacks = fit(verbose=0)
    assert capsys.readouterr().out == ""
    assert not callbacks.has_listeners("on_train_batch_end")


def test_an_unknown_length_is_known_at_the_end(capsys):
    fit(known=False)
    assert capsys.readouterr().out.startswith("4/4 [====")


def test_an_epoch_that_breaks_off_says_how_far_it_came(capsys):
    callbacks = CallbackList(ProgbarLogger(), verbose=2, epochs=1, steps=10)
    callbacks.on_train_begin({})
    callbacks.on_epoch_begin(0, {})
    callbacks.on_train_batch_end(3, {})
    callbacks.on_epoch_end(0, {})
    assert capsys.readouterr().out.startswith(" 4/10 - ")


def test_more_steps_than_said(capsys):
    callbacks = CallbackList(ProgbarLogger(), verbose=2, epochs=1, steps=2)
    callbacks.on_epoch_begin(0, {})
    callbacks.on_train_batch_end(4, {})
    callbacks.on_epoch_end(0, {})
    assert capsys.readouterr().out.startswith("5/5 - ")


def test_an_epoch_without_steps(capsys):
    fit(steps=0)
    assert capsys.readouterr().out == "0/0 - 0s 0s/step - loss: 0.5000 - val_loss: 0.2500\n"


@pytest.mark.parametrize("loop", ["test", "predict"])
def test_evaluation_and_prediction_have_a_line_of_their_own(loop, capsys):
    callbacks = CallbackList(add_progbar=True, verbose=1, steps=2)
    getattr(callbacks, f"on_{loop}_begin")()
    for batch in range(2):
        getattr(callbacks, f"on_{loop}_batch_end")(batch, {"outputs": 1.0, "loss": 0.125})
    getattr(callbacks, f"on_{loop}_end")({"loss": 0.125} if loop == "test" else {})
    expected = {"test": " - loss: 0.1250", "predict": ""}[loop]
    assert without_times(capsys.readouterr().out) == f"2/2 [==============================] - TIME{expected}\n"


def test_quick_steps_are_neither_drawn_nor_read(terminal):
    screen = terminal(seconds_between_draws=60.0)
    fit(logs=Untouchable())
    assert screen.getvalue().count("\r") == 0


def test_slow_steps_are_drawn_and_wiped(terminal):
    screen = terminal()
    fit()
    moving, _, final = screen.getvalue().rpartition("\r")
    assert "2/4 [==============>...............] - ETA: 0s - loss: 0.5000" in moving
    assert re.fullmatch(r"4/4 \[={20,}\] - TIME - loss: 0.5000 - val_loss: 0.2500\n", without_times(final))


def test_a_moving_line_cuts_no_number(terminal):
    screen = terminal()
    fit(logs={"loss": 28644.4551, "mean_absolute_error": 169.5, "root_mean_squared_error": 169.5})
    drawn = [line for line in screen.getvalue().split("\r") if "ETA" in line]
    assert drawn
    assert all(len(line) < 80 for line in drawn)
    assert all(line.endswith("- loss: 28644.4551 - mean_absolute_error: 169.5000 …") for line in drawn)


def test_a_moving_line_never_wraps(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setenv("COLUMNS", "20")
    fit()
    moving = screen.getvalue().split("\r")[:-1]
    assert max(len(line) for line in moving) == 19


def test_a_message_goes_above_the_bar(terminal):
    screen = terminal()
    bar = ProgbarLogger()
    bar.set_params({"steps": 4})
    bar.on_epoch_begin(0)
    bar.on_train_batch_end(0, {})
    console.write_line("saved")
    bar.on_epoch_end(0, {})
    assert "saved\n\r1/4" in screen.getvalue()


def test_what_breaks_off_stays_on_the_screen(terminal):
    screen = terminal()
    callbacks = CallbackList(ProgbarLogger(), verbose=1, epochs=1, steps=4)
    callbacks.on_epoch_begin(0, {})
    callbacks.on_train_batch_end(1, {"loss": 0.5})
    callbacks.close()
    callbacks.close()
    assert screen.getvalue().endswith("\r2/4 - ETA: 0s - loss: 0.5000\n")


def test_tqdm_disable_is_honoured(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    fit()
    assert "\r" not in screen.getvalue()


def test_logging_instead_of_printing(caplog, capsys):
    console.disable_interactive_logging()
    try:
        with caplog.at_level("INFO", logger="torchfit"):
            fit()
            console.write_line("\nEpoch 00001: saved")
    finally:
        console.enable_interactive_logging()
    assert capsys.readouterr().out == ""
    assert [record.getMessage()[:3] for record in caplog.records] == ["4/4", "Epo"]


def test_callbacks_that_come_later_speak_after_the_line(drive, capsys):
    drive([ProgbarLogger(), EarlyStopping(verbose=1)], [{"val_loss": 1.0}] * 2, steps=1, epochs=2, verbose=2)
    assert capsys.readouterr().out.splitlines()[-1] == "Epoch 00002: early stopping"


def test_the_line_shows_what_later_callbacks_add(capsys):
    add = LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(f1=0.5), on_test_end=lambda logs: logs.update(f1=0.5)
    )
    callbacks = CallbackList([add], add_history=True, add_progbar=True, verbose=2, steps=1)
    callbacks.on_epoch_begin(0, {})
    callbacks.on_epoch_end(0, {"loss": 0.25})
    callbacks.on_test_begin({})
    callbacks.on_test_end({"loss": 0.25})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("step")[2] for line in lines] == [" - loss: 0.2500 - f1: 0.5000"] * 2


@pytest.mark.parametrize("columns", [60, 72, 80, 100, 120, 200])
def test_no_number_is_cut_on_a_terminal_of_any_width(columns, terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    logs = {"loss": 28644.4551, "mean_absolute_error": 169.5, "val_loss": 28644.4551, "val_mean_absolute_error": 169.5}
    callbacks = CallbackList(ProgbarLogger(), verbose=1, epochs=1, steps=150)
    callbacks.on_train_begin({})
    callbacks.on_epoch_begin(0, {})
    for step in range(150):
        callbacks.on_train_batch_end(step, logs)
    callbacks.on_epoch_end(0, logs)
    callbacks.on_train_end({})
    lines = [line for line in re.split(r"[\r\n]", screen.getvalue()) if line.strip()]
    assert all(len(line) <= columns for line in lines)
    numbers = [number for line in lines for number in re.findall(r"(?:loss|error):(?: (\S*))?", line)]
    assert set(numbers) == {"28644.4551", "169.5000"}
    final = screen.getvalue().rpartition("\r")[2]
    assert re.findall(r"(\w+): ", final) == list(logs)


def test_what_is_printed_in_an_epoch_has_a_line_of_its_own(terminal):
    screen = terminal()
    callbacks = CallbackList(ProgbarLogger(), verbose=1, epochs=1, steps=4)
    callbacks.on_train_begin({})
    callbacks.on_epoch_begin(0, {})
    for step in range(4):
        callbacks.on_train_batch_end(step, {"loss": 0.5})
        print("a line")
        print("half a", end=" line")
    callbacks.on_epoch_end(0, {"loss": 0.5})
    callbacks.on_train_end({})
    print("after")
    assert shown(screen.getvalue())[:-2] == ["a line", "half a line"] * 4
    assert shown(screen.getvalue())[-1] == "after"
    assert "write" not in vars(screen)


def test_a_bar_inside_of_an_epoch_leaves_the_outer_one(terminal):
    screen = terminal()
    outer, inner = (CallbackList(ProgbarLogger(), verbose=1, epochs=1, steps=2) for _ in range(2))
    outer.on_train_begin({})
    outer.on_epoch_begin(0, {})
    outer.on_train_batch_end(0, {"loss": 0.5})
    inner.on_test_begin({})
    inner.on_test_batch_end(0, {"loss": 0.5})
    print("inside")
    inner.on_test_batch_end(1, {"loss": 0.5})
    inner.on_test_end({"loss": 0.25})
    outer.on_train_batch_end(1, {"loss": 0.5})
    outer.on_epoch_end(0, {"loss": 0.5})
    outer.on_train_end({})
    lines = [line.partition("]")[2].rpartition(" - ")[2] for line in shown(screen.getvalue()) if "=]" in line]
    assert lines[-2:] == ["loss: 0.2500", "loss: 0.5000"]
    assert "write" not in vars(screen)


def shown(text):
    """Return the lines that are on a terminal after a text: a carriage return lets it be overwritten."""
    lines = []
    for line in text.rstrip("\n").split("\n"):
        cells = ""
        for part in line.replace("\x1b[A", "").split("\r"):
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return [line for line in lines if line]


class Output:
    """An output of a notebook cell, with what it was updated with."""

    def __init__(self, content):
        self.contents = [content]

    def update(self, content, raw):
        assert raw
        self.contents.append(content)

    @property
    def text(self):
        return self.contents[-1]["text/plain"]


class Widget(SimpleNamespace):
    is_closed = False

    def close(self):
        self.is_closed = True


@pytest.fixture
def show_in_notebook(monkeypatch):
    """Return a function that pretends that this is a notebook, and returns the outputs of its cell."""

    def install(has_widgets):
        outputs = []

        def display(content, raw=False, display_id=False):
            assert display_id
            outputs.append(Output(content))
            return outputs[-1]

        made = []
        names = ("FloatProgress", "Label", "HBox")
        widgets = {name: lambda *parts, **options: made.append(Widget(**options)) or made[-1] for name in names}
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        monkeypatch.setattr("torchfit.callbacks.progress._SECONDS_BETWEEN_DRAWS", 0.0)
        monkeypatch.setattr("torchfit.callbacks.progress.select_display", Notebook)
        monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
        monkeypatch.setitem(sys.modules, "ipywidgets", SimpleNamespace(**widgets))
        monkeypatch.setattr(notebook, "find_spec", lambda name: has_widgets or None)
        return outputs, made

    return install


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_shows_a_table_with_a_row_for_each_epoch_and_no_bar_stays(has_widgets, show_in_notebook):
    outputs, widgets = show_in_notebook(has_widgets)
    callbacks = CallbackList(ProgbarLogger(), verbose=1, epochs=3, steps=2)
    callbacks.on_train_begin({})
    for epoch, loss in enumerate([0.5, 0.25, 0.75]):
        callbacks.on_epoch_begin(epoch, {})
        callbacks.on_train_batch_end(0, {"loss": loss})
        callbacks.on_train_batch_end(1, {"loss": loss})
        callbacks.on_epoch_end(epoch, {"loss": 0.5, "mae": 1.0, "val_loss": loss, "val_mae": 2.0})
    callbacks.on_train_end({})
    table, bar = outputs
    assert [line.split()[:-2] for line in table.text.splitlines()] == [
        ["epoch", "loss", "val_loss", "mae", "val_mae"],
        ["1", "0.5000", "0.5000", "1.0000", "2.0000"],
        ["★", "2", "0.5000", "0.2500", "1.0000", "2.0000"],
        ["3", "0.5000", "0.7500", "1.0000", "2.0000"],
    ]
    assert table.contents[-1]["text/html"].count("<tr>") == 4
    assert "script" not in table.contents[-1]["text/html"]
    assert bar.contents[-1] == {"text/html": "", "text/plain": ""}
    assert all(widget.is_closed for widget in widgets[:2])
    assert len(widgets) == (3 if has_widgets else 0)
    assert sys.stdout.getvalue() == ""


@pytest.mark.parametrize("has_widgets", [True, False])
def test_the_bar_of_a_notebook_stays_in_red_if_its_epoch_was_interrupted(has_widgets, show_in_notebook):
    outputs, _ = show_in_notebook(has_widgets)
    callbacks = CallbackList(ProgbarLogger(), verbose=1, epochs=1, steps=4)
    callbacks.on_train_begin({})
    callbacks.on_epoch_begin(0, {})
    callbacks.on_train_batch_end(0, {"loss": 0.5})
    callbacks.on_train_batch_end(1, {"loss": 0.5})
    callbacks.close()
    assert 'value="2" max="4"' in outputs[-1].contents[-1]["text/html"]
    assert "#d9534f" in outputs[-1].contents[-1]["text/html"]
    assert outputs[-1].text == " 2/4 - ETA: 0s - loss: 0.5000"


def test_the_bar_of_an_epoch_that_was_interrupted_at_once_does_not_show_the_one_before(show_in_notebook):
    outputs, _ = show_in_notebook(has_widgets=True)
    callbacks = CallbackList(ProgbarLogger(), verbose=1, epochs=2, steps=1)
    callbacks.on_train_begin({})
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch, {})
        if epoch == 0:
            callbacks.on_train_batch_end(0, {"loss": 0.5})
            callbacks.on_epoch_end(epoch, {"loss": 0.5})
    callbacks.close()
    assert [output.text for output in outputs if "d9534f" in output.contents[-1]["text/html"]] == ["Epoch 2/2"]


def test_an_evaluation_in_a_notebook_leaves_a_line(show_in_notebook):
    outputs, _ = show_in_notebook(has_widgets=True)
    callbacks = CallbackList(ProgbarLogger(), verbose=1, steps=2)
    callbacks.on_test_begin({})
    callbacks.on_test_batch_end(1, {"loss": 0.5})
    callbacks.on_test_end({"loss": 0.5})
    assert [output.contents[-1]["text/html"] for output in outputs] == [""]
    assert sys.stdout.getvalue().endswith(" - loss: 0.5000\n")


def test_the_table_of_a_long_training_shows_its_ends_and_the_best_epoch():
    rows = [Row(epoch, {"val_loss": abs(epoch - 100.0)}, ("1s", "1ms/step")) for epoch in range(1, 1001)]
    epochs = [line.split()[0:2] for line in table_bundle(rows)["text/plain"].splitlines()[1:]]
    assert epochs[:8] == [[str(n), f"{100 - n}.0000"] for n in range(1, 6)] + [["…"], ["★", "100"], ["…"]]
    assert epochs[-1] == ["1000", "900.0000"]
    assert len(epochs) == 68


def test_auto_is_a_bar_on_a_terminal(terminal):
    terminal()
    assert resolve_verbose("auto") == 1


def test_auto_is_lines_in_a_file(capsys):
    assert resolve_verbose("auto") == 2


@pytest.mark.parametrize(("given", "expected"), [(0, 0), (1, 1), (2, 2), (True, 1), (False, 0), (np.int64(2), 2)])
def test_verbose_numbers(given, expected):
    assert resolve_verbose(given) == expected


@pytest.mark.parametrize("wrong", [3, "loud", None, [1], 1.5, np.zeros((4, 2)), np.ones(1, int), int])
def test_other_verbosities_are_refused(wrong):
    with pytest.raises(ValueError, match="verbose: expected 'auto', 0"):
        resolve_verbose(wrong)
