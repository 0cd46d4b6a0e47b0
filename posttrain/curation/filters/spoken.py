"""What a row says, whatever its columns are called: the text that asks, and the texts that answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from posttrain.curation.rows import PROVENANCE
from posttrain.data.formats import PROMPTS, Content, Format, detect
from posttrain.data.loading import Rows
from posttrain.data.messages import Message, read_messages
from posttrain.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """A row's texts. Of plain text the whole is an answer; a row of no known kind has text alone."""

    prompt: str = ""  # all that is not an answer: questions, system messages, what tools returned
    answers: tuple[str, ...] = ()  # what would be imitated: the assistant's turns, or the chosen side
    rejected: tuple[str, ...] = ()  # the other side of a preference
    rest: str = ""  # of a row whose columns are not known
    tools: str = ""  # what the assistant could call, as JSON; it is no text, but makes rows unequal

    @property
    def text(self) -> str:
        """Everything that the row says."""
        return "\n".join(part for part in (self.prompt, *self.answers, *self.rejected, self.rest) if part)

    def part(self, name: str) -> str:
        """The text of `row`, `prompt` or `answer`; of rows without such a part, of all of it."""
        chosen = {"row": self.text, "prompt": self.prompt, "answer": "\n".join(self.answers)}[name]
        return chosen or self.text


def spoken(row: Mapping[str, Any]) -> Spoken:
    """What the row says. Raises DataError, without the row's place, for known columns that hold something else."""
    form = _form(tuple(column for column in row if column not in (PROVENANCE, "label")))
    if form is None:
        return _unknown(row)
    if missing := [column for column in form.columns if row.get(column) is None]:
        raise DataError(f"{missing[0]!r} is empty or missing (columns: {', '.join(map(str, row))})")
    prompt, completions = form.read(row)
    first, *others = completions
    asked, answers = _sides(first)
    before = "" if prompt is None else _whole(prompt)
    rejected = tuple(answer for other in others for answer in _sides(other)[1])
    tools = row.get("tools")
    return Spoken(
        prompt="\n".join(filter(None, (before, asked))),
        answers=answers,
        rejected=rejected,
        tools=tools if isinstance(tools, str) else json.dumps(tools, sort_keys=True) if tools else "",
    )


@lru_cache(maxsize=256)
def _form(columns: tuple[str, ...]) -> Format | None:
    """How rows with these columns are read; None where that is not known."""
    task: Any = "DPO" if "chosen" in columns and "rejected" in columns else "SFT"
    try:
        return detect(Rows(name="row", records=[dict.fromkeys(columns, "")]), task=task)
    except DataError:
        return None


def _unknown(row: Mapping[str, Any]) -> Spoken:
    """The texts of a row that has a prompt alone, or columns of its own."""
    asks = next((column for column in PROMPTS if row.get(column)), None)
    values = [value for column, value in row.items() if column not in (PROVENANCE, asks)]
    rest = "\n".join(text for value in values for text in _strings(value))
    if asks is None:
        return Spoken(rest=rest)
    if isinstance(row[asks], str):
        return Spoken(prompt=row[asks], rest=rest)
    try:
        asked, answers = _sides(read_messages(row[asks], asks))
    except DataError:
        return Spoken(prompt="\n".join(_strings(row[asks])), rest=rest)
    return Spoken(prompt=asked, answers=answers, rest=rest)


def _sides(content: Content) -> tuple[str, tuple[str, ...]]:
    """What others say in a conversation, and what the assistant says; a text is an answer."""
    if isinstance(content, str):
        return "", (content,)
    asked = "\n".join(said(message) for message in content if message["role"] != "assistant")
    return asked, tuple(said(message) for message in content if message["role"] == "assistant")


def _whole(content: Content) -> str:
    return content if isinstance(content, str) else "\n".join(said(message) for message in content)


def said(message: Message) -> str:
    """A message's text: with its reasoning, and the calls of tools as JSON."""
    content = str(message.get("content") or "")
    if not (message.get("tool_calls") or message.get("reasoning_content")):
        return content
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join(filter(None, (str(message.get("reasoning_content") or ""), content, *calls)))


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name not in ("role", "from"):
                yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def exchange(row: Mapping[str, Any]) -> tuple[Content, Content] | None:
    """The row's last answer to imitate and all before it; None where nothing is asked or nothing answered."""
    form = _form(tuple(column for column in row if column not in (PROVENANCE, "label")))
    if form is None:
        return None
    prompt, (answer, *_) = form.read(row)
    if isinstance(prompt, str) or isinstance(answer, str):
        return (prompt, answer) if prompt and answer else None
    messages = [*(prompt or []), *answer]
    last = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    return (messages[:last], [messages[last]]) if last and said(messages[last]).strip() else None
