"""What can be said of rows one by one: which filter removes them, and for the others what duplicates are found by.

It is done for a chunk of rows at a time, so that arithmetic is done on many texts at once, and by several processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.config.curation.filter import FilterFields
from posttrain.curation.filters.contamination import EvaluationIndex, read_questions
from posttrain.curation.filters.minhash import Signatures, signatures
from posttrain.curation.filters.names import COLUMNS, CONTAMINATION, judges
from posttrain.curation.filters.shingles import Hashes, Tokens, shingles, tokens
from posttrain.curation.filters.spoken import Spoken, spoken
from posttrain.curation.filters.words import normal
from posttrain.errors import DataError

Verdict = tuple[str, str]  # the filter that removes a row, and why


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What duplicates among some rows are found by."""

    digests: list[int]  # [K] of the normalised text
    runs: Hashes  # the sets of word runs, laid end to end
    lengths: NDArray[np.int64]  # [K] of each set
    signatures: Signatures  # [K, PLACES]

    def sets(self) -> list[Hashes]:
        """The set of each row."""
        return np.split(self.runs, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A chunk of rows: what removes each, and marks of those that nothing does."""

    verdicts: list[Verdict | None]
    marks: Marks


class RowWork:
    """The filters that look at a single row."""

    def __init__(self, fields: FilterFields) -> None:
        """Raises PosttrainError for what the filters need and have not: a file, a language that is not known."""
        self.fields = fields
        self.judges = judges(fields)
        self.questions: EvaluationIndex | None = None
        self._same_texts = fields.duplicates_by == "row"  # are compared with questions and with each other
        if fields.decontaminate:
            self.questions = EvaluationIndex(
                read_questions(fields.decontaminate),
                words=fields.contamination_words,
                characters=fields.contamination_characters,
                share=fields.contamination_share,
            )

    def __call__(self, rows: Sequence[Any]) -> Judged:
        """Judges a chunk of rows."""
        verdicts: list[Verdict | None] = []
        left: list[Spoken] = []
        for row in rows:
            try:
                said = spoken(row)
            except DataError as error:
                verdicts.append((COLUMNS, str(error)))
                continue
            verdict = self._verdict(said)
            verdicts.append(verdict)
            if verdict is None:
                left.append(said)
        laid: Tokens | None = None
        if self.questions is not None and left:
            laid = tokens([said.text for said in left])
            found = self.questions.judge(left, laid)
            places = [place for place, verdict in enumerate(verdicts) if verdict is None]
            for place, reason in zip(places, found):
                if reason is not None:
                    verdicts[place] = (CONTAMINATION, reason)
            left = [said for said, reason in zip(left, found) if reason is None]
            laid = laid.take(np.array([reason is None for reason in found])) if self._same_texts else None
        return Judged(verdicts=verdicts, marks=self.mark(left, laid))

    def marks(self, rows: Sequence[Any]) -> Marks:
        """The marks of rows that are known to be kept."""
        return self.mark([spoken(row) for row in rows])

    def mark(self, rows: Sequence[Spoken], laid: Tokens | None = None) -> Marks:
        """The marks of rows, as far as these settings need any. `laid` are their words, where they are known."""
        by = self.fields.duplicates_by
        texts = [said.part(by) for said in rows]
        tools = [said.tools if by == "row" else "" for said in rows]
        digests = [digest(f"{text} {tool}") for text, tool in zip(texts, tools)] if self.fields.duplicates else []
        sets = shingles(laid or tokens(texts)) if self.fields.near is not None else []
        return Marks(
            digests=digests,
            runs=np.concatenate(sets) if sets else np.empty(0, np.uint32),
            lengths=np.fromiter(map(len, sets), np.int64, len(sets)),
            signatures=signatures(sets),
        )

    def _verdict(self, said: Spoken) -> Verdict | None:
        for name, judge in self.judges.items():
            reason = judge(said)
            if reason is not None:
                return name, reason
        return None


def digest(text: str) -> int:
    """64 bits of a hash of the text without differences of case, width and white space."""
    plain = " ".join(normal(text).split())
    return int.from_bytes(blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest())
