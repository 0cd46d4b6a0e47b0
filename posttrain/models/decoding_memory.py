"""Keys and values of rows that continue prompts, and the attention of their next tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posttrain.models.decoding_prompts import PromptMemory, SharedPrompts


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """What a layer asks of its attention beside the states."""

    scaling: float
    window: int | None  # keys that a query sees, its own counted; None: all


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """Which part of a `RowMemory` each row sees, as one reads it who knows where it lies."""

    capacity: int  # places of a row's own memory
    own: np.ndarray  # [count] int64 of them in use, the new token's counted
    widest: int  # places of a shared prompt
    places: np.ndarray  # [count] int64, the row's prompt among the shared ones
    lengths: np.ndarray  # [count] int64, the tokens of that prompt


class RowMemory:
    """Rows that each continue a prompt, a token at a time; those in use are always the first `count`.

    Shared, all rows of a prompt read its keys where they lie. Not shared, a row gets a copy before its own, which is
    quicker where nearly every row has a prompt of its own.
    """

    def __init__(self, *, rows: int, new_tokens: int, longest_prompt: int, shared: bool, like: PromptMemory) -> None:
        """Room for so many rows that write so many tokens each."""
        self.count = 0
        self._capacity = new_tokens + (0 if shared else longest_prompt)
        self._shared = SharedPrompts(longest=longest_prompt, like=like) if shared else None
        self._device = like.logits.device
        # zeros: what is hidden is multiplied by 0, and memory as it is found may hold no numbers
        self._keys, self._values = (
            [t.new_zeros(rows, t.shape[0], self._capacity, t.shape[2]) for t in side]
            for side in (like.keys, like.values)
        )
        self._own = np.zeros(rows, dtype=np.int64)  # tokens in the row's own memory
        self._places = np.zeros(rows, dtype=np.int64)  # of the row's prompt among the shared ones
        self._moved = True  # rows came, went or changed places since the last step

    def put(self, row: int, prompt: PromptMemory) -> None:
        """Starts a row behind the prompt, in a place that is free (`row == count`) or whose row is over."""
        replaced = row < self.count
        self.count += not replaced
        self._moved = True
        if self._shared is not None:
            if replaced:
                self._shared.release(self._places[row])
            self._places[row], self._own[row] = self._shared.hold(prompt), 0
            return
        self._own[row] = prompt.length
        for own, given in zip((*self._keys, *self._values), (*prompt.keys, *prompt.values)):
            own[row, :, : prompt.length] = given

    def drop(self, row: int) -> None:
        """Forgets a row; the last one takes its place."""
        self.count = last = self.count - 1
        self._moved = True
        if self._shared is not None:
            self._shared.release(self._places[row])
        if row != last:
            size = int(self._own[last])
            for own in (*self._keys, *self._values):
                own[row, :, :size] = own[last, :, :size]
            self._own[row], self._places[row] = size, self._places[last]

    def advance(self) -> Tensor:
        """The positions [count] of the tokens that the rows are about to compute; `attend` is then called per layer."""
        if self._moved and self._shared is not None:
            self._shared.arrange(self._places[: self.count])
            self._lengths = torch.from_numpy(self._shared.lengths).to(self._device)
        self._moved = False
        own = self._own[: self.count]
        own += 1
        self._longest, self._shortest = int(own.max()), int(own.min())
        if self._longest > self._capacity:  # what is compiled writes where it is told
            raise IndexError(f"a row of {self._longest} tokens in a memory with room for {self._capacity}")
        self._sizes = torch.from_numpy(own.copy()).to(self._device)
        self._biases: dict[int | None, Tensor | None] = {}
        self._next: dict[int, Tensor] = {}
        return self._sizes - 1 if self._shared is None else self._sizes - 1 + self._lengths

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
        if window is not None and window >= self._longest + (0 if self._shared is None else self._shared.widest):
            window = None
        first = 0 if window is None else max(0, self._shortest - window)
        seen = slice(first, self._longest)
        own_keys, own_values = (t[:n].flatten(0, 1)[:, seen] for t in (keys, values))
        query = (query * how.scaling).to(keys.dtype).view(n, kv, heads // kv, -1)
        scores = torch.bmm(query.flatten(0, 1), own_keys.transpose(1, 2)).view(n, kv, heads // kv, -1)
        prompts = self._shared if window is None or window > self._shortest else None  # the window may have left them
        before = 0
        if prompts is not None:
            before = prompts.widest
            scores = torch.cat([prompts.scores(layer, query), scores], dim=3)
        bias = self._bias(window, before, seen)
        if bias is not None:
            scores += bias
        weights = scores.softmax(dim=3, dtype=torch.float32).to(values.dtype)
        own_weights = weights[..., before:].reshape(n * kv, heads // kv, -1)
        output = torch.bmm(own_weights, own_values).view(n, kv, heads // kv, -1)
        if prompts is not None:
            output = output + prompts.output(layer, weights[..., :before])
        return output.reshape(n, heads, -1)

    def places(self, layer: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Where a layer's keys and values lie: the rows' own [rows, heads, capacity, size], and the shared prompts'."""
        shared = (None, None) if self._shared is None else self._shared.places(layer)
        return self._keys[layer], self._values[layer], *shared

    def extent(self) -> Extent:
        """What of that memory the rows use in the step that `advance` began."""
        none = np.zeros(self.count, dtype=np.int64)
        shared = self._shared
        return Extent(
            capacity=self._capacity,
            own=self._own[: self.count],
            widest=0 if shared is None else shared.room,
            places=none if shared is None else self._places[: self.count],
            lengths=none if shared is None else np.ascontiguousarray(shared.lengths, dtype=np.int64),
        )

    def _at(self, kv: int) -> Tensor:
        """Where the next key of each row and head lies in a layer's memory seen as [rows * heads * capacity, size]."""
        if kv not in self._next:
            heads = np.arange(self.count)[:, None] * kv + np.arange(kv)
            places = heads * self._capacity + self._own[: self.count, None] - 1
            self._next[kv] = torch.from_numpy(places.ravel()).to(self._device)
        return self._next[kv]

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
            even = window is None and self._shortest == self._longest and (self._shared is None or self._shared.even)
            self._biases[window] = None if even else bias.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self._biases[window]
