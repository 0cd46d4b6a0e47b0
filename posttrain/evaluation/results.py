"""What records add up to: a mean with its interval for every grader."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain.evaluation.records import Record
from posttrain.rewards.answers import final_finders, first_found, normalize_answer
from posttrain.stats import Interval, bootstrap_mean, maj_at_k, pass_at_k, wilson
from posttrain.stats.ratio import bootstrap_ratio

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


def graders_of(records: Sequence[Record]) -> list[str]:
    """The names of all that graded any of the records; the first is the headline."""
    return list(dict.fromkeys(name for record in records for name in record.grades))


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
    return mean_interval(list(question_grades(records, grader).values()))


def mean_interval(grades: Sequence[float]) -> Interval:
    """The mean of grades from 0 to 1, one a question, as `score` has it."""
    if not grades:
        return UNKNOWN
    if all(grade in (0.0, 1.0) for grade in grades):
        return wilson(int(sum(grades)), len(grades))
    return bootstrap_mean(grades)


def several(records: Sequence[Record], grader: str, k: int) -> dict[str, Interval]:
    """`pass@k`, where an answer is right or wrong, and `maj@k`, where questions have a right answer; k samples each."""
    by_row: dict[int, list[Record]] = {}
    for record in records:
        if record.grades.get(grader) is not None:
            by_row.setdefault(record.row, []).append(record)
    groups = [group for group in by_row.values() if len(group) >= k]
    grades = [[float(record.grades[grader] or 0) for record in group] for group in groups]
    found = {}
    if groups and all(grade in (0.0, 1.0) for own in grades for grade in own):
        found[f"pass@{k}"] = mean_interval([pass_at_k(len(own), int(sum(own)), k) for own in grades])
    if groups and all(record.answer is not None for group in groups for record in group):
        answers = [[_voted(record.completion) for record in group] for group in groups]
        if any(answer is not None for own in answers for answer in own):
            voted = [min(1.0, maj_at_k(said, own, k)) for said, own in zip(answers, grades)]
            found[f"maj@{k}"] = mean_interval(voted)
    return found


def _voted(completion: str) -> str | None:
    """The final answer that a sample votes for."""
    answer = first_found(completion, final_finders(lenient=True))
    return None if answer is None else str(normalize_answer(answer))


def perplexities(records: Sequence[Record]) -> dict[str, Interval]:
    """Perplexity per word, byte and token, and bits per byte, of which the records know the counts.

    It is exp(-log-likelihood of all texts / count of all texts). The intervals are a bootstrap over texts; a single
    text has none, and its bounds are NaN.
    """
    loglikelihood = [-float(record.measures["loglikelihood"]) for record in records]
    found = {}
    for name, unit in (("word_perplexity", "words"), ("byte_perplexity", "bytes"), ("token_perplexity", "tokens")):
        if not all(unit in record.measures for record in records):
            continue
        nats = bootstrap_ratio(loglikelihood, [float(record.measures[unit]) for record in records])
        found[name] = _each(nats, math.exp)
        if unit == "bytes":
            found["bits_per_byte"] = _each(nats, lambda value: value / math.log(2))
    return found


def _each(interval: Interval, of: Callable[[float], float]) -> Interval:
    return Interval(estimate=of(interval.estimate), low=of(interval.low), high=of(interval.high), n=interval.n)


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
