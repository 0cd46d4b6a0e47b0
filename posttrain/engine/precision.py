"""Which number type is fast on this machine: found by timing, not by hope."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

ADVANTAGE = 1.2  # bfloat16 must be faster by this factor, or float32, the more exact one, stays


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The type that matrix products run in, and the sentence that explains it."""

    dtype: torch.dtype
    reason: str

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.dtype == torch.float32 else self.dtype


def choose_precision(device: torch.device, bf16: bool | None, hidden_size: int) -> Precision:
    """bfloat16 or float32, as asked (`bf16`) or, when unset, whichever runs a training-like product faster."""
    if bf16 is not None:
        return Precision(dtype=torch.bfloat16 if bf16 else torch.float32, reason=f"bf16={bf16} is set")
    size = max(256, min(hidden_size, 2048))
    slow, fast = (_time_product(device, dtype, size) for dtype in (torch.float32, torch.bfloat16))
    ratio = slow / fast
    chosen = torch.bfloat16 if ratio >= ADVANTAGE else torch.float32
    return Precision(dtype=chosen, reason=f"bfloat16 products run at {ratio:.2g}x the speed of float32 here")


def _time_product(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Seconds of the fastest of a few products [512, size] x [size, 2 size]."""
    left = torch.ones(512, size, dtype=dtype, device=device)
    right = torch.ones(size, 2 * size, dtype=dtype, device=device)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
