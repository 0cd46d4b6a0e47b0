"""The completions that wait for a free row, and the prompts they continue."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.models.decoding_prompts import PromptMemory

PREFILL_TOKENS = 2048  # of prompts that one pass computes; a longer prompt has a pass of its own

Prefill = Callable[[Sequence[Sequence[int]]], list[PromptMemory]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A completion to be written."""

    place: int  # in the results
    prompt: tuple[int, ...]
    key: int  # of the prompt
    number: int  # in the group


class Queue:
    """Gives the completions of one prompt after the other's, each prompt computed once and together with the next."""

    def __init__(self, wanted: Sequence[Wanted], prefill: Prefill) -> None:
        # Longest prompts first: rows at the same time then see about as much, and a lack of memory shows at once.
        self._waiting = deque(sorted(wanted, key=lambda w: (-len(w.prompt), w.prompt)))
        self._prefill = prefill
        self._left = Counter(w.prompt for w in wanted)
        self._coming = deque(dict.fromkeys(w.prompt for w in self._waiting))  # prompts not computed yet
        self._ready: dict[tuple[int, ...], PromptMemory] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def first(self) -> PromptMemory:
        """The prompt of the completion that comes next."""
        prompt = self._waiting[0].prompt
        if prompt not in self._ready:
            batch = [self._coming.popleft()]
            while self._coming and sum(map(len, batch)) + len(self._coming[0]) <= PREFILL_TOKENS:
                batch.append(self._coming.popleft())
            self._ready.update(zip(batch, self._prefill(batch)))
        return self._ready[prompt]

    def take(self) -> tuple[Wanted, PromptMemory]:
        """The next completion and its prompt, which is forgotten here with the last one that continues it."""
        memory = self.first()
        wanted = self._waiting.popleft()
        self._left[wanted.prompt] -= 1
        if not self._left[wanted.prompt]:
            del self._ready[wanted.prompt]
        return wanted, memory
