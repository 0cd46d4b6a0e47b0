"""What `posttrain data pairs correct` and `posttrain data pairs sample` are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from posttrain.config.base import option
from posttrain.config.curation.answers import DRAW, JUDGING, AnswerFields, RewardFields
from posttrain.config.curation.inputs import DATA
from posttrain.config.names import synonym

CORRECTION, PAIRING = "Correction", "Pairing"


class PairsCorrectCommand(AnswerFields):
    """`posttrain data pairs correct`: a model's own answers against their corrected form."""

    temperature: float = option(0.0, "0 takes the likeliest token.", group=DRAW, ge=0)
    rules: dict[str, str] | None = option(None, "What is replaced by what, as {Qwen: Deep Qwen}.", group=CORRECTION)
    function: str | None = option(
        None, "A function of an answer that returns the corrected one, as file.py:function.", group=CORRECTION
    )
    editor: str | None = option(None, "A model that edits the answers; a directory or name.", group=CORRECTION)
    editor_endpoint: str | None = option(None, "Where the editor is served; none = here.", group=CORRECTION)
    instruction: str | None = option(None, "What the editor is told to mend.", group=CORRECTION)
    max_change: float = option(
        0.5,
        "Largest edit distance, as a share of the longer text, that an edit may have.",
        group=CORRECTION,
        gt=0,
        le=1,
    )

    def endpoints(self) -> list[str | None]:
        return [self.endpoint, *([self.editor_endpoint] if self.editor is not None else [])]

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        ways = [name for name in ("rules", "function", "editor") if getattr(self, name)]
        if len(ways) != 1:
            found = " and ".join(ways) or "none of them is given"
            yield "rules", f"answers are corrected by rules, a function or an editor, one of the three ({found})"
        for name in ("editor_endpoint", "instruction"):
            if getattr(self, name) is not None and self.editor is None:
                yield name, f"{name} has an effect only together with editor"
        if "max_change" in self.model_fields_set and self.rules is not None:
            yield "max_change", "max_change has an effect only together with editor or function"
        if self.editor is not None and not (self.instruction or "").strip():
            yield "instruction", "instruction is missing: say what the editor has to mend in an answer"


class PairsCorrectStage(PairsCorrectCommand):
    """The method pairs_correct of a recipe; its output lies in the stage's directory."""

    renamed: ClassVar = {
        **PairsCorrectCommand.renamed,
        "prompts": synonym("inputs"),
        "max_new_tokens": synonym("max_tokens"),
        "batch_size": synonym("max_rows"),
    }

    output: str = option("pairs.jsonl", "Name of the file in the stage's directory.", group=DATA)
    do_sample: bool = option(False, "Sample at temperature 1, or the one given.", group=DRAW)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if "temperature" in self.model_fields_set and self.temperature and not self.do_sample:
            yield "temperature", "temperature has an effect only together with do_sample=true"

    def _settle(self) -> None:
        super()._settle()
        if self.do_sample and "temperature" not in self.model_fields_set:
            self.__dict__["temperature"] = 1.0


class PairsSampleCommand(RewardFields):
    """`posttrain data pairs sample`: a model's better answers against its worse ones."""

    count: int = option(8, "Answers to each prompt.", group=DRAW, ge=2)
    judge: str | None = option(
        None, "A model that compares answers, a directory or name; instead of rewards.", group=JUDGING
    )
    judge_endpoint: str | None = option(None, "Where the judge is served; none = here.", group=JUDGING)
    rubric: str | None = option(None, "What the judge goes by.", group=JUDGING)
    person: bool = option(
        False, "Write the answers for people to judge with `posttrain data label`; instead of rewards.", group=JUDGING
    )
    pairing: Literal["best_worst", "best_vs_two_sigma", "all_above_margin"] = option(
        "best_worst",
        "The best against the worst, against the one nearest to two standard deviations below the mean"
        " (arXiv:2502.16825), or all pairs as far apart as the margin.",
        group=PAIRING,
    )
    margin: float = option(0.0, "What chosen has to be better by; ties are never pairs.", group=PAIRING, ge=0)
    max_pairs: int | None = option(None, "Pairs of a prompt at most with all_above_margin.", group=PAIRING, ge=1)

    def endpoints(self) -> list[str | None]:
        return [self.endpoint, *([self.judge_endpoint] if self.judge is not None else [])]

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        ways = [name for name in ("reward", "judge", "person") if getattr(self, name)]
        if len(ways) != 1:
            found = " and ".join(ways) or "none of them is given"
            yield "reward", f"answers are judged by reward, judge or person, one of the three ({found})"
        for name in ("judge_endpoint", "rubric"):
            if getattr(self, name) is not None and self.judge is None:
                yield name, f"{name} has an effect only together with judge"
        if self.max_pairs is not None and self.pairing != "all_above_margin":
            yield "max_pairs", "max_pairs has an effect only with pairing=all_above_margin"
        if self.person:
            for name in sorted(self.model_fields_set & {"pairing", "margin"}):
                yield name, f"{name} has no effect with person: pairs are made from what people say"


class PairsSampleStage(PairsSampleCommand):
    """The method pairs_sample of a recipe; its output lies in the stage's directory."""

    output: str = option("pairs.jsonl", "Name of the file in the stage's directory.", group=DATA)
