"""How often a run does what: steps, evaluations, checkpoints, from its settings and the number of its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from posttrain.engine.loop import Interval
from posttrain.trainers.checks import count_steps, rows_per_step


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Numbers of a whole run in one process."""

    steps: int
    cycle: int  # steps that are made of one rollout; 1 where nothing is sampled
    units: int  # rows, pairs, or prompts of one step (of one rollout)
    total: float  # of them in the whole run
    evaluations: int
    checkpoints: int  # written
    kept: int  # that remain on the disk
    sampled: bool  # the run writes its own answers


def schedule(config: Any, units: int, *, evaluates: bool) -> Schedule:
    """The schedule of a run on so many units. Raises ConfigError where they do not fill a step."""
    if online(config):
        together = config.rollout_size(1) // config.num_generations
        passes = getattr(config, "num_iterations", 1) * getattr(config, "num_ppo_epochs", 1)
        cycle = config.steps_per_pass(1) * passes
        steps = (
            config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * units / together) * cycle
        )
        total = steps / cycle * together
        per_epoch = max(1, round(units / together * cycle))
    else:
        together, cycle = rows_per_step(config, 1), 1
        steps = count_steps(config, units, 1)
        per_epoch = count_steps(config.replace(max_steps=-1, num_train_epochs=1.0), units, 1)
        total = steps / per_epoch * min(units, per_epoch * together)
    evaluations = 0
    if evaluates:
        evaluations = _times(
            Interval(config.eval_strategy, config.eval_steps or config.logging_steps, steps), steps, per_epoch
        )
        evaluations += bool(config.eval_on_start)
    due = Interval(config.save_strategy, config.save_steps, steps)
    checkpoints = 0
    if config.save_strategy != "no":
        checkpoints = _times(due, steps, per_epoch)
        checkpoints += not due.due(steps, steps % per_epoch == 0)  # the last step writes one in any case
    kept = checkpoints if config.save_total_limit is None else min(checkpoints, config.save_total_limit)
    return Schedule(
        steps=steps, cycle=cycle, units=together, total=total, evaluations=evaluations, checkpoints=checkpoints,
        kept=kept, sampled=online(config),
    )  # fmt: skip


def online(config: Any) -> bool:
    """Whether the run samples its own answers."""
    return hasattr(config, "rollout_size")


def _times(interval: Interval, steps: int, per_epoch: int) -> int:
    return sum(interval.due(step, step % per_epoch == 0) for step in range(1, steps + 1))
