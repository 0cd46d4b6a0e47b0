"""Rows of any dataset as prompts for a sampler, with the columns that go along into the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.data.formats import PAIRS, content
from posttrain.data.loading import Rows
from posttrain.data.messages import Message, read_messages
from posttrain.errors import DataError

_CONVERSATIONS = ("messages", "conversations")
_NOT_SHOWN = ("tools", "chat_template_kwargs")
_QUESTIONS = tuple(dict.fromkeys(question for question, _, _ in PAIRS))


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """A row's prompt, and its other columns."""

    row: int
    place: str  # for messages to the user: "prompts.jsonl:17"
    prompt: list[Message] | list[int]
    columns: Mapping[str, Any]


def prompt_rows(rows: Rows, *, system_message: str | None = None) -> list[PromptRow]:
    """A conversation that waits for an answer for each row, or token ids where `prompt` is such.

    Read are `prompt` (a text is a user's message), `messages` or `conversations` (an answer at their end is left off),
    or a question as in `instruction` and `input`; with `system` and `history` where they are. Raises DataError with
    the place of a row that asks nothing.
    """
    found = []
    for index, row in enumerate(rows):
        try:
            prompt, read = _prompt(row)
            if system_message is not None:
                prompt = _with_system(prompt, system_message)
            for column in _NOT_SHOWN:
                if row.get(column):
                    raise DataError(f"{column!r} is not empty, and prompts are shown without: remove the column.")
        except DataError as error:
            raise DataError(f"{rows.where(index)}: {error}") from None
        columns = {str(name): value for name, value in row.items() if name not in (*read, *_NOT_SHOWN)}
        found.append(PromptRow(row=index, place=rows.where(index), prompt=prompt, columns=columns))
    return found


def _prompt(row: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The prompt, and the columns it was read from."""
    if row.get("prompt") is not None:
        value = row["prompt"]
        if isinstance(value, list) and value and all(type(token) is int for token in value):
            return value, ("prompt",)
        asked = content(row, "prompt")
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return _complete(row, messages, "prompt"), ("prompt", "system", *_CONVERSATIONS)
    for column in _CONVERSATIONS:
        if row.get(column) is not None:
            return _complete(row, read_messages(row[column], column), column), (column, "system")
    for question, further, _ in PAIRS:
        if isinstance(row.get(question), str):
            text = row[question]
            if further and row.get(further):
                text = f"{text}\n{row[further]}"
            messages = [*_history(row), {"role": "user", "content": text}]
            return _complete(row, messages, question), (question, further or "", "history", "system")
    raise DataError(
        f"the columns {', '.join(map(str, row)) or '(none)'} hold no prompt. Read are 'prompt' (text or messages),"
        f" {' and '.join(map(repr, _CONVERSATIONS))}, and {', '.join(map(repr, _QUESTIONS))}."
    )


def _complete(row: Mapping[str, Any], messages: list[Message], column: str) -> list[Message]:
    """The conversation up to its last question, behind the row's own system message."""
    messages = list(messages)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] == "system":
        raise DataError(f"{column!r} asks nothing: it needs a user's message to answer.")
    if row.get("system") and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": str(row["system"])})
    return messages


def _history(row: Mapping[str, Any]) -> list[Message]:
    pairs = row.get("history") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise DataError("'history' must be a list of [question, answer] pairs.")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair)]


def _with_system(prompt: Any, system_message: str) -> list[Message]:
    if isinstance(prompt[0], int):
        raise DataError("'prompt' is token ids, before which no system message can be put.")
    if prompt[0]["role"] == "system":
        raise DataError("the prompt has a system message of its own; leave --system_message out.")
    return [{"role": "system", "content": system_message}, *prompt]
