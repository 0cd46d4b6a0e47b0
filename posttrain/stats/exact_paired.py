"""An exact test and bound of the difference between two models on the same yes-or-no questions.

Only the questions on which they differ enter: `gains` that the second alone got right, `losses` that the first alone
did, among `n`. The difference is (gains - losses) / n.

The test is unconditional (Hsueh, Liu and Chen 2001): tables are ordered by Tango's score statistic (Tango 1998), and
the p-value is the largest probability, over every share of changed answers, of a table at least as extreme. So the
error rate holds for every n, where the score's normal approximation exceeds it by up to a few tenths of a point.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SHARES = 97  # shares of changed answers at which the largest probability is looked for
_TIE = 1e-9  # scores this close are equal: they are computed in floating point
_SMALLEST_STEP = 2e-5  # a bound is found to within this


def paired_score(gains: ArrayLike, losses: ArrayLike, n: int, threshold: float) -> NDArray[np.float64]:
    """How far the difference lies above the threshold, in standard errors; for arrays of tables at once.

    Tango 1998: (g - l - n t) / sqrt(n (2 q - t (1 + t))), where q is the likeliest share of gains if the difference
    were t, the larger root of 2n q² + B q + l' = 0 with B = -(g + l) - t (2n - l + g) and l' = g t (1 + t).
    """
    g, b = np.asarray(gains, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    t = threshold
    half = (g + b) + t * (2 * n - b + g)
    q = (half + np.sqrt(np.maximum(half * half - 8 * n * g * t * (1 + t), 0.0))) / (4 * n)
    variance = n * (2 * q - t * (1 + t))
    distance = g - b - n * t
    # no variance: nothing changed and nothing was to change, or a threshold of 1 or -1 that is met exactly
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-12, distance / np.sqrt(variance), np.where(distance > 1e-12, np.inf, 0.0))


def exact_p_value(gains: int, losses: int, n: int, threshold: float) -> float:
    """The p-value of "the difference is at most the threshold"; small where it is surely above.

    Raises ValueError for impossible counts and a threshold outside (-1, 1).
    """
    _check(gains, losses, n)
    if not -1 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: a difference of two shares lies between -1 and 1")
    return _largest_probability(float(paired_score(gains, losses, n, threshold)), n, threshold)


def exact_lower_bound(gains: int, losses: int, n: int, *, level: float = 0.95) -> float:
    """The one-sided lower confidence bound of the difference: the thresholds below it are rejected at 1 - level.

    The upper bound is minus the lower bound of the swapped counts.
    """
    _check(gains, losses, n)
    alpha = 1 - level
    estimate = (gains - losses) / n
    if losses == n:
        return -1.0

    def rejected(threshold: float) -> bool:
        return threshold <= -1 or exact_p_value(gains, losses, n, threshold) <= alpha

    # The bound of the normal approximation is next to the exact one: look around it.
    z = NormalDist().inv_cdf(level)
    low, high = -1.0, estimate
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if paired_score(gains, losses, n, middle) >= z else (low, middle)
    start, step = low, max(0.02 * (estimate - low), 0.25 / n)
    if rejected(start):
        outside, inside = start, min(estimate, start + step)
        while inside < estimate and rejected(inside):
            step *= 2
            outside, inside = inside, min(estimate, inside + step)
    else:
        outside, inside = max(-1.0, start - step), start
        while not rejected(outside):
            step *= 2
            outside, inside = max(-1.0, outside - step), outside
    while inside - outside > _SMALLEST_STEP:
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if rejected(middle) else (middle, outside)
    return outside


@lru_cache(maxsize=256)
def critical_score(n: int, threshold: float, alpha: float) -> float:
    """The score from which on `exact_p_value` is at most alpha: what decides many tables at once."""
    low, high = 0.0, NormalDist().inv_cdf(1 - alpha)
    while _largest_probability(high, n, threshold) > alpha:
        low, high = high, high + 0.5  # ends: beyond every table the probability is 0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if _largest_probability(middle, n, threshold) <= alpha else (middle, high)
    return high


def rejection_probability(
    score: float, n: int, threshold: float, *, changed: ArrayLike, difference: float
) -> NDArray[np.float64]:
    """The probability of a score of at least `score`, for shares of changed answers and a true difference."""
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    shares = np.atleast_1d(np.asarray(changed, dtype=np.float64))[:, None]  # [S, 1]
    most_losses = _most_losses(score, n, threshold)
    spread = np.sqrt(n * shares * (1 - shares))
    width = min(n + 1, int(np.ceil(14 * spread.max())) + 21)  # 7 standard deviations either side
    first = np.clip(np.floor(n * shares - width / 2), 0, n + 1 - width)
    m = (first + np.arange(width)).astype(np.int64)  # [S, W] how many answers changed
    log_chance = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1) + xlogy(m, shares) + xlog1py(n - m, -shares)
    ratio = np.divide(difference, shares, out=np.zeros_like(shares), where=shares > 0)
    is_loss = np.broadcast_to(np.clip((1 - ratio) / 2, 0.0, 1.0), m.shape)
    limit = most_losses[m]
    counts = (log_chance > -32) & (limit >= 0)
    tail = np.zeros(m.shape)
    tail[counts] = bdtr(limit[counts], m[counts], is_loss[counts])
    return np.minimum((np.exp(log_chance) * tail).sum(axis=1), 1.0)


def _largest_probability(score: float, n: int, threshold: float) -> float:
    # Equal steps of the angle whose sine squared is the share: equal steps in standard deviations.
    angle = np.linspace(math.asin(math.sqrt(abs(threshold))), math.pi / 2, _SHARES)
    changed = np.clip(np.sin(angle) ** 2, abs(threshold), 1.0)
    return float(rejection_probability(score, n, threshold, changed=changed, difference=threshold).max())


def _most_losses(score: float, n: int, threshold: float) -> NDArray[np.float64]:
    """For 0 to n changed answers, how many may be losses for the score to be reached; -1 where none may."""
    m = np.arange(n + 1.0)
    low, high = np.full(n + 1, -1.0), m.copy()
    while (low < high).any():
        middle = np.ceil((low + high) / 2)
        reached = paired_score(m - middle, middle, n, threshold) >= score - _TIE
        low, high = np.where(reached, middle, low), np.where(reached, high, middle - 1)
    return low


def _check(gains: int, losses: int, n: int) -> None:
    if n < 1 or gains < 0 or losses < 0 or gains + losses > n:
        raise ValueError(f"{gains} gains and {losses} losses among {n} questions: not possible")
