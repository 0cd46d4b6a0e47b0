"""A dataset that is read while it is trained: its rows one after the other, and how some of them become trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from posttrain.data.report import NothingLeftError
from posttrain.data.rows import Rows
from posttrain.errors import DataError
from posttrain.types import Segment

if TYPE_CHECKING:
    from posttrain.data.trees import TreeSet

Placed = tuple[str, Mapping[str, Any]]  # where a row stands, and the row
FIRST = 1000  # rows that the report at the start is about


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedRows(Rows):
    """Some rows of a stream, each with its place."""

    places: Sequence[str] = ()

    def where(self, row: int) -> str:
        return self.places[row]


@dataclass(frozen=True, kw_only=True)
class RowStream:
    """Rows that are read again from the start for each pass, and rendered as they are needed."""

    name: str
    source: str  # the file, or the argument's name
    open: Callable[[], Iterator[Placed]]
    make: Callable[[Rows], TreeSet]

    def trees(self, placed: Sequence[Placed]) -> list[list[Segment]]:
        """The trees of each row, none of those that cannot be trained. Raises DataError for a row that is no row."""
        try:
            found = self.make(self._rows(placed))
        except NothingLeftError:
            return [[] for _ in placed]
        result: list[list[Segment]] = [[] for _ in placed]
        for row, tree in zip(found.rows, found.trees):
            result[row].append(tree)
        return result

    def first(self, buffer: int, *, shuffled: bool) -> TreeSet:
        """The first rows as trees, with a report that says so; the set is this stream's."""
        placed = list(islice(self.open(), min(buffer, FIRST)))
        if not placed:
            raise DataError(f"{self.name}: {self.source} holds no rows. Give at least one.")
        found = self.make(self._rows(placed))
        order = f"shuffled among {buffer:,}" if shuffled else "in their order"
        note = f"Streamed: this is about the first {len(placed):,} rows; all are read as they are needed, {order}."
        return replace(found, report=replace(found.report, notes=(note, *found.report.notes)), stream=self)

    def _rows(self, placed: Sequence[Placed]) -> Rows:
        for place, row in placed:
            if not isinstance(row, Mapping):
                raise DataError(
                    f"{place}: a row must be a dict of columns, got {type(row).__name__} {str(row)[:40]!r}."
                )
        records = [row for _, row in placed]
        return PlacedRows(name=self.name, path=self.source, records=records, places=[place for place, _ in placed])
