"""Batches that a policy writes itself: prompts are sampled, graded, and handed to what learns from them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from posttrain.data.prompts import PromptSet
from posttrain.errors import PosttrainError
from posttrain.ops.kl import kl_estimate
from posttrain.rewards.combination import RewardSet
from posttrain.rewards.notes import RewardNotes, summed
from posttrain.sources.grading import sample_groups, with_random_rewards
from posttrain.sources.offline import epoch_order
from posttrain.sources.rollouts import Graded, Group, pack, plain_leaf, rollout_metrics, trees_of, unpack
from posttrain.sources.samples import SamplesFile
from posttrain.sources.settings import require_same
from posttrain.types import Batch, Metrics, Sampler, SamplingParams, Segment

# The KL to the start, where the algorithm does not need it, is measured on some completions of some groups: each group
# costs a prompt, and 16 of those, when long, cost more than the completions
TRACKED_GROUPS, TRACKED_MEMBERS = 4, 2


@dataclass(frozen=True, kw_only=True)
class OnlinePlan:
    """How rollouts are made and cut into steps."""

    params: SamplingParams
    num_generations: int
    groups: int  # of a rollout, on each process
    steps: int  # optimiser steps of one pass over a rollout
    num_iterations: int  # passes over a rollout
    reference_needed: bool  # the algorithm needs the log-probabilities of the reference
    kl_tracked: bool
    resamples: int  # rounds of fresh prompts in place of groups without signal
    random_rewards: bool  # the control arm
    strategy: str  # "random" or "sequential"
    seed: int  # of what is drawn
    order_seed: int  # of the order of the prompts

    @property
    def on_policy(self) -> bool:
        """Whether every rollout is trained on once and at once, so that the policy is the one that sampled it."""
        return self.steps == 1 and self.num_iterations == 1


class Algorithm(Protocol):
    """What learns from graded completions: it gives them advantages, and makes the batches of a rollout's steps."""

    def weigh(self, groups: list[Group]) -> tuple[list[Group], Metrics]:
        """This process's groups with what the batches need, and what was measured over those of all processes.

        A completion whose advantage is None is in no batch.
        """
        ...

    def batch(self, rollout: Sequence[Group], members: Sequence[tuple[Group, Graded]], step: int) -> Batch:
        """The batch of the run's step with this number, of these completions of the rollout."""
        ...

    def record(self, member: Graded) -> dict[str, Any]:
        """What a sample's record says of it beside what every record does."""
        ...

    def is_done(self, metrics: Mapping[str, float]) -> bool:
        """Whether the rollout is to be left after a step with these metrics, whatever of it is not used yet."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class OnlineSource:
    """Rollouts of the model that is trained, each cut into `steps` optimiser steps, passed over `num_iterations` times.

    A draw is decided by the seed, the number of the group in the run, the number in the group and the position, so
    what is sampled does not depend on how it is batched, and a run that was killed samples the same again.
    """

    def __init__(
        self,
        prompts: PromptSet,
        plan: OnlinePlan,
        algorithm: Algorithm,
        *,
        sampler: Sampler,
        rewards: RewardSet,
        reference: Callable[[Sequence[Segment]], list[list[float]]] | None,
        samples: SamplesFile | None,
        notes: RewardNotes | None = None,
        identity: str = "",
        rank: int = 0,
        world_size: int = 1,
        gather: Callable[[Any], list[Any]] = lambda mine: [mine],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """`reference` gives the reference's log-probabilities of the trained tokens of each tree."""
        self._set, self._prompts, self._plan, self._algorithm = prompts, prompts.prompts, plan, algorithm
        self._sampler, self._rewards, self._reference, self._samples = sampler, rewards, reference, samples
        self._notes = notes
        self._rank, self._gather, self._autocast, self._progress = rank, gather, autocast, progress
        self._settings = {
            "prompts": content_of(prompts),
            "starting model": identity,
            "number of completions in a rollout": plan.groups * plan.num_generations * world_size,
            "seed": [plan.seed, plan.order_seed],
            "set of rewards": list(rewards.names),
        }
        self._step = 0  # optimiser steps given out
        self._drawn = 0  # prompts given out to all processes, which is also the number of the next group
        self._groups: list[Group] = []  # the rollout at hand
        self._given = 0  # steps of it that were given out
        self._done = False  # the algorithm wants no more of it
        self._drawn_before = 0  # prompts that were drawn before it
        self._metrics: Metrics = {}
        self._order: tuple[int, list[int]] = (-1, [])
        self.latest: list[Group] = []  # the last rollout, for whoever wants to show it

    @property
    def epoch(self) -> float:
        used = self._given / (self._plan.steps * self._plan.num_iterations)
        return (self._drawn_before + (self._drawn - self._drawn_before) * used) / len(self._prompts)

    def next(self) -> Batch:
        """This process's share of the next step, from the rollout at hand or a new one."""
        plan = self._plan
        self._metrics = {}
        if self._done or self._given == (plan.steps * plan.num_iterations if self._groups else 0):
            before = self._drawn
            try:
                self._groups, self._metrics = self._rollout()
            except PosttrainError:
                self._drawn = before  # a run that goes on samples these prompts again
                raise
            self._drawn_before, self._given, self._done = before, 0, False
        self.latest = self._groups
        members = [(group, member) for group in self._groups for member in group.members]
        size = len(members) // plan.steps
        place = self._given % plan.steps
        self._given += 1
        self._step += 1
        return self._algorithm.batch(self._groups, members[place * size : (place + 1) * size], self._step)

    def _rollout(self) -> tuple[list[Group], Metrics]:
        """This process's groups of a new rollout, and what was measured over those of all processes."""
        plan = self._plan
        kept: list[Group] = []
        idle: list[Group] = []  # without signal
        unjudged: dict[str, int] = {}
        started, tokens = time.perf_counter(), 0
        sampled: list[Group] = []
        for _ in range(1 + plan.resamples):
            lacking = self._gather(plan.groups - len(kept))
            if not any(lacking):
                break
            groups, counts = self._sample(lacking)
            tokens += sum(len(member.completion.tokens or ()) for group in groups for member in group.members)
            for name, count in counts.items():
                unjudged[name] = unjudged.get(name, 0) + count
            sampled += groups
            for group in groups:
                (kept if not plan.resamples or group.has_signal() else idle).append(group)
        kept = (kept + idle)[: plan.groups]
        everyone = self._gather([unjudged, kept, self._notes.take_metrics() if self._notes is not None else {}])
        metrics = rollout_metrics(
            [group for _, groups, _ in everyone for group in groups],
            {name: sum(counts.get(name, 0) for counts, _, _ in everyone) for name in unjudged},
        )
        metrics |= summed([noted for _, _, noted in everyone])
        if plan.reference_needed:
            kept = self._with_reference(kept)
        elif plan.kl_tracked:
            metrics["kl"] = self._kl(kept)
        kept, measured = self._algorithm.weigh(kept)
        metrics |= measured
        seconds = time.perf_counter() - started
        metrics["sampling/tokens_per_second"] = (sum(self._gather(tokens)) / seconds, 1.0)
        if plan.resamples:
            spare = sum(self._gather(len(sampled) - len(kept)))
            metrics["sampling/groups_set_aside"] = (float(spare), 1.0)
        self._record(kept, sampled)
        return kept, metrics

    def _sample(self, lacking: Sequence[int]) -> tuple[list[Group], dict[str, int]]:
        """Graded groups, as many as this process lacks; every process takes its own prompts."""
        plan = self._plan
        numbers = self._numbers(lacking)
        self._drawn += sum(lacking)
        chosen = [self._prompt(number) for number in numbers]
        if not chosen:
            return [], {}
        with self._autocast():
            groups, unjudged = sample_groups(
                self._set, chosen, numbers, sampler=self._sampler, rewards=self._rewards, params=plan.params,
                count=plan.num_generations, seed=plan.seed, notes=self._notes, progress=self._progress,
            )  # fmt: skip
        return [with_random_rewards(group, plan.seed) for group in groups] if plan.random_rewards else groups, unjudged

    def _numbers(self, lacking: Sequence[int]) -> list[int]:
        """The groups this process takes; a whole rollout is shared out so that its steps are those of one process."""
        plan, processes = self._plan, len(lacking)
        if min(lacking) == plan.groups and plan.groups % plan.steps == 0:
            share = plan.groups // plan.steps
            starts = [self._drawn + (step * processes + self._rank) * share for step in range(plan.steps)]
            return [start + place for start in starts for place in range(share)]
        start = self._drawn + sum(lacking[: self._rank])
        return list(range(start, start + lacking[self._rank]))

    def _prompt(self, number: int) -> int:
        """The prompt of the group with this number: passes over the dataset, each in an order of its own."""
        epoch, place = divmod(number, len(self._prompts))
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self._prompts), self._plan.strategy, self._plan.order_seed, epoch))
        return self._order[1][place]

    def _with_reference(self, groups: list[Group]) -> list[Group]:
        made = []
        for group, values in zip(groups, self._ask_reference(groups)):
            members, place = [], 0
            for member in group.members:
                count = len(member.completion.tokens or ())
                members.append(member.with_columns(ref_logprobs=values[place : place + count]))
                place += count
            made.append(replace(group, members=tuple(members)))
        return made

    def _ask_reference(self, groups: Sequence[Group]) -> list[list[float]]:
        """The reference's log-probabilities of each group's tokens, completion after completion."""
        assert self._reference is not None
        written = [(group, member) for group in groups for member in group.members if member.completion.tokens]
        asked = {group.number for group, _ in written}
        values = iter(self._reference(trees_of(written, self.prompt_tokens, plain_leaf)) if written else [])
        return [next(values) if group.number in asked else [] for group in groups]

    def _kl(self, groups: Sequence[Group]) -> tuple[float, float]:
        """(sum, tokens) of the KL to the start, estimated on the first completions of the first groups."""
        some = [replace(group, members=group.members[:TRACKED_MEMBERS]) for group in groups[:TRACKED_GROUPS]]
        policy = [p for group in some for member in group.members for p in member.completion.logprobs or ()]
        start = [p for values in self._ask_reference(some) for p in values]
        divergence = kl_estimate(torch.tensor(policy), torch.tensor(start), "k3")
        shares = self._gather([float(divergence.sum()), float(len(policy))])
        return sum(share[0] for share in shares), sum(share[1] for share in shares)

    def _record(self, kept: Sequence[Group], sampled: Sequence[Group]) -> None:
        """Writes all that was sampled; what dynamic sampling set aside has no advantage."""
        if self._samples is None:
            return
        trained = {group.number: group for group in kept}
        mine = [self._as_record(trained.get(g.number, g), i) for g in sampled for i in range(len(g.members))]
        everyone = self._gather(mine)
        if self._rank == 0:
            self._samples.write(record for records in everyone for record in records)

    def _as_record(self, group: Group, number: int) -> dict[str, Any]:
        member, row = group.members[number], self._prompts[group.prompt]
        return {
            "step": self._step + 1,
            "group": group.number,
            "row": row.row,
            "prompt": row.prompt,
            "completion": member.completion.text,
            "prompt_ids": list(row.tokens),
            "completion_ids": list(member.completion.tokens or ()),
            "logprobs": [round(value, 6) for value in member.completion.logprobs or ()],
            "rewards": dict(member.rewards),
            "reward": member.reward,
            "advantage": member.advantage,
            "finish_reason": member.completion.finish_reason,
            **self._algorithm.record(member),
            **({"noted": dict(member.noted)} if member.noted else {}),
        }

    def prompt_tokens(self, group: Group) -> Sequence[int]:
        """The tokens of a group's prompt."""
        return self._prompts[group.prompt].tokens

    def prompt_text(self, group: Group) -> str:
        """The prompt of a group, of a conversation its last message."""
        prompt = self._prompts[group.prompt].prompt
        return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])

    def metrics(self) -> Metrics:
        """What the rollout measured, once for each."""
        return self._metrics

    def observe(self, metrics: Mapping[str, float]) -> None:
        """The sampler holds the model that is trained, so there is nothing to refresh; the algorithm may be done."""
        self._done = self._algorithm.is_done(metrics)

    def state_dict(self) -> dict[str, Any]:
        return {
            "settings": self._settings,
            "step": self._step,
            "drawn": self._drawn,
            "drawn_before": self._drawn_before,
            "given": self._given,
            "done": self._done,
            "algorithm": self._algorithm.state_dict(),
            "groups": self._gather(pack(self._groups)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError, naming what differs, when the rollouts would not be those of the run."""
        require_same(self._settings, state["settings"])
        self._step, self._drawn, self._given = state["step"], state["drawn"], state["given"]
        self._drawn_before, self._done = state["drawn_before"], state["done"]
        self._algorithm.load_state_dict(state["algorithm"])
        self._groups = unpack(state["groups"][self._rank])
        if self._samples is not None and self._rank == 0:
            self._samples.keep_until(self._step)


def content_of(prompts: PromptSet) -> str:
    """A hash of the prompts and of the columns that rewards read."""
    digest = hashlib.blake2b(digest_size=16)
    for row in prompts.prompts:
        digest.update(repr((row.tokens, sorted(row.columns.items(), key=lambda item: item[0]))).encode())
    return digest.hexdigest()
