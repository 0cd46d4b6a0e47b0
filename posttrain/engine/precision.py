"""Which number type is fast on this machine: found by timing, not by hope."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

import torch

ROUNDS = 4  # at least; the first pays for what is set up
SECONDS = 0.05  # more rounds are timed until then
ADVANTAGE = 1.2  # bfloat16 must be faster by this factor, or float32, the more exact one, stays


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The type that matrix products run in, and the sentence that explains it."""

    dtype: torch.dtype
    reason: str

    @classmethod
    def half(cls) -> Self:
        """float16, which is never chosen, only asked for."""
        return cls(dtype=torch.float16, reason="fp16=True is set, with the loss scaled")

    @classmethod
    def of(cls, bf16: bool, reason: str) -> Self:
        """bfloat16 or float32."""
        return cls(dtype=torch.bfloat16 if bf16 else torch.float32, reason=reason)

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.dtype == torch.float32 else self.dtype


def fastest_precision(device: torch.device, hidden_size: int) -> Precision:
    """Whichever of bfloat16 and float32 trains a layer of this size faster; float32 unless the gain is clear.

    A whole layer forward and backward, since what bare products gain the conversions around them may cost.
    """
    size = min(hidden_size, 2048)
    rounds: list[list[float]] = []
    until = time.perf_counter() + SECONDS
    while len(rounds) < ROUNDS or time.perf_counter() < until:  # in turn, since others may work here too
        rounds.append([_time_layer(device, dtype, size) for dtype in (torch.float32, torch.bfloat16)])
    slow, fast = (min(times[1:]) for times in zip(*rounds))
    ratio = slow / fast
    return Precision.of(ratio >= ADVANTAGE, f"in bfloat16 a layer trains at {ratio:.2g}x the speed of float32 here")


def _time_layer(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Seconds of one pass of [512, size] through a feed-forward layer and back."""
    inputs = torch.ones(512, size, device=device)
    up, down = torch.nn.Linear(size, 3 * size, device=device), torch.nn.Linear(3 * size, size, device=device)
    start = time.perf_counter()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs = inputs + down(torch.nn.functional.silu(up(inputs)))
    outputs.sum().backward()
    if device.type != "cpu":
        torch.get_device_module(device.type).synchronize()
    return time.perf_counter() - start
