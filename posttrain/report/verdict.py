"""What a run gained and what it cost, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from posttrain.report.changes import Change, changes
from posttrain.report.evaluations import Evaluation
from posttrain.report.files import number
from posttrain.report.gate import promoted
from posttrain.report.subject import Subject, Training
from posttrain.report.text import bounds, points, short, words

Tone = Literal["good", "mixed", "bad", "open"]  # promoted or only gains; an earlier one or both; none or only losses

_GATE_TONES: dict[str, Tone] = {"promoted": "good", "earlier": "mixed", "none": "bad"}
_TITLES: dict[Tone, str] = {
    "good": "Gained", "mixed": "Gained, at a cost", "bad": "Lost", "open": "No sure change"
}  # fmt: skip
_GATE_TITLES = {"promoted": "Promoted", "earlier": "An earlier checkpoint promoted", "none": "Nothing promoted"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The sentence, how it sounds, and what else has to be known to read it."""

    title: str
    sentence: str
    tone: Tone
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations and what changed between them."""

    before: Evaluation
    after: Evaluation
    changes: tuple[Change, ...]

    def headlines(self) -> list[Change]:
        """The first grader of each task."""
        return [change for change in self.changes if change.headline]


def compare(before: Evaluation, after: Evaluation) -> Comparison:
    """The comparison of two evaluations."""
    return Comparison(before=before, after=after, changes=tuple(changes(before, after)))


def compared(subject: Subject) -> list[Comparison]:
    """Each stage of a pipeline with the one before; the start of a run with the promoted checkpoint and the last."""
    found = subject.evaluations
    if subject.is_pipeline and all(evaluation.step is None for evaluation in found):
        return [compare(before, after) for before, after in pairwise(found)]
    if len(found) < 2:
        return []
    chosen = promoted(subject.gate, found)
    return [compare(found[0], after) for after in dict.fromkeys([chosen or found[-1], found[-1]])]


def verdict(subject: Subject, comparisons: Sequence[Comparison]) -> Verdict:
    """The gate's sentence; without a gate what the paired comparisons say; without those what the log does."""
    notes = [*_unfinished(subject)]
    if subject.gate:
        decided = str(subject.gate.get("verdict"))
        return Verdict(
            title=_GATE_TITLES.get(decided, "The gate's decision"),
            sentence=subject.gate["sentence"],
            tone=_GATE_TONES.get(decided, "open"),
            notes=tuple(notes),
        )
    if any(comparison.headlines() for comparison in comparisons):
        notes.append("Nobody decided whether that is good enough: there was no gate. An interval covers 95%.")
        return _from_comparisons(comparisons, subject, notes)
    notes.append("Nothing was evaluated before and after, so this report cannot say whether the model became better.")
    return Verdict(title="Not measured", sentence=_from_log(subject.trainings), tone="open", notes=tuple(notes))


def _from_comparisons(comparisons: Sequence[Comparison], subject: Subject, notes: Sequence[str]) -> Verdict:
    whole = comparisons[0] if len(comparisons) == 1 else compare(subject.evaluations[0], subject.evaluations[-1])
    gains = sorted((c for c in whole.headlines() if c.surely == "gain"), key=lambda c: c.estimate, reverse=True)
    costs = [(step, c) for step in comparisons for c in step.headlines() if c.surely == "loss"]
    tasks = len(whole.headlines())
    unsure = any(change.p_value is None for change in whole.headlines())
    if not gains:
        what = f"From {whole.before.label} to {whole.after.label} no task gained for sure"
    elif len(gains) == 1:
        what = f"From {whole.before.label} to {whole.after.label} {_amount(gains[0])} was gained"
        what += f", and {'nothing' if tasks == 2 else 'no other task'} else for sure" if tasks > 1 else ""
        what = what.replace("no other task else", "no other task")
    else:
        share = f"all {tasks}" if len(gains) == tasks else f"{len(gains)} of {tasks}"
        what = f"From {whole.before.label} to {whole.after.label} {share} tasks gained, most of all {_amount(gains[0])}"
    if not costs:
        lost = "nothing was lost for sure" if len(comparisons) == 1 else "no stage lost anything for sure"
        joint = "; " if gains else ", and "
        sentence = f"{what}{joint}{lost}."
    else:
        spoken = [
            f"{step.after.label} cost {_amount(change)}" if len(comparisons) > 1 else _amount(change)
            for step, change in costs
        ]
        joined = spoken[0] if len(spoken) == 1 else f"{', '.join(spoken[:-1])} and {spoken[-1]}"
        sentence = f"{what}; on the way {joined}." if len(comparisons) > 1 else f"{what}; it cost {joined}."
    if unsure:
        notes = [*notes, "Tasks whose records are not there, or not of the same questions, were not tested."]
    tone: Tone = "mixed" if gains and costs else "good" if gains else "bad" if costs else "open"
    return Verdict(title=_TITLES[tone], sentence=sentence, tone=tone, notes=tuple(notes))


def _amount(change: Change) -> str:
    """`4.1 points on battery (1.4 to 6.9)`."""
    difference = change.difference
    size = points(abs(change.estimate), signed=False) if change.is_share else short(abs(change.estimate))
    unit = "points on" if change.is_share else "on"
    name = words(change.task)
    if difference is None:
        return f"{size} {unit} {name}"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    interval = type(difference)(estimate=abs(difference.estimate), low=low, high=high, n=difference.n)
    return f"{size} {unit} {name} ({bounds(interval, change.is_share)})"


def _from_log(trainings: Sequence[Training]) -> str:
    """What the log of the last training that has one shows."""
    for training in reversed(trainings):
        for key, name in (("reward", "the mean reward"), ("eval_loss", "the loss on the evaluation data"),
                          ("loss", "the loss")):  # fmt: skip
            values = [v for line in training.lines if "step" in line and (v := number(line.get(key))) is not None]
            if len(values) >= 2:
                width = max(1, len(values) // 10)
                first, last = sum(values[:width]) / width, sum(values[-width:]) / width
                return (
                    f"In {training.name} {name} went from {short(first)} to {short(last)} over "
                    f"{training.last_step} steps."
                )
    return "Nothing was logged yet."


def _unfinished(subject: Subject) -> list[str]:
    notes = [
        f"{training.name} has not finished, or was stopped: its log ends at step {training.last_step}."
        if training.last_step is not None
        else f"{training.name} has logged nothing yet."
        for training in subject.trainings
        if not training.finished
    ]
    named = {training.name for training in subject.trainings if not training.finished}
    waiting = [stage.name for stage in subject.stages if stage.status != "finished" and stage.name not in named]
    return notes + [f"{name} has not finished." for name in waiting]
