"""A mean per token, with texts that are longer and shorter: a ratio of sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from posttrain.stats.intervals import Interval


def bootstrap_ratio(
    amounts: Sequence[float],
    counts: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Σ amounts / Σ counts with a percentile bootstrap interval over the texts, which are drawn with both numbers.

    The tokens of a text are not independent of each other, so texts are drawn, not tokens. `n` is their number; one
    text has no spread, and its bounds are NaN. Equal seeds, equal intervals.
    Raises ValueError for lists that are empty, differ in length or hold a number that is not finite or no count.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: a confidence level lies between 0 and 1, as 0.95 does")
    above, below = np.asarray(amounts, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if above.ndim != 1 or above.shape != below.shape or above.size == 0:
        raise ValueError(f"expected two lists of one length, got shapes {above.shape} and {below.shape}")
    if not (np.isfinite(above).all() and np.isfinite(below).all() and (below > 0).all()):
        raise ValueError("amounts must be finite and counts above 0")
    estimate = float(above.sum() / below.sum())
    if above.size == 1:
        return Interval(estimate=estimate, low=math.nan, high=math.nan, n=1)
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, above.size, above.size)
        ratios[i] = above[drawn].sum() / below[drawn].sum()
    low, high = np.quantile(ratios, [0.5 - level / 2, 0.5 + level / 2])
    # The estimate of many equal texts may lie outside by rounding.
    return Interval(estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate), n=above.size)
