"""The training loop: steps, logs, evaluations, checkpoints, interruption and resumption."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState

from posttrain.config.training import TrainingConfig
from posttrain.engine.alarms import Watch
from posttrain.engine.checkpoint import load_state, save_checkpoint, set_aside
from posttrain.engine.console import Console, stop_request
from posttrain.engine.metrics import Meter, MetricsFile
from posttrain.engine.runtime import Runtime, random_state, set_random_state
from posttrain.engine.step import Budget, LossFunction, StepResult, step
from posttrain.errors import CheckpointError, PosttrainError, TrainingError
from posttrain.types import Batch, Source

# What may change when a run is resumed: where things go, when they are shown and kept, and how a step is cut.
# The batch size may be cut otherwise too; the source checks that a step has as many rows as before.
FREE_ON_RESUME = frozenset(
    [
        "output_dir",
        "run_name",
        "resume_from_checkpoint",
        "disable_tqdm",
        "report_to",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "per_device_eval_batch_size",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "eval_strategy",
        "eval_steps",
        "eval_on_start",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "max_nonfinite_steps",
        "max_tokens_per_pass",
        "num_threads",
        "bf16",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "use_cpu",
        "trust_remote_code",
        "remove_unused_columns",
        # of online training
        "rollout_batch_size",
        "save_samples",
        "log_completions",
        "num_completions_to_print",
        "track_kl",
        "max_kl",
        "stop_on_alarm",
        "gate",
        "drift_steps",
        "drift_text",
    ]
)


FORMAT = 1  # of the training state; raised when its contents change


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop is handed. It names no algorithm."""

    learner: nn.Module  # wrapped for its processes
    source: Source
    loss: LossFunction
    optimizer: Optimizer
    scheduler: LRScheduler
    runtime: Runtime
    budget: Budget
    write_model: Callable[[Path], None]  # fills a checkpoint's directory
    read_model: Callable[[Path], None]  # restores the weights from it
    evaluate: Callable[[], dict[str, float]] | None = None
    measure: Callable[[int], dict[str, float]] | None = None  # the start (0), and each checkpoint about to be written
    probe: Callable[[int], dict[str, float]] | None = (
        None  # the start (0), and the model every `drift_steps`; of one process
    )
    make_room: Callable[[], bool] | None = None
    needs: Sequence[str] = ()  # of the model in every step, beside the log-probabilities
    watch: Watch | None = None
    stop_on: frozenset[str] = frozenset()  # the alarms that end the run
    measured: frozenset[str] = frozenset()  # settings that were picked by measurement, not asked for
    callbacks: Sequence[TrainerCallback] = ()
    callback_context: Mapping[str, Any] = field(default_factory=dict)


class Interval:
    """Every so many steps (below 1: a share of all steps), or at every epoch's end, or never."""

    def __init__(self, strategy: str, steps: float | None, max_steps: int) -> None:
        self._at_epochs = strategy == "epoch"
        self._steps = 0
        if strategy == "steps" and steps is not None:
            self._steps = max(1, math.ceil(max_steps * steps) if steps < 1 else int(steps))

    def due(self, global_step: int, epoch_ended: bool) -> bool:
        return epoch_ended if self._at_epochs else bool(self._steps) and global_step % self._steps == 0


@dataclass(kw_only=True)
class Tally:
    """What a run counts beside transformers' TrainerState; saved with it."""

    loss: float = 0.0  # summed over the steps that were taken
    steps: int = 0  # taken, that is not skipped
    skipped_in_a_row: int = 0


