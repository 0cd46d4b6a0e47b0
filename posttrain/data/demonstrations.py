"""What rows to imitate train: each row as sequences of tokens with trained spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from posttrain.data.formats import Example, Format
from posttrain.data.messages import Message
from posttrain.data.rendering import Conversation, Rendered, Renderer, Trained, common_prefix


class Demonstrations:
    """Called with examples, it gives the sequences of each, none where there is nothing to train, and counts.

    It can be pickled: other processes make the same of the same examples.
    """

    def __init__(self, tokenizer: Any, *, turns_only: bool, completion_only: bool | None) -> None:
        self.renderer = Renderer(tokenizer)
        self._turns_only, self._completion_only = turns_only, completion_only

    def __call__(self, chunk: Sequence[Example]) -> tuple[list[list[Rendered]], Counter[str]]:
        before = Counter(self.renderer.counted)
        return self._sequences(chunk), self.renderer.counted - before

    def _sequences(self, chunk: Sequence[Example]) -> list[list[Rendered]]:
        result: list[list[Rendered]] = [[] for _ in chunk]
        texts = [i for i, e in enumerate(chunk) if isinstance(e.completions[0], str) and e.completions[0].strip()]
        pieces = [(str(chunk[i].prompt or ""), str(chunk[i].completions[0])) for i in texts]
        for i, ids, start in zip(texts, *text_ids(self.renderer, pieces)):
            begin = 1 if self._completion_only is False else max(start, 1)
            result[i] = [Rendered(tokens=ids, trained=[(begin, len(ids))])] if begin < len(ids) else []
        chats = [i for i, e in enumerate(chunk) if not isinstance(e.completions[0], str)]
        groups: dict[Trained, list[int]] = {"turns": [], "completion": [], "everything": []}
        for i in chats:
            completion = chunk[i].prompt is not None and self._completion_only is not False
            groups["turns" if self._turns_only else "completion" if completion else "everything"].append(i)
        for trained, members in groups.items():
            conversations = [conversation_of(chunk[i]) for i in members]
            if trained == "turns" and self._completion_only is False:  # of prompts too
                conversations = [replace(conversation, start=0) for conversation in conversations]
            found = self.renderer.conversations(conversations, trained)
            for i, conversation, sequences in zip(members, conversations, found):
                result[i] = sequences if conversation.turns() or trained == "everything" else []
        return result


def conversation_of(example: Example, completion: int = 0) -> Conversation:
    """The prompt and one of the completions as a conversation to render."""
    prompt: list[Message] = example.prompt if isinstance(example.prompt, list) else []
    return Conversation(
        messages=[*prompt, *example.completions[completion]], start=len(prompt), place=example.place,
        tools=example.tools, template_kwargs=example.template_kwargs,
    )  # fmt: skip


def text_ids(renderer: Renderer, pieces: Sequence[tuple[str, str]]) -> tuple[list[list[int]], list[int]]:
    """The ids of prompt and completion together, and where the completion starts in them."""
    wholes = renderer.texts([prompt + completion for prompt, completion in pieces])
    unique = list({prompt: None for prompt, _ in pieces if prompt})
    prompts = dict(zip(unique, renderer.prompts(unique)))
    return wholes, [
        common_prefix(prompts[prompt], whole) if prompt else 0 for (prompt, _), whole in zip(pieces, wholes)
    ]


def what_is_trained(
    form: Format, *, is_text: bool, turns_only: bool, completion_only: bool | None, given: bool | None
) -> str:
    """What of such rows is trained and why, for the report; `given` is `assistant_only_loss` as it was set."""
    prompted = form.name not in ("text", "messages", "conversations")
    if is_text:
        if prompted and completion_only is not False:
            return "the completion with its end of text, because rows are prompt and completion."
        asked = "completion_only_loss=False" if prompted else "rows are plain text"
        return f"every token but the first, and the end of text, because {asked}."
    if turns_only:
        asked = "assistant_only_loss=True" if given else "rows are conversations"
        where = "the assistant's turns" if completion_only is False or not prompted else "the assistant's answer"
        return f"{where} with the token that ends each, because {asked}; all other tokens are context."
    if prompted and completion_only is not False:
        return "everything after the prompt, because assistant_only_loss=False."
    asked = "assistant_only_loss=False" if given is False else "completion_only_loss=False"
    return f"every token but the first, prompts too, because {asked}."
