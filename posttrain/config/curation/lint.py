"""What `posttrain data lint` and the recipe method lint are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator

from posttrain.config.base import Config, option

_WHAT, _HOW = "Model and data", "How it is looked at"


class LintFields(Config):
    """The data, the model it is meant for, and how much of it is looked at."""

    inputs: list[str] = option(..., "Files to look at, or - for standard input.", group=_WHAT, min_length=1)
    model: str | None = option(
        None, "Directory or name of the model to be trained: its template, and how likely it finds the answers.",
        group=_WHAT,
    )  # fmt: skip
    tokenizer: str | None = option(
        None, "Only its tokenizer and chat template, without the model's weights.", group=_WHAT
    )
    against: list[str] = option([], "Evaluation files that the data must not contain.", group=_WHAT)
    max_length: int | None = option(None, "Tokens of a row at most, as training would have it.", group=_WHAT, ge=2)
    max_pairs: int = option(10_000, "Pairs that the classifiers read, drawn at random.", group=_HOW, ge=1)
    model_pairs: int = option(200, "Pairs that the model reads.", group=_HOW, ge=1)
    area: float = option(
        0.55, "AUC from which a separation that is sure is a warning, below it a note.", group=_HOW, ge=0.5, lt=1
    )
    seed: int = option(0, "Seed that draws pairs and deals out the folds.", group=_HOW, ge=0)
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.", group=_HOW)

    @classmethod
    def parse_field(cls, name: str, text: str) -> Any:
        """As for every field, but a file's name is what was written: `-` alone means something else in YAML."""
        return [text] if name in ("inputs", "against") and not text.startswith("[") else super().parse_field(name, text)

    @field_validator("inputs", "against", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.model is not None and self.tokenizer is not None:
            yield "tokenizer", "tokenizer has an effect only without model, which brings its own"
        if self.max_length is not None and self.model is None and self.tokenizer is None:
            yield "max_length", "max_length counts tokens: name the model or the tokenizer with it"
        if "model_pairs" in self.model_fields_set and self.model is None:
            yield "model_pairs", "model_pairs has an effect only together with model"


class LintCommand(LintFields):
    """`posttrain data lint`: what would go wrong in training on these rows."""

    format: Literal["text", "json"] = option("text", "What the report is written as.", group=_HOW)
    output: str | None = option(None, "File that the report is written to; none = shown.", group=_WHAT)


class LintStage(LintFields):
    """The method lint of a recipe: what would go wrong, before the stages that train."""

    fail_on: Literal["error", "warning", "never"] = option("error", "What stops the recipe.", group=_HOW)
