"""`Rows`: a dataset as a sequence of dicts that know where they stand in what the user wrote."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, overload

PROVENANCE = "_provenance"  # where a curated row came from and what it passed; nothing learns from it


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Sequence[Mapping[str, Any]]):
    """A dataset as a sequence of dicts. `where(i)` says where row i stands in what the user wrote."""

    name: str  # the argument it was given as, such as "train_dataset"
    records: Sequence[Mapping[str, Any]]
    path: str | None = None
    lines: Sequence[int] | None = None  # the line of each record, for files that have one record a line
    parts: tuple[Rows, ...] = ()  # the files it was put together from, in order
    notes: tuple[str, ...] = ()  # what the report should say of the reading

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.records)

    @property
    def source(self) -> str:
        """The file, if there is one, or else the name of the argument."""
        return self.path or self.name

    def where(self, row: int) -> str:
        """Such as "train.jsonl:17" for a file with a row a line, else "row 16 of ...", counted from 0."""
        if self.parts:
            starts = list(accumulate((len(part) for part in self.parts), initial=0))
            part = bisect_right(starts, row) - 1
            return self.parts[part].where(row - starts[part])
        if self.path and self.lines:
            return f"{self.path}:{self.lines[row]}"
        return f"row {row} of {self.source}"

    def first(self, count: int) -> Rows:
        """The rows from the start, at most so many."""
        return replace(self, records=self.records[:count])


def joined(parts: Sequence[Rows], *, name: str, path: str) -> Rows:
    """The rows of several files, one after the other."""
    records = [record for part in parts for record in part.records]
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return Rows(name=name, path=path, records=records, parts=tuple(parts), notes=notes)
