"""Which modules of a model compute what `elementwise` computes; its functions stand in for their forward for a while.

A module is recognised by what it is made of, never by its class's name alone, and each kind is compared with its own
forward on random input, values and gradients, before anything stands in for it: what differs by more than rounding
keeps its own code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from inspect import signature
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from posttrain.models.elementwise import ACTIVATIONS, FORMULAS, Formula, gated, rms_norm, rotate

Forward = Callable[..., Any]  # what a class's `forward` is: the module comes first

ROTARY = "apply_rotary_pos_emb"  # how transformers' modelling files call it
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}  # of a tensor's largest number
ROWS = 5  # of the random input


class StandIns:
    """The functions that stand in for the forward of some of a model's modules, on from `put_on` to `take_off`."""

    def __init__(self, model: nn.Module) -> None:
        self.on = False
        self.forwards: list[tuple[nn.Module, Forward]] = []
        found: dict[Any, Forward | None] = {}
        for module in model.modules():
            if "forward" in vars(module) or (kind := _kind(module)) is None:  # patched by someone else: left alone
                continue
            key = (kind, *_identity(module))
            if key not in found:
                found[key] = kind(module)
            if (forward := found[key]) is not None:
                self.forwards.append((module, forward))

    def put_on(self) -> None:
        if not self.on:
            for module, forward in self.forwards:
                if "forward" not in vars(module):
                    module.forward = MethodType(forward, module)  # a method, so that a copied module gets its own
            self.on = True

    def take_off(self) -> None:
        """The modules as they came."""
        if self.on:
            for module, forward in self.forwards:
                if getattr(vars(module).get("forward"), "__func__", None) is forward:
                    del module.forward
            self.on = False


def _identity(module: nn.Module) -> tuple[Any, ...]:
    """What two modules must share to be the same kind: class, plain settings, what they are made of."""
    settings = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None) and k != "training"}
    return (
        type(module),
        tuple(settings.items()),
        tuple((name, type(part)) for name, part in module.named_modules()),
        tuple((name, p.shape, p.dtype, p.device) for name, p in module.named_parameters()),
    )


def _kind(module: nn.Module) -> Callable[[Any], Forward | None] | None:
    """How to find a stand-in for such a module, if there may be one."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or next(module.buffers(recurse=False), None) is not None:
        return None
    takes = signature(forward).parameters
    made_of = {name for name, _ in module.named_children()}
    own = {name for name, _ in module.named_parameters(recurse=False)}
    if own == {"weight"} and not made_of and len(takes) == 2 and _eps(module) is not None:
        return _norm
    if not own and len(takes) == 2 and _activation(module) is not None:
        return _gated_mlp
    if not own and ROTARY in forward.__code__.co_names and not forward.__closure__:
        return _attention
    return None


def _eps(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps"):
        if isinstance(value := getattr(module, name, None), float):
            return value
    return None


def _norm(module: Any) -> Forward | None:
    """The stand-in for an RMSNorm, of the formula that comes closest to the module's own."""
    weight, eps = module.weight, _eps(module)
    if eps is None or weight.ndim != 1 or weight.dtype not in TOLERANCES:
        return None
    candidates = [partial(_norm_forward, eps=eps, formula=formula) for formula in FORMULAS]
    draw = _Draw(weight.device)
    drawn = draw(*weight.shape).to(weight.dtype)
    inputs = [draw(ROWS, *weight.shape) * scale for scale in (1.0, 1e-3)]  # eps counts in small numbers
    # of the weight's type, and of what autocast hands over
    inputs = [x.to(dtype) for x in inputs for dtype in {weight.dtype, torch.bfloat16}]
    return _closest(module, candidates, inputs, {"weight": drawn})


def _norm_forward(self: Any, hidden_states: Tensor, *, eps: float, formula: Formula) -> Tensor:
    return rms_norm(hidden_states, self.weight, eps, formula)


def _activation(module: nn.Module) -> str | None:
    """The name under which a gated MLP holds its activation function; None if it is not one."""
    parts = dict(module.named_children())
    for projections in ({"gate_proj", "up_proj", "down_proj"}, {"gate_up_proj", "down_proj"}):
        rest = parts.keys() - projections
        if projections <= parts.keys() and len(rest) == 1:
            (name,) = rest
            return None if next(parts[name].parameters(), None) is not None else name
    return None


