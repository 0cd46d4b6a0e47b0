"""What all trainers share: train, evaluate, save."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
from transformers.trainer_utils import TrainOutput

from posttrain.config.gate import GateConfig
from posttrain.config.training import TrainingConfig
from posttrain.engine.alarms import Watch
from posttrain.engine.callbacks import Callbacks
from posttrain.engine.checkpoint import find_checkpoint
from posttrain.engine.determinism import deterministic
from posttrain.engine.environment import describe, write_environment
from posttrain.engine.loop import Loop
from posttrain.engine.memory import memory_metrics
from posttrain.engine.metrics import FILE
from posttrain.engine.optimizers import make_optimizer, make_scheduler
from posttrain.engine.overflow import finite_modules
from posttrain.engine.parts import Parts
from posttrain.engine.step import LossFunction
from posttrain.engine.trackers import Trackers
from posttrain.errors import ConfigError
from posttrain.evaluation import AnyTask
from posttrain.evaluation.gate import Decision
from posttrain.models.lora import load_adapter, save_adapter
from posttrain.models.quiet import no_progress_bars
from posttrain.models.reference import StartingWeights
from posttrain.models.saving import save_model
from posttrain.report.model_card import listed, model_card, write_card
from posttrain.trainers.assembly import Assembled
from posttrain.trainers.checks import Report, rows_per_step
from posttrain.trainers.drifting import DriftWatch, drift_watch
from posttrain.trainers.gatekeeper import Gatekeeper, gate_tasks
from posttrain.trainers.keywords import understand_keywords
from posttrain.trainers.origin import FILE as ORIGIN
from posttrain.trainers.origin import origin, write_origin
from posttrain.trainers.publishing import Uploads
from posttrain.types import Prompt, Source


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a trainer's constructor decided: where batches come from, what is minimised, how it is measured."""

    source: Callable[[], Source] | None  # makes one for each call of train(); None: there is nothing to train on
    max_steps: int
    report: Report | None  # what became of the training rows
    loss: LossFunction
    needs: tuple[str, ...] = ()  # of the model in every step, beside the log-probabilities
    evaluate: Callable[[], dict[str, float]] | None = None
    watch: Watch | None = None
    stop_on: frozenset[str] = frozenset()
    start: StartingWeights | None = None  # where the plan keeps them for itself
    prompts: Callable[[], Sequence[Prompt]] | None = None  # tokens, to see drift by; None: nothing is written
    learner: Any = None  # what is trained where it is more than the assembled learner: a policy with its value model
    optimizer: Callable[[], Optimizer] | None = None  # where its parts have learning rates of their own
    write_beside: Callable[[Path], None] | None = None  # what a checkpoint holds beside the model
    read_beside: Callable[[Path], None] | None = None


