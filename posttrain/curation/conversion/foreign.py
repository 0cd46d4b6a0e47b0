"""The formats of other tools: Alpaca's instruction and output, ShareGPT's from and value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from posttrain.curation.conversion.parts import as_messages, conversation
from posttrain.curation.conversion.record import Record
from posttrain.curation.rows import Row
from posttrain.data.formats import Content
from posttrain.data.messages import Message
from posttrain.errors import DataError

_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def as_alpaca(record: Record) -> list[Row]:
    """The row as instruction, input and output, or chosen and rejected; with `system` and `history` where there are."""
    if record.tools:
        raise DataError("has tools, which Alpaca's format cannot hold; write messages or sharegpt")
    if record.kind == "preference":
        chosen, rejected = (_single(answer) for answer in record.completions)
        messages = as_messages(record.prompt or [], "user")
        if any(text.startswith(("[{", "{")) for text in (chosen, rejected)):
            raise DataError("an answer begins like JSON, and would be read as messages")
        return [{**_asked(messages), "chosen": chosen, "rejected": rejected}]
    *messages, answer = conversation(record) or [{}]
    if answer.get("role") != "assistant":
        raise DataError("does not end with an assistant's answer")
    return [{**_asked(messages), "output": _plain(answer)}]


def _asked(messages: Sequence[Message]) -> Row:
    """Everything before the answer: a system message, earlier questions and answers, the question."""
    system = _plain(messages[0]) if messages and messages[0]["role"] == "system" else None
    turns = messages[1:] if system is not None else messages
    roles = [message["role"] for message in turns]
    alternating = [("user", "assistant")[number % 2] for number in range(len(turns))]
    if system == "" or roles != alternating or not len(turns) % 2:
        raise DataError("is not a question after questions that were answered, which is what Alpaca's format holds")
    said = [_plain(message) for message in turns]
    history = [[said[number], said[number + 1]] for number in range(0, len(said) - 1, 2)]
    row: Row = {"instruction": said[-1], "input": ""}
    return {**row, **({"system": system} if system else {}), **({"history": history} if history else {})}


def _single(answer: Content) -> str:
    if isinstance(answer, str):
        return answer
    if len(answer) != 1 or answer[0]["role"] != "assistant":
        raise DataError("an answer is not a single message of an assistant, which is what Alpaca's format holds")
    return _plain(answer[0])


def _plain(message: Message) -> str:
    more = sorted(message.keys() - {"role", "content"})
    if more:
        raise DataError(f"a message has {', '.join(more)}, which this format cannot hold; write messages")
    return str(message["content"])


def as_sharegpt(record: Record) -> list[Row]:
    """The row as `conversations` of from and value; a pair has its answers in `chosen` and `rejected`."""
    row: Row = {}
    if record.kind == "preference":
        messages = as_messages(record.prompt or [], "user")
        if not messages:
            raise DataError("'chosen' and 'rejected' begin differently, so there is no prompt")
        sides = [[_turn(message) for message in as_messages(answer, "assistant")] for answer in record.completions]
        row = {name: side[0] if len(side) == 1 else side for name, side in zip(("chosen", "rejected"), sides)}
    elif record.kind == "unpaired":
        messages, row = _labelled(record), {"label": record.label}
    else:
        messages = conversation(record)
    tools = {"tools": json.dumps([_bare(tool) for tool in record.tools], ensure_ascii=False)} if record.tools else {}
    return [{"conversations": [_turn(message) for message in messages], **row, **tools}]


def _labelled(record: Record) -> list[Message]:
    return [*as_messages(record.prompt or [], "user"), *as_messages(record.completions[0], "assistant")]


def _turn(message: Message) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if calls and message["role"] == "assistant" and not message["content"]:
        functions = [_function(call) for call in calls]
        _plain({name: value for name, value in message.items() if name != "tool_calls"})
        said = functions[0] if len(functions) == 1 else functions
        return {"from": "function_call", "value": json.dumps(said, ensure_ascii=False)}
    if message["role"] not in _FROM:
        raise DataError(f"a message is of the role {message['role']!r}, which ShareGPT's format cannot hold")
    return {"from": _FROM[message["role"]], "value": _plain(message)}


def _function(call: Any) -> Any:
    """What ShareGPT writes of a call. Raises DataError where there is more to it, such as an id."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call != {"type": "function", "function": function} or "name" not in function:
        raise DataError("a tool call has more than its function, such as an id, which ShareGPT's format cannot hold")
    return function


def _bare(tool: Any) -> Any:
    wrapped = isinstance(tool, dict) and tool.keys() == {"type", "function"} and tool["type"] == "function"
    return tool["function"] if wrapped and "name" in tool["function"] else tool
