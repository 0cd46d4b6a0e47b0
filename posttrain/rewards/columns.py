"""What rewards read of a row: the text of a completion, and the column with the right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.errors import RewardError, nearest

ANSWER_COLUMNS = ("ground_truth", "answer", "solution")


def completion_text(completion: Any) -> str:
    """The text that the model wrote: the completion itself, or the last content of its messages ("" without one)."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Mapping):
        completion = [completion]
    for message in reversed(completion):
        content = message.get("content")
        if isinstance(content, str):
            return content
        if content:  # typed parts
            return "".join(part if isinstance(part, str) else part.get("text") or "" for part in content)
    return ""


def answer_column(columns: Mapping[str, Sequence[Any]], name: str | None = None) -> Sequence[Any]:
    """The right answers: the column `name`, or else the first of ANSWER_COLUMNS that there is.

    Raises RewardError where there is none.
    """
    for candidate in (name,) if name else ANSWER_COLUMNS:
        if candidate in columns:
            return columns[candidate]
    there = ", ".join(sorted(set(columns) - {"prompts", "completion_ids"})) or "none"
    if name:
        raise RewardError(f"the rows have no column {name!r} with the right answer{nearest(name, columns)} ({there})")
    raise RewardError(
        f"the rows have no right answer to compare with: they need a column {', '.join(ANSWER_COLUMNS[:-1])} or "
        f"{ANSWER_COLUMNS[-1]} (their columns: {there})"
    )
