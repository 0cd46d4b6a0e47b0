"""A conversation with a model that answers piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from posttrain.errors import ConfigError, PosttrainError, SamplingError
from posttrain.sampling.endpoint import EndpointSampler
from posttrain.types import Message, Prompt, Sampler, SamplingParams


class Streamer(Protocol):
    """What answers a prompt piece by piece: a model here, or one behind an endpoint."""

    def stream(self, prompt: Prompt, params: SamplingParams, *, seed: int = 0) -> Iterator[str]:
        """The pieces of one answer."""
        ...


@dataclass
class Conversation:
    """What was said to one model, and what it answered."""

    name: str
    model: Streamer
    system_message: str | None = None
    turns: list[Message] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        """The system message, if there is one, and the turns."""
        system = [] if self.system_message is None else [{"role": "system", "content": self.system_message}]
        return [*system, *self.turns]

    def ask(self, text: str, params: SamplingParams, *, seed: int = 0) -> Iterator[str]:
        """The pieces of the answer. Question and answer become turns; so does what there is of one that is stopped.

        An answer that failed or is empty leaves the conversation as it was.
        """
        question = {"role": "user", "content": text}
        asked = [*self.messages, question]
        pieces: list[str] = []
        try:
            for piece in self.model.stream(asked, self._that_fits(asked, params), seed=seed):
                pieces.append(piece)
                yield piece
        except PosttrainError:
            pieces.clear()
            raise
        finally:
            if answer := "".join(pieces):
                self.turns += [question, {"role": "assistant", "content": answer}]

    def _that_fits(self, asked: Sequence[Message], params: SamplingParams) -> SamplingParams:
        """The parameters, with as few tokens as the model has room for after the conversation."""
        room = room_after(self.model, asked)
        if room is not None and room < 1:
            raise SamplingError("the conversation has filled all the positions that the model has: /reset begins anew")
        return params if room is None else replace(params, max_tokens=min(params.max_tokens, room))


def room_after(model: Sampler | Streamer, prompt: Prompt) -> int | None:
    """How many tokens a model on this machine can write after the prompt; None where that is not known."""
    if isinstance(model, EndpointSampler):  # which is quick to start, and stays so
        return None
    from posttrain.sampling.local import LocalSampler, context_length
    from posttrain.sampling.prompts import prompt_tokens

    if not isinstance(model, LocalSampler) or (limit := context_length(model.model)) is None:
        return None
    return limit - len(prompt_tokens(model.tokenizer, [prompt])[0])


def save_conversations(conversations: Sequence[Conversation], path: Path) -> int:
    """How many conversations were added to the JSONL file, which `posttrain sft` reads; empty ones are left out."""
    if path.suffix != ".jsonl":
        raise ConfigError(f"{str(path)!r} must end in .jsonl: conversations are JSON, one a line")
    said = [conversation for conversation in conversations if conversation.turns]
    lines = [json.dumps({"messages": c.messages, "model": c.name}, ensure_ascii=False) + "\n" for c in said]
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(lines)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from None
    return len(said)
