"""Trees of messages as Open Assistant writes them: a prompt, replies to it, replies to those, each ranked by people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain.curation.conversion.record import Record
from posttrain.data.messages import Message
from posttrain.errors import DataError

_ROLES = {"prompter": "user", "assistant": "assistant"}
Node = Mapping[str, Any]


def tree_records(row: Mapping[str, Any]) -> list[Record]:
    """The conversation down the best replies, as one record."""
    path = _best_path(row["prompt"])
    messages = [_message(node) for node in path]
    ids = [str(node.get("message_id")) for node in path]
    return [Record(kind="demonstration", completions=(messages,), notes={"messages": ids})]


def tree_pairs(row: Mapping[str, Any], *, every: bool = False) -> list[Record]:
    """The best against the worst ranked reply to each message of a user, or `every` pair of different ranks.

    Raises DataError where no message has two replies of different ranks.
    """
    found = []
    for before, replies in _asked(row["prompt"]):
        ranked = sorted((r for r in replies if isinstance(r.get("rank"), int)), key=lambda reply: reply["rank"])
        pairs = [(ranked[0], ranked[-1])] if ranked else []
        if every:
            pairs = [(a, b) for number, a in enumerate(ranked) for b in ranked[number + 1 :]]
        for chosen, rejected in pairs:
            if chosen["rank"] < rejected["rank"]:  # a tie says nothing
                found.append(_pair(before, chosen, rejected))
    if not found:
        raise DataError("'prompt' has no message with two replies of different ranks")
    return found


def tree_prompts(row: Mapping[str, Any]) -> list[Record]:
    """The message at the root, as a prompt."""
    root = row["prompt"]
    return [Record(kind="prompt", prompt=[_message(root)], notes={"messages": [str(root.get("message_id"))]})]


def _pair(before: Sequence[Node], chosen: Node, rejected: Node) -> Record:
    return Record(
        kind="preference",
        prompt=[_message(node) for node in before],
        completions=([_message(chosen)], [_message(rejected)]),
        notes={
            "messages": [str(node.get("message_id")) for node in (*before, chosen, rejected)],
            "ranks": [chosen["rank"], rejected["rank"]],
        },
    )


def _best_path(root: Node) -> list[Node]:
    """The best reply to each message down to the last answer."""
    path = [root]
    while replies := _replies(path[-1]):
        # What nobody ranked comes last; among equals the first
        path.append(min(replies, key=lambda reply: (not isinstance(reply.get("rank"), int), reply.get("rank") or 0)))
    while path and path[-1].get("role") != "assistant":
        path.pop()
    if not path:
        raise DataError("'prompt' has no reply of an assistant")
    return path


def _asked(root: Node) -> Iterator[tuple[list[Node], list[Node]]]:
    """(the messages down to a user's one, its replies), for every message of a user."""
    waiting: list[list[Node]] = [[root]]
    while waiting:
        path = waiting.pop(0)
        replies = _replies(path[-1])
        if path[-1].get("role") == "prompter" and replies:
            yield path, replies
        waiting += [[*path, reply] for reply in replies]


def _replies(node: Node) -> list[Node]:
    """The replies to a message that were not deleted."""
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, Mapping) for reply in replies):
        raise DataError("'prompt' is no tree: 'replies' must be a list of messages")
    return [reply for reply in replies if not reply.get("deleted")]


def _message(node: Node) -> Message:
    role, text = _ROLES.get(str(node.get("role"))), node.get("text")
    if role is None or not isinstance(text, str):
        place = f"message {node.get('message_id')}"
        raise DataError(f"'prompt' holds {place} with the role {node.get('role')!r} and {type(text).__name__} as text")
    return {"role": role, "content": text}
