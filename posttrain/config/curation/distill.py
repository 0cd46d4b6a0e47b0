"""What `posttrain data distill` is told."""

from __future__ import annotations

from posttrain.config.base import option
from posttrain.config.curation.answers import AnswerFields
from posttrain.config.curation.inputs import DATA


class DistillCommand(AnswerFields):
    """`posttrain data distill`: a stronger model's answers to prompts, as rows to imitate."""

    distinct: bool = option(True, "Keep equal answers to a prompt once.", group=DATA)


class DistillStage(DistillCommand):
    """The method distill of a recipe; its output lies in the stage's directory."""

    output: str = option("data.jsonl", "Name of the file in the stage's directory.", group=DATA)
