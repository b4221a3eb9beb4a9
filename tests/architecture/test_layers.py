"""Imports point down, and nowhere in a circle. Imports inside functions and for type checkers count too."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

# From the ground up. A part may import itself and what stands below it, never what stands beside it.
LAYERS = [
    {"_version"},
    {"_utils"},
    {"_serialization", "functional"},
    {"losses"},
    {"metrics", "optimizers", "callbacks", "_data", "_execution"},
    {"_trainer"},
    {"saving", "utils", "_families"},
    {"model"},
    {"models", "mixed_precision", "distribution", "sklearn"},
    {"torchfit"},
]
FLOOR = {part: number for number, layer in enumerate(LAYERS) for part in layer}


def part_of(module):
    """Return the part a module belongs to: `losses` for `torchfit.losses.base`, `torchfit` for the top."""
    return module.split(".")[1] if "." in module else module


def imports_of(source, modules):
    """Return the modules of the package that a file imports, each with its line."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names if part_is_ours(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, source)
            if part_is_ours(base):
                found += [(target(base, alias.name, modules), node.lineno) for alias in node.names]
    return found


def part_is_ours(module):
    return module.split(".")[0] == "torchfit"


def absolute(node, source):
    """Return the module that `from … import` names, dots at its beginning resolved."""
    if not node.level:
        return node.module or ""
    parts = source.name.split(".")
    base = parts[: len(parts) - node.level + source.is_package]
    return ".".join(base + ([node.module] if node.module else []))


def target(base, name, modules):
    return f"{base}.{name}" if f"{base}.{name}" in modules else base


@pytest.fixture(scope="module")
def graph(sources):
    modules = {source.name for source in sources}
    return {source.name: imports_of(source, modules) for source in sources}


def test_every_part_has_its_layer(sources):
    parts = {part_of(source.name) for source in sources}
    assert parts <= set(FLOOR), "say in LAYERS (and in ARCHITECTURE.md) where the new part stands"


def test_imports_point_down(graph):
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, imports in graph.items()
        for imported, line in imports
        if part_of(imported) != part_of(module) and FLOOR[part_of(imported)] >= FLOOR[part_of(module)]
    ]
    assert wrong == []


def test_no_import_cycle(graph):
    edges = {module: {imported for imported, _ in imports} for module, imports in graph.items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")
