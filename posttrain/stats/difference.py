"""How much better did the second model do on the same questions? The difference, its interval and its tests.

Grades lie between 0 and 1, one a question (several samples of a question are averaged first). Where every grade is 0
or 1, bounds and tests are exact (`exact_paired`); otherwise they are those of `bounded_mean`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.stats.bounded_mean import bounded_lower_bound, bounded_p_value
from posttrain.stats.exact_paired import exact_lower_bound, exact_p_value
from posttrain.stats.intervals import Interval
from posttrain.stats.paired import mcnemar

_ENUMERATED = 14  # so many differences have their signs turned in every way


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of second - first; each end of the interval is missed at most (1 - level) / 2 of the time.

    Raises ValueError for lists that are empty, of unequal length, or with a grade outside 0 to 1.
    """
    change = _changes(first, second)
    one_sided = (1 + level) / 2
    low, high = _lower_bound(change, one_sided, seed), -_lower_bound(-change, one_sided, seed)
    estimate = float(change.mean())
    return Interval(estimate=estimate, low=min(low, estimate), high=max(high, estimate), n=change.size)


def above_p_value(first: Sequence[float], second: Sequence[float], threshold: float, *, seed: int = 0) -> float:
    """The one-sided p-value of "second - first is at most the threshold": small where it is surely more.

    With threshold 0 a test of a gain; with -0.02 a test that no more than two points were lost (non-inferiority).
    """
    change = _changes(first, second)
    if _is_binary(change):
        return exact_p_value(int((change > 0).sum()), int((change < 0).sum()), change.size, threshold)
    return float(bounded_p_value(change, -1.0, threshold, seed=seed))


def difference_p_value(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """The two-sided p-value of "they do equally well": McNemar's for right and wrong, else of a sign-flip test.

    If the models were exchangeable, each question's difference could as well have the other sign. All signs are tried
    where at most 14 differences are not 0, else `resamples` of them (the observed ones count, so that p is never 0).
    """
    change = _changes(first, second)
    if _is_binary(change):
        return mcnemar([d < 0 for d in change], [d > 0 for d in change]).p_value
    moved = change[change != 0]
    observed = abs(moved.sum()) - 1e-12  # equal sums differ in rounding
    if moved.size <= _ENUMERATED:
        signs = 1 - 2 * ((np.arange(2**moved.size)[:, None] >> np.arange(moved.size)) & 1)
        return float((abs(signs @ moved) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, resamples, 500):
        signs = 1 - 2 * rng.integers(0, 2, (min(500, resamples - start), moved.size))
        extreme += int((abs(signs @ moved) >= observed).sum())
    return (extreme + 1) / (resamples + 1)


def changed_share(first: Sequence[float], second: Sequence[float]) -> float:
    """The share of questions with another grade, as the sizes in `power` take it; at least one more than was seen.

    For grades between 0 and 1 the mean squared difference, which is the same where they are 0 or 1.
    """
    change = _changes(first, second)
    return float(min(1.0, ((change**2).sum() + 1) / (change.size + 1)))


def _lower_bound(change: NDArray[np.float64], level: float, seed: int) -> float:
    if _is_binary(change):
        return exact_lower_bound(int((change > 0).sum()), int((change < 0).sum()), change.size, level=level)
    return bounded_lower_bound(change, -1.0, level=level, seed=seed)


def _is_binary(change: NDArray[np.float64]) -> bool:
    return bool(np.isin(change, (-1.0, 0.0, 1.0)).all())


def _changes(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} grades against {len(second)}: a paired comparison needs the same questions")
    if len(first) == 0:
        raise ValueError("no grades to compare")
    before, after = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    for grades in (before, after):
        if grades.ndim != 1 or not ((grades >= 0) & (grades <= 1)).all():
            raise ValueError("a grade is a number from 0 to 1, one a question")
    return after - before
