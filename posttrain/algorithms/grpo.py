"""Group relative policy optimisation: learn from which of several answers to a prompt were better (arXiv:2402.03300).

For each prompt the policy writes a group of completions. A completion's advantage A is its reward against those of
its group (posttrain/ops/advantages.py), the same at each of its tokens; no value model is needed. The completions may
be trained on for several steps, in which the policy p moves away from the one that wrote them. Its ratio to that one,

    q_t = p(y_t | x, y_<t) / p_old(y_t | x, y_<t)

makes up for that, and is clipped so that a step gains nothing by going far. The loss of a step is

    L = 1/U sum_t w_t [ -min(q_t A, clip(q_t, 1 - e, 1 + e_high) A)  +  beta KL_t ]  -  c/T sum_t H_t

over the trained tokens t of all its completions; KL_t is an estimate against the reference (posttrain/ops/kl.py).
`loss_type` is the choice of w and U. With n tokens in a completion, T in all Q completions of the step:

    grpo      w = 1/n   U = Q                the mean over completions of their means over tokens; a long bad answer is
                                             punished less per token than a short one
    bnpo      w = 1     U = T                the mean over the step's tokens
    dapo      w = 1     U = T of a step,     the same, with one U for all steps of a generation batch
                        on average           (arXiv:2503.14476 section 3.3)
    dr_grpo   w = 1     U = Q max_length     a constant, so that no length is favoured (arXiv:2503.20783)
    cispo     as dapo, with -stop_gradient(min(q_t, e_high)) A log p(y_t): the weight is clipped, not the gradient, so
              that every token keeps one (arXiv:2506.13585). e_high is the bound itself, for instance 5

The other options:

    epsilon_high   above e, leaves unlikely tokens more room to grow: "clip-higher" (arXiv:2503.14476 section 3.1)
    delta          an upper bound on q where A < 0, which min() leaves unbounded (arXiv:2505.07291)
    importance     "sequence" takes one ratio for a completion, exp(1/n sum_t log q_t) (GSPO, arXiv:2507.18071), to go
                   with "grpo"; with w = 1 a completion would count as many times as it has tokens
    use_bias_correction_kl   multiplies KL_t by q_t: the gradient is then that of the KL of p itself, whatever the
                   estimate's own would be (arXiv:2512.02556)
    entropy_weight c: a bonus for the entropy H_t, always a mean over the T tokens whatever w and U are

A token whose w is 0 (of a completion that is masked) is in no term and no metric. An advantage of 0 gives a gradient
of exactly 0. The atom is a token, or a completion where importance is by sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.ops.kl import LOG_RATIO_LIMIT, kl_estimate
from posttrain.ops.segments import segment_count, segment_sum
from posttrain.types import Batch, Loss, Metrics, Outputs, Segment, TokenForest, per


@dataclass(frozen=True, kw_only=True)
class PolicyBatch(Batch):
    """Completions with what is known of their tokens; siblings in the forest answer the same prompt."""

    advantages: Tensor = per("token")  # [M] float32
    weights: Tensor = per("token")  # [M] float32, w
    old_logprobs: Tensor | None = per("token")  # [M] float32, when they were written; None: by this very policy
    ref_logprobs: Tensor | None = per("token")  # [M] float32, under the reference model


def policy_batch(trees: Sequence[Segment], units: Mapping[str, float], atom: str = "token") -> PolicyBatch:
    """The batch of these trees, whose leaves carry the columns `advantages` and `weights`.

    `old_logprobs` and `ref_logprobs` are on all leaves or on none. `units["policy"]` is U, see AGGREGATIONS; the unit
    "entropy" is the number of tokens with a weight.
    """
    forest = TokenForest.from_trees(trees)
    leaves = [leaf for tree in trees for leaf in tree.leaves()]

    def column(name: str) -> Tensor:
        return torch.tensor([value for leaf in leaves for value in leaf.columns[name]], dtype=torch.float32)

    def optional(name: str) -> Tensor | None:
        return column(name) if any(name in leaf.columns for leaf in leaves) else None

    weights = column("weights")
    return PolicyBatch(
        forest=forest,
        atom=torch.arange(len(weights)) if atom == "token" else forest.sequence,
        advantages=column("advantages"),
        weights=weights,
        old_logprobs=optional("old_logprobs"),
        ref_logprobs=optional("ref_logprobs"),
        units={"entropy": float((weights > 0).sum()), **units},
    )


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How the losses of a step's tokens become one number: the weight w of each, and the unit U they are divided by."""

    weight: Callable[[int], float]  # of each token of a completion with so many
    unit: Callable[..., float]  # unit(step=, rollout=, steps=, max_completion_length=), as below


# `step` and `rollout` are the lengths of all completions of the step, and of the rollout that is cut into `steps`, of
# those too that cost no pass. A completion that is masked has length 0: it is still one of the Q.


def _completions(*, step: Sequence[int], **_: Any) -> float:
    return float(len(step))


def _tokens(*, step: Sequence[int], **_: Any) -> float:
    return float(sum(step))


