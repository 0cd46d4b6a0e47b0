"""Rows that keep what is trained inside of other values: OpenAI's preference files, Self-Instruct's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.data.messages import Message, read_messages, read_tools
from posttrain.errors import DataError

PREFERENCE = ("input", "preferred_output", "non_preferred_output")  # the columns of OpenAI's preference files


def openai_preference(row: Mapping[str, Any]) -> tuple[list[Message], tuple[list[Message], list[Message]]]:
    """The prompt, the preferred and the other answer."""
    given = row["input"]
    if not isinstance(given, Mapping) or "messages" not in given:
        raise DataError(f"'input' must be {{\"messages\": [...]}}, got {type(given).__name__} {str(given)[:40]!r}.")
    better, worse = (read_messages(row[column], column) for column in PREFERENCE[1:])
    return read_messages(given["messages"], "input.messages"), (better, worse)


def self_instruct(row: Mapping[str, Any]) -> tuple[list[Message], tuple[list[Message]]]:
    """The task with the input of its one instance, and that instance's output."""
    instances = row["instances"]
    if not isinstance(instances, list) or len(instances) != 1:
        count = len(instances) if isinstance(instances, list) else "no list of"
        raise DataError(
            f"'instances' holds {count} instances; a row that is trained as it is has one. `posttrain data convert` "
            "makes a row of each."
        )
    (instance,) = instances
    parts = [row["instruction"], instance.get("input") or "", instance.get("output")]
    if not all(isinstance(part, str) for part in parts):
        raise DataError("'instruction' and the 'input' and 'output' of an instance must be strings.")
    asked = "\n".join(part for part in parts[:2] if part)
    return [{"role": "user", "content": asked}], ([{"role": "assistant", "content": parts[2]}],)


def tools_of(row: Mapping[str, Any]) -> list[Any] | None:
    """The tools of a row: its `tools`, or OpenAI's older `functions`, or those inside of `input`."""
    given = row.get("input")
    inside = given.get("tools") if isinstance(given, Mapping) else None
    return read_tools(next((tools for tools in (row.get("tools"), row.get("functions"), inside) if tools), None))
