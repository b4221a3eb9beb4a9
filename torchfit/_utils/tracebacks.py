"""Errors whose traceback shows the user's own lines: the frames of torchfit and torch are left out."""

from collections.abc import Iterator
from types import TracebackType

from torchfit import config

_LIBRARIES = {"torchfit", "torch", "contextlib", "functools"}
_DELIBERATE = (ValueError, TypeError, RuntimeError, OSError, ImportError)


class TracebackFilter:
    """A context for the body of a public method, which it leaves as the only frame of torchfit.

    It is no wrapper around the method, so that nothing is added to the stack. What torchfit raises in place of another
    error shows the user's lines on the way to that one, and that one no more: it is the `__context__` only. Set
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
        if isinstance(error, Exception) and traceback is not None and config.traceback_filtering:
            _filter(error, traceback)


traceback_filter = TracebackFilter()


def iter_frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the entries of a traceback, from the outermost to the innermost."""
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _filter(error: Exception, traceback: TracebackType) -> None:
    outermost, *inner = iter_frames(traceback)
    last = inner[-1] if inner else outermost
    kept = [entry for entry in inner if _library_of(entry) not in _LIBRARIES]
    if _library_of(last) == "torchfit" and isinstance(error, _DELIBERATE):  # The message says what its place would.
        if error.__cause__ is not None:
            kept += [
                entry for entry in iter_frames(error.__cause__.__traceback__) if _library_of(entry) not in _LIBRARIES
            ]
            error.__cause__ = None
    elif last not in (outermost, *kept):
        kept.append(last)
    for entry, after in zip((outermost, *kept), (*kept, None)):
        entry.tb_next = after


def _library_of(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__")).partition(".")[0]