def _tokens_on_average(*, rollout: Sequence[int], steps: int, **_: Any) -> float:
    return sum(rollout) / steps


def _room(*, step: Sequence[int], max_completion_length: int, **_: Any) -> float:
    return float(len(step) * max_completion_length)


def _one(length: int) -> float:
    return 1.0


AGGREGATIONS: dict[str, Aggregation] = {
    "grpo": Aggregation(weight=lambda length: 1 / length, unit=_completions),
    "bnpo": Aggregation(weight=_one, unit=_tokens),
    "dapo": Aggregation(weight=_one, unit=_tokens_on_average),
    "dr_grpo": Aggregation(weight=_one, unit=_room),
    "cispo": Aggregation(weight=_one, unit=_tokens_on_average),
}


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """The clipped surrogate of the batch's completions, with the KL and the entropy bonus where they have a weight."""

    loss_type: str = "dapo"  # a name of AGGREGATIONS, which the batch's weights and unit follow
    epsilon: float = 0.2
    epsilon_high: float | None = None  # None: epsilon
    delta: float | None = None
    importance: str = "token"  # or "sequence"
    beta: float = 0.0
    kl: str = "k3"  # a name of KL_ESTIMATES
    use_bias_correction_kl: bool = False
    entropy_weight: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """What it needs of the model beside log-probabilities."""
        return ("entropy_grad",) if self.entropy_weight else ()

    @property
    def clip_range(self) -> tuple[float, float]:
        """The ratios between which a token keeps its gradient; for cispo the upper is the bound of the weight."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return 1 - self.epsilon, high if self.loss_type == "cispo" else 1 + high

    def __call__(self, batch: PolicyBatch, outputs: Outputs) -> Loss:
        log_ratios = self._log_ratios(batch, outputs.logprobs)
        ratios = log_ratios.clamp(max=LOG_RATIO_LIMIT).exp()
        losses = self._surrogate(ratios, batch.advantages, outputs.logprobs)
        counted = batch.weights > 0
        metrics = self._ratio_metrics(batch, log_ratios.detach(), ratios.detach(), counted)
        if batch.ref_logprobs is not None:
            estimate = kl_estimate(outputs.logprobs, batch.ref_logprobs, self.kl)
            metrics["kl"] = (estimate.detach()[counted].sum(), counted.sum())
            if self.beta:
                losses = losses + self.beta * (estimate * ratios if self.use_bias_correction_kl else estimate)
        elif self.beta:
            raise ValueError("beta without ref_logprobs: the batch was built without the reference's log-probabilities")
        terms = {"policy": (batch.weights * losses).sum()}
        if outputs.entropy is not None:
            metrics["entropy"] = (outputs.entropy.detach()[counted].sum(), counted.sum())
            if self.entropy_weight:
                terms["entropy"] = -self.entropy_weight * outputs.entropy[counted].sum()
        elif self.entropy_weight:
            raise ValueError("an entropy bonus without an entropy: ask the learner for what `needs` names")
        return Loss(terms=terms, metrics=metrics)

    def _surrogate(self, ratios: Tensor, advantages: Tensor, logprobs: Tensor) -> Tensor:
        low, high = self.clip_range
        if self.loss_type == "cispo":
            return -ratios.detach().clamp(max=high) * advantages * logprobs
        bounded = ratios if self.delta is None else ratios.clamp(max=self.delta)
        return -torch.minimum(bounded * advantages, ratios.clamp(low, high) * advantages)

    def _log_ratios(self, batch: PolicyBatch, logprobs: Tensor) -> Tensor:
        """log q [M]: of each token or, the same at all its tokens, of the completion, length-normalised."""
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        if self.importance == "token":
            return logprobs - old
        sequence, count = batch.forest.sequence, len(batch.forest.leaves)
        means = segment_sum(logprobs - old, sequence, count) / segment_count(sequence, count)
        return means[sequence]

    def _ratio_metrics(self, batch: PolicyBatch, log_ratios: Tensor, ratios: Tensor, counted: Tensor) -> Metrics:
        """Of the counted tokens or, where importance is by sequence, of the counted completions."""
        if self.importance == "sequence":
            counted = counted.clone()
            first = torch.zeros_like(counted)
            first[batch.forest.trained_before[:-1]] = True
            counted &= first
        low, high = self.clip_range
        is_low = (ratios < low) & (batch.advantages < 0) & counted
        is_high = (ratios > high) & (batch.advantages > 0) & counted
        count = counted.sum()
        metrics: Metrics = {
            "importance_ratio/mean": (ratios[counted].sum(), count),
            "importance_ratio/abs_log_mean": (log_ratios[counted].abs().sum(), count),
            "importance_ratio/beyond_2_mean": ((log_ratios[counted].abs() > math.log(2)).sum(), count),
        }
        if self.loss_type == "cispo":
            return metrics | {"cispo_clip_ratio": (is_high.sum(), count)}
        return metrics | {
            "clip_ratio/low_mean": (is_low.sum(), count),
            "clip_ratio/high_mean": (is_high.sum(), count),
            "clip_ratio/region_mean": ((is_low | is_high).sum(), count),
        }
