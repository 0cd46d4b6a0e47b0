"""Offline reinforcement learning: learn from answers that are there, each with a reward, without writing new ones.

Answer i has a reward r_i and an advantage A_i over what could be expected (posttrain/ops/baselines.py). Its weight w_i
says how much of its likelihood the loss asks for, and is computed once, before training:

    awr         w = min(exp(A / T), w_max)          arXiv:1910.00177: the likelihood of all answers, the better the
                                                    more; T is the temperature
    raft        w = 1 for the best answers of a     arXiv:2304.06767: plain imitation of what a reward has selected
                prompt, or those with r >= c, else 0
    reinforce   w = A                               the policy gradient as if the policy had just written the answers.
                                                    It makes bad answers ever less likely, without an end
    topr        w = A, times c_i where A < 0        arXiv:2503.14286 section 3: tapered, so that an answer the policy
                                                    gives up stops pushing; c_i = min(p(y_i) / m(y_i), 1) of the whole
                                                    answer, without gradient, m being the policy that wrote it

With n_i the trained tokens of answer i, the loss of a step is

    L = 1/U sum_i w_i c_i a_i sum_t -log p(y_t)  +  beta 1/V sum_i a_i sum_t k3(p, p_ref)

    aggregation   token      a = 1      U, V = tokens of the answers: a long answer counts for more
                  sequence   a = 1/n    U, V = answers: each counts the same

U counts the answers that have a weight, V all. k3 (posttrain/ops/kl.py) is 0 where the policy finds a token as likely
as the reference did and grows on both sides. The tokens come from the data, so it is a distance at these tokens, not an
estimate of the KL of the policy. The atom is an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.algorithms.sft import token_metrics
from posttrain.ops.kl import kl_estimate
from posttrain.ops.segments import segment_sum
from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest, per

AGGREGATIONS = ("token", "sequence")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What a weight may look at."""

    reward: float
    advantage: float | None  # None: its prompt's rows all have the same reward
    is_best: bool  # no answer to the prompt has a higher reward, and one has a lower


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """The numbers that weights depend on."""

    temperature: float = 1.0
    max_weight: float = 20.0
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class OfflineLoss:
    """How an answer's weight is made, and whether the loss tapers it."""

    weight: Callable[[Judged, Weighting], float]
    tapered: bool = False


def _exponential(answer: Judged, given: Weighting) -> float:
    if answer.advantage is None:
        return 0.0
    exponent = answer.advantage / given.temperature
    return given.max_weight if exponent >= math.log(given.max_weight) else math.exp(exponent)


def _selected(answer: Judged, given: Weighting) -> float:
    if given.threshold is None:
        return float(answer.is_best)
    return float(answer.reward >= given.threshold)


def _advantage(answer: Judged, given: Weighting) -> float:
    return answer.advantage or 0.0


OFFLINE_LOSSES: dict[str, OfflineLoss] = {
    "awr": OfflineLoss(weight=_exponential),
    "raft": OfflineLoss(weight=_selected),
    "reinforce": OfflineLoss(weight=_advantage),
    "topr": OfflineLoss(weight=_advantage, tapered=True),
}


@dataclass(frozen=True, kw_only=True)
class OfflineRLBatch(Batch):
    """Answers with what is known of their tokens; siblings in the forest answer the same prompt."""

    weights: Tensor = per("token")  # [M] float32, w, the same at all tokens of an answer
    advantages: Tensor = per("token")  # [M] float32, A, 0 where there is none
    shares: Tensor = per("token")  # [M] float32, a
    old_logprobs: Tensor | None = per("token")  # [M] float32, under the policy m that wrote the answers
    ref_logprobs: Tensor | None = per("token")  # [M] float32, under the reference model


def offline_rl_batch(trees: Sequence[Segment], aggregation: str = "token") -> OfflineRLBatch:
    """The batch of these trees, whose leaves carry the columns `weights` and `advantages`.

    `old_logprobs` and `ref_logprobs` are on all leaves or on none. The unit "policy" counts the tokens or the answers
    that have a weight, the unit "kl" all.
    """
    forest = TokenForest.from_trees(trees)
    leaves = [leaf for tree in trees for leaf in tree.leaves()]

    def column(name: str) -> Tensor:
        return torch.tensor([value for leaf in leaves for value in leaf.columns[name]], dtype=torch.float32)

    def optional(name: str) -> Tensor | None:
        return column(name) if any(name in leaf.columns for leaf in leaves) else None

    counts = forest.trained if aggregation == "token" else (1,) * len(leaves)
    shares = [1.0 if aggregation == "token" else 1 / n for n in forest.trained for _ in range(n)]
    weighted = [count for count, leaf in zip(counts, leaves) if leaf.columns["weights"][0]]
    return OfflineRLBatch(
        forest=forest,
        atom=forest.sequence,
        weights=column("weights"),
        advantages=column("advantages"),
        shares=torch.tensor(shares, dtype=torch.float32),
        old_logprobs=optional("old_logprobs"),
        ref_logprobs=optional("ref_logprobs"),
        units={"policy": float(sum(weighted)), "kl": float(sum(counts))},
    )


@dataclass(frozen=True, kw_only=True)
class OfflineRLLoss:
    """The weighted likelihood of the batch's answers, with the anchor to the reference where it has a weight."""

    loss_type: str = "awr"  # a name of OFFLINE_LOSSES, which the batch's weights follow
    beta: float = 0.0

    def __call__(self, batch: OfflineRLBatch, outputs: Outputs) -> Loss:
        logprobs = outputs.logprobs
        metrics: Metrics = {}
        weights = batch.weights
        if OFFLINE_LOSSES[self.loss_type].tapered:
            taper = self._taper(batch, logprobs.detach())
            held = _firsts(batch)[batch.weights[_firsts(batch)] < 0]
            metrics["taper/mean"] = (taper[held].sum(), len(held))
            weights = weights * torch.where(weights < 0, taper, 1.0)
        terms = {"policy": -(weights * batch.shares * logprobs).sum()}
        if batch.ref_logprobs is not None:
            estimate = kl_estimate(logprobs, batch.ref_logprobs, "k3")
            metrics["kl"] = (estimate.detach().sum(), len(estimate))
            if self.beta:
                terms["kl"] = self.beta * (batch.shares * estimate).sum()
        elif self.beta:
            raise ValueError("beta without ref_logprobs: the batch was built without the reference's log-probabilities")
        return Loss(terms=terms, metrics=metrics | self._metrics(batch, logprobs.detach()) | token_metrics(outputs))

    def _taper(self, batch: OfflineRLBatch, logprobs: Tensor) -> Tensor:
        """min(p / m, 1) of the whole answer, at each of its tokens. [M]"""
        old = batch.old_logprobs if batch.old_logprobs is not None else batch.ref_logprobs
        if old is None:
            raise ValueError("a tapered loss needs the log-probabilities of the policy that wrote the answers")
        forest = batch.forest
        ratios = segment_sum(logprobs - old, forest.sequence, len(forest.leaves))
        return ratios.clamp(max=0).exp()[forest.sequence]

    def _metrics(self, batch: OfflineRLBatch, logprobs: Tensor) -> Metrics:
        """The mean weight, and how likely the better and the worse answers are, in nats of a whole answer."""
        count = len(batch.forest.leaves)
        sums = segment_sum(logprobs, batch.forest.sequence, count)
        firsts = _firsts(batch)
        weights, advantages = batch.weights[firsts], batch.advantages[firsts]
        better, worse = advantages > 0, advantages < 0
        return {
            "weights/mean": (weights.sum(), count),
            "logps/better": (sums[better].sum(), better.sum()),
            "logps/worse": (sums[worse].sum(), worse.sum()),
        }


def _firsts(batch: OfflineRLBatch) -> Tensor:
    """The place of each answer's first trained token. [Q]"""
    return torch.tensor(batch.forest.trained_before[:-1], dtype=torch.int64, device=batch.weights.device)
