"""Which number type is fast on this machine: found by timing, not by hope."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

import torch

ADVANTAGE = 1.2  # bfloat16 must be faster by this factor, or float32, the more exact one, stays


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The type that matrix products run in, and the sentence that explains it."""

    dtype: torch.dtype
    reason: str

    @classmethod
    def of(cls, bf16: bool, reason: str) -> Self:
        """bfloat16 or float32."""
        return cls(dtype=torch.bfloat16 if bf16 else torch.float32, reason=reason)

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.dtype == torch.float32 else self.dtype


def fastest_precision(device: torch.device, hidden_size: int) -> Precision:
    """Whichever of bfloat16 and float32 runs a training-like product faster; float32 unless the gain is clear."""
    size = max(256, min(hidden_size, 2048))
    slow, fast = (_time_product(device, dtype, size) for dtype in (torch.float32, torch.bfloat16))
    ratio = slow / fast
    return Precision.of(ratio >= ADVANTAGE, f"bfloat16 products run at {ratio:.2g}x the speed of float32 here")


def _time_product(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Seconds of the fastest of a few products [512, size] x [size, 2 size]."""
    left = torch.ones(512, size, dtype=dtype, device=device)
    right = torch.ones(size, 2 * size, dtype=dtype, device=device)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type != "cpu":
            torch.get_device_module(device.type).synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
