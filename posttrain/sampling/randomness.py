"""Random numbers by address: (seed, key, number in the group, position) gives the same one wherever it is asked for.

A counter-based generator: an address is hashed with the finaliser of splitmix64 (Steele, Lea and Flood 2014), so that
nothing has to be drawn in an order and how completions are batched changes none of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = 2**64 - 1


def streams(seed: int, keys: Sequence[int], numbers: Sequence[int]) -> np.ndarray:
    """A stream of random numbers for each pair of a prompt's key and a number in its group. [n] uint64"""
    mixed = np.full(len(keys), seed & _MASK, dtype=np.uint64)
    for part in (keys, numbers):
        words = np.array([value & _MASK for value in part], dtype=np.uint64)
        mixed = _mix(_mix(mixed) ^ words)
    return _mix(mixed)


def uniforms(streams: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The streams' numbers at these positions, evenly from [0, 1) in steps of 2^-53. [n] float64"""
    mixed = _mix(streams + positions.astype(np.uint64) * _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + _GOLDEN  # arrays of unsigned integers wrap around
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
