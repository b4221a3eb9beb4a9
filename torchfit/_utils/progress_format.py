"""Formats the line of a progress bar, in pure functions from numbers to text."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NamedTuple

BAR_WIDTH = 30
_MIN_BAR_WIDTH = 7


def format_count(completed: int, total: int | None) -> str:
    """Format the number of completed steps and the total.

    >>> format_count(96, 1563), format_count(12, None)
    ('  96/1563', '12/Unknown')
    """
    return f"{completed}/Unknown" if total is None else f"{completed:>{len(str(total))}}/{total}"


def format_bar(completed: int, total: int | None, width: int = BAR_WIDTH) -> str:
    """Format a bar of `width` characters after a space; return "" if the total is unknown or the width is too small.

    >>> format_bar(96, 1563), format_bar(10, 10), format_bar(5, 10, width=8)
    (' [>.............................]', ' [==============================]', ' [===>....]')
    """
    if not total or width < 1:
        return ""
    filled = min(width, width * completed // total)
    head = "=" if completed >= total else ">"
    return f" [{('=' * (filled - 1) + head) if filled else '':.<{width}}]"


def fit_line(completed: int, total: int | None, items: Sequence[str], columns: int, width: int = BAR_WIDTH) -> str:
    """Return a line of at most `columns` characters: the bar shrinks first, then whole items are dropped at the end.

    >>> items = [" - ETA: 9s", " - loss: 28644.4551", " - mae: 169.2243"]
    >>> fit_line(5, 10, items, 70)
    ' 5/10 [=======>.........] - ETA: 9s - loss: 28644.4551 - mae: 169.2243'
    >>> fit_line(5, 10, items, 37)
    ' 5/10 - ETA: 9s - loss: 28644.4551 …'
    """
    count, text = format_count(completed, total), ""
    max_chars = columns - len(count)
    for num_kept in range(len(items), 0, -1):
        text = "".join(items[:num_kept]) + (" …" if num_kept < len(items) else "")
        if len(text) <= max_chars:
            break
    else:
        text = ""
    return (count + format_bar(completed, total, min(width, max_chars - len(text) - 3)) + text)[:columns]


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


def format_step_time(seconds: float, unit: str = "step") -> str:
    """Format the time of one step.

    >>> [format_step_time(seconds) for seconds in (2.2, 0.0012, 0.000838, 0)]
    ['2s/step', '1ms/step', '838us/step', '0s/step']
    """
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.0f}s/{unit}"
    return f"{seconds * 1e3:.0f}ms/{unit}" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us/{unit}"


def value_items(logs: Mapping[str, object]) -> list[str]:
    """Format names and values, each after a dash.

    >>> value_items({"loss": 0.34849, "accuracy": 0.0, "tiny": -0.0004})
    [' - loss: 0.3485', ' - accuracy: 0.0000e+00', ' - tiny: -4.0000e-04']
    """
    return [f" - {name}: {format_value(value)}" for name, value in logs.items()]


def running_items(
    completed: int, total: int | None, elapsed: float, step: float, logs: Mapping[str, object], unit: str = "step"
) -> list[str]:
    """Return the items after a running bar; `elapsed` and `step` (the time of one step) are in seconds.

    >>> running_items(32, 782, 0.1, 0.002, {"loss": 0.5})
    [' - ETA: 1s', ' - loss: 0.5000']
    >>> running_items(32, None, 0.1, 0.002, {"loss": 0.5})
    [' - 0s 2ms/step', ' - loss: 0.5000']
    """
    if total is None:
        time = f" - {int(elapsed)}s {format_step_time(step, unit)}"
    else:
        time = f" - ETA: {format_duration(step * (total - completed))}"
    return [time, *value_items(logs)]


class Finished(NamedTuple):
    """The results of a finished loop.

    Attributes:
        completed: The number of completed steps.
        total: The number of planned steps.
        elapsed: Seconds since its start.
        step: Seconds of one step.
        logs: The results by name.
        unit: What a step is called.
    """

    completed: int
    total: int
    elapsed: float
    step: float
    logs: Mapping[str, object]
    unit: str = "step"


def format_finished(finished: Finished, bar_width: int = BAR_WIDTH) -> list[str]:
    """Return the line of a finished loop as a list of items, without a bar if its width is 0.

    >>> "".join(format_finished(Finished(79, 79, 0.1, 0.000838, {"loss": 0.1353})))
    '79/79 [==============================] - 0s 838us/step - loss: 0.1353'
    >>> format_finished(Finished(79, 79, 0.1, 0.000838, {"loss": 0.1353}), bar_width=0)
    ['79/79', ' - 0s - 838us/step', ' - loss: 0.1353']
    """
    completed, total, elapsed, step, logs, unit = finished
    time = f" - {int(elapsed)}s{'' if bar_width else ' -'} {format_step_time(step, unit)}"
    return [f"{format_count(completed, total)}{format_bar(completed, total, bar_width)}", time, *value_items(logs)]


def wrap_items(finished: Finished, columns: int, bar_width: int = BAR_WIDTH) -> str:
    """Return the line of a finished loop, wrapped at `columns` characters: the bar shrinks first, then items move down.

    >>> print(wrap_items(Finished(9, 9, 0.1, 0.001, {"loss": 0.1353, "mean_absolute_error": 28644.455}), 44))
    9/9 [=======] - 0s 1ms/step - loss: 0.1353
        - mean_absolute_error: 28644.4550
    """
    items = format_finished(finished, bar_width)
    excess = len("".join(items)) - columns
    if excess > 0 and bar_width:
        items = format_finished(finished, max(bar_width - excess, _MIN_BAR_WIDTH))
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + len(item) <= columns:
            lines[-1] += item
        else:
            lines.append(f"   {item}")
    return "\n".join(lines)


def format_value(value: object) -> str:
    """Format a number with four decimals, a small one with an exponent, anything else as text.

    >>> format_value(0.34849), format_value(0), format_value("a")
    ('0.3485', '0.0000e+00', 'a')
    """
    if not isinstance(value, Real):
        return " ".join(str(value).split())
    return f"{float(value):.4f}" if abs(float(value)) > 1e-3 else f"{float(value):.4e}"
