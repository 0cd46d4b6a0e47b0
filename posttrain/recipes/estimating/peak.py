"""The peak of a run's memory, from that of a trial."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.recipes.estimating.interval import FLOOR, Range
from posttrain.recipes.estimating.probing import every, last, steps_of_last_trial

UNSEEN = 0.30  # of activations that were not reached in the trial
SETTLED = 256  # steps after which a process has the memory that it will have
COMPILED = 45.0  # passes of new lengths in which all but 1/e of the kernels were compiled that are kept
WARM = 2  # first steps, which pay for more than that
ENOUGH = 12  # steps after which a trial shows by itself how that settles

Event = Mapping[str, Any]


def peak_memory(
    events: Sequence[Event], composed: Event, read: Event, begin: Event, trial: Event, plan: Mapping[str, Any]
) -> tuple[Range, dict[str, float]]:
    """Bytes at the peak, and what they are for; what the trial did not reach is added."""
    last_one = last(events, "saved") or last(events, "trained") or last(events, "stopped") or last(events, "step")
    assert last_one is not None
    parts: dict[str, float] = dict(composed["parts"])
    held = sum(parts.values())
    if composed["device"] != "cpu":
        peak, base = float(last_one["gpu_peak"]), 0.0
    else:
        peak, base = float(last_one["peak"]), float(begin["resident"]) - parts["weights"] - parts["reference"]
    if last(events, "saved") is None and composed["trained"] < composed["parameters"] and composed["device"] == "cpu":
        peak = max(peak, base + held + composed["model_file"])  # an adapter is merged into a copy when all is over
    more = growth(steps_of_last_trial(events), plan["steps"], begin["uses"])
    relative = FLOOR + UNSEEN * more / peak
    rest = max(0.0, peak - base - held)
    if not trial["whole"]:
        most = max((step["tokens"] for step in every(events, "step")), default=1)
        room = begin["uses"]["max_tokens_per_pass"] or most
        if most < room and most < plan["units"] * read["mean"]:
            reached = min(room, plan["units"] * read["mean"])
            more += rest * (reached / most - 1)
            relative = FLOOR + UNSEEN * more / (peak + more)
    unread = read["bytes"] * (1 / read["share"] - 1) if composed["device"] == "cpu" else 0.0
    parts = {"program and data": max(0.0, base) + unread, **parts, "activations and buffers": rest + more}
    return Range.around(peak + more + unread, relative), {name: value for name, value in parts.items() if value}


def growth(steps: Sequence[Event], planned: int, uses: Mapping[str, Any]) -> float:
    """Bytes that the peak will still rise by.

    On a CPU bfloat16 products are compiled for each length of a pass that was not seen before, and as many are kept as
    have room; what a trial saw of that is the beginning of a curve that settles. Else memory that comes back in pieces
    lets a process grow with the logarithm of its steps.
    """
    seen, name = len(steps), "gpu_peak" if steps and steps[-1]["gpu_peak"] else "peak"
    if seen < 4 or planned <= seen:
        return 0.0
    if uses.get("bf16") and uses.get("device") == "cpu":
        room = uses.get("max_tokens_per_pass") or 1
        each = statistics.fmean(max(1, math.ceil(step["tokens"] / room)) for step in steps)
        peaks = [float(step[name]) for step in steps[min(WARM, seen - 4) :]]
        half = len(peaks) // 2
        early, late = peaks[half - 1] - peaks[0], peaks[-1] - peaks[half - 1]
        shrinks = math.exp(-half * each / COMPILED)  # how much less each half adds than the one before
        if seen >= ENOUGH and early > 0:
            shrinks *= min(1.0, max(0.05, late / early) / shrinks) ** 0.5  # halfway: halves are uneven by chance
        left = (planned - seen) / half  # halves that are to come
        return late * shrinks / (1 - shrinks) * (1 - shrinks**left)
    if seen >= SETTLED:
        return 0.0
    doubling = steps[-1][name] - steps[seen // 2 - 1][name]
    return max(0.0, doubling * math.log2(min(planned, SETTLED) / seen))
