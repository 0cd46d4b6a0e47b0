"""The training loop: steps, and what is due after them."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerState

from posttrain.config.training import TrainingConfig
from posttrain.engine.best import Best
from posttrain.engine.checkpoint import keep_only, save_checkpoint, set_aside
from posttrain.engine.console import Console, stop_request
from posttrain.engine.due import EVALUATE, LOG, SAVE, Due, Interval
from posttrain.engine.parts import Parts
from posttrain.engine.recording import Recorder
from posttrain.engine.resuming import Progress, how_to_go_on, resume, training_state
from posttrain.engine.step import step
from posttrain.errors import PosttrainError
from posttrain.types import Batch

EPOCH = "epoch"  # left early, after this step


class Loop:
    """Runs a training to its end. `state` is transformers' TrainerState: global_step, epoch, log_history ..."""

    def __init__(self, parts: Parts, config: TrainingConfig, max_steps: int) -> None:
        self.parts, self.config = parts, config
        self.output_dir = Path(config.output_dir)
        self._due = Due(config, max_steps)
        self.state = TrainerState(max_steps=max_steps, num_train_epochs=math.ceil(config.num_train_epochs))
        self.state.train_batch_size = config.per_device_train_batch_size
        for name, every in self._due.steps().items():
            setattr(self.state, f"{name}_steps", every)
        self.state.is_world_process_zero = self.state.is_local_process_zero = parts.runtime.is_main
        self._progress = Progress(state=self.state, best=Best.of(config))
        self._callbacks = parts.callbacks
        runtime = parts.runtime
        warns = runtime.is_main and runtime.speaks(logging.WARNING)
        hidden = parts.callbacks.has(ProgressCallback) or config.disable_tqdm  # two bars are one too many
        self._console = Console(silent=not runtime.speaks(), hide_bar=hidden, warns=warns)
        self._recorder = Recorder(parts, config, self._progress, self._console, self._tell)
        self._epoch_open = False  # begun, and callbacks were told
        self._done: set[str] = set()  # since the last step
        self.first_step = 0  # where this call began
        self._probe_due = Interval("steps", config.drift_steps, max_steps)

    def run(self, checkpoint: Path | None = None) -> float:
        """Trains from the start, or from the checkpoint; returns the mean loss of the steps taken.

        On the first Ctrl-C it finishes the step, saves, says how to go on and raises KeyboardInterrupt.
        """
        parts, state = self.parts, self.state
        if checkpoint is not None:
            resume(checkpoint, parts, self.config, self._progress, self._console.say)
        self.first_step = state.global_step
        if parts.runtime.is_main:
            if checkpoint is None and (old := set_aside(self.output_dir)) is not None:
                self._console.say(f"{self.output_dir} held an earlier run: its checkpoints and metrics are in {old}.")
            self._recorder.open(resumed=checkpoint is not None)
            for measure in (parts.measure, parts.probe):
                if measure is not None and checkpoint is None:
                    self._recorder.record_measured(measure, 0)
        self._callbacks.control.should_training_stop = False
        self._tell("on_train_begin")
        if self.config.eval_on_start and checkpoint is None:
            self.evaluate(counts=False)
        self._recorder.begin()
        with (
            stop_request(terminated=self.config.enable_jit_checkpoint) as stop,
            self._console.progress(done=state.global_step, total=state.max_steps),
        ):
            while state.global_step < state.max_steps and not self._over():
                if not self._epoch_open:
                    self._callbacks.control.should_epoch_stop, self._epoch_open = False, True
                    self._tell("on_epoch_begin")
                batch_epoch = parts.source.epoch
                batch = self._next_batch()
                if batch is None:
                    break
                self._one_step(batch, math.floor(parts.source.epoch) > math.floor(batch_epoch), stop)
        return self._progress.tally.mean_loss

    def finish(self, summary: Mapping[str, float]) -> None:
        """Records the summary of a run that came to its end, goes back to the best checkpoint if asked, and says so."""
        self.record(summary)
        if self.config.load_best_model_at_end:
            self._load_best()
        self._tell("on_train_end")

    def _over(self) -> bool:
        return self._callbacks.control.should_training_stop or self._out_of_data()

    def _next_batch(self) -> Batch | None:
        """The source's next batch. Where it raises, what was trained so far is saved before the error goes on."""
        try:
            return self.parts.source.next()
        except PosttrainError:
            step_ = self.state.global_step
            saved = (self.output_dir / f"checkpoint-{step_}").exists()
            if step_ and not saved and self.config.save_strategy != "no" and self.parts.runtime.world_size == 1:
                self._save(measure=False)
                self._console.warn(how_to_go_on(self.state, self.config))
            raise

    def _one_step(self, batch: Batch, epoch_ended: bool, stop: threading.Event) -> None:
        """One step, with what is due after it."""
        parts, state, config = self.parts, self.state, self.config
        number = state.global_step + 1
        last = number >= state.max_steps
        due = self._due.after_step(number, last=last)
        shown = LOG in due or (LOG in self._due.after_epoch(math.inf) and (epoch_ended or last))
        self._done = set()
        control = self._callbacks.control
        control.should_log = control.should_evaluate = control.should_save = False
        self._tell("on_step_begin")
        parts.learner.train()
        learning_rate = float(parts.optimizer.param_groups[0]["lr"])
        result = step(
            parts.learner,
            batch,
            parts.loss,
            optimizer=parts.optimizer,
            runtime=parts.runtime,
            budget=parts.budget,
            max_grad_norm=config.max_grad_norm,
            # the entropy costs another pass over the logits; the steps that are shown say enough about it
            needs=("logprobs", *parts.needs, *(("entropy",) if shown else ())),
            make_room=parts.make_room,
            tell=self._tell,
        )
        if result.finite and not config.follows_evaluation:
            parts.scheduler.step()
        state.global_step, state.epoch = number, parts.source.epoch
        state.num_input_tokens_seen += result.tokens
        self._recorder.account(batch, result, learning_rate)
        if config.torch_empty_cache_steps and number % config.torch_empty_cache_steps == 0:
            parts.runtime.empty_cache()
        self._progress.meter.add(parts.source.metrics())
        parts.source.observe({name: amount / count for name, (amount, count) in result.metrics.items() if count})
        self._console.step(result.loss, result.tokens)
        self._ask(due)
        self._tell("on_step_end")
        self._leave_epoch()
        self._carry_out()
        if config.drift_steps is not None and (last or self._probe_due.due(number)):
            if parts.probe is not None:
                self._recorder.record_measured(parts.probe, number)
            parts.runtime.barrier()
        self._end_epoch(epoch_ended or last)
        self._leave_epoch()
        if self._callbacks.control.should_save:  # at the very end: what the epoch's end did belongs to the checkpoint
            self._save(measure=True)
        if any(row[0] for row in parts.runtime.gather([float(stop.is_set())])):
            if SAVE not in self._done:  # there only because somebody stopped the run: no candidate of a gate
                self._save(measure=False)
            self._console.warn(how_to_go_on(state, config))
            raise KeyboardInterrupt

    def _end_epoch(self, over: bool) -> None:
        """Tells that the epoch is over, where it is or is left, and does what is due then."""
        self._leave_epoch()
        control = self._callbacks.control
        if not over and not control.should_epoch_stop and not control.should_training_stop:
            return
        due: Set[str] = set()
        if over or control.should_epoch_stop:  # a run that is stopped is resumed within its epoch
            due = self._due.after_epoch(self.state.epoch)
        if self._out_of_data():
            due = due | self._due.after_step(self.state.global_step, last=True)
        self._epoch_open = False
        self._ask(due - self._done)
        self._tell("on_epoch_end")
        self._carry_out()

    def _leave_epoch(self) -> None:
        """Goes on with the next epoch, if a callback asked for that."""
        if not self._callbacks.control.should_epoch_stop or EPOCH in self._done:
            return
        self._done.add(EPOCH)
        end_epoch = getattr(self.parts.source, "end_epoch", None)
        if end_epoch is None:
            self._console.say("A callback set should_epoch_stop: rollouts are no epochs, and the run goes on.")
            return
        end_epoch()
        self._progress.tally.epochs_cut += 1

    def _out_of_data(self) -> bool:
        """Whether the epochs are over before the steps are, because callbacks cut some short."""
        cut, epochs = self._progress.tally.epochs_cut, self.config.num_train_epochs
        return bool(cut) and self.config.max_steps <= 0 and self.parts.source.epoch >= epochs

    def _ask(self, due: Set[str]) -> None:
        """Sets what is due in `control`, where callbacks may add to it or call it off."""
        control = self._callbacks.control
        control.should_log = control.should_log or LOG in due
        control.should_evaluate = control.should_evaluate or EVALUATE in due
        control.should_save = control.should_save or SAVE in due

    def _carry_out(self) -> None:
        """Logs and evaluates where `control` asks for it."""
        if self._callbacks.control.should_log and LOG not in self._done:
            self._done.add(LOG)
            self._callbacks.control.should_log = False
            self._recorder.log()
        if self._callbacks.control.should_evaluate:
            self.evaluate()

    def record(self, metrics: Mapping[str, Any]) -> None:
        """Appends to the log history and to metrics.jsonl."""
        self._recorder.record(metrics)

    def evaluate(self, *, counts: bool = True) -> None:
        """Records the metrics of the evaluation data, if there is any.

        Where it `counts`, it may be the best so far, and a schedule that follows the evaluation moves on.
        """
        parts, best = self.parts, self._progress.best
        if parts.evaluate is None:
            return
        with self._recorder.aside():
            metrics = parts.evaluate()
            self.record(metrics)
            self._done.add(EVALUATE)
            self._callbacks.control.should_evaluate = False
            self._tell("on_evaluate", metrics=metrics)
            self._recorder.raise_alarms()
        if counts:
            if self.config.follows_evaluation:
                parts.scheduler.step(best.value(metrics))  # type: ignore[arg-type]
            if best.note(self.state, metrics) and self.config.save_strategy == "best":
                self._callbacks.control.should_save = True
        shown = next((name for name in ("eval_loss", "eval_reward") if name in metrics), None)
        said = f"{shown} {metrics[shown]:.4f}" if shown else "of the evaluation nothing could be judged"
        self._console.say(f"step {self.state.global_step}: {said}")

    def _save(self, *, measure: bool) -> None:
        parts, state, config = self.parts, self.state, self.config
        if parts.measure is not None and measure and parts.runtime.is_main:
            # first, so that the log that is saved has it
            self._recorder.record_measured(parts.measure, state.global_step)
        self._progress.best.note_checkpoint(state, self.output_dir)
        state.stateful_callbacks = self._callbacks.states()  # type: ignore[assignment]
        saved = None if config.save_only_model else training_state(parts, config, self._progress)
        if parts.runtime.is_main:
            save_checkpoint(
                self.output_dir,
                state.global_step,
                write_model=parts.write_model,
                state=saved,
                log=dataclasses.asdict(state),
                keep=config.save_total_limit,
                best=state.best_model_checkpoint,
            )
        parts.runtime.barrier()
        self._done.add(SAVE)
        self._callbacks.control.should_save = False
        self._tell("on_save")

    def _load_best(self) -> None:
        """Puts the weights of the best checkpoint in the place of the last ones."""
        parts, state, best = self.parts, self.state, self._progress.best
        place = None if state.best_model_checkpoint is None else Path(state.best_model_checkpoint)
        if place is None or not place.is_dir():
            self._console.say(
                "No checkpoint was evaluated at the step it holds: the weights are those of the last step."
            )
            return
        parts.read_model(place)
        self._console.say(f"The weights are those of {place}, the best by {best.metric}: {best.saved:.6g}.")
        parts.runtime.barrier()
        if parts.runtime.is_main and self.config.save_total_limit == 1:
            keep_only(self.output_dir, place)

    def _tell(self, event: str, **details: Any) -> None:
        self._callbacks.tell(event, self.config, self.state, **self.parts.callback_context, **details)
