"""The training loop: steps, logs, evaluations, checkpoints, interruption and resumption."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from posttrain.config.training import TrainingConfig
from posttrain.engine.checkpoint import checkpoints, load_state, save_checkpoint
from posttrain.engine.metrics import Meter, MetricsFile
from posttrain.engine.runtime import Runtime, random_state, set_random_state
from posttrain.engine.step import Budget, LossFunction, StepResult, step
from posttrain.errors import CheckpointError, TrainingError
from posttrain.types import Batch, Source


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
    make_room: Callable[[], bool] | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)  # picked by measurement; a resumed run repeats them
    callbacks: Sequence[TrainerCallback] = ()
    callback_context: Mapping[str, Any] = field(default_factory=dict)


class Interval:
    """Every so many steps, or at every epoch's end, or never."""

    def __init__(self, strategy: str, steps: float | None, max_steps: int) -> None:
        self._strategy = strategy
        self._steps = 0
        if strategy == "steps" and steps is not None:
            self._steps = max(1, math.ceil(max_steps * steps) if steps < 1 else int(steps))

    def due(self, global_step: int, epoch_ended: bool) -> bool:
        if self._strategy == "epoch":
            return epoch_ended
        return bool(self._steps) and global_step % self._steps == 0


class Loop:
    """Runs a training to its end. `state` is transformers' TrainerState: global_step, epoch, log_history ..."""

    def __init__(self, parts: Parts, config: TrainingConfig, max_steps: int) -> None:
        self.parts = parts
        self.config = config
        self.state = TrainerState(max_steps=max_steps, num_train_epochs=math.ceil(config.num_train_epochs))
        self.state.is_world_process_zero = self.state.is_local_process_zero = parts.runtime.is_main
        self.output_dir = Path(config.output_dir)
        self._control = TrainerControl()
        self._meter = Meter()
        self._loss_total = 0.0  # summed over all finite steps, for the mean at the end
        self._finite_steps = 0
        self._nonfinite_in_a_row = 0
        self._tokens_since_log = 0
        self._eval_interval = Interval(config.eval_strategy, config.eval_steps or config.logging_steps, max_steps)
        self._save_interval = Interval(config.save_strategy, config.save_steps, max_steps)
        self._log_interval = Interval(config.logging_strategy, config.logging_steps, max_steps)

    def run(self, checkpoint: Path | None = None) -> float:
        """Trains from the start, or from the checkpoint; returns the mean loss of all steps.

        On the first Ctrl-C it finishes the step, saves, says how to go on and raises KeyboardInterrupt.
        """
        runtime = self.parts.runtime
        if checkpoint is not None:
            self._resume(checkpoint)
        metrics_file = None
        if runtime.is_main:
            if checkpoint is None:
                _set_aside(self.output_dir)
            metrics_file = MetricsFile(
                self.output_dir, after_step=None if checkpoint is None else self.state.global_step
            )
        self._metrics_file = metrics_file
        self._tell("on_train_begin")
        if self.config.eval_on_start and checkpoint is None:
            self.evaluate()
        self._since_log = time.perf_counter()
        with _stop_request() as stop, self._progress() as bar:
            self._bar = bar
            while self.state.global_step < self.state.max_steps and not self._control.should_training_stop:
                if not self._one_step(stop):
                    break
        self._finish()
        self._tell("on_train_end")
        return self._loss_total / max(self._finite_steps, 1)

    def _one_step(self, stop: threading.Event) -> bool:
        """One step with what is due after it; False when the source has no more batches."""
        parts, state, config = self.parts, self.state, self.config
        epoch_before = parts.source.epoch
        batch = parts.source.next()
        if batch is None:
            return False
        number = state.global_step + 1
        epoch_ended = math.floor(parts.source.epoch) > math.floor(epoch_before)
        last = number >= state.max_steps
        log_due = last or self._log_interval.due(number, epoch_ended) or (number == 1 and config.logging_first_step)
        self._tell("on_step_begin")
        parts.learner.train()
        result = step(
            parts.learner,
            batch,
            parts.loss,
            optimizer=parts.optimizer,
            runtime=parts.runtime,
            budget=parts.budget,
            max_grad_norm=config.max_grad_norm,
            # the entropy costs another pass over the logits; the steps that are shown say enough about it
            needs=("logprobs", "entropy") if log_due else ("logprobs",),
            make_room=parts.make_room,
        )
        learning_rate = parts.scheduler.get_last_lr()[0]
        parts.scheduler.step()
        state.global_step = number
        state.epoch = parts.source.epoch
        state.num_input_tokens_seen += result.tokens
        self._tokens_since_log += result.tokens
        self._account(batch, result)
        parts.source.observe({name: amount / count for name, (amount, count) in result.metrics.items() if count})
        self._show(result)
        self._tell("on_step_end")
        if log_due and config.logging_strategy != "no":
            self._log(result, learning_rate)
        self._control.should_log = False
        if self._eval_interval.due(number, epoch_ended) or self._control.should_evaluate:
            self.evaluate()
        stopping = self._anyone(stop.is_set())
        save_due = config.save_strategy != "no" and (last or self._save_interval.due(number, epoch_ended))
        if save_due or stopping or self._control.should_save:
            path = self._save()
            if stopping:
                self._say_interrupted(path)
                raise KeyboardInterrupt
        if epoch_ended:
            self._tell("on_epoch_end")
        return True

    def _anyone(self, flag: bool) -> bool:
        return any(row[0] for row in self.parts.runtime.gather([float(flag)]))

    def _account(self, batch: Batch, result: StepResult) -> None:
        """Adds up what a log reports; a non-finite step is kept for inspection, and too many in a row end the run."""
        if result.finite:
            self._nonfinite_in_a_row = 0
            self._loss_total += result.loss
            self._finite_steps += 1
            self._meter.add(result.metrics)
            self._meter.add({"loss": (result.loss, 1.0), "grad_norm": (result.grad_norm, 1.0)})
            return
        self._nonfinite_in_a_row += 1
        self._meter.add({"skipped_steps": (1.0, 1.0)})
        kept = (
            self.output_dir / "nonfinite" / f"step-{self.state.global_step}-rank-{self.parts.runtime.rank}.safetensors"
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(_tensors(batch), kept)
        what = f"loss {result.loss}, gradient norm {result.grad_norm}"
        self._say(f"Step {self.state.global_step} skipped: {what}. Its batch is kept in {kept}.")
        if self._nonfinite_in_a_row >= self.config.max_nonfinite_steps:
            raise TrainingError(
                f"{self._nonfinite_in_a_row} steps in a row with a non-finite loss or gradient (last: {what}). "
                f"The weights are those of step {self.state.global_step - self._nonfinite_in_a_row}; the batches are in "
                f"{kept.parent}. Lower learning_rate, add warmup_steps, or set bf16=False."
            )

    def _log(self, result: StepResult, learning_rate: float) -> None:
        now = time.perf_counter()
        seconds, self._since_log = now - self._since_log, now
        record: dict[str, float] = self._meter.means()
        if "skipped_steps" in record:
            record["skipped_steps"] = self._nonfinite_in_a_row
        record |= {
            "learning_rate": learning_rate,
            "num_tokens": self.state.num_input_tokens_seen,
            "tokens_per_second": round(self._tokens_since_log / seconds, 1),
        }
        self._tokens_since_log = 0
        self.record(record)

    def record(self, metrics: Mapping[str, float]) -> None:
        """Appends to the log history and to metrics.jsonl."""
        entry = {**metrics, "epoch": round(self.state.epoch or 0.0, 4), "step": self.state.global_step}
        self.state.log_history.append(entry)
        if self._metrics_file is not None:
            self._metrics_file.write(entry)
        self._tell("on_log", logs=dict(metrics))

    def evaluate(self) -> dict[str, float]:
        """The metrics of the evaluation data, recorded."""
        if self.parts.evaluate is None:
            return {}
        start = time.perf_counter()
        metrics = self.parts.evaluate()
        self.record(metrics)
        self._tell("on_evaluate", metrics=metrics)
        self._control.should_evaluate = False
        self._since_log += time.perf_counter() - start  # throughput is that of training
        if "eval_loss" in metrics:
            self._say(f"step {self.state.global_step}: eval_loss {metrics['eval_loss']:.4f}")
        return metrics

    # checkpoints

    def _save(self) -> Path:
        parts, config = self.parts, self.config
        directory = self.output_dir / f"checkpoint-{self.state.global_step}"
        shared = None if config.save_only_model else self._training_state()
        states = None if shared is None else self._every_process_state()
        if parts.runtime.is_main:
            save_checkpoint(
                self.output_dir,
                self.state.global_step,
                write_model=parts.write_model,
                state=None if shared is None else shared | {"processes": states},
                log={
                    "global_step": self.state.global_step,
                    "max_steps": self.state.max_steps,
                    "epoch": self.state.epoch,
                    "num_input_tokens_seen": self.state.num_input_tokens_seen,
                    "log_history": self.state.log_history,
                },
                keep=config.save_total_limit,
            )
        parts.runtime.barrier()
        self._control.should_save = False
        self._tell("on_save")
        return directory

    def _training_state(self) -> dict[str, Any]:
        parts = self.parts
        return {
            "global_step": self.state.global_step,
            "max_steps": self.state.max_steps,
            "epoch": self.state.epoch,
            "tokens": self.state.num_input_tokens_seen,
            "log_history": self.state.log_history,
            "optimizer": parts.optimizer.state_dict(),
            "scheduler": _plain(parts.scheduler.state_dict()),
            "source": parts.source.state_dict(),
            "meter": self._meter.state_dict(),
            "loss_total": self._loss_total,
            "finite_steps": self._finite_steps,
            "nonfinite_in_a_row": self._nonfinite_in_a_row,
            "choices": {**parts.choices, "max_tokens_per_pass": parts.budget.max_tokens},
            "world_size": parts.runtime.world_size,
        }

    def _every_process_state(self) -> list[dict[str, Any]]:
        mine = random_state(self.parts.runtime.device)
        if self.parts.runtime.world_size == 1:
            return [mine]
        states: list[Any] = [None] * self.parts.runtime.world_size
        torch.distributed.all_gather_object(states, mine)
        return states

    def _resume(self, checkpoint: Path) -> None:
        parts, saved = self.parts, load_state(checkpoint)
        if saved["world_size"] != parts.runtime.world_size:
            raise CheckpointError(
                f"{checkpoint} was written by {saved['world_size']} processes, this run has {parts.runtime.world_size}: "
                "the order of the data would change. Start as many processes as before."
            )
        if saved["max_steps"] != self.state.max_steps:
            raise CheckpointError(
                f"{checkpoint} belongs to a run of {saved['max_steps']} steps, this one has {self.state.max_steps}: the "
                "learning rate schedule would jump. Keep the data, batch size and number of epochs, or start a new "
                "run with the checkpoint as its model."
            )
        parts.read_model(checkpoint)
        parts.optimizer.load_state_dict(saved["optimizer"])
        parts.scheduler.load_state_dict(saved["scheduler"])
        parts.source.load_state_dict(saved["source"])
        parts.budget.max_tokens = saved["choices"]["max_tokens_per_pass"]
        self._meter.load_state_dict(saved["meter"])
        self._loss_total, self._finite_steps = saved["loss_total"], saved["finite_steps"]
        self._nonfinite_in_a_row = saved["nonfinite_in_a_row"]
        self.state.global_step, self.state.epoch = saved["global_step"], saved["epoch"]
        self.state.num_input_tokens_seen = saved["tokens"]
        self.state.log_history = saved["log_history"]
        set_random_state(saved["processes"][parts.runtime.rank], parts.runtime.device)
        self._say(f"Resumed from {checkpoint} at step {self.state.global_step} of {self.state.max_steps}.")

    def _finish(self) -> None:
        self._bar.close()

    # what the user sees

    @contextmanager
    def _progress(self) -> Iterator[tqdm]:
        hidden = True if not self.parts.runtime.is_main else self.config.disable_tqdm  # None: on a terminal only
        with tqdm(total=self.state.max_steps, initial=self.state.global_step, disable=hidden, unit="step") as bar:
            self._bar_start, self._bar_tokens = time.perf_counter(), 0
            yield bar

    def _show(self, result: StepResult) -> None:
        self._bar_tokens += result.tokens
        rate = self._bar_tokens / (time.perf_counter() - self._bar_start)
        self._bar.set_postfix_str(f"loss {result.loss:.4f}, {rate:,.0f} tokens/s", refresh=False)
        self._bar.update(1)

    def _say(self, message: str) -> None:
        if self.parts.runtime.is_main:
            tqdm.write(message)

    def _say_interrupted(self, path: Path) -> None:
        if self.config.save_only_model:
            self._say(f"Stopped at step {self.state.global_step}. The model is in {path}; it cannot be resumed.")
        else:
            self._say(
                f"Stopped at step {self.state.global_step} of {self.state.max_steps}. Everything is in {path}. Go on with "
                "train(resume_from_checkpoint=True), or --resume_from_checkpoint true on the command line."
            )

    def _tell(self, event: str, **details: Any) -> None:
        for callback in self.parts.callbacks:
            answer = getattr(callback, event)(
                self.config, self.state, self._control, **self.parts.callback_context, **details
            )
            self._control = answer or self._control


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's state without its functions, which the configuration determines."""
    return {name: value for name, value in state.items() if name != "lr_lambdas"} | (
        {"lr_lambdas": [None] * len(state["lr_lambdas"])} if "lr_lambdas" in state else {}
    )


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor of a batch by name."""
    found = {f"forest.{name}": value for name, value in vars(batch.forest).items() if isinstance(value, torch.Tensor)}
    found |= {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def _set_aside(output_dir: Path) -> None:
    """Moves what an earlier run left in the directory into `earlier-N`, so that nothing is mixed and nothing is lost."""
    output_dir.mkdir(parents=True, exist_ok=True)
    old = [p for p in [*checkpoints(output_dir), output_dir / "metrics.jsonl", output_dir / "nonfinite"] if p.exists()]
    if not old:
        return
    number = 1
    while (target := output_dir / f"earlier-{number}").exists():
        number += 1
    target.mkdir()
    for path in old:
        path.rename(target / path.name)
    tqdm.write(f"{output_dir} held an earlier run: its checkpoints and metrics are now in {target}.")


@contextmanager
def _stop_request() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; the second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        tqdm.write("Stopping after this step; Ctrl-C again stops at once, back to the last checkpoint.")

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
