"""What a run gained and what it cost, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from posttrain.report.changes import Change, changes
from posttrain.report.evaluations import Evaluation, lower_is_better
from posttrain.report.files import number
from posttrain.report.gate import promoted
from posttrain.report.subject import Subject, Training
from posttrain.report.text import bounds, percent, points, short, words

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
    over_stages: bool = False  # not of neighbours: what several stages did together

    def headlines(self) -> list[Change]:
        """The first grader of each task."""
        return [change for change in self.changes if change.headline]


def compare(before: Evaluation, after: Evaluation, *, over_stages: bool = False) -> Comparison:
    """The comparison of two evaluations."""
    return Comparison(before=before, after=after, changes=tuple(changes(before, after)), over_stages=over_stages)


def compared(subject: Subject) -> list[Comparison]:
    """Each model of a pipeline with the one it started from, else with the one before.

    Then the last with all others that led to it, for losses that add up. Of a run, the start with the promoted
    checkpoint and with the last.
    """
    found = subject.evaluations
    if subject.is_pipeline and all(evaluation.step is None for evaluation in found):
        known = {evaluation.label: evaluation for evaluation in found}
        starts = {
            after.label: before if after.start is None else known[after.start] for before, after in pairwise(found)
        }
        steps = [compare(starts[after.label], after) for after in found[1:]]
        way = [found[-1]]
        while way[0].label in starts:
            way.insert(0, starts[way[0].label])
        return steps + [compare(before, found[-1], over_stages=True) for before in way[:-2]]
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
        return _from_comparisons(comparisons, notes)
    if len(subject.evaluations) == 1 and not subject.trainings:
        return Verdict(title="Measured", sentence=_from_scores(subject.evaluations[0]), tone="open", notes=tuple(notes))
    notes.append("Nothing was evaluated before and after, so this report cannot say whether the model became better.")
    return Verdict(title="Not measured", sentence=_from_log(subject.trainings), tone="open", notes=tuple(notes))


def _from_comparisons(comparisons: Sequence[Comparison], notes: Sequence[str]) -> Verdict:
    whole = next((one for one in comparisons if one.over_stages), comparisons[0])  # from the first to the last
    tasks = len(whole.headlines())
    gains = sorted(
        (c for c in whole.headlines() if c.surely == "gain"), key=lambda c: (c.is_share, c.better), reverse=True
    )
    span = f"From {whole.before.label} to {whole.after.label}"
    if not gains:
        gained = f"{span} no task gained for sure"
    elif len(gains) == 1:
        others = ", and no other task gained for sure" if tasks > 1 else ""
        gained = f"{span} {_amount(gains[0])} {_was(gains[0])} gained{others}"
    else:
        share = f"all {tasks}" if len(gains) == tasks else f"{len(gains)} of {tasks}"
        gained = f"{span} {share} tasks gained, most of all {_amount(gains[0])}"
    costs = _costs(comparisons)
    if not costs:
        cost = "nothing was lost for sure"
    else:
        cost = costs[0] if len(costs) == 1 else f"{', '.join(costs[:-1])}, and {costs[-1]}"
    sentence = f"{gained}{'; ' if gains or costs else ', and '}{cost}."
    if any(change.difference is None for change in whole.headlines()):
        notes = [*notes, "Tasks whose records are not there, or not of the same questions, were not tested."]
    tone: Tone = "mixed" if gains and costs else "good" if gains else "bad" if costs else "open"
    return Verdict(title=_TITLES[tone], sentence=sentence, tone=tone, notes=tuple(notes))


def _costs(comparisons: Sequence[Comparison]) -> list[str]:
    """The sure losses: what single stages cost, then what only several together did, the largest for each task."""
    steps = [one for one in comparisons if not one.over_stages]
    found = [(one, change) for one in steps for change in one.headlines() if change.surely == "loss"]
    said = [f"{one.after.label} cost {_amount(change)}" for one, change in found]
    together: dict[str, tuple[Comparison, Change]] = {}
    for one in comparisons:
        for change in one.headlines() if one.over_stages else ():
            seen = {other.task for _, other in found}
            worst = together.get(change.task)
            if change.surely == "loss" and change.task not in seen and (
                worst is None or change.better < worst[1].better
            ):  # fmt: skip
                together[change.task] = (one, change)
    return said + [
        f"from {one.before.label} to {one.after.label} {_amount(change)} {_was(change)} lost"
        for one, change in together.values()
    ]


def _was(change: Change) -> str:
    return "were" if change.is_share else "was"


def _amount(change: Change) -> str:
    """`4.1 points on battery (1.4 to 6.9)`."""
    difference = change.difference
    size = points(abs(change.estimate), signed=False) if change.is_share else short(abs(change.estimate))
    said = f"{size} {'points' if change.is_share else words(change.grader)} on {words(change.task)}"
    if difference is None:
        return said
    low, high = sorted((abs(difference.low), abs(difference.high)))
    interval = replace(difference, estimate=abs(difference.estimate), low=low, high=high)
    return f"{said} ({bounds(interval, change.is_share)})"


def _from_scores(evaluation: Evaluation) -> str:
    """What a single evaluation found."""
    found = [
        f"{percent(score.estimate)} on {words(task)}"
        if not lower_is_better(grader)
        else f"{short(score.estimate)} {words(grader)} on {words(task)}"
        for task, (grader, score) in evaluation.headlines().items()
    ]
    return f"{', '.join(found)}; there is nothing to compare with." if found else "Nothing was graded."


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
