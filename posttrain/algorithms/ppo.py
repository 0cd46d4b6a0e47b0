"""Proximal policy optimisation with a value model: an advantage for every token (arXiv:1707.06347, arXiv:1909.08593).

The policy writes completions; each token gets a reward r_t, which is minus the KL penalty, and at the last token the
score of the whole completion too. A value model V says what reward was still to be expected before each token. The
advantages A and returns R that follow (posttrain/ops/gae.py) are columns of the batch, and so are the log-probabilities
and values of the models that the rollout was made with, `old`. A step's loss is

    L = 1/T sum_t -min(q_t A_t, clip(q_t, 1 - e, 1 + e) A_t)  +  c/T sum_t max((V_t - R_t)^2, (W_t - R_t)^2) / 2

    q_t = p(y_t | x, y_<t) / p_old(y_t | x, y_<t)        W_t = clip(V_t, V_old,t - e_value, V_old,t + e_value)

over the T trained tokens of all completions of the step. The maximum of the two squares makes the value model's step a
cautious one: moving it further than e_value from where it was gains nothing. The KL to the reference is in the rewards
and never in the loss. The atom is a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from posttrain.algorithms.grpo import PolicyBatch, PolicyLoss, policy_batch
from posttrain.types import Loss, Metrics, Outputs, Segment, per


@dataclass(frozen=True, kw_only=True)
class PPOBatch(PolicyBatch):
    """Completions with what was computed of their tokens when the rollout was made.

    A weight of 0 takes a token from the policy's term and not from the value model's.
    """

    returns: Tensor = per("token")  # [M] float32, R
    old_values: Tensor = per("token")  # [M] float32, V_old


def ppo_batch(trees: Sequence[Segment], *, tokens: float) -> PPOBatch:
    """The batch of these trees, whose leaves carry `advantages`, `weights`, `returns` and `old_values`.

    `old_logprobs` are on all leaves or on none. `tokens` is T, this process's share of it.
    """
    made = policy_batch(trees, units={"policy": tokens, "value": tokens})
    leaves = [leaf for tree in trees for leaf in tree.leaves()]

    def column(name: str) -> Tensor:
        return torch.tensor([value for leaf in leaves for value in leaf.columns[name]], dtype=torch.float32)

    kept: dict[str, Any] = {field.name: getattr(made, field.name) for field in fields(PolicyBatch)}
    return PPOBatch(**kept, returns=column("returns"), old_values=column("old_values"))


@dataclass(frozen=True, kw_only=True)
class PPOLoss:
    """The clipped losses of policy and value model: the terms "policy" and "value", both per token.

    The metrics are those of the policy's loss, and TRL's for the same things.
    """

    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    entropy_weight: float = 0.0

    @property
    def policy(self) -> PolicyLoss:
        """The policy's part, a mean over tokens."""
        return PolicyLoss(loss_type="bnpo", epsilon=self.cliprange, entropy_weight=self.entropy_weight)

    @property
    def needs(self) -> tuple[str, ...]:
        """What it needs of the model beside log-probabilities."""
        return ("values", *self.policy.needs)

    def __call__(self, batch: PPOBatch, outputs: Outputs) -> Loss:
        if outputs.values is None:
            raise ValueError("a value loss without values: ask the learner for what `needs` names")
        policy = self.policy(batch, outputs)
        values, old, wanted = outputs.values, batch.old_values, batch.returns
        held = values.clamp(old - self.cliprange_value, old + self.cliprange_value)
        free, clipped = (values - wanted) ** 2, (held - wanted) ** 2
        squares = torch.maximum(free, clipped)
        metrics = policy.metrics | self._policy_metrics(batch, outputs, policy)
        count = float(len(values))
        metrics["loss/value_avg"] = (squares.detach().sum() / 2, count)
        metrics["val/clipfrac_avg"] = ((clipped > free).sum(), count)
        metrics["val/mean"] = (values.detach().sum(), count)
        return Loss(terms=policy.terms | {"value": self.vf_coef / 2 * squares.sum()}, metrics=metrics)

    def _policy_metrics(self, batch: PPOBatch, outputs: Outputs, policy: Loss) -> Metrics:
        counted = batch.weights > 0
        count = counted.sum()
        old = outputs.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        moved = (outputs.logprobs.detach() - old)[counted]
        metrics: Metrics = {
            "policy/approxkl_avg": ((moved**2).sum() / 2, count),
            "policy/clipfrac_avg": policy.metrics["clip_ratio/region_mean"],
            "loss/policy_avg": (policy.terms["policy"].detach(), count),
            "val/ratio": policy.metrics["importance_ratio/mean"],
        }
        if "entropy" in policy.metrics:
            metrics["policy/entropy_avg"] = policy.metrics["entropy"]
        return metrics
