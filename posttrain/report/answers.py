"""Answers to the same questions, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from posttrain.report.changes import Change
from posttrain.report.evaluations import Evaluation
from posttrain.report.files import number
from posttrain.report.text import Piece, differences, said, shorten, visible

SHOWN_FLIPS = 10  # of each task and direction
_SHOWN_UNGRADED = 8
_SHOWN_QUESTIONS = 12


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model said; the words that are new, or that are gone, are marked."""

    label: str
    pieces: Sequence[Piece]
    grade: float | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and the answers of several models, in order."""

    task: str
    row: int
    prompt: str
    expected: str | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Flips:
    """The questions of one task whose grade changed."""

    change: Change
    gained: tuple[Question, ...]  # the first of them
    lost: tuple[Question, ...]


def side_by_side(evaluations: Sequence[Evaluation]) -> list[Question]:
    """Questions that all evaluations answered: those of tasks that nobody grades, then some of each other task."""
    first = evaluations[0]
    graded = first.headlines()
    tasks = [task for task in first.records if all(_asks_same(first, other, task) for other in evaluations[1:])]
    found: list[Question] = []
    for task in sorted(tasks, key=lambda task: task in graded):
        grader = graded[task][0] if task in graded else None
        limit = max(1, 4 // len(graded)) if grader else _SHOWN_UNGRADED
        rows = [row for row in first.by_row[task] if all(_record(e, task, row) for e in evaluations)]
        if grader:  # where nothing changed there is nothing to see
            rows = [row for row in rows if len(_texts(evaluations, task, row)) > 1] or rows
        rows = [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else rows
        found += [_question(evaluations, task, grader, row) for row in rows]
    return found[:_SHOWN_QUESTIONS]


def _texts(evaluations: Sequence[Evaluation], task: str, row: int) -> set[str]:
    return {said(record.get("completion")) for e in evaluations if (record := _record(e, task, row))}


def flips(before: Evaluation, after: Evaluation, change: Change) -> Flips:
    """The questions behind a change, both ways."""

    def questions(rows: Sequence[int]) -> tuple[Question, ...]:
        return tuple(
            _question([before, after], change.task, change.grader, row, turned=True) for row in rows[:SHOWN_FLIPS]
        )

    return Flips(change=change, gained=questions(change.gained), lost=questions(change.lost))


def _question(
    evaluations: Sequence[Evaluation], task: str, grader: str | None, row: int, turned: bool = False
) -> Question:
    sample = _turned_sample(evaluations, task, grader, row) if turned and grader else 0
    records = [_record(evaluation, task, row, sample) or {} for evaluation in evaluations]
    texts = [visible(shorten(said(record.get("completion")))) for record in records]
    pieces: list[Sequence[Piece]] = [[Piece(text=texts[0], differs=False)]]
    for old, new in pairwise(texts):
        gone, added = differences(old, new)
        if len(texts) == 2:
            pieces[0] = gone
        pieces.append(added)
    expected = next((record["answer"] for record in records if record.get("answer") is not None), None)
    return Question(
        task=task,
        row=row,
        prompt=visible(shorten(said(records[0].get("prompt")))),
        expected=None if expected is None else visible(shorten(str(expected), 200)),
        answers=tuple(
            Answer(
                label=evaluation.label,
                pieces=marked,
                grade=number(record.get("grades", {}).get(grader)) if grader else None,
            )
            for evaluation, marked, record in zip(evaluations, pieces, records)
        ),
    )


def _turned_sample(evaluations: Sequence[Evaluation], task: str, grader: str, row: int) -> int:
    """The first sample of a row whose grade is not the same in the two evaluations."""
    first, second = (_samples(evaluation, task, row) for evaluation in evaluations)
    for place, (old, new) in enumerate(zip(first, second)):
        if old["grades"].get(grader) != new["grades"].get(grader):
            return place
    return 0


def _record(evaluation: Evaluation, task: str, row: int, sample: int = 0) -> Mapping[str, Any] | None:
    samples = _samples(evaluation, task, row)
    return samples[min(sample, len(samples) - 1)] if samples else None


def _samples(evaluation: Evaluation, task: str, row: int) -> list[dict[str, Any]]:
    return evaluation.by_row.get(task, {}).get(row, [])


def _asks_same(first: Evaluation, second: Evaluation, task: str) -> bool:
    asked = {record["row"]: record.get("prompt") for record in first.records.get(task, [])}
    return task in second.records and all(
        asked.get(record["row"], record.get("prompt")) == record.get("prompt") for record in second.records[task]
    )
