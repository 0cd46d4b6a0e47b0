"""Attention over a forest of segments, registered with transformers under the name in `NAME`.

The segment table travels as the keyword `forest` of the model's forward. A call without it, as from `generate`, is
ordinary scaled dot-product attention, so a model keeps working for everything else while it is being trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from posttrain.models.recomputed import recomputable
from posttrain.types import TokenForest

NAME = "posttrain_forest"


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Queries that are one run in the flat row, and where their keys lie."""

    size: int  # queries, and keys of their own
    context: tuple[tuple[int, int, int], ...]  # (block, first, last): keys of ancestors, in path order
    mask: Tensor | None  # [size, keys] bool, True where attended; None is plain causal


class ForestPlan:
    """Which queries see which keys; built once for a forest and used by every layer."""

    def __init__(self, forest: TokenForest) -> None:
        self._device = forest.tokens.device
        self._chains: list[int] = []  # tokens of each chain: a segment, its first child, that child's first child ...
        self._contexts: list[tuple[tuple[int, int, int], ...]] = []
        self._blocks: dict[int | None, list[Block]] = {}
        self._added: dict[tuple[int, torch.dtype], Tensor] = {}
        place: list[tuple[int, int]] = []  # per segment: its chain, and where in the chain it ends
        for index, (length, parent) in enumerate(zip(forest.lengths, forest.parents)):
            if parent >= 0 and parent == index - 1:  # preorder: the first child follows its parent
                chain = place[parent][0]
                self._chains[chain] += length
            else:
                chain = len(self._chains)
                self._chains.append(length)
                self._contexts.append(self._context_after(place[parent]) if parent >= 0 else ())
            place.append((chain, self._chains[chain]))

    def added(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """A block's mask as numbers to add, 0 or -inf: what attention would make anew, and keep, in each layer."""
        key = (id(mask), dtype)
        if key not in self._added:
            self._added[key] = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
        return self._added[key]

    def _context_after(self, place: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
        chain, end = place
        return (*self._contexts[chain], (chain, 0, end))

    def blocks(self, window: int | None) -> list[Block]:
        """The blocks under a sliding window of so many tokens (the token itself counted), or without one."""
        if window not in self._blocks:
            self._blocks[window] = [self._block(*chain, window) for chain in zip(self._chains, self._contexts)]
        return self._blocks[window]

    def _block(self, size: int, context: tuple[tuple[int, int, int], ...], window: int | None) -> Block:
        before = sum(last - first for _, first, last in context)
        if window is None or window >= before + size:
            if not before:
                return Block(size=size, context=(), mask=None)
            return Block(size=size, context=context, mask=self._mask(size, before, None))
        unseen = max(0, before - window + 1)  # keys that even the first query's window has left behind
        seen, rest = [], unseen
        for block, first, last in context:
            skipped = min(rest, last - first)
            rest -= skipped
            if first + skipped < last:
                seen.append((block, first + skipped, last))
        return Block(size=size, context=tuple(seen), mask=self._mask(size, before - unseen, window))

    def _mask(self, size: int, before: int, window: int | None) -> Tensor:
        queries = torch.arange(before, before + size, device=self._device)[:, None]
        keys = torch.arange(before + size, device=self._device)[None, :]
        mask = keys <= queries
        return mask if window is None else mask & (keys > queries - window)


def forest_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, N, head size]
    key: Tensor,  # [1, key-value heads, N, head size]
    value: Tensor,  # like key
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    forest: ForestPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output [1, N, heads, head size]; every token sees its own segment so far and all ancestors."""
    if forest is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, **kwargs,
        )  # fmt: skip
    blocks = forest.blocks(sliding_window)
    sizes = [block.size for block in blocks]
    # split, not slices: the backward of a slice fills a whole zero tensor each time. And tokens before heads, as they
    # come to lie in memory anyway, so that the pieces are put together again without a turn
    pieces = (states.transpose(1, 2).split(sizes, dim=1) for states in (query, key, value))
    queries, keys, values = ([piece.transpose(1, 2) for piece in split] for split in pieces)
    grouped = query.shape[1] != key.shape[1]
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    outputs = []
    for index, block in enumerate(blocks):
        k, v = keys[index], values[index]
        if block.context:
            k, v = (
                _joined([*(of[b].narrow(2, first, last - first) for b, first, last in block.context), of[index]], 2)
                for of in (keys, values)
            )
        if repeated := grouped and block.mask is not None and k.is_cuda:
            # CUDA's fast kernels take a mask or grouped heads, not both
            groups = query.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        outputs.append(
            scaled_dot_product_attention(
                queries[index],
                k,
                v,
                attn_mask=None if block.mask is None else forest.added(block.mask, dtype),
                dropout_p=dropout,
                is_causal=block.mask is None,
                scale=scaling,
                enable_gqa=grouped and not repeated,
            ).transpose(1, 2)
        )
    return (_joined(outputs, 1) if len(outputs) > 1 else outputs[0].contiguous()), None


def _joined(pieces: list[Tensor], dim: int) -> Tensor:
    """The pieces as one; kept for the backward they are anyway, so the whole is not."""
    return recomputable(torch.cat(pieces, dim), lambda *again: torch.cat(again, dim), *pieces)


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def forest_inputs(forest: TokenForest) -> dict[str, Any]:
    """Keyword arguments with which a model computes this forest as one row."""
    return {
        "input_ids": forest.tokens[None],
        "position_ids": forest.positions[None],
        # a mask of four dimensions is taken as it is, so that transformers builds none; the plan stands in for it
        "attention_mask": torch.zeros(1, 1, 1, 1, device=forest.tokens.device),
        "use_cache": False,
        "forest": ForestPlan(forest),
    }


@contextmanager
def attention_of(model: Any, name: str) -> Iterator[None]:
    """The model with another attention implementation for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
