"""How well scores tell two kinds of answers apart: the area under the curve, with an interval for small data too."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from posttrain.stats import Interval

RESAMPLES = 2000

Floats = NDArray[np.float64]


def area(positive: Floats, negative: Floats, weights: tuple[Floats, Floats] | None = None) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs of one score of each kind (Mann and Whitney)."""
    table = _Ranks(positive, negative)
    ones = (np.ones(len(positive)), np.ones(len(negative)))
    return table.area(*(weights or ones))


def paired_area(
    differences: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The area for pairs, of which a score says by how much it prefers the chosen side to the rejected one.

    Both orders of every pair are judged: d_i are the positive scores and -d_i the negative ones, so the area is
    P(d_i + d_j > 0) + P(= 0) / 2 over all i, j, and swapping the sides of every pair gives 1 minus it. The interval is
    a percentile bootstrap over groups of pairs that belong together (of one prompt), and never narrower than Wilson's
    for 3/4 as many observations: that is what the area's variance under chance, 1 / (3n), is worth, and unlike the
    bootstrap it keeps a width where every pair is told apart.
    """
    values = np.asarray(differences, dtype=np.float64)
    members = _numbered(groups, len(values))
    count = int(members.max()) + 1
    table = _Ranks(values, -values)
    rng = np.random.default_rng(seed)
    areas = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weights = _drawn(rng, count)[members]
        areas[i] = table.area(weights, weights)
    ones = np.ones(len(values))
    return _interval(table.area(ones, ones), areas, 0.75 * count, count, level)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Answers scored by one classifier that has not seen them."""

    scores: Floats
    labels: NDArray[np.bool_]
    groups: NDArray[np.int64]


def folds_area(folds: Sequence[Fold], *, level: float = 0.95, seed: int = 0) -> Interval:
    """The area for single answers that are marked good or bad, compared within folds only.

    Scores of two classifiers are not on one scale, and a fold with fewer good answers was judged by a classifier that
    saw more of them: pooling would put chance below 1/2. Bootstrap over groups within each fold; never narrower than
    Wilson's interval for 3 good bad / (good + bad + 1) observations, the Mann-Whitney variance under chance.
    """
    usable = [fold for fold in folds if 0 < fold.labels.sum() < len(fold.labels)]
    if not usable:
        raise ValueError("no fold holds answers of both kinds")
    tables = [_Ranks(fold.scores[fold.labels], fold.scores[~fold.labels]) for fold in usable]
    rng = np.random.default_rng(seed)

    def whole(weights: Sequence[Floats]) -> float:
        total = mass = 0.0
        for fold, table, weight in zip(usable, tables, weights):
            good, bad = weight[fold.labels], weight[~fold.labels]
            share = good.sum() * bad.sum()
            if share > 0:
                total, mass = total + float(share) * table.area(good, bad), mass + float(share)
        return total / mass if mass else 0.5

    numbered = [_numbered(fold.groups.tolist(), len(fold.groups)) for fold in usable]
    counts = [int(members.max()) + 1 for members in numbered]
    areas = np.array(
        [whole([_drawn(rng, count)[members] for members, count in zip(numbered, counts)]) for _ in range(RESAMPLES)]
    )
    good = sum(len({int(g) for g in fold.groups[fold.labels]}) for fold in usable)
    bad = sum(len({int(g) for g in fold.groups[~fold.labels]}) for fold in usable)
    estimate = whole([np.ones(len(fold.labels)) for fold in usable])
    return _interval(estimate, areas, 3 * good * bad / (good + bad + 1), sum(counts), level)


def smallest_seen(pairs: int, threshold: float, *, level: float) -> float:
    """The smallest area whose interval, at its narrowest for so many pairs, lies above the threshold."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return min(1.0, threshold + z * math.sqrt(threshold * (1 - threshold) / (0.75 * max(pairs, 1))))


class _Ranks:
    """The order of two sets of scores, found once, for many weightings."""

    def __init__(self, positive: Floats, negative: Floats) -> None:
        self._order = np.argsort(negative, kind="stable")
        ordered = negative[self._order]
        self._below = np.searchsorted(ordered, positive, side="left")
        self._up_to = np.searchsorted(ordered, positive, side="right")

    def area(self, positive: Floats, negative: Floats) -> float:
        summed = np.concatenate([[0.0], np.cumsum(negative[self._order])])
        wins = (summed[self._below] + summed[self._up_to]) / 2
        return float(positive @ wins / (positive.sum() * summed[-1]))


def _drawn(rng: np.random.Generator, count: int) -> Floats:
    """How often each of so many is drawn in so many draws with replacement."""
    return np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)


def _numbered(groups: Sequence[Hashable] | None, count: int) -> NDArray[np.int64]:
    if groups is None:
        return np.arange(count)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _interval(estimate: float, areas: Floats, observations: float, count: int, level: float) -> Interval:
    low, high = np.quantile(areas, [0.5 - level / 2, 0.5 + level / 2])
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    centre = (estimate + z2 / (2 * observations)) / (1 + z2 / observations)
    half = math.sqrt(z2 * (estimate * (1 - estimate) / observations + z2 / (4 * observations**2)))
    half /= 1 + z2 / observations
    centre, half = float(centre), float(half)
    return Interval(
        estimate=float(estimate),
        low=max(0.0, min(float(low), centre - half)),
        high=min(1.0, max(float(high), centre + half)),
        n=count,
    )
