"""A command line of words and a few named flags, for commands that are no configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Words:
    """What stands on a command line."""

    words: list[str]
    flags: Mapping[str, str]


def read_words(arguments: Sequence[str], flags: Sequence[str], *, command: str) -> Words | None:
    """The words and the flags, each with the value after it; None where help is asked for.

    Raises ConfigError for a flag that the command does not have.
    """
    words: list[str] = []
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return None
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name not in flags:
            known = [f"--{flag}" for flag in flags]
            raise ConfigError(f"unknown flag {word!r}{nearest(word, known)} (see {command} --help)")
        if not equals:
            if not rest:
                raise ConfigError(f"--{name} needs a value after it; see {command} --help")
            value = rest.pop(0)
        found[name] = value
    return Words(words=words, flags=found)
