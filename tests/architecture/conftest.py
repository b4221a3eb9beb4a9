"""The package as source text: what the budgets are measured on."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

import torchfit

PACKAGE = Path(torchfit.__file__).parent


@dataclass(frozen=True)
class Source:
    """One file of the package."""

    path: Path

    @cached_property
    def text(self):
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self):
        return ast.parse(self.text)

    @cached_property
    def name(self):
        """Return the dotted name: `torchfit.losses.base`, or `torchfit.losses` for its `__init__.py`."""
        parts = self.path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_package(self):
        return self.path.name == "__init__.py"

    def __str__(self):
        return str(self.path.relative_to(PACKAGE.parent))


@pytest.fixture(scope="session")
def sources():
    return [Source(path) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.fixture(scope="session")
def package_path():
    return PACKAGE
