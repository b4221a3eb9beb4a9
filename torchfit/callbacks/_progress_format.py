"""Format the line of a progress bar. Pure functions from numbers to text."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

_WIDTH = 30


def format_count(completed: int, total: int | None) -> str:
    """Format how many steps of how many are completed.

    >>> format_count(96, 1563), format_count(12, None)
    ('  96/1563', '12/Unknown')
    """
    return f"{completed}/Unknown" if total is None else f"{completed:>{len(str(total))}}/{total}"


def format_bar(completed: int, total: int | None) -> str:
    """Format a bar, 30 characters wide, after a space; nothing if the length is unknown.

    >>> format_bar(96, 1563), format_bar(10, 10)
    (' [>.............................]', ' [==============================]')
    """
    if not total:
        return ""
    filled = min(_WIDTH, _WIDTH * completed // total)
    head = "=" if completed >= total else ">"
    return f" [{('=' * (filled - 1) + head) if filled else '':.<{_WIDTH}}]"


def format_duration(seconds: float) -> str:
    """Format a duration.

    >>> format_duration(7.9), format_duration(75), format_duration(3700)
    ('7s', '1:15', '1:01:40')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest}s"


def format_step_time(seconds: float) -> str:
    """Format the time of one step.

    >>> [format_step_time(seconds) for seconds in (2.2, 0.0012, 0.000838, 0)]
    ['2s/step', '1ms/step', '838us/step', '0s/step']
    """
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.0f}s/step"
    return f"{seconds * 1e3:.0f}ms/step" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us/step"


def format_values(logs: Mapping[str, Any]) -> str:
    """Format names and values, each after a dash.

    >>> format_values({"loss": 0.34849, "accuracy": 0.0, "tiny": -0.0004})
    ' - loss: 0.3485 - accuracy: 0.0000e+00 - tiny: -4.0000e-04'
    """
    return "".join(f" - {name}: {_number(value)}" for name, value in logs.items())


def format_running(completed: int, total: int | None, elapsed: float, step: float, logs: Mapping[str, Any]) -> str:
    """Return the text after the bar while it moves; `elapsed` and `step` are in seconds.

    >>> format_running(32, 782, 0.1, 0.002, {"loss": 0.5})
    ' - ETA: 1s - loss: 0.5000'
    >>> format_running(32, None, 0.1, 0.002, {"loss": 0.5})
    ' - 0s 2ms/step - loss: 0.5000'
    """
    if total is None:
        time = f"{int(elapsed)}s {format_step_time(step)}"
    else:
        time = f"ETA: {format_duration(step * (total - completed))}"
    return f" - {time}{format_values(logs)}"


def format_finished(
    completed: int, total: int, elapsed: float, step: float, logs: Mapping[str, Any], with_bar: bool
) -> str:
    """Return the line that stays; `elapsed` and `step` are in seconds.

    >>> format_finished(79, 79, 0.1, 0.000838, {"loss": 0.1353}, with_bar=True)
    '79/79 [==============================] - 0s 838us/step - loss: 0.1353'
    >>> format_finished(79, 79, 0.1, 0.000838, {"loss": 0.1353}, with_bar=False)
    '79/79 - 0s - 838us/step - loss: 0.1353'
    """
    time = f"{int(elapsed)}s{'' if with_bar else ' -'} {format_step_time(step)}"
    bar = format_bar(completed, total) if with_bar else ""
    return f"{format_count(completed, total)}{bar} - {time}{format_values(logs)}"


def _number(value: Any) -> str:
    if not isinstance(value, Real):
        return " ".join(str(value).split())
    return f"{float(value):.4f}" if abs(float(value)) > 1e-3 else f"{float(value):.4e}"
