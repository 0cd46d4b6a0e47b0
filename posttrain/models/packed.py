"""Products of a few rows with the same matrix again and again, on a CPU in float32.

A matrix laid out as oneDNN wants it is a tenth to a third quicker than torch.mm. One too large to be copied, such as a
head with the vocabulary of a real model, is taken in tiles that stay in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packable(weight: Tensor) -> bool:
    """Whether torch was built with oneDNN, and its product is one of float32 numbers on a CPU."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


TILE_BYTES = 2**20  # of a weight that a product takes at a time


class PackedMatrix:
    """states -> states W^T + b, for a copy of W [out, in] that is made for `rows` of states at a time."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, rows: int) -> None:
        self._bias = bias
        # The operators behind torch.compile's frozen linear layers; whoever uses this checks the result.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)

    def __call__(self, states: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(states, self._packed, self._bias, "none", [], "")


class TiledMatrix:
    """states -> states W^T, where W [out, in] lies; the next call writes over what the last one gave."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()
        self._kept = torch.empty(0, 0)

    def __call__(self, states: Tensor) -> Tensor:
        size, width = self._weight.shape
        if self._kept.shape[0] < len(states):
            self._kept = states.new_empty(len(states), size)
        products = self._kept[: len(states)]
        step = max(64, TILE_BYTES // (4 * width))
        for first in range(0, size, step):
            torch.mm(states, self._weight[first : first + step].t(), out=products[:, first : first + step])
        return products
