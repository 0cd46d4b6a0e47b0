"""Sums over the runs that a flat [M] array is made of."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Sums [count] of the values [M] that share an index."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, index, values)


def segment_count(index: Tensor, count: int) -> Tensor:
    """How many entries [count] each index has."""
    return torch.bincount(index, minlength=count)
