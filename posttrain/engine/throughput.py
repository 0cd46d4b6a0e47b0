"""What this machine computes and moves in a second, measured in a fraction of one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SIDE = 1024  # of the square matrices on a CPU: small enough for its cache, large enough to fill its units
SLOW = 5e9  # operations a second
STREAM_BYTES = 256 * 2**20  # larger than any cache


def product_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.2) -> float | None:
    """Floating-point operations a second of square matrix products; None where the type is not offered."""
    sides = (SIDE // 4, SIDE) if device.type == "cpu" else (8 * SIDE,)
    rate = None
    try:
        for side in sides:  # a type that the processor has no units for is too slow for the larger one
            rate = _product(device, dtype, side, seconds)
            if rate < SLOW:
                break
    except RuntimeError:
        return rate
    return rate


def _product(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(left)
    return 2.0 * side**3 / _fastest(lambda: torch.mm(left, right, out=out), device, seconds)


def memory_rate(device: torch.device, *, seconds: float = 0.2) -> float:
    """Bytes a second that a copy reads and writes, both counted."""
    source = torch.zeros(STREAM_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    return 2.0 * STREAM_BYTES / _fastest(lambda: target.copy_(source), device, seconds)


def _fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest of as many runs as fit into the time, at least two after one that warms up."""
    times: list[float] = []
    work()
    while len(times) < 2 or sum(times) < seconds:
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.get_device_module(device.type).synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
