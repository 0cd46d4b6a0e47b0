"""Whether probabilities mean what they say, and what is known of a pair from the lengths of its answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The pairs whose preferred answer was preferred with a probability from `low` to `high`."""

    low: float
    high: float
    count: int
    confidence: float  # mean probability of the preferred answers; nan where there is no pair
    accuracy: float  # share of them that were right


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well probabilities of a preference agree with what came out."""

    bins: tuple[Bin, ...]
    brier: float  # mean of (1 - p)², p the probability of what came out; 0.25 for always one half
    ece: float  # mean distance of confidence and accuracy over the bins, weighted by their counts

    def text(self) -> str:
        """A table of the bins that hold pairs."""
        lines = ["  sure of      pairs  said   right"]
        lines += [
            f"  {b.low:.2f}-{b.high:.2f} {b.count:9,}  {b.confidence:4.0%}  {b.accuracy:5.0%}"
            for b in self.bins
            if b.count
        ]
        return "\n".join(lines)


def reliability(probabilities: Sequence[float], *, bins: int = BINS) -> Reliability:
    """The reliability of probabilities, one a pair, each that of the answer which is the better one.

    A pair counts for the answer that the model prefers: its confidence is max(p, 1 - p), which lies from 1/2 to 1, and
    it is right where p > 1/2; at 1/2 it is half right. Expected calibration error: arXiv:1706.04599 eq. 3. Raises
    ValueError for no pair, and for what is no probability.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not p.size:
        raise ValueError("no pair: the reliability of no probability is not defined")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("a probability lies outside 0 to 1")
    confidence = np.maximum(p, 1 - p)
    right = np.where(p == 0.5, 0.5, (p > 0.5).astype(np.float64))
    edges = np.linspace(0.5, 1.0, bins + 1)
    number = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        mine = number == i
        count = int(mine.sum())
        found.append(
            Bin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                count=count,
                confidence=float(confidence[mine].mean()) if count else float("nan"),
                accuracy=float(right[mine].mean()) if count else float("nan"),
            )
        )
    ece = sum(b.count * abs(b.confidence - b.accuracy) for b in found if b.count) / p.size
    return Reliability(bins=tuple(found), brier=float(((1 - p) ** 2).mean()), ece=float(ece))


def alike_in_length(chosen: Sequence[int], rejected: Sequence[int], *, share: float = 0.1) -> list[bool]:
    """Which pairs have answers that differ in length by at most this share of the longer one."""
    return [abs(a - b) <= share * max(a, b) for a, b in zip(chosen, rejected, strict=True)]


def longer_is_better(chosen: Sequence[int], rejected: Sequence[int]) -> bool:
    """Whether the chosen answers of pairs are the longer ones more often than not."""
    difference = np.asarray(chosen) - np.asarray(rejected)
    return bool(np.sign(difference).sum() >= 0)


def length_only_accuracy(chosen: Sequence[int], rejected: Sequence[int], *, longer: bool = True) -> float:
    """The accuracy of preferring the longer answer of each pair (or the shorter one); equal lengths are half right.

    No rule that knows only which answer is longer does better than one of the two: what a reward model has above this
    is not length. Raises ValueError for no pair, and for lists of unequal length.
    """
    if len(chosen) != len(rejected) or not len(chosen):
        raise ValueError(f"{len(chosen)} chosen and {len(rejected)} rejected lengths: one each for at least one pair")
    difference = np.asarray(chosen) - np.asarray(rejected)
    share = float(((difference > 0) + 0.5 * (difference == 0)).mean())
    return share if longer else 1 - share
