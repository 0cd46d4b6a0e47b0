"""Reads rows of prompts for a model to answer, with the columns that rewards grade the answers by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.chat import generation_prompt
from posttrain.data.foreign import tools_of
from posttrain.data.formats import Content, content
from posttrain.data.loading import PROVENANCE, Rows, load_rows
from posttrain.data.messages import shown_messages
from posttrain.data.rendering import Renderer
from posttrain.data.report import SHOWN_CHARACTERS, spread
from posttrain.errors import DataError

READ_AS = {  # the columns that may hold the prompt, the first of them that is there
    "prompt": "the prompt",
    "messages": "a conversation to answer",
    "conversations": "a conversation to answer",
    "question": "read as a user's message",
    "instruction": "read as a user's message",
    "query": "read as a user's message",
}


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
    rows: int
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
            f"{self.source}: {self.rows:,} rows, {self.understood}.",
            f"Prompt lengths in tokens: {lengths}.",
            f"Rewards are given the columns: {', '.join(self.columns) or 'none'}.",
            *self.notes,
            "One prompt as the model sees it:",
            shown,
        ]  # fmt: skip
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self) | {"rows_read": self.rows, "rows_kept": self.rows}


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
    template_kwargs: Mapping[str, Any] | None = None,
    name: str = "train_dataset",
) -> PromptSet:
    """The prompts of a dataset: `prompt` as text or messages, `messages` that end with a question, or a question.

    A text is taken as it is; messages are rendered with the chat template up to where the answer begins. Raises
    DataError for a row without a prompt.
    """
    rows = load_rows(rows, name=name)
    column = _prompt_column(rows)
    renderer, notes = Renderer(tokenizer), set(rows.notes)
    source = str(tokenizer.chat_template or "")
    texts: list[str] = []
    prompts: list[Content] = []
    for index, row in enumerate(rows):
        try:
            prompt = _read(row, column)
            tools = tools_of(row)
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
        kept.append(
            PromptRow(
                row=index, place=rows.where(index), prompt=prompts[index], tokens=tokens[index],
                columns={str(key): value for key, value in row.items() if key not in (column, PROVENANCE)},
            )
        )  # fmt: skip
    report = PromptReport(
        source=rows.source,
        understood=f"{column!r} is {READ_AS[column]}",
        rows=len(rows),
        columns=tuple(kept[0].columns),
        lengths=spread([len(prompt.tokens) for prompt in kept]),
        notes=tuple(sorted(notes)),
        example=texts[kept[0].row],
    )
    return PromptSet(prompts=kept, report=report)


def _prompt_column(rows: Rows) -> str:
    columns = [str(column) for column in rows[0]]
    found = next((column for column in READ_AS if column in columns), None)
    if found is not None:
        return found
    raise DataError(
        f"{rows.where(0)}: the columns {', '.join(columns) or '(none)'} hold no prompt. Online training reads 'prompt' "
        "(text or messages), 'messages', or 'question'; every other column is handed to the rewards."
    )


def _read(row: Mapping[str, Any], column: str) -> Content:
    value = row.get(column)
    if value is None:
        raise DataError(f"{column!r} is missing (columns: {', '.join(map(str, row))}).")
    if isinstance(value, str) and READ_AS[column] == "read as a user's message":
        return [{"role": "user", "content": value}]
    messages = content(row, column)
    if isinstance(messages, str):
        return messages
    if not messages or messages[-1]["role"] == "assistant":
        ends = "is empty" if not messages else "ends with an assistant's message"
        raise DataError(f"{column!r} {ends}; it must end with the message that the model is to answer.")
    return messages
