"""An index of the rows that were kept, which is asked which of them a new row resembles.

For each row it holds a signature (256 bytes) and, for each band, the row before it in the same bucket (4 bytes each).
The sets themselves lie in a temporary file and are read to verify a candidate. A million rows take about 800 MB.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.curation.filters.minhash import PLACES, Signatures, band_keys, bands, estimates
from posttrain.curation.filters.shingles import Hashes, jaccard

LONGEST_CHAIN = 500  # rows of a bucket that are looked at, the latest first
LEAST_RUNS = 8  # a set with fewer is not compared: two short texts resemble each other by chance
_PAIRS_AT_ONCE = 1 << 15
_NONE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """The kept row that a row resembles, by its number, and how much."""

    kept: int
    similarity: float


class NearIndex:
    """Kept rows, numbered from 0 in the order in which they came."""

    def __init__(self, threshold: float) -> None:
        """Rows resemble each other whose Jaccard similarity is at least the threshold."""
        self.threshold = threshold
        self.bands, self.places = bands(threshold)
        self.least_estimate = threshold - 4 * (threshold * (1 - threshold) / PLACES) ** 0.5  # four standard errors
        self.rows = 0
        self._bits = 10
        self._heads = np.full((self.bands, 1 << self._bits), _NONE, np.int32)  # the latest row of each bucket
        self._before = np.empty((0, self.bands), np.int32)  # [room, bands] the row before in the bucket
        self._signatures: Signatures = np.empty((0, PLACES), np.uint8)  # [room, PLACES]
        self._ends = np.empty(0, np.int64)  # [room] where a row's set ends in the file, in numbers
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 it lives as long as the index

    def judge(self, sets: Sequence[Hashes], laid: Signatures) -> list[Match | None]:
        """For each new row the kept row that it resembles; None for those that are now kept, too.

        Rows are decided in order, each against all that were kept before it, also of these, and what is named is the
        earliest of the kept rows: how the rows are cut into calls does not matter.
        """
        compared = _comparable(sets)
        keys = band_keys(laid, self.bands, self.places)
        found: list[Match | None] = [None] * len(sets)
        for row, kept in self._candidates(np.flatnonzero(compared), keys, laid):
            found[row] = self._verified(sets[row], kept)
        twins = self._among_new(sets, laid, keys, [n for n in np.flatnonzero(compared).tolist() if found[n] is None])
        new = [n for n in range(len(sets)) if found[n] is None and n not in twins]
        numbers = {row: self.rows + number for number, row in enumerate(new)}
        for row, (other, similarity) in twins.items():
            found[row] = Match(kept=numbers[other], similarity=similarity)
        self._add(new, sets, laid, keys, compared)
        return found

    def add(self, sets: Sequence[Hashes], laid: Signatures) -> None:
        """Takes in rows that were kept before."""
        self._add(range(len(sets)), sets, laid, band_keys(laid, self.bands, self.places), _comparable(sets))

    def close(self) -> None:
        """Gives the temporary file back."""
        self._file.close()

    def _candidates(
        self, rows: NDArray[np.int64], keys: NDArray[np.uint64], laid: Signatures
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(row, kept rows that may be as similar as the threshold, the earliest first), where there are any."""
        owner = np.repeat(rows, self.bands)
        band = np.tile(np.arange(self.bands), len(rows))
        current = self._heads[band, self._buckets(keys[rows]).ravel()]
        pairs = [np.empty(0, np.int64)]
        for _ in range(LONGEST_CHAIN):
            there = current != _NONE
            if not there.any():
                break
            owner, band, current = owner[there], band[there], current[there]
            agree = np.ones(len(owner), bool)  # a bucket holds other bands, too
            for place in range(self.places):
                column = band * self.places + place
                agree &= self._signatures[current, column] == laid[owner, column]
            pairs.append((owner[agree] << 32) | current[agree])
            current = self._before[current, band]
        both = np.unique(np.concatenate(pairs))
        new, kept = both >> 32, both & 0xFFFFFFFF
        alike = np.empty(len(both))
        for at in range(0, len(both), _PAIRS_AT_ONCE):
            part = slice(at, at + _PAIRS_AT_ONCE)
            alike[part] = estimates(laid[new[part]], self._signatures[kept[part]])
        close = alike >= self.least_estimate
        new, kept = new[close], kept[close]
        firsts = np.flatnonzero(np.diff(new, prepend=-1)).tolist()
        for begin, end in zip(firsts, [*firsts[1:], len(new)]):
            yield int(new[begin]), kept[begin:end]

    def _verified(self, one: Hashes, kept: NDArray[np.int64]) -> Match | None:
        """The first of these rows that is as similar as the threshold."""
        for number in kept.tolist():
            similarity = jaccard(one, self._set(number))
            if similarity >= self.threshold:
                return Match(kept=number, similarity=similarity)
        return None

    def _among_new(
        self, sets: Sequence[Hashes], laid: Signatures, keys: NDArray[np.uint64], rows: Sequence[int]
    ) -> dict[int, tuple[int, float]]:
        """Of these rows those that resemble an earlier one of them that is kept, with that one and the similarity."""
        flat = keys[rows].ravel()
        order = np.argsort(flat, kind="stable")
        same = np.flatnonzero(flat[order][1:] == flat[order][:-1])
        meeting = np.unique(np.concatenate([order[same], order[same + 1]]) // self.bands)
        buckets: dict[int, list[int]] = {}
        twins: dict[int, tuple[int, float]] = {}
        for row in (rows[place] for place in meeting.tolist()):
            mine = keys[row].tolist()
            others = np.array(sorted({other for key in mine for other in buckets.get(key, ())}), np.int64)
            alike = estimates(np.broadcast_to(laid[row], (len(others), PLACES)), laid[others])
            for other in others[alike >= self.least_estimate].tolist():
                similarity = jaccard(sets[row], sets[other])
                if similarity >= self.threshold:
                    twins[row] = (other, similarity)
                    break
            if row not in twins:
                for key in mine:
                    buckets.setdefault(key, []).append(row)
        return twins

    def _add(
        self, rows: Sequence[int], sets: Sequence[Hashes], laid: Signatures, keys: NDArray[np.uint64],
        compared: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        if not len(rows):
            return
        first, self.rows = self.rows, self.rows + len(rows)
        self._make_room(len(rows))
        chosen = np.asarray(rows)
        self._signatures[first : self.rows] = laid[chosen]
        data = np.concatenate([sets[row] for row in rows])
        start = int(self._ends[first - 1]) if first else 0
        self._ends[first : self.rows] = start + np.cumsum([len(sets[row]) for row in rows])
        written = memoryview(data.astype("<u4").tobytes())
        while written:
            written = written[
                os.pwrite(self._file.fileno(), written, 4 * int(self._ends[self.rows - 1]) - len(written)) :
            ]
        self._before[first : self.rows] = _NONE
        inside = np.flatnonzero(compared[chosen])
        self._chain(first + inside, keys[chosen[inside]])

    def _chain(self, numbers: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
        """Puts rows at the head of their buckets, in order."""
        buckets = self._buckets(keys)
        for band in range(self.bands):
            mine = buckets[:, band]
            order = np.argsort(mine, kind="stable")
            sorted_buckets, sorted_numbers = mine[order], numbers[order]
            again = np.zeros(len(order), bool)
            again[1:] = sorted_buckets[1:] == sorted_buckets[:-1]
            before = self._heads[band, sorted_buckets]
            before[again] = sorted_numbers[np.flatnonzero(again) - 1]
            self._before[sorted_numbers, band] = before
            last = np.append(~again[1:], True)[: len(order)]
            self._heads[band, sorted_buckets[last]] = sorted_numbers[last]

    def _buckets(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys >> np.uint64(64 - self._bits)).astype(np.int64)

    def _make_room(self, added: int) -> None:
        """Room for all rows, the `added` last of which are not there yet, and about as many buckets as rows."""
        room = len(self._ends)
        if self.rows > room:
            room = max(1024, self.rows, room + room // 4)
            # in place where the system can do that: a copy would need twice the memory
            for table in (self._before, self._signatures):
                table.resize((room, table.shape[1]), refcheck=False)
            self._ends.resize(room, refcheck=False)
        if self.rows > 1 << self._bits:
            self._bits = int(self.rows - 1).bit_length()
            self._heads = np.full((self.bands, 1 << self._bits), _NONE, np.int32)
            sizes = np.diff(self._ends[: self.rows - added], prepend=0)
            known = np.flatnonzero(sizes >= LEAST_RUNS)
            for at in range(0, len(known), _PAIRS_AT_ONCE):
                numbers = known[at : at + _PAIRS_AT_ONCE]
                self._chain(numbers, band_keys(self._signatures[numbers], self.bands, self.places))

    def _set(self, number: int) -> Hashes:
        start, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        return np.frombuffer(os.pread(self._file.fileno(), 4 * (end - start), 4 * start), "<u4").astype(np.uint32)


def _comparable(sets: Sequence[Hashes]) -> NDArray[np.bool_]:
    return np.fromiter((len(one) >= LEAST_RUNS for one in sets), bool, len(sets))
