import re
import sys

import pytest
import torch

from tests.support import Terminal
from torchfit.utils import Progbar


def lines(text):
    return [re.sub(r"\d+s (- )?\d+[mu]?s/(\w+)", r"TIME/\2", line) for line in text.splitlines()]


def test_values_are_averaged_over_the_steps(capsys):
    bar = Progbar(4, width=4)
    bar.update(1, [("loss", 4.0)])
    bar.update(4, [("loss", 2.0)])
    assert lines(capsys.readouterr().out) == ["4/4 [====] - TIME/step - loss: 2.5000"]


def test_stateful_values_are_shown_as_they_are(capsys):
    bar = Progbar(2, verbose=2, stateful_metrics=["accuracy"], unit_name="batch")
    bar.add(1, [("accuracy", 0.25), ("note", "slow")])
    bar.add(1, [("accuracy", torch.tensor(0.5)), ("note", "fast")])
    assert lines(capsys.readouterr().out) == ["2/2 - TIME/batch - accuracy: 0.5000 - note: fast"]


def test_nothing_is_written_with_verbose_0(capsys):
    Progbar(1, verbose=0).update(1, [("loss", 1.0)])
    assert capsys.readouterr().out == ""


def test_an_unknown_number_of_steps_ends_when_it_is_said(capsys):
    bar = Progbar(None, width=4)
    bar.add(3)
    bar.update(5, finalize=True)
    bar.update(5, finalize=True)
    assert lines(capsys.readouterr().out) == ["5/5 [====] - TIME/step"]


@pytest.mark.parametrize(("width", "drawn"), [(4, "1/2 [=>..]"), (0, "1/2")])
def test_a_bar_moves_on_a_terminal(width, drawn, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar = Progbar(2, width=width)
    bar.update(1, [("loss", 0.5)])
    bar.update(2, [("loss", 0.5)])
    assert f"\r{drawn} - ETA: 0s - loss: 0.5000" in sys.stdout.getvalue()
    assert lines(sys.stdout.getvalue().rpartition("\r")[2])[-1].startswith("2/2")


def test_more_steps_than_said(capsys):
    bar = Progbar(2, width=4)
    bar.update(3)
    bar.update(4)
    assert lines(capsys.readouterr().out) == ["3/3 [====] - TIME/step"]
