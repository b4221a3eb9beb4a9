"""What is public is re-exported by name, listed in `__all__`, and documented."""

import ast
import importlib
import inspect

import pytest

import torchfit


def is_public(module):
    return not any(part.startswith("_") for part in module.split("."))


@pytest.fixture(scope="module")
def packages(sources):
    return [source for source in sources if source.is_package and is_public(source.name)]


@pytest.fixture(scope="module")
def public_objects(packages):
    """Every public name of ours that can carry a docstring."""
    found = {}
    for package in packages:
        module = importlib.import_module(package.name)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
                found[f"{package.name}.{name}"] = value
    return found


def reexports(tree):
    """Return the statements of a module, what a lazy one says to type checkers only in the place of its `if`."""
    return [inner for node in tree.body for inner in (node.body if isinstance(node, ast.If) else [node])]


def bound_names(tree):
    """Return the names that the statements of a module bind, `__all__` itself and those of `typing` left out."""
    names = []
    for node in reexports(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [alias.asname or alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name != "__all__"]


def test_all_lists_just_what_is_bound(packages):
    for package in packages:
        module = importlib.import_module(package.name)
        assert sorted(module.__all__) == sorted(set(bound_names(package.tree))), package.name


def test_packages_hold_reexports_and_nothing_else(packages):
    for package in packages:
        kinds = {type(node) for node in reexports(package.tree)[1:]}
        assert kinds <= {ast.Import, ast.ImportFrom, ast.Assign}, package.name


def test_listed_names_exist(packages):
    for package in packages:
        module = importlib.import_module(package.name)
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], package.name


def test_the_top_lists_names_not_imported_yet():
    assert set(torchfit.__all__) <= set(dir(torchfit))


def test_the_top_has_no_other_names():
    with pytest.raises(AttributeError, match="module 'torchfit' has no attribute 'optimisers'"):
        torchfit.optimisers  # type: ignore[attr-defined]


def says_something(documentation):
    return len((documentation or "").split()) >= 3


def test_every_public_name_is_documented(public_objects):
    silent = [name for name, value in public_objects.items() if not says_something(value.__doc__)]
    assert silent == []


def test_every_public_method_is_documented(public_objects):
    silent = [
        f"{name}.{method}"
        for name, value in public_objects.items()
        if inspect.isclass(value)
        for method, function in inspect.getmembers(value, inspect.isfunction)
        if is_ours(function) and not method.startswith("_") and not says_something(inspect.getdoc(function))
    ]
    assert silent == []


def is_ours(function):
    return function.__module__.partition(".")[0] == torchfit.__name__


def test_every_module_is_documented(sources):
    assert [str(source) for source in sources if not ast.get_docstring(source.tree)] == []
