"""One question of the generated world, and the split it belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Split = Literal["pretraining", "train", "test"]

# Where the hash of a question's key falls decides its split, whatever the seed and the process.
_PRETRAINING_SHARE = 0.70
_TRAIN_SHARE = 0.18


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, its answer, and the key that decides the split.

    The key names what is asked and not how: two wordings of one sum, or one word problem told about two
    people, share a key and therefore a split.
    """

    prompt: str
    answer: str
    kind: str
    key: str

    def row(self) -> dict[str, str]:
        """The question as a plain row: prompt, answer, kind."""
        return {"prompt": self.prompt, "answer": self.answer, "kind": self.kind}


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone (SHA-256; Python's own hash varies by process)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(key: str) -> Split:
    """The split of a question's key: pretraining, train (SFT and RL) or test."""
    place = hash_fraction(key)
    if place < _PRETRAINING_SHARE:
        return "pretraining"
    return "train" if place < _PRETRAINING_SHARE + _TRAIN_SHARE else "test"


def capital(text: str) -> str:
    """The text with its first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun
