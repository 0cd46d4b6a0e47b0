"""Reward modelling: a score for an answer, learnt from which of two answers is preferred.

A pair is a prompt x with a chosen answer c and a rejected answer r. The model gives each whole answer one number, its
score s(x, y), and the probability that c is preferred is the Bradley-Terry model's, a sigmoid s of the difference:

    -log s(s(x, c) - s(x, r) - m)            arXiv:2009.01325 section 3.4; the margin m arXiv:2307.09288 eq. 2
    + k (s(x, c) + s(x, r))^2                arXiv:2312.09244 eq. 2, `centre` k

Only differences are learnt, so scores may drift as a whole; the second term holds their mean at zero.
The atom is a pair: its two answers hang on one prompt and are never separated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest, per


@dataclass(frozen=True, kw_only=True)
class RewardBatch(Batch):
    """Pairs: leaf 2i is the chosen and leaf 2i + 1 the rejected answer of pair i."""

    margin: Tensor | None = per("atom")  # [P] float32, by how much the chosen score should be larger; None: by nothing


def scored(tree: Segment, margin: float | None = None) -> Segment:
    """The pair's tree as it is scored: one mark on the last token of each answer, where the score is read.

    The first answer's column `margin` carries the margin.
    """
    leaves = [replace(leaf, trained=[(len(leaf.tokens) - 1, len(leaf.tokens))], columns={}) for leaf in tree.leaves()]
    if margin is not None:
        leaves[0] = replace(leaves[0], columns={"margin": [margin]})
    return replace(tree, children=leaves)


def reward_batch(trees: Sequence[Segment]) -> RewardBatch:
    """The batch of these two-leaf trees, made by `scored`. Its units "reward" and "centre" count pairs.

    The margin of a pair without one is 0, where another has one.
    """
    forest = TokenForest.from_trees(trees)
    margins = [leaf.columns.get("margin") for tree in trees for leaf in list(tree.leaves())[:1]]
    given = any(margin is not None for margin in margins)
    values = [margin[0] if margin is not None else 0.0 for margin in margins]
    count = float(len(trees))
    return RewardBatch(
        forest=forest,
        atom=forest.sequence // 2,
        margin=torch.tensor(values, dtype=torch.float32) if given else None,
        units={"reward": count, "centre": count},
    )


@dataclass(frozen=True, kw_only=True)
class RewardLoss:
    """The negative log-likelihood of the preferences of a batch, and the term that centres the scores."""

    centre: float | None = None  # k above

    def __call__(self, batch: RewardBatch, outputs: Outputs) -> Loss:
        """Raises ValueError where the learner gave no scores."""
        if outputs.scores is None:
            raise ValueError("a reward model's loss needs scores; the learner gives none")
        chosen, rejected = outputs.scores[0::2], outputs.scores[1::2]
        gap = chosen - rejected
        terms = {"reward": -logsigmoid(gap if batch.margin is None else gap - batch.margin).sum()}
        if self.centre is not None:
            terms["centre"] = self.centre * ((chosen + rejected) ** 2).sum()
        return Loss(terms=terms, metrics=_metrics(chosen.detach(), rejected.detach()))


def _metrics(chosen: Tensor, rejected: Tensor) -> Metrics:
    """Under TRL's names; the smallest and the largest are those of a pair, whatever the batch, averaged over pairs."""
    count = len(chosen)
    return {
        "accuracy": ((chosen > rejected).sum(), count),
        "margin": ((chosen - rejected).sum(), count),
        "min_reward": (torch.minimum(chosen, rejected).sum(), count),
        "mean_reward": ((chosen + rejected).sum() / 2, count),
        "max_reward": (torch.maximum(chosen, rejected).sum(), count),
    }
