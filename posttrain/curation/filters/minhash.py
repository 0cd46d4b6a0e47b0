"""MinHash signatures, and the bands in which similar ones meet.

The smallest number that a random permutation gives to a set is the same for two sets with the probability of their
Jaccard similarity (Broder 1997). Of each smallest number eight bits are kept (arXiv:0910.3349), so unlike sets agree
in one place of 256 by chance. Signatures are cut into bands of r places; two rows are compared if a whole band agrees,
which at similarity J happens with probability 1 - (1 - J^r)^b.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.curation.filters.shingles import Hashes

PLACES = 256  # of a signature
FOUND = 0.8  # the least probability with which a pair that is as similar as the threshold is to be compared
_CHANCE = 1 / 256
_AT_ONCE = 1 << 14  # numbers that are permuted together, to stay in the cache

Signatures = NDArray[np.uint8]

_generator = np.random.Generator(np.random.PCG64(2997))
_FACTORS = _generator.integers(0, 1 << 32, PLACES, dtype=np.uint32) | np.uint32(1)  # odd: x -> a x + b permutes
_OFFSETS = _generator.integers(0, 1 << 32, PLACES, dtype=np.uint32)


def signatures(sets: Sequence[Hashes]) -> Signatures:
    """[N, PLACES]: the signature of each set; that of an empty set is all zeros and means nothing."""
    result = np.zeros((len(sets), PLACES), np.uint8)
    full = [number for number, one in enumerate(sets) if len(one)]
    group: list[int] = []
    size = 0
    for number in full:
        group.append(number)
        size += len(sets[number])
        if size >= _AT_ONCE:
            result[group] = _signatures([sets[n] for n in group])
            group, size = [], 0
    if group:
        result[group] = _signatures([sets[n] for n in group])
    return result


def _signatures(sets: Sequence[Hashes]) -> Signatures:
    values = np.concatenate(sets)
    lengths = np.fromiter(map(len, sets), np.int64, len(sets))
    starts = np.cumsum(lengths) - lengths
    least = np.empty((PLACES, len(sets)), np.uint32)
    permuted = np.empty_like(values)
    for place in range(PLACES):
        np.multiply(values, _FACTORS[place], out=permuted)
        np.add(permuted, _OFFSETS[place], out=permuted)
        np.minimum.reduceat(permuted, starts, out=least[place])
    least *= np.uint32(2654435761)  # the low bits of a product with an odd number know little of each other
    return np.ascontiguousarray((least >> np.uint32(24)).astype(np.uint8).T)


def estimates(one: Signatures, other: Signatures) -> NDArray[np.float64]:
    """[N] the Jaccard similarities that signatures, row by row, let expect: with an error of sqrt(J (1 - J) / 256)."""
    agreeing = (one == other).mean(axis=1)
    return (agreeing - _CHANCE) / (1 - _CHANCE)


def bands(threshold: float) -> tuple[int, int]:
    """(bands, places in each): the longest bands with which a pair at the threshold is compared with FOUND or more."""
    for places in range(16, 1, -1):
        count = PLACES // places
        if found(threshold, count, places) >= FOUND:
            return count, places
    return PLACES // 2, 2


def found(similarity: float, count: int, places: int) -> float:
    """The probability that two sets of this similarity agree in one of `count` bands: 1 - (1 - J^r)^b."""
    return 1 - (1 - similarity**places) ** count


def band_keys(laid: Signatures, count: int, places: int) -> NDArray[np.uint64]:
    """[N, bands] a number for what stands in each band."""
    parts = laid[:, : count * places].reshape(len(laid), count, places)
    keys = np.broadcast_to(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15), parts.shape[:2])
    for place in range(places):
        keys = (keys ^ parts[:, :, place]) * np.uint64(0xBF58476D1CE4E5B9)
        keys = keys ^ (keys >> np.uint64(29))
    return keys
