"""Muon, the optimiser of the pretraining run, for the weight matrices of the model."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

# The quintic of Jordan's Muon (https://kellerjordan.github.io/posts/muon/) and its five steps.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """The stack of matrices [n, r, c] with all singular values pushed close to 1, by Newton-Schulz steps."""
    first, second, third = _QUINTIC
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        wide = torch.baddbmm(wide, polynomial, wide, beta=first)
    return wide if matrices.shape[-2] <= matrices.shape[-1] else wide.mT


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, updates scaled to AdamW's size (as torch.optim.Muon's match_rms_adamw).

    It differs from torch.optim.Muon in two things that make it three times as fast on a CPU: matrices of
    one shape are orthogonalised together, and in fp32, which is faster than bf16 there.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append((parameter, parameter.grad))
            for shape, members in shapes.items():
                updates = []
                for parameter, gradient in members:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(state["momentum"], group["momentum"]))
                scale = 0.2 * math.sqrt(max(shape))
                for (parameter, _), update in zip(members, orthogonalise(torch.stack(updates))):
                    parameter.add_(update, alpha=-group["lr"] * scale)
