"""Checks of how a response is laid out: placeholders, lists, sections, a title, JSON, several responses."""

from __future__ import annotations

import re

from posttrain.rewards.formats import read_json, without_fence

ALLOWED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    """There are at least so many placeholders in square brackets, like [address]."""
    count = 0
    for line in response.split("\n"):
        place = 0
        while (start := line.find("[", place)) >= 0 and (end := line.find("]", start)) >= 0:
            count, place = count + 1, end + 1
    return count >= num_placeholders


def number_bullet_lists(response: str, *, num_bullets: int) -> bool:
    """Exactly so many lines begin with the bullet `*` or `-`; `**` begins bold text."""
    lines = [line.lstrip() for line in response.split("\n")]
    bullets = sum(line.startswith("-") or (line.startswith("*") and line[1:2] not in ("*", "")) for line in lines)
    return bullets == num_bullets


def constrained_response(response: str) -> bool:
    """One of the allowed answers occurs word for word."""
    return any(answer in response for answer in ALLOWED_ANSWERS)


def number_highlighted_sections(response: str, *, num_highlights: int) -> bool:
    """At least so many passages are highlighted, `*so*` or `**so**`, each within its line."""
    found = sum(bool(match[1].strip()) for match in _HIGHLIGHT.finditer(response))
    found += sum(bool(match[1].strip()) for match in _DOUBLE_HIGHLIGHT.finditer(response))
    return found >= num_highlights


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections are marked by the word and a number, like "Section 1"."""
    return len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", response)) >= num_sections


def json_format(response: str) -> bool:
    """The whole response is JSON, a fence of backticks aside."""
    try:
        read_json(without_fence(response))
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    """There is a title in double angular brackets, <<so>>, within one line."""
    for line in response.split("\n"):
        start = line.find("<<")
        if 0 <= start < (end := line.rfind(">>")) and line[start:end].strip("<> "):
            return True
    return False


def two_responses(response: str) -> bool:
    """There are exactly two responses with `******` between them, and they differ."""
    responses = [part.strip() for part in response.split("******")]
    if not all(responses[1:-1]):
        return False
    given = [part for part in responses if part]
    return len(given) == 2 and given[0] != given[1]
