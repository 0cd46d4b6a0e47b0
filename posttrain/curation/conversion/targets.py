"""The formats that rows are written in: which records each can hold, and what it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.curation.conversion.foreign import as_alpaca, as_sharegpt
from posttrain.curation.conversion.parts import asked_and_answered, conversation
from posttrain.curation.conversion.record import Kind, Record
from posttrain.curation.rows import Row
from posttrain.data.formats import Content
from posttrain.errors import DataError

_GOOD_ONLY = "rows that are labelled bad are rejected: they are not to be imitated"
_NO_REJECTED = "the rejected answers are left out"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format to write: the kinds of records it takes, each with what is said of what it loses ("" for nothing)."""

    takes: Mapping[Kind, str]
    columns: tuple[str, ...]
    write: Callable[[Record], list[Row]]


def _messages(record: Record) -> list[Row]:
    return [{"messages": conversation(record)}]


def _prompt_completion(record: Record) -> list[Row]:
    prompt, completion = asked_and_answered(record)
    return [{"prompt": prompt, "completion": completion}]


def _text(record: Record) -> list[Row]:
    answer = record.completions[0]
    if not isinstance(answer, str) or not isinstance(record.prompt, str | None):
        raise DataError("is a conversation, whose text is made by a model's chat template; write it as messages")
    return [{"text": (record.prompt or "") + answer}]


def _preference(record: Record) -> list[Row]:
    chosen, rejected = record.completions
    if not record.prompt:
        raise DataError("'chosen' and 'rejected' begin differently, so there is no prompt; give one in 'prompt'")
    return [{"prompt": record.prompt, "chosen": chosen, "rejected": rejected}]


def _unpaired(record: Record) -> list[Row]:
    if record.kind == "unpaired":
        prompt, completion = asked_and_answered(record)
        return [{"prompt": prompt, "completion": completion, "label": record.label}]
    (pair,) = _preference(record)
    return [{"prompt": pair["prompt"], "completion": pair[c], "label": c == "chosen"} for c in ("chosen", "rejected")]


def _prompt_only(record: Record) -> list[Row]:
    answer = record.completions[0] if record.prompt is None or record.kind == "demonstration" else ""
    if isinstance(record.prompt, str):
        return [_asked(record.prompt, answer)]
    # Where there is no prompt, the answer is at the end of a whole conversation
    prompt = [*(record.prompt or []), *(answer if isinstance(answer, list) else [])]
    end = len(prompt)
    while end and prompt[end - 1]["role"] == "assistant":
        end -= 1
    if not end or prompt[end - 1]["role"] == "system":
        raise DataError("asks nothing: there is no user's message before the answer")
    said = prompt[end]["content"] if record.kind == "demonstration" and end == len(prompt) - 1 else ""
    return [_asked(prompt[:end], said)]


def _asked(prompt: Content, answer: Any) -> Row:
    return {"prompt": prompt, **({"answer": answer} if answer and isinstance(answer, str) else {})}


def unambiguous(row: Row) -> Row:
    """The row. Raises DataError where a text begins as messages do that are spelled as JSON, and would be read so."""
    for column in ("prompt", "completion", "chosen", "rejected"):
        value = row.get(column)
        if isinstance(value, str) and value.startswith(('[{"role"', '[{"from"', '[{"content"')):
            raise DataError(f"{column!r} is a text that begins like messages, and would be read as such")
    return row


TARGETS: Mapping[str, Target] = {
    "messages": Target(
        takes={"demonstration": "", "preference": _NO_REJECTED, "unpaired": _GOOD_ONLY},
        columns=("messages", "tools"),
        write=_messages,
    ),
    "prompt-completion": Target(
        takes={
            "demonstration": "answers before the last are context",
            "preference": _NO_REJECTED,
            "unpaired": _GOOD_ONLY,
        },
        columns=("prompt", "completion", "tools"),
        write=_prompt_completion,
    ),
    "text": Target(
        takes={"text": "", "demonstration": "where the prompt ends is not kept"},
        columns=("text",),
        write=_text,
    ),
    "alpaca": Target(
        takes={"demonstration": "", "preference": "", "unpaired": _GOOD_ONLY},
        columns=("instruction", "input", "output", "chosen", "rejected", "system", "history"),
        write=as_alpaca,
    ),
    "sharegpt": Target(
        takes={"demonstration": "", "preference": "", "unpaired": ""},
        columns=("conversations", "chosen", "rejected", "label", "tools"),
        write=as_sharegpt,
    ),
    "preference": Target(
        takes={"preference": ""}, columns=("prompt", "chosen", "rejected", "tools"), write=_preference
    ),
    "unpaired": Target(
        takes={"unpaired": "", "preference": "each pair becomes two rows, which do not know each other"},
        columns=("prompt", "completion", "label", "tools"),
        write=_unpaired,
    ),
    "prompt-only": Target(
        takes={
            "prompt": "",
            "demonstration": "the answer goes along in the column 'answer', which rewards are given",
            "preference": "the answers are left out",
            "unpaired": "the answers and their labels are left out",
        },
        columns=("prompt", "answer", "tools"),
        write=_prompt_only,
    ),
}

USUAL: Mapping[Kind, str] = {  # what a kind is written as where nothing else is asked for
    "text": "text",
    "demonstration": "messages",
    "prompt": "prompt-only",
    "preference": "preference",
    "unpaired": "unpaired",
}


def carried(columns: Mapping[str, Any], to: str) -> tuple[Row, list[str]]:
    """The columns that go along unread, and the names of those that would be read as something else."""
    taken = set(TARGETS[to].columns) - {"answer"} | {"system", "history"}
    if to != "prompt-only":  # there nothing but the prompt is read, and the rest is what rewards grade by
        taken |= _READ
    return {n: v for n, v in columns.items() if n not in taken}, [n for n in columns if n in taken]


_READ = {
    "messages", "conversations", "prompt", "completion", "text", "chosen", "rejected", "label", "kto_tag",
    "instruction", "input", "output", "question", "answer", "query", "response", "context", "instances",
}  # fmt: skip
