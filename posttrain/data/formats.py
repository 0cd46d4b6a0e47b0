"""Tells from a dataset's columns what its rows are, and turns every row into prompts and completions.

A conversation is a list of messages, plain text is a string; nothing is rendered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.data.foreign import PREFERENCE, openai_preference, self_instruct, tools_of
from posttrain.data.loading import PROVENANCE, Rows
from posttrain.data.messages import Message, read_messages
from posttrain.errors import DataError, nearest

Content = str | list[Message]
Row = Mapping[str, Any]
Task = Literal["SFT", "DPO", "KTO"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row, understood: text or conversations, with one completion to train on or two to compare."""

    row: int
    place: str  # for messages to the user: "train.jsonl:17"
    prompt: Content | None  # None: the completion is the whole text or conversation
    completions: tuple[Content, ...]  # one, or chosen and rejected
    tools: Sequence[Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the rows of one dataset are read."""

    name: str  # "messages", "prompt-completion", ...
    sentence: str  # how the columns are understood, for the report
    columns: tuple[str, ...]  # what every row must have
    optional: tuple[str, ...] = ()  # what is used where it is there
    read: Callable[[Row], tuple[Content | None, tuple[Content, ...]]]


# Question and answer under the names of well-known datasets: the question, further input, the answer.
PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("question", None, "answer"),
    ("query", None, "response"),
    ("prompt", None, "response"),
)
PROMPTS = ("prompt", "conversations", "instruction", "question", "query")
KNOWN = (
    "messages",
    "conversations",
    "completion",
    "text",
    "chosen",
    "rejected",
    "output",
    "answer",
    *PROMPTS,
)
EXTRAS = ("tools", "functions", "parallel_tool_calls", "chat_template_kwargs")
READ_BY = {
    "SFT": (
        "'messages' or 'conversations' (a list of messages), 'prompt' and 'completion', 'text', "
        "'instruction' and 'output', or 'question' and 'answer'"
    ),
    "DPO": "'chosen' and 'rejected', with the prompt in 'prompt' or at the start of both",
    "KTO": (
        "an answer ('prompt' and 'completion', or a conversation that ends with it) and a 'label' of true or false, or "
        "'prompt', 'chosen' and 'rejected', which become a good answer and a bad one"
    ),
}
_WITHOUT_PROMPT = ("text", "messages", "conversations")


def detect(rows: Rows, *, task: Task, text_field: str = "text") -> Format:
    """The format of the rows, from the columns of the first. Raises DataError if the task needs others."""
    columns = list(rows[0])
    found = _preference(columns) if task == "DPO" else _demonstration(rows[0], text_field)
    if task == "KTO" and found is not None and found.name in _WITHOUT_PROMPT:
        found = None
    if found is None:
        raise DataError(f"{rows.where(0)}: {_misfit(rows[0], task, text_field)}")
    return found


def examples(rows: Rows, form: Format) -> Iterator[Example]:
    """Every row as an Example, in order. Raises DataError with the place of a row that does not fit."""
    for index, row in enumerate(rows):
        place = rows.where(index)
        missing = [column for column in form.columns if row.get(column) is None]
        if missing:
            gap = "is empty" if missing[0] in row else f"is missing (columns: {', '.join(map(str, row))})"
            raise DataError(
                f"{place}: {missing[0]!r} {gap}. Every row needs {' and '.join(map(repr, form.columns))}, "
                "as the first one has; mend or remove this one."
            )
        try:
            prompt, completions = form.read(row)
            tools = tools_of(row)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        kwargs = row.get("chat_template_kwargs") or {}
        if not isinstance(kwargs, Mapping):
            raise DataError(f"{place}: 'chat_template_kwargs' must be a dict, got {type(kwargs).__name__}.")
        kwargs = {key: item for key, item in kwargs.items() if item is not None}
        yield Example(
            row=index,
            place=place,
            prompt=prompt,
            completions=completions,
            tools=tools,
            template_kwargs=kwargs,
        )


def ignored_columns(rows: Rows, form: Format) -> list[str]:
    """The columns of the first row that nothing reads."""
    read = (*form.columns, *form.optional, *EXTRAS, PROVENANCE)
    return [str(column) for column in rows[0] if column not in read]


def _demonstration(row: Row, text_field: str) -> Format | None:
    """The format of rows to imitate."""
    if text_field != "text" and text_field in row:
        return _text(text_field)
    if isinstance(row.get("label"), bool):
        return None
    compared = "chosen" in row and "rejected" in row  # then `conversations` holds only the prompt
    for column in ("messages",) if compared else ("messages", "conversations"):
        if column in row:
            return _conversation(column)
    if "prompt" in row and "completion" in row:
        return Format(
            name="prompt-completion",
            sentence="'completion' answers 'prompt'",
            columns=("prompt", "completion"),
            read=_prompt_completion,
        )
    for question, further, answer in PAIRS:
        if question in row and answer in row:
            return _question(question, further, answer)
    if "instruction" in row and "instances" in row:
        return Format(
            name="self-instruct",
            sentence="'instruction' is read as a user's message and the 'output' in 'instances' as the answer",
            columns=("instruction", "instances"),
            read=self_instruct,
        )
    return _text(text_field) if text_field in row else None


def _text(column: str) -> Format:
    return Format(
        name="text", sentence=f"{column!r} is plain text", columns=(column,),
        read=lambda row: (None, (_string(row, column),)),
    )  # fmt: skip


def _conversation(column: str) -> Format:
    return Format(
        name=column,
        sentence=f"{column!r} is a conversation",
        columns=(column,),
        optional=("system",),
        read=lambda row: (None, (_with_system(row, read_messages(row[column], column)),)),
    )


def _question(question: str, further: str | None, answer: str) -> Format:
    return Format(
        name=f"{question}-{answer}",
        sentence=f"{question!r} is read as a user's message and {answer!r} as the assistant's answer",
        columns=(question, answer),
        optional=("system", "history", *([further] if further else [])),
        read=lambda row: (_asked(row, question, further), (_answer(row, answer),)),
    )


def holds_pairs(columns: Sequence[str]) -> bool:
    """Whether rows with these columns have a better and a worse answer."""
    return _preference(columns) is not None


def _preference(columns: Sequence[str]) -> Format | None:
    """The format of rows with a better and a worse answer."""
    if set(PREFERENCE) <= set(columns):
        return Format(
            name="openai-preference",
            sentence="'preferred_output' and 'non_preferred_output' answer the messages in 'input'",
            columns=PREFERENCE,
            read=openai_preference,
        )
    if "chosen" not in columns or "rejected" not in columns:
        return None
    prompt = next((column for column in PROMPTS if column in columns), None)
    if prompt is None:
        return Format(
            name="preference, implicit prompt",
            sentence="'chosen' and 'rejected' begin with the same prompt",
            columns=("chosen", "rejected"),
            read=lambda row: split_prompt(content(row, "chosen"), content(row, "rejected")),
        )
    return Format(
        name="preference",
        sentence=f"'chosen' and 'rejected' answer {prompt!r}",
        columns=(prompt, "chosen", "rejected"),
        optional=("system", "history", "input"),
        read=lambda row: _explicit_preference(row, prompt),
    )


def _prompt_completion(row: Row) -> tuple[Content, tuple[Content]]:
    prompt, completion = content(row, "prompt"), content(row, "completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, (completion,)
    return _as_question(prompt), (_as_answer(completion),)


def _explicit_preference(row: Row, column: str) -> tuple[Content | None, tuple[Content, ...]]:
    chosen, rejected = content(row, "chosen"), content(row, "rejected")
    prompt: Content
    if column == "prompt":
        prompt = content(row, column)
    elif column == "conversations":
        prompt = _with_system(row, read_messages(row[column], column))
    else:
        prompt = _asked(row, column, "input" if column == "instruction" else None)
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return prompt, (chosen, rejected)
    pair = _as_answer(chosen), _as_answer(rejected)
    if all(answer and answer[0]["role"] != "assistant" for answer in pair):
        # Both are whole conversations that repeat the prompt, as in UltraFeedback
        last = prompt if isinstance(prompt, str) else next((m["content"] for m in reversed(prompt)), "")
        if all(any(message["content"] == last for message in answer) for answer in pair):
            return split_prompt(*pair)
    return _as_question(prompt), pair


def split_prompt(chosen: Content, rejected: Content) -> tuple[Content, tuple[Content, Content]]:
    """What both begin with, and the two rests. As in TRL: whole messages, or characters."""
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError("'chosen' and 'rejected' must both be text or both be messages.")
    shorter = min(len(chosen), len(rejected))
    length = next((i for i in range(shorter) if chosen[i] != rejected[i]), None)
    if length is None:  # one begins with the whole of the other: leave its end to the completion
        length = max(shorter - 1, 0)
    elif length and chosen[length - 1] == " ":
        length -= 1
    return chosen[:length], (chosen[length:], rejected[length:])


def _asked(row: Row, question: str, further: str | None) -> list[Message]:
    """The conversation up to the question, with the `system`, `history` and `input` columns there are."""
    asked = _string(row, question)
    if further and row.get(further):
        asked = f"{asked}\n{_string(row, further)}"
    history = row.get("history") or []
    pairs = list | tuple
    if not isinstance(history, pairs) or not all(isinstance(p, pairs) and len(p) == 2 for p in history):
        raise DataError("'history' must be a list of [question, answer] pairs.")
    turns = [{"role": role, "content": text} for pair in history for role, text in zip(("user", "assistant"), pair)]
    return _with_system(row, [*turns, {"role": "user", "content": asked}])


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    system = row.get("system")
    if not system or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": _string(row, "system")}, *messages]


def _answer(row: Row, column: str) -> list[Message]:
    return [{"role": "assistant", "content": _string(row, column)}]


def _as_question(prompt: Content) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _as_answer(completion: Content) -> list[Message]:
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion


def content(row: Row, column: str) -> Content:
    """Text, or messages where the value is a list, a dict, or JSON that spells messages (a CSV cell)."""
    value = row[column]
    if isinstance(value, str) and not value.startswith(('[{"role"', '[{"from"', '[{"content"')):
        return value
    return read_messages(value, column)


def _string(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"{column!r} must be a string, got {type(value).__name__} {str(value)[:40]!r}.")
    return value


def _misfit(row: Row, task: Task, text_field: str) -> str:
    """Why the task cannot learn from such rows, and what can be done."""
    columns = [str(column) for column in row]
    found = f"{task} cannot learn from the columns {', '.join(columns) or '(none)'}."
    if task == "SFT" and text_field != "text":
        near = nearest(text_field, columns) or "."
        return f"there is no column {text_field!r} (dataset_text_field){near} {found}"
    if isinstance(row.get("label"), bool):
        return (
            f"{found} These are answers marked good or bad ('label'), which KTOTrainer and BCOTrainer learn from as "
            "they are. For SFT keep the good ones and drop the column: "
            "dataset.filter(lambda row: row['label']).remove_columns('label'). For DPO bring a "
            "good and a bad answer to the same prompt together as 'chosen' and 'rejected'."
        )
    if isinstance(row.get("prompt"), Mapping) and "replies" in row["prompt"]:
        return (
            f"{found} These are trees of messages and their replies; `posttrain data convert FILE --output rows.jsonl` "
            "makes conversations of their branches, or pairs."
        )
    if task == "SFT" and "chosen" in row and "rejected" in row:
        return (
            f"{found} These are preference rows, which DPOTrainer learns from. To imitate the chosen ones, "
            "rename 'chosen' to 'completion' (or to 'messages' if it holds the whole conversation)."
        )
    if task == "DPO" and (form := _demonstration(row, text_field)):
        return (
            f"{found} These are rows to imitate ({form.name}), which SFTTrainer learns from. DPO needs "
            f"{READ_BY['DPO']}; pairs_correct makes such pairs from a model's own answers."
        )
    unknown = [column for column in columns if column not in KNOWN]
    guesses = [f"{column!r}{guess}" for column in unknown if (guess := nearest(column, KNOWN))]
    answered = any(nearest(column, ("completion", "chosen", "rejected")) for column in columns)
    if "prompt" in row and not answered:
        return (
            f"{found} These are prompts without answers, which GRPO learns from. {task} needs "
            f"{'a chosen and a rejected answer' if task == 'DPO' else 'an answer'} to each"
            f" ({READ_BY[task]})."
        )
    return (
        f"{found} It reads {READ_BY[task]}. "
        + (f"{' '.join(guesses)} " if guesses else "")
        + f"Rename the columns, for example dataset.rename_column({columns[0] if columns else 'x'!r}, "
        f"{'text' if task == 'SFT' else 'prompt'!r})."
    )
