"""Conversations as a list of {"role", "content"} messages, whatever shape they were written in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from posttrain.errors import DataError, nearest

Message = dict[str, Any]

ROLES = {
    "system": "system", "developer": "developer",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant",
    "tool": "tool", "observation": "tool", "tool_response": "tool", "ipython": "tool", "function": "tool",
    "function_call": "function_call", "tool_call": "function_call",
}  # fmt: skip


def read_messages(value: Any, column: str) -> list[Message]:
    """The messages of a conversation: role/content or from/value dicts, a single one, or either as JSON text.

    Roles become system, user, assistant or tool; a ShareGPT `function_call` becomes an assistant message with
    `tool_calls`; content given as parts becomes text and `reasoning_content`. Other keys are kept for the
    template. Raises DataError without the row's place, which the caller knows.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):  # a CSV cell
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{column!r} looks like JSON but is not: {error}.") from None
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise DataError(
            f"{column!r} must be a list of messages such as "
            f'[{{"role": "user", "content": "..."}}], got {type(value).__name__} {str(value)[:40]!r}.'
        )
    return [_message(message, f"{column}[{index}]") for index, message in enumerate(value)]


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, Mapping):
        got = f"{type(value).__name__} {str(value)[:40]!r}"
        raise DataError(f'{place} must be {{"role": ..., "content": ...}}, got {got}.')
    # datasets fills keys that a row does not have with None
    message = {key: item for key, item in value.items() if item is not None}
    sharegpt = "from" in message and "role" not in message
    role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
    if role_key not in message:
        found = ", ".join(map(str, value)) or "none"
        raise DataError(f"{place} has no 'role' (its keys: {found}). A message needs 'role' and 'content'.")
    role = message.pop(role_key)
    if content_key not in message and content_key == "content" and "value" in message:
        content_key = "value"
    content = message.pop(content_key, None)
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise DataError(
            f"{place} has the {role_key} {role!r}; allowed are {', '.join(ROLES)}{nearest(str(role).lower(), ROLES)}"
        )
    if "function_call" in message:  # OpenAI's older spelling of a single call
        message["tool_calls"] = [{"type": "function", "function": message.pop("function_call")}]
    if "tool_calls" in message:
        message["tool_calls"] = [_with_arguments(call, place) for call in message["tool_calls"]]
    if known == "function_call":
        return {"role": "assistant", **_function_call(content), **message}
    if isinstance(content, list | tuple):
        return {"role": known, **_parts(content, place), **message}
    if content is None and (message.get("tool_calls") or message.get("reasoning_content")):
        content = ""
    if not isinstance(content, str):
        got = "no" if content is None else f"a {type(content).__name__} as"
        raise DataError(f"{place} ({role}) has {got} {content_key!r}; it must be a string.")
    return {"role": known, "content": content, **message}


def _with_arguments(call: Any, place: str) -> dict[str, Any]:
    """The call with its arguments as a mapping, which chat templates take; OpenAI's files have them as JSON text."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise DataError(f"{place}.tool_calls must hold calls with a 'name', got {str(call)[:40]!r}.")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except json.JSONDecodeError:
            return dict(call)
        function = {**function, "arguments": parsed} if isinstance(parsed, Mapping) else function
    return {**call, "function": function} if "function" in call else dict(function)


def _function_call(content: Any) -> dict[str, Any]:
    """The `content` and `tool_calls` of a ShareGPT function call; text that is not a call stays text."""
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except json.JSONDecodeError:
        return {"content": content}
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return {"content": content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)}
    return {"content": "", "tool_calls": [{"type": "function", "function": dict(call)} for call in calls]}


def _parts(parts: Any, place: str) -> dict[str, Any]:
    """The message fields of a content given as typed parts. Only text can be trained on here."""
    fields: dict[str, Any] = {"content": ""}
    for index, part in enumerate(parts):
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text", part.get("value")) if isinstance(part, Mapping) else None
        if kind not in ("text", "reasoning", "tool_call"):
            raise DataError(f"{place}.content[{index}] is of type {kind!r}; only text can be trained on.")
        if not isinstance(text, str):
            raise DataError(f"{place}.content[{index}] has no text.")
        if kind == "text":
            fields["content"] += text
        elif kind == "reasoning":
            fields["reasoning_content"] = fields.get("reasoning_content", "") + text
        else:
            call = _function_call(text)
            fields["content"] += call["content"]
            fields["tool_calls"] = fields.get("tool_calls", []) + call.get("tool_calls", [])
    return {key: item for key, item in fields.items() if item or key == "content"}


def read_tools(value: Any) -> list[Any] | None:
    """The tools of a row, from a list or its JSON text, each as {"type": "function", "function": {...}}."""
    if value is None or value in ("", []):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"'tools' is not valid JSON ({error}); it must be a list of tools.") from None
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise DataError(f"'tools' must be a list of tools, got {type(value).__name__} {str(value)[:40]!r}.")
    bare = [isinstance(tool, Mapping) and "name" in tool and "function" not in tool for tool in value]
    return [{"type": "function", "function": tool} if lone else tool for tool, lone in zip(value, bare)] or None


MARKS = ("weight", "train", "training")  # keys by which a message says how much it is trained


def weight_of(message: Message) -> float:
    """How much the tokens of an assistant's turn count: its `weight`, or its `train` (`training`) of true or false.

    Without one of these keys 1. Raises DataError, without the row's place, for what is no such number.
    """
    given = {name: message[name] for name in MARKS if name in message}
    values = {float(v) for v in given.values() if isinstance(v, bool | int | float)}
    if not given:
        return 1.0
    if len(values) != 1 or not all(isinstance(v, bool | int | float) for v in given.values()):
        said = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise DataError(
            f"a message says {said}: 'weight' must be a number of at least 0, 'train' true or false, and both agree."
        )
    (value,) = values
    if not 0 <= value < float("inf"):
        raise DataError(f"a message has the weight {value:g}; it must be at least 0.")
    return value


def is_empty(message: Message) -> bool:
    """Whether there is nothing in the message for a model to say."""
    said = message["content"].strip() or message.get("tool_calls") or message.get("reasoning_content")
    return not said


def shown_messages(messages: list[Message], template: str, notes: set[str]) -> list[Message]:
    """The messages as this chat template can show them: calls it cannot show go into the content.

    What it leaves out altogether is noted.
    """
    if not any("tool_calls" in message or "reasoning_content" in message for message in messages):
        return messages
    shown = []
    for message in messages:
        if message.get("tool_calls") and "tool_calls" not in template:
            notes.add("The chat template does not show tool calls: they are written as JSON into the answer.")
            calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message["tool_calls"]]
            content = "\n".join([message["content"], *calls] if message["content"] else calls)
            message = {key: item for key, item in message.items() if key != "tool_calls"} | {"content": content}
        if message.get("reasoning_content") and "reasoning_content" not in template:
            notes.add("The chat template does not show reasoning: 'reasoning_content' is not trained.")
        shown.append(message)
    return shown
