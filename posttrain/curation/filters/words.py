"""A text as words: what comparing texts, counting them and word lists have in common."""

from __future__ import annotations

import re
import unicodedata

# Written without spaces between words (Thai, Lao, Japanese, Chinese): a character counts as a word.
UNSPACED = "\u0e00-\u0eff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_UNSPACED = re.compile(rf"[{UNSPACED}]")


def normal(text: str) -> str:
    """The text without differences of case, of width (Ａ, A) and of composed letters."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words(text: str) -> list[str]:
    """The text's words, normalised, without signs; a Chinese character is one."""
    return _WORD.findall(normal(text))


def count_words(text: str) -> int:
    """How many words the text has."""
    return len(_WORD.findall(text))


def is_unspaced(text: str, count: int) -> bool:
    """Whether more than half of the text's words, `count` in all, are characters of an unspaced script."""
    return not text.isascii() and 2 * len(_UNSPACED.findall(text)) > count
