"""Agreement of people beyond chance: Cohen's kappa for two, Fleiss' kappa for any number."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.stats.intervals import Interval

Counts = NDArray[np.float64]


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """κ = (p_o - p_e) / (1 - p_e) of two people's judgements of the same things (Cohen 1960).

    p_o is the share of things judged alike, p_e = Σ_k p_1k p_2k what two people with these habits would have by
    chance. NaN where both always said one and the same thing: chance then explains all of it.
    Raises ValueError for lists of unequal length or without a judgement.
    """
    pairs = _crossed(first, second)
    return _cohen(pairs / pairs.sum())


def cohen_kappa_interval(
    first: Sequence[Hashable], second: Sequence[Hashable], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Cohen's kappa with a percentile bootstrap interval over the things judged."""
    pairs = _crossed(first, second)
    n = int(pairs.sum())
    drawn = np.random.default_rng(seed).multinomial(n, pairs.ravel() / n, size=resamples)
    kappas = [_cohen(table.reshape(pairs.shape) / n) for table in drawn]
    return _interval(_cohen(pairs / n), kappas, n=n, level=level)


def fleiss_kappa(counts: ArrayLike) -> float:
    """κ = (P̄ - P̄_e) / (1 - P̄_e) of counts [things, categories], how many people put a thing where (Fleiss 1971).

    P_i = (Σ_j n_ij² - n_i) / (n_i (n_i - 1)) is the share of pairs of people who agree on thing i, P̄ its mean, and
    P̄_e = Σ_j p_j² with p_j the share of all judgements in category j. The number of people n_i may differ from thing
    to thing; where it is 1 nothing can agree, and the thing is left out. NaN as for Cohen's.
    Raises ValueError for counts that are none, or where nothing was judged by two.
    """
    return _fleiss(_shared(counts))


def fleiss_kappa_interval(counts: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Fleiss' kappa with a percentile bootstrap interval over the things judged."""
    table = _shared(counts)
    rng = np.random.default_rng(seed)
    kappas = [_fleiss(table[rng.integers(0, len(table), len(table))]) for _ in range(resamples)]
    return _interval(_fleiss(table), kappas, n=len(table), level=level)


def _crossed(first: Sequence[Hashable], second: Sequence[Hashable]) -> Counts:
    """How often one said a while the other said b, [categories, categories]."""
    if len(first) != len(second) or not first:
        raise ValueError(f"expected two judgements of each thing, at least one thing; got {len(first)}, {len(second)}")
    place: dict[Any, int] = {}
    for category in (*first, *second):
        place.setdefault(category, len(place))
    table = np.zeros((len(place), len(place)))
    for a, b in zip(first, second):
        table[place[a], place[b]] += 1
    return table


def _cohen(shares: Counts) -> float:
    chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return _beyond(float(np.trace(shares)), chance)


def _shared(counts: ArrayLike) -> Counts:
    """The things that two or more people judged."""
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all() or (table < 0).any() or (table != np.round(table)).any():
        raise ValueError(f"expected counts [things, categories], whole and not negative; got shape {table.shape}")
    table = table[table.sum(axis=1) >= 2]
    if not len(table):
        raise ValueError("nothing was judged by two people, so there is no agreement to measure")
    return table


def _fleiss(table: Counts) -> float:
    people = table.sum(axis=1)
    alike = ((table**2).sum(axis=1) - people) / (people * (people - 1))
    shares = table.sum(axis=0) / table.sum()
    return _beyond(float(alike.mean()), float(shares @ shares))


def _beyond(observed: float, chance: float) -> float:
    return math.nan if chance >= 1 else (observed - chance) / (1 - chance)


def _interval(estimate: float, kappas: Sequence[float], *, n: int, level: float) -> Interval:
    """Resamples in which everybody said one thing have no kappa and are left out."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: a confidence level lies between 0 and 1, as 0.95 does")
    known = [kappa for kappa in kappas if not math.isnan(kappa)]
    if math.isnan(estimate) or not known:
        return Interval(estimate=estimate, low=math.nan, high=math.nan, n=n)
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high), n=n)
