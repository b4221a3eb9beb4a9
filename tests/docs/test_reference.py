"""Every public name has its place in the reference."""

import importlib
import re
from pathlib import Path

import pytest

import torchfit

PAGES = Path(__file__).parents[2] / "docs" / "api"
REFERENCE = {
    "torchfit": "model",
    "torchfit.models": "model",
    "torchfit.losses": "losses",
    "torchfit.metrics": "metrics",
    "torchfit.optimizers": "optimizers",
    "torchfit.optimizers.schedules": "schedules",
    "torchfit.callbacks": "callbacks",
    "torchfit.functional": "functional",
    "torchfit.saving": "saving",
    "torchfit.utils": "utils",
    "torchfit.mixed_precision": "mixed_precision",
    "torchfit.distribution": "distribution",
    "torchfit.sklearn": "sklearn",
}


def words(page):
    """Return the names that a page lists: the lines of its tables, and what stands between backticks."""
    text = (PAGES / f"{page}.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$", text, re.MULTILINE)
    quoted = re.findall(r"`([\w.]+)(?: <[\w.]+>)?`", text)
    return {name.rpartition(".")[2] for name in [*listed, *quoted]}


@pytest.mark.parametrize("module", REFERENCE)
def test_every_public_name_is_in_the_reference(module):
    modules = {name.rpartition(".")[2] for name in REFERENCE}
    public = set(importlib.import_module(module).__all__)
    missing = public - words(REFERENCE[module]) - (modules | {"__version__"} if module == "torchfit" else set())
    assert not missing, f"Name these in docs/api/{REFERENCE[module]}.rst"


def test_every_page_is_in_the_table_of_contents():
    assert {page.stem for page in PAGES.glob("*.rst")} - {"index"} <= words("index")


def test_every_public_module_has_a_page():
    modules = {name for name in torchfit.__all__ if hasattr(getattr(torchfit, name), "__all__")}
    assert {f"torchfit.{name}" for name in modules} <= set(REFERENCE)


FAMILIES = {
    "losses": (torchfit.losses, {"Loss", "LossFunctionWrapper", "OverOutputs", "TorchLoss"}),
    "metrics": (torchfit.metrics, {"Metric", "MeanMetricWrapper", "TorchMetric", "Variable"}),
    "optimizers": (torchfit.optimizers, {"Optimizer", "OptimizerMap", "MultiOptimizer", "TorchOptimizer"}),
    "schedules": (torchfit.optimizers.schedules, {"LearningRateSchedule"}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_member_is_in_the_table_of_numbers(family):
    module, bases = FAMILIES[family]
    members = {name for name in module.__all__ if isinstance(getattr(module, name), type)} - bases
    rows = (PAGES.parent / "parity.md").read_text(encoding="utf-8")
    assert not {name for name in members if f"| `{name}` |" not in rows}, "Run docs/parity_table.py"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_links_lead_somewhere(page):
    root = PAGES.parents[1]
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (root / page).read_text(encoding="utf-8"))
    assert not [link for link in links if not (root / link).exists()]
