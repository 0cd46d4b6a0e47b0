"""The order of roles in a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from posttrain.data.messages import Message, is_empty


def role_problems(messages: Sequence[Message], *, answered: bool) -> list[str]:
    """What is unusual about the order, in words, each thing once; many chat templates refuse some of it.

    `answered` says that the conversation is to end with an answer.
    """
    roles = [message["role"] for message in messages]
    found: list[str] = []
    if not roles:
        return ["no message"]
    talk = [role for role in roles if role not in ("system", "developer")]
    if any(role == "system" for role in roles[1:]):
        found.append("a system message that is not the first")
    if talk and talk[0] == "assistant":
        found.append("an assistant's message before any user's")
    for role in ("user", "assistant"):
        if any(one == other == role for one, other in pairwise(roles)):
            found.append(f"two {role} messages in a row")
    if any(role == "tool" and (i == 0 or roles[i - 1] not in ("assistant", "tool")) for i, role in enumerate(roles)):
        found.append("a tool's message that no call precedes")
    if answered and roles[-1] != "assistant":
        found.append(f"the last message is the {roles[-1]}'s")
    if any(message["role"] == "user" and is_empty(message) for message in messages):
        found.append("an empty user message")
    return found
