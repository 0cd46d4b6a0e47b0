"""How many rows of each source a mixture has: exact counts by largest remainder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from posttrain.errors import DataError


def largest_remainder(total: int, weights: Sequence[float]) -> list[int]:
    """`total` divided by weights into whole numbers: quotas rounded down, the rest to the largest remainders."""
    exact = [Fraction(repr(weight)) for weight in weights]
    quotas = [total * weight / sum(exact) for weight in exact]
    counts = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(counts)), key=lambda i: counts[i] - quotas[i])  # ties go to the earlier source
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts


def rows_per_epoch(sizes: Sequence[int], weights: Sequence[float], stop: str) -> list[int]:
    """The rows of each source in one epoch of N rows, w_i N of each as far as whole numbers go.

    "first_exhausted": N = floor(min size_i / w_i), so that no row is seen twice; "all_exhausted": N = ceil(max size_i /
    w_i), so that every row is. The weights w sum to 1. Raises DataError where that leaves nothing of a source.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    bounds = [size * sum(exact) / weight for size, weight in zip(sizes, exact)]
    total = math.floor(min(bounds)) if stop == "first_exhausted" else math.ceil(max(bounds))
    counts = largest_remainder(total, weights)
    if 0 in counts:
        raise DataError(
            f"a mixture with the weights {', '.join(f'{weight:g}' for weight in weights)} of sources with "
            f"{', '.join(f'{size:,}' for size in sizes)} rows has {', '.join(map(str, counts))} of each in an "
            f"epoch (stop={stop!r}): one would never be seen. Change the weights, or write all_exhausted."
        )
    return counts
