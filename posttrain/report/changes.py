"""What one evaluation gained and lost against another, on the same questions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.report.evaluations import Evaluation, question_grades
from posttrain.stats import Interval, difference_p_value, holm, paired_difference

_LOWER_IS_BETTER = re.compile(r"perplexity|bits_per_byte|loss")
SURE = 0.05  # a p-value, adjusted for the number of tasks, up to which a change is called sure


@dataclass(frozen=True, kw_only=True)
class Change:
    """One grader of one task, before and after."""

    task: str
    grader: str
    headline: bool  # the task's first grader
    before: Interval
    after: Interval
    is_share: bool  # a grade from 0 to 1, shown in percent
    difference: Interval | None = None  # paired; None where the records are not those of the same questions
    p_value: float | None = None
    p_holm: float | None = None  # of the headlines
    gained: tuple[int, ...] = ()  # rows graded better than before
    lost: tuple[int, ...] = ()

    @property
    def estimate(self) -> float:
        """After minus before."""
        return self.difference.estimate if self.difference is not None else self.after.estimate - self.before.estimate

    @property
    def surely(self) -> str | None:
        """ "gain" or "loss" where the change is sure, else None."""
        p_value = self.p_value if self.p_holm is None else self.p_holm
        if p_value is None or p_value > SURE or self.estimate == 0:
            return None
        return "gain" if self.estimate > 0 else "loss"


def lower_is_better(grader: str) -> bool:
    """Whether a smaller number is the better one, by the grader's name."""
    return bool(_LOWER_IS_BETTER.search(grader))


def changes(before: Evaluation, after: Evaluation) -> list[Change]:
    """Every grader that both evaluations have, in the order of the later one."""
    found: list[Change] = []
    for task, graders in after.scores.items():
        for place, (grader, score) in enumerate(graders.items()):
            first = before.scores.get(task, {}).get(grader)
            if first is not None:
                found.append(_change(task, grader, place == 0, before, after, first, score))
    tested = [i for i, change in enumerate(found) if change.headline and change.p_value is not None]
    for i, adjusted in zip(tested, holm([p for i in tested if (p := found[i].p_value) is not None])):
        found[i] = replace(found[i], p_holm=adjusted)
    return found


def _change(
    task: str, grader: str, headline: bool, before: Evaluation, after: Evaluation, first: Interval, second: Interval
) -> Change:
    grades = None
    if not lower_is_better(grader):
        grades = _same_questions(before.records.get(task, []), after.records.get(task, []), grader)
    change = Change(
        task=task,
        grader=grader,
        headline=headline,
        before=first,
        after=second,
        is_share=not lower_is_better(grader) and all(0 <= x.estimate <= 1 for x in (first, second)),
    )
    if not grades:
        return change
    old, new = [pair[0] for pair in grades.values()], [pair[1] for pair in grades.values()]
    return replace(
        change,
        difference=paired_difference(old, new),
        p_value=difference_p_value(old, new),
        gained=tuple(row for row, (a, b) in grades.items() if b > a),
        lost=tuple(row for row, (a, b) in grades.items() if b < a),
    )


def _same_questions(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], grader: str
) -> dict[int, tuple[float, float]]:
    """Both grades of the rows that both have; empty where a row asks something else, or a grade is none."""
    asked = {record["row"]: record.get("prompt") for record in before}
    if any(asked.get(record["row"], record.get("prompt")) != record.get("prompt") for record in after):
        return {}
    old, new = question_grades(before, grader), question_grades(after, grader)
    pairs = {row: (old[row], new[row]) for row in sorted(old.keys() & new.keys())}
    return pairs if all(0 <= grade <= 1 for pair in pairs.values() for grade in pair) else {}
