"""`PairConfig`: what every training on pairs of answers has, with or without a reference model."""

from typing import Literal

from posttrain.config.base import option
from posttrain.config.streaming import StreamingConfig

PAIRS = "Pairs"


class PairConfig(StreamingConfig):
    """The fields that DPO, CPO and ORPO share, with TRL's names and defaults."""

    learning_rate: float = option(1e-6, "Peak learning rate.", group="The step", ge=0)
    disable_dropout: bool = option(True, "Dropout off in policy and reference.", group=PAIRS)
    max_length: int | None = option(
        1024, "Tokens that prompt and completion are cut to; none = no limit.", group=PAIRS, ge=2
    )
    truncation_mode: Literal["keep_start", "keep_end"] = option(
        "keep_start", "Which end of a row that is too long stays.", group=PAIRS
    )
    long_rows: Literal["cut", "drop", "error"] = option(
        "cut", "What becomes of pairs longer than max_length: cut, dropped and counted, or an error.", group=PAIRS
    )
    pad_token: str | None = option(None, "Padding for generation; none = the tokenizer's.", group=PAIRS)
