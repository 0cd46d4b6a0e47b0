"""Supervised fine-tuning: make the demonstrated tokens likely.

    L = - 1/T sum_t log p(y_t | everything before y_t)

over the T trained tokens of the whole step, however it is cut. The atom is a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest


def sft_batch(trees: Sequence[Segment]) -> Batch:
    """The batch of these conversations. Its unit "sft" counts trained tokens."""
    forest = TokenForest.from_trees(trees)
    count = len(forest.targets)
    return Batch(forest=forest, atom=torch.arange(count), units={"sft": float(count)})


def sft_loss(batch: Batch, outputs: Outputs) -> Loss:
    """The negative log-likelihood of the trained tokens, summed."""
    return Loss(terms={"sft": -outputs.logprobs.sum()}, metrics=token_metrics(outputs))


def token_metrics(outputs: Outputs) -> Metrics:
    """Accuracy of the most likely token, and entropy in nats where it was computed."""
    count = float(len(outputs.logprobs))
    metrics: Metrics = {}
    if outputs.correct is not None:
        metrics["mean_token_accuracy"] = (outputs.correct.sum(), count)
    if outputs.entropy is not None:
        metrics["entropy"] = (outputs.entropy.sum(), count)
    return metrics
