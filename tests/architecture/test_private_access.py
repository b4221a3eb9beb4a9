"""Private attributes belong to `self`: no file reads `other._attribute`, of our objects or of other packages."""

import ast
from fnmatch import fnmatchcase

# Protocols of Python, IPython and Keras, whose names begin with an underscore although they are public.
PROTOCOLS = {"_fields", "_replace", "_keras_mask", "_ipython_display_"}

# The only file that may use the private names of torch: it looks them up, with a fallback.
COMPAT = "torchfit/_utils/compat.py"

# File -> what it still reads; `*` stands for any name. Entries may only go away.
EXCEPTIONS = {
    "torchfit/metrics/identifiers.py": {"part._defaults"},
    "torchfit/metrics/base.py": {"torch._C", "torch._C._disabled_torch_function_impl"},
    "torchfit/sklearn.py": {"sklearn.utils.validation._check_sample_weight"},
    "torchfit/optimizers/*.py": {"torch._foreach_*", "torch._fused_*"},  # kernels of torch.optim, without public names
}


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


def test_no_file_reads_private_attributes_of_other_objects(sources):
    modules = {source.name for source in sources}
    found = {
        str(source): {access for node in ast.walk(source.tree) for access in accesses(node)} - modules
        for source in sources
        if str(source) != COMPAT
    }
    reads = {(file, access) for file, accessed in found.items() for access in accessed}
    allowed = {(file, access) for file, accessed in EXCEPTIONS.items() for access in accessed}
    new = {read for read in reads if not any(matches(read, exception) for exception in allowed)}
    assert new == set(), "give the owner a public method or property"
    unused = {exception for exception in allowed if not any(matches(read, exception) for read in reads)}
    assert unused == set(), "remove these from EXCEPTIONS: nothing reads them any more"


def matches(read, exception):
    return all(fnmatchcase(*pair) for pair in zip(read, exception))
