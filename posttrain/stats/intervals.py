"""Confidence intervals for a proportion, a mean over questions and a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its confidence interval, and how many observations it rests on."""

    estimate: float
    low: float
    high: float
    n: int

    def percent(self) -> str:
        """Like `82.4% [78.2, 85.9]`; without brackets where one observation gives no interval."""
        if math.isnan(self.low):
            return f"{100 * self.estimate:.1f}%"
        return f"{100 * self.estimate:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """The score interval of a proportion (Wilson 1927).

    Honest at 0 of n and n of n, where the mean with two standard errors would have no width.
    Raises ValueError for n < 1, successes outside 0..n or a level outside (0, 1).
    """
    _check_level(level)
    if n < 1:
        raise ValueError(f"n is {n}: a proportion of no observations has no interval")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n}: must lie between 0 and n")
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the ends the formula gives 0 and 1 exactly; rounding must not put the estimate outside its interval.
    return Interval(estimate=p, low=max(0.0, min(p, centre - half)), high=min(1.0, max(p, centre + half)), n=n)


def bootstrap_mean(values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean with a percentile bootstrap interval over the values, which must be independent of each other.

    Several samples of one question are not: average them per question first. Equal seeds, equal intervals.
    Raises ValueError for no value or one that is not finite.
    """
    _check_level(level)
    array = _finite(values)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):  # one resample at a time: the whole index matrix would be resamples x n
        means[i] = array[rng.integers(0, array.size, array.size)].mean()
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(estimate=float(array.mean()), low=float(low), high=float(high), n=array.size)


def mean_over_seeds(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of one number per seed with Student's t interval, n - 1 degrees of freedom.

    It speaks of further seeds, not of further questions. A single seed has no spread, so its
    bounds are NaN. They are not cut to [0, 1], as a number per seed need not be a proportion.
    """
    _check_level(level)
    array = _finite(values)
    mean = float(array.mean())
    if array.size == 1:
        return Interval(estimate=mean, low=math.nan, high=math.nan, n=1)
    from scipy.special import stdtrit  # scipy.stats takes a second to import, this a tenth

    half = float(stdtrit(array.size - 1, 0.5 + level / 2)) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Interval(estimate=mean, low=mean - half, high=mean + half, n=array.size)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"expected a list of at least one number, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(array))[0])} is not finite")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: a confidence level lies between 0 and 1, as 0.95 does")
