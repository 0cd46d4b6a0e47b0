"""Rows that nearly repeat an earlier one, and rows that hold a question of an evaluation."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.curation.filters.contamination import EvaluationIndex, read_questions
from posttrain.curation.filters.minhash import signatures
from posttrain.curation.filters.near_index import NearIndex
from posttrain.curation.filters.shingles import shingles, tokens
from posttrain.curation.filters.spoken import Spoken, spoken
from posttrain.curation.linting.scan import Trouble
from posttrain.errors import DataError

CHUNK = 500  # rows looked at together


class Resemblance:
    """Looks at rows as they come by, some at a time, with the methods and settings of `data filter`."""

    def __init__(self, against: Sequence[str], *, near: float | None, place: Callable[[int], str]) -> None:
        """`near` is the Jaccard similarity from which rows resemble each other, None for not looking.

        `place` says where a row's number stands. Raises DataError for an evaluation file that cannot be read.
        """
        self.near = Trouble()
        self.overlap = Trouble()
        self.questions = 0
        self._place = place
        self._index = None if near is None else NearIndex(near)
        self._evaluation: EvaluationIndex | None = None
        if against:
            self._evaluation = EvaluationIndex(read_questions(against))
            self.questions = len(self._evaluation.questions)
        self._waiting: list[tuple[int, Spoken, bool]] = []
        self._kept = array("q")  # the number of each row in the index

    def add(self, number: int, row: Mapping[str, Any], *, repeated: bool) -> None:
        """Takes a row; one that repeats another exactly is no near duplicate."""
        try:
            self._waiting.append((number, spoken(row), repeated))
        except DataError:
            return  # said by the scan
        if len(self._waiting) == CHUNK:
            self.flush()

    def flush(self) -> None:
        """Looks at what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        laid = tokens([said.text for _, said, _ in waiting])
        if self._evaluation is not None:
            for (number, _, _), reason in zip(waiting, self._evaluation.judge([s for _, s, _ in waiting], laid)):
                if reason is not None:
                    self.overlap.add(self._place(number), reason)
        if self._index is None:
            return
        sets = shingles(laid)
        asked = [i for i, (_, _, repeated) in enumerate(waiting) if not repeated]
        found = self._index.judge([sets[i] for i in asked], signatures([sets[i] for i in asked]))
        self._kept.extend(waiting[i][0] for i, match in zip(asked, found) if match is None)
        for i, match in zip(asked, found):
            if match is not None:
                said = f"resembles {self._place(self._kept[match.kept])}, Jaccard {match.similarity:.2f}"
                self.near.add(self._place(waiting[i][0]), said)

    def close(self) -> None:
        """Gives temporary files back."""
        if self._index is not None:
            self._index.close()
            self._index = None
