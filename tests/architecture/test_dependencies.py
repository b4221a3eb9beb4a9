"""The package asks for little, and `import torchfit` brings in even less."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "pandas",
    "matplotlib",
    "tensorboard",
    "torch.utils.tensorboard",
    "torch._dynamo",
    "torch._inductor",
    "keras",
    "sklearn",
    "scipy",
    "IPython",
    "ipywidgets",
    "torchmetrics",
    "safetensors",
    "torchview",
    "graphviz",
    "wandb",
    "mlflow",
]


def heavy_after(statement):
    """Return which of the heavy modules a fresh interpreter holds after a statement."""
    program = f"import sys; {statement}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_imports_bring_in_nothing_heavy():
    assert heavy_after("from torchfit import *") == heavy_after("import torch")


def test_import_alone_brings_in_the_version_only():
    program = "import sys, torchfit; print(sorted(name for name in sys.modules if name.startswith(('torch', 'numpy'))))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.strip() == "['torchfit', 'torchfit._version']", finished.stderr


def test_runtime_dependencies_are_four():
    tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml, needs Python 3.11")
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    required = tomllib.loads(text)["project"]["dependencies"]
    assert sorted(re.match(r"[\w-]+", item)[0] for item in required) == ["numpy", "pandas", "torch", "tqdm"]
