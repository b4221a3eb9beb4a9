"""Resident memory of this process, now and at its peak."""

import os
import resource
import sys
from pathlib import Path

MIB = 2**20
_STATUS = Path("/proc/self/status")


def now() -> float:
    """Return the resident memory in MiB."""
    if _STATUS.exists():
        return _status("VmRSS")
    return peak()  # without /proc only the peak is known


def peak() -> float:
    """Return the largest resident memory so far, in MiB."""
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def reset_peak() -> None:
    """Count the peak from now on, where the system supports it (Linux)."""
    try:
        Path(f"/proc/{os.getpid()}/clear_refs").write_text("5")
    except OSError:
        return


def _status(name: str) -> float:
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return float("nan")
