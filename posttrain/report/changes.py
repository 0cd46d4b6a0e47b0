"""What one evaluation gained and lost against another, on the same questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.report.evaluations import BITS, Evaluation, headline_of, lower_is_better, question_grades
from posttrain.report.files import number
from posttrain.stats import Interval, difference_p_value, holm, paired_difference
from posttrain.stats.ratio import bootstrap_ratio

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
    def better(self) -> float:
        """How much better it became; below 0, worse."""
        return -self.estimate if lower_is_better(self.grader) else self.estimate

    @property
    def surely(self) -> str | None:
        """Whether it is a sure "gain" or "loss", else None. Where there is no test, its interval decides."""
        p_value = self.p_value if self.p_holm is None else self.p_holm
        if p_value is not None:
            sure = p_value <= SURE
        else:
            sure = self.difference is not None and (self.difference.low > 0 or self.difference.high < 0)
        if not sure or self.better == 0:
            return None
        return "gain" if self.better > 0 else "loss"


def changes(before: Evaluation, after: Evaluation) -> list[Change]:
    """Every grader that both evaluations have, in the order of the later one."""
    found: list[Change] = []
    for task, graders in after.scores.items():
        headline = headline_of(graders)
        for grader, score in graders.items():
            first = before.scores.get(task, {}).get(grader)
            if first is not None:
                found.append(_change(task, grader, grader == headline, before, after, first, score))
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
    if grader == BITS:
        bits = _difference_in_bits(before.records.get(task, []), after.records.get(task, []))
        return replace(change, difference=bits)
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


def _difference_in_bits(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Interval | None:
    """After minus before, with a bootstrap over the texts; None where the texts are not the same."""
    old, new = ({record["row"]: record.get("measures") for record in side} for side in (before, after))
    nats, sizes = [], []
    for row, first in old.items():
        second = new.get(row)
        if not isinstance(first, dict) or not isinstance(second, dict):
            return None
        found = [number(one.get(name)) for one in (first, second) for name in ("loglikelihood", "bytes")]
        known = [value for value in found if value is not None]
        if len(known) < 4 or known[1] != known[3] or known[1] <= 0:
            return None
        nats.append((known[0] - known[2]) / math.log(2))
        sizes.append(known[1])
    return bootstrap_ratio(nats, sizes) if nats and old.keys() == new.keys() else None


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
