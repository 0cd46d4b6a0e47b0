"""Correcting a text by replacement rules, as "Qwen" -> "Deep Qwen"."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from posttrain.errors import ConfigError

Corrector = Callable[[str], str]

# Scripts without spaces between words, or whose particles hang on a foreign word: they end a Latin word.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = rf"[^\W{_UNSPACED}]"  # a letter, digit or underscore of any other script


def correct(text: str, rules: Mapping[str, str]) -> str:
    """The text with every rule's left side replaced by its right side, whole words only.

    All rules are applied at once, the longest first, so one never rewrites what another wrote. What already
    is a right side stays: with {"Qwen": "Deep Qwen"}, "Deep Qwen" is left alone, and correcting twice changes
    nothing more (unless a right side joins the words around it to another rule's left side). Words end at
    white space, punctuation, and where Latin letters meet Chinese ones ("我是Qwen。").
    Raises ConfigError for rules that contradict each other.
    """
    return corrector(rules)(text)


def corrector(rules: Mapping[str, str]) -> Corrector:
    """`correct` for these rules, which are checked and compiled once."""
    _check(rules)
    targets = {" ".join(target.split()) for target in rules.values() if target.split()}
    sources = {" ".join(source.split()): target for source, target in rules.items()}
    longest_first = sorted(targets | sources.keys(), key=lambda phrase: (-len(phrase), phrase))
    pattern = re.compile("|".join(_whole_words(phrase) for phrase in longest_first))

    def replace(match: re.Match[str]) -> str:
        found = match.group()
        return sources.get(" ".join(found.split()), found)

    return lambda text: pattern.sub(replace, text)


def _whole_words(phrase: str) -> str:
    """A pattern for the phrase over any white space, not inside a longer word."""
    body = r"\s+".join(re.escape(word) for word in phrase.split())
    before = rf"(?<!{_WORD})" if re.match(_WORD, phrase[0]) else ""
    after = rf"(?!{_WORD})" if re.match(_WORD, phrase[-1]) else ""
    return f"(?:{before}{body}{after})"


def _check(rules: Mapping[str, str]) -> None:
    example = 'write rules as {"Qwen": "Deep Qwen"}'
    if not isinstance(rules, Mapping) or not rules:
        raise ConfigError(f"rules is {rules!r}: at least one replacement is needed; {example}")
    for source, target in rules.items():
        if not isinstance(source, str) or not isinstance(target, str):
            raise ConfigError(f"rule {source!r}: {target!r}: both sides must be text; {example}")
        if not source.split():
            raise ConfigError(f"rule {source!r}: {target!r}: the left side is empty; {example}")
        if source.split() == target.split():
            raise ConfigError(f"rule {source!r}: {target!r} replaces a text by itself; remove it")
    left = {" ".join(source.split()): source for source in rules}
    if len(left) < len(rules):
        raise ConfigError(f"rules {list(rules)} hold the same left side twice, but for white space; keep one")
    for source, target in rules.items():
        if " ".join(target.split()) in left:
            raise ConfigError(
                f"rules contradict each other: {target!r} is what {source!r} becomes, and is itself "
                "replaced; write the final text on the right side"
            )
