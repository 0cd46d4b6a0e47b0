"""Running a task: every question answered, graded and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import DataError
from posttrain.evaluation.tasks import Grade, Row, Task
from posttrain.stats import Interval, bootstrap_mean, wilson


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One sample: what was asked, answered, and how it was graded."""

    task: str
    row: int  # counted from 1, as in the task
    sample: int  # counted from 1
    prompt: str  # the last message, as the user would see it
    completion: str
    grades: Mapping[str, float]
    kind: str | None = None  # the row's own, where it has one
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A task's outcome: a mean with its interval for every grader, and the records behind them."""

    name: str
    n: int  # questions
    samples: int  # per question
    scores: Mapping[str, Interval]
    records: tuple[Record, ...]

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
        return {kind: _score(group, headline) for kind, group in groups.items()}


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task,
    *,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    records_path: str | Path | None = None,
) -> Result:
    """The task's result on this model, in the order of its rows; the seed matters where it samples.

    Intervals are over questions, as samples of one question are not independent: Wilson's where every question
    is right or wrong, a bootstrap where the mean of a question's samples lies between.
    `records_path` gets one JSON line per sample, whole or not at all.
    Raises DataError for a row without a prompt or a grade outside 0 to 1, naming the row; what else a grader
    raises goes through with a note that names the row.
    """
    from posttrain.sampling.generate import generate_batch

    asked = []
    for number, row in enumerate(task.rows, start=1):
        with _Row(task, number):
            asked.append(task.messages(row))
    completions = generate_batch(
        model,
        tokenizer,
        [messages for messages in asked for _ in range(task.samples)],
        max_new_tokens=task.max_new_tokens,
        batch_size=batch_size,
        do_sample=task.temperature > 0,
        temperature=task.temperature or 1.0,
        seed=seed,
        progress=progress,
    )
    records = []
    for place, completion in enumerate(completions):
        index, sample = divmod(place, task.samples)
        row = task.rows[index]
        with _Row(task, index + 1):
            grades = {name: _grade(name, grade, row, completion) for name, grade in task.graders.items()}
        records.append(
            Record(
                task=task.name,
                row=index + 1,
                sample=sample + 1,
                prompt=asked[index][-1]["content"],
                completion=completion,
                grades=grades,
                kind=row.get("kind"),
                answer=row.get("answer"),
            )
        )
    if records_path is not None:
        write_records(records_path, records)
    return Result(
        name=task.name,
        n=len(task.rows),
        samples=task.samples,
        scores={name: _score(records, name) for name in task.graders},
        records=tuple(records),
    )


def write_records(path: str | Path, records: list[Record]) -> None:
    """Writes one JSON line per record, aside first, so that the file is whole or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    lines = (json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
    aside.write_text("".join(lines), encoding="utf-8")
    aside.replace(path)


def _grade(name: str, grade: Grade, row: Row, completion: str) -> float:
    value = grade(row, completion)
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise DataError(f"grader {name!r} returned {value!r}; it must return a bool or a number from 0 to 1")
    return float(value)


def _score(records: list[Record], name: str) -> Interval:
    """The mean over questions of the mean over their samples."""
    questions: dict[int, list[float]] = {}
    for record in records:
        questions.setdefault(record.row, []).append(record.grades[name])
    means = [sum(grades) / len(grades) for grades in questions.values()]
    if all(mean in (0.0, 1.0) for mean in means):
        return wilson(int(sum(means)), len(means))
    return bootstrap_mean(means)


class _Row:
    """Around work on one row: whatever is raised inside names the task and the row."""

    def __init__(self, task: Task, number: int) -> None:
        self.place = f"task {task.name!r}, row {number}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DataError):
            raise DataError(f"{self.place}: {error}") from error
        if error is not None:
            error.add_note(self.place)
