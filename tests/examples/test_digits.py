"""The demo does what it promises."""

import re
import runpy
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "digits.py"


@pytest.mark.slow
def test_demo_learns_saves_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(DEMO), run_name="__main__")
    printed = capsys.readouterr().out
    assert float(re.search(r"Test accuracy (\d\.\d+)", printed)[1]) >= 0.97
    assert "predicts the same" in printed
    assert (tmp_path / "demo-output" / "digits.png").stat().st_size > 10_000