def _gated_mlp(module: Any) -> Forward | None:
    """The stand-in for a gated MLP, with the activation that agrees."""
    first = module.gate_proj if hasattr(module, "gate_proj") else module.gate_up_proj
    parameter = next(first.parameters())
    if not isinstance(width := getattr(first, "in_features", None), int) or parameter.dtype not in TOLERANCES:
        return None
    forward = _separate_forward if hasattr(module, "gate_proj") else _joint_forward
    candidates = [partial(forward, activation=name) for name in ACTIVATIONS]
    draw = _Draw(parameter.device)
    inputs = [(draw(ROWS, width) * scale).to(parameter.dtype) for scale in (1.0, 10.0)]  # where it bends, and far out
    return _closest(module, candidates, inputs, {})


def _separate_forward(self: Any, x: Tensor, *, activation: str) -> Tensor:
    return self.down_proj(gated(self.gate_proj(x), self.up_proj(x), activation))


def _joint_forward(self: Any, hidden_states: Tensor, *, activation: str) -> Tensor:
    gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
    return self.down_proj(gated(gate, up, activation))


def _attention(module: Any) -> Forward | None:
    """The module's own forward with another function under the name by which it turns queries and keys."""
    own = type(module).forward
    parameter = next(module.parameters(), None)
    if parameter is None or not _turns_alike(own.__globals__.get(ROTARY), parameter.device):
        return None
    forward = FunctionType(own.__code__, {**own.__globals__, ROTARY: rotate}, own.__name__, own.__defaults__)
    forward.__kwdefaults__ = own.__kwdefaults__
    return forward


@cache
def _turns_alike(own: Any, device: torch.device) -> bool:
    """Whether the function is `rotate`, on tables as wide as a head and half as wide, where it takes those."""
    if not isinstance(own, FunctionType) or signature(own).parameters.keys() != signature(rotate).parameters.keys():
        return False
    draw = _Draw(device)
    for width in (8, 4):
        for dtype in (torch.float32, torch.bfloat16):
            q, k = (draw(1, heads, ROWS, 8).to(dtype) for heads in (4, 2))
            cos, sin = (draw(1, ROWS, width).to(dtype) for _ in range(2))
            try:
                expected = _with_gradients(partial(own, cos=cos, sin=sin), q, k)
            except RuntimeError:
                if width == 8:
                    return False
                continue  # it is never called so
            if not _difference(expected, _with_gradients(partial(rotate, cos=cos, sin=sin), q, k)) <= 1:
                return False
    return True


class _Draw:
    """Random numbers of its own, so that the run's are not touched."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._generator = device, torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self._device)


def _closest(
    module: nn.Module, candidates: Sequence[Forward], inputs: Sequence[Tensor], weights: dict[str, Tensor]
) -> Forward | None:
    """The candidate that agrees best with the module's own forward, training and not; None if none agrees."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        own = _results(module, inputs, weights)
        differences = []
        for candidate in candidates:
            module.forward = MethodType(candidate, module)
            try:
                pairs = zip(own, _results(module, inputs, weights))
                differences.append(max(_difference(*pair) for pair in pairs))
            finally:
                del module.forward
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):  # it wants to be called otherwise
        return None
    finally:
        for part, mode in modes:
            part.training = mode
    best = min(range(len(candidates)), key=differences.__getitem__)
    return candidates[best] if differences[best] <= 1 else None


def _results(module: nn.Module, inputs: Sequence[Tensor], weights: dict[str, Tensor]) -> list[list[Tensor]]:
    """For each input and mode, the module's output and gradients, random choices (an adapter's dropout) repeated."""

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(module, dict(zip(weights, values)), (x,))

    found = []
    for training in (False, True):
        module.train(training)
        for x in inputs:
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                torch.manual_seed(0)
                found.append(_with_gradients(call, x, *weights.values()))
    return found


def _with_gradients(function: Callable[..., Any], *inputs: Tensor) -> list[Tensor]:
    """What the function gives for the inputs, and a random combination's gradient with respect to each."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with torch.enable_grad():
        made = function(*leaves)
        outputs = [made] if isinstance(made, Tensor) else list(made)
        draw = _Draw(inputs[0].device)
        gradients = torch.autograd.grad(outputs, leaves, [draw(*y.shape).to(y.dtype) for y in outputs])
    return [y.detach() for y in outputs] + list(gradients)


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference as a share of what rounding allows; infinite where types, shapes or numbers are wrong."""
    worst, tolerance = 0.0, max(TOLERANCES[own.dtype] for own in expected)
    for own, new in zip(expected, found, strict=True):
        if own.dtype != new.dtype or own.shape != new.shape or not bool(new.isfinite().all()):
            return float("inf")
        allowed = tolerance * float(own.abs().max())
        worst = max(worst, float((own.float() - new.float()).abs().max()) / (allowed or 1e-30))
    return worst
