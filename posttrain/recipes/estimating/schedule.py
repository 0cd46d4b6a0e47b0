"""How often a run does what: steps, evaluations, checkpoints, from its settings and the number of its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from posttrain.engine.due import EVALUATE, SAVE, Due, Interval
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
    due = Due(config, steps).intervals
    evaluations = 0
    if evaluates:
        delay = config.eval_delay * (per_epoch if config.eval_strategy == "epoch" else 1)
        evaluations = _times(due[EVALUATE], config.eval_strategy, steps, per_epoch, after=delay)
        evaluations += bool(config.eval_on_start)
    best = config.save_strategy == "best"  # at most as many as there are evaluations
    checkpoints = evaluations if best else _times(due[SAVE], config.save_strategy, steps, per_epoch)
    kept = checkpoints if config.save_total_limit is None else min(checkpoints, config.save_total_limit)
    return Schedule(
        steps=steps, cycle=cycle, units=together, total=total, evaluations=evaluations, checkpoints=checkpoints,
        kept=kept, sampled=online(config),
    )  # fmt: skip


def online(config: Any) -> bool:
    """Whether the run samples its own answers."""
    return hasattr(config, "rollout_size")


def _times(interval: Interval, strategy: str, steps: int, per_epoch: int, *, after: float = 0.0) -> int:
    """How often something is due; whatever is ever due is so after the last step."""
    if strategy == "no":
        return 0
    counted = (step for step in range(1, steps + 1) if step >= after)
    return sum(step == steps or interval.due(step, step % per_epoch == 0) for step in counted)