class Loop:
    """Runs a training to its end. `state` is transformers' TrainerState: global_step, epoch, log_history ..."""

    def __init__(self, parts: Parts, config: TrainingConfig, max_steps: int) -> None:
        self.parts, self.config = parts, config
        self.output_dir = Path(config.output_dir)
        self.state = TrainerState(max_steps=max_steps, num_train_epochs=math.ceil(config.num_train_epochs))
        self.state.is_world_process_zero = self.state.is_local_process_zero = parts.runtime.is_main
        self._control = TrainerControl()
        self._console = Console(silent=not parts.runtime.is_main, hide_bar=config.disable_tqdm)
        self._meter, self._tally = Meter(), Tally()
        self._file: MetricsFile | None = None
        self._logged_at, self._tokens_since_log = time.perf_counter(), 0
        self.first_step = 0  # where this call began
        self._log_due = Interval(config.logging_strategy, config.logging_steps, max_steps)
        self._eval_due = Interval(config.eval_strategy, config.eval_steps or config.logging_steps, max_steps)
        self._probe_due = Interval("steps", config.drift_steps, max_steps)
        self._save_due = Interval(config.save_strategy, config.save_steps, max_steps)

    def run(self, checkpoint: Path | None = None) -> float:
        """Trains from the start, or from the checkpoint; returns the mean loss of the steps taken.

        On the first Ctrl-C it finishes the step, saves, says how to go on and raises KeyboardInterrupt.
        """
        if checkpoint is not None:
            self._resume(checkpoint)
        self.first_step = self.state.global_step
        if self.parts.runtime.is_main:
            if checkpoint is None and (old := set_aside(self.output_dir)) is not None:
                self._console.say(f"{self.output_dir} held an earlier run: its checkpoints and metrics are in {old}.")
            self._file = MetricsFile(self.output_dir, after_step=self.state.global_step if checkpoint else None)
            for measure in (self.parts.measure, self.parts.probe):
                if measure is not None and checkpoint is None:
                    self._record_measured(measure, 0)
        self._tell("on_train_begin")
        if self.config.eval_on_start and checkpoint is None:
            self.evaluate()
        self._logged_at = time.perf_counter()
        with (
            stop_request() as stop,
            self._console.progress(done=self.state.global_step, total=self.state.max_steps),
        ):
            while self.state.global_step < self.state.max_steps and not self._control.should_training_stop:
                batch_epoch = self.parts.source.epoch
                batch = self._next_batch()
                if batch is None:
                    break
                self._one_step(batch, math.floor(self.parts.source.epoch) > math.floor(batch_epoch), stop)
        self._tell("on_train_end")
        return self._tally.loss / max(self._tally.steps, 1)

    def _next_batch(self) -> Batch | None:
        """The source's next batch. Where it raises, what was trained so far is saved before the error goes on."""
        try:
            return self.parts.source.next()
        except PosttrainError:
            step_ = self.state.global_step
            saved = (self.output_dir / f"checkpoint-{step_}").exists()
            if step_ and not saved and self.config.save_strategy != "no" and self.parts.runtime.world_size == 1:
                self._save(measure=False)
                self._console.say(self._how_to_go_on())
            raise

    def _one_step(self, batch: Batch, epoch_ended: bool, stop: threading.Event) -> None:
        """One step, with what is due after it."""
        parts, state, config = self.parts, self.state, self.config
        number = state.global_step + 1
        last = number >= state.max_steps
        log_due = last or self._log_due.due(number, epoch_ended) or (number == 1 and config.logging_first_step)
        self._tell("on_step_begin")
        parts.learner.train()
        learning_rate = float(parts.scheduler.get_last_lr()[0])
        result = step(
            parts.learner,
            batch,
            parts.loss,
            optimizer=parts.optimizer,
            runtime=parts.runtime,
            budget=parts.budget,
            max_grad_norm=config.max_grad_norm,
            # the entropy costs another pass over the logits; the steps that are shown say enough about it
            needs=("logprobs", *parts.needs, *(("entropy",) if log_due else ())),
            make_room=parts.make_room,
        )
        if result.finite:
            parts.scheduler.step()
        state.global_step, state.epoch = number, parts.source.epoch
        state.num_input_tokens_seen += result.tokens
        self._tokens_since_log += result.tokens
        self._account(batch, result)
        self._meter.add(parts.source.metrics())
        parts.source.observe({name: amount / count for name, (amount, count) in result.metrics.items() if count})
        self._console.step(result.loss, result.tokens)
        self._tell("on_step_end")
        if log_due and config.logging_strategy != "no":
            self._log(learning_rate)
        if self._eval_due.due(number, epoch_ended) or self._control.should_evaluate:
            self.evaluate()
        if config.drift_steps is not None and (last or self._probe_due.due(number, epoch_ended)):
            if parts.probe is not None:
                self._record_measured(parts.probe, number)
            parts.runtime.barrier()
        stopping = any(row[0] for row in parts.runtime.gather([float(stop.is_set())]))
        save_due = config.save_strategy != "no" and (last or self._save_due.due(number, epoch_ended))
        if save_due or stopping or self._control.should_save:
            # a checkpoint that is there only because somebody stopped the run is no candidate of a gate
            self._save(measure=save_due or self._control.should_save)
        if epoch_ended:
            self._tell("on_epoch_end")
        if stopping:
            self._console.say(self._how_to_go_on())
            raise KeyboardInterrupt

    def _account(self, batch: Batch, result: StepResult) -> None:
        """Adds up what a log reports; a step that was skipped is kept for inspection, and too many end the run."""
        tally = self._tally
        self._meter.add({"nonfinite_steps": (float(not result.finite), 1.0)})
        if result.finite:
            tally.skipped_in_a_row = 0
            tally.loss += result.loss
            tally.steps += 1
            self._meter.add(result.metrics)
            self._meter.add({"loss": (result.loss, 1.0), "grad_norm": (result.grad_norm, 1.0)})
            return
        tally.skipped_in_a_row += 1
        step_, rank = self.state.global_step, self.parts.runtime.rank
        kept = self.output_dir / "nonfinite" / f"step-{step_}-rank-{rank}.safetensors"
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(_tensors(batch), kept)
        what = f"loss {result.loss}, gradient norm {result.grad_norm}"
        self._console.say(f"Step {step_} skipped: {what}. Its batch is kept in {kept}.")
        if tally.skipped_in_a_row >= self.config.max_nonfinite_steps:
            raise TrainingError(
                f"{tally.skipped_in_a_row} steps in a row with a non-finite loss or gradient (last: {what}). "
                f"The weights are those after step {step_ - tally.skipped_in_a_row}; the batches are in {kept.parent}. "
                "Start a new run with a lower learning_rate, more warmup_steps or a lower max_grad_norm (a checkpoint "
                "serves as its model), or resume with bf16=False."
            )

    def _log(self, learning_rate: float) -> None:
        seconds = time.perf_counter() - self._logged_at
        rate = round(self._tokens_since_log / seconds, 1)
        self._logged_at, self._tokens_since_log = time.perf_counter(), 0
        seen = self.state.num_input_tokens_seen
        self.record(
            self._meter.means() | {"learning_rate": learning_rate, "num_tokens": seen, "tokens_per_second": rate}
        )
        self._raise_alarms()

    def _raise_alarms(self) -> None:
        """Says and records what the metrics show to be going wrong; an alarm that was asked to ends the run."""
        parts = self.parts
        if parts.watch is None:
            return
        stopping = False
        for alarm in parts.watch(self.state.log_history):
            stops = alarm.name in parts.stop_on
            stopping = stopping or stops
            self._console.say(f"Alarm {alarm.name} at step {self.state.global_step}: {alarm.text}")
            self.record({"alarm": alarm.name, "text": alarm.text, "stopped": stops})
            if stops:
                self._console.say(f"Stopping, because stop_on_alarm names {alarm.name}.")
        # the first process knows more than the others: what a gate measured
        if parts.stop_on and any(row[0] for row in parts.runtime.gather([float(stopping)])):
            self._control.should_training_stop = self._control.should_save = True

    def record(self, metrics: Mapping[str, Any]) -> None:
        """Appends to the log history and to metrics.jsonl."""
        entry = {**metrics, "epoch": round(self.state.epoch or 0.0, 4), "step": self.state.global_step}
        self.state.log_history.append(entry)
        if self._file is not None:
            self._file.write(entry)
        self._tell("on_log", logs=dict(metrics))

    def evaluate(self) -> None:
        """Records the metrics of the evaluation data, if there is any."""
        if self.parts.evaluate is None:
            return
        start = time.perf_counter()
        metrics = self.parts.evaluate()
        self.record(metrics)
        self._tell("on_evaluate", metrics=metrics)
        self._raise_alarms()
        self._control.should_evaluate = False
        self._logged_at += time.perf_counter() - start  # the throughput shown is that of training
        shown = next((name for name in ("eval_loss", "eval_reward") if name in metrics), None)
        said = f"{shown} {metrics[shown]:.4f}" if shown else "of the evaluation nothing could be judged"
        self._console.say(f"step {self.state.global_step}: {said}")

    def _save(self, *, measure: bool) -> None:
        parts, state = self.parts, self.state
        if parts.measure is not None and measure and parts.runtime.is_main:
            self._record_measured(parts.measure, state.global_step)  # first, so that the log that is saved has it
        saved = None if self.config.save_only_model else self._state_dict()
        if parts.runtime.is_main:
            log = {
                name: getattr(state, name)
                for name in ("global_step", "max_steps", "epoch", "num_input_tokens_seen", "log_history")
            }
            save_checkpoint(
                self.output_dir,
                state.global_step,
                write_model=parts.write_model,
                state=saved,
                log=log,
                keep=self.config.save_total_limit,
            )
        parts.runtime.barrier()
        self._control.should_save = False
        self._tell("on_save")

    def _record_measured(self, measure: Callable[[int], dict[str, float]], step_: int) -> None:
        """Measures the model of this step, which it is now, or the start, and records what came out."""
        start, device = time.perf_counter(), self.parts.runtime.device
        before = random_state(device)  # what measures may draw, and a resumed run does not measure again
        self.record(measure(step_))
        set_random_state(before, device)
        if step_ and self.parts.runtime.world_size == 1:  # several processes see it together, at the next log
            self._raise_alarms()
        self._logged_at += time.perf_counter() - start  # the throughput shown is that of training

    def _state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on."""
        parts, state = self.parts, self.state
        return {
            "global_step": state.global_step,
            "max_steps": state.max_steps,
            "epoch": state.epoch,
            "tokens": state.num_input_tokens_seen,
            "log_history": state.log_history,
            "optimizer": parts.optimizer.state_dict(),
            "scheduler": {name: value for name, value in parts.scheduler.state_dict().items() if name != "lr_lambdas"},
            "source": parts.source.state_dict(),
            "meter": self._meter.state_dict(),
            "tally": vars(self._tally),
            "format": FORMAT,
            "config": self.config.to_dict(),
            "max_tokens_per_pass": parts.budget.max_tokens,
            "bf16": parts.runtime.autocast_dtype == torch.bfloat16,
            "num_threads": torch.get_num_threads(),
            "random": parts.runtime.gather_objects(random_state(parts.runtime.device)),
        }

    def _resume(self, checkpoint: Path) -> None:
        parts, state, saved = self.parts, self.state, load_state(checkpoint)
        if saved.get("format") != FORMAT:
            raise CheckpointError(
                f"{checkpoint} was written by another version of posttrain and cannot be resumed by this one. "
                "Use it as the model of a new run."
            )
        processes = len(saved["random"])
        if processes != parts.runtime.world_size:
            raise CheckpointError(
                f"{checkpoint} was written by {processes} processes, this run has {parts.runtime.world_size}: the "
                "order of the data would change. Start as many processes as before."
            )
        if saved["max_steps"] != state.max_steps:
            raise CheckpointError(
                f"{checkpoint} belongs to a run of {saved['max_steps']} steps, this one has {state.max_steps}: the "
                "learning rate schedule would jump. Keep the data, batch size and number of epochs, or start a new "
                "run with the checkpoint as its model."
            )
        self._refuse_another_configuration(checkpoint, saved["config"])
        parts.source.load_state_dict(saved["source"])
        parts.read_model(checkpoint)
        parts.optimizer.load_state_dict(saved["optimizer"])
        lambdas = {name: value for name, value in parts.scheduler.state_dict().items() if name == "lr_lambdas"}
        parts.scheduler.load_state_dict(saved["scheduler"] | lambdas)
        self._meter.load_state_dict(saved["meter"])
        self._tally = Tally(**saved["tally"])
        state.global_step, state.epoch = saved["global_step"], saved["epoch"]
        state.num_input_tokens_seen, state.log_history = saved["tokens"], saved["log_history"]
        self._repeat_what_was_measured(saved)
        set_random_state(saved["random"][parts.runtime.rank], parts.runtime.device)
        self._console.say(f"Resumed from {checkpoint} at step {state.global_step} of {state.max_steps}.")

    def _refuse_another_configuration(self, checkpoint: Path, before: Mapping[str, Any]) -> None:
        now = self.config.to_dict()
        changed = [name for name in now if name not in FREE_ON_RESUME and now[name] != before.get(name)]
        if changed:
            differences = ", ".join(f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in changed)
            raise CheckpointError(
                f"{checkpoint} belongs to another configuration: {differences}. Resume with what it was, or start "
                "a new run with the checkpoint as its model."
            )

    def _repeat_what_was_measured(self, saved: Mapping[str, Any]) -> None:
        """Choices that round differently are repeated, unless the user made another one."""
        parts = self.parts
        for name in ("max_tokens_per_pass", "bf16", "num_threads"):
            now, before = getattr(self.config, name), saved[name]
            if name not in parts.measured and now != before:
                self._console.say(f"{name} was {before} and is {now}: equal to rounding from here on, not to the bit.")
                continue
            if name == "max_tokens_per_pass":
                parts.budget.max_tokens = before
            elif name == "bf16":
                parts.runtime.autocast_dtype = torch.bfloat16 if before else None
            else:
                torch.set_num_threads(before)

    def _how_to_go_on(self) -> str:
        state, place = self.state, self.output_dir / f"checkpoint-{self.state.global_step}"
        if self.config.save_only_model:
            return (
                f"Stopped at step {state.global_step}. The model is in {place}; without its state it cannot be resumed."
            )
        return (
            f"Stopped at step {state.global_step} of {state.max_steps}. Everything is in {place}. Go on with "
            "train(resume_from_checkpoint=True), or --resume_from_checkpoint true on the command line."
        )

    def _tell(self, event: str, **details: Any) -> None:
        for callback in self.parts.callbacks:
            answer = getattr(callback, event)(
                self.config, self.state, self._control, **self.parts.callback_context, **details
            )
            self._control = answer or self._control


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor of a batch by name."""
    named = {f"forest.{name}": value for name, value in vars(batch.forest).items()} | vars(batch)
    return {n: v.detach().cpu().contiguous().clone() for n, v in named.items() if isinstance(v, torch.Tensor)}
