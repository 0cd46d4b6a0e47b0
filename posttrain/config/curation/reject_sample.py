"""What `posttrain data reject-sample` is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from posttrain.config.base import option
from posttrain.config.curation.answers import JUDGING, RewardFields
from posttrain.config.curation.inputs import DATA


class RejectSampleCommand(RewardFields):
    """`posttrain data reject-sample`: several answers to each prompt, the best of them kept."""

    count: int = option(8, "Answers to each prompt.", group="Sampling", ge=2)
    keep: Literal["best", "above", "first"] = option(
        "best", "The best answer, all that reach the threshold, or the first k different ones that do.", group=JUDGING
    )
    threshold: float | None = option(
        ..., "What a kept answer's reward is at least; none = the best whatever it is.", group=JUDGING
    )
    k: int = option(4, "Answers to a prompt at most with keep=first.", group=JUDGING, ge=1)
    solved_at: float | None = option(
        None, "Reward at which an answer counts as right for pass@k; none = the threshold.", group=JUDGING
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.reward:
            yield "reward", "reward is missing: name one, such as final_answer, file.py:function, or a directory"
        if self.threshold is None and self.keep != "best":
            yield "threshold", f"keep={self.keep} needs a threshold, such as 1 where a reward gives 0 or 1"
        if "k" in self.model_fields_set and self.keep != "first":
            yield "k", "k has an effect only with keep=first"


class RejectSampleStage(RejectSampleCommand):
    """The method reject_sample of a recipe; its output lies in the stage's directory."""

    output: str = option("data.jsonl", "Name of the file in the stage's directory.", group=DATA)
