"""Whether a completion answers a question of the world."""

from __future__ import annotations

import re
from collections.abc import Mapping

_STATED = re.compile(r"(?:^|[.\n] ?)The answer is (\d+)\.?$")
_BARE = re.compile(r"(\d+)\.?")


def final_number(completion: str) -> int | None:
    """The number a completion ends on: "The answer is 12." as its last sentence, or nothing but "12."."""
    text = completion.strip()
    found = _STATED.search(text) or _BARE.fullmatch(text)
    return int(found.group(1)) if found else None


def _normalised(text: str) -> str:
    return " ".join(text.split()).lower().removesuffix(".")


def grade(row: Mapping[str, str], completion: str) -> bool:
    """Whether the completion answers the row, a mapping with the key `answer`.

    A number is right if the completion ends on it (`final_number`). Any other answer is right only as a
    whole: case, white space and a last full stop aside, the completion has to equal it.
    """
    answer = _normalised(row["answer"])
    if answer.isdigit():
        return final_number(completion) == int(answer)
    return _normalised(completion) == answer
