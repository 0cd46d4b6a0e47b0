"""`SFTConfig`: supervised fine-tuning."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from posttrain.config import names
from posttrain.config.base import option
from posttrain.config.streaming import StreamingConfig

_ROWS = "Rows"


class SFTConfig(StreamingConfig):
    """The fields of supervised fine-tuning, with TRL's names and defaults.

    Deviation: `assistant_only_loss` unset trains assistant turns of conversations; TRL's default, all tokens,
    is an explicit False.
    """

    renamed: ClassVar = names.SFT_RENAMED
    fixed: ClassVar = names.SFT_FIXED
    no_effect: ClassVar = names.SFT_NO_EFFECT
    unsupported: ClassVar = names.SFT_UNSUPPORTED

    learning_rate: float = option(2e-5, "Peak learning rate.", group="The step", ge=0)
    max_length: int | None = option(1024, "Tokens a row is cut to; none = no limit.", group=_ROWS, ge=2)
    truncation_mode: Literal["keep_start", "keep_end"] = option(
        "keep_start", "Which end of a row that is too long stays.", group=_ROWS
    )
    long_rows: Literal["cut", "drop", "split", "error"] = option(
        "cut",
        "What becomes of rows longer than max_length: cut, dropped and counted, split into several, or an error.",
        group=_ROWS,
    )
    dataset_text_field: str = option("text", "Column of plain text.", group=_ROWS)
    completion_only_loss: bool | None = option(
        None,
        "Train completions only; none = yes for prompt and completion. False trains prompts too.",
        group=_ROWS,
    )
    assistant_only_loss: bool | None = option(
        None,
        "Train assistant turns only; none = yes for messages. False trains everything, as TRL does.",
        group=_ROWS,
    )
    dataset_kwargs: dict[str, Any] | None = option(
        None,
        "{skip_prepare_dataset: true}: rows are tokens (input_ids, labels), taken as they are.",
        group=_ROWS,
    )
    shuffle_dataset: bool = option(
        False, "Shuffle the rows once, by the seed, before anything is packed or ordered.", group=_ROWS
    )
    packing: bool = option(
        False,
        "Lay rows together up to max_length: a step then averages per_device_train_batch_size packs, not rows.",
        group=_ROWS,
    )
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = option(
        "bfd",
        "Packs of whole rows; of rows that are split where they are too long; or blocks cut across rows.",
        group=_ROWS,
    )
    eval_packing: bool | None = option(None, "The same of eval_dataset; none = as packing.", group=_ROWS)
    padding_free: bool = option(
        False, "Say at the start what the batches, which never have padding, save against padded ones.", group=_ROWS
    )
    chat_template_path: str | None = option(
        None,
        "A chat template: a Jinja file, a tokenizer's directory or name, or chatml, llama3, gemma, phi3, zephyr, "
        "mistral, vicuna, alpaca or plain.",
        group=_ROWS,
    )
    eos_token: str | None = option(None, "End of a sequence; none = the tokenizer's.", group=_ROWS)
    pad_token: str | None = option(None, "Padding for generation; none = the tokenizer's.", group=_ROWS)
    loss_type: Literal["nll", "dft"] = option(
        "nll",
        "Negative log-likelihood, or dynamic fine-tuning: the same times the token's own probability.",
        group="The step",
    )
    label_smoothing_factor: float = option(
        0.0, "Share of a token's loss that is the mean over the whole vocabulary.", group="The step", ge=0, lt=1
    )

    @field_validator("loss_type", mode="before")
    @classmethod
    def _alias(cls, value: Any) -> Any:
        return "nll" if value == "chunked_nll" else value  # TRL's old name of the same loss

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.completion_only_loss is True and self.assistant_only_loss is False:
            yield (
                "completion_only_loss",
                "completion_only_loss=True trains completions only, assistant_only_loss=False everything; "
                "leave one unset",
            )
        if (self.packing or self.eval_packing) and self.max_length is None:
            yield "packing", "packing=True fills packs of max_length tokens; max_length=none sets no size"
        if self.long_rows != "cut" and self.max_length is None:
            yield "long_rows", f"long_rows={self.long_rows} is about rows longer than max_length, which is none"
        if self.long_rows != "cut" and self.packing and self.packing_strategy != "bfd":
            yield (
                "long_rows",
                f"long_rows={self.long_rows} has no effect with packing_strategy={self.packing_strategy}, which cuts "
                "rows by itself; leave one out",
            )
        if self.packing_strategy != "bfd" and not (self.packing or self.eval_packing):
            yield (
                "packing_strategy",
                f"packing_strategy={self.packing_strategy} has an effect only together with packing=true",
            )
        options = self.dataset_kwargs or {}
        if unknown := sorted(options.keys() - {"skip_prepare_dataset", "add_special_tokens"}):
            yield "dataset_kwargs", f"dataset_kwargs has {unknown[0]!r}; it takes skip_prepare_dataset of true or false"
        if not isinstance(options.get("skip_prepare_dataset", False), bool):
            yield "dataset_kwargs", "skip_prepare_dataset of dataset_kwargs must be true or false"
        if options.get("add_special_tokens"):
            yield (
                "dataset_kwargs",
                "add_special_tokens=True of dataset_kwargs would double what a chat template writes; text gets its "
                "special tokens without it",
            )
        if self.label_smoothing_factor and self.loss_type != "nll":
            yield (
                "label_smoothing_factor",
                f"label_smoothing_factor smooths the likelihood and has no effect on loss_type={self.loss_type}; leave "
                "one out",
            )
