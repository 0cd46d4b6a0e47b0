"""How many questions does a change need to be seen, and what can so many questions see?"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist


def questions_needed(
    changed: float, *, difference: float = 0.0, threshold: float = 0.0, alpha: float = 0.05, power: float = 0.8
) -> int:
    """How many questions show, with this power, that a true `difference` lies above the `threshold`.

    One-sided at `alpha`; `changed` is the share of answers that change, either way. A gain of d is
    `difference=d`; a retention test that allows the loss m and is to pass where nothing is lost is `threshold=-m`.
    For a two-sided test give it half of alpha.

    n = ((z_alpha s0 + z_power s1) / (difference - threshold))²: s1 is the standard deviation of a question's change
    (changed - difference²), s0 the likeliest one if the threshold were true (Connor 1987 for threshold 0, Nam 1997).
    Not fewer than the questions of which the exact test needs every answer unchanged.
    Raises ValueError where the difference is not above the threshold or larger than what changes.
    """
    if not difference > threshold:
        raise ValueError(f"a true difference of {difference} is not above {threshold}: no number of questions shows it")
    if not abs(difference) <= changed <= 1:
        raise ValueError(
            f"changed is {changed}: a share of at least the difference's size {abs(difference)}, at most 1"
        )
    if not (0 < alpha < 0.5 and 0.5 <= power < 1):
        raise ValueError(f"alpha is {alpha} and power {power}: they lie between 0 and 0.5, and between 0.5 and 1")
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(power)
    true = math.sqrt(changed - difference**2)
    n = ((z_alpha * _deviation_at(threshold, changed, difference) + z_power * true) / (difference - threshold)) ** 2
    unchanged = math.log(alpha) / math.log1p(threshold) if -1 < threshold < 0 else 1
    return math.ceil(max(n, unchanged, 1) - 1e-9)


def smallest_difference(changed: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true gain or loss that n questions show with this power, one-sided at `alpha`.

    Raises ValueError where n questions cannot show even that all of `changed` went the same way.
    """
    return _smallest(lambda d: questions_needed(changed, difference=d, alpha=alpha, power=power), changed, n)


def smallest_max_loss(changed: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest loss that a retention test on n questions can rule out with this power, if nothing is lost."""
    return _smallest(lambda m: questions_needed(changed, threshold=-m, alpha=alpha, power=power), 1 - 1e-6, n)


def _smallest(needed: Callable[[float], int], largest: float, n: int) -> float:
    if needed(largest) > n:
        raise ValueError(f"{n} questions are too few to show anything here")
    low, high = 0.0, largest
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if needed(middle) <= n else (middle, high)
    return high


def _deviation_at(threshold: float, changed: float, difference: float) -> float:
    """Of one question's change, under the constrained estimate of `paired_score` in a large sample."""
    t = threshold
    gained = (changed + difference) / 2
    half = changed + t * (2 + difference)
    q = (half + math.sqrt(max(half * half - 8 * gained * t * (1 + t), 0.0))) / 4
    return math.sqrt(max(2 * q - t * (1 + t), 0.0))
