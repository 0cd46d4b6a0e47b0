"""Memory of this process as the system counts it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {name}")


def resident_bytes() -> int:
    """Memory in use now, in bytes; the peak so far where the system does not say."""
    return _field("VmRSS:") if _STATUS.exists() else peak_bytes()


def reset_peak() -> None:
    """Counts the peak anew from here where the system can (Linux); elsewhere it is the whole process's."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_bytes() -> int:
    """The most memory in use since `reset_peak`, in bytes."""
    if _STATUS.exists():
        return _field("VmHWM:")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
