"""The loss and metrics of a dataset, without training on it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from posttrain.engine.runtime import Runtime
from posttrain.engine.step import LossFunction
from posttrain.types import Batch


@torch.no_grad()
def evaluate_loss(
    learner: nn.Module,
    batch: Batch,
    loss: LossFunction,
    *,
    runtime: Runtime,
    max_tokens: int,
    needs: Sequence[str] = (),
) -> dict[str, float]:
    """`eval_` metrics over all processes' batches, each process giving its share of the data as one batch."""
    start, was_training = time.perf_counter(), learner.training
    learner.eval()
    parts = batch.cut(max_tokens) if batch.forest.leaves else [batch.nothing()]
    terms: dict[str, float] = {}
    sums: dict[str, list[float]] = {}
    for part in parts:
        part = part.to(runtime.device)
        with runtime.autocast():
            outputs = learner(part.forest, ("logprobs", "entropy", *needs))
        result = loss(part, outputs)
        for name, term in result.terms.items():
            terms[name] = terms.get(name, 0.0) + float(term)
        for name, (amount, count) in result.metrics.items():
            held = sums.setdefault(name, [0.0, 0.0])
            held[0] += float(amount)
            held[1] += float(count)
    learner.train(was_training)
    flat = {f"term/{name}": value for name, value in terms.items()}
    flat |= {f"unit/{name}": batch.units[name] for name in terms}
    flat |= {f"sum/{name}": amount for name, (amount, _) in sums.items()}
    flat |= {f"count/{name}": count for name, (_, count) in sums.items()}
    flat = runtime.sum(flat)
    metrics = {"eval_loss": sum(flat[f"term/{name}"] / (flat[f"unit/{name}"] or 1.0) for name in terms)}
    metrics |= {f"eval_{name}": flat[f"sum/{name}"] / (flat[f"count/{name}"] or 1.0) for name in sums}
    return metrics | {"eval_runtime": round(time.perf_counter() - start, 3)}
