"""Learning from answers that are each marked good or bad, without pairs: KTO and BCO.

With h(y) the log-ratio of a whole answer to the reference model,

    h(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t)

beta h(y) is the answer's reward. An answer is good where its reward lies above a baseline, and bad below it: the margin
is m = s (beta h(y) - baseline), with s = 1 for good answers and -1 for bad ones, and w the weight of its kind:

    kto                w (1 - sigmoid(m))    arXiv:2402.01306 eq. 7, baseline beta z0
    apo_zero_unpaired  w (1 - sigmoid(m))    arXiv:2408.06266 eq. 7, baseline 0
    bco                -log sigmoid(m)       arXiv:2404.04656, baseline delta

z0 is how far the policy is from the reference: the mean log-ratio of answers after prompts that they do not answer, at
least 0. delta lies in the middle between the rewards of good and of bad answers. Both are statistics of many answers,
and a loss that is a sum over answers cannot hold them: the source finds them before the step
(posttrain/sources/unpaired.py), and here they are a column without a gradient. The atom is an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.algorithms.sft import token_metrics
from posttrain.ops.segments import segment_sum
from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest, per


@dataclass(frozen=True, kw_only=True)
class UnpairedBatch(Batch):
    """Answers, each the only one in its tree."""

    ref_logprobs: Tensor = per("token")  # [M] float32, under the reference model
    desirable: Tensor = per("sequence")  # [Q] bool, the answer is marked good
    baseline: Tensor = per("sequence")  # [Q] float32, what its reward is compared with
    shares: Tensor = per("sequence")  # [Q] float32, 1 / answers of its kind in the step; 0 where a kind is missing


def unpaired_batch(trees: Sequence[Segment]) -> UnpairedBatch:
    """The batch of these trees of one segment, with the columns `ref_logprobs` and `desirable`, and a baseline of 0.

    The unit "unpaired" counts answers.
    """
    if any(tree.children for tree in trees):
        raise ValueError("an answer without a pair is a tree of one segment")
    forest = TokenForest.from_trees(trees)
    nothing = torch.zeros(len(trees))
    return UnpairedBatch(
        forest=forest,
        atom=forest.sequence,
        ref_logprobs=torch.tensor([v for tree in trees for v in tree.columns["ref_logprobs"]], dtype=torch.float32),
        desirable=torch.tensor([bool(tree.columns["desirable"][0]) for tree in trees]),
        baseline=nothing,
        shares=nothing,
        units={"unpaired": float(len(trees))},
    )


def _doubt(margin: Tensor) -> Tensor:
    return 1 - torch.sigmoid(margin)


def _entropy(margin: Tensor) -> Tensor:
    return -logsigmoid(margin)


@dataclass(frozen=True, kw_only=True)
class Form:
    """A loss of single answers: a function of the margin, and what the margin is taken from."""

    of_margin: Callable[[Tensor], Tensor]
    baseline: Literal["mismatched", "middle", "zero"]  # z0 of answers to other prompts, delta between the kinds, or 0
    shown_as: str = ""  # the metric that the baseline is
    in_nats: bool = False  # the metric is without beta


UNPAIRED_LOSSES: dict[str, Form] = {
    "kto": Form(of_margin=_doubt, baseline="mismatched", shown_as="kl", in_nats=True),
    "apo_zero_unpaired": Form(of_margin=_doubt, baseline="zero"),
    "bco": Form(of_margin=_entropy, baseline="middle", shown_as="delta"),
}


@dataclass(frozen=True, kw_only=True)
class UnpairedLoss:
    """The weighted sum of the named loss over the answers of a batch."""

    loss_type: str = "kto"  # a name of UNPAIRED_LOSSES
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    @property
    def form(self) -> Form:
        return UNPAIRED_LOSSES[self.loss_type]

    def __call__(self, batch: UnpairedBatch, outputs: Outputs) -> Loss:
        sequence, count = batch.forest.sequence, len(batch.forest.leaves)
        rewards = self.beta * segment_sum(outputs.logprobs - batch.ref_logprobs, sequence, count)
        margins = torch.where(batch.desirable, rewards - batch.baseline, batch.baseline - rewards)
        weights = torch.where(batch.desirable, self.desirable_weight, self.undesirable_weight)
        term = (weights * self.form.of_margin(margins)).sum()
        metrics = self._metrics(batch, outputs, rewards.detach())
        return Loss(terms={"unpaired": term}, metrics=metrics)

    def _metrics(self, batch: UnpairedBatch, outputs: Outputs, rewards: Tensor) -> Metrics:
        good, bad = batch.desirable, ~batch.desirable
        sequence = batch.forest.sequence
        logprobs = segment_sum(outputs.logprobs.detach(), sequence, len(good))
        signed = torch.where(good, batch.shares, -batch.shares)
        metrics: Metrics = {
            "rewards/chosen": (rewards[good].sum(), good.sum()),
            "rewards/rejected": (rewards[bad].sum(), bad.sum()),
            # of the whole step, the mean of one kind less that of the other: the shares of each kind add up to 1
            "rewards/margins": ((signed * rewards).sum(), batch.shares.sum() / 2),
            "logps/chosen": (logprobs[good].sum(), good.sum()),
            "logps/rejected": (logprobs[bad].sum(), bad.sum()),
        }
        if self.form.shown_as:
            scale = self.beta if self.form.in_nats else 1.0
            metrics[self.form.shown_as] = (batch.baseline.sum() / scale, len(good))
        tokens = token_metrics(outputs)
        if outputs.correct is not None:  # of the good answers only: nobody wants the others repeated
            of_good = good[sequence]
            tokens["mean_token_accuracy"] = (outputs.correct[of_good].sum(), of_good.sum())
        return metrics | tokens
