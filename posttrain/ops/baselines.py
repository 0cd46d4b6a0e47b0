"""Advantages of answers that are there before training: how much better each was than could be expected.

    A_i = (r_i - b_i) / (s + 1e-4)

The baseline b is what the answer is compared with:

    mean, leave_one_out   the rows of its own prompt, all of them or the others, as in `group_advantages`
    data_mean             the mean of all rows
    data_quantile         a quantile of all rows; 0.5 is their median
    data_running          a running mean of the rows before it, b_1 = r_1 and b_(i+1) = d b_i + (1 - d) r_i: for data
                          whose policy became better while it was written

The scale s is the unbiased standard deviation of the prompt's rows, of all rows, or none. A prompt whose rows all have
the same reward says nothing under its own baseline, so its rows have no advantage: None.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from posttrain.ops.advantages import EPSILON, group_advantages

PROMPT_BASELINES = ("mean", "leave_one_out")
DATA_BASELINES = ("data_mean", "data_quantile", "data_running")


def offline_advantages(
    rewards: Sequence[float],
    prompts: Sequence[int],
    *,
    baseline: str = "mean",
    scale: str = "group",
    quantile: float = 0.5,
    decay: float = 0.99,
) -> list[float | None]:
    """The advantage of each row; `prompts` numbers the prompt of each, `scale` is "group", "data" or "none"."""
    if baseline in PROMPT_BASELINES:
        advantages = _against_prompt(rewards, prompts, baseline, "group" if scale == "group" else "none")
    else:
        levels = _levels(rewards, baseline, quantile, decay)
        advantages = [reward - level for reward, level in zip(rewards, levels)]
    if scale != "data":
        return advantages
    deviation = _deviation(rewards) + EPSILON
    return [None if value is None else value / deviation for value in advantages]


def _against_prompt(rewards: Sequence[float], prompts: Sequence[int], baseline: str, scale: str) -> list[float | None]:
    members: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        members[prompt].append(row)
    advantages: list[float | None] = [None] * len(rewards)
    for rows in members.values():
        known = [rewards[row] for row in rows]
        if min(known) < max(known):
            for row, value in zip(rows, group_advantages(known, len(known), scale=scale, baseline=baseline)):
                advantages[row] = value
    return advantages


def _levels(rewards: Sequence[float], baseline: str, quantile: float, decay: float) -> list[float]:
    if baseline == "data_mean":
        return [math.fsum(rewards) / len(rewards)] * len(rewards)
    if baseline == "data_quantile":
        return [_quantile(rewards, quantile)] * len(rewards)
    level, levels = rewards[0], []
    for reward in rewards:
        levels.append(level)
        level = decay * level + (1 - decay) * reward
    return levels


def _quantile(values: Sequence[float], share: float) -> float:
    """Between the two nearest values in proportion, as numpy has it."""
    ordered, place = sorted(values), share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _deviation(values: Sequence[float]) -> float:
    """The unbiased standard deviation, 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
