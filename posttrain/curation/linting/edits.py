"""How far apart two texts are, in words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein).

    A column of the table of distances is kept as two integers, one bit a row, where it rises and where it falls
    (Myers 1999, as Hyyro 2003 writes it), so a column costs a few operations whatever its height.
    """
    if len(one) < len(other):
        one, other = other, one
    if not other:
        return len(one)
    places: dict[Hashable, int] = {}
    for place, item in enumerate(other):
        places[item] = places.get(item, 0) | 1 << place
    full, last = (1 << len(other)) - 1, 1 << (len(other) - 1)
    rises, falls, distance = full, 0, len(other)
    for item in one:
        equal = places.get(item, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        up, down = falls | ~(diagonal | rises) & full, rises & diagonal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & full, down << 1 & full
        rises, falls = down | ~(diagonal | up) & full, up & diagonal
    return distance


def relative_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """The edit distance as a share of the longer sequence: 0 for equal ones, 1 where nothing is in common."""
    return edit_distance(one, other) / max(len(one), len(other), 1)
