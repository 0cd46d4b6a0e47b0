"""How two numbers of the same things go together, by rank: Spearman's correlation, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from posttrain.stats.intervals import Interval


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """The correlation of the ranks, equal values sharing theirs; NaN where all values of one are equal."""
    return _correlation(np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64))


def rank_correlation(
    one: Sequence[float],
    other: Sequence[float],
    groups: Sequence[int],
    *,
    level: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> Interval:
    """Spearman's correlation with a percentile bootstrap interval over the groups, whose members go together.

    Bounds are NaN for a single group. `n` counts the groups. Raises ValueError for lists of different lengths.
    """
    if not len(one) == len(other) == len(groups):
        raise ValueError(f"{len(one)} values, {len(other)} values and {len(groups)} groups: must be as many")
    x, y, owner = (np.asarray(values, dtype=np.float64) for values in (one, other, groups))
    estimate = _correlation(x, y)
    names = np.unique(owner)
    members = [np.flatnonzero(owner == name) for name in names]
    if len(members) < 2:
        return Interval(estimate=estimate, low=math.nan, high=math.nan, n=len(members))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        found.append(_correlation(x[rows], y[rows]))
    known = [value for value in found if not math.isnan(value)]
    if not known:
        return Interval(estimate=estimate, low=math.nan, high=math.nan, n=len(members))
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    # of few groups the resamples, which have ties, may all lie on one side of the estimate
    return Interval(estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate), n=len(members))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return math.nan
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, the mean of theirs for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]
