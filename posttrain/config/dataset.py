"""`DatasetConfig`: what every training on rows that are there before it starts is told about them."""

from collections.abc import Iterator
from typing import Literal

from pydantic import field_validator

from posttrain.config.base import option
from posttrain.config.training import TrainingConfig

_EVALUATION, _DATA = "Evaluation", "Data and output"


class DatasetConfig(TrainingConfig):
    """The fields of reading rows and of evaluating on them, with transformers' names."""

    length_column_name: str = option(
        "length", "Column of lengths that group_by_length sorts by, if there is one; else tokens.", group=_DATA
    )
    dataloader_num_workers: int = option(
        0, "Threads that lay out batches while the model computes; 0 = none.", group=_DATA, ge=0
    )
    dataloader_prefetch_factor: int | None = option(
        None, "Batches laid out ahead by each of these threads; none = 2.", group=_DATA, ge=1
    )
    dataset_num_proc: int | None = option(
        None, "Processes that render and tokenise rows side by side; none = this one.", group=_DATA, ge=1
    )
    neftune_noise_alpha: float | None = option(
        None, "Scale of the noise on the embeddings in training (NEFTune; 5 to 15); none = none.", group="The step",
        ge=0,
    )  # fmt: skip
    ignore_data_skip: bool = option(
        False, "A resumed run begins its epoch anew instead of where it stood.", group=_DATA
    )

    per_device_eval_batch_size: int | None = option(
        None, "Rows of one evaluation pass at most; none = as many as max_tokens_per_pass holds.", group=_EVALUATION,
        ge=1,
    )  # fmt: skip
    prediction_loss_only: bool = option(False, "Evaluation returns the loss and no other metric.", group=_EVALUATION)
    bf16_full_eval: bool = option(False, "Evaluate in bfloat16 whatever training computes in.", group=_EVALUATION)
    fp16_full_eval: bool = option(False, "Evaluate in float16 whatever training computes in.", group=_EVALUATION)
    include_for_metrics: list[Literal["inputs", "loss"]] = option(
        [], "What compute_metrics is given beside predictions and labels.", group=_EVALUATION
    )
    batch_eval_metrics: bool = option(
        False, "Call compute_metrics for each batch, with compute_result=True for the last.", group=_EVALUATION
    )
    eval_do_concat_batches: bool = option(
        True, "Give compute_metrics one array of all batches; false gives a list of them.", group=_EVALUATION
    )

    @field_validator("include_for_metrics", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.bf16_full_eval and self.fp16_full_eval:
            yield "fp16_full_eval", "bf16_full_eval and fp16_full_eval are two number types; keep one"
        if self.dataloader_prefetch_factor is not None and not self.dataloader_num_workers:
            yield (
                "dataloader_prefetch_factor",
                "dataloader_prefetch_factor has an effect only with threads to lay out batches; "
                "write dataloader_num_workers=1",
            )


def not_computed(config: DatasetConfig) -> Iterator[tuple[str, str]]:
    """The problems of a training that takes no compute_metrics: settings of what it would be given."""
    for name in ("include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches"):
        value, usual = getattr(config, name), type(config).model_fields[name]
        if value != usual.get_default(call_default_factory=True):
            yield name, f"{name}={value!r} says what compute_metrics is given, which this trainer has not; leave it out"
