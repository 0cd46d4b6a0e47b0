"""Checks of how much a response says: sentences, words, paragraphs."""

from __future__ import annotations

import re

from posttrain.rewards.instructions.wording import compare

_WORD = re.compile(r"\w+")
# The end of what may be a sentence. The look-behind lets a run of marks be tried once, which keeps the time linear.
_END = re.compile(r"(?<![.!?…])(?P<marks>[.!?…]+)[\"'”’)\]*_»]*(?=\s|$)|[。！？]+[」』”’）]*")
_BEFORE = re.compile(r"[^\s\"'“‘(\[*_]*$")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TITLES = _words("mr mrs ms mx dr prof st sen rep gov gen col capt lt sgt rev hon messrs e.g i.e cf viz vs al")
_BEFORE_NUMBERS = _words("no nos vol fig figs pp ch sec eq art approx")
_MAYBE_LAST = _words("etc inc ltd co corp jr sr dept est ave blvd ph.d b.a m.a b.sc m.sc a.m p.m")
_LONGEST_WORD = 40


def sentences(text: str) -> int:
    """The number of sentences: pieces with a word in them that end in a mark or with the text.

    The period of an abbreviation, an initial or a list's number ends none.
    """
    count, start = 0, 0
    for end in _END.finditer(text):
        if end["marks"] and not _ends_sentence(text, end):
            continue
        count += _WORD.search(text, start, end.end()) is not None
        start = end.end()
    return count + (_WORD.search(text, start) is not None)


def _ends_sentence(text: str, end: re.Match[str]) -> bool:
    following = text[end.end() : end.end() + 20].lstrip()
    if end["marks"] != ".":
        return not (set(end["marks"]) <= {".", "…"} and following[:1].islower())  # "well... perhaps" goes on
    before = _BEFORE.search(text, max(0, end.start() - _LONGEST_WORD), end.start())
    word = before[0] if before else ""
    lowered = word.lower()
    if lowered in _TITLES or (len(word) == 1 and word.isupper() and word != "I"):
        return False
    if lowered in _BEFORE_NUMBERS:
        return not following[:1].isdigit()
    if lowered in _MAYBE_LAST or re.fullmatch(r"(?:\w\.)+\w", word):
        return not following or following[0].isupper()
    if word.isdigit() and before:  # "1." at the beginning of a line is the line's number
        line = text[max(0, before.start() - _LONGEST_WORD) : before.start()]
        return bool(line.rpartition("\n")[2].strip(" \t*#>-"))
    return True


def number_sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    """There are so many sentences."""
    return compare(sentences(response), relation, num_sentences)


def number_words(response: str, *, num_words: int, relation: str) -> bool:
    """There are so many words: runs of letters, digits and underscores."""
    return compare(sum(1 for _ in _WORD.finditer(response)), relation, num_words)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """There are exactly so many paragraphs with `***` between them, none of them empty."""
    paragraphs = [paragraph.strip() for paragraph in response.split("***")]
    if not paragraphs[-1]:
        paragraphs.pop()
    if paragraphs and not paragraphs[0]:
        paragraphs.pop(0)
    return all(paragraphs) and len(paragraphs) == num_paragraphs


def nth_paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """There are exactly so many paragraphs with an empty line between them, and the nth begins with the word."""
    paragraphs = [paragraph.split(maxsplit=1) for paragraph in response.split("\n\n") if paragraph.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    word = re.match(r"['\"]*([^.,?!'\"]*)", paragraphs[int(nth_paragraph) - 1][0])
    return word is not None and word[1].lower() == first_word.lower()
