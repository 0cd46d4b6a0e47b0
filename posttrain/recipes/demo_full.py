"""What `posttrain demo --full` adds: its story, what came out of it, and how the ways of learning compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from posttrain.recipes.demo_view import Check
from posttrain.recipes.scoring import SCORES
from posttrain.stats import Interval, mean_over_seeds

STORY = {
    "ppo": ("PPO", "one answer to each problem; a value model says which of its tokens did better than expected"),
    "ppo_scores": ("The same questions after PPO", "as many answers were tried as GRPO tried"),
    "reward_pairs": (
        "Pairs for a reward model",
        "answers of the SFT model, the checker's better ones against its worse",
    ),
    "held_out_pairs": ("And others to measure it on", "of problems that it does not see"),
    "reward": ("A reward model", "learns from these pairs what the checker would say"),
    "ppo_rm": (
        "PPO with that reward model",
        "the checker only looks on: does the learned reward lead to right answers?",
    ),
    "ppo_rm_scores": ("The same questions after it", "a learned reward can be fooled"),
    "offline": ("Offline reinforcement learning", "nothing new is tried: the answers of GRPO, with their rewards"),
    "offline_scores": ("The same questions after it", "what can be had from answers that are there already"),
}
SILENT = tuple(name for name in STORY if name not in ("ppo", "reward", "ppo_rm", "offline"))

# evaluations, with the stage whose answers were tried (none for the start) and what they are called
MODELS: Mapping[str, tuple[str | None, str]] = {
    "dpo_scores": (None, "the start"),
    "grpo_scores": ("grpo", "GRPO, checker"),
    "ppo_scores": ("ppo", "PPO, checker"),
    "ppo_rm_scores": ("ppo_rm", "PPO, learned"),
    "offline_scores": (None, "offline RL"),
}
MEASURES = {
    ("word_problems", "correct"): "pass@1",
    ("word_problems_greedy", "correct"): "greedy",
    ("battery", "correct"): "knowledge, skills",
    ("identity", "deep_qwen"): '"Deep Qwen"',
}


@dataclass(frozen=True, kw_only=True)
class Full:
    """What came out, over the seeds: a mean with Student's interval, or of one seed its own interval."""

    scores: Mapping[str, Mapping[tuple[str, str], Interval]]  # evaluation -> (task, grader)
    tokens: Mapping[str, float]  # evaluation -> tokens that were sampled to train on, a seed
    accuracy: Interval | None  # of the reward model on held-out pairs
    by_length: float | None  # what the length of the answers alone gives there
    alarms: int  # seeds on which the learned reward rose and the checker's did not

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `demo.json`."""
        scores = {
            name: {f"{task}/{grader}": interval for (task, grader), interval in measured.items()}
            for name, measured in self.scores.items()
        }
        held_out = {"accuracy": self.accuracy, "by_length": self.by_length}
        return {"scores": scores, "tokens": dict(self.tokens), "reward_model": held_out, "alarms": self.alarms}


def read_all(directories: Sequence[Path]) -> Full:
    """The outcome of finished runs of the full recipe."""
    found = [{name: _scores(directory / name) for name in MODELS} for directory in directories]
    held_out = [_held_out(directory / "reward") for directory in directories]
    known = [one for one in held_out if one is not None]

    def over(values: Sequence[Interval]) -> Interval:
        return values[0] if len(values) == 1 else mean_over_seeds([value.estimate for value in values])

    return Full(
        scores={
            name: {measure: over([one[name][measure] for one in found]) for measure in MEASURES} for name in MODELS
        },
        tokens={
            name: sum(_tokens(directory / stage) for directory in directories) / len(directories)
            for name, (stage, _) in MODELS.items()
            if stage is not None
        },
        accuracy=over([accuracy for accuracy, _ in known]) if known else None,
        by_length=sum(length for _, length in known) / len(known) if known else None,
        alarms=sum(_fooled(directory / "ppo_rm") for directory in directories),
    )


def checks(full: Full) -> list[Check]:
    """What the full demo promises; what a learned reward and old answers give is reported, whatever it is."""
    solved = full.scores["ppo_scores"]["word_problems", "correct"].estimate
    before, after = (full.scores[name]["battery", "correct"].estimate for name in ("dpo_scores", "ppo_scores"))
    return [
        Check(text=f"PPO solves word problems (pass@1 at least 80%): {100 * solved:.1f}%", passed=solved >= 0.8),
        Check(
            text=f"PPO costs at most 8 points of knowledge and skills: {100 * (after - before):+.1f}",
            passed=after - before >= -0.08 - 1e-9,
        ),
    ]


def table(full: Full) -> RenderableType:
    """The ways of learning beside each other, with what each sampled."""
    made = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    made.add_column("")
    for label in (*MEASURES.values(), "tokens tried"):
        made.add_column(label, justify="right", no_wrap=True)
    for name, (_, label) in MODELS.items():
        tokens = full.tokens.get(name)
        made.add_row(
            label,
            *(_short(full.scores[name][measure]) for measure in MEASURES),
            "-" if tokens is None else f"{tokens:,.0f}",
        )
    note = (
        "Per cent with the 95% interval. The start is the model after DPO; all others learned from it, the learned "
        "reward is that of the reward model, and offline RL had the answers that GRPO tried."
    )
    lines = [Text(note, style="dim")]
    if full.accuracy is not None and full.by_length is not None:
        lines.append(
            Text(
                f"The reward model is right on {_short(full.accuracy)}% of held-out pairs; the length of the answers "
                f"alone gives {100 * full.by_length:.1f}%."
            )
        )
    if full.alarms:
        lines.append(
            Text("An alarm sounded: the learned reward rose while the checker's did not.", style="bold yellow")
        )
    return Group(made, *lines)


def _short(interval: Interval) -> str:
    if interval.low != interval.low:  # one seed has no spread
        return f"{100 * interval.estimate:.1f}"
    return f"{100 * interval.estimate:.1f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _scores(stage: Path) -> dict[tuple[str, str], Interval]:
    stored = json.loads((stage / SCORES).read_text(encoding="utf-8"))
    return {(task, grader): Interval(**stored[task][grader]) for task, grader in MEASURES}


def _tokens(stage: Path) -> int:
    with (stage / "samples.jsonl").open(encoding="utf-8") as lines:
        return sum(len(json.loads(line)["completion_ids"]) for line in lines)


def _held_out(stage: Path) -> tuple[Interval, float] | None:
    """The reward model's accuracy on held-out pairs, and that of a rule of lengths."""
    path = stage / "calibration.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    low, high = stored["accuracy_95"]
    accuracy = Interval(estimate=stored["accuracy"], low=low, high=high, n=stored["pairs"])
    return accuracy, float(stored["length_accuracy"])


def _fooled(stage: Path) -> bool:
    with (stage / "metrics.jsonl").open(encoding="utf-8") as lines:
        return any(json.loads(line).get("alarm") == "reward_hacking" for line in lines)
