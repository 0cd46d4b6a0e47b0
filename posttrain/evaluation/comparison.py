"""Two evaluations on the same questions: what was gained, what was lost, and what so many questions can tell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.config.gate import GateConfig
from posttrain.errors import DataError
from posttrain.evaluation.gate import Checkpoint, Decision, decide
from posttrain.evaluation.records import Record, differing, read_records, read_settings
from posttrain.evaluation.results import (
    SCORES,
    UNKNOWN,
    graders_of,
    mean_interval,
    perplexities,
    plain,
    question_grades,
)
from posttrain.stats import (
    Interval,
    changed_share,
    difference_p_value,
    holm,
    paired_difference,
    questions_needed,
    smallest_difference,
)
from posttrain.stats.ratio import bootstrap_ratio

COMPARISON = "comparison.json"
DRIFT = "drift.json"
BITS = "bits_per_byte"  # what texts are compared by; lower is better
_LENIENT = ("lenient", "loose", "exact_match,flexible-extract")
_OF_MODEL = ("model", "weights", "dtype", "endpoint")  # settings in which the two evaluations may differ
_TWO_SIDED = 0.025  # on each side

Evaluation = Mapping[str, Sequence[Record]]  # task -> its records


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One grader's means before and after on the questions that both graded."""

    before: Interval
    after: Interval
    difference: Interval  # after - before, paired
    p_value: float | None  # None where there is no test: of perplexities

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        intervals = {name: plain(getattr(self, name)) for name in ("before", "after", "difference")}
        return {**intervals, "p_value": self.p_value}


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """A task's headline before and after, and the questions whose answers turned."""

    task: str
    grader: str
    better: str  # "higher" or "lower"
    headline: Compared
    others: Mapping[str, Compared]  # the further graders
    gained: tuple[int, ...]  # rows that moved up by at least half: wrong before, right after
    lost: tuple[int, ...]
    n: int  # questions that were compared
    left_out: int  # questions without a grade on one of the sides
    change: float  # what one asks about
    needed: int | None  # questions that show it four times out of five
    smallest: float | None  # change that these questions show so; None where they show none
    p_holm: float | None = None  # over all tasks
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "grader": self.grader,
            "better": self.better,
            **self.headline.as_dict(),
            "p_holm": self.p_holm,
            "gained": list(self.gained),
            "lost": list(self.lost),
            "n": self.n,
            "left_out": self.left_out,
            "needed": {"change": self.change, "questions": self.needed, "smallest": self.smallest},
            "others": {name: other.as_dict() for name, other in self.others.items()},
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All tasks that both sides answered."""

    before: str
    after: str
    tasks: tuple[TaskComparison, ...]
    notes: tuple[str, ...] = ()  # settings in which the two differ
    drift: Mapping[str, Any] | None = None
    gate: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """What `comparison.json` holds."""
        return {
            "before": self.before,
            "after": self.after,
            "tasks": {task.task: task.as_dict() for task in self.tasks},
            "drift": self.drift,
            "gate": self.gate,
            "notes": list(self.notes),
        }


def read_evaluation(directory: str | Path) -> dict[str, list[Record]]:
    """The records of every task in a directory that `posttrain evaluate`, a recipe or a run wrote.

    Raises DataError where there are none.
    """
    directory = Path(directory)
    names = list(read_settings(directory))
    if (directory / SCORES).is_file():
        names += json.loads((directory / SCORES).read_text(encoding="utf-8"))
    found = {name: directory / f"{name}.jsonl" for name in dict.fromkeys(names)}
    whole = {name: read_records(path) for name, path in found.items() if path.is_file()}
    if not whole:
        raise DataError(
            f"{directory} holds no records of an evaluation: posttrain evaluate writes TASK.jsonl and {SCORES}"
        )
    return whole


def is_evaluation(directory: str | Path) -> bool:
    """Whether the directory holds an evaluation, rather than a model."""
    return (Path(directory) / SCORES).is_file()


def compare_records(
    before: Evaluation, after: Evaluation, *, tasks: Sequence[str] | None = None, change: float = 0.02
) -> tuple[TaskComparison, ...]:
    """The tasks of both sides, paired by row; `tasks` says which and in what order. Holm's correction is over them.

    `change` is what the number of questions needed is told for. Raises DataError where the questions differ or no task
    is shared.
    """
    shared = [name for name in (before if tasks is None else tasks) if name in before and name in after]
    if not shared:
        raise DataError(
            f"no task was measured on both sides: {', '.join(before) or 'none'} before, {', '.join(after) or 'none'}"
            " after; evaluate both on the same tasks"
        )
    found = [_compare_task(name, before[name], after[name], change) for name in shared]
    tested = [task for task in found if task is not None]
    p_values = [task.headline.p_value for task in tested if task.headline.p_value is not None]
    adjusted = iter(holm(p_values))
    return tuple(task if task.headline.p_value is None else replace(task, p_holm=next(adjusted)) for task in tested)


def differing_settings(before: str | Path, after: str | Path, tasks: Sequence[str]) -> list[str]:
    """Sentences on what the two directories' records were made with that differs, the model aside."""
    then, now = read_settings(before), read_settings(after)
    found = []
    for task in tasks:
        names = differing(then[task], now[task], but=(*_OF_MODEL, "content")) if task in then and task in now else []
        said = ", ".join(f"{name} {then[task].get(name)!r} and {now[task].get(name)!r}" for name in names)
        if said:
            found.append(f"{task}: before and after were made with {said}")
    return found


