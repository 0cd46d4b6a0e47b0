"""The gate: may a checkpoint be promoted, given what it gained, lost and how far it drifted?

A checkpoint passes if every target gained enough, every retention task surely lost less than it may, and the drift is
within its budget. Of those that pass, the one that gained most is promoted. `docs/gate.md` argues for each rule and
gives the error rates, which `python -m benchmarks.gate_errors` measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from posttrain.config.gate import GateConfig
from posttrain.errors import DataError, nearest
from posttrain.evaluation.gate_sentence import sentence
from posttrain.stats import (
    Interval,
    above_p_value,
    changed_share,
    fallback,
    paired_difference,
    questions_needed,
)

Grades = Mapping[str, Sequence[float]]  # task -> one grade from 0 to 1 a question, in the same order for every model


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was measured of one checkpoint."""

    step: int
    path: str
    grades: Grades
    kl: float | None = None  # nats a token from the start
    kl_high: float | None = None  # the upper end of its interval; None: as measured


@dataclass(frozen=True, kw_only=True)
class TargetResult:
    """What a checkpoint gained on a target."""

    task: str
    min_gain: float
    before: float
    after: float
    gain: Interval  # each end is a one-sided bound at `level`
    level: float
    passed: bool
    too_small: bool  # undecided, with fewer questions than are needed
    n: int
    needed: int | None  # questions that show a gain of min_gain four times out of five; None where min_gain is 0


@dataclass(frozen=True, kw_only=True)
class RetentionResult:
    """What a checkpoint lost on a retention task."""

    task: str
    max_loss: float
    before: float
    after: float
    loss: Interval  # each end is a one-sided bound at `level`
    level: float
    passed: bool
    too_small: bool
    n: int
    needed: int  # questions that let a checkpoint that loses nothing pass four times out of five


@dataclass(frozen=True, kw_only=True)
class CheckpointResult:
    """Everything the gate asked of one checkpoint."""

    step: int
    path: str
    passed: bool
    targets: tuple[TargetResult, ...]
    retention: tuple[RetentionResult, ...]
    kl: float | None
    kl_high: float | None
    max_kl: float | None
    kl_passed: bool

    @property
    def gain(self) -> float:
        """The mean gain over the targets; 0 without targets."""
        return math.fsum(target.gain.estimate for target in self.targets) / max(1, len(self.targets))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which checkpoint is promoted, and why."""

    status: Literal[0, 3, 4]  # the exit status
    verdict: Literal["promoted", "earlier", "none"]
    sentence: str
    promoted: str | None  # the path
    checkpoints: tuple[CheckpointResult, ...]  # by step
    left_out: Mapping[str, int]  # task -> questions that one of the models has no grade for; nothing is known of them

    def as_dict(self) -> dict[str, Any]:
        """What `gate.json` holds; a number that is not finite is None."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def decide(
    start: Grades, checkpoints: Sequence[Checkpoint], gate: GateConfig, *, left_out: Mapping[str, int] | None = None
) -> Decision:
    """The gate's decision on all checkpoints of a run, each compared with the start on the same questions.

    Pass every checkpoint that was measured, and not the start: the chance of an error is shared among them.
    `left_out` counts the questions of each task that are in no grades since one of the models could not be judged on
    them; the decision says so.
    Retention is tested from the first checkpoint to the last and gains from the last to the first, by
    `stats.fallback`.
    Raises DataError where a task or the drift was not measured, or not on the same questions.
    """
    ordered = sorted(checkpoints, key=lambda checkpoint: checkpoint.step)
    _check(start, ordered, gate)
    shares = error_shares(len(ordered), 1 - gate.level)
    kept = [
        max((above_p_value(start[r.task], c.grades[r.task], -r.max_loss) for r in gate.retention), default=0.0)
        for c in ordered
    ]
    gained = [
        max((above_p_value(start[t.task], c.grades[t.task], 0.0) for t in gate.targets), default=0.0) for c in ordered
    ]
    kept_alphas, _ = fallback(kept, shares)
    gained_alphas, _ = fallback(gained[::-1], shares[::-1])
    results = tuple(
        _result(start, checkpoint, gate, float(may_err), float(may_err_in_gain))
        for checkpoint, may_err, may_err_in_gain in zip(ordered, kept_alphas, gained_alphas[::-1], strict=True)
    )
    passing = [result for result in results if result.passed]
    best = max(passing, key=lambda result: (round(result.gain, 9), result.step), default=None)
    status: Literal[0, 3, 4] = 4 if best is None else 0 if results[-1].passed else 3
    verdicts: dict[int, Literal["promoted", "earlier", "none"]] = {0: "promoted", 3: "earlier", 4: "none"}
    return Decision(
        status=status,
        verdict=verdicts[status],
        sentence=sentence(results, best, left_out or {}),
        promoted=None if best is None else best.path,
        checkpoints=results,
        left_out={task: count for task, count in (left_out or {}).items() if count},
    )


def error_shares(checkpoints: int, alpha: float) -> list[float]:
    """What each checkpoint's test may err of itself: half for the last, the other half for all before it evenly.

    The last is the one that the training was for; so how many were saved before it hardly matters for it.
    """
    if checkpoints == 1:
        return [alpha]
    return [alpha / 2 / (checkpoints - 1)] * (checkpoints - 1) + [alpha / 2]


