"""Error messages, and tracebacks that show the user's own lines."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType

from torchfit import config

_PLAIN = (bool, int, float, str, bytes, type(None))


def describe(value: object) -> str:
    """Describe a value by type, shape and dtype, or as a short literal.

    >>> import numpy as np
    >>> describe(np.zeros((3, 4), "float32"))
    'a NumPy array of shape (3, 4) and dtype float32'
    >>> describe([1, 2.0]), describe("adam"), describe(object)
    ('a list of length 2', "'adam'", 'the class object')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, _PLAIN):
        return repr(value) if len(repr(value)) <= 80 else f"a {type(value).__name__} of length {len(str(value))}"
    if getattr(value, "is_nested", False):
        return f"a nested tensor of {getattr(value, 'ndim', 0)} axes"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{_kind(value)} of shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "shape"):
        return f"{_kind(value)} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {list(value)}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"a {type(value).__name__} of length {len(value)}"
    name = getattr(value, "__name__", None)
    return f"the function {name}" if name and callable(value) else f"an object of type {type(value).__name__}"


def warn(message: str) -> None:
    """Warn at the line outside of torchfit and torch that led here."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and _library_of(frame) in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def printable(text: object, limit: int = 200) -> str:
    """Return a text from a file in a form that is safe to print: control characters escaped, and at most `limit` long.

    >>> printable("red" + chr(27) + "[31m") == "red" + chr(92) + "x1b[31m"
    True
    """
    text = str(text)
    return "".join(map(_escaped, text if len(text) <= limit else f"{text[:limit]}…"))


def printable_lines(text: object) -> str:
    """Return a text of several lines in a form that is safe to print: other control characters are escaped."""
    return "\n".join(printable(line, 10_000) for line in str(text).split("\n"))


def reason_of(error: BaseException) -> str:
    """Return why something failed: the text of a `ValueError`, or the type and text of any other error.

    >>> reason_of(ValueError("No.")), reason_of(KeyError("a"))
    ('No', "KeyError: 'a'")
    """
    is_explained = isinstance(error, ValueError)
    text = printable_lines(error) if is_explained else f"{type(error).__name__}: {printable(error, 500)}"
    return text.rstrip(".")


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _kind(value: object) -> str:
    module = type(value).__module__.partition(".")[0]
    kinds = {"numpy": "a NumPy array", "torch": "a tensor"}
    return kinds.get(module, f"a {type(value).__name__}")


_LIBRARIES = {"torchfit", "torch", "contextlib", "functools", "importlib"}
_DELIBERATE = (ValueError, TypeError, RuntimeError, OSError, ImportError)


class TracebackFilter:
    """A context for the body of a public method, which removes all other frames of torchfit from tracebacks.

    Unlike a wrapper around the method, it adds no frame to the stack. An error that torchfit raises instead of another
    one shows the user's lines that led to the original error; the latter is only its `__context__` and not printed. Set
    `torchfit.config.traceback_filtering = False` to see everything.

    >>> import torchfit
    >>> try:
    ...     torchfit.Model(torchfit.Layer(), device="cpu").fit([0])
    ... except RuntimeError as error:
    ...     [where.tb_frame.f_code.co_name for where in iter_frames(error.__traceback__)]
    ['<module>', 'fit']
    """

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Filter the traceback in place."""
        if isinstance(error, Exception):
            filter_traceback(error)


traceback_filter = TracebackFilter()


def iter_frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the entries of a traceback, from the outermost to the innermost."""
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def filter_traceback(error: Exception) -> None:
    """Filter the traceback of a caught error in place; the frame that caught it is the outermost."""
    if not config.traceback_filtering or error.__traceback__ is None:
        return
    outermost, *inner = iter_frames(error.__traceback__)
    last = inner[-1] if inner else outermost
    kept = [entry for entry in inner if _library_of(entry.tb_frame) not in _LIBRARIES]
    is_ours = _library_of(last.tb_frame) == "torchfit"
    if is_ours and isinstance(error, _DELIBERATE):  # The message makes this frame superfluous.
        if error.__cause__ is not None:
            kept += [
                entry
                for entry in iter_frames(error.__cause__.__traceback__)
                if _library_of(entry.tb_frame) not in _LIBRARIES
            ]
            error.__cause__ = None
    elif last not in (outermost, *kept):
        kept.append(last)
    for entry, next_entry in zip((outermost, *kept), (*kept, None)):
        entry.tb_next = next_entry


def _library_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]