def graded_alike(before: Sequence[Record], after: Sequence[Record], grader: str) -> tuple[list[float], list[float]]:
    """The grades, one a question, on the questions that both sides graded, in the order of rows."""
    first, second = question_grades(before, grader), question_grades(after, grader)
    rows = sorted(first.keys() & second.keys())
    return [first[row] for row in rows], [second[row] for row in rows]


def decide_on(gate: GateConfig, before: Evaluation, after: Evaluation, *, path: str, kl: Interval | None) -> Decision:
    """The gate's decision on one model, compared with the one before on the questions that both graded.

    Raises DataError where the gate names a task that was not measured.
    """
    start: dict[str, list[float]] = {}
    now: dict[str, list[float]] = {}
    left_out: dict[str, int] = {}
    for name in gate.task_names():
        if name in before and name in after:
            _require_same_questions(name, before[name], after[name])
            headline = graders_of(before[name])[:1]
            if headline:
                start[name], now[name] = graded_alike(before[name], after[name], headline[0])
                graded = question_grades([*before[name], *after[name]], headline[0])
                left_out[name] = len(graded) - len(now[name])
    drift = {} if kl is None else {"kl": kl.estimate, "kl_high": kl.high}
    return decide(start, [Checkpoint(step=1, path=path, grades=now, **drift)], gate, left_out=left_out)


def write_comparison(path: str | Path, comparison: Comparison) -> None:
    """Writes `comparison.json`, aside first, so that the file is whole or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    text = json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(path)


def _compare_task(name: str, before: Sequence[Record], after: Sequence[Record], change: float) -> TaskComparison | None:
    _require_same_questions(name, before, after)
    graders = [grader for grader in graders_of(before) if grader in graders_of(after)]
    if not graders:
        return _compare_texts(name, before, after, change) if "loglikelihood" in before[0].measures else None
    compared = {grader: _compare_grader(before, after, grader) for grader in graders}
    headline, *others = graders
    first, second = question_grades(before, headline), question_grades(after, headline)
    rows = sorted(first.keys() & second.keys())
    moved = {row: second[row] - first[row] for row in rows}
    needed, smallest = _sizes([first[row] for row in rows], [second[row] for row in rows], change)
    return TaskComparison(
        task=name,
        grader=headline,
        better="higher",
        headline=compared[headline],
        others={grader: compared[grader] for grader in others},
        gained=tuple(row for row in rows if moved[row] >= 0.5),
        lost=tuple(row for row in rows if moved[row] <= -0.5),
        n=len(rows),
        left_out=len({r.row for r in before} | {r.row for r in after}) - len(rows),
        change=change,
        needed=needed,
        smallest=smallest,
        note=_format_note(compared),
    )


def _compare_grader(before: Sequence[Record], after: Sequence[Record], grader: str) -> Compared:
    first, second = graded_alike(before, after, grader)
    if not first:
        return Compared(before=UNKNOWN, after=UNKNOWN, difference=UNKNOWN, p_value=None)
    return Compared(
        before=mean_interval(first),
        after=mean_interval(second),
        difference=paired_difference(first, second),
        p_value=difference_p_value(first, second),
    )


def _compare_texts(name: str, before: Sequence[Record], after: Sequence[Record], change: float) -> TaskComparison:
    """Bits per byte of the same texts; the difference is a bootstrap over texts."""
    sizes = [float(record.measures["bytes"]) for record in before]
    bits = [
        (old.measures["loglikelihood"] - new.measures["loglikelihood"]) / math.log(2) for old, new in zip(before, after)
    ]
    return TaskComparison(
        task=name,
        grader=BITS,
        better="lower",
        headline=Compared(
            before=perplexities(before)[BITS],
            after=perplexities(after)[BITS],
            difference=bootstrap_ratio(bits, sizes),
            p_value=None,
        ),
        others={},
        gained=(),
        lost=(),
        n=len(sizes),
        left_out=0,
        change=change,
        needed=None,
        smallest=None,
    )


def _sizes(first: Sequence[float], second: Sequence[float], change: float) -> tuple[int | None, float | None]:
    """Questions that show the change, and the change that so many as there are show, four times out of five."""
    if not first:
        return None, None
    changed = max(changed_share(first, second), change)
    try:
        smallest = smallest_difference(changed, len(first), alpha=_TWO_SIDED)
    except ValueError:
        smallest = None
    return questions_needed(changed, difference=change, alpha=_TWO_SIDED), smallest


def _format_note(compared: Mapping[str, Compared]) -> str:
    """A sentence where the strict grader rose and the lenient one did not: then a format was learnt."""
    strict, *_ = compared.values()
    lenient = next((compared[name] for name in _LENIENT if name in compared), None)
    if lenient is None or lenient is strict or not strict.difference.low > 0:
        return ""
    if lenient.difference.low > 0 and lenient.difference.estimate >= strict.difference.estimate / 2:
        return ""
    return f"most of this gain is the format: graded leniently it is {100 * lenient.difference.estimate:+.1f} points"


def _require_same_questions(name: str, before: Sequence[Record], after: Sequence[Record]) -> None:
    asked, again = ({record.row: record.prompt for record in records} for records in (before, after))
    if asked.keys() != again.keys():
        raise DataError(
            f"task {name!r}: {len(asked)} questions before and {len(again)} after; evaluate both on the same rows"
        )
    for row, prompt in asked.items():
        if prompt != again[row]:
            raise DataError(
                f"task {name!r}, row {row}: {prompt!r:.60} before and {again[row]!r:.60} after; a comparison needs the"
                " same questions"
            )
