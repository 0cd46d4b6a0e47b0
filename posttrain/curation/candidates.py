"""Prompts as rows ask them, a model's answers to them, and who is asked and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from posttrain.curation.journal import Journal
from posttrain.curation.provenance import noted, place, provenance
from posttrain.curation.rows import PROVENANCE, Broken, Row
from posttrain.types import Message, Sampler, SamplingParams

_NOT_CARRIED = ("messages", "conversations", "completion", "chosen", "rejected", "label", PROVENANCE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A row's prompt, as a model is asked it and as it is written into data."""

    number: int  # of the row among the inputs; it decides the draws
    row: Row
    prompt: list[Message]
    told: list[Message]  # the prompt, with or without the system message that was added
    columns: Mapping[str, Any]  # what else the row has, for rewards
    conversation: bool  # it came as `messages`, and so do its answers

    @property
    def place(self) -> str:
        """Such as "prompts.jsonl:17"."""
        return place(self.row)

    @property
    def key(self) -> str:
        """Of the prompt's words: what was answered to others is no answer to it."""
        return digest(self.prompt)

    def carried(self) -> Row:
        """The row's other columns and its provenance, without what an answer replaces."""
        kept = {name: value for name, value in self.columns.items() if name not in _NOT_CARRIED}
        return {**kept, PROVENANCE: provenance(self.row)}

    def with_answer(self, text: str) -> Row:
        """A row to imitate: `messages` after a conversation, else `prompt` and `completion` as messages."""
        answer = [{"role": "assistant", "content": text}]
        own = {"messages": [*self.told, *answer]} if self.conversation else {"prompt": self.told, "completion": answer}
        return {**own, **self.carried()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer to a prompt."""

    number: int  # among the prompt's
    text: str
    finished: bool  # it ended by itself, not at max_tokens
    tokens: int | None  # where the sampler counts them

    @property
    def notes(self) -> dict[str, Any]:
        """For the provenance of a row."""
        return {"number": self.number, "finish_reason": "stop" if self.finished else "length", "tokens": self.tokens}


def distinct(answers: Iterable[Answer]) -> list[Answer]:
    """The answers without those that repeat an earlier one's text."""
    first: dict[str, Answer] = {}
    for answer in answers:
        first.setdefault(answer.text, answer)
    return list(first.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A prompt with its answers; none where it failed."""

    ask: Ask
    answers: tuple[Answer, ...]
    failure: str = ""  # why there is no answer; the next call asks again


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A row that asks nothing that could be answered."""

    row: Row | Broken
    step: str
    reason: str
    field: str | None = None


@dataclass(kw_only=True)
class Asking:
    """Who is asked, and how. `open` is called when the first prompt has to be asked, not before."""

    open: Callable[[], Sampler]
    name: str  # of the model, for provenance
    params: SamplingParams
    count: int = 1
    seed: int = 0
    system_message: str | None = None  # before prompts that have none
    keep_system: bool = True  # in the rows that are written
    kind: str = "answers"  # under which the journal holds what is answered
    journal: Journal = field(default_factory=lambda: Journal(None, {}))
    progress: Callable[[int], None] | None = None  # told how many more answers are there

    @classmethod
    def of(cls, sampler: Sampler, *, params: SamplingParams | None, **options: Any) -> Self:
        """A sampler in memory, asked with these options."""
        model = getattr(sampler, "model", None)
        name = model if isinstance(model, str) else getattr(getattr(model, "config", None), "_name_or_path", None)
        return cls(
            open=lambda: sampler, name=str(name or type(sampler).__name__), params=params or SamplingParams(), **options
        )

    @property
    def notes(self) -> dict[str, Any]:
        """For the provenance of a row."""
        params = self.params
        names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        sampling: dict[str, Any] = {name: getattr(params, name) for name in names}
        if params.stop:
            sampling["stop"] = list(params.stop)
        system = {} if self.system_message is None else {"system_message": self.system_message}
        return {"model": self.name, "sampling": sampling, "seed": self.seed, **system}

    def noted(self, row: Row, answer: Answer, **more: Any) -> Row:
        """The row, with the model and the answer it is made from in its provenance."""
        return noted(row, **self.notes, answer=answer.notes, **more)


def digest(value: Any) -> str:
    """A short hash of anything JSON can hold."""
    written = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()[:16]
