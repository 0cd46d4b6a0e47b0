"""What PPO makes of a rollout: rewards of tokens, their advantages and returns, and batches of its clipped losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from posttrain.algorithms.ppo import PPOBatch, ppo_batch
from posttrain.data.prompts import PromptSet
from posttrain.ops.gae import gae, length_adaptive_lam, returns, whitened
from posttrain.ops.kl import kl_estimate
from posttrain.ops.kl_control import next_kl_coef
from posttrain.sources.online import OnlinePlan
from posttrain.sources.rollouts import Graded, Group, plain_leaf, trees_of
from posttrain.types import Metrics, Segment

Values = Callable[[Sequence[Segment]], tuple[list[list[float]], list[float]]]
"""Per leaf of the trees the values of its tokens, and the value after each leaf's end (nothing, where not needed)."""


@dataclass(frozen=True, kw_only=True)
class PerTokenPlan:
    """How rewards of completions become advantages of tokens."""

    gamma: float = 1.0
    lam: float = 0.95
    lam_alpha: float | None = None  # a lambda for each length instead
    value_lam: float | None = None  # of returns; None: that of advantages
    kl_coef: float = 0.05
    kl_estimator: str = "k1"
    kl_target: float | None = None  # None: kl_coef stays
    kl_horizon: int = 10_000
    whiten_rewards: bool = False
    missing_eos_penalty: float | None = None
    bootstrap_truncated: bool = False
    mask_truncated: bool = False
    early_stop_kl: float | None = None
    value_warmup_steps: int = 0


