"""Word lists of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.curation.filters.length import Judge
from posttrain.curation.filters.spoken import Spoken
from posttrain.curation.filters.words import words
from posttrain.errors import ConfigError


def without(entries: Sequence[str], part: str = "row") -> Judge:
    """A judge of rows that hold one of these words or phrases as whole words, in any case.

    "ass" is not found in "class"; of Chinese the characters have to follow each other.
    """
    phrases: dict[str, list[tuple[str, ...]]] = {}
    for entry in entries:
        phrase = tuple(words(entry))
        if not phrase:
            raise ConfigError(f"forbidden_words: {entry!r} holds no word")
        phrases.setdefault(phrase[0], []).append(phrase)

    def judge(said: Spoken) -> str | None:
        there = words(said.part(part))
        for place, word in enumerate(there):
            for phrase in phrases.get(word, ()):
                if tuple(there[place : place + len(phrase)]) == phrase:
                    return f"holds {' '.join(phrase)!r}"
        return None

    return judge


def read_list(names: Sequence[str]) -> list[str]:
    """The words of a list in which files (.txt, a word or phrase a line, # before a remark) stand for what they hold.

    Raises ConfigError for a file that is not there or holds none.
    """
    entries: list[str] = []
    for name in names:
        if not name.endswith(".txt"):
            entries.append(name)
            continue
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"forbidden_words: there is no file {name!r}")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        held = [line for line in lines if line and not line.startswith("#")]
        if not held:
            raise ConfigError(f"forbidden_words: {name} holds no words")
        entries += held
    return entries
