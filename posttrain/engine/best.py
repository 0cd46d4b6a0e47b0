"""The best checkpoint of a run, by a metric of the evaluation data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerState

from posttrain.config.training import TrainingConfig
from posttrain.errors import TrainingError, nearest


@dataclass(kw_only=True)
class Best:
    """Compares evaluations. What it finds stands in transformers' TrainerState, where callbacks look for it.

    `best_metric` and `best_global_step` are the best evaluation's, whether or not a checkpoint was written then;
    `best_model_checkpoint` is the best of the checkpoints that were evaluated at the step they hold.
    """

    metric: str | None  # with its prefix; None: nobody asked
    greater: bool
    saved: float | None = None  # the metric of `best_model_checkpoint`
    _now: tuple[int, float] | None = field(default=None, repr=False)  # the step evaluated last, and its metric

    @classmethod
    def of(cls, config: TrainingConfig) -> Best:
        """What the configuration asks for."""
        name = config.metric_for_best_model
        metric = None if name is None else name if name.startswith("eval_") else f"eval_{name}"
        return cls(metric=metric, greater=bool(config.greater_is_better))

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The metric's value; None where nobody asked. Raises TrainingError if the evaluation does not have it."""
        if self.metric is None:
            return None
        if self.metric not in metrics:
            known = sorted(name for name in metrics if name.startswith("eval_"))
            raise TrainingError(
                f"metric_for_best_model: the evaluation has no {self.metric!r}{nearest(self.metric, known)} (it has "
                f"{', '.join(known) or 'nothing that could be judged'})"
            )
        return float(metrics[self.metric])

    def note(self, state: TrainerState, metrics: Mapping[str, float]) -> bool:
        """Whether this evaluation, of the model as it is now, is the best so far. Equal is not better."""
        value = self.value(metrics)
        if value is None:
            return False
        self._now = (state.global_step, value)
        if not self._better(value, state.best_metric):
            return False
        state.best_metric, state.best_global_step = value, state.global_step
        return True

    def note_checkpoint(self, state: TrainerState, output_dir: Path) -> None:
        """Told that a checkpoint of this step is about to be written."""
        if self._now is not None and self._now[0] == state.global_step and self._better(self._now[1], self.saved):
            self.saved = self._now[1]
            state.best_model_checkpoint = str(output_dir / f"checkpoint-{state.global_step}")

    def _better(self, value: float, than: float | None) -> bool:
        if math.isnan(value):
            return False
        return than is None or (value > than if self.greater else value < than)

    def state_dict(self, state: TrainerState) -> dict[str, Any]:
        path = state.best_model_checkpoint
        return {
            "metric": state.best_metric,
            "step": state.best_global_step,
            "saved": self.saved,
            "checkpoint": None if path is None else Path(path).name,
            "now": None if self._now is None else list(self._now),
        }

    def load_state_dict(self, saved: Mapping[str, Any], state: TrainerState, output_dir: Path) -> None:
        """Takes over what an earlier part of the run found; a checkpoint that is gone is no longer the best."""
        state.best_metric, state.best_global_step = saved["metric"], saved["step"]
        self._now = None if saved["now"] is None else tuple(saved["now"])
        path = None if saved["checkpoint"] is None else output_dir / saved["checkpoint"]
        if path is not None and path.is_dir():
            self.saved, state.best_model_checkpoint = saved["saved"], str(path)
