"""Rows that say what an earlier kept row says, or nearly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from posttrain.curation.filters.names import DUPLICATES, NEAR_DUPLICATES
from posttrain.curation.filters.near_index import NearIndex
from posttrain.curation.filters.work import Marks, Verdict


class Duplicates:
    """What was kept so far, which is asked whether a new row is to be kept too."""

    def __init__(self, *, exact: bool, near: float | None) -> None:
        self.exact = exact
        self._first: dict[int, int] = {}  # digest -> number of the kept row
        self._near = None if near is None else NearIndex(near)
        self._places: list[str] = []  # where each kept row stands

    def judge(self, marks: Marks, places: Sequence[str]) -> list[Verdict | None]:
        """What removes each of these rows, which are at `places`; None for those that are now kept."""
        verdicts: list[Verdict | None] = [None] * len(places)
        leader: dict[int, int] = {}  # row -> the earlier new row that is its equal
        if self.exact:
            seen: dict[int, int] = {}
            for row, digest in enumerate(marks.digests):
                if digest in self._first:
                    verdicts[row] = (DUPLICATES, f"is {self._places[self._first[digest]]} again")
                elif digest in seen:
                    leader[row] = seen[digest]
                else:
                    seen[digest] = row
        asked = [row for row in range(len(places)) if verdicts[row] is None and row not in leader]
        if self._near is not None:
            sets = marks.sets()
            found = self._near.judge([sets[row] for row in asked], marks.signatures[asked])
        else:
            found = [None] * len(asked)
        self._keep([row for row, match in zip(asked, found) if match is None], marks, places)
        for row, match in zip(asked, found):
            if match is not None:
                said = f"resembles {self._places[match.kept]}, Jaccard similarity {match.similarity:.2f}"
                verdicts[row] = (NEAR_DUPLICATES, said)
        for row, first in leader.items():  # what removed the first removes its equals
            verdicts[row] = verdicts[first] or (DUPLICATES, f"is {places[first]} again")
        return verdicts

    def add(self, marks: Marks, places: Sequence[str]) -> None:
        """Takes in rows that were kept before."""
        if self._near is not None:
            self._near.add(marks.sets(), marks.signatures)
        self._keep(range(len(places)), marks, places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._near is not None:
            self._near.close()

    def _keep(self, rows: Sequence[int], marks: Marks, places: Sequence[str]) -> None:
        for row in rows:
            if self.exact:
                self._first.setdefault(marks.digests[row], len(self._places))
            self._places.append(places[row])
