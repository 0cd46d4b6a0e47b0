"""Where the rows of one curation call go: a file of a command, or lists in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

from posttrain.curation.card import Card
from posttrain.curation.kinds import stream
from posttrain.curation.rows import PROVENANCE, Broken, Row


class Sink(Protocol):
    """Takes what was kept and what was rejected; an `Output`, or `Collected`."""

    card: Card

    def keep(self, row: Row, *, consumed: int = 1) -> None:
        """Takes a row that is kept."""
        ...

    def reject(
        self, row: Row | Broken, *, step: str = ..., reason: str = ..., field: str | None = ..., consumed: int = 1
    ) -> None:
        """Takes a row that is not."""
        ...


class Collected:
    """Rows in memory: those kept, and the rejected ones as they would stand in a file of rejects."""

    def __init__(self, command: str) -> None:
        self.card = Card(command=command)
        self.rows: list[Row] = []
        self.rejects: list[dict[str, Any]] = []
        self.rejected: Counter[str] = Counter()

    def keep(self, row: Row, *, consumed: int = 1) -> None:
        """Takes a row that is kept."""
        self.rows.append(row)

    def reject(
        self, row: Row | Broken, *, step: str = "read", reason: str = "", field: str | None = None, consumed: int = 1
    ) -> None:
        """Takes a row that is not, and why."""
        broken = isinstance(row, Broken)
        notes = {"source": row.source, "line": row.line} if isinstance(row, Broken) else row.get(PROVENANCE) or {}
        place = {"source": notes.get("source"), "line": notes.get("line"), "step": step, "field": field}
        self.rejects.append({**place, "reason": reason, **({"text": row.text} if broken else {"row": row})})  # type: ignore[union-attr]
        self.rejected[step] += 1


def prompts_of(data: Any) -> Iterator[Row | Broken]:
    """The rows of a dataset or a list, each with where it stands; a text is a prompt."""
    if isinstance(data, list | tuple):
        data = [{"prompt": row} if isinstance(row, str) else row for row in data]
    return stream(data, name="prompts")
