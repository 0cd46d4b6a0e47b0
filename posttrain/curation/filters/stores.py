"""Rows that can be read again and in any order, in memory or in a file."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from posttrain.curation.rows import Row


class Store(Protocol):
    """Rows by their number."""

    def __len__(self) -> int: ...

    def take(self, numbers: Iterable[int] | None = None) -> Iterator[Row]:
        """The rows with these numbers, in this order; all of them in theirs."""
        ...


class ListStore:
    """Rows in memory."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, numbers: Iterable[int] | None = None) -> Iterator[Row]:
        """The rows with these numbers, in this order; all of them in theirs."""
        return iter(self._rows) if numbers is None else (self._rows[number] for number in numbers)


class FileStore:
    """The rows of a JSONL file; in memory is only where each begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("q")
        start = 0
        with path.open("rb") as file:
            for line in file:
                self._starts.append(start)
                start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def take(self, numbers: Iterable[int] | None = None) -> Iterator[Row]:
        """The rows with these numbers, in this order; all of them in theirs."""
        with self._path.open("rb") as file:
            for start in self._starts if numbers is None else (self._starts[number] for number in numbers):
                file.seek(start)
                yield json.loads(file.readline())
