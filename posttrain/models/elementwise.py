"""Normalisation, gated activation and rotary positions, keeping for the backward only what cannot be computed again.

The mathematics is that of the modelling files of transformers, which write it as a chain of small operations: each
keeps its inputs, and its backward passes over all the numbers several times. What is written here keeps

- of `rms_norm` its input and a number per row, instead of three tensors of its size;
- of `gated` the two halves, instead of these, the activation and the product;
- of `rotate` nothing but the table of angles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from posttrain.models.recomputed import is_recomputable, recomputable

aten = torch.ops.aten

# Where the weight w of an RMSNorm comes in, n = x / rms(x) in float32, d the type of x:
# "after": w * d(n), as Llama; "before": d(w * n), as OLMo 2; "shifted": d((1 + w) * n), as Gemma.
Formula = Literal["after", "before", "shifted"]
FORMULAS: tuple[Formula, ...] = ("after", "before", "shifted")


def rms_norm(x: Tensor, weight: Tensor, eps: float, formula: Formula) -> Tensor:
    """`x / sqrt(mean(x^2) + eps)` along the last dimension, times the weight as the formula says."""
    y, scale = _RMSNorm.apply(x, weight, eps, formula)
    return recomputable(y, partial(_scaled, formula=formula), x, scale, weight)


def _scaled(x: Tensor, scale: Tensor, weight: Tensor, *, formula: Formula) -> Tensor:
    """The norm's output where 1 / rms is known."""
    y = torch.mul(x, scale)  # float32, as scale is
    if formula == "after":
        return y.mul_(weight) if y.dtype == x.dtype == weight.dtype else weight * y.to(x.dtype)
    return y.mul_(weight if formula == "before" else 1.0 + weight.float()).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, formula: Formula) -> tuple[Tensor, Tensor]:
        size = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale.square_().mul_(1.0 / size).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.formula = formula
        ctx.mark_non_differentiable(scale)
        return _scaled(x, scale, weight, formula=formula), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        # with s = 1 / rms and g = grad * w:  dw = sum_rows grad * x * s,  dx = s * (g - x * s^2 * mean(g * x))
        x, weight, scale = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        order = _memory_order(x)
        rows, grads, scales = _rows(x.float(), order), _rows(grad.float(), order), _rows(scale, order)
        factor = 1.0 + weight.float() if ctx.formula == "shifted" else weight.float()
        with torch.autocast(x.device.type, enabled=False):
            work = grads * rows
            grad_weight = torch.mv(work.t(), scales[:, 0]).to(weight.dtype) if needs_weight else None
            if not needs_x:
                return None, grad_weight, None, None
            shares = torch.mv(work, factor).unsqueeze(1)
        shares.mul_(scales).mul_(scales)
        torch.mul(grads, factor, out=work)
        work.addcmul_(rows, shares, value=-1.0 / x.shape[-1]).mul_(scales)
        return _unrows(work, x.shape, order).to(x.dtype), grad_weight, None, None


def _memory_order(x: Tensor) -> list[int] | None:
    """The dimensions but the last, from far to near in memory: rows taken so need no copy if x is dense."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    return sorted(range(x.ndim - 1), key=lambda dim: -strides[dim])


def _rows(x: Tensor, order: Sequence[int] | None) -> Tensor:
    turned = x if order is None else x.permute(*order, -1)
    return turned.reshape(-1, x.shape[-1])


def _unrows(rows: Tensor, shape: Sequence[int], order: Sequence[int] | None) -> Tensor:
    """The rows in the places that `_rows` took them from."""
    if order is None:
        return rows.view(shape)
    back = sorted(range(len(order)), key=order.__getitem__)
    return rows.view(*(shape[dim] for dim in order), shape[-1]).permute(*back, -1)


@dataclass(frozen=True)
class Activation:
    """An activation function and its derivative times what comes from above."""

    value: Callable[[Tensor], Tensor]
    grad: Callable[..., Tensor]  # (grad, x, grad_input=where to)


ACTIVATIONS = {
    "silu": Activation(functional.silu, aten.silu_backward.grad_input),
    "gelu_tanh": Activation(
        partial(functional.gelu, approximate="tanh"), partial(aten.gelu_backward.grad_input, approximate="tanh")
    ),
    "gelu": Activation(functional.gelu, aten.gelu_backward.grad_input),
}


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """`activation(gate) * up`."""
    product = _Product(ACTIVATIONS[activation])
    return recomputable(_Gated.apply(gate, up, product), product.again, gate, up)


class _Product:
    """The product, and the activated gate between the two functions of a backward pass that need it."""

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self._activated: Tensor | None = None

    def again(self, gate: Tensor, up: Tensor) -> Tensor:
        """The product once more, for the layer that took it; its backward comes first."""
        self._activated = self.activation.value(gate)
        return self._activated * up

    def activated(self, gate: Tensor) -> Tensor:
        found, self._activated = self._activated, None
        return self.activation.value(gate) if found is None else found


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, product: _Product) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.product = product
        return product.activation.value(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        grad_up = ctx.product.activated(gate).mul_(grad)
        grad_gate = grad * up
        ctx.product.activation.grad(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, grad_up, None


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions' angles: `x * cos + (-x2, x1) * sin` for the halves x1, x2 of x.

    Where the table is narrower than a head, only that many of its first numbers are turned.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _rotate(q, cos, sin), _rotate(k, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = _Rotary.apply(x, cos, sin)
    # what is turned is kept anyway if it can be made again itself, or lies beside the values in a joint projection
    joint = x.untyped_storage().nbytes() > x.numel() * x.element_size()
    return recomputable(turned, _turned, x, cos, sin) if joint or is_recomputable(x) else turned


def _turned(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> Tensor:
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat([_turned(x[..., :width], cos, sin, back), x[..., width:]], dim=-1)
    half = width // 2
    out = x * cos
    first, second = (sin[..., half:], sin[..., :half]) if back else (sin[..., :half], sin[..., half:])
    sign = -1.0 if back else 1.0
    out[..., :half].addcmul_(x[..., half:], first, value=-sign)
    out[..., half:].addcmul_(x[..., :half], second, value=sign)
    return out


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, back=True).to(ctx.dtype), None, None
