"""`RewardConfig`: a reward model from preferences."""

from collections.abc import Iterator
from typing import ClassVar

from posttrain.config import reward_names as names
from posttrain.config.base import option
from posttrain.config.dataset import DatasetConfig, not_computed

_PAIRS = "Pairs"
_WRITES_NOTHING = ("gate", "drift_steps", "drift_text")


class RewardConfig(DatasetConfig):
    """The fields of reward modelling, with TRL's names and defaults."""

    renamed: ClassVar = names.REWARD_RENAMED
    fixed: ClassVar = names.REWARD_FIXED
    no_effect: ClassVar = names.REWARD_NO_EFFECT
    unsupported: ClassVar = names.REWARD_UNSUPPORTED

    adapter_factor: ClassVar[float] = 1  # TRL's default is an adapter's learning rate already

    learning_rate: float = option(1e-4, "Peak learning rate.", group="The step", ge=0)
    center_rewards_coefficient: float | None = option(
        None, "Weight of the squared sum of a pair's scores, which holds their mean at 0; 0.01 is usual.",
        group=_PAIRS, ge=0,
    )  # fmt: skip
    disable_dropout: bool = option(True, "Dropout off.", group=_PAIRS)
    max_length: int | None = option(
        1024, "Tokens of prompt and answer; a pair with a longer row is left out. None = no limit.", group=_PAIRS, ge=2
    )
    chat_template_path: str | None = option(
        None, "A Jinja file or a tokenizer's directory whose chat template is used.", group=_PAIRS
    )
    eos_token: str | None = option(None, "End of a text; none = the tokenizer's.", group=_PAIRS)
    pad_token: str | None = option(
        None, "Padding; none = the model's own, or one that ends no row. The score is read before it.", group=_PAIRS
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from not_computed(self)
        for name in _WRITES_NOTHING:
            if getattr(self, name, None) is not None:
                yield name, f"{name} looks at answers, and a reward model writes none; give an eval_dataset instead"
