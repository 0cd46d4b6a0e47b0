"""Noise on the token embeddings of a model in training (NEFTune, arXiv:2310.05914).

    e + u alpha / sqrt(L d),    u uniform in [-1, 1] for each number,

with d the width of an embedding and L the length of the row; of rows that share a prompt the longest's. As often as
the model is asked in training; never in evaluation, in a reference model or when text is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class EmbeddingNoise:
    """A hook on a model's embedding that disturbs the forward pass announced by `expect`, and no other.

    The numbers come from torch's own generator, token by token in the order of the pass: a run resumed goes on with
    them. On a CPU a step's noise is therefore the same however its rows are cut, unless they share prompts or
    something else (dropout) draws between them; on a GPU each pass draws its own.
    """

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        self._embedding, self._alpha = embedding, alpha
        self._lengths: Tensor | None = None
        self._handle: Any = None

    def expect(self, inputs: dict[str, Any]) -> None:
        """Announces a forward pass with these arguments, rows of a forest laid out."""
        if self._handle is None:
            self._handle = self._embedding.register_forward_hook(self._disturb)
        self._lengths = _row_lengths(inputs) if self._embedding.training else None

    def take_off(self) -> None:
        """The embedding as it came."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = self._lengths = None

    def _disturb(self, module: nn.Module, args: Any, embedded: Tensor) -> Tensor | None:
        lengths, self._lengths = self._lengths, None
        if lengths is None:
            return None
        scale = self._alpha / (lengths * embedded.shape[-1]).sqrt()
        drawn = torch.rand(embedded.shape, dtype=torch.float32, device=embedded.device)
        return embedded + drawn.mul_(2).sub_(1).mul_(scale[..., None]).to(embedded.dtype)


def _row_lengths(inputs: dict[str, Any]) -> Tensor:
    """[rows, columns] float32: how long the row is that each token belongs to."""
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    if mask.shape == ids.shape:
        return mask.sum(dim=1, keepdim=True).expand_as(ids).float()
    positions = inputs["position_ids"][0]
    tree = (positions == 0).cumsum(dim=0) - 1
    longest = torch.zeros_like(positions).scatter_reduce_(0, tree, positions + 1, "amax")
    return longest[tree][None].float()
