"""What a row says, whatever shape it was written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.data.formats import Content

Kind = Literal["text", "demonstration", "prompt", "preference", "unpaired"]

KINDS: Mapping[Kind, str] = {
    "text": "plain text",
    "demonstration": "answers to imitate",
    "prompt": "prompts without answers",
    "preference": "pairs of a better and a worse answer",
    "unpaired": "answers that are labelled good or bad",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A prompt and what answers it: text, or messages."""

    kind: Kind
    prompt: Content | None = None  # None: the completion is the whole text or conversation
    completions: tuple[Content, ...] = ()  # none, one, or chosen and rejected
    label: bool | None = None  # of an unpaired answer: whether it is good
    tools: Sequence[Any] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)  # what the format does not read
    notes: Mapping[str, Any] = field(default_factory=dict)  # for the provenance
