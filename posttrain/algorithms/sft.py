"""Supervised fine-tuning: make the demonstrated tokens likely.

    L = 1/T sum_t w_t l_t,    l_t = - log p(y_t | everything before y_t)

over the trained tokens of the whole step, however it is cut; T is the sum of their weights w_t, which are 1 unless a
message says otherwise. The atom is a token.

`loss_type` is another l_t. Label smoothing takes the place of a share of it,

    (1 - e) l_t - e/V sum_v log p(v | everything before y_t),

as in arXiv:1512.00567 section 7, with transformers' mean over the vocabulary of V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest, per

WEIGHT = "weight"  # the column of a leaf whose tokens do not all weigh 1


@dataclass(frozen=True, kw_only=True)
class SFTBatch(Batch):
    """Conversations. The unit "sft" is the sum of the weights: the number of trained tokens where there are none."""

    weights: Tensor | None = per("token")  # [M] float32; None: every token weighs 1


def sft_batch(trees: Sequence[Segment]) -> SFTBatch:
    """The batch of these conversations. A tree without tokens at its root is a pack: its children are the rows."""
    rows = [row for tree in trees for row in (tree.children if not tree.tokens else (tree,))]
    forest = TokenForest.from_trees(rows)
    count = len(forest.targets)
    leaves = [leaf for row in rows for leaf in row.leaves()]
    weights = None
    if any(WEIGHT in leaf.columns for leaf in leaves):
        listed = [leaf.columns.get(WEIGHT, [1.0] * size) for leaf, size in zip(leaves, forest.trained)]
        weights = torch.tensor([weight for column in listed for weight in column], dtype=torch.float32)
    unit = float(count) if weights is None else float(weights.sum(dtype=torch.float64))
    return SFTBatch(forest=forest, atom=torch.arange(count), units={"sft": unit}, weights=weights)


def _nll(outputs: Outputs) -> Tensor:
    return -outputs.logprobs


def _dft(outputs: Outputs) -> Tensor:
    """Dynamic fine-tuning: a token counts as much as it is likely, so that rare ones do not tear at the model.

    `-sg(p_t) log p_t` with sg what no gradient flows through, arXiv:2508.05629.
    """
    return -outputs.logprobs * outputs.logprobs.detach().exp()


TOKEN_LOSSES: dict[str, Callable[[Outputs], Tensor]] = {"nll": _nll, "dft": _dft}  # [M], of each trained token


@dataclass(frozen=True, kw_only=True)
class SFTLoss:
    """The weighted losses of the trained tokens, summed."""

    loss_type: str = "nll"
    label_smoothing_factor: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """What the learner is asked for beside log-probabilities."""
        return ("mean_logprobs",) if self.label_smoothing_factor else ()

    def __call__(self, batch: SFTBatch, outputs: Outputs) -> Loss:
        losses = TOKEN_LOSSES[self.loss_type](outputs)
        if outputs.mean_logprobs is not None:
            losses = (1 - self.label_smoothing_factor) * losses - self.label_smoothing_factor * outputs.mean_logprobs
        if batch.weights is not None:
            losses = losses * batch.weights
        return Loss(terms={"sft": losses.sum()}, metrics=token_metrics(outputs))


sft_loss = SFTLoss()


def token_metrics(outputs: Outputs) -> Metrics:
    """Accuracy of the most likely token, and entropy in nats where it was computed."""
    count = float(len(outputs.logprobs))
    metrics: Metrics = {}
    if outputs.correct is not None:
        metrics["mean_token_accuracy"] = (outputs.correct.sum(), count)
    if outputs.entropy is not None:
        metrics["entropy"] = (outputs.entropy.sum(), count)
    return metrics
