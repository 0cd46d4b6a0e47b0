"""`TrainingConfig`: the fields every trainer has, with the names, meanings and defaults of transformers."""

import os
import typing
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from posttrain.config import names
from posttrain.config.base import option
from posttrain.config.checkpoints import CheckpointsConfig
from posttrain.config.machine import MachineConfig
from posttrain.config.reporting import OTHER_TRACKERS, ReportingConfig

Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt",    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
    "reduce_lr_on_plateau", "greedy",
]  # fmt: skip
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad", "rmsprop",
    "galore_adamw",
    # of other packages
    "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "ademamix", "ademamix_8bit",
    "paged_ademamix_32bit", "paged_ademamix_8bit", "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "adamw_torch_4bit", "adamw_torch_8bit", "grokadamw",
    "stable_adamw",
]  # fmt: skip
Strategy = Literal["no", "steps", "epoch"]

_FUSED = "it updates weights during the backward pass, before a step is divided by its tokens; use galore_adamw"
_MODES = "its weights are those of training in some moments and of evaluation in others; use adamw_torch"
_HARDWARE = "it is for hardware that is not supported here; use adamw_torch"
_OTHER_OPTIMIZERS = {
    "adamw": "did you mean 'adamw_torch'?",
    "adamw_hf": "it is gone from transformers too; use adamw_torch",
    "adamw_apex_fused": "it is gone from transformers too; use adamw_torch",
    "adamw_anyprecision": "its package is no longer developed; use adamw_torch with dtype=float32",
    **dict.fromkeys(("adamw_torch_xla", "adamw_torch_npu_fused"), _HARDWARE),
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam"), _MODES),
    **dict.fromkeys(
        ("lomo", "adalomo", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise",
         "apollo_adamw_layerwise"), _FUSED,
    ),
    **dict.fromkeys(
        ("galore_adamw_8bit", "galore_adafactor", "apollo_adamw"),
        "of the optimisers of low rank there is galore_adamw; use that",
    ),
}  # fmt: skip

_DATA, _STEP, _WHEN = (
    "Data and output",
    "The step",
    "Logging, evaluation, checkpoints",
)


class TrainingConfig(MachineConfig, ReportingConfig, CheckpointsConfig):
    """What one run of training is told, whatever its algorithm.

    A step averages `per_device_train_batch_size x gradient_accumulation_steps` rows on each process. How they
    are cut into forward passes is memory, not mathematics: `max_tokens_per_pass`.
    """

    adapter_factor: ClassVar[float] = 10  # of learning_rate's default, for an adapter

    renamed: ClassVar = names.TRAINING_RENAMED
    fixed: ClassVar = names.TRAINING_FIXED
    no_effect: ClassVar = names.TRAINING_NO_EFFECT
    unsupported: ClassVar = names.TRAINING_UNSUPPORTED
    unsupported_values: ClassVar = {
        "optim": _OTHER_OPTIMIZERS,
        "train_sampling_strategy": {
            "batch_rebalance": "batches are not padded, so rebalancing gains nothing; use random"
        },
        "report_to": OTHER_TRACKERS,
    }

    output_dir: str = option("trainer_output", "Directory of the run: metrics, checkpoints, model.", group=_DATA)
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
    add_tokens: str | list[str] | None = option(
        None, "New tokens: the tokenizer gets them, and the model trained rows for them.", group=_DATA
    )
    add_special_tokens: str | list[str] | None = option(
        None, "The same for special tokens, which decoded text leaves out.", group=_DATA
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
    optim_args: str | None = option(
        None, "Further arguments of the optimiser, as name=value with commas between.", group=_STEP
    )
    optim_target_modules: str | list[str] | None = option(
        None, "Linear layers that galore_adamw projects: parts of names, a regular expression or all-linear.",
        group=_STEP,
    )  # fmt: skip
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
    logging_nan_inf_filter: bool = option(
        True, "Steps that are not finite stay out of the loss that is shown; false shows it as not finite.", group=_WHEN
    )
    include_num_input_tokens_seen: bool | Literal["no", "all", "non_padding"] = option(
        "no", "Show num_input_tokens_seen too; nothing is padded, so all and non_padding are one.", group=_WHEN
    )
    enable_jit_checkpoint: bool = option(
        True, "SIGTERM ends the run after a checkpoint; false leaves the signal to its usual end.", group=_WHEN
    )
    do_train: bool = option(True, "Whether the command line trains.", group=_WHEN)
    do_eval: bool = option(False, "Whether the command line evaluates when training is over.", group=_WHEN)

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

    @property
    def follows_evaluation(self) -> bool:
        """Whether the learning rate depends on a metric of the evaluation."""
        return self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")

    @field_validator("add_tokens", "add_special_tokens", mode="before")
    @classmethod
    def _one_token(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value else value

    def _settle(self) -> None:
        super()._settle()
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
        if not self.do_train and not self.do_eval:
            yield "do_train", "do_train=False and do_eval=False leave nothing to do; write do_eval=True to evaluate"
        if (self.optim == "galore_adamw") != (self.optim_target_modules is not None):
            yield (
                "optim_target_modules",
                "optim_target_modules and optim='galore_adamw' need each other; give both, or neither",
            )
        if self.lr_scheduler_type == "constant" and self.warmup_steps:
            yield (
                "warmup_steps",
                f"warmup_steps={self.warmup_steps:g} has no effect with lr_scheduler_type='constant'; "
                "write constant_with_warmup",
            )
        if self.follows_evaluation and self.eval_strategy == "no":
            yield (
                "lr_scheduler_type",
                f"lr_scheduler_type={self.lr_scheduler_type!r} follows the evaluation, and eval_strategy='no' makes "
                "none; write eval_strategy=steps",
            )
        if self.follows_evaluation and self.warmup_steps:
            yield (
                "warmup_steps",
                f"warmup_steps={self.warmup_steps:g} has no effect with lr_scheduler_type={self.lr_scheduler_type!r}, "
                "which starts at learning_rate; leave it out",
            )
        if self.gate is not None and self.load_best_model_at_end:
            yield (
                "gate",
                "gate promotes a checkpoint by its own measurements, load_best_model_at_end loads one by a metric of "
                "the evaluation; keep one of them",
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
