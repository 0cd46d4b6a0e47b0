"""What a checkpoint keeps beside the model so that a resumed run equals an uninterrupted one, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from posttrain.config.training import TrainingConfig
from posttrain.engine.best import Best
from posttrain.engine.checkpoint import load_state
from posttrain.engine.loss_scale import LossScale
from posttrain.engine.metrics import Meter
from posttrain.engine.parts import Parts
from posttrain.engine.runtime import random_state, set_random_state
from posttrain.engine.tally import Tally
from posttrain.errors import CheckpointError

# What may change when a run is resumed: where things go, when they are shown and kept, and how a step is cut.
# The batch size may be cut otherwise too; the source checks that a step has as many rows as before.
FREE_ON_RESUME = frozenset(
    [
        "output_dir",
        "run_name",
        "resume_from_checkpoint",
        "restore_callback_states_from_checkpoint",
        "disable_tqdm",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "per_device_eval_batch_size",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "load_best_model_at_end",
        "max_nonfinite_steps",
        "max_tokens_per_pass",
        "num_threads",
        "bf16",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "use_cpu",
        "trust_remote_code",
        "remove_unused_columns",
        "dataset_num_proc",
        "padding_free",
        # how it is computed and what is said of it
        "auto_find_batch_size",
        "torch_empty_cache_steps",
        "full_determinism",
        "use_cache",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "ddp_backend",
        "ddp_timeout",
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "log_level",
        "log_level_replica",
        "skip_memory_metrics",
        "debug",
        "logging_nan_inf_filter",
        "include_num_input_tokens_seen",
        "enable_jit_checkpoint",
        "do_train",
        "do_eval",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "ignore_data_skip",
        "prediction_loss_only",
        "bf16_full_eval",
        "fp16_full_eval",
        "include_for_metrics",
        "batch_eval_metrics",
        "eval_do_concat_batches",
        # trackers and uploads
        "report_to",
        "project",
        "logging_dir",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "push_to_hub",
        "hub_model_id",
        "hub_strategy",
        "hub_token",
        "hub_private_repo",
        "hub_revision",
        "hub_always_push",
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
# Where the learning rate follows the evaluation, when that happens decides how the run goes on.
DECIDES_THE_SCHEDULE = frozenset(["eval_strategy", "eval_steps", "eval_delay"])

FORMAT = 1  # of the training state; raised when its contents change


@dataclass(kw_only=True)
class Progress:
    """How far a run is."""

    state: TrainerState
    best: Best
    meter: Meter = field(default_factory=Meter)
    tally: Tally = field(default_factory=Tally)


def training_state(parts: Parts, config: TrainingConfig, progress: Progress) -> dict[str, Any]:
    """Everything that decides how the run goes on. All processes take part."""
    state = progress.state
    return {
        "global_step": state.global_step,
        "max_steps": state.max_steps,
        "epoch": state.epoch,
        "tokens": state.num_input_tokens_seen,
        "log_history": state.log_history,
        "optimizer": parts.optimizer.state_dict(),
        "scheduler": {name: value for name, value in parts.scheduler.state_dict().items() if name != "lr_lambdas"},
        "source": parts.source.state_dict(),
        "meter": progress.meter.state_dict(),
        "tally": vars(progress.tally),
        "best": progress.best.state_dict(state),
        "callbacks": parts.callbacks.states(),
        "format": FORMAT,
        "config": config.to_dict(),
        "max_tokens_per_pass": parts.budget.max_tokens,
        "bf16": parts.runtime.autocast_dtype == torch.bfloat16,
        "num_threads": torch.get_num_threads(),
        "loss_scale": None if parts.runtime.loss_scale is None else vars(parts.runtime.loss_scale),
        "random": parts.runtime.gather_objects(random_state(parts.runtime.device)),
    }


def resume(
    checkpoint: Path, parts: Parts, config: TrainingConfig, progress: Progress, say: Callable[[str], None]
) -> None:
    """Puts the run where the checkpoint was written. Raises CheckpointError where it belongs to another run."""
    state, saved = progress.state, load_state(checkpoint)
    _refuse_another_run(checkpoint, saved, parts, state)
    _refuse_another_configuration(checkpoint, saved["config"], config)
    parts.source.load_state_dict(saved["source"])
    parts.read_model(checkpoint)
    parts.optimizer.load_state_dict(saved["optimizer"])
    lambdas = {name: value for name, value in parts.scheduler.state_dict().items() if name == "lr_lambdas"}
    parts.scheduler.load_state_dict(saved["scheduler"] | lambdas)
    progress.meter.load_state_dict(saved["meter"])
    progress.tally = Tally(**saved["tally"])
    state.global_step, state.epoch = saved["global_step"], saved["epoch"]
    state.num_input_tokens_seen, state.log_history = saved["tokens"], saved["log_history"]
    if "best" in saved:
        progress.best.load_state_dict(saved["best"], state, Path(config.output_dir))
    if config.restore_callback_states_from_checkpoint:
        parts.callbacks.restore(saved.get("callbacks", {}))
    _repeat_what_was_measured(saved, parts, config, say)
    if parts.runtime.loss_scale is not None and saved.get("loss_scale"):
        parts.runtime.loss_scale = LossScale(**saved["loss_scale"])
    set_random_state(saved["random"][parts.runtime.rank], parts.runtime.device)
    say(f"Resumed from {checkpoint} at step {state.global_step} of {state.max_steps}.")


def _refuse_another_run(checkpoint: Path, saved: Mapping[str, Any], parts: Parts, state: TrainerState) -> None:
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


def _refuse_another_configuration(checkpoint: Path, before: Mapping[str, Any], config: TrainingConfig) -> None:
    now = config.to_dict()
    free = FREE_ON_RESUME - (DECIDES_THE_SCHEDULE if config.follows_evaluation else frozenset())
    changed = [name for name in now if name not in free and now[name] != before.get(name)]
    if changed:
        differences = ", ".join(f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in changed)
        raise CheckpointError(
            f"{checkpoint} belongs to another configuration: {differences}. Resume with what it was, or start "
            "a new run with the checkpoint as its model."
        )


def _repeat_what_was_measured(
    saved: Mapping[str, Any], parts: Parts, config: TrainingConfig, say: Callable[[str], None]
) -> None:
    """Choices that round differently are repeated, unless the user made another one."""
    for name in ("max_tokens_per_pass", "bf16", "num_threads"):
        now, before = getattr(config, name), saved[name]
        if name not in parts.measured and now != before:
            say(f"{name} was {before} and is {now}: equal to rounding from here on, not to the bit.")
            continue
        if name == "max_tokens_per_pass":
            parts.budget.max_tokens = before
        elif name == "bf16":
            if not config.fp16:
                parts.runtime.autocast_dtype = torch.bfloat16 if before else None
        else:
            torch.set_num_threads(before)


def how_to_go_on(state: TrainerState, config: TrainingConfig) -> str:
    """What a run that was stopped says."""
    place = Path(config.output_dir) / f"checkpoint-{state.global_step}"
    if config.save_only_model:
        return f"Stopped at step {state.global_step}. The model is in {place}; without its state it cannot be resumed."
    return (
        f"Stopped at step {state.global_step} of {state.max_steps}. Everything is in {place}. Go on with "
        "train(resume_from_checkpoint=True), or --resume_from_checkpoint true on the command line."
    )
