"""From what a trial told to what the whole stage will take: time, memory, disk, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from posttrain.recipes.estimating.interval import FLOOR, Range
from posttrain.recipes.estimating.peak import peak_memory
from posttrain.recipes.estimating.probing import every, first, last, steps_of_last_trial

SCALED, UNFILLED = 0.15, 0.4  # of steps with fewer passes than the run's, and of passes with fewer tokens
SLOW = 3.0  # times the usual time of a token: something else on the machine, not the run
STOOD_FOR = 3.0  # an untrained model's answers may be so much shorter or longer than the trained one's

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What is known of a stage before it starts."""

    stage: str
    method: str
    status: str  # "estimated", "by arithmetic" (not tried), "finished", "not estimated"
    why: str = ""  # of what was not estimated, or not tried
    steps: int | None = None
    tokens: float | None = None  # of all rows that are trained on, passes over the data included; None where sampled
    time: Range | None = None  # seconds of the stage
    seconds: Mapping[str, float] = field(default_factory=dict)  # by what they go to
    memory: Range | None = None  # bytes at the peak, on `device`
    parts: Mapping[str, float] = field(default_factory=dict)  # bytes by what they are for
    device: str | None = None
    available: int | None = None  # bytes that the device still has
    fits: bool | None = None
    disk: Mapping[str, float] = field(default_factory=dict)
    uses: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    not_estimated: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a bound that is not known is null."""
        values = asdict(self)
        if self.memory is not None and math.isinf(self.memory.high):
            values["memory"]["high"] = None
        return values


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of the steps of a run, from those of a trial."""

    seconds: float  # of all steps
    relative: float  # half the width of the interval, of it
    counted: int  # cycles that the time of a step was taken from


def pace(trial: Event, steps: Sequence[Event], plan: Mapping[str, Any], mean: float) -> Pace:
    """The whole run's steps, from the trial's.

    A step takes its optimiser's time and that of its tokens; where answers are sampled, a whole rollout is taken as it
    is. `mean` is the tokens of a unit before anything is sampled.
    """
    cycle, skipped = int(trial["cycle"]), int(trial["skipped"])
    whole = [steps[i : i + cycle] for i in range(0, len(steps) - cycle + 1, cycle)]
    warm = [part for part in whole if part[0]["number"] > skipped]
    counted = warm or whole[-1:] or [steps]  # the first steps are slower: better than nothing
    times = [_taken(part) for part in counted]
    tokens = [max(1, sum(step["tokens"] for step in part)) for part in counted]
    updates = [sum(step["optimizer"] for step in part) for part in counted]
    cycles = plan["steps"] / plan["cycle"]
    if trial["sampled"]:
        each = statistics.fmean(times)
        seconds, error = cycles * each * plan["units"] / trial["batch"], _error(times)
    else:
        rate = _rate(times, tokens, updates)
        each = statistics.fmean(times)
        seconds = statistics.median(updates) * cycles + plan["total"] * mean * rate
        error = _error([(taken - update) / count for taken, update, count in zip(times, updates, tokens)])
    if warm:
        seconds += sum(max(0.0, _taken(part) - each) for part in whole if part[0]["number"] <= skipped)
    return Pace(seconds=seconds, relative=max(FLOOR, 2 * error), counted=len(counted))


def _taken(part: Sequence[Event]) -> float:
    """Seconds of some steps, with getting their batches."""
    return sum(step["source"] + step["step"] for step in part)


def _error(values: Sequence[float]) -> float:
    """The standard error of the mean, of the mean; a guess where there is one value only."""
    if len(values) < 2:
        return 0.25
    return statistics.stdev(values) / len(values) ** 0.5 / statistics.fmean(values)


def _rate(times: Sequence[float], tokens: Sequence[int], updates: Sequence[float]) -> float:
    """Seconds a token, of all together but those that something else on the machine made slow."""
    rows = [(taken - update, count) for taken, update, count in zip(times, updates, tokens)]
    usual = statistics.median(taken / count for taken, count in rows)
    kept = [(taken, count) for taken, count in rows if taken / count <= SLOW * usual]
    return sum(taken for taken, _ in kept) / sum(count for _, count in kept)


