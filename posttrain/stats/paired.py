"""Did two models differ on the same questions? The exact McNemar test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Two models on the same questions; only the questions on which they disagree carry evidence."""

    n: int
    only_first: int  # questions that the first got right and the second wrong
    only_second: int
    p_value: float  # two-sided, exact

    @property
    def difference(self) -> float:
        """The second's share of right answers minus the first's."""
        return (self.only_second - self.only_first) / self.n


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """The paired comparison of right and wrong answers, question by question (McNemar 1947, exact form).

    If both models were equally good, each disagreement would fall either way like a fair coin: the p-value is
    min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2), and 1 where they never disagree.
    Raises ValueError when the lists are empty or differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} answers against {len(second)}: a paired test needs the same questions")
    if not first:
        raise ValueError("no answers to compare")
    only_first = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    disagreements = only_first + only_second
    tail = sum(math.comb(disagreements, k) for k in range(min(only_first, only_second) + 1))
    return Paired(
        n=len(first),
        only_first=only_first,
        only_second=only_second,
        p_value=min(1.0, 2 * tail / 2**disagreements),  # integers divide exactly, however many there are
    )
