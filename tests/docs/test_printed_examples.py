"""The examples of the README and of the pages in docs/ run as they are printed."""

import doctest
import re
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:python|\{code-block\} python\n:caption: torchfit\n)\n(.*?)^```", re.MULTILINE | re.DOTALL)


OPTIONAL = re.compile(r"^```\{code-block\} python\n:caption: Needs (\w+)\n\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN_WHERE_INSTALLED = {"optuna", "onnxscript"}  # the others fetch models


def python_blocks(page):
    """Return the Python examples of a page, each padded so that errors name the page's own lines."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in BLOCK.finditer(text)]


def run(block, page, names):
    if block.lstrip().startswith(">>>"):
        run_session(block, page, names)
    else:
        exec(compile(block, str(page), "exec"), names)


def run_session(block, page, names):
    """Run an example written as an interactive session, and compare what it prints."""
    session = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), 0)
    report = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=report.append, clear_globs=False)
    assert not failed.failed, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in python_blocks(page):
        run(block, page, names)


@pytest.mark.parametrize("package", sorted(RUN_WHERE_INSTALLED))
def test_examples_that_need_a_package_run_where_it_is_installed(package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    if package == "onnxscript" and torch.__version__ < "2.7":
        pytest.skip("the exporter of torch 2.6 cannot translate BatchNorm with newer versions of onnxscript")
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "howto.md"
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    found = next(match for match in OPTIONAL.finditer(text) if match[1] == package)
    for block in BLOCK.finditer(text, 0, found.start()):
        run(block[1], page, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the package
        run(found[2], page, names)


def test_quickstart_is_short_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quickstart = python_blocks(ROOT / "README.md")[0].strip()
    assert len([line for line in quickstart.splitlines() if line.strip()]) <= 15
    names = {}
    exec(quickstart, names)
    results = names["model"].evaluate(names["x"][1500:], names["y"][1500:], verbose=0, return_dict=True)
    assert results["accuracy"] > 0.85
