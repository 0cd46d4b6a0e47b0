"""A text as the set of its runs of words, which is what similarity is measured on.

The Jaccard similarity of two texts is |A ∩ B| / |A ∪ B| of these sets. A change of one word in a text of distinct words
touches as many runs as a run has words: where a share p of the words was replaced, about s = (1 - p)^k of the runs are
left, and J = s / (2 - s). For pairs of words: 0.82 at 5%, 0.68 at 10%, 0.47 at 20%.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.curation.filters.words import is_unspaced, normal, words

WORDS = 2  # words in a run
CHARACTERS = 3  # characters in a run of Chinese and other unspaced text, where a word has one or two
_MOST_CACHED = 1 << 19

Hashes = NDArray[np.uint32]


class _WordHashes(dict[str, int]):
    """A number for each word, the same in every process."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MOST_CACHED:
            self.clear()
        self[word] = number = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return number


_HASHES = _WordHashes()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """The words of several texts as numbers, laid end to end."""

    hashes: NDArray[np.uint64]  # [T]
    lengths: NDArray[np.int64]  # [N]
    unspaced: NDArray[np.bool_]  # [N] mostly of a script without spaces

    @property
    def starts(self) -> NDArray[np.int64]:
        """[N] where each text begins."""
        return np.cumsum(self.lengths) - self.lengths

    def take(self, chosen: NDArray[np.bool_]) -> Tokens:
        """Those of the texts that are chosen."""
        hashes = self.hashes[np.repeat(chosen, self.lengths)]
        return Tokens(hashes=hashes, lengths=self.lengths[chosen], unspaced=self.unspaced[chosen])


def tokens(texts: Sequence[str]) -> Tokens:
    """The words of the texts as numbers."""
    flat: list[int] = []
    lengths = np.zeros(len(texts), np.int64)
    unspaced = np.zeros(len(texts), bool)
    for number, text in enumerate(texts):
        found = words(text)
        flat += map(_HASHES.__getitem__, found)
        lengths[number] = len(found)
        unspaced[number] = is_unspaced(normal(text), len(found)) if not text.isascii() else False
    return Tokens(hashes=np.array(flat, np.uint64), lengths=lengths, unspaced=unspaced)


def runs(laid: Tokens, size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """(hash, text, place in the text) of every run of `size` words, in order; hashes have 64 mixed bits."""
    count = len(laid.hashes)
    if count < size:
        return np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
    owner = np.repeat(np.arange(len(laid.lengths)), laid.lengths)
    place = np.arange(count) - laid.starts[owner]
    mixed = np.zeros(count - size + 1, np.uint64)
    for step in range(size):
        mixed = _mix(mixed + laid.hashes[step : count - size + 1 + step] + np.uint64(0x9E3779B97F4A7C15))
    whole = np.flatnonzero(place[: count - size + 1] + size <= laid.lengths[owner[: count - size + 1]])
    return mixed[whole], owner[whole], place[whole]


def shingles(laid: Tokens, *, word_run: int = WORDS, character_run: int = CHARACTERS) -> list[Hashes]:
    """The set of each text's runs as sorted numbers of 32 bits; a text shorter than a run has none."""
    keys = []
    for size, wanted in ((word_run, ~laid.unspaced), (character_run, laid.unspaced)):
        if wanted.any():
            hashes, owner, _ = runs(laid, size)
            taken = wanted[owner]
            keys.append((owner[taken].astype(np.uint64) << np.uint64(32)) | (hashes[taken] >> np.uint64(32)))
    found = np.concatenate(keys) if keys else np.empty(0, np.uint64)
    found.sort()
    found = found[np.append(True, found[1:] != found[:-1])[: len(found)]]
    owners = (found >> np.uint64(32)).astype(np.int64)
    bounds = np.searchsorted(owners, np.arange(1, len(laid.lengths)))
    return np.split((found & np.uint64(0xFFFFFFFF)).astype(np.uint32), bounds) if len(laid.lengths) else []


def jaccard(one: Hashes, other: Hashes) -> float:
    """The Jaccard similarity of two sets of sorted numbers; 0 for two empty ones."""
    if not len(one) or not len(other):
        return 0.0
    both = np.concatenate([one, other])
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a permutation of 64 bits that leaves no pattern."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
