"""What GRPO makes of a rollout: advantages relative to the group, and batches of its clipped surrogate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.algorithms.grpo import AGGREGATIONS, PolicyBatch, policy_batch
from posttrain.data.prompts import PromptSet
from posttrain.ops.advantages import group_advantages
from posttrain.sources.online import OnlinePlan
from posttrain.sources.rollouts import Graded, Group, trees_of, with_advantages
from posttrain.types import Metrics, Segment


class GroupRelative:
    """An `Algorithm`: each completion against the others that answer its prompt."""

    def __init__(
        self,
        prompts: PromptSet,
        plan: OnlinePlan,
        *,
        loss_type: str,
        importance: str,
        scale: str,
        baseline: str,
        mask_truncated: bool,
        every_group: bool,
        rank: int = 0,
        gather: Callable[[Any], list[Any]] = lambda mine: [mine],
    ) -> None:
        """`loss_type` is a name in AGGREGATIONS; `every_group` has groups without signal trained too, for the terms
        that do not need one.
        """
        self._prompts, self._plan, self._rank, self._gather = prompts.prompts, plan, rank, gather
        self._aggregation, self._scale, self._baseline = AGGREGATIONS[loss_type], scale, baseline
        self._atom = "sequence" if importance == "sequence" else "token"
        self._mask_truncated, self._every_group = mask_truncated, every_group

    def weigh(self, groups: list[Group]) -> tuple[list[Group], Metrics]:
        everyone = self._gather([member.reward for group in groups for member in group.members])
        advantages = group_advantages(
            [reward for rewards in everyone for reward in rewards],
            self._plan.num_generations,
            scale=self._scale,
            baseline=self._baseline,
        )
        before = sum(len(rewards) for rewards in everyone[: self._rank])
        return with_advantages(groups, advantages[before:]), {}

    def batch(self, rollout: Sequence[Group], members: Sequence[tuple[Group, Graded]], step: int) -> PolicyBatch:
        """The trees of these completions, a prompt shared by its own.

        What has no gradient is left out and counted in the unit; what could not be judged is in neither.
        """
        known = [member for group in rollout for member in group.members if member.advantage is not None]
        unit = self._aggregation.unit(
            step=[self._length(member) for _, member in members if member.advantage is not None],
            rollout=[self._length(member) for member in known],
            steps=self._plan.steps,
            max_completion_length=self._plan.params.max_tokens,
        )
        trained = [
            (group, member)
            for group, member in members
            if self._length(member) and (self._every_group or group.has_signal())
        ]
        if trained:
            trees = trees_of(
                trained, self._prompt, lambda member: self._leaf(member, self._aggregation.weight(self._length(member)))
            )
            return policy_batch(trees, units={"policy": unit}, atom=self._atom)
        spare = trees_of(members[:1], self._prompt, lambda member: self._leaf(member, 0.0))
        return policy_batch(spare, units={"policy": unit}, atom=self._atom).nothing()

    def record(self, member: Graded) -> dict[str, Any]:
        return {}

    def is_done(self, metrics: Mapping[str, float]) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is no state."""

    def _prompt(self, group: Group) -> Sequence[int]:
        return self._prompts[group.prompt].tokens

    def _length(self, member: Graded) -> int:
        """Tokens that are trained: none of a completion that could not be judged, or that is masked."""
        masked = self._mask_truncated and member.truncated
        return 0 if member.advantage is None or masked else len(member.completion.tokens or ())

    def _leaf(self, member: Graded, weight: float) -> Segment:
        tokens = member.completion.tokens or ()
        columns: dict[str, Sequence[float]] = {
            "advantages": [member.advantage or 0.0] * len(tokens),
            "weights": [weight] * len(tokens),
        }
        if not self._plan.on_policy:
            columns["old_logprobs"] = member.completion.logprobs or ()
        if self._plan.reference_needed:
            columns["ref_logprobs"] = member.columns.get("ref_logprobs") or [0.0] * len(tokens)
        return Segment(tokens=tokens, trained=[(0, len(tokens))], columns=columns)
