"""What rows to compare train: the chosen and the rejected answer of each as sequences of tokens with trained spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from posttrain.data.demonstrations import conversation_of, text_ids
from posttrain.data.formats import Example
from posttrain.data.rendering import Rendered, Renderer, Trained


class Preferences:
    """Called with examples, it gives both sequences of each, fewer where there is nothing to train, and counts.

    It can be pickled: other processes make the same of the same examples.
    """

    def __init__(self, tokenizer: Any, *, after_stop: bool) -> None:
        self.renderer = Renderer(tokenizer)
        self._trained: Trained = "completion" if after_stop else "turns"

    def __call__(self, chunk: Sequence[Example]) -> tuple[list[tuple[Rendered, ...]], Counter[str]]:
        before = Counter(self.renderer.counted)
        return self._pairs(chunk), self.renderer.counted - before

    def _pairs(self, chunk: Sequence[Example]) -> list[tuple[Rendered, ...]]:
        result: list[list[Rendered]] = [[] for _ in chunk]
        sides = [(i, side) for i, example in enumerate(chunk) for side in range(len(example.completions))]
        chats = [(i, side) for i, side in sides if not isinstance(chunk[i].completions[side], str)]
        conversations = [conversation_of(chunk[i], side) for i, side in chats]
        found = self.renderer.conversations(conversations, self._trained)
        for (i, _), conversation, sequences in zip(chats, conversations, found):
            result[i] += sequences[-1:] if conversation.turns() else []
        texts = [
            (i, text) for i, e in enumerate(chunk) for text in e.completions if isinstance(text, str) and text.strip()
        ]
        pieces = [(str(chunk[i].prompt or ""), text) for i, text in texts]
        for (i, _), ids, start in zip(texts, *text_ids(self.renderer, pieces)):
            result[i].append(Rendered(tokens=ids, trained=[(start, len(ids))]))
        return [tuple(pair) for pair in result]
