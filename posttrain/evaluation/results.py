"""What records add up to: a mean with its interval for every grader."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.evaluation.records import Record
from posttrain.stats import Interval, bootstrap_mean, wilson

SCORES = "scores.json"
UNKNOWN = Interval(estimate=math.nan, low=math.nan, high=math.nan, n=0)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A task's outcome: a mean with its interval for every grader, and the records behind them."""

    name: str
    n: int  # questions
    samples: int  # per question
    scores: Mapping[str, Interval]
    records: tuple[Record, ...]
    unjudged: Mapping[str, int] = field(default_factory=dict)  # completions of this run that a grader gave up on

    @property
    def interval(self) -> Interval:
        """The headline: the first grader's. Raises ValueError for a task without graders."""
        for interval in self.scores.values():
            return interval
        raise ValueError(f"task {self.name!r} has no grader, so no score")

    @property
    def correct(self) -> float:
        """The headline's mean."""
        return self.interval.estimate

    def by_kind(self) -> dict[str, Interval]:
        """The headline's interval for each kind of question, in the order in which they first occur."""
        headline = next(iter(self.scores))
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            groups.setdefault(record.kind or "other", []).append(record)
        return {kind: score(group, headline) for kind, group in groups.items()}


def question_grades(records: Sequence[Record], grader: str) -> dict[int, float]:
    """For each row its samples' mean grade; a row whose samples have no grade is left out."""
    questions: dict[int, list[float]] = {}
    for record in records:
        grade = record.grades.get(grader)
        if grade is not None:
            questions.setdefault(record.row, []).append(grade)
    return {row: sum(grades) / len(grades) for row, grades in questions.items()}


def score(records: Sequence[Record], grader: str) -> Interval:
    """The mean over questions of the mean over their samples; UNKNOWN where nothing is graded.

    Intervals are over questions, as samples of one question are not independent: Wilson's where every question is
    right or wrong, a bootstrap where the mean of a question's samples lies between.
    """
    means = list(question_grades(records, grader).values())
    if not means:
        return UNKNOWN
    if all(mean in (0.0, 1.0) for mean in means):
        return wilson(int(sum(means)), len(means))
    return bootstrap_mean(means)


def perplexities(records: Sequence[Record], *, resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Perplexity per word, byte and token, and bits per byte, of which the records know the counts.

    It is exp(-log-likelihood of all texts / count of all texts). The intervals are a bootstrap over texts; a single
    text has none, and its bounds are NaN.
    """
    loglikelihood = np.array([record.measures["loglikelihood"] for record in records])
    n = len(records)
    picked = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) if n > 1 else None
    found = {}
    for name, unit in (("word_perplexity", "words"), ("byte_perplexity", "bytes"), ("token_perplexity", "tokens")):
        if not all(unit in record.measures for record in records):
            continue
        count = np.array([float(record.measures[unit]) for record in records])
        means = None if picked is None else -(picked @ loglikelihood) / (picked @ count)
        found[name] = _around(np.exp, -loglikelihood.sum() / count.sum(), means, n)
        if unit == "bytes":
            found["bits_per_byte"] = _around(
                lambda nats: nats / math.log(2), -loglikelihood.sum() / count.sum(), means, n
            )
    return found


def _around(of: Any, mean: float, means: np.ndarray | None, n: int) -> Interval:
    low, high = (math.nan, math.nan) if means is None else np.quantile(means, [0.025, 0.975])
    return Interval(estimate=float(of(mean)), low=float(of(low)), high=float(of(high)), n=n)


def plain(interval: Interval) -> dict[str, float | int | None]:
    """The interval for JSON: what is not known is null."""
    return {name: None if value != value else value for name, value in asdict(interval).items()}


def read_interval(values: Mapping[str, Any]) -> Interval:
    """The interval that `plain` wrote."""
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    return Interval(**known)


def write_scores(directory: str | Path, results: Sequence[Result]) -> dict[str, dict[str, dict[str, Any]]]:
    """The scores {task: {grader: {estimate, low, high, n}}}, also written to `scores.json` in the directory."""
    scores = {r.name: {grader: plain(interval) for grader, interval in r.scores.items()} for r in results}
    path = Path(directory) / SCORES
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)
    return scores
