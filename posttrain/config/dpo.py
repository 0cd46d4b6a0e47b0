"""`DPOConfig`: direct preference optimisation."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from posttrain.config import names
from posttrain.config.base import option
from posttrain.config.training import TrainingConfig

PairLoss = Literal["sigmoid", "ipo", "hinge", "robust", "sft"]

_OTHER_LOSSES = (
    "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "aot_pair", "apo_zero",
    "apo_down", "discopop", "sigmoid_norm", "kto_pair",
)  # fmt: skip
_PAIRS = "Pairs"
_LATER = "it is not offered yet; use sigmoid, ipo, hinge, robust or sft"


class DPOConfig(TrainingConfig):
    """The fields of preference training, with TRL's names and defaults."""

    renamed: ClassVar = names.DPO_RENAMED
    fixed: ClassVar = names.DPO_FIXED
    no_effect: ClassVar = names.DPO_NO_EFFECT
    unsupported: ClassVar = names.DPO_UNSUPPORTED
    unsupported_values: ClassVar = {
        **TrainingConfig.unsupported_values,
        "loss_type": dict.fromkeys(_OTHER_LOSSES, _LATER),
    }

    learning_rate: float = option(1e-6, "Peak learning rate.", group="The step", ge=0)
    beta: float = option(0.1, "How strongly the policy is held to the reference; tau in ipo.", group=_PAIRS, gt=0)
    loss_type: list[PairLoss] = option(["sigmoid"], "Loss of a pair, or several to be added up.", group=_PAIRS)
    loss_weights: list[Annotated[float, Field(ge=0)]] | None = option(
        None, "Weight of each loss_type; none = 1 each.", group=_PAIRS
    )
    label_smoothing: float = option(
        0.0, "Share of labels assumed to be flipped, for the robust loss.", group=_PAIRS, ge=0, lt=0.5
    )
    disable_dropout: bool = option(True, "Dropout off in policy and reference.", group=_PAIRS)
    max_length: int | None = option(
        1024, "Tokens that prompt and completion are cut to; none = no limit.", group=_PAIRS, ge=2
    )
    truncation_mode: Literal["keep_start", "keep_end"] = option(
        "keep_start", "Which end of a row that is too long stays.", group=_PAIRS
    )
    pad_token: str | None = option(None, "Padding for generation; none = the tokenizer's.", group=_PAIRS)

    @field_validator("loss_type", mode="before")
    @classmethod
    def _one_loss(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("loss_weights", mode="before")
    @classmethod
    def _one_weight(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.loss_type:
            yield "loss_type", "loss_type is an empty list; write sigmoid"
        if len(set(self.loss_type)) != len(self.loss_type):
            yield (
                "loss_type",
                f"loss_type={self.loss_type!r} names a loss twice; give it a weight in loss_weights",
            )
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            yield (
                "loss_weights",
                f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_type)} losses "
                f"({', '.join(self.loss_type)}); give one weight for each",
            )
        if self.loss_weights is not None and not any(self.loss_weights):
            yield "loss_weights", "loss_weights are all 0, which trains nothing; leave it out for 1 each"
        if self.label_smoothing and "robust" not in self.loss_type:
            yield (
                "label_smoothing",
                f"label_smoothing={self.label_smoothing:g} has an effect on the robust loss only; "
                "write loss_type=robust or leave it out",
            )
