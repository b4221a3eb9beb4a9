"""Imports point down, and nowhere in a circle.

Imports inside functions, for type checkers and by name (`import_module("torchfit.…")`) count too.
"""

import ast
import itertools
from graphlib import CycleError, TopologicalSorter

import pytest

# From the ground up. A part may import itself and what stands below it, never what stands beside it.
LAYERS = [
    {"_version", "config"},
    {"_utils", "_types"},
    {"_serialization", "functional", "_distribution"},
    {"losses"},
    {"metrics", "optimizers", "callbacks", "_data", "_execution"},
    {"_saving"},
    {"_trainer"},
    {"utils"},
    {"model"},
    {"saving", "mixed_precision", "distribution", "sklearn"},
    {"models"},
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
        elif isinstance(node, ast.Call) and source.name != "torchfit":  # whose public names are imported lazily
            found += [(name, node.lineno) for name in map(imported_name, [node]) if part_is_ours(name)]
    return found


def imported_name(call):
    """Return the module that `import_module(…)` or `__import__(…)` names, as far as it can be read, or ""."""
    function = getattr(call.func, "attr", getattr(call.func, "id", None))
    if function not in ("import_module", "__import__") or not call.args:
        return ""
    parts = getattr(call.args[0], "values", [call.args[0]])  # of an f-string, those before its first field
    texts = itertools.takewhile(lambda text: isinstance(text, str), (getattr(part, "value", None) for part in parts))
    return "".join(texts).rstrip(".")  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('import_module("torchfit.model")', "torchfit.model"),
        ('importlib.import_module("torchfit.saving", None)', "torchfit.saving"),
        ('__import__("torchfit.model")', "torchfit.model"),
        ('import_module(f"torchfit.{name}")', "torchfit"),
        ("import_module(name)", ""),
        ('load("torchfit.model")', ""),
    ],
)
def test_imports_by_name_are_seen(text, name):
    assert imported_name(ast.parse(text, mode="eval").body) == name


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