class Trainer:
    """Trains a learner. The constructors of its subclasses say on what and with which loss, and nothing else."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        understand_keywords(cls)

    def __init__(
        self,
        assembled: Assembled,
        plan: Plan,
        *,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        self.args: TrainingConfig = assembled.config
        self.processing_class = tokenizer
        self.state = TrainerState()
        self._learner = assembled.learner if plan.learner is None else plan.learner
        self._runtime, self._measured = assembled.runtime, assembled.measured
        self._assembled, self._budget, self._plan = assembled, assembled.budget, plan
        self.data_report = plan.report
        self._callbacks = Callbacks(callbacks or ())
        self._optimizers = optimizers
        self._loop: Loop | None = None
        self.named_tasks: Mapping[str, Callable[[], AnyTask]] = {}  # that a gate may name, beside files
        self.decision: Decision | None = None  # of the gate, when there is one and the run is over
        gate = self.args.gate
        self._gate = None if gate is None else GateConfig.from_yaml(gate)
        measures = (gate is not None or self.args.drift_steps is not None) and self._runtime.is_main
        self._start = (plan.start or StartingWeights(self.model)) if measures else None
        self._uploads = Uploads(self.args, self.say) if self.args.push_to_hub and self._runtime.is_main else None
        if self._uploads is not None:
            self._callbacks.add(self._uploads)
        self.say(*assembled.notes)
        self._callbacks.tell("on_init_end", self.args, self.state, **self._context)

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The model being trained; `generate` works on it."""
        return self._learner.model

    @property
    def _context(self) -> dict[str, Any]:
        """What callbacks are given at every event."""
        tokenizer = self.processing_class
        return {"model": self.model, "processing_class": tokenizer, "tokenizer": tokenizer}

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Adds a callback of transformers, or one made of a class without arguments, behind the others."""
        self._callbacks.add(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Takes out the callback, or the first of the class, and returns it; None where there is none."""
        return self._callbacks.pop(callback)

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Takes out the callback, or the first of the class, if it is there."""
        self._callbacks.pop(callback)

    def say(self, *lines: str) -> None:
        """Prints on the main process."""
        if lines and self._runtime.speaks():
            print(*lines, sep="\n")

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        """Trains to the end and returns (global_step, training_loss, metrics).

        `resume_from_checkpoint` is True for the last checkpoint in `output_dir`, or a path; it goes on as if the run
        had never stopped.
        """
        config, runtime, plan = self.args, self._runtime, self._plan
        if plan.source is None:
            raise ConfigError("train() needs a train_dataset")
        which = resume_from_checkpoint if resume_from_checkpoint is not None else config.resume_from_checkpoint
        checkpoint = find_checkpoint(Path(config.output_dir), which) if which else None
        tasks = [] if self._gate is None else gate_tasks(self._gate, self.named_tasks)
        drift = None
        if self._start is not None:
            drift = drift_watch(
                self._assembled, self.processing_class, self._start, gate=self._gate, tasks=tasks, prompts=plan.prompts
            )
        gatekeeper = self._gatekeeper(tasks, drift)
        optimizer = self._optimizers[0] or self._make_optimizer()
        scheduler = self._optimizers[1] or make_scheduler(optimizer, config, plan.max_steps)
        self._callbacks.check_states()
        trackers = Trackers(config, runtime.device, self.say, active=runtime.is_main)
        loop = Loop(
            Parts(
                learner=runtime.prepare(self._learner),
                source=plan.source(),
                loss=plan.loss,
                optimizer=optimizer,
                scheduler=scheduler,
                runtime=runtime,
                budget=self._budget,
                write_model=self._write_checkpoint,
                read_model=self._read_checkpoint,
                needs=plan.needs,
                evaluate=plan.evaluate,
                measure=gatekeeper.measure if gatekeeper is not None else None,
                probe=drift.measure if drift is not None and config.drift_steps is not None else None,
                watch=plan.watch,
                stop_on=plan.stop_on,
                make_room=self._make_room,
                measured=self._measured,
                callbacks=self._callbacks,
                callback_context=self._context | {"optimizer": optimizer, "lr_scheduler": scheduler},
                trackers=trackers,
            ),
            config,
            plan.max_steps,
        )
        self._loop, self.state = loop, loop.state
        directory = Path(config.output_dir)
        environment = describe(runtime.device, runtime.world_size)
        settings = loop.parts.source.state_dict().get("settings", {})  # asked in every process: rollouts are gathered
        if runtime.is_main:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "config.yaml").write_text(config.to_yaml())
            if plan.report is not None:
                (directory / "data.json").write_text(json.dumps(plan.report.as_dict(), indent=1, ensure_ascii=False))
            write_origin(directory, self._origin(settings))
        start, started = time.perf_counter(), datetime.datetime.now(datetime.UTC)
        with trackers:
            try:
                with (
                    deterministic(config.full_determinism),
                    finite_modules("underflow_overflow" in config.debug, self.model),
                    memory_metrics(not config.skip_memory_metrics, "train", runtime.device) as memory,
                ):
                    loss = loop.run(checkpoint)
            finally:
                self._learner.release().eval()
                if runtime.is_main:
                    write_environment(directory, environment, started)
            seconds = time.perf_counter() - start
            steps = self.state.global_step - loop.first_step  # of this call, not of the run that it resumed
            metrics = {
                "train_runtime": round(seconds, 3),
                "train_samples_per_second": round(steps * rows_per_step(config, runtime.world_size) / seconds, 3),
                "train_steps_per_second": round(steps / seconds, 3),
                "train_loss": loss,
                "num_tokens": self.state.num_input_tokens_seen,
                **memory,
            }
            loop.finish(metrics)
        self.say(
            f"{self.state.global_step:,} steps, {self.state.num_input_tokens_seen:,} tokens, mean loss {loss:.4f}. "
            f"Metrics: {Path(config.output_dir) / FILE}. Keep the model with save_model(directory)."
        )
        if self._gate is not None:
            self._promote(gatekeeper)
        self.create_model_card()
        return TrainOutput(self.state.global_step, loss, metrics)

    def _gatekeeper(self, tasks: Sequence[AnyTask], drift: DriftWatch | None) -> Gatekeeper | None:
        if self._gate is None or self._start is None:
            return None
        keeper = Gatekeeper(self._gate, tasks, self._assembled, self.processing_class, self._start, drift)
        self.say(*keeper.warnings())
        return keeper

    def _promote(self, gatekeeper: Gatekeeper | None) -> None:
        """Says what the gate decided; the model is then the one that was promoted, in every process."""
        decided = None if gatekeeper is None else gatekeeper.decide()
        self.decision = self._runtime.gather_objects(decided)[0]
        assert self.decision is not None
        self.say(self.decision.sentence, *(gatekeeper.notes if gatekeeper is not None else ()))
        if self.decision.promoted is not None:
            self._read_checkpoint(Path(self.decision.promoted))

    def evaluate(self) -> dict[str, float]:
        """The metrics of `eval_dataset`, with the prefix `eval_`, recorded as a run's own are."""
        if self._plan.evaluate is None:
            raise ConfigError("evaluate() needs an eval_dataset: pass one to the trainer")
        metrics = self._plan.evaluate()
        self._learner.release()
        if self._loop is not None:
            self._loop.record(metrics)
        else:
            self.state.log_history.append({**metrics, "epoch": 0.0, "step": 0})
            self._callbacks.tell("on_log", self.args, self.state, **self._context, logs=dict(metrics))
        self._callbacks.tell("on_evaluate", self.args, self.state, **self._context, metrics=metrics)
        return metrics

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Writes an ordinary model directory that any server loads; an adapter is merged, and kept in `adapter/`."""
        directory = Path(output_dir or self.args.output_dir)
        self._learner.release()
        if self._runtime.is_main:
            directory.mkdir(parents=True, exist_ok=True)
            with no_progress_bars():
                notes = save_model(self.model, self.processing_class, directory)
            self.say(*notes, *self._write_card(directory))
            if self._uploads is not None:
                self._uploads.push_if_possible(directory)
        self._runtime.barrier()

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | Sequence[str] | None = None
    ) -> None:
        """Writes the model card of the run, `README.md` in `output_dir`."""
        if self._runtime.is_main:
            named = {"name": model_name, "datasets": listed(dataset_name), "tags": listed(tags)}
            self.say(*self._write_card(Path(self.args.output_dir), **named))

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        token: str | None = None,
        revision: str | None = None,
        *,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | Sequence[str] | None = None,
    ) -> str | None:
        """Saves the model in `output_dir/model` with its card, uploads it, and returns where it is; on one process.

        Raises HubError where that fails; the model is in `output_dir/model` all the same.
        """
        directory = Path(self.args.output_dir) / "model"
        self._callbacks.tell("on_push_begin", self.args, self.state, **self._context)
        self._learner.release()
        if not self._runtime.is_main:
            return None
        directory.mkdir(parents=True, exist_ok=True)
        with no_progress_bars():
            notes = save_model(self.model, self.processing_class, directory)
        named = {"name": model_name, "datasets": listed(dataset_name), "tags": listed(tags)}
        self.say(*notes, *self._write_card(directory, **named))
        uploads = self._uploads
        if uploads is None or token is not None:
            uploads = Uploads(self.args.model_copy(update={"hub_token": token or self.args.hub_token}), self.say)
        return uploads.push(directory, commit_message, revision=revision)

    def _origin(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        report = None if self._plan.report is None else self._plan.report.as_dict()
        method = type(self).__name__.removesuffix("Trainer")
        return origin(self.model, method=method, report=report, settings=settings)

    def _write_card(self, directory: Path, **named: Any) -> list[str]:
        """Writes the model card of the run that this trainer made, if it made one; what there is to say of it."""
        run = Path(self.args.output_dir)
        if self._loop is None or not (run / ORIGIN).is_file():
            return []
        chosen = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if self.decision is not None:
            chosen = self.decision.promoted
        step = self.state.global_step if chosen is None else int(Path(chosen).name.split("-")[1])
        problem = write_card(directory, model_card(run, step=step, **named))
        return [] if problem is None else [problem]

    def _make_optimizer(self) -> Optimizer:
        made = self._plan.optimizer
        return make_optimizer(self._learner.parameters(), self.args, model=self.model) if made is None else made()

    def _make_room(self) -> bool:
        """Recomputes activations from now on, unless that is what is done already."""
        if self.args.gradient_checkpointing or not self.model.supports_gradient_checkpointing:
            return False
        self._learner.recompute_activations()
        self.args = self.args.model_copy(update={"gradient_checkpointing": True})
        self.say("Out of memory: activations are recomputed from now on (gradient_checkpointing=True).")
        return True

    def _write_checkpoint(self, directory: Path) -> None:
        """A checkpoint holds what is trained: the whole model, or the adapter."""
        with no_progress_bars():
            if isinstance(self.model, PeftModel):
                save_adapter(self.model, directory)
                self.processing_class.save_pretrained(directory)
            else:
                save_model(self.model, self.processing_class, directory)
        if self._plan.write_beside is not None:
            self._plan.write_beside(directory)

    def _read_checkpoint(self, directory: Path) -> None:
        model = self.model
        with no_progress_bars():
            if isinstance(model, PeftModel):
                load_adapter(model, directory)
            else:
                saved = type(model).from_pretrained(directory, dtype=model.dtype)
                model.load_state_dict(saved.state_dict())
        if self._plan.read_beside is not None:
            self._plan.read_beside(directory)
