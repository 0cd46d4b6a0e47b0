"""`TrainingConfig`: the fields every trainer has, with the names, meanings and defaults of transformers."""

import os
import typing
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from posttrain.config import names
from posttrain.config.base import Config, option

Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt",    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip
Optimizer = Literal["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad", "rmsprop"]
Strategy = Literal["no", "steps", "epoch"]

_METRIC = "it follows an evaluation metric, and evaluation is not tied to the schedule; use linear or cosine"
_PACKAGE = "it needs another package; use adamw_torch"
_TRACKER = "metrics are always written to metrics.jsonl in output_dir; use none"
_OTHER_OPTIMIZERS = (
    "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_8bit", "lion_32bit",
    "paged_lion_32bit", "paged_lion_8bit", "ademamix", "ademamix_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit",
    "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "apollo_adamw", "schedule_free_adamw",
    "schedule_free_sgd", "schedule_free_radam", "adamw_torch_4bit", "adamw_torch_8bit", "adamw_anyprecision",
    "lomo", "adalomo", "grokadamw", "stable_adamw", "adamw_apex_fused",
)  # fmt: skip

_DATA, _STEP, _WHEN, _HOW = (
    "Data and output",
    "The step",
    "Logging, evaluation, checkpoints",
    "Machine and memory",
)


