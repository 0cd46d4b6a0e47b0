"""The answers that lint compares: two sides of a pair, or single answers that are marked good or bad."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.data.formats import Content
from posttrain.data.messages import Message

# One token each: a character of a script that writes no spaces, a run of other word characters, any other sign.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A row of preference data as text."""

    place: str
    prompt: bytes  # a hash: pairs of one prompt belong together
    chosen: str
    rejected: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """An answer that is marked good or bad."""

    place: str
    prompt: bytes
    text: str
    good: bool


def words(text: str) -> list[str]:
    """The words and signs of a text; a Chinese or Japanese character is a word."""
    return _TOKEN.findall(text)


def answer_text(completion: Content) -> str:
    """What the assistant says in a completion."""
    if isinstance(completion, str):
        return completion
    return "\n".join(_said(message) for message in completion if message["role"] == "assistant")


def written(content: Content | None) -> str:
    """A prompt or a completion whole, roles included, such that equal texts are equal contents."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\x1e".join(f"{message['role']}\x1f{_said(message)}" for message in content)


def digest(*parts: str) -> bytes:
    """A hash of texts: 16 bytes."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        made.update(len(encoded).to_bytes(8, "little"))
        made.update(encoded)
    return made.digest()


def _said(message: Message) -> str:
    said = [message["content"]]
    said += [str(message[key]) for key in ("reasoning_content", "tool_calls") if message.get(key)]
    return "\n".join(said) if len(said) > 1 else said[0]


def shares(flags: Sequence[bool]) -> float:
    """The share of those that are true."""
    return sum(flags) / max(len(flags), 1)
