"""An evaluation directory: scores, the records behind them, and how far the model had moved."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.report.files import number, read_json, read_lines, read_object
from posttrain.stats import Interval, bootstrap_mean, wilson

BITS = "bits_per_byte"  # what texts are compared by
_LOWER_IS_BETTER = re.compile(r"perplexity|bits_per_byte|loss")
SCORES, DRIFT, TASKS = "scores.json", "drift.json", "tasks.json"
_NO_RECORDS = ("metrics.jsonl", "samples.jsonl")

Scores = dict[str, dict[str, Interval]]  # task -> grader -> mean with its interval


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's answers to the questions of some tasks, read when they are asked for."""

    label: str
    directory: Path
    step: int | None = None  # of a checkpoint
    start: str | None = None  # the label of the evaluation of the model that this one started from, where that is known

    @cached_property
    def records(self) -> dict[str, list[dict[str, Any]]]:
        """The records of each task in the order of their rows; a file that holds none is left out."""
        found = {}
        for path in sorted(self.directory.glob("*.jsonl")):
            if path.name in _NO_RECORDS:
                continue
            lines = [line for line in read_lines(path) if _is_record(line)]
            if lines:
                found[path.stem] = sorted(lines, key=lambda line: (line["row"], _count(line.get("sample"))))
        return {task: found[task] for task in [*(t for t in self._written if t in found), *found]}

    @cached_property
    def by_row(self) -> dict[str, dict[int, list[dict[str, Any]]]]:
        """The records of each task and row, one for each sample."""
        found: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for task, records in self.records.items():
            for record in records:
                found.setdefault(task, {}).setdefault(record["row"], []).append(record)
        return found

    @cached_property
    def scores(self) -> Scores:
        """What `scores.json` says; where an evaluation was stopped before it, what the records add up to."""
        if self._written:
            return self._written
        scores: Scores = {}
        for task, records in self.records.items():
            graders = {name: None for record in records for name in record["grades"]}
            found = {grader: mean_of(list(question_grades(records, grader).values())) for grader in graders}
            scores[task] = {grader: interval for grader, interval in found.items() if interval is not None}
        return scores

    @cached_property
    def drift(self) -> dict[str, dict[str, Any]]:
        """What `drift.json` says for each set of texts."""
        return {name: one for name, one in read_object(self.directory / DRIFT).items() if isinstance(one, dict)}

    @cached_property
    def made_with(self) -> dict[str, dict[str, Any]]:
        """What the records of each task were made with, where that is written."""
        return {name: one for name, one in read_object(self.directory / TASKS).items() if isinstance(one, dict)}

    @cached_property
    def _written(self) -> Scores:
        return _read_scores(read_json(self.directory / SCORES))

    def headlines(self) -> dict[str, tuple[str, Interval]]:
        """For each task that has a grade its headline, with the score."""
        named = {task: headline_of(graders) for task, graders in self.scores.items()}
        return {task: (grader, self.scores[task][grader]) for task, grader in named.items() if grader is not None}


def headline_of(graders: Mapping[str, Interval]) -> str | None:
    """The grader that a task is judged by: bits per byte of texts, else the first."""
    return BITS if BITS in graders else next(iter(graders), None)


def lower_is_better(grader: str) -> bool:
    """Whether a smaller number is the better one, by the grader's name."""
    return bool(_LOWER_IS_BETTER.search(grader))


def holds_evaluation(directory: Path) -> bool:
    """The directory holds scores, or records of a task."""
    if (directory / SCORES).is_file():
        return True
    paths = [path for path in directory.glob("*.jsonl") if path.name not in _NO_RECORDS]
    return any(_starts_with_record(path) for path in paths)


def question_grades(records: Sequence[Mapping[str, Any]], grader: str) -> dict[int, float]:
    """For each row its samples' mean grade; a row without a grade is left out."""
    questions: dict[int, list[float]] = {}
    for record in records:
        grade = number(record["grades"].get(grader))
        if grade is not None:
            questions.setdefault(record["row"], []).append(grade)
    return {row: sum(grades) / len(grades) for row, grades in questions.items()}


def mean_of(grades: Sequence[float]) -> Interval | None:
    """The mean over questions with its interval; None without any."""
    if not grades:
        return None
    if all(grade in (0.0, 1.0) for grade in grades):
        return wilson(int(sum(grades)), len(grades))
    return bootstrap_mean(grades)


def read_interval(value: Any) -> Interval | None:
    """The interval that JSON holds; bounds that are not known are NaN. None without an estimate."""
    if not isinstance(value, Mapping) or (estimate := number(value.get("estimate"))) is None:
        return None
    bounds = [number(value.get(name)) for name in ("low", "high")]
    low, high = (math.nan if bound is None else bound for bound in bounds)
    return Interval(estimate=estimate, low=low, high=high, n=int(number(value.get("n")) or 0))


def _read_scores(found: Any) -> Scores:
    scores: Scores = {}
    for task, graders in found.items() if isinstance(found, dict) else ():
        if isinstance(graders, dict):
            read = {str(grader): read_interval(value) for grader, value in graders.items()}
            scores[str(task)] = {grader: interval for grader, interval in read.items() if interval is not None}
    return scores


def _is_record(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("row"), int) and isinstance(line.get("grades"), dict) and "completion" in line


def _starts_with_record(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 22)
    except OSError:
        return False
    return b'"grades"' in first and b'"completion"' in first


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
