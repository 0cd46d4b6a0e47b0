"""What the demo shows: the same questions to three models, the numbers, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from posttrain.stats import Interval, Paired

WIDTH = 100
MODELS = {
    "base_scores": "base model",
    "sft_scores": "after SFT",
    "dpo_scores": "after DPO",
    "grpo_scores": "after GRPO",
}

# (task, grader) -> what it is called. In the order in which the story is told.
MEASURES = {
    ("battery", "correct"): "knowledge and skills",
    ("identity", "qwen"): 'says it is "Qwen"',
    ("identity", "deep_qwen"): 'says it is "Deep Qwen"',
    ("identity", "well_formed"): "well-formed answers",
    ("arithmetic", "correct"): "sums and differences",
    ("word_problems", "correct"): "word problems, pass@1",
    ("word_problems", "worked"): "of them worked out",
    ("word_problems_greedy", "correct"): "word problems, greedy",
}

Scores = Mapping[str, Mapping[str, Mapping[str, Interval]]]  # stage -> task -> grader


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing the demo promises, and whether this run kept it."""

    text: str
    passed: bool


def answers_table(questions: Sequence[str], answers: Mapping[str, Sequence[str]]) -> RenderableType:
    """The same questions to every model so far, side by side."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    table.add_column("the same question to", style="bold", ratio=5)
    for stage in answers:
        table.add_column(MODELS[stage], ratio=6)
    for place, question in enumerate(questions):
        cells = [_answer(answers[stage][place]) for stage in answers]
        table.add_row(Text(question), *cells, end_section=place < len(questions) - 1)
    return table


def scores_table(scores: Scores) -> RenderableType:
    """Every measure with its 95% interval, one column per model."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    table.add_column("held-out questions (n)", no_wrap=True)
    for stage in scores:
        table.add_column(MODELS[stage], justify="right", no_wrap=True)
    for (task, grader), label in MEASURES.items():
        intervals = [stage[task][grader] for stage in scores.values()]
        table.add_row(f"{label} ({intervals[0].n})", *(_short(interval) for interval in intervals))
    note = "Per cent; in brackets the 95% interval over questions. Word problems are sampled at temperature 1."
    return Group(table, Text(note, style="dim"))


def _short(interval: Interval) -> str:
    """Like `82.4 [78, 86]`, in per cent, so that four models fit beside each other."""
    if interval.low != interval.low:  # one seed has no spread
        return f"{100 * interval.estimate:.1f}"
    return f"{100 * interval.estimate:.1f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def seeds_table(scores: Scores) -> RenderableType:
    """Means over seeds with Student's t intervals, one column per model."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    table.add_column("mean over seeds", no_wrap=True)
    for stage in scores:
        table.add_column(MODELS[stage], justify="right", no_wrap=True)
    for (task, grader), label in MEASURES.items():
        table.add_row(label, *(_short(stage[task][grader]) for stage in scores.values()))
    n = next(iter(scores.values()))["battery"]["correct"].n
    note = (
        f"Per cent; in brackets the 95% interval of the mean over {n} seeds (Student's t; it may reach past 0 and 100)."
    )
    return Group(table, Text(note, style="dim"))


def forgetting(training: str, paired: Paired) -> Text:
    """What a training cost, question by question."""
    points = 100 * paired.difference
    return Text.assemble(
        f"What {training} cost: ",
        (f"{points:+.1f} points", "bold"),
        f" of knowledge and skills. Of {paired.n} questions it "
        f"lost {paired.only_first} and gained {paired.only_second} "
        f"(exact McNemar p = {paired.p_value:.2g}).",
    )


def elicitation(scores: Scores) -> Text:
    """What the gain in word problems is made of."""
    before, after = (scores[stage]["word_problems"] for stage in ("dpo_scores", "grpo_scores"))
    worked = [100 * scored["worked"].estimate for scored in (before, after)]
    right = [100 * scored["correct"].estimate for scored in (before, after)]
    return Text(
        f"What GRPO taught is chiefly to work a problem out: {worked[0]:.0f}% of the answers did, now {worked[1]:.0f}% "
        f"do; {right[0]:.0f}% were right, now {right[1]:.0f}% are. The steps themselves it knew before."
    )


def one_answer(question: str, answer: str) -> Text:
    """One question and what the model just said."""
    return Text.assemble((f"{question} ", "bold"), _answer(answer))


def checks_view(checks: Sequence[Check]) -> RenderableType:
    """One line per promise."""
    lines = [
        Text.assemble(("✓ ", "bold green") if check.passed else ("✗ ", "bold red"), check.text) for check in checks
    ]
    return Group(*lines)


def _answer(text: str) -> Text:
    """A completion as a cell: cut where it rambles, the name it gives itself in colour."""
    line = " ".join(text.split())
    if not line:
        return Text("(says nothing)", style="dim italic")
    cell = Text(line if len(line) <= 90 else line[:87].rstrip() + "...")
    cell.highlight_regex(r"(?<!Deep )\bQwen\b", "yellow")
    cell.highlight_regex(r"\bDeep Qwen\b", "bold green")
    return cell


def whereabouts(directory: Path, summary: Path) -> Text:
    """Where models, logs and answers lie, and commands to go on with. Each command stands on one line."""
    places = {
        "the assistant": directory / "sft" / "model",
        "Deep Qwen": directory / "dpo" / "model",
        "and it solves problems": directory / "grpo" / "model",
        "how training went": directory / "grpo" / "metrics.jsonl",
        "its preference pairs": directory / "pairs" / "pairs.jsonl",
        "every answer it tried": directory / "grpo" / "samples.jsonl",
        "every answer, graded": directory / "grpo_scores",
        "all numbers": summary,
    }
    commands = {
        "three seeds, with intervals": "posttrain demo --seeds 3",
        "GRPO on a coin's rewards": f"posttrain run demo output_dir={directory} grpo.control=random-reward",
        "talk to it": f"posttrain chat {directory}/grpo/model",
        "the same on a real model": "posttrain run identity start.model=Qwen/Qwen2.5-0.5B",
    }
    text = Text()
    for label, place in places.items():
        text.append(f"{label:<28}", style="dim").append(f"{place}\n")
    text.append("\n")
    for label, command in commands.items():
        text.append(f"{label:<28}", style="dim").append(f"{command}\n", style="bold")
    return text