def too_small_sets(gate: GateConfig, questions: Mapping[str, int]) -> list[str]:
    """A sentence for each retention set whose number of questions cannot show what the gate asks, known beforehand.

    It supposes that one answer in twenty changes although nothing is lost, which is little for a trained model.
    """
    alpha = 1 - gate.level
    sentences = []
    for item in gate.retention:
        least = questions_needed(0.0, threshold=-item.max_loss, alpha=alpha)
        usual = questions_needed(0.05, threshold=-item.max_loss, alpha=alpha)
        if (n := questions.get(item.task, usual)) < usual:
            sentences.append(
                f"{item.task}: {n} questions are too few to rule out a loss of {100 * item.max_loss:g} points; "
                f"{least} are needed if no answer changes, about {usual} if one in twenty does"
            )
    return sentences


def _result(
    start: Grades, checkpoint: Checkpoint, gate: GateConfig, alpha: float, alpha_of_gain: float
) -> CheckpointResult:
    targets = tuple(
        _target(t.task, t.min_gain, start[t.task], checkpoint.grades[t.task], alpha_of_gain) for t in gate.targets
    )
    retention = tuple(
        _retention(r.task, r.max_loss, start[r.task], checkpoint.grades[r.task], alpha) for r in gate.retention
    )
    kl = checkpoint.kl if checkpoint.kl_high is None else checkpoint.kl_high
    kl_passed = gate.max_kl is None or (kl is not None and kl <= gate.max_kl)
    return CheckpointResult(
        step=checkpoint.step,
        path=checkpoint.path,
        passed=kl_passed and all(t.passed for t in targets) and all(r.passed for r in retention),
        targets=targets,
        retention=retention,
        kl=checkpoint.kl,
        kl_high=checkpoint.kl_high,
        max_kl=gate.max_kl,
        kl_passed=kl_passed,
    )


def _target(task: str, min_gain: float, before: Sequence[float], after: Sequence[float], alpha: float) -> TargetResult:
    gain = paired_difference(before, after, level=1 - 2 * alpha)
    certain = above_p_value(before, after, 0.0) <= alpha
    changed = max(changed_share(before, after), min_gain)
    needed = questions_needed(changed, difference=min_gain, alpha=alpha) if min_gain > 0 else None
    return TargetResult(
        task=task,
        min_gain=min_gain,
        before=_mean(before),
        after=_mean(after),
        # The test decides; the bound, found by search, may differ from it in the last digit.
        gain=_bounded(gain, low=(max if certain else min)(gain.low, 0.0)),
        level=1 - alpha,
        passed=certain and gain.estimate >= min_gain - 1e-9,
        too_small=not certain and gain.high >= min_gain and needed is not None and gain.n < needed,
        n=gain.n,
        needed=needed,
    )


def _retention(
    task: str, max_loss: float, before: Sequence[float], after: Sequence[float], alpha: float
) -> RetentionResult:
    loss = paired_difference(after, before, level=1 - 2 * alpha)
    passed = above_p_value(before, after, -max_loss) <= alpha
    needed = questions_needed(changed_share(before, after), threshold=-max_loss, alpha=alpha)
    return RetentionResult(
        task=task,
        max_loss=max_loss,
        before=_mean(before),
        after=_mean(after),
        loss=_bounded(loss, high=(min if passed else max)(loss.high, max_loss)),
        level=1 - alpha,
        passed=passed,
        too_small=not passed and loss.low <= max_loss and loss.n < needed,
        n=loss.n,
        needed=needed,
    )


def _bounded(interval: Interval, *, low: float | None = None, high: float | None = None) -> Interval:
    return Interval(
        estimate=interval.estimate,
        low=interval.low if low is None else low,
        high=interval.high if high is None else high,
        n=interval.n,
    )


def _mean(grades: Sequence[float]) -> float:
    return math.fsum(grades) / len(grades)


def _check(start: Grades, checkpoints: Sequence[Checkpoint], gate: GateConfig) -> None:
    if not checkpoints:
        raise DataError("the gate got no checkpoint to decide on; save and evaluate at least one")
    steps = [checkpoint.step for checkpoint in checkpoints]
    if len(set(steps)) < len(steps):
        raise DataError(f"the gate got two checkpoints of one step (steps {steps}); give each once")
    for task in gate.task_names():
        for who, grades in [("the start", start), *((f"step {c.step}", c.grades) for c in checkpoints)]:
            if task not in grades:
                measured = ", ".join(grades) or "none"
                raise DataError(
                    f"the gate names task {task!r}, on which {who} was not measured{nearest(task, grades)} "
                    f"(tasks measured: {measured})"
                )
            if len(grades[task]) == 0:
                raise DataError(f"task {task!r}: {who} has no graded answer")
            if len(grades[task]) != len(start[task]):
                raise DataError(
                    f"task {task!r}: {len(grades[task])} questions at {who} and {len(start[task])} at the start; "
                    "the gate compares answers to the same questions"
                )
            wrong = [grade for grade in grades[task] if not 0 <= grade <= 1]
            if wrong:
                raise DataError(
                    f"task {task!r}: {who} has the grade {wrong[0]!r}; the gate takes grades from 0 to 1, "
                    "not perplexities or log-likelihoods"
                )
    for checkpoint in checkpoints:
        if gate.max_kl is not None and checkpoint.kl is None:
            raise DataError(
                f"the gate has max_kl={gate.max_kl:g}, but the drift of step {checkpoint.step} was not measured; "
                "measure it or take max_kl out"
            )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
