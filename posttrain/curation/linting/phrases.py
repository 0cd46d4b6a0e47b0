"""A phrase that nearly all answers of one side have and the other side has not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posttrain.curation.linting.sides import words

Phrase = tuple[str, ...]

LONGEST = 12  # words of a phrase


@dataclass(frozen=True, kw_only=True)
class FixedPhrase:
    """A phrase, and in how many answers of either side it occurs."""

    phrase: str
    having: int  # of the side that has it
    lacking: int  # of the other side
    of: int  # pairs


def fixed_phrases(
    having: Sequence[str], lacking: Sequence[str], *, present: float, absent: float, shown: int = 5
) -> list[FixedPhrase]:
    """The longest phrases in at least a share `present` of the first texts and at most `absent` of the second.

    Words are compared as they are written, since "Deep" is not "deep". A phrase is grown word by word from phrases
    that are common enough themselves, so that few are ever counted.
    """
    first, second = [words(text) for text in having], [words(text) for text in lacking]
    wanted = present * len(first)
    found: list[tuple[Phrase, int, int]] = []
    common: set[Phrase] = set()
    for length in range(1, LONGEST + 1):
        counts: Counter[Phrase] = Counter()
        for text in first:
            counts.update(set(_phrases(text, length, common)))
        common = {phrase for phrase, count in counts.items() if count >= wanted}
        if not common:
            break
        others = Counter(phrase for text in second for phrase in {*_phrases(text, length, None)} & common)
        found += [(p, counts[p], others[p]) for p in common if others[p] <= absent * len(second)]
    # A sign alone, such as a full stop, is a matter of format
    found = [(p, a, b) for p, a, b in found if any(word[0].isalnum() for word in p)]
    found.sort(key=lambda one: (-(one[1] - one[2]), -len(one[0]), one[0]))
    kept: list[tuple[Phrase, int, int]] = []
    for phrase, count, other in found:
        longer = [p for p, a, b in found if len(p) > len(phrase) and a - b >= count - other and _inside(phrase, p)]
        shorter = [p for p, _, _ in kept if _inside(p, phrase)]
        if not longer and not shorter:
            kept.append((phrase, count, other))
    return [
        FixedPhrase(phrase=_joined(phrase), having=count, lacking=other, of=len(first))
        for phrase, count, other in kept[:shown]
    ]


def _phrases(text: Sequence[str], length: int, common: set[Phrase] | None) -> Iterator[Phrase]:
    """The phrases of this length whose parts, one word shorter, are common."""
    for place in range(len(text) - length + 1):
        phrase = tuple(text[place : place + length])
        if common is None or length == 1 or (phrase[:-1] in common and phrase[1:] in common):
            yield phrase


def _inside(phrase: Phrase, longer: Phrase) -> bool:
    return any(longer[i : i + len(phrase)] == phrase for i in range(len(longer) - len(phrase) + 1))


def _joined(phrase: Phrase) -> str:
    """The words with spaces between those that are written with spaces."""
    text = ""
    for word in phrase:
        before = text[-1:]
        apart = (
            before.isascii() and (before.isalnum() or before in ",.;:!?") and word[0].isascii() and word[0].isalnum()
        )
        text += f" {word}" if before and apart else word
    return text
