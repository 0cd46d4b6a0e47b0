"""What a run writes down: logs, alarms, what was measured; in its history, in metrics.jsonl and in trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.config.training import TrainingConfig
from posttrain.engine.console import Console
from posttrain.engine.metrics import MetricsFile
from posttrain.engine.parts import Parts
from posttrain.engine.resuming import Progress
from posttrain.engine.runtime import random_state, set_random_state
from posttrain.engine.step import StepResult
from posttrain.types import Batch


class Recorder:
    """Adds up between two logs and writes entries; `tell` is told of each."""

    def __init__(
        self, parts: Parts, config: TrainingConfig, progress: Progress, console: Console, tell: Callable[..., None]
    ) -> None:
        self._parts, self._config, self._progress, self._console, self._tell = parts, config, progress, console, tell
        self._file: MetricsFile | None = None
        self._logged_at, self._tokens = time.perf_counter(), 0  # since the last log
        self._learning_rate = 0.0  # of the last step

    def open(self, *, resumed: bool) -> None:
        """Begins metrics.jsonl and the trackers, or goes on with them; on the first process only."""
        step = self._progress.state.global_step if resumed else None
        self._file = MetricsFile(Path(self._config.output_dir), after_step=step)
        if self._parts.trackers is not None:
            self._parts.trackers.start(resumed_at=step)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside takes no time: the throughput shown is that of training."""
        start = time.perf_counter()
        yield
        self._logged_at += time.perf_counter() - start

    def begin(self) -> None:
        """The first step is about to be taken."""
        self._logged_at = time.perf_counter()

    def account(self, batch: Batch, result: StepResult, learning_rate: float) -> None:
        """Adds up what a log reports; a step that was skipped is kept for inspection, and too many end the run."""
        tally, meter = self._progress.tally, self._progress.meter
        self._learning_rate = learning_rate
        self._tokens += result.tokens
        meter.add({"nonfinite_steps": (float(not result.finite), 1.0)})
        if result.finite:
            tally.take(result)
            meter.add(result.metrics)
            meter.add({"loss": (result.loss, 1.0), "grad_norm": (result.grad_norm, 1.0)})
            return
        if not self._config.logging_nan_inf_filter:
            meter.add({"loss": (result.loss, 1.0), "grad_norm": (result.grad_norm, 1.0)})
        self._console.warn(
            tally.skip(
                batch,
                result,
                step=self._progress.state.global_step,
                rank=self._parts.runtime.rank,
                output_dir=Path(self._config.output_dir),
                allowed=self._config.max_nonfinite_steps,
            )
        )

    def log(self) -> None:
        """Writes the means since the last log."""
        seconds = time.perf_counter() - self._logged_at
        rate = round(self._tokens / seconds, 1)
        self._logged_at, self._tokens = time.perf_counter(), 0
        tokens = self._progress.state.num_input_tokens_seen
        counted = {"learning_rate": self._learning_rate, "num_tokens": tokens, "tokens_per_second": rate}
        if self._config.include_num_input_tokens_seen not in ("no", False):
            counted["num_input_tokens_seen"] = tokens
        self.record(self._progress.meter.means() | counted)
        self.raise_alarms()

    def raise_alarms(self) -> None:
        """Says and records what the metrics show to be going wrong; an alarm that was asked to ends the run."""
        parts = self._parts
        if parts.watch is None:
            return
        stopping = False
        for alarm in parts.watch(self._progress.state.log_history):
            stops = alarm.name in parts.stop_on
            stopping = stopping or stops
            self._console.warn(f"Alarm {alarm.name} at step {self._progress.state.global_step}: {alarm.text}")
            self.record({"alarm": alarm.name, "text": alarm.text, "stopped": stops})
            if stops:
                self._console.warn(f"Stopping, because stop_on_alarm names {alarm.name}.")
        # the first process knows more than the others: what a gate measured
        if parts.stop_on and any(row[0] for row in parts.runtime.gather([float(stopping)])):
            control = parts.callbacks.control
            control.should_training_stop = control.should_save = True

    def record(self, metrics: Mapping[str, Any]) -> None:
        """Appends to the log history and to metrics.jsonl, and tells trackers and callbacks."""
        entry = {
            **metrics,
            "epoch": round(self._progress.state.epoch or 0.0, 4),
            "step": self._progress.state.global_step,
        }
        self._progress.state.log_history.append(entry)
        if self._file is not None:
            self._file.write(entry)
            if self._parts.trackers is not None:
                self._parts.trackers.log(entry, self._progress.state.global_step)
        self._tell("on_log", logs=dict(metrics))

    def record_measured(self, measure: Callable[[int], dict[str, float]], step_: int) -> None:
        """Measures the model of this step, which it is now, or the start, and records what came out."""
        device = self._parts.runtime.device
        before = random_state(device)  # what measures may draw, and a resumed run does not measure again
        with self.aside():
            self.record(measure(step_))
            set_random_state(before, device)
            if step_ and self._parts.runtime.world_size == 1:  # several processes see it together, at the next log
                self.raise_alarms()
