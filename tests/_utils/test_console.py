import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from torchfit._utils import console


def test_lines_are_printed(capsys):
    console.write_line("\nhello")
    assert capsys.readouterr().out == "\nhello\n"


def test_lines_are_logged_if_wanted(capsys, caplog):
    console.disable_interactive_logging()
    try:
        assert not console.is_interactive_logging_enabled()
        with caplog.at_level(logging.INFO, logger="torchfit"):
            console.write_line("\nhello 100%")
    finally:
        console.enable_interactive_logging()
    assert console.is_interactive_logging_enabled()
    assert [record.getMessage() for record in caplog.records] == ["hello 100%"]
    assert capsys.readouterr().out == ""


def test_a_file_is_not_animated(capsys):
    assert not console.is_animated()


@pytest.mark.parametrize(("config", "expected"), [({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False)])
def test_a_notebook_is_known_by_its_kernel(monkeypatch, config, expected):
    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert console.in_notebook() is expected
    assert console.is_animated() is expected


def test_python_without_a_shell_is_no_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not console.in_notebook()
