"""Estimates as lines for a person."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.recipes.estimating.advice import gib
from posttrain.recipes.estimating.estimate import StageEstimate


def lines(estimates: Sequence[StageEstimate]) -> list[str]:
    """A few lines for each stage, and the sums."""
    if not estimates:
        return ["No stage of this recipe trains; only training is estimated."]
    written = [line for estimate in estimates for line in _stage(estimate)]
    timed = [estimate.time for estimate in estimates if estimate.time is not None]
    if len(timed) > 1:
        low, middle, high = (sum(getattr(time, end) for time in timed) for end in ("low", "estimate", "high"))
        started = [estimate.seconds.get("starting", 0.0) for estimate in estimates if estimate.time is not None]
        low, middle, high = (end - sum(started) + max(started) for end in (low, middle, high))  # a recipe starts once
        written.append(
            f"together: {spell(middle)} ({spell(low)} to {spell(high)}) for the {len(timed)} stages estimated"
        )
    return written


def _stage(estimate: StageEstimate) -> list[str]:
    heading = f"{estimate.stage} ({estimate.method})"
    if estimate.status in ("finished", "not estimated"):
        return [f"{heading}: {estimate.status}: {estimate.why}", *(f"  note: {note}" for note in estimate.notes)]
    found = [f"{heading}:" + (f" {estimate.why}" if estimate.why else "")]
    if estimate.time is not None:
        spent = ", ".join(f"{name} {spell(value)}" for name, value in estimate.seconds.items())
        counted = f"{estimate.steps:,} steps" + (f", {estimate.tokens:,.0f} tokens" if estimate.tokens else "")
        found.append(f"  time    {_range(estimate.time, spell)}: {counted} ({spent})")
    elif estimate.steps is not None:
        found.append(f"  time    {estimate.steps:,} steps, each of a length that is not known")
    if estimate.memory is not None:
        parts = ", ".join(f"{name} {gib(value)}" for name, value in estimate.parts.items())
        size = f"at least {gib(estimate.memory.low)}" if estimate.time is None else _range(estimate.memory, gib)
        left = f" of {gib(estimate.available)} on {estimate.device}" if estimate.available is not None else ""
        verdict = {True: "", False: ": WILL NOT FIT", None: ""}[estimate.fits]
        found.append(f"  memory  {size}{left}{verdict} ({parts})")
    if estimate.disk:
        disk = estimate.disk
        found.append(
            f"  disk    {gib(disk['total'])} of {gib(disk['free'])}: {disk['checkpoints']:.0f} checkpoints of "
            f"{gib(disk['checkpoint'])}, the model {gib(disk['model'])}"
        )
    if estimate.uses:
        found.append("  uses    " + ", ".join(f"{name}={value}" for name, value in estimate.uses.items()))
    found += [f"  note    {note}" for note in estimate.notes]
    found += [f"  unknown {what}" for what in estimate.not_estimated]
    found += [f"  change  {text}" for text in estimate.advice]
    return found


def _range(value: object, shown: object) -> str:
    low, middle, high = (shown(getattr(value, end)) for end in ("low", "estimate", "high"))  # type: ignore[operator]
    return f"{middle} ({low} to {high})"


def spell(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