class TrainingConfig(Config):
    """What one run of training is told, whatever its algorithm.

    A step averages `per_device_train_batch_size x gradient_accumulation_steps` rows on each process. How they
    are cut into forward passes is memory, not mathematics: `max_tokens_per_pass`.
    """

    renamed: ClassVar = names.TRAINING_RENAMED
    fixed: ClassVar = names.TRAINING_FIXED
    no_effect: ClassVar = names.TRAINING_NO_EFFECT
    unsupported: ClassVar = names.TRAINING_UNSUPPORTED
    unsupported_values: ClassVar = {
        "lr_scheduler_type": {"reduce_lr_on_plateau": _METRIC, "greedy": _METRIC},
        "optim": {"adamw_hf": "it is gone from transformers too; use adamw_torch"}
        | dict.fromkeys(_OTHER_OPTIMIZERS, _PACKAGE),
        "save_strategy": {"best": "checkpoints are chosen after the run; use steps or epoch"},
        "train_sampling_strategy": {
            "batch_rebalance": "batches are not padded, so rebalancing gains nothing; use random"
        },
        "report_to": dict.fromkeys(
            ("all", "wandb", "tensorboard", "trackio", "mlflow", "comet_ml", "swanlab", "clearml"), _TRACKER
        ),
    }

    output_dir: str = option("trainer_output", "Directory of the run: metrics, checkpoints, model.", group=_DATA)
    run_name: str | None = option(None, "A name for the run, written to its files.", group=_DATA)
    seed: int = option(42, "Seed of everything random.", group=_DATA, ge=0, lt=2**32)
    data_seed: int | None = option(None, "Seed of the order of rows; none = seed.", group=_DATA, ge=0, lt=2**32)
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = option(
        "random",
        "Order of the rows: shuffled each epoch, as given, or rows of like length together.",
        group=_DATA,
    )
    dataloader_drop_last: bool = option(False, "Leave out an epoch's last, smaller batch.", group=_DATA)
    remove_unused_columns: bool = option(
        True, "Kept for compatibility: columns that are not used never reach the model.", group=_DATA
    )

    per_device_train_batch_size: int = option(8, "Rows of one micro-step on each process.", group=_STEP, ge=1)
    gradient_accumulation_steps: int = option(1, "Micro-steps averaged into one optimiser step.", group=_STEP, ge=1)
    num_train_epochs: float = option(3.0, "Passes over the data.", group=_STEP, gt=0)
    max_steps: int = option(-1, "Optimiser steps; -1 = as many as num_train_epochs asks for.", group=_STEP, ge=-1)
    learning_rate: float = option(5e-5, "Peak learning rate.", group=_STEP, ge=0)
    lr_scheduler_type: Schedule = option("linear", "Learning rate schedule.", group=_STEP)
    lr_scheduler_kwargs: dict[str, Any] | None = option(None, "Further arguments of the schedule.", group=_STEP)
    warmup_steps: float = option(0, "Steps of warm-up; below 1 a share of all steps.", group=_STEP, ge=0)
    optim: Optimizer = option("adamw_torch", "Optimiser.", group=_STEP)
    weight_decay: float = option(0.0, "Weight decay, on matrices only.", group=_STEP, ge=0)
    adam_beta1: float = option(0.9, "Decay of Adam's first moment.", group=_STEP, ge=0, lt=1)
    adam_beta2: float = option(0.999, "Decay of Adam's second moment.", group=_STEP, ge=0, lt=1)
    adam_epsilon: float = option(1e-8, "Adam's epsilon.", group=_STEP, gt=0)
    max_grad_norm: float = option(1.0, "Gradient norm that is clipped to; 0 = no clipping.", group=_STEP, ge=0)
    max_nonfinite_steps: int = option(
        3,
        "Steps in a row with a non-finite loss or gradient, skipped, before the run stops.",
        group=_STEP,
        ge=1,
    )

    logging_strategy: Strategy = option("steps", "When metrics are shown.", group=_WHEN)
    logging_steps: float = option(10, "Steps between shown metrics; below 1 a share of all steps.", group=_WHEN, gt=0)
    logging_first_step: bool = option(False, "Show the first step's metrics too.", group=_WHEN)
    eval_strategy: Strategy = option("no", "When the evaluation dataset is run.", group=_WHEN)
    eval_steps: float | None = option(None, "Steps between evaluations; none = logging_steps.", group=_WHEN, gt=0)
    eval_on_start: bool = option(False, "Evaluate before the first step.", group=_WHEN)
    per_device_eval_batch_size: int = option(
        8, "Kept for compatibility: evaluation takes max_tokens_per_pass tokens at once.", group=_WHEN, ge=1
    )
    save_strategy: Strategy = option("steps", "When checkpoints are written.", group=_WHEN)
    save_steps: float = option(500, "Steps between checkpoints; below 1 a share of all steps.", group=_WHEN, gt=0)
    save_total_limit: int | None = option(None, "Checkpoints kept; none = all.", group=_WHEN, ge=1)
    save_only_model: bool = option(False, "Checkpoints without optimiser state: they cannot be resumed.", group=_WHEN)
    resume_from_checkpoint: bool | str | None = option(
        None, "Go on from the last checkpoint (true) or from this one.", group=_WHEN
    )
    report_to: Literal["none"] = option("none", "Trackers beside metrics.jsonl: none so far.", group=_WHEN)
    disable_tqdm: bool | None = option(None, "No progress bar; none = a bar on a terminal only.", group=_WHEN)

    gate: str | None = option(
        None, "A gate.yaml: checkpoints are measured, and only one that passes is promoted.", group=_WHEN
    )

    drift_steps: float | None = option(
        None,
        "Steps between measurements of the drift from the start and of the answers' text; below 1 a share of all "
        "steps, none = never.",
        group=_WHEN,
        gt=0,
    )
    drift_text: str | None = option(
        None, "File of text (.txt, or rows with a column text) that drift is measured on, too.", group=_WHEN
    )

    use_cpu: bool = option(False, "Keep to the CPU where there is a GPU.", group=_HOW)
    bf16: bool | None = option(None, "Compute in bfloat16; none = the faster one, measured.", group=_HOW)
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = option(
        None, "Number type of the model's weights; none = chosen.", group=_HOW
    )
    gradient_checkpointing: bool | None = option(
        None, "Recompute activations to save memory; none = chosen.", group=_HOW
    )
    gradient_checkpointing_kwargs: dict[str, Any] | None = option(
        None, "Passed to the model's activation_checkpointing_enable.", group=_HOW
    )
    max_tokens_per_pass: int | None = option(
        None,
        "Tokens of one forward pass; none = chosen. The result is the same whatever it is.",
        group=_HOW,
        ge=1,
    )
    num_threads: int | None = option(None, "CPU threads; none = torch's choice.", group=_HOW, ge=1)
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.", group=_HOW)
    model_init_kwargs: dict[str, Any] | None = option(
        None, "Passed to from_pretrained when the model is named, not handed over.", group=_HOW
    )

    if not typing.TYPE_CHECKING:

        def __init__(self, output_dir: str | os.PathLike[str] | None = None, /, **values: Any) -> None:
            if output_dir is not None:
                if "output_dir" in values:
                    raise TypeError(f"{type(self).__name__} got output_dir twice")
                values = {"output_dir": output_dir, **values}
            super().__init__(**values)

    @field_validator("output_dir", mode="before")
    @classmethod
    def _home(cls, value: Any) -> Any:
        if value is None:
            return "trainer_output"
        return os.path.expanduser(value) if isinstance(value, str | os.PathLike) else value

    @field_validator("report_to", mode="before")
    @classmethod
    def _no_tracker(cls, value: Any) -> Any:
        return "none" if value in (None, [], ["none"]) else value

    def _settle(self) -> None:
        if self.eval_strategy == "steps" and self.eval_steps is None:
            self.__dict__["eval_steps"] = self.logging_steps

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.max_steps == 0:
            yield (
                "max_steps",
                "max_steps=0 trains nothing; write -1 to train num_train_epochs, or a number of steps",
            )
        for name in ("logging_steps", "eval_steps", "save_steps", "drift_steps", "warmup_steps"):
            value = getattr(self, name)
            if value is not None and value > 1 and value != int(value):
                yield (
                    name,
                    f"{name}={value!r} is neither a number of steps nor, below 1, a share of all steps",
                )
        if self.lr_scheduler_type == "constant" and self.warmup_steps:
            yield (
                "warmup_steps",
                f"warmup_steps={self.warmup_steps:g} has no effect with lr_scheduler_type='constant'; "
                "write constant_with_warmup",
            )
        if self.gate is not None and self.save_strategy == "no":
            yield "gate", "gate decides on checkpoints, and save_strategy='no' writes none; write save_strategy=steps"
        if self.gate is not None and self.save_total_limit is not None:
            yield "gate", "gate chooses among the checkpoints, and save_total_limit deletes them; leave the limit out"
        if self.drift_text is not None and self.drift_steps is None:
            yield (
                "drift_text",
                "drift_text has an effect only together with drift_steps; a gate names its own neutral text",
            )
        if self.save_only_model and self.resume_from_checkpoint is True:
            yield (
                "resume_from_checkpoint",
                "resume_from_checkpoint=True needs the optimiser's state; set save_only_model=False",
            )
