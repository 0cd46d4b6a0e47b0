"""What online training samples: completions with their rewards and advantages, in groups that share a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from posttrain.sampling.broken_text import repeated_share
from posttrain.types import Completion, Metrics, Segment


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """One completion, graded. `reward` and `advantage` are None where it could not be judged."""

    completion: Completion
    rewards: Mapping[str, float | None]
    reward: float | None
    advantage: float | None = None
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # a value per token: ref_logprobs, ...
    noted: Mapping[str, Any] = field(default_factory=dict)  # what rewards wrote beside it, for its record

    @property
    def truncated(self) -> bool:
        """Whether it was cut off where it might have gone on."""
        return self.completion.finish_reason == "length"

    def with_columns(self, **columns: Sequence[float]) -> Graded:
        """The same with further columns."""
        return replace(self, columns={**self.columns, **{name: tuple(values) for name, values in columns.items()}})


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A prompt of the dataset and its completions."""

    number: int  # counted over the whole run
    prompt: int  # index into the prompts
    members: tuple[Graded, ...]

    def rewards(self) -> list[float]:
        """Those that are known."""
        return [member.reward for member in self.members if member.reward is not None]

    def has_signal(self) -> bool:
        """Whether its rewards differ, so that something can be learned from it."""
        known = self.rewards()
        return len(known) > 1 and max(known) > min(known)


def with_advantages(groups: Sequence[Group], advantages: Sequence[float | None]) -> list[Group]:
    """The groups with one advantage for each completion, in order."""
    values = iter(advantages)
    return [
        replace(group, members=tuple(replace(member, advantage=next(values)) for member in group.members))
        for group in groups
    ]


def trees_of(
    members: Sequence[tuple[Group, Graded]],
    prompt: Callable[[Group], Sequence[int]],
    leaf: Callable[[Graded], Segment],
) -> list[Segment]:
    """The completions as leaves of their prompts, each prompt once, in order; `prompt` gives a group's tokens."""
    leaves: dict[int, tuple[Group, list[Segment]]] = {}
    for group, member in members:
        leaves.setdefault(group.number, (group, []))[1].append(leaf(member))
    return [Segment(tokens=prompt(group), children=children) for group, children in leaves.values()]


def plain_leaf(member: Graded) -> Segment:
    """The completion alone, all of its tokens trained."""
    tokens = member.completion.tokens or ()
    return Segment(tokens=tokens, trained=[(0, len(tokens))])


def rollout_metrics(groups: Sequence[Group], unjudged: Mapping[str, int]) -> Metrics:
    """Means over a rollout under TRL's names, each as (sum, count); all processes are given all groups."""
    members = [member for group in groups for member in group.members]
    lengths = [float(len(member.completion.tokens or ())) for member in members]
    ended = [n for n, member in zip(lengths, members) if member.completion.finish_reason != "length"]
    known = [reward for group in groups for reward in group.rewards()]
    spreads = [_deviation(group.rewards()) for group in groups if len(group.rewards()) > 1]
    compared = [group for group in groups if len(group.members) > 1]
    metrics: dict[str, tuple[float, float]] = {
        "reward": (sum(known), len(known)),
        "reward_std": (sum(spreads), len(spreads)),
        "frac_reward_zero_std": (sum(not group.has_signal() for group in compared), len(compared)),
        "completions/mean_length": (sum(lengths), len(lengths)),
        "completions/min_length": (min(lengths, default=0.0), 1),
        "completions/max_length": (max(lengths, default=0.0), 1),
        "completions/clipped_ratio": (len(lengths) - len(ended), len(lengths)),
        "completions/mean_terminated_length": (sum(ended), len(ended)),
        "completions/repetition": (sum(repeated_share(member.completion.text) for member in members), len(members)),
        "rewards/unjudged": (sum(member.reward is None for member in members), len(members)),
    }
    for name in members[0].rewards if members else ():
        values = [value for member in members if (value := member.rewards[name]) is not None]
        metrics[f"rewards/{name}/mean"] = (sum(values), len(values))
        if len(values) > 1:
            metrics[f"rewards/{name}/std"] = (_deviation(values), 1)
    for name, count in unjudged.items():
        metrics[f"rewards/{name}/unjudged"] = (count, len(members))
    return {name: (float(amount), float(count)) for name, (amount, count) in metrics.items()}


def _deviation(values: Sequence[float]) -> float:
    """The unbiased standard deviation."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def pack(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups in types that a checkpoint keeps."""
    return [
        {
            "number": group.number,
            "prompt": group.prompt,
            "members": [
                {
                    "text": member.completion.text,
                    "finish_reason": member.completion.finish_reason,
                    "tokens": torch.tensor(member.completion.tokens, dtype=torch.int64),
                    "logprobs": torch.tensor(member.completion.logprobs, dtype=torch.float64),
                    "rewards": dict(member.rewards),
                    "reward": member.reward,
                    "advantage": member.advantage,
                    "columns": {
                        name: torch.tensor(values, dtype=torch.float64) for name, values in member.columns.items()
                    },
                }
                for member in group.members
            ],
        }
        for group in groups
    ]


def unpack(state: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The groups that `pack` wrote, equal to the bit."""
    return [
        Group(
            number=group["number"],
            prompt=group["prompt"],
            members=tuple(
                Graded(
                    completion=Completion(
                        text=member["text"],
                        finish_reason=member["finish_reason"],
                        tokens=tuple(member["tokens"].tolist()),
                        logprobs=tuple(member["logprobs"].tolist()),
                    ),
                    rewards=member["rewards"],
                    reward=member["reward"],
                    advantage=member["advantage"],
                    columns={name: tuple(values.tolist()) for name, values in member["columns"].items()},
                )
                for member in group["members"]
            ),
        )
        for group in state
    ]
