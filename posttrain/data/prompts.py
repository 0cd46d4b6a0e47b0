"""Reads rows of prompts for a model to answer, with the columns that rewards grade the answers by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.chat import generation_prompt
from posttrain.data.formats import Content, content
from posttrain.data.loading import Rows, load_rows
from posttrain.data.messages import read_tools, shown_messages
from posttrain.data.rendering import Renderer
from posttrain.data.report import SHOWN_CHARACTERS, Tally, places_of, spread
from posttrain.errors import DataError

QUESTIONS = ("question", "instruction", "query")  # columns that are read as a user's message
TOO_LONG = "the prompt leaves no room for a completion"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """A prompt as the model sees it, and the row it comes from."""

    row: int
    place: str  # for messages to the user: "train.jsonl:17"
    prompt: Content  # as rewards see it: text, or messages
    tokens: list[int]
    columns: Mapping[str, Any]  # everything else in the row


@dataclass(frozen=True, kw_only=True)
class PromptReport:
    """What became of the rows of a dataset of prompts."""

    source: str
    understood: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, tuple[int, Sequence[str]]]  # reason -> how many, and where the first of them stand
    columns: tuple[str, ...]  # that rewards are given
    lengths: Mapping[str, int]  # of prompts, in tokens: "50%", ..., "longest"
    notes: tuple[str, ...]
    example: str  # a prompt as the model sees it

    def text(self) -> str:
        """The report for a person, several lines."""
        shown = self.example
        if len(shown) > 2 * SHOWN_CHARACTERS:
            shown = f"{shown[:SHOWN_CHARACTERS]} ... {shown[-SHOWN_CHARACTERS:]}"
        lengths = ", ".join(f"{name} {length:,}" for name, length in self.lengths.items())
        lines = [
            f"{self.source}: {self.rows_read:,} rows read, {self.rows_kept:,} kept: {self.understood}.",
            f"Prompt lengths in tokens: {lengths}.",
            f"Rewards are given the columns: {', '.join(self.columns) or 'none'}.",
            *(f"{count:,} dropped, {reason}: {places_of(first, count, self.source)}"
              for reason, (count, first) in self.dropped.items()),
            *self.notes,
            "One prompt as the model sees it:",
            shown,
        ]  # fmt: skip
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Prompts ready to be answered."""

    prompts: list[PromptRow]
    report: PromptReport

    def __len__(self) -> int:
        return len(self.prompts)


def prompt_set(
    rows: Any,
    tokenizer: Any,
    *,
    max_tokens: int | None,
    template_kwargs: Mapping[str, Any] | None = None,
    name: str = "train_dataset",
) -> PromptSet:
    """The prompts of a dataset: `prompt` as text or messages, `messages` that end with a question, or a question.

    A text is taken as it is; messages are rendered with the chat template up to where the answer begins. Prompts of
    more than `max_tokens` tokens are dropped and counted. Raises DataError for a row without a prompt, and if no row
    is left.
    """
    rows = load_rows(rows, name=name)
    column = _prompt_column(rows)
    renderer, tally, notes = Renderer(tokenizer), Tally(), set[str]()
    source = str(tokenizer.chat_template or "")
    texts: list[str] = []
    prompts: list[Content] = []
    for index, row in enumerate(rows):
        try:
            prompt = _read(row, column)
            tools = read_tools(row.get("tools"))
        except DataError as error:
            raise DataError(f"{rows.where(index)}: {error}") from None
        prompts.append(prompt)
        if isinstance(prompt, str):
            texts.append(prompt)
            continue
        own = {k: v for k, v in (row.get("chat_template_kwargs") or {}).items() if v is not None}
        options = {**(template_kwargs or {}), **own, **({"tools": tools} if tools else {})}
        texts.append(generation_prompt(tokenizer, shown_messages(prompt, source, notes), options))
    plain = [index for index, prompt in enumerate(prompts) if isinstance(prompt, str)]
    chats = [index for index, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    tokens: dict[int, list[int]] = dict(zip(plain, renderer.prompts([texts[i] for i in plain])))
    tokens |= dict(zip(chats, renderer.rendered([texts[i] for i in chats])))
    kept = []
    for index, row in enumerate(rows):
        if not tokens[index]:
            raise DataError(f"{rows.where(index)}: the prompt is empty. Every row needs one; mend or remove this one.")
        if max_tokens is not None and len(tokens[index]) > max_tokens:
            tally.drop(f"{TOO_LONG} (more than {max_tokens:,} tokens)", rows.where(index))
            continue
        kept.append(
            PromptRow(
                row=index, place=rows.where(index), prompt=prompts[index], tokens=tokens[index],
                columns={str(key): value for key, value in row.items() if key != column},
            )
        )  # fmt: skip
    if not kept:
        count, first = next(iter(tally.dropped.values()))
        raise DataError(
            f"{rows.source}: all {count:,} prompts are too long, the first in {first[0]}. Lower "
            "max_completion_length, or shorten the prompts."
        )
    report = PromptReport(
        source=rows.source,
        understood=f"{column!r} is the prompt"
        if column == "prompt"
        else f"{column!r} is a conversation to answer"
        if column in ("messages", "conversations")
        else f"{column!r} is read as a user's message",
        rows_read=len(rows),
        rows_kept=len(kept),
        dropped=tally.dropped,
        columns=tuple(kept[0].columns),
        lengths=spread([len(prompt.tokens) for prompt in kept]),
        notes=tuple(sorted(notes)),
        example=texts[kept[0].row],
    )
    return PromptSet(prompts=kept, report=report)


def _prompt_column(rows: Rows) -> str:
    columns = [str(column) for column in rows[0]]
    for column in ("prompt", "messages", "conversations", *QUESTIONS):
        if column in columns:
            return column
    raise DataError(
        f"{rows.where(0)}: the columns {', '.join(columns) or '(none)'} hold no prompt. Online training reads 'prompt' "
        "(text or messages), 'messages', or 'question'; every other column is handed to the rewards."
    )


def _read(row: Mapping[str, Any], column: str) -> Content:
    value = row.get(column)
    if value is None:
        raise DataError(f"{column!r} is missing (columns: {', '.join(map(str, row))}).")
    if isinstance(value, str) and column in QUESTIONS:
        return [{"role": "user", "content": value}]
    messages = content(row, column)
    if isinstance(messages, str):
        return messages
    if not messages or messages[-1]["role"] == "assistant":
        ends = "is empty" if not messages else "ends with an assistant's message"
        raise DataError(f"{column!r} {ends}; it must end with the message that the model is to answer.")
    return messages
