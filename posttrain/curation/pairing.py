"""Which answers to a prompt become a pair: pure functions of their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Pairing = Literal["best_worst", "best_vs_two_sigma", "all_above_margin"]


def pairs_of(
    scores: Sequence[float], how: Pairing, *, margin: float = 0.0, max_pairs: int | None = None
) -> list[tuple[int, int]]:
    """(chosen, rejected) by place; empty where nothing is far enough apart. Ties are never pairs.

    `best_vs_two_sigma` rejects the answer whose score is nearest to mean - 2 x standard deviation, over the prompt's
    answers (arXiv:2502.16825): with many answers the worst is an outlier that teaches little.
    `all_above_margin` gives the widest pairs first. Of answers that are equally good the first is taken.
    """
    places = range(len(scores))
    if len(scores) < 2:
        return []
    if how == "all_above_margin":
        found = [(a, b) for a in places for b in places if _apart(scores[a], scores[b], margin)]
        return sorted(found, key=lambda pair: scores[pair[1]] - scores[pair[0]])[:max_pairs]
    best = max(places, key=lambda place: scores[place])
    below = [place for place in places if _apart(scores[best], scores[place], margin)]
    if not below:
        return []
    if how == "best_worst":
        return [(best, min(below, key=lambda place: scores[place]))]
    aim = two_sigma_below(scores)
    return [(best, min(below, key=lambda place: abs(scores[place] - aim)))]


def two_sigma_below(scores: Sequence[float]) -> float:
    """The mean less two standard deviations, that of the answers there are (divided by n)."""
    mean = math.fsum(scores) / len(scores)
    return mean - 2 * math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))


def _apart(better: float, worse: float, margin: float) -> bool:
    return better > worse and better - worse >= margin - 1e-12 * max(1.0, abs(better), abs(worse))
