"""Checks of the words and letters of a response: keywords, case, language, how it begins and ends."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from posttrain.errors import RewardError

RELATIONS = {"at least": operator.ge, "less than": operator.lt}

_READ_BY_DETECTOR = 10_000  # characters
_WORD = re.compile(r"\w+(?:[-'’.&]\w+)*")


def compare(count: int, relation: str, limit: float) -> bool:
    """Whether the count stands in the relation to the limit. Raises ValueError for a relation that IFEval has not."""
    if relation not in RELATIONS:
        raise ValueError(f"the relation {relation!r} must be one of {', '.join(map(repr, RELATIONS))}")
    return bool(RELATIONS[relation](count, limit))


def keywords_exist(response: str, *, keywords: Sequence[str]) -> bool:
    """All keywords occur, in any case and inside of longer words too."""
    folded = response.casefold()
    return all(keyword.casefold() in folded for keyword in _texts(keywords))


def keyword_frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword occurs so often, in any case and inside of longer words too."""
    return compare(response.casefold().count(keyword.casefold()), relation, frequency)


def forbidden_words(response: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words occurs as a word of its own, in any case."""
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", response, re.IGNORECASE) for word in _texts(forbidden_words)
    )


def letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The character occurs so often, in either case."""
    return compare(response.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(response: str, *, language: str) -> bool:
    """The whole response is in the language, an ISO 639-1 code."""
    return detected_language(response) == language


def english_capital(response: str) -> bool:
    """The response is English and has no small letter."""
    return response.isupper() and detected_language(response.lower()) == "en"  # capitals confuse the detector


def english_lowercase(response: str) -> bool:
    """The response is English and has no capital letter."""
    return response.islower() and detected_language(response) == "en"


def capital_word_frequency(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """So many words are all in capitals; "I" and "A" are."""
    count = sum(word[0].isupper() for word in _WORD.finditer(response))
    return compare(count, capital_relation, capital_frequency)


def no_comma(response: str) -> bool:
    """There is no comma."""
    return "," not in response


def quotation(response: str) -> bool:
    """The whole response stands in double quotation marks."""
    response = response.strip()
    return len(response) > 1 and response[0] == response[-1] == '"'


def end_checker(response: str, *, end_phrase: str) -> bool:
    """The response ends with the phrase, in any case, a closing quotation mark aside."""
    return response.strip().strip('"').casefold().endswith(end_phrase.strip().casefold())


_POSTSCRIPTS = {"P.P.S": re.compile(r"p\. ?p\. ?s", re.IGNORECASE), "P.S.": re.compile(r"p\. ?s\.", re.IGNORECASE)}


def postscript(response: str, *, postscript_marker: str) -> bool:
    """The marker of a postscript occurs, in any case; "P.S." may have a space inside."""
    if pattern := _POSTSCRIPTS.get(postscript_marker):
        return pattern.search(response) is not None
    return postscript_marker.casefold() in response.casefold()


def repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    """The response begins with the request, word for word, in any case."""
    return response.strip().casefold().startswith(prompt_to_repeat.strip().casefold())


def _texts(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{texts!r} must be a list of texts")
    return texts


def detected_language(text: str) -> str | None:
    """The ISO 639-1 code of the text's language (Chinese: zh-cn, zh-tw); None where there is nothing to tell it by.

    Raises RewardError where langdetect is not installed.
    """
    from_profiles = _detectors()
    from langdetect import LangDetectException

    detector = from_profiles.create()
    detector.append(text[:_READ_BY_DETECTOR])
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


@lru_cache(maxsize=1)
def _detectors() -> Any:
    try:
        from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
    except ImportError:
        raise RewardError(
            "telling the language needs langdetect, which is not installed: pip install langdetect"
        ) from None
    factory = DetectorFactory()
    factory.set_seed(0)  # it draws at random otherwise
    factory.load_profile(PROFILES_DIRECTORY)
    return factory