def from_events(events: Sequence[Event], *, stage: str, method: str, notes: tuple[str, ...]) -> StageEstimate:
    """The estimate of a stage from what its trial told, as far as that went."""
    known: dict[str, Any] = {"stage": stage, "method": method, "notes": notes}
    composed, read = first(events, "composed"), first(events, "read")
    error = last(events, "error") or last(events, "killed")
    if composed is not None and read is None:  # what can be said of a model whose data is not there
        known |= {"device": composed["device"], "available": composed["available"]}
        return _by_arithmetic(known, composed, error, tried=False)
    if composed is None or read is None:
        why = (
            "the trial ended before anything was known" if error is None else str(error.get("text") or "it was killed")
        )
        return StageEstimate(**known, status="not estimated", why=why)
    plan = read["schedule"]
    known |= {"steps": plan["steps"], "device": composed["device"], "available": composed["available"]}
    if not plan["sampled"]:
        known["tokens"] = plan["total"] * read["mean"]
    known["disk"] = _disk(composed, last(events, "checkpoint"), last(events, "saved"), plan)
    trial, begin = last(events, "trial"), last(events, "begin")
    steps = steps_of_last_trial(events)
    if trial is None or begin is None or not steps:
        return _by_arithmetic(known, composed, error, tried=trial is not None)
    said = last(events, "said")
    known["uses"] = {**begin["uses"], **({} if said is None else {"layout": said["layout"]})}
    paced = pace(trial, steps, plan, read["mean"])
    seconds = _seconds(events, read, plan, begin, trial, paced)
    memory, parts = peak_memory(events, composed, read, begin, trial, plan)
    total = sum(seconds.values())
    relative = paced.relative
    if not trial["whole"]:
        most = max(step["tokens"] for step in steps)
        filled = trial["sampled"] or most >= 0.7 * (begin["uses"]["max_tokens_per_pass"] or most)
        relative += SCALED if filled else UNFILLED
    time = Range.around(total, relative)
    if trial["sampled"] and notes:
        time = Range(estimate=total, low=total / STOOD_FOR, high=total * STOOD_FOR)
    left = composed["available"]
    if left is not None and composed["device"] == "cpu":  # it was asked for by a process that had its share
        known["available"] = left = left + imported["resident"] if (imported := first(events, "imported")) else left
    return StageEstimate(
        **known, status="estimated",
        time=time,
        seconds={name: value for name, value in seconds.items() if value},
        memory=memory, parts=parts, fits=None if left is None else memory.estimate <= left,
        not_estimated=_unknown(events, paced, plan, bool(notes)),
    )  # fmt: skip


def _seconds(
    events: Sequence[Event], read: Event, plan: Mapping[str, Any], begin: Event, trial: Event, paced: Pace
) -> dict[str, float]:
    """Seconds of the stage by what they go to."""
    measured = [event["seconds"] for event in every(events, "evaluation")]
    judged = min(measured) if measured else 0.0
    forward = judged / max(1, trial["judged_tokens"])  # seconds a token without gradient
    of = "units" if trial["sampled"] else "tokens"  # an answer costs what it costs; a row that is there, its tokens
    share = read[f"evaluated_{of}"] / max(1, trial[f"judged_{of}"])
    asked = (last(events, "saved") or last(events, "stopped") or {}).get("reference", False)
    asking = trial["tokens"] + trial["judged_tokens"] if asked else 0  # while the trial was loaded, which bounds it
    forward = min(forward, begin["seconds"] / asking) if asking else forward
    reference = forward * (read["tokens"] + read["evaluated_tokens"]) if asked else 0.0
    loading = begin["seconds"] - forward * asking
    trained, saved = last(events, "trained"), last(events, "saved")
    written = [event["seconds"] for event in every(events, "checkpoint")]  # the first is slower
    imported = first(events, "imported")
    return {
        "starting": 0.0 if imported is None else imported["seconds"],
        "loading": max(0.0, loading),
        "reading": read["seconds"],
        "reference": reference,
        "steps": paced.seconds,
        "evaluation": plan["evaluations"] * judged * share,
        "checkpoints": sum(written[: plan["checkpoints"]])
        + max(0, plan["checkpoints"] - len(written)) * min(written, default=0.0),
        "saving": saved["at"] - trained["at"] if saved is not None and trained is not None else 0.0,
    }


def _disk(composed: Event, checkpoint: Event | None, saved: Event | None, plan: Mapping[str, Any]) -> dict[str, float]:
    each = composed["checkpoint"] if checkpoint is None else checkpoint["bytes"]
    model = composed["model_file"] if saved is None else saved["bytes"]
    return {"checkpoint": each, "checkpoints": plan["kept"], "model": model, "total": each * plan["kept"] + model}


def _by_arithmetic(known: dict[str, Any], composed: Event, error: Event | None, *, tried: bool) -> StageEstimate:
    parts = {name: float(value) for name, value in composed["parts"].items() if value}
    held, left = sum(parts.values()), composed["available"]
    fits = None if left is None or held <= left else False
    if fits is False:
        why = "the weights and what belongs to them do not fit, so nothing was tried; activations come on top"
    elif error is not None:
        why = str(error.get("text") or "the trial was killed, probably because memory ran out")
        fits = False if error["event"] == "killed" else fits
    elif tried:
        why = "not one step fitted into the time; give more --seconds"
    else:
        why = "nothing was tried (--seconds 0); activations come on top"
    return StageEstimate(
        **known, status="by arithmetic", why=why, parts=parts, fits=fits,
        memory=Range(estimate=held, low=held, high=float("inf")),
    )  # fmt: skip


def _unknown(events: Sequence[Event], paced: Pace, plan: Mapping[str, Any], stood_for: bool) -> tuple[str, ...]:
    """What the estimate leaves out, in sentences."""
    trial = last(events, "trial")
    said = []
    if trial is not None and trial["sampled"]:
        said.append("how much longer or shorter answers become as the model learns")
        if stood_for:
            said.append("how long the answers of the model are that does not exist yet: ask again when it does")
        if not trial["whole"]:
            said.append("the speed of a whole rollout: a smaller one was tried, which is slower for each answer")
    if last(events, "saved") is None:
        said.append("the time to write the model" + (" and checkpoints" if plan["checkpoints"] else ""))
    if paced.counted < 2:
        said.append("how much steps differ: only one was timed, give more --seconds")
    return tuple(said)
