"""What `posttrain data convert` and the method convert of a recipe are told."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from posttrain.config.base import option
from posttrain.config.curation.inputs import DataFields, InputFields

Format = Literal[
    "messages", "prompt-completion", "text", "alpaca", "sharegpt", "preference", "unpaired", "prompt-only"
]  # fmt: skip


class ConvertStage(InputFields):
    """The method convert of a recipe."""

    to: Format | None = option(
        None, "Format to write; none = what a trainer reads of rows of this kind.", group="Conversion"
    )
    conversational: bool = option(False, "Make messages of prompts and answers that are text.", group="Conversion")
    tree_pairs: Literal["best-worst", "every"] = option(
        "best-worst", "Which ranked replies of a tree are compared, where pairs are written.", group="Conversion"
    )
    provenance: bool = option(True, "Write where each row came from into the column _provenance.", group="Conversion")

    @field_validator("to", mode="before")
    @classmethod
    def _kto(cls, value: object) -> object:
        return "unpaired" if value == "kto" else value


class ConvertCommand(ConvertStage, DataFields):
    """`posttrain data convert`."""
