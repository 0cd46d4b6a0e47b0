"""Prompts become groups of graded completions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from posttrain.data.prompts import PromptSet
from posttrain.rewards.combination import RewardSet
from posttrain.rewards.notes import RewardNotes
from posttrain.sources.rollouts import Graded, Group
from posttrain.types import Sampler, SamplingParams


def sample_groups(
    prompts: PromptSet,
    chosen: Sequence[int],
    numbers: Sequence[int],
    *,
    sampler: Sampler,
    rewards: RewardSet,
    params: SamplingParams,
    count: int,
    seed: int,
    notes: RewardNotes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Group], dict[str, int]]:
    """A graded group for each chosen prompt, and how many completions each reward could not judge.

    The draws of a group follow from the seed and its number. `notes` are handed to the rewards and keep what they note.
    """
    if not chosen:
        return [], {}
    rows = [prompts.prompts[index] for index in chosen]
    answers = sampler.sample(
        [row.tokens for row in rows], params, count=count, seed=seed, keys=list(numbers), progress=progress
    )
    repeated = [row for row in rows for _ in range(count)]
    completions = [completion for group in answers for completion in group]
    scored = rewards.score(
        prompts=[row.prompt for row in repeated],
        completions=[
            completion.text if isinstance(row.prompt, str) else [{"role": "assistant", "content": completion.text}]
            for row, completion in zip(repeated, completions)
        ],
        completion_ids=[list(completion.tokens or ()) for completion in completions],
        columns={name: [row.columns.get(name) for row in repeated] for name in rows[0].columns},
        places=[f"{row.place}, completion {1 + index % count}" for index, row in enumerate(repeated)],
        extras=None if notes is None else notes.keywords(),
    )
    noted = [{}] * len(completions) if notes is None else notes.take_columns(len(completions))
    members = [
        Graded(
            completion=completion,
            rewards={name: values[at] for name, values in scored.by_name.items()},
            reward=scored.total[at],
            noted=noted[at],
        )
        for at, completion in enumerate(completions)
    ]
    groups = [
        Group(number=number, prompt=index, members=tuple(members[place * count : (place + 1) * count]))
        for place, (number, index) in enumerate(zip(numbers, chosen))
    ]
    return groups, dict(scored.unjudged)


def with_random_rewards(group: Group, seed: int) -> Group:
    """The group with rewards of a coin, for the control arm; what the reward functions said stays beside them."""
    coin = random.Random(f"control arm {seed} {group.number}")
    return replace(group, members=tuple(replace(member, reward=float(coin.random() < 0.5)) for member in group.members))
