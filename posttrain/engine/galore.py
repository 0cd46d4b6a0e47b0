"""AdamW in a subspace that a matrix's gradients lie in most: GaLore, arXiv:2403.03507.

    G = U S Vᵀ,  P = U[:, :r] (or V[:, :r]ᵀ, whichever side is shorter), renewed every `update_proj_gap` steps
    R = Pᵀ G,  W ← W - lr · scale · P · Adam(R)

The moments have r rows instead of all, which is the memory that it saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.trainer_utils import check_target_module_exists

from posttrain.errors import ConfigError

PROJECTION = {"rank": 128, "update_proj_gap": 200, "scale": 0.25}  # what optim_args may hold, with the paper's values


class GaLoreAdamW(Optimizer):
    """AdamW; groups with a `rank` are projected, the others are not."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("GaLoreAdamW evaluates no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        count = state["step"] = state.get("step", 0) + 1
        rank = group.get("rank")
        if rank is not None:
            if (count - 1) % group["update_proj_gap"] == 0:
                state["projector"] = projector(gradient, rank)
            vectors = state["projector"]
            gradient = vectors.T @ gradient if _is_wide(parameter) else gradient @ vectors
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = mean / (1 - beta1**count)
        update /= (square.sqrt() / math.sqrt(1 - beta2**count)).add_(group["eps"])
        if rank is not None:
            vectors = state["projector"]
            update = group["scale"] * (vectors @ update if _is_wide(parameter) else update @ vectors.T)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"])


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def projector(gradient: Tensor, rank: int) -> Tensor:
    """[shorter side, r]: the first singular vectors of the shorter side."""
    sides = gradient if _is_wide(gradient) else gradient.T
    vectors = torch.linalg.svd(sides.float(), full_matrices=False)[0]
    return vectors[:, :rank].to(gradient.dtype)


def projection_of(given: dict[str, Any]) -> dict[str, Any]:
    """What a projected group holds, taken out of the optimiser's arguments."""
    return {name: given.pop(name, default) for name, default in PROJECTION.items()}


def target_weights(
    model: nn.Module | None, asked: str | Sequence[str], trained: Sequence[nn.Parameter]
) -> list[nn.Parameter]:
    """The trained matrices of the linear layers that `asked` names: parts of names, an expression, `all-linear`.

    Raises ConfigError where it names none.
    """
    everything = isinstance(asked, str) and asked.replace("_", "-") == "all-linear"
    learned = {id(parameter) for parameter in trained}
    found: list[nn.Parameter] = [
        cast(nn.Parameter, module.weight)
        for name, module in ([] if model is None else model.named_modules())
        if isinstance(module, nn.Linear)
        and id(module.weight) in learned
        and (everything or check_target_module_exists(asked, name))
    ]
    if not found:
        raise ConfigError(f"optim_target_modules={asked!r} names no trained linear layer of the model")
    return list({id(weight): weight for weight in found}.values())
