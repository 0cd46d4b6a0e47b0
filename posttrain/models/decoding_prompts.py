"""Prompts as a model remembers them; those that several rows continue are kept and read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptMemory:
    """A prompt as a model remembers it: computed once, however many rows continue it."""

    tokens: Sequence[int]
    keys: Sequence[Tensor]  # per layer: [key-value heads, tokens, head size]
    values: Sequence[Tensor]  # like keys
    logits: Tensor  # [V] what comes after the last token

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def bytes_per_token(self) -> int:
        """What one token takes of memory."""
        return sum(t.shape[0] * t.shape[2] * t.element_size() for t in (*self.keys, *self.values))


class SharedPrompts:
    """The prompts of the rows in use, each in a place of its own, and what the rows see in theirs.

    All places are read with one product a layer: the queries of a place's rows stand together, as many for each place
    as the one with the most rows has.
    """

    def __init__(self, *, longest: int, like: PromptMemory) -> None:
        self._device = like.logits.device
        self.room = longest  # tokens that each place has room for
        self._keys, self._values = (
            [t.new_zeros(0, t.shape[0], longest, t.shape[2]) for t in side] for side in (like.keys, like.values)
        )
        self._place: dict[int, int] = {}  # by id of the prompt
        self._held: list[PromptMemory | None] = []  # per place
        self._rows = np.zeros(0, dtype=np.int64)  # per place, how many rows are there

    def hold(self, prompt: PromptMemory) -> int:
        """The prompt's place, which a row is going to use."""
        place = self._place.get(id(prompt))
        if place is None:
            place = self._held.index(None) if None in self._held else self._grow()
            self._place[id(prompt)], self._held[place] = place, prompt
            for kept, given in zip((*self._keys, *self._values), (*prompt.keys, *prompt.values)):
                kept[place, :, : prompt.length] = given
        self._rows[place] += 1
        return place

    def release(self, place: int) -> None:
        """A row does not use the place any more; without rows it is free."""
        self._rows[place] -= 1
        prompt = self._held[place]
        if not self._rows[place] and prompt is not None:
            del self._place[id(prompt)]
            self._held[place] = None

    def _grow(self) -> int:
        """Twice as many places; the first new one."""
        count = len(self._held)
        more = max(count, 8)
        for side in (self._keys, self._values):
            # zeros: what is hidden is multiplied by 0, and memory as it is found may hold no numbers
            side[:] = [torch.cat([t, t.new_zeros(more, *t.shape[1:])]) for t in side]
        self._held += [None] * more
        self._rows = np.concatenate([self._rows, np.zeros(more, dtype=np.int64)])
        return count

    def arrange(self, places: np.ndarray) -> None:
        """Takes note of which row [n] uses which place."""
        self.lengths = np.array([0 if prompt is None else prompt.length for prompt in self._held])[places]
        self.widest = int(self.lengths.max())
        self.even = bool((self.lengths == self.widest).all())
        self._used, self._most = int(places.max()) + 1, int(self._rows.max())
        order = np.argsort(places, kind="stable")
        first = np.searchsorted(places[order], places[order])  # where the row's place begins in the order
        seats = places[order] * self._most + np.arange(len(places)) - first
        taken, back = np.zeros(self._used * self._most, dtype=np.int64), np.empty(len(places), dtype=np.int64)
        taken[seats], back[order] = order, seats
        self._taken, self._back = (torch.from_numpy(index).to(self._device) for index in (taken, back))

    def places(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values of all places. [places, key-value heads, room, head size]"""
        return self._keys[layer], self._values[layer]

    def scores(self, layer: int, query: Tensor) -> Tensor:
        """Scores [n, key-value heads, repeats, widest]; beyond a prompt's end whatever is finite."""
        return self._product(query, self._keys[layer][: self._used, :, : self.widest].transpose(2, 3))

    def output(self, layer: int, weights: Tensor) -> Tensor:
        """The prompts' part of the output [n, key-value heads, repeats, value size]; weights 0 where hidden."""
        return self._product(weights, self._values[layer][: self._used, :, : self.widest])

    def _product(self, states: Tensor, kept: Tensor) -> Tensor:
        """Each row's states [n, key-value heads, repeats, a] times its place's matrix [heads, a, b]."""
        _, kv, repeats, size = states.shape
        seated = states.index_select(0, self._taken).view(self._used, self._most, kv, repeats, size)
        flat = seated.transpose(1, 2).reshape(self._used * kv, self._most * repeats, size)
        found = torch.bmm(flat, kept.flatten(0, 1)).view(self._used, kv, self._most, repeats, -1)
        return found.transpose(1, 2).reshape(self._used * self._most, kv, repeats, -1).index_select(0, self._back)
