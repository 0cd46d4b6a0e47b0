"""One optimiser step: cut the batch, run the learner on each part, apply the loss, divide by the units, update.

Batch size is mathematics and passes are memory: the result does not depend on how the step was cut, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from posttrain.engine.runtime import Runtime, random_state, set_random_state
from posttrain.errors import TrainingError
from posttrain.types import Batch, Loss, Outputs

LossFunction = Callable[[Any, Outputs], Loss]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did, over all processes."""

    loss: float
    metrics: dict[str, tuple[float, float]]  # name -> (sum, count)
    grad_norm: float  # before clipping
    tokens: int  # in the batch, shared prompts counted once
    passes: int  # forward and backward passes of each process
    finite: bool  # a step that is not is skipped


@dataclass(kw_only=True)
class Budget:
    """Tokens that one forward and backward pass may take; halved when memory runs out."""

    max_tokens: int
    halvings: int = field(default=0)
    fixed: bool = False  # a pass that is too large for the memory ends the run

    def halve(self) -> None:
        self.max_tokens //= 2
        self.halvings += 1


def step(
    learner: nn.Module,
    batch: Batch,
    loss: LossFunction,
    *,
    optimizer: Optimizer,
    runtime: Runtime,
    budget: Budget,
    max_grad_norm: float,
    needs: Sequence[str] = ("logprobs",),
    make_room: Callable[[], bool] | None = None,
    tell: Callable[[str], None] = lambda event: None,
) -> StepResult:
    """Runs the batch and updates the parameters, unless the loss or the gradient is not finite.

    `make_room` is a last resort when memory runs out at the smallest cut: it frees some (recomputing activations) and
    returns whether it could. `tell` is called with what happens within the step, as transformers names it. Raises
    TrainingError when nothing helps.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        before = random_state(runtime.device)
        try:
            total, metrics, passes = _accumulate(learner, batch, loss, runtime, budget.max_tokens, needs, tell)
            norm = _unscaled_norm(learner, runtime)
            scale = runtime.loss_scale
            if scale is None or not math.isfinite(total) or math.isfinite(norm) or not scale.overflowed():
                break  # else the gradient was too large for float16: the same again, with half the scale
        except torch.OutOfMemoryError as error:
            if runtime.world_size > 1:
                raise TrainingError(
                    f"out of memory with max_tokens_per_pass={budget.max_tokens}: start again with half of it "
                    "(with several processes the cut cannot be changed in the middle of a step)"
                ) from error
            if budget.fixed:
                raise TrainingError(
                    f"out of memory with max_tokens_per_pass={budget.max_tokens}: start again with half of it, or with "
                    "auto_find_batch_size=true"
                ) from error
            if len(batch.cut(budget.max_tokens)) < len(batch.cut(1)):
                budget.halve()
            elif make_room is None or not make_room():
                raise TrainingError(
                    "out of memory on the longest row alone: lower max_length, train with LoRA (peft_config), "
                    "or use a smaller model"
                ) from error
        # outside the handler, which would keep the failed pass's tensors alive
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        set_random_state(before, runtime.device)
    finite = math.isfinite(total) and math.isfinite(norm)
    if finite:
        if max_grad_norm:
            parameters = [p for p in learner.parameters() if p.grad is not None]
            nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, torch.tensor(norm))
        tell("on_pre_optimizer_step")
        optimizer.step()
        tell("on_optimizer_step")
        if runtime.loss_scale is not None:
            runtime.loss_scale.went_well()
    return StepResult(
        loss=total,
        metrics={name: pair for name, pair in metrics.items() if name != "tokens"},
        grad_norm=norm,
        tokens=int(metrics["tokens"][0]),
        passes=passes,
        finite=finite,
    )


def _accumulate(
    learner: nn.Module,
    batch: Batch,
    loss: LossFunction,
    runtime: Runtime,
    max_tokens: int,
    needs: Sequence[str],
    tell: Callable[[str], None],
) -> tuple[float, dict[str, tuple[float, float]], int]:
    """Gradients of the whole step in `.grad`; the loss, the metrics and the number of passes."""
    parts = batch.cut(max_tokens) if batch.forest.leaves else [batch.nothing()]
    table = runtime.gather([len(parts), *batch.units.values()])
    passes = int(max(row[0] for row in table))
    units = {name: sum(row[1 + i] for row in table) for i, name in enumerate(batch.units)}
    # DDP takes the mean of the processes' gradients: of sums over all units, or of means over each process's own
    size = runtime.world_size
    shares = {
        name: size / (units[name] or 1.0) if runtime.average_tokens else 1.0 / (own or 1.0)
        for name, own in batch.units.items()
    }
    grown = 1.0 if runtime.loss_scale is None else runtime.loss_scale.value
    parts += [batch.nothing()] * (passes - len(parts))
    sums: dict[str, list[torch.Tensor]] = {}  # one value a part; added up in float64 when the step is over
    metrics: dict[str, list[list[torch.Tensor]]] = {}
    for number, part in enumerate(parts, start=1):
        part = part.to(runtime.device)
        with runtime.no_sync(learner) if number < passes else nullcontext():  # exchanged with the last part
            with runtime.autocast():
                outputs = learner(part.forest, needs)
            result = loss(part, outputs)
            scaled = [term * (shares[name] * grown) for name, term in result.terms.items()]
            torch.stack(scaled).sum().backward()
        if number < passes:
            tell("on_substep_end")
        for name, term in result.terms.items():
            sums.setdefault(name, []).append(term.detach())
        for name, pair in result.metrics.items():
            metrics.setdefault(name, []).append([torch.as_tensor(value).detach() for value in pair])
    flat = {f"term/{name}": _total(values) * (shares[name] / size) for name, values in sums.items()}
    for name, pairs in metrics.items():
        flat[f"sum/{name}"], flat[f"count/{name}"] = (_total(values) for values in zip(*pairs))
    flat["tokens"] = float(len(batch.forest.tokens)) if batch.forest.leaves else 0.0
    flat = runtime.sum(flat)
    total = sum(flat[f"term/{name}"] for name in sums)
    reduced = {name: (flat[f"sum/{name}"], flat[f"count/{name}"]) for name in metrics}
    return total, reduced | {"tokens": (flat["tokens"], 1.0)}, passes


def _unscaled_norm(learner: nn.Module, runtime: Runtime) -> float:
    """The gradient's norm; what float16 multiplied the loss with is taken off the gradients."""
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    if runtime.loss_scale is not None:
        torch._foreach_div_(gradients, runtime.loss_scale.value)
    return float(nn.utils.get_total_norm(gradients))


def _total(values: Sequence[torch.Tensor]) -> float:
    """The sum in float64, taken on the CPU: not every device has it, and one transfer waits once."""
    return float(sum(value.to("cpu", torch.float64) for value in values))
