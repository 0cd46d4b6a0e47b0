"""Keys and values of prompts and of the rows that continue them, and the attention of the rows' next tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

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
        """What one token takes in a row's memory."""
        return sum(t.shape[0] * t.shape[2] * t.element_size() for t in (*self.keys, *self.values))


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """What a layer asks of its attention beside the states."""

    scaling: float
    window: int | None  # keys that a query sees, its own counted; None: all


class RowMemory:
    """Rows that each continue a prompt, a token at a time; those in use are always the first `count`.

    Shared, all rows of a prompt read its keys where they lie. Not shared, a row gets a copy before its own, which is
    quicker where nearly every row has a prompt of its own.
    """

    def __init__(self, *, rows: int, capacity: int, shared: bool, like: PromptMemory) -> None:
        """Room for `rows` rows of `capacity` tokens each: what a row writes and, where not shared, its prompt."""
        self.count = 0
        self._capacity = capacity
        self._shared = shared
        self._device = like.logits.device
        # zeros: what is hidden is multiplied by 0, and memory as it is found may hold no numbers
        self._keys, self._values = (
            [t.new_zeros(rows, t.shape[0], capacity, t.shape[2]) for t in side] for side in (like.keys, like.values)
        )
        self._prompts: list[PromptMemory] = []  # per row in use
        self._prompt_lengths = np.zeros(rows, dtype=np.int64)
        self._own = np.zeros(rows, dtype=np.int64)  # tokens in the row's own memory
        self._moved = True  # rows came, went or changed places since the groups were last formed

    def put(self, row: int, prompt: PromptMemory) -> None:
        """Starts a row behind the prompt, in a place that is free (`row == count`) or whose row is over."""
        if row == self.count:
            self._prompts.append(prompt)
            self.count += 1
        else:
            self._prompts[row] = prompt
        self._prompt_lengths[row] = prompt.length
        self._own[row] = 0
        if not self._shared:
            self._own[row] = prompt.length
            for own, given in zip((*self._keys, *self._values), (*prompt.keys, *prompt.values)):
                own[row, :, : prompt.length] = given
        self._moved = True

    def drop(self, row: int) -> None:
        """Forgets a row; the last one takes its place."""
        last = self.count - 1
        if row != last:
            size = int(self._own[last])
            for own in (*self._keys, *self._values):
                own[row, :, :size] = own[last, :, :size]
            self._prompts[row] = self._prompts[last]
            self._prompt_lengths[row] = self._prompt_lengths[last]
            self._own[row] = size
        self._prompts.pop()
        self.count = last
        self._moved = True

    def advance(self) -> Tensor:
        """The positions [count] of the tokens that the rows are about to compute; `attend` is then called per layer."""
        n = self.count
        if self._moved:
            self._form_groups()
        self._own[:n] += 1
        own = self._own[:n]
        self._longest, self._shortest = int(own.max()), int(own.min())
        self._sizes = self._tensor(own)
        self._biases: dict[int | None, Tensor | None] = {}
        self._places: dict[int, Tensor] = {}
        return self._tensor(own - 1 + self._prompt_lengths[:n]) if self._shared else self._sizes - 1

    def _form_groups(self) -> None:
        """The runs of rows that share a prompt, in an order in which they stand together."""
        self._moved = False
        if not self._shared:
            return
        first: dict[int, int] = {}
        for prompt in self._prompts:
            first.setdefault(id(prompt), len(first))
        order = sorted(range(self.count), key=lambda row: first[id(self._prompts[row])])
        self._order: Tensor | None = None
        self._order_back: Tensor | None = None
        if order != list(range(self.count)):
            places = np.array(order)
            self._order, self._order_back = self._tensor(places), self._tensor(np.argsort(places))
        self._groups: list[tuple[int, int, PromptMemory]] = []
        for _, rows in groupby(range(self.count), key=lambda place: id(self._prompts[order[place]])):
            run = list(rows)
            self._groups.append((run[0], run[-1] + 1, self._prompts[order[run[0]]]))
        lengths = self._prompt_lengths[: self.count]
        self._widest = int(lengths.max())
        self._ragged = bool((lengths != self._widest).any())
        self._lengths = self._tensor(lengths)

    def attend(
        self,
        layer: int,
        query: Tensor,  # [count, heads, head size]
        key: Tensor,  # [count, key-value heads, head size]
        value: Tensor,  # like key
        how: How,
    ) -> Tensor:
        """Attention output [count, heads, value size] of the rows' next tokens, whose keys and values are kept."""
        n, heads, _ = query.shape
        kv = key.shape[1]
        keys, values = self._keys[layer], self._values[layer]
        at = self._at(kv)
        keys.view(-1, keys.shape[3]).index_copy_(0, at, key.reshape(n * kv, -1).to(keys.dtype))
        values.view(-1, values.shape[3]).index_copy_(0, at, value.reshape(n * kv, -1).to(values.dtype))
        window = how.window
        if window is not None and window >= self._longest + (self._widest if self._shared else 0):
            window = None
        first = 0 if window is None else max(0, self._shortest - window)
        seen = slice(first, self._longest)
        own_keys, own_values = (t[:n].flatten(0, 1)[:, seen] for t in (keys, values))
        query = (query * how.scaling).to(keys.dtype).view(n, kv, heads // kv, -1)
        scores = torch.bmm(query.flatten(0, 1), own_keys.transpose(1, 2)).view(n, kv, heads // kv, -1)
        before = 0  # keys of prompts that stand before the rows' own
        if self._shared and (window is None or window > self._shortest):
            before = self._widest
            scores = torch.cat([self._prompt_scores(layer, query), scores], dim=3)
        bias = self._bias(window, before, seen)
        if bias is not None:
            scores += bias
        weights = scores.softmax(dim=3, dtype=torch.float32).to(values.dtype)
        own_weights = weights[..., before:].reshape(n * kv, heads // kv, -1)
        output = torch.bmm(own_weights, own_values).view(n, kv, heads // kv, -1)
        if before:
            output = output + self._prompt_output(layer, weights[..., :before])
        return output.reshape(n, heads, -1)

    def _prompt_scores(self, layer: int, query: Tensor) -> Tensor:
        """Scores [count, key-value heads, repeats, widest prompt]; beyond a prompt's end whatever is finite."""
        n, kv, repeats, _ = query.shape
        if self._order is not None:
            query = query.index_select(0, self._order)
        flat = query.transpose(0, 1).reshape(kv, n * repeats, -1)
        scores = (flat.new_zeros if self._ragged else flat.new_empty)(kv, n * repeats, self._widest)
        for start, stop, prompt in self._groups:
            rows = slice(start * repeats, stop * repeats)
            scores[:, rows, : prompt.length] = torch.bmm(flat[:, rows], prompt.keys[layer].transpose(1, 2))
        found = scores.view(kv, n, repeats, -1).transpose(0, 1)
        return found if self._order_back is None else found.index_select(0, self._order_back)

    def _prompt_output(self, layer: int, weights: Tensor) -> Tensor:
        """The prompts' part of the output [count, key-value heads, repeats, value size]."""
        n, kv, repeats, _ = weights.shape
        if self._order is not None:
            weights = weights.index_select(0, self._order)
        flat = weights.transpose(0, 1).reshape(kv, n * repeats, -1)
        parts = []
        for start, stop, prompt in self._groups:
            rows = slice(start * repeats, stop * repeats)
            parts.append(torch.bmm(flat[:, rows, : prompt.length], prompt.values[layer]))
        found = torch.cat(parts, dim=1).view(kv, n, repeats, -1).transpose(0, 1)
        return found if self._order_back is None else found.index_select(0, self._order_back)

    def _at(self, kv: int) -> Tensor:
        """Where the next key of each row and head lies in a layer's memory seen as [rows * heads * capacity, size]."""
        if kv not in self._places:
            rows = np.arange(self.count)[:, None] * kv + np.arange(kv)
            self._places[kv] = self._tensor((rows * self._capacity + self._own[: self.count, None] - 1).ravel())
        return self._places[kv]

    def _bias(self, window: int | None, before: int, seen: slice) -> Tensor | None:
        """0 where a row's query sees the key, -inf where not; None where all rows see all. [count, 1, 1, keys]

        The same for every layer with this window, so it is made once a step.
        """
        if window not in self._biases:
            own = torch.arange(seen.start, seen.stop, device=self._device)
            parts = []
            if before:
                prompt = torch.arange(before, device=self._device)
                visible = prompt < self._lengths[:, None]
                if window is not None:
                    visible &= prompt >= (self._lengths + self._sizes - window)[:, None]
                parts.append(visible)
            visible = own < self._sizes[:, None]
            if window is not None:
                visible &= own >= (self._sizes - window)[:, None]
            hidden = ~torch.cat([*parts, visible], dim=1)
            bias = torch.zeros(hidden.shape, dtype=self._keys[0].dtype, device=self._device)
            even = window is None and self._shortest == self._longest and not (before and self._ragged)
            self._biases[window] = None if even else bias.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self._biases[window]

    def _tensor(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(numbers)).to(self._device)
