"""What every command is told that lets a model answer prompts to make data: which model, how, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import field_validator

from posttrain.config.base import option
from posttrain.config.curation.inputs import DATA, DataFields
from posttrain.config.sampling import SamplingFields

DRAW, HERE, THERE, COST = "Sampling", "A model on this machine", "A model behind an endpoint", "Cost"
JUDGING = "Judging"


class AnswerFields(DataFields, SamplingFields):
    """Prompts, the model that answers them, and what becomes of its answers."""

    inputs: list[str] = option(
        ..., "Files of prompts, conversations or questions, or - for standard input.", group=DATA
    )
    count: int = option(1, "Answers to each prompt.", group=DRAW, ge=1)
    keep_system: bool = option(
        True, "Write system_message into the rows; without it the model learns to do without.", group=DATA
    )
    keep_unfinished: bool = option(False, "Keep answers that were cut off at max_tokens.", group=DATA)
    max_rows: int | None = option(None, "Answers drawn at once; none = what fits.", group=HERE, ge=1)
    concurrency: int = option(8, "Requests under way at once.", group=THERE, ge=1)
    requests_per_minute: float | None = option(None, "At most so many, evenly spread.", group=THERE, gt=0)
    tokens_per_minute: float | None = option(None, "The same in tokens, prompts included.", group=THERE, gt=0)
    prompt_price: float | None = option(None, "Price of a million prompt tokens, to count costs.", group=COST, ge=0)
    completion_price: float | None = option(None, "Price of a million tokens of answers.", group=COST, ge=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.count > 1 and self.temperature == 0:
            yield "count", f"count={self.count} at temperature 0 gives the same answer {self.count} times; raise it"
        if (self.prompt_price is None) != (self.completion_price is None):
            yield "prompt_price", "prompt_price and completion_price go together; one of them may be 0"
        if not self.keep_system and self.system_message is None:
            yield "keep_system", "keep_system=false has an effect only together with system_message"


class RewardFields(AnswerFields):
    """Answers that rewards judge."""

    reward: list[str] = option(
        [], "Rewards: built-in names, file.py:function, or directories of reward models.", group=JUDGING
    )
    reward_weights: list[float] | None = option(None, "Weight of each; none = 1.", group=JUDGING)
    reward_options: dict[str, dict[str, Any]] | None = option(
        None, "Options of rewards by name, such as {length: {target: 50}}.", group=JUDGING
    )

    @field_validator("reward", mode="before")
    @classmethod
    def _one_reward(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("reward_weights", mode="before")
    @classmethod
    def _one_weight(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.reward_weights is not None and len(self.reward_weights) != len(self.reward):
            yield (
                "reward_weights",
                f"reward_weights has {len(self.reward_weights)} values for {len(self.reward)} rewards "
                f"({', '.join(self.reward)}); give one weight for each",
            )
        for name in self.reward_options or {}:
            if name not in self.reward:
                yield "reward_options", f"reward_options has {name!r}, reward has not ({', '.join(self.reward)})"

    def rewards(self) -> list[str | dict[str, Any]]:
        """Each reward's name, or its name and options: {"name": ..., option: value}."""
        options = self.reward_options or {}
        return [{"name": name, **options[name]} if options.get(name) else name for name in self.reward]
