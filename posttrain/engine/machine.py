"""What this machine has for one process: cores, memory, disk, as a container's limits leave them. Without torch."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_UNLIMITED = 2**60  # what cgroup v1 writes for "no limit" is above this


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def usable_cores(cgroup: Path = _CGROUP) -> float:
    """Cores this process may use at a time: its affinity, and the quota of its container where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _words(cgroup / "cpu.max", 2)
    if quota is None:
        (quota,), (period,) = _words(cgroup / "cpu/cpu.cfs_quota_us", 1), _words(cgroup / "cpu/cpu.cfs_period_us", 1)
    if quota is None or not period or quota <= 0:
        return float(allowed)
    return min(float(allowed), quota / period)


def memory_limit(cgroup: Path = _CGROUP) -> int | None:
    """Bytes that the container may use; None where nothing limits it."""
    limits = [_words(cgroup / name, 1)[0] for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return next((int(limit) for limit in limits if limit is not None and limit < _UNLIMITED), None)


def available_memory(cgroup: Path = _CGROUP) -> int | None:
    """Bytes that this process could still get: what the system has free, and what the container's limit leaves."""
    free = _meminfo("MemAvailable")
    limit = memory_limit(cgroup)
    used = [_words(cgroup / name, 1)[0] for name in ("memory.current", "memory/memory.usage_in_bytes")]
    now = next((amount for amount in used if amount is not None), None)
    left = None if limit is None or now is None else int(limit - now) + _reclaimable(cgroup)
    known = [amount for amount in (free, left) if amount is not None]
    return max(0, min(known)) if known else None


def total_memory() -> int | None:
    """Bytes of memory the machine has."""
    return _meminfo("MemTotal")


def free_disk(place: Path) -> int:
    """Bytes free where the directory is, or would be."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def resident_bytes() -> int:
    """Memory of this process now; its peak where the system does not say."""
    return _status("VmRSS:") or peak_bytes()


def peak_bytes() -> int:
    """The most memory this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reclaimable(cgroup: Path) -> int:
    """Pages of files, which a container counts as used and gives back when asked."""
    try:
        lines = (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(found.get("inactive_file", 0)) + int(found.get("active_file", 0))


def _words(file: Path, count: int) -> list[float | None]:
    """The first numbers in a file of one line; None for what is no number, or not there."""
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError:
        words = []
    found: list[float | None] = [float(word) if word.lstrip("-").isdigit() else None for word in words[:count]]
    return found + [None] * (count - len(found))


def _meminfo(name: str) -> int | None:
    return _kilobytes(Path("/proc/meminfo"), f"{name}:")


def _status(name: str) -> int:
    return _kilobytes(_STATUS, name) or 0


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
