"""What became of a dataset: what was read, trained, cut and dropped, and one row as the model sees it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from posttrain.errors import DataError
from posttrain.types import Segment

SHOWN_ROWS = 5  # row numbers kept for each reason
SHOWN_CHARACTERS = 1500  # of the marked example, from each end


class NothingLeftError(DataError):
    """Every row was dropped."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Rows left out for one reason."""

    count: int
    first: tuple[str, ...]  # where the first of them stand


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What became of the rows of a dataset on their way to trees."""

    source: str  # the file, or the argument's name
    format: str  # "messages", "preference", ...
    understood: str  # how the columns were read
    trained: str  # what is trained, and why, in one sentence
    ignored_columns: tuple[str, ...]
    rows_read: int
    rows_kept: int
    dropped: dict[str, Dropped] = field(default_factory=dict)  # reason -> rows
    truncated: int = 0  # rows kept, but cut to max_length
    tokens: int = 0  # of all trees, shared prompts counted once
    trained_tokens: int = 0
    lengths: dict[str, int] = field(default_factory=dict)  # of sequences: "50%", ..., "longest"
    notes: tuple[str, ...] = ()
    example: tuple[tuple[str, bool], ...] = ()  # pieces of one rendered row, and whether they are trained
    sources: tuple[dict[str, Any], ...] = ()  # of a mixture: what each source is, and its share of an epoch

    def render_marked(self, color: bool | None = None) -> str:
        """One row as the model sees it, its trained part in [[...]], or in green on a terminal."""
        if color is None:
            color = sys.stdout.isatty()
        begin, end = ("\033[32m", "\033[0m") if color else ("[[", "]]")
        return "".join(f"{begin}{text}{end}" if trained else text for text, trained in self.example)

    def text(self, color: bool | None = None) -> str:
        """The report for a person, several lines."""
        share = 100 * self.trained_tokens / max(self.tokens, 1)
        lines = [
            f"{self.source}: {self.rows_read:,} rows read, {self.rows_kept:,} kept. Format {self.format}: "
            f"{self.understood}.",
            f"Trained: {self.trained}",
            f"{self.tokens:,} tokens, {self.trained_tokens:,} of them trained ({share:.0f}%). Lengths: "
            + ", ".join(f"{name} {length:,}" for name, length in self.lengths.items()) + ".",
        ]  # fmt: skip
        if self.truncated:
            lines.append(f"{self.truncated:,} rows are longer than max_length and were cut.")
        for reason, rows in self.dropped.items():
            lines.append(f"{rows.count:,} dropped, {reason}: {places_of(rows.first, rows.count, self.source)}")
        if self.ignored_columns:
            lines.append(f"Columns not used: {', '.join(self.ignored_columns)}.")
        lines += self.notes
        if self.example:
            lines += ["One row as the model sees it, its trained part marked:", self.render_marked(color)]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self) | {"example": self.render_marked(color=False)}


class Tally:
    """Counts while trees are made, and makes the report at the end."""

    def __init__(self) -> None:
        self.dropped: dict[str, tuple[int, list[str]]] = {}
        self.truncated = 0

    def drop(self, reason: str, place: str) -> None:
        """Counts a row that is left out."""
        count, first = self.dropped.get(reason, (0, []))
        self.dropped[reason] = (count + 1, [*first, place] if len(first) < SHOWN_ROWS else first)

    def report(
        self, trees: Sequence[Segment], tokenizer: Any, *, source: str, remedy: str, **fields: Any
    ) -> DataReport:
        """The report on these trees. Raises DataError if there are none."""
        dropped = {reason: Dropped(count=count, first=tuple(first)) for reason, (count, first) in self.dropped.items()}
        if not trees:
            reasons = "; ".join(f"{d.count} {reason} ({', '.join(d.first)})" for reason, d in dropped.items())
            raise NothingLeftError(f"{source}: no row is left to train on. Dropped: {reasons}. {remedy}")
        return DataReport(
            source=source,
            dropped=dropped,
            truncated=self.truncated,
            tokens=sum(tree.size for tree in trees),
            trained_tokens=sum(e - b for tree in trees for leaf in tree.leaves() for b, e in leaf.trained),
            lengths=spread([length for tree in trees for length in path_lengths(tree)]),
            example=_pieces(trees[0], tokenizer),
            **fields,
        )


def spread(lengths: Sequence[int]) -> dict[str, int]:
    """The lengths below which half, 90% and 99% of these lie, and the longest."""
    ordered, last = sorted(lengths), len(lengths) - 1
    shares = {"50%": 0.5, "90%": 0.9, "99%": 0.99, "longest": 1.0}
    return {name: ordered[min(int(len(ordered) * share), last)] for name, share in shares.items()}


def places_of(first: Sequence[str], count: int, source: str) -> str:
    """Where the first of so many rows stand; the file is named in the report's first line and not again."""
    return ", ".join(
        [*(place.removesuffix(f" of {source}") for place in first), *(["..."] if count > len(first) else [])]
    )


def path_lengths(segment: Segment, before: int = 0) -> list[int]:
    """The length of each sequence from the root to a leaf."""
    length = before + len(segment.tokens)
    if not segment.children:
        return [length]
    return [total for child in segment.children for total in path_lengths(child, length)]


def _pieces(tree: Segment, tokenizer: Any) -> tuple[tuple[str, bool], ...]:
    """The text from the root to the first leaf, cut where the trained spans begin and end."""
    runs: list[tuple[list[int], bool]] = []
    segment = tree
    while segment.children:
        runs.append((list(segment.tokens), False))
        segment = segment.children[0]
    place = 0
    for begin, end in segment.trained:
        runs += [(list(segment.tokens[place:begin]), False), (list(segment.tokens[begin:end]), True)]
        place = end
    runs.append((list(segment.tokens[place:]), False))
    merged: list[tuple[list[int], bool]] = []
    for tokens, trained in runs:
        if merged and merged[-1][1] == trained:
            merged[-1] = (merged[-1][0] + tokens, trained)
        elif tokens:
            merged.append((tokens, trained))
    return tuple((_shorten(tokenizer.decode(tokens)), trained) for tokens, trained in merged)


def _shorten(text: str) -> str:
    if len(text) <= 2 * SHOWN_CHARACTERS:
        return text
    cut = len(text) - 2 * SHOWN_CHARACTERS
    return f"{text[:SHOWN_CHARACTERS]} ... {cut:,} characters ... {text[-SHOWN_CHARACTERS:]}"
