"""Runs of characters as features: words, where none are written apart; spelling and white space everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

LONGEST = 3  # characters of a run
BUCKETS = 18  # bits of a run's column
AT_ONCE = 1000  # texts
_NAMED = 4000  # texts in which a column's run is looked for


@dataclass(frozen=True, kw_only=True)
class Features:
    """A row for each answer, and what each column is."""

    matrix: Any  # scipy.sparse.csr_matrix [answers, columns]
    names: Sequence[str]


def character_features(texts: Sequence[str]) -> Features:
    """The runs of one to three characters of each text, without case, weighted by TF-IDF.

    A run's column is a hash of it, so that nothing is kept but numbers; two runs seldom share one.
    """
    from scipy.sparse import csr_matrix, vstack
    from sklearn.feature_extraction.text import TfidfTransformer

    lowered = [text.lower() for text in texts]
    parts = [_counts(lowered[at : at + AT_ONCE]) for at in range(0, len(lowered), AT_ONCE)]
    counts = vstack(parts).tocsr() if parts else csr_matrix((0, 1 << BUCKETS), dtype=np.float32)
    alone = np.bincount(counts.indices, minlength=1 << BUCKETS) < 2
    counts.data[alone[counts.indices]] = 0  # what one answer alone has says nothing of the others
    counts.eliminate_zeros()
    matrix = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    return Features(matrix=matrix.tocsr().astype(np.float32), names=_Names(lowered))


def ends(text: str, limit: int) -> str:
    """The text, of a long one the beginning and the end."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} {text[-half:]}"


class _Names(Sequence[str]):
    """The run that a column stands for: the most frequent one with that hash, looked for when it is asked."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts[:: max(1, len(texts) // _NAMED)]

    def __len__(self) -> int:
        return 1 << BUCKETS

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        whole, codes, room = _laid(self._texts)
        found: Counter[str] = Counter()
        for size in range(1, LONGEST + 1):
            hits = np.flatnonzero((_columns(codes, size) == index) & (room[: len(codes) - size + 1] >= size))
            found.update(whole[place : place + size] for place in hits.tolist())
        return found.most_common(1)[0][0] if found else ""


def _counts(texts: Sequence[str]) -> Any:
    """[texts, columns]: how often each run occurs."""
    from scipy.sparse import csr_matrix

    _, codes, room = _laid(texts)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    owner = np.repeat(np.arange(len(texts)), lengths)
    keys = []
    for size in range(1, LONGEST + 1):
        whole = room[: max(len(codes) - size + 1, 0)] >= size
        keys.append(owner[: len(whole)][whole] << BUCKETS | _columns(codes, size)[whole])
    found, times = np.unique(np.concatenate(keys), return_counts=True)
    rows, columns = found >> BUCKETS, found & ((1 << BUCKETS) - 1)
    shape = (len(texts), 1 << BUCKETS)
    return csr_matrix((times.astype(np.float32), (rows, columns)), shape=shape)


def _laid(texts: Sequence[str]) -> tuple[str, NDArray[np.uint64], NDArray[np.int64]]:
    """The texts end to end, their characters as numbers, and how many characters of its text each begins."""
    whole = "".join(texts)
    codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends_at = np.repeat(np.cumsum(lengths), lengths)
    return whole, codes, ends_at - np.arange(len(codes))


def _columns(codes: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    """The column of the run that begins at each character."""
    count = max(len(codes) - size + 1, 0)
    mixed = np.full(count, size, np.uint64)
    for step in range(size):
        mixed = (mixed ^ codes[step : step + count]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(64 - BUCKETS)).astype(np.int64)
