"""Rows laid together up to a length, so that a step takes so many packs instead of so many rows.

Batches here have no padding, so packing saves nothing of that; what it changes is how many rows a step averages. A pack
is a tree without tokens at its root, whose children are its rows: each still sees only itself. TRL's strategies:
"bfd" puts the longest row that is left where the least room remains (best fit, decreasing); "bfd_split" takes long rows
apart first instead of cutting them; "wrapped" writes all rows one after the other and cuts the whole into blocks, so
that a row sees the rows before it in its block.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from posttrain.data.report import path_lengths, spread
from posttrain.data.trees import TreeSet
from posttrain.errors import ConfigError, DataError
from posttrain.types import Segment

WHOLE_ROWS = ("bfd_split", "wrapped")  # strategies that are given rows uncut


def pack(found: TreeSet, *, max_length: int, strategy: str) -> TreeSet:
    """The same rows as packs of at most `max_length` tokens. Raises ConfigError for a mixture with weights.

    The strategies of `WHOLE_ROWS` take rows of any length; a piece in which nothing is trained is left out.
    """
    if any(share.per_epoch != share.end - share.begin for share in found.shares):
        raise ConfigError(
            "packing=True lays rows of all sources together, and the weights of a mixture say how many of each source "
            "an epoch has: leave the weights or packing out."
        )
    rows = [row for tree in found.trees for row in (tree.children if not tree.tokens else (tree,))]
    numbers = found.rows
    if strategy in WHOLE_ROWS:
        pieces = list(_split(rows, numbers, max_length) if strategy == "bfd_split" else _blocks(rows, max_length))
        if not pieces:
            raise DataError(f"{found.report.source}: no trained token is left in pieces of {max_length} tokens.")
        rows, numbers = [piece for piece, _ in pieces], [number for _, number in pieces]
    bins = [[i] for i in range(len(rows))]
    if strategy != "wrapped":
        bins = best_fit_decreasing([row.size for row in rows], max_length)
    report, tokens = found.report, sum(row.size for row in rows)
    note = (
        f"Packed ({strategy}): {report.rows_kept:,} rows in {len(bins):,} packs of at most {max_length:,} tokens, "
        f"{100 * tokens / (len(bins) * max_length):.0f}% full. A step takes packs, not rows"
        + ("; a row sees the rows before it in its block." if strategy == "wrapped" else "; each row sees itself only.")
    )
    report = replace(
        noted(found, note).report,
        tokens=tokens,
        trained_tokens=sum(e - b for row in rows for leaf in row.leaves() for b, e in leaf.trained),
        lengths=spread([length for row in rows for length in path_lengths(row)]),
    )
    trees = [Segment(tokens=(), children=[rows[i] for i in members]) for members in bins]
    return replace(found, trees=trees, rows=[numbers[members[0]] for members in bins], report=report, shares=())


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which items share a bin: the longest first, each into the fullest bin with room for it, the oldest of equals."""
    bins: list[list[int]] = []
    waiting: dict[int, deque[int]] = {}  # the bins with so much room
    rooms: list[int] = []  # the amounts of room there are, ascending
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(rooms, lengths[item])
        if place == len(rooms):
            found, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            found = waiting[room].popleft()
            if not waiting[room]:
                del waiting[room], rooms[place]
        bins[found].append(item)
        left = room - lengths[item]
        if left > 0:
            if left not in waiting:
                waiting[left] = deque()
                insort(rooms, left)
            waiting[left].append(found)
    return bins


def shuffled(found: TreeSet, seed: int) -> TreeSet:
    """The same trees in another order, which is the seed's; each source of a mixture keeps its place."""
    generator = torch.Generator().manual_seed(seed)
    shares = [(share.begin, share.end) for share in found.shares] or [(0, len(found.trees))]
    order = [begin + i for begin, end in shares for i in torch.randperm(end - begin, generator=generator).tolist()]
    return replace(found, trees=[found.trees[i] for i in order], rows=[found.rows[i] for i in order])


def noted(found: TreeSet, note: str) -> TreeSet:
    """The same trees with another sentence in their report."""
    return replace(found, report=replace(found.report, notes=(*found.report.notes, note)))


def padding_note(found: TreeSet, batch_size: int) -> str:
    """What laying rows end to end saves against padded batches of so many rows, in words."""
    lengths = [length for tree in found.trees for length in path_lengths(tree)]
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    padded, real = sum(max(batch) * len(batch) for batch in batches), sum(tree.size for tree in found.trees)
    return (
        f"Without padding: batches of {batch_size} rows, padded to their longest, would hold {padded - real:,} tokens "
        f"more ({100 * (padded - real) / padded:.0f}% of {padded:,})."
    )


def _split(rows: Sequence[Segment], numbers: Sequence[int], max_length: int) -> Iterator[tuple[Segment, int]]:
    for row, number in zip(rows, numbers):
        if max(path_lengths(row)) <= max_length:
            yield row, number
            continue
        tokens, weights = _flat(row, number, "bfd_split")
        for start in range(0, len(tokens), max_length):
            if piece := _piece(tokens[start : start + max_length], weights[start : start + max_length]):
                yield piece, number


def _blocks(rows: Sequence[Segment], max_length: int) -> Iterator[tuple[Segment, int]]:
    tokens: list[int] = []
    weights: list[float] = []
    for number, row in enumerate(rows):
        more = _flat(row, number, "wrapped")
        tokens += more[0]
        weights += more[1]
    for start in range(0, len(tokens), max_length):
        if piece := _piece(tokens[start : start + max_length], weights[start : start + max_length]):
            yield piece, start // max_length


def _flat(row: Segment, number: int, strategy: str) -> tuple[list[int], list[float]]:
    """The row's tokens, and what each counts: 0 where it is not trained."""
    if row.children:
        raise DataError(
            f"packing_strategy={strategy!r} cannot cut row {number}: its chat template renders earlier answers "
            "differently, so its turns are trained in contexts of their own. Use packing_strategy='bfd'."
        )
    weights = [0.0] * len(row.tokens)
    places = [i for begin, end in row.trained for i in range(begin, end)]
    for place, weight in zip(places, row.columns.get("weight", [1.0] * len(places))):
        weights[place] = weight
    return list(row.tokens), weights


def _piece(tokens: Sequence[int], weights: Sequence[float]) -> Segment | None:
    """Part of a row as a row; its first token has nothing before it and is not trained."""
    trained = [i for i, weight in enumerate(weights) if weight and i]
    if not trained:
        return None
    starts = [i for i in trained if i == 1 or not weights[i - 1]]
    ends = [i + 1 for i in trained if i + 1 == len(weights) or not weights[i + 1]]
    kept = [weights[i] for i in trained]
    columns = {} if set(kept) == {1.0} else {"weight": kept}
    return Segment(tokens=tokens[: ends[-1]], trained=list(zip(starts, ends)), columns=columns)
