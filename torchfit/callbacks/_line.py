"""The words of a progress line. Pure functions from numbers to text."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

_WIDTH = 30


def count(seen: int, target: int | None) -> str:
    """Say how many steps of how many are done.

    >>> count(96, 1563), count(12, None)
    ('  96/1563', '12/Unknown')
    """
    return f"{seen}/Unknown" if target is None else f"{seen:>{len(str(target))}}/{target}"


def bar(seen: int, target: int | None) -> str:
    """Draw how far it is, 30 characters wide, with a space before; nothing if the length is unknown.

    >>> bar(96, 1563), bar(10, 10)
    (' [>.............................]', ' [==============================]')
    """
    if not target:
        return ""
    filled = min(_WIDTH, _WIDTH * seen // target)
    head = "=" if seen >= target else ">"
    return f" [{('=' * (filled - 1) + head) if filled else '':.<{_WIDTH}}]"


def remaining(seconds: float) -> str:
    """Say a time to wait.

    >>> remaining(7.9), remaining(75), remaining(3700)
    ('7s', '1:15', '1:01:40')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest}s"


def per_step(seconds: float) -> str:
    """Say the time of one step.

    >>> per_step(2.2), per_step(0.0012), per_step(0.000838), per_step(0)
    ('2s/step', '1ms/step', '838us/step', '0s/step')
    """
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.0f}s/step"
    return f"{seconds * 1e3:.0f}ms/step" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us/step"


def values(logs: Mapping[str, Any]) -> str:
    """List names and values, each with a dash before.

    >>> values({"loss": 0.34849, "accuracy": 0.0, "tiny": -0.0004})
    ' - loss: 0.3485 - accuracy: 0.0000e+00 - tiny: -4.0000e-04'
    """
    return "".join(f" - {name}: {_number(value)}" for name, value in logs.items())


def running(seen: int, target: int | None, elapsed: float, step: float, logs: Mapping[str, Any]) -> str:
    """Return what follows the bar while it moves; `elapsed` and `step` are in seconds.

    >>> running(32, 782, 0.1, 0.002, {"loss": 0.5})
    ' - ETA: 1s - loss: 0.5000'
    >>> running(32, None, 0.1, 0.002, {"loss": 0.5})
    ' - 0s 2ms/step - loss: 0.5000'
    """
    time = f"{int(elapsed)}s {per_step(step)}" if target is None else f"ETA: {remaining(step * (target - seen))}"
    return f" - {time}{values(logs)}"


def finished(seen: int, target: int, elapsed: float, step: float, logs: Mapping[str, Any], with_bar: bool) -> str:
    """Return the line that stays; `elapsed` and `step` are in seconds.

    >>> finished(79, 79, 0.1, 0.000838, {"loss": 0.1353}, with_bar=True)
    '79/79 [==============================] - 0s 838us/step - loss: 0.1353'
    >>> finished(79, 79, 0.1, 0.000838, {"loss": 0.1353}, with_bar=False)
    '79/79 - 0s - 838us/step - loss: 0.1353'
    """
    time = f"{int(elapsed)}s {per_step(step)}" if with_bar else f"{int(elapsed)}s - {per_step(step)}"
    return f"{count(seen, target)}{bar(seen, target) if with_bar else ''} - {time}{values(logs)}"


def _number(value: Any) -> str:
    if not isinstance(value, Real):
        return " ".join(str(value).split())
    return f"{float(value):.4f}" if abs(float(value)) > 1e-3 else f"{float(value):.4e}"
