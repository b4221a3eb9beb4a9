"""The notebooks run from top to bottom, and are committed as they ran: with outputs, without traces of a machine."""

import os
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS = {"09_hugging_face_lora": ("transformers", "peft")}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
@each_notebook
def test_runs(path, tmp_path, monkeypatch):
    for package in NEEDS.get(path.stem, ()):
        pytest.importorskip(package, reason=f"the notebook needs {package}")
    client = pytest.importorskip("nbclient").NotebookClient
    monkeypatch.delenv("MPLBACKEND")  # so that pictures are drawn as in a notebook
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client(notebook, timeout=300, kernel_name="python3", resources=resources).execute()


@each_notebook
def test_is_committed_as_it_ran(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@each_notebook
def test_outputs_need_no_scripts_and_set_no_colors(path):
    """Editors and Colab leave scripts out, and show outputs on dark backgrounds as well."""
    data = [output.data for cell in code_cells(path) for output in cell.outputs if "data" in output]
    assert {kind for bundle in data for kind in bundle} <= {"text/plain", "text/html", "image/png", "image/svg+xml"}
    pages = [bundle["text/html"] for bundle in data if "text/html" in bundle]
    assert not [page for page in pages if re.search(r"<script|javascript:|[^-]color:|background", page)]


@each_notebook
def test_is_small_and_knows_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 400_000
    shown = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.findall(r"(?:/home|/root|/tmp|/Users|/work|site-packages)\b[^\"]*", shown)


def test_there_are_ten_and_the_site_lists_them():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 11)]
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert not [path.stem for path in NOTEBOOKS if f"notebooks/{path.stem}" not in page]
