"""The parts of a record as messages: the conversation, or what is asked and what is answered."""

from __future__ import annotations

from posttrain.curation.conversion.record import Record
from posttrain.data.formats import Content
from posttrain.data.messages import Message
from posttrain.errors import DataError


def conversation(record: Record) -> list[Message]:
    """Prompt and answer as messages; a text is a user's message, or the answer of an assistant."""
    imitable(record)
    prompt = as_messages(record.prompt, "user") if record.prompt is not None else []
    return [*prompt, *as_messages(record.completions[0], "assistant")]


def asked_and_answered(record: Record) -> tuple[Content, Content]:
    """Prompt and completion; of a conversation what comes before its last message, and that, an assistant's."""
    if record.kind != "unpaired":
        imitable(record)
    answer = record.completions[0]
    if record.prompt is not None:
        return record.prompt, answer
    if isinstance(answer, str) or len(answer) < 2 or answer[-1]["role"] != "assistant":
        raise DataError("does not end with an assistant's answer to something")
    return answer[:-1], answer[-1:]


def imitable(record: Record) -> None:
    if record.label is False:
        raise DataError("is labelled as a bad answer, which is not to be imitated")


def as_messages(content: Content, role: str) -> list[Message]:
    """The messages, or the text as the message of this role."""
    return [{"role": role, "content": content}] if isinstance(content, str) else content
