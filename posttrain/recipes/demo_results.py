"""What came out of a demo run: its scores, its answers, what was forgotten, and which promises it kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.recipes.demo_view import MEASURES, MODELS, Check, Scores
from posttrain.recipes.scoring import SCORES
from posttrain.stats import Interval, Paired, mcnemar, mean_over_seeds


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """One seed's outcome, read from its run directory."""

    seed: int
    directory: Path
    scores: Scores
    costs: Mapping[str, Paired]  # the battery, each training against what it started from

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `demo.json`."""
        return {
            "seed": self.seed,
            "directory": str(self.directory),
            "scores": plain(self.scores),
            "battery": {
                training: {**asdict(paired), "difference": paired.difference} for training, paired in self.costs.items()
            },
        }


def read_run(directory: Path, seed: int) -> DemoRun:
    """The outcome of a finished run of the demo recipe in this directory."""
    battery = {stage: _graded(directory / stage / "battery.jsonl") for stage in MODELS}
    return DemoRun(
        seed=seed,
        directory=directory,
        scores={stage: read_scores(directory / stage) for stage in MODELS},
        costs={
            "DPO": mcnemar(battery["sft_scores"], battery["dpo_scores"]),
            "GRPO": mcnemar(battery["dpo_scores"], battery["grpo_scores"]),
        },
    )


def read_scores(stage: Path) -> dict[str, dict[str, Interval]]:
    """The intervals an evaluate stage wrote: task -> grader -> interval."""
    stored = json.loads((stage / SCORES).read_text(encoding="utf-8"))
    return {
        task: {grader: Interval(**values) for grader, values in graders.items()} for task, graders in stored.items()
    }


def read_answers(stage: Path, task: str = "questions") -> tuple[list[str], list[str]]:
    """The questions of the task and the answers an evaluate stage recorded."""
    records = _records(stage / f"{task}.jsonl")
    return [record["prompt"] for record in records], [record["completion"] for record in records]


def over_seeds(runs: Sequence[DemoRun]) -> Scores:
    """Every measure as its mean over the runs, with Student's t interval."""

    def mean(stage: str, task: str, grader: str) -> Interval:
        return mean_over_seeds([run.scores[stage][task][grader].estimate for run in runs])

    return {
        stage: {
            task: {grader: mean(stage, task, grader) for grader in graders if (task, grader) in MEASURES}
            for task, graders in tasks.items()
        }
        for stage, tasks in runs[0].scores.items()
    }


def checks(runs: Sequence[DemoRun]) -> list[Check]:
    """The demo's promises, each held against the mean over the runs."""

    def mean(stage: str, task: str, grader: str) -> float:
        return sum(run.scores[stage][task][grader].estimate for run in runs) / len(runs)

    def check(text: str, value: float, holds: Callable[[float], bool]) -> Check:
        return Check(text=f"{text}: {100 * value:.1f}%", passed=holds(value))

    def costs(training: str, before: str, after: str, limit: int) -> Check:
        change = mean(after, "battery", "correct") - mean(before, "battery", "correct")
        return Check(
            text=f"{training} costs at most {limit} points of knowledge and skills: {100 * change:+.1f}",
            passed=change >= -limit / 100 - 1e-9,
        )

    return [
        check(
            "the base model cannot chat (at most 5% of the battery)",
            mean("base_scores", "battery", "correct"),
            lambda value: value <= 0.05,
        ),
        check(
            "SFT brings out what it knows (at least 80%)",
            mean("sft_scores", "battery", "correct"),
            lambda value: value >= 0.80,
        ),
        check(
            'after SFT nobody says "Deep Qwen" (at most 1%)',
            mean("sft_scores", "identity", "deep_qwen"),
            lambda value: value <= 0.01,
        ),
        check(
            'after DPO it is "Deep Qwen" (at least 95%)',
            mean("dpo_scores", "identity", "deep_qwen"),
            lambda value: value >= 0.95,
        ),
        check(
            "its answers stay well formed (at least 99%)",
            mean("dpo_scores", "identity", "well_formed"),
            lambda value: value >= 0.99,
        ),
        costs("DPO", "sft_scores", "dpo_scores", 4),
        check(
            "GRPO solves word problems (pass@1 at least 80%)",
            mean("grpo_scores", "word_problems", "correct"),
            lambda value: value >= 0.80,
        ),
        check(
            "and more so without chance (greedy at least 90%)",
            mean("grpo_scores", "word_problems_greedy", "correct"),
            lambda value: value >= 0.90,
        ),
        check(
            'it is still "Deep Qwen" (at least 95%)',
            mean("grpo_scores", "identity", "deep_qwen"),
            lambda value: value >= 0.95,
        ),
        costs("GRPO", "dpo_scores", "grpo_scores", 6),
    ]


def _graded(path: Path) -> list[bool]:
    return [record["grades"]["correct"] == 1.0 for record in _records(path)]


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plain(value: Any) -> Any:
    """Scores as nested plain values; a bound that is not known (one seed has no spread) is null."""
    if isinstance(value, Interval):
        return {
            name: None if number != number else number  # NaN is no JSON
            for name, number in asdict(value).items()
        }
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return value
