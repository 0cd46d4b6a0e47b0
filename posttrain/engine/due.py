"""When a run's metrics are logged, its data for evaluation is asked, and a checkpoint is written."""

from __future__ import annotations

import math
from collections.abc import Set

from posttrain.config.training import TrainingConfig

LOG, EVALUATE, SAVE = "logging", "eval", "save"


class Interval:
    """Every so many steps (below 1: a share of all steps), or at every epoch's end, or never."""

    def __init__(self, strategy: str, steps: float | None, max_steps: int) -> None:
        self.at_epochs = strategy == "epoch"
        self.steps = 0
        if strategy == "steps" and steps is not None:
            self.steps = max(1, math.ceil(max_steps * steps) if steps < 1 else int(steps))

    def due(self, global_step: int, epoch_ended: bool = False) -> bool:
        """Whether it is due after this step."""
        return epoch_ended if self.at_epochs else bool(self.steps) and global_step % self.steps == 0


class Due:
    """What is due after a step, and what at the end of an epoch; the run's last step counts as both."""

    def __init__(self, config: TrainingConfig, max_steps: int) -> None:
        self._first, self._delay = config.logging_first_step, config.eval_delay
        self.intervals = {
            LOG: Interval(config.logging_strategy, config.logging_steps, max_steps),
            EVALUATE: Interval(config.eval_strategy, config.eval_steps or config.logging_steps, max_steps),
            SAVE: Interval(config.save_strategy, config.save_steps, max_steps),
        }
        self._never_logs = config.logging_strategy == "no"

    def steps(self) -> dict[str, int]:
        """Steps between what is due by their count."""
        return {name: interval.steps for name, interval in self.intervals.items() if interval.steps}

    def after_step(self, global_step: int, *, last: bool) -> Set[str]:
        """What is due by the count of steps."""
        counted = {name: interval for name, interval in self.intervals.items() if interval.steps}
        due = {name for name, interval in counted.items() if last or interval.due(global_step)}
        if global_step == 1 and self._first and not self._never_logs:
            due.add(LOG)
        return due - {EVALUATE} if global_step < self._delay else due

    def after_epoch(self, epoch: float) -> Set[str]:
        """What is due because an epoch is over."""
        due = {name for name, interval in self.intervals.items() if interval.at_epochs}
        return due - {EVALUATE} if epoch < self._delay else due
