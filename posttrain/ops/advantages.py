"""Group-relative advantages: how much better a completion was than the others that answered the same prompt.

    A_i = (r_i - b_i) / (s + 1e-4)

The baseline b is the group's mean (arXiv:2402.03300) or, for RLOO (arXiv:2402.14740), the mean of the others, which
does not contain r_i and so leaves the gradient unbiased. The scale s is the unbiased standard deviation of the group
(GRPO), of the whole generation batch (arXiv:2508.08221), or none (Dr. GRPO, arXiv:2503.20783: dividing by the
group's deviation gives prompts that are nearly always, or nearly never, solved a larger weight than the others).

A reward of None is not zero: nothing is known about that completion. It has no advantage and is in no statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from posttrain.errors import ConfigError

SCALES = ("group", "batch", "none")
BASELINES = ("mean", "leave_one_out")
EPSILON = 1e-4  # keeps a group of nearly equal rewards from being blown up


def group_advantages(
    rewards: Sequence[float | None], group_size: int, *, scale: str = "group", baseline: str = "mean"
) -> list[float | None]:
    """The advantage of each completion of the generation batch, None where the reward is None.

    Groups are consecutive. The only one left of a group, and all of a group with equal rewards, get exactly 0.
    Raises ConfigError for a group of one, which has nothing to compare with, and for a name that is not known.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale_rewards={scale!r}: one of {', '.join(SCALES)}")
    if baseline not in BASELINES:
        raise ConfigError(f"baseline={baseline!r}: one of {', '.join(BASELINES)}")
    groups = _groups(rewards, group_size)
    batch = [reward for reward in rewards if reward is not None]
    advantages: list[float | None] = []
    for group in groups:
        known = [reward for reward in group if reward is not None]
        divisor = 1.0 if scale == "none" else _deviation(known if scale == "group" else batch) + EPSILON
        for reward in group:
            if reward is None:
                advantages.append(None)
            elif _equal(known):
                advantages.append(0.0)
            else:
                advantages.append((reward - _baseline(known, reward, baseline)) / divisor)
    return advantages


def _groups(rewards: Sequence[float | None], group_size: int) -> list[Sequence[float | None]]:
    if group_size < 2:
        raise ConfigError(
            f"a group of {group_size}: a completion is compared with others that answer the same prompt, so "
            "num_generations must be at least 2"
        )
    if len(rewards) % group_size:
        raise ConfigError(f"{len(rewards)} rewards cannot be divided into groups of {group_size}")
    return [rewards[i : i + group_size] for i in range(0, len(rewards), group_size)]


def _equal(known: Sequence[float]) -> bool:
    return not known or min(known) == max(known)


def _baseline(known: Sequence[float], reward: float, baseline: str) -> float:
    if baseline == "mean":
        return math.fsum(known) / len(known)
    return math.fsum([*known, -reward]) / (len(known) - 1)


def _deviation(known: Sequence[float]) -> float:
    """The unbiased standard deviation, 0 for fewer than two."""
    if len(known) < 2:
        return 0.0
    mean = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((r - mean) ** 2 for r in known) / (len(known) - 1))
