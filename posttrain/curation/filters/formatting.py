"""Text that was damaged on its way: open code blocks, tokens of chat templates, wrongly decoded letters."""

from __future__ import annotations

import re

from posttrain.curation.filters.length import Judge
from posttrain.curation.filters.spoken import Spoken

_FENCE = re.compile(r"^[ \t]*(?:[-*>]\s+|\d+\.\s+)?(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_TEMPLATE = re.compile(
    r"<\|[A-Za-z][\w-]{1,40}\|>|<｜[^｜\n]{1,40}｜>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|\A\s*<s>(?!(?s:.)*</s>\s*\S)|</s>\s*\Z"
)
_HEADING = re.compile(r"^#{2,3} ?(?:Instruction|Response|Input|Human|Assistant):?\s*$", re.MULTILINE)
# What UTF-8 looks like when it was read as Latin-1 or Windows-1252: a lead byte and the right number of others.
_WRONG = re.compile(
    "[ÂÃÄÅÐÑ][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018"
    "\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
    "|[â-é][\u0080-\u00bf\u0152-\u2122]{2}"
)


def well_formed() -> Judge:
    """A judge of open code blocks and template headings in answers, and of template tokens, replacement characters and
    wrongly decoded letters anywhere in the row.
    """

    def judge(said: Spoken) -> str | None:
        for text in said.answers:
            if is_open(text):
                return "a code block is opened and not closed"
            if found := _HEADING.search(text):
                return f"an answer holds the heading {found.group().strip()!r} of a prompt template"
        for text in (said.prompt, *said.answers, *said.rejected, said.rest):
            if found := _TEMPLATE.search(text):
                return f"holds {found.group().strip()!r}, a token of a chat template"
            if not text.isascii():
                if "\ufffd" in text:
                    return "holds U+FFFD, which stands for bytes that were no text"
                if (wrong := wrongly_decoded(text)) is not None:
                    return f"holds {wrong[0]!r}, which is {wrong[1]!r} read in a wrong encoding"
        return None

    return judge


def is_open(text: str) -> bool:
    """Whether a code block is not closed. As in CommonMark: by as many of the same signs, or more, and nothing else."""
    if "```" not in text and "~~~" not in text:
        return False
    opened = ""
    for signs, rest in _FENCE.findall(text):
        if not opened:
            if signs[0] not in rest:  # otherwise code within a line
                opened = signs
        elif signs[0] == opened[0] and len(signs) >= len(opened) and not rest.strip():
            opened = ""
    return bool(opened)


def wrongly_decoded(text: str) -> tuple[str, str] | None:
    """A stretch of text that is UTF-8 read as Windows-1252 or Latin-1, and what it was; None if there is none."""
    for found in _WRONG.finditer(text):
        for encoding in ("cp1252", "latin-1"):
            try:
                return found.group(), found.group().encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
    return None
