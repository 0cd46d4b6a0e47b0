"""The loss and metrics of a dataset, without training on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from posttrain.config.dataset import DatasetConfig
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import LossFunction
from posttrain.types import Batch, Outputs


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """How an evaluation is computed, and what it is asked for."""

    rows: int | None = None  # of one pass, at most
    loss_only: bool = False
    dtype: torch.dtype | None = None  # to compute in; None: as in training
    look: Callable[[Batch, Outputs], None] | None = None  # is shown every pass

    @classmethod
    def of(cls, config: DatasetConfig, look: Callable[[Batch, Outputs], None] | None = None) -> Evaluating:
        """As the configuration has it."""
        dtype = torch.bfloat16 if config.bf16_full_eval else torch.float16 if config.fp16_full_eval else None
        return cls(
            rows=config.per_device_eval_batch_size, loss_only=config.prediction_loss_only, dtype=dtype,
            look=None if config.prediction_loss_only else look,
        )  # fmt: skip


@torch.no_grad()
def evaluate_loss(
    learner: nn.Module,
    batch: Batch,
    loss: LossFunction,
    *,
    runtime: Runtime,
    max_tokens: int,
    needs: Sequence[str] = (),
    how: Evaluating | None = None,
) -> dict[str, float]:
    """`eval_` metrics over all processes' batches, each process giving its share of the data as one batch."""
    how = how or Evaluating()
    start, was_training = time.perf_counter(), learner.training
    learner.eval()
    parts = batch.cut(max_tokens) if batch.forest.leaves else [batch.nothing()]
    terms: dict[str, float] = {}
    sums: dict[str, list[float]] = {}
    for part in parts if how.rows is None else _few_rows(parts, how.rows):
        part = part.to(runtime.device)
        with runtime.autocast(how.dtype):
            outputs = learner(part.forest, ("logprobs", *(() if how.loss_only else ("entropy",)), *needs))
            if how.look is not None:
                how.look(part, outputs)
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
    if not how.loss_only:
        metrics |= {f"eval_{name}": flat[f"sum/{name}"] / (flat[f"count/{name}"] or 1.0) for name in sums}
    return metrics | {"eval_runtime": round(time.perf_counter() - start, 3)}


def _few_rows(parts: Sequence[Batch], rows: int) -> Iterator[Batch]:
    """The parts cut further, to so many trees each."""
    for part in parts:
        leaves = part.forest.leaves
        roots = [part.forest.path(leaf)[0] for leaf in leaves]
        firsts = [i for i in range(len(leaves)) if i == 0 or roots[i] != roots[i - 1]]
        ends = [*firsts[rows::rows], len(leaves)]
        if len(ends) == 1:
            yield part
            continue
        yield from (part.select(first, last) for first, last in zip([0, *ends], ends))