class PerToken:
    """An `Algorithm`: each token against what the value model expected."""

    def __init__(
        self,
        prompts: PromptSet,
        plan: OnlinePlan,
        how: PerTokenPlan,
        *,
        values: Values,
        warm_up: Callable[[bool], None] = lambda warming_up: None,
        texts: Callable[[Sequence[int]], list[str]] | None = None,
        gather: Callable[[Any], list[Any]] = lambda mine: [mine],
    ) -> None:
        """`warm_up` is told before each step whether only the value model is to learn in it.

        `texts` are those of tokens, to be kept with the samples.
        """
        self._prompts, self._plan, self._how = prompts.prompts, plan, how
        self._values, self._warm_up, self._texts, self._gather = values, warm_up, texts, gather
        self._kl_coef = how.kl_coef

    def weigh(self, groups: list[Group]) -> tuple[list[Group], Metrics]:
        how = self._how
        counted = [(group, member) for group in groups for member in group.members if self._counts(member)]
        rows, after = self._values(trees_of(counted, self._prompt, plain_leaf)) if counted else ([], [])
        ends = [
            end if how.bootstrap_truncated and member.truncated else 0.0
            for (_, member), end in zip(counted, after or [0.0] * len(counted))
        ]
        divergences = [self._divergence(member) for _, member in counted]
        rewards = [self._rewards(member, kl) for (_, member), kl in zip(counted, divergences)]
        if how.whiten_rewards:
            rewards = whitened(rewards, gather=self._gather, shift=False)
        plain = [
            gae(reward, value, gamma=how.gamma, lam=self._lam(len(value)), end_value=end)
            for reward, value, end in zip(rewards, rows, ends)
        ]
        targets = [
            returns(
                advantages
                if how.value_lam is None
                else gae(reward, value, gamma=how.gamma, lam=how.value_lam, end_value=end),
                value,
            )
            for advantages, reward, value, end in zip(plain, rewards, rows, ends)
        ]
        known = iter(
            replace(
                member.with_columns(values=value, returns=target, advantages=advantages),
                advantage=math.fsum(advantages) / len(advantages),
            )
            for (_, member), value, target, advantages in zip(
                counted, rows, targets, whitened(plain, gather=self._gather)
            )
        )
        weighed = [
            replace(group, members=tuple(next(known) if self._counts(m) else m for m in group.members))
            for group in groups
        ]
        return weighed, self._metrics([member for _, member in counted], divergences, rows, targets)

    def batch(self, rollout: Sequence[Group], members: Sequence[tuple[Group, Graded]], step: int) -> PPOBatch:
        warming_up = step <= self._how.value_warmup_steps
        self._warm_up(warming_up)
        weight = 0.0 if warming_up else 1.0
        trained = [(group, member) for group, member in members if member.advantage is not None]
        if trained:
            trees = trees_of(trained, self._prompt, lambda member: self._leaf(member, weight))
            tokens = sum(len(member.completion.tokens or ()) for _, member in trained)
            return ppo_batch(trees, tokens=float(tokens))
        spare = trees_of(members[:1], self._prompt, self._spare_leaf)
        return ppo_batch(spare, tokens=0.0).nothing()

    def record(self, member: Graded) -> dict[str, Any]:
        named = [name for name in ("values", "advantages", "returns") if name in member.columns]
        made: dict[str, Any] = {name: [round(value, 6) for value in member.columns[name]] for name in named}
        if named and self._texts is not None:
            made["tokens"] = self._texts(member.completion.tokens or ())
        return made

    def is_done(self, metrics: Mapping[str, float]) -> bool:
        limit = self._how.early_stop_kl
        return limit is not None and metrics.get("policy/approxkl_avg", 0.0) > limit

    def state_dict(self) -> dict[str, Any]:
        return {"kl_coef": self._kl_coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kl_coef = state["kl_coef"]

    def _counts(self, member: Graded) -> bool:
        """Whether it is trained on: a judged completion, unless it was cut off and these are left out."""
        masked = self._how.mask_truncated and member.truncated
        return member.reward is not None and not masked and bool(member.completion.tokens)

    def _divergence(self, member: Graded) -> list[float]:
        """The KL to the reference at each token, or nothing."""
        if not self._plan.reference_needed:
            return []
        policy = torch.tensor(member.completion.logprobs, dtype=torch.float64)
        reference = torch.tensor(member.columns["ref_logprobs"], dtype=torch.float64)
        made: list[float] = kl_estimate(policy, reference, self._how.kl_estimator).tolist()
        return made

    def _rewards(self, member: Graded, divergence: Sequence[float]) -> list[float]:
        """Minus the KL penalty at each token, and the score at the last one."""
        made = [-self._kl_coef * kl for kl in divergence] or [0.0] * len(member.completion.tokens or ())
        made[-1] += self._score(member)
        return made

    def _score(self, member: Graded) -> float:
        penalty = self._how.missing_eos_penalty if member.truncated else None
        return (member.reward or 0.0) - (penalty or 0.0)

    def _lam(self, length: int) -> float:
        return self._how.lam if self._how.lam_alpha is None else length_adaptive_lam(length, self._how.lam_alpha)

    def _metrics(
        self,
        members: Sequence[Graded],
        divergences: Sequence[Sequence[float]],
        values: Sequence[Sequence[float]],
        targets: Sequence[Sequence[float]],
    ) -> Metrics:
        """Under TRL's names: sums over a completion, means over the completions of all processes."""
        count = float(len(members))
        scores = [self._score(member) for member in members]
        kl = [math.fsum(row) for row in divergences]
        tokens = float(sum(map(len, values)))
        flat = [target for row in targets for target in row]
        errors = [target - value for target, value in zip(flat, (value for row in values for value in row))]
        sums = {
            "objective/scores": (math.fsum(scores), count),
            "objective/entropy": (-math.fsum(math.fsum(m.completion.logprobs or ()) for m in members), count),
            "val/num_eos_tokens": (float(sum(not member.truncated for member in members)), 1.0),
            "returns/mean": (math.fsum(flat), tokens),
            "_squares": (math.fsum(target**2 for target in flat), tokens),
            "_missed": (math.fsum(error**2 for error in errors), tokens),
        }
        if self._plan.reference_needed:
            penalty = -self._kl_coef * math.fsum(kl)
            sums |= {
                "kl": (math.fsum(kl), tokens),
                "objective/kl": (math.fsum(kl), count),
                "objective/non_score_reward": (penalty, count),
                "objective/rlhf_reward": (penalty + math.fsum(scores), count),
            }
        known = [member.reward for member in members if member.reward is not None]
        gathered = self._gather([sums, known])
        everyone = [one for one, _ in gathered]
        made: dict[str, tuple[float, float]] = {
            name: (sum(one[name][0] for one in everyone), sum(one[name][1] for one in everyone)) for name in sums
        }
        made["val/num_eos_tokens"] = (made["val/num_eos_tokens"][0], 1.0)
        # nothing is compared within a prompt's group here: the rollout is the group that may have no signal
        made["frac_reward_zero_std"] = (float(len({reward for _, rewards in gathered for reward in rewards}) < 2), 1.0)
        squares, missed = made.pop("_squares"), made.pop("_missed")
        total, n = made["returns/mean"]
        if n and (spread := squares[0] / n - (total / n) ** 2) > 0:
            made["val/explained_variance"] = (1 - missed[0] / n / spread, 1.0)
        if self._plan.reference_needed:
            made["objective/kl_coef"] = (self._kl_coef, 1.0)
            self._steer(*made["objective/kl"])
        return {**made}

    def _steer(self, total: float, completions: float) -> None:
        how = self._how
        if how.kl_target is not None and completions:
            self._kl_coef = next_kl_coef(
                self._kl_coef, total / completions, target=how.kl_target, completions=int(completions),
                horizon=how.kl_horizon,
            )  # fmt: skip

    def _prompt(self, group: Group) -> Sequence[int]:
        return self._prompts[group.prompt].tokens

    def _leaf(self, member: Graded, weight: float) -> Segment:
        tokens, columns = member.completion.tokens or (), member.columns
        made: dict[str, Sequence[float]] = {
            "advantages": columns["advantages"],
            "weights": [weight] * len(tokens),
            "returns": columns["returns"],
            "old_values": columns["values"],
        }
        if not self._plan.on_policy:
            made["old_logprobs"] = member.completion.logprobs or ()
        return Segment(tokens=tokens, trained=[(0, len(tokens))], columns=made)

    def _spare_leaf(self, member: Graded) -> Segment:
        nothing = [0.0] * len(member.completion.tokens or ())
        return self._leaf(member.with_columns(advantages=nothing, returns=nothing, values=nothing), 0.0)
