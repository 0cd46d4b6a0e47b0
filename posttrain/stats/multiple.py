"""Several tests at once: what keeps the chance of any false claim at its nominal level, however they depend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in the order given (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1 and is no smaller than the one before it, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def fallback(p_values: ArrayLike, shares: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What each test of an ordered list may err, and which of them reject; the tests lie on the last axis (Wiens 2003).

    Each test has its share of the error, and one that rejects hands all it had on to the next. The chance of any false
    rejection is at most the sum of the shares, however the tests depend: a true null that is the first to be falsely
    rejected had at most its own share and those of the false nulls between it and the true null before it; these
    amounts do not depend on chance, and over the true nulls they sum to no more than all shares.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.shape[-1] != len(shares):
        raise ValueError(f"{p.shape[-1]} tests and {len(shares)} shares: one share a test is needed")
    levels, rejected = np.zeros_like(p), np.zeros(p.shape, dtype=bool)
    handed = np.zeros(p.shape[:-1])
    for i, share in enumerate(shares):
        levels[..., i] = share + handed
        rejected[..., i] = p[..., i] <= levels[..., i]
        handed = np.where(rejected[..., i], levels[..., i], 0.0)
    return levels, rejected
