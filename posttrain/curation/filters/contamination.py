"""Rows that hold a question of an evaluation set, by the runs of words they share with it.

A row is contaminated by a question if runs of n words that both have cover at least a share of the question's words
(as in arXiv:2411.15124, with n = 8 and one half). A shorter question is one run; one of fewer than four words, or six
Chinese characters, has to be the whole prompt: "What is 2 + 3?" stands in many texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.curation.filters.shingles import Tokens, runs, tokens
from posttrain.curation.filters.spoken import Spoken, spoken
from posttrain.curation.rows import PROVENANCE, Broken, read_stream
from posttrain.errors import DataError

SHORT_WORDS, SHORT_CHARACTERS = 4, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question of an evaluation set, and where it stands."""

    place: str
    text: str


def read_questions(files: Sequence[str]) -> list[Question]:
    """The questions of evaluation files: what stands before the answer in each row.

    Raises DataError for a row that cannot be read: what is not known cannot be looked for.
    """
    questions = []
    for row in read_stream(files):
        if isinstance(row, Broken):
            raise DataError(f"decontaminate: {row.place}: {row.reason}")
        place = f"{row[PROVENANCE]['source']}:{row[PROVENANCE]['line']}"
        try:
            questions.append(Question(place=place, text=spoken(row).part("prompt")))
        except DataError as error:
            raise DataError(f"decontaminate: {place}: {error}") from None
    return questions


class EvaluationIndex:
    """The runs of words of evaluation questions."""

    def __init__(
        self, questions: Sequence[Question], *, words: int = 8, characters: int = 13, share: float = 0.5
    ) -> None:
        self.questions = list(questions)
        self.share = share
        laid = tokens([question.text for question in questions])
        self.lengths = laid.lengths
        size = np.where(laid.unspaced, characters, words)
        size = np.minimum(size, laid.lengths)
        whole = laid.lengths < np.where(laid.unspaced, SHORT_CHARACTERS, SHORT_WORDS)
        self._tables = {
            int(n): _table(laid, int(n), np.flatnonzero((size == n) & ~whole)) for n in np.unique(size[~whole])
        }
        starts = laid.starts
        self._short = {
            laid.hashes[starts[q] : starts[q] + laid.lengths[q]].tobytes(): int(q)
            for q in np.flatnonzero(whole & (laid.lengths > 0))[::-1]
        }

    def judge(self, rows: Sequence[Spoken], laid: Tokens) -> list[str | None]:
        """For each row which question it holds, or None. `laid` are the words of the rows' texts."""
        said: list[str | None] = [None] * len(rows)
        shared: dict[int, dict[int, list[tuple[int, int]]]] = {}  # row -> question -> runs
        for size, (hashes, ends, owners, places) in self._tables.items():
            found, row, _ = runs(laid, size)
            at = np.searchsorted(hashes, found)
            at[at == len(hashes)] = 0
            hits = np.flatnonzero(hashes[at] == found)
            for hit in hits.tolist():
                entry = int(at[hit])
                for one in range(int(ends[entry - 1]) if entry else 0, int(ends[entry])):
                    known = shared.setdefault(int(row[hit]), {}).setdefault(int(owners[one]), [])
                    known.append((int(places[one]), size))
        for row_number, by_question in shared.items():
            best = max(by_question, key=lambda question: (self._covered(question, by_question[question]), -question))
            covered = self._covered(best, by_question[best])
            if covered >= self.share:
                said[row_number] = self._reason(best, covered)
        if self._short:
            for number, row_said in enumerate(rows):
                if said[number] is None and (question := self._is_short(row_said)) is not None:
                    said[number] = self._reason(question, 1.0)
        return said

    def _covered(self, question: int, found: Sequence[tuple[int, int]]) -> float:
        """The share of a question's words that lie in one of the runs found."""
        inside = np.zeros(int(self.lengths[question]), bool)
        for place, size in found:
            inside[place : place + size] = True
        return float(inside.mean())

    def _is_short(self, row: Spoken) -> int | None:
        if len(row.prompt) > 200:
            return None
        laid = tokens([row.part("prompt")])
        return self._short.get(laid.hashes.tobytes()) if len(laid.hashes) else None

    def _reason(self, question: int, covered: float) -> str:
        asked = self.questions[question]
        return f"holds {covered:.0%} of {asked.place}: {' '.join(asked.text.split())[:80]!r}"


_Table = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _table(laid: Tokens, size: int, chosen: NDArray[np.int64]) -> _Table:
    """(sorted hashes, where each one's entries end, the entries' questions, their places) of the runs of some texts."""
    hashes, owner, place = runs(laid, size)
    mine = np.isin(owner, chosen)
    hashes, owner, place = hashes[mine], owner[mine], place[mine]
    order = np.argsort(hashes, kind="stable")
    known, counts = np.unique(hashes[order], return_counts=True)
    return known, np.cumsum(counts), owner[order], place[order]
