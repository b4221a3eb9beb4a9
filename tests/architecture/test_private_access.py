"""Private attributes belong to `self`: no file reads `other._attribute`, of our objects or of other packages."""

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

# Protocols of Python, IPython and Keras, whose names begin with an underscore although they are public.
PROTOCOLS = {"_fields", "_replace", "_keras_mask", "_ipython_display_"}

# The only file that may use the private names of torch: it looks them up, with a fallback.
COMPAT = "torchfit/_utils/compat.py"

# File -> what it still reads; `*` stands for any name. Entries may only go away, here and in all limits below.
EXCEPTIONS = {
    "torchfit/metrics/identifiers.py": {"part._defaults"},
    "torchfit/metrics/base.py": {"torch._C", "torch._C._disabled_torch_function_impl"},
    "torchfit/sklearn.py": {"sklearn.utils.validation._check_sample_weight"},
    "torchfit/optimizers/*.py": {"torch._foreach_*", "torch._fused_*"},  # kernels of torch.optim, without public names
}

# Tests of what is public see what a user sees. Those of private modules, in folders such as tests/_data, are free.
TESTS = Path(__file__).parents[1]
OTHER_PACKAGES = ("torch._*", "torch.ops.*", "sys._*", "os._*", "*._repr_html_", "*._schema")
EXCEPTIONS_OF_TESTS = {
    "callbacks/test_stochastic_weight_averaging.py": {"model.module[[]1]._forward_pre_hooks"},  # torch's
    "callbacks/test_tensorboard.py": {"model.module._forward_pre_hooks"},
    "gpu/test_data.py": {"*._copy_stream"},
    "gpu/test_training.py": {"*._CudaGraph"},
    "metrics/test_base.py": {"metric._apply"},  # what `to` of any module calls
    "parity/test_metrics.py": {"getattr(keras.metrics, name)([*][*]arguments)._direction"},  # Keras'
    "parity/test_optimizers.py": {"variable._value"},
    "reliability/test_platforms.py": {"files._*"},  # what differs between systems
}
MAX_PRIVATE_NAMES_IN_TESTS = 46


def is_private(name):
    return name.startswith("_") and not name.endswith("__") and name not in PROTOCOLS


def is_own(node):
    """Return whether an expression is `self`, `cls`, `super()` or `type(self)`."""
    return ast.unparse(node) in ("self", "cls", "super()", "type(self)")


def accesses(node):
    """Yield what a node reads of other objects: `object._name`, by attribute, `getattr` or import from a package."""
    if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
        yield f"{ast.unparse(node.value)}.{node.attr}"
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
        owner, name = node.args[0], getattr(node.args[1], "value", None)
        if isinstance(name, str) and is_private(name) and not is_own(owner):
            yield f"{ast.unparse(owner)}.{name}"
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if is_private(alias.name):
                yield f"{node.module}.{alias.name}"


def reads_of(tree, allowed=()):
    found = {access for node in ast.walk(tree) for access in accesses(node)}
    return {access for access in found if not any(fnmatchcase(access, pattern) for pattern in allowed)}


def check(found, exceptions):
    """Compare what files read, by their names, with the exceptions, all of which must still be needed."""
    reads = {(file, access) for file, accessed in found.items() for access in accessed}
    allowed = {(file, access) for file, accessed in exceptions.items() for access in accessed}
    new = {read for read in reads if not any(matches(read, exception) for exception in allowed)}
    assert new == set(), "give the owner a public method or property"
    unused = {exception for exception in allowed if not any(matches(read, exception) for read in reads)}
    assert unused == set(), "remove these exceptions: nothing reads them any more"


def matches(read, exception):
    return all(fnmatchcase(*pair) for pair in zip(read, exception))


def test_no_file_reads_private_attributes_of_other_objects(sources):
    modules = {source.name for source in sources}
    check(
        {str(source): reads_of(source.tree) - modules for source in sources if str(source) != COMPAT},
        EXCEPTIONS,
    )


@pytest.fixture(scope="module")
def tests_of_public_code():
    """Return the syntax trees of tests outside of the folders of private modules."""
    paths = {str(path.relative_to(TESTS)): path for path in TESTS.rglob("*.py")}
    return {
        name: ast.parse(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if not name.startswith(("_", "architecture"))
    }


def test_tests_read_no_private_attributes(tests_of_public_code, sources):
    modules = {source.name for source in sources}
    check(
        {name: reads_of(tree, OTHER_PACKAGES) - modules for name, tree in tests_of_public_code.items()},
        EXCEPTIONS_OF_TESTS,
    )


def private_names(node):
    """Yield the private modules and constants of the package that a node imports, or replaces by their name."""
    names = []
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        names = [node.value]
    yield from (name for name in names if re.fullmatch(r"torchfit(\.\w+)*\._\w+(\.\w+)*", name))


def test_tests_name_few_private_modules(tests_of_public_code):
    names = [name for tree in tests_of_public_code.values() for node in ast.walk(tree) for name in private_names(node)]
    assert len(names) <= MAX_PRIVATE_NAMES_IN_TESTS, "test through the public methods, or in the folder of the module"
