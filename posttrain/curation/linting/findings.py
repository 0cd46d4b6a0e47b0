"""A finding of lint, and the limits at which one is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from posttrain.config.curation.filter import NEAR

Level = Literal["note", "warning", "error"]
STATUS: Mapping[Level, int] = {"note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that would go wrong, or that is worth knowing."""

    check: str  # its name, the same in every report
    level: Level
    text: str  # what was found
    advice: str = ""  # what to do
    count: int = 0  # rows it is about
    of: int = 0  # rows looked at
    places: tuple[str, ...] = ()  # of the first of them
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The finding in a line."""
        return f"{self.level} {self.check}: {self.text}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain values for JSON."""
        return {**asdict(self), "places": list(self.places)}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a note becomes a warning. Shares are of the rows; below a limit, what there is, is said as a note."""

    duplicates: float = 0.01
    near: float | None = NEAR  # Jaccard similarity of near duplicates; None: they are not looked for
    near_duplicates: float = 0.05
    cut: float = 0.05  # rows longer than max_length
    no_trained_token: float = 0.0
    roles: float = 0.0
    overlap: float = 0.0
    identical_pairs: float = 0.0
    contradictory_pairs: float = 0.0
    area: float = 0.55  # of a classifier whose interval lies above chance
    phrase_present: float = 0.9  # of one side's answers
    phrase_absent: float = 0.1  # at most, of the other side's
    phrase_pairs: int = 20  # that a phrase has to be found in
    close: float = 0.2  # edit distance, in words of the longer side, at which two sides are close
    close_pairs: float = 0.5  # of the pairs


def graded(count: int, of: int, limit: float) -> Level:
    """A warning where the share is above the limit, else a note."""
    return "warning" if count > limit * max(of, 1) else "note"
